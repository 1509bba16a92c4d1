//! Encoding of the state as a message. The message is written in parts, because the state may be large and may change
//! meanwhile.

use std::{collections::BTreeMap, sync::Arc};

use bilrost::{
    Message,
    encoding::{RawMessage, WireType, encode_varint},
};

use super::{CodecError, Kind, begin, decode};
use crate::{
    Agent, FleetConfig, FleetRecoveryStep, Stamp, Task,
    agents::{
        recovery::RecoveryLog,
        state::{Agents, Pool},
    },
    fleet::{State, Totals},
    schedule::speed::KindTimes,
    tasks::state::Tasks,
};

/// The field numbers of the message.
const HEAD: u32 = 1;
const AGENT: u32 = 2;
const TASK: u32 = 3;
const RECOVERY: u32 = 4;

/// The whole state as a message, for decoding.
#[derive(PartialEq, Eq, Message)]
#[bilrost(distinguished)]
struct Whole {
    #[bilrost(1)]
    head: Head,
    #[bilrost(2)]
    agents: Vec<Agent>,
    #[bilrost(3)]
    tasks: Vec<Task>,
    #[bilrost(4)]
    recoveries: Vec<FleetRecoveryStep>,
}

/// Everything that occurs once in the state.
#[derive(PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
struct Head {
    #[bilrost(1)]
    version: u32,
    #[bilrost(2)]
    config: FleetConfig,
    #[bilrost(3)]
    now: Stamp,
    #[bilrost(4)]
    revision: u64,
    #[bilrost(5)]
    next_seq: u64,
    #[bilrost(6)]
    next_agent: u32,
    #[bilrost(7)]
    next_session: u64,
    #[bilrost(8)]
    totals: Totals,
    #[bilrost(9)]
    kinds: KindTimes,
    #[bilrost(10)]
    pools: BTreeMap<String, Pool>,
    /// The numbers of agents, tasks and recoveries that follow, to detect a message that was cut off between two
    /// fields, which is still well-formed.
    #[bilrost(11)]
    agents: u64,
    #[bilrost(12)]
    tasks: u64,
    #[bilrost(13)]
    recoveries: u64,
}

impl Head {
    fn of(state: &State) -> Self {
        // Without `..`, so that new fields of the state must be added here.
        let State { version, config, now, revision, totals, tasks, agents, kinds } = state;
        let Tasks { kept, next_seq } = tasks;
        let Agents { known, next, next_session, pools, recoveries } = agents;
        Self {
            version: *version,
            config: config.clone(),
            now: *now,
            revision: *revision,
            next_seq: *next_seq,
            next_agent: *next,
            next_session: *next_session,
            totals: *totals,
            kinds: kinds.clone(),
            pools: pools.clone(),
            agents: known.len() as u64,
            tasks: kept.len() as u64,
            recoveries: recoveries.steps().count() as u64,
        }
    }
}

/// Writes a state: the head, then agents and tasks in the order of their numbers, then the recovery steps.
#[derive(Debug)]
pub(crate) struct StateWriter {
    recoveries: RecoveryLog,
    /// The number of the previous field.
    last: u32,
    out: Vec<u8>,
    /// Buffer for a field, whose length is known only once it is written.
    field: Vec<u8>,
}

impl StateWriter {
    /// Appends the head of the current state to `out`. The recovery steps are copied now, and written by
    /// [`StateWriter::finish`] after the agents and tasks.
    pub(crate) fn begin(state: &State, mut out: Vec<u8>) -> Self {
        begin(Kind::State, state.version, &mut out);
        let mut writer = Self { recoveries: state.agents.recoveries.clone(), last: 0, out, field: Vec::new() };
        writer.field(HEAD, &Head::of(state));
        writer
    }

    fn field(&mut self, number: u32, message: &impl RawMessage) {
        encode_varint(u64::from(number - self.last) << 2 | WireType::LengthDelimited as u64, &mut self.out);
        self.last = number;
        self.field.clear();
        message.raw_encode(&mut self.field);
        encode_varint(self.field.len() as u64, &mut self.out);
        self.out.extend_from_slice(&self.field);
    }

    /// Writes the next agent.
    pub(crate) fn agent(&mut self, agent: &Agent) {
        self.field(AGENT, agent);
    }

    /// Writes the next task. No agent may follow.
    pub(crate) fn task(&mut self, task: &Task) {
        self.field(TASK, task);
    }

    /// Returns the bytes.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        for step in std::mem::take(&mut self.recoveries).steps() {
            self.field(RECOVERY, step.as_ref());
        }
        self.out
    }
}

/// Appends a state.
pub(crate) fn encode_state(state: &State, out: Vec<u8>) -> Vec<u8> {
    let mut writer = StateWriter::begin(state, out);
    state.agents.known.values().for_each(|agent| writer.agent(agent));
    state.tasks.kept.values().for_each(|task| writer.task(task));
    writer.finish()
}

/// Collects values into a map by their numbers, which must be ascending.
fn by_number<K: Ord, V>(
    what: &str,
    values: Vec<V>,
    number: impl Fn(&V) -> K,
) -> Result<BTreeMap<K, Arc<V>>, CodecError> {
    if !values.is_sorted_by(|one, next| number(one) < number(next)) {
        return Err(CodecError::Inconsistent(format!("{what} are not in order")));
    }
    Ok(values.into_iter().map(|value| (number(&value), Arc::new(value))).collect())
}

/// Reads a state. Doesn't check that a fleet can have this state.
pub(super) fn decode_state(bytes: &[u8]) -> Result<State, CodecError> {
    let Whole { head, agents, tasks, recoveries } = decode(Kind::State, bytes, |whole: &Whole| whole.head.version)?;
    let found = [agents.len(), tasks.len(), recoveries.len()].map(|count| count as u64);
    if found != [head.agents, head.tasks, head.recoveries] {
        return Err(CodecError::Inconsistent("agents, tasks or recoveries are missing".to_owned()));
    }
    Ok(State {
        version: head.version,
        config: head.config,
        now: head.now,
        revision: head.revision,
        totals: head.totals,
        tasks: Tasks { kept: by_number("tasks", tasks, |task| task.seq)?, next_seq: head.next_seq },
        agents: Agents {
            known: by_number("agents", agents, |agent| agent.id)?,
            next: head.next_agent,
            next_session: head.next_session,
            pools: head.pools,
            recoveries: RecoveryLog::of(recoveries),
        },
        kinds: head.kinds,
    })
}
