//! Encoding of the state as a message. The message is written in parts, because the state may be large and may change
//! meanwhile.

use std::{collections::BTreeMap, sync::Arc};

use bilrost::{
    DistinguishedOwnedMessage, Message,
    encoding::{RawMessage, WireType, decode_varint, encode_varint},
};

use super::{
    CodecError, Kind,
    archive::{ArchiveHead, Rows, RowsWriter},
    begin, decode,
    queues::QueuesHead,
    resources::ResourceHead,
};
use crate::{
    Agent, Allocation, Archived, AuditRecord, Ballot, Bar, Contribution, Enrolment, FleetConfig, FleetRecoveryStep,
    IdentityConfig, KnownAuthority, Letter, PolicyList, Schedule, Stamp, Task, Team, UnixMillis,
    agents::{
        recovery::RecoveryLog,
        state::{Agents, Pool},
    },
    audit_log::state::AuditLog,
    ballots::state::Ballots,
    fleet::{State, Totals},
    identity::{SpentProof, state::Identity},
    kinds::TaskKindList,
    mail::state::Mail,
    numbered::{Entry, Numbered},
    policies::Policies,
    schedule::speed::KindTimes,
    schedules::state::Schedules,
    tasks::{
        keys::{SpentKey, SpentKeys},
        state::Tasks,
    },
    teams::state::Teams,
};

/// The field numbers of the message, besides those of [`Entry`].
const HEAD: u32 = 1;
const AGENT: u32 = 2;
const TASK: u32 = 3;
const RECOVERY: u32 = 4;
const IDENTITY: u32 = 5;
const POLICIES: u32 = 11;
const ARCHIVED: u32 = 160;

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
    #[bilrost(5)]
    identity: Option<IdentityConfig>,
    #[bilrost(6)]
    enrolments: Vec<Enrolment>,
    #[bilrost(7)]
    bars: Vec<Bar>,
    #[bilrost(8)]
    spent: Vec<SpentProof>,
    #[bilrost(9)]
    records: Vec<AuditRecord>,
    #[bilrost(10)]
    letters: Vec<Letter>,
    #[bilrost(11)]
    policies: Option<PolicyList>,
    #[bilrost(12)]
    ballots: Vec<Ballot>,
    #[bilrost(13)]
    authorities: Vec<KnownAuthority>,
    #[bilrost(14)]
    teams: Vec<Team>,
    #[bilrost(16)]
    contributions: Vec<Contribution>,
    #[bilrost(17)]
    allocations: Vec<Allocation>,
    #[bilrost(140)]
    schedules: Vec<Schedule>,
    #[bilrost(141)]
    keys: Vec<SpentKey>,
    #[bilrost(160)]
    archived: Vec<Rows>,
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
    #[bilrost(14)]
    identity: IdentityHead,
    #[bilrost(15)]
    records: NumberedHead,
    #[bilrost(16)]
    letters: NumberedHead,
    /// There are policies, or there were.
    #[bilrost(17)]
    has_policies: bool,
    #[bilrost(18)]
    ballots: NumberedHead,
    #[bilrost(19)]
    authorities: NumberedHead,
    #[bilrost(20)]
    teams: NumberedHead,
    #[bilrost(22)]
    resources: ResourceHead,
    #[bilrost(120)]
    task_kinds: Option<TaskKindList>,
    #[bilrost(100)]
    queues: QueuesHead,
    #[bilrost(140)]
    schedules: NumberedHead,
    #[bilrost(141)]
    keys: NumberedHead,
    #[bilrost(160)]
    archive: ArchiveHead,
}

/// What the head contains about identities.
#[derive(PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
struct IdentityHead {
    /// There is a configuration.
    #[bilrost(1)]
    is_configured: bool,
    #[bilrost(2)]
    enrolments: NumberedHead,
    #[bilrost(3)]
    bars: NumberedHead,
    #[bilrost(4)]
    spent: NumberedHead,
    #[bilrost(5)]
    forgotten_until: UnixMillis,
}

/// What the head contains about entries that have numbers.
#[derive(PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub(super) struct NumberedHead {
    /// The highest number that was ever given.
    #[bilrost(1)]
    last: u64,
    /// The number of entries that follow.
    #[bilrost(2)]
    kept: u64,
}

impl NumberedHead {
    pub(super) fn of<V>(entries: &Numbered<V>) -> Self {
        Self { last: entries.last(), kept: entries.len() as u64 }
    }

    /// Returns the entries that follow the head.
    pub(super) fn with<V: Entry>(self, entries: Vec<V>) -> Result<Numbered<V>, CodecError> {
        if entries.len() as u64 != self.kept {
            return Err(CodecError::Inconsistent(format!("some {} are missing", V::NAME)));
        }
        Ok(Numbered::of(by_number(V::NAME, entries, V::number)?, self.last))
    }
}

impl IdentityHead {
    fn of(identity: &Identity) -> Self {
        let Identity { config, enrolments, bars, spent, forgotten_until } = identity;
        Self {
            is_configured: config.is_some(),
            enrolments: NumberedHead::of(enrolments),
            bars: NumberedHead::of(bars),
            spent: NumberedHead::of(spent),
            forgotten_until: *forgotten_until,
        }
    }
}

impl Head {
    fn of(state: &State) -> Self {
        // Without `..`, so that new fields of the state must be added here.
        let State {
            version,
            config,
            now,
            revision,
            totals,
            tasks,
            agents,
            kinds,
            identity,
            audit_log,
            mail,
            policies,
            ballots,
            teams,
            resources,
            task_kinds,
            queues,
            schedules,
            keys,
            archive,
        } = state;
        let Tasks { kept, next_seq } = tasks;
        let AuditLog { records } = audit_log;
        let Mail { letters } = mail;
        let Ballots { kept: ballots, authorities } = ballots;
        let Teams { kept: teams } = teams;
        let Schedules { kept: schedules } = schedules;
        let SpentKeys { kept: keys } = keys;
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
            identity: IdentityHead::of(identity),
            records: NumberedHead::of(records),
            letters: NumberedHead::of(letters),
            has_policies: policies.is_some(),
            ballots: NumberedHead::of(ballots),
            authorities: NumberedHead::of(authorities),
            teams: NumberedHead::of(teams),
            resources: ResourceHead::of(resources),
            task_kinds: task_kinds.as_deref().cloned(),
            queues: QueuesHead::of(queues),
            schedules: NumberedHead::of(schedules),
            keys: NumberedHead::of(keys),
            archive: ArchiveHead::of(archive),
        }
    }
}

/// Writes a state: the head, then agents and tasks in the order of their numbers, then the recovery steps and the
/// configuration of identities, then the entries of the other domains in the order of their fields and numbers, with the
/// policies among them.
#[derive(Debug)]
pub(crate) struct StateWriter {
    recoveries: RecoveryLog,
    identity: Option<Arc<IdentityConfig>>,
    policies: Policies,
    /// The number of the previous field.
    last: u32,
    rows: RowsWriter,
    out: Vec<u8>,
    /// Buffer for a field, whose length is known only once it is written.
    field: Vec<u8>,
}

impl StateWriter {
    /// Appends the head of the current state to `out`. What is written after the agents and tasks but
    /// is no entry is kept until then.
    pub(crate) fn begin(state: &State, mut out: Vec<u8>) -> Self {
        begin(Kind::State, state.version, &mut out);
        let recoveries = state.agents.recoveries.clone();
        let (identity, policies) = (state.identity.config.clone(), state.policies.clone());
        let rows = RowsWriter::default();
        let mut writer = Self { recoveries, identity, policies, last: 0, rows, out, field: Vec::new() };
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

    /// Writes the next entry of another domain. No agent or task may follow.
    pub(crate) fn entry<V: Entry>(&mut self, entry: &V) {
        self.write_kept(V::FIELD);
        self.field(V::FIELD, entry);
    }

    /// Writes the row of the next archived task. Nothing else may follow.
    pub(crate) fn archived(&mut self, row: &Archived) {
        if let Some(rows) = self.rows.add(row) {
            self.archived_rows(&rows);
        }
    }

    fn archived_rows(&mut self, rows: &Rows) {
        self.write_kept(ARCHIVED);
        self.field(ARCHIVED, rows);
    }

    /// Writes what was kept and belongs before the field with this number.
    fn write_kept(&mut self, before: u32) {
        for step in std::mem::take(&mut self.recoveries).steps() {
            self.field(RECOVERY, step.as_ref());
        }
        if let Some(identity) = self.identity.take() {
            self.field(IDENTITY, identity.as_ref());
        }
        if before > POLICIES
            && let Some(policies) = self.policies.take()
        {
            self.field(POLICIES, policies.as_ref());
        }
    }

    /// Returns the bytes.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        if let Some(rows) = self.rows.rest() {
            self.archived_rows(&rows);
        }
        self.write_kept(u32::MAX);
        self.out
    }
}

/// Appends a state.
pub(crate) fn encode_state(state: &State, out: Vec<u8>) -> Vec<u8> {
    let mut writer = StateWriter::begin(state, out);
    state.agents.known.values().for_each(|agent| writer.agent(agent));
    state.tasks.kept.values().for_each(|task| writer.task(task));
    state.identity.enrolments.iter().for_each(|enrolment| writer.entry(enrolment.as_ref()));
    state.identity.bars.iter().for_each(|bar| writer.entry(bar.as_ref()));
    state.identity.spent.iter().for_each(|spent| writer.entry(spent.as_ref()));
    state.audit_log.records.iter().for_each(|record| writer.entry(record.as_ref()));
    state.mail.letters.iter().for_each(|letter| writer.entry(letter.as_ref()));
    state.ballots.kept.iter().for_each(|ballot| writer.entry(ballot.as_ref()));
    state.ballots.authorities.iter().for_each(|authority| writer.entry(authority.as_ref()));
    state.teams.kept.iter().for_each(|team| writer.entry(team.as_ref()));
    state.resources.contributions.iter().for_each(|contribution| writer.entry(contribution.as_ref()));
    state.resources.allocations.iter().for_each(|allocation| writer.entry(allocation.as_ref()));
    state.schedules.kept.iter().for_each(|schedule| writer.entry(schedule.as_ref()));
    state.keys.kept.iter().for_each(|key| writer.entry(key.as_ref()));
    state.archive.kept.iter().for_each(|row| writer.archived(&row));
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

impl Whole {
    /// Refuses a message that was cut off between two fields, which is still well-formed.
    fn check(&self) -> Result<(), CodecError> {
        let Self { head, agents, tasks, recoveries, identity, policies, .. } = self;
        let found = [agents.len(), tasks.len(), recoveries.len()].map(|count| count as u64);
        let rules = [
            (found == [head.agents, head.tasks, head.recoveries], "agents, tasks or recoveries are missing"),
            (head.identity.is_configured == identity.is_some(), "the configuration of identities is missing"),
            (head.has_policies == policies.is_some(), "the policies are missing"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, problem)) => Err(CodecError::Inconsistent(problem.to_owned())),
            None => Ok(()),
        }
    }
}

/// Returns the value of a field that is read, or why it can't be.
fn field<T: DistinguishedOwnedMessage>(field: &[u8]) -> Result<T, CodecError> {
    T::decode_canonical(field).map_err(|error| CodecError::Malformed(Kind::State.name(), error))
}

/// Returns the rows of archived tasks, and the number of the next record. Skips everything else.
pub(super) fn archived_in(mut message: &[u8]) -> Result<(Vec<Archived>, u64), CodecError> {
    let cut = || CodecError::Inconsistent("it is cut short".to_owned());
    let (mut head, mut parts, mut number) = (None, Vec::new(), 0u64);
    while !message.is_empty() {
        let key = decode_varint(&mut message).map_err(|_| cut())?;
        let len = decode_varint(&mut message).map_err(|_| cut())?;
        number = number.saturating_add(key >> 2);
        let (content, rest) =
            usize::try_from(len).ok().and_then(|len| message.split_at_checked(len)).ok_or_else(cut)?;
        message = rest;
        if number == u64::from(HEAD) {
            head = Some(field::<Head>(content)?);
        } else if number == u64::from(ARCHIVED) {
            parts.push(field::<Rows>(content)?);
        }
    }
    let archive = head.ok_or_else(cut)?.archive.with(parts)?;
    Ok((archive.kept.iter().collect(), archive.records))
}

/// Reads a state. Doesn't check that a fleet can have this state.
pub(super) fn decode_state(bytes: &[u8]) -> Result<State, CodecError> {
    let whole = decode(Kind::State, bytes, |whole: &Whole| whole.head.version)?;
    whole.check()?;
    let head = whole.head;
    Ok(State {
        version: head.version,
        config: head.config,
        now: head.now,
        revision: head.revision,
        totals: head.totals,
        tasks: Tasks { kept: by_number("tasks", whole.tasks, |task| task.seq)?, next_seq: head.next_seq },
        agents: Agents {
            known: by_number("agents", whole.agents, |agent| agent.id)?,
            next: head.next_agent,
            next_session: head.next_session,
            pools: head.pools,
            recoveries: RecoveryLog::of(whole.recoveries),
        },
        kinds: head.kinds,
        identity: Identity {
            config: whole.identity.map(Arc::new),
            enrolments: head.identity.enrolments.with(whole.enrolments)?,
            bars: head.identity.bars.with(whole.bars)?,
            spent: head.identity.spent.with(whole.spent)?,
            forgotten_until: head.identity.forgotten_until,
        },
        audit_log: AuditLog { records: head.records.with(whole.records)? },
        mail: Mail { letters: head.letters.with(whole.letters)? },
        policies: whole.policies.map(Arc::new),
        ballots: Ballots {
            kept: head.ballots.with(whole.ballots)?,
            authorities: head.authorities.with(whole.authorities)?,
        },
        teams: Teams { kept: head.teams.with(whole.teams)? },
        resources: head.resources.with(whole.contributions, whole.allocations)?,
        task_kinds: head.task_kinds.map(Arc::new),
        queues: head.queues.into_queues(),
        schedules: Schedules { kept: head.schedules.with(whole.schedules)? },
        keys: SpentKeys { kept: head.keys.with(whole.keys)? },
        archive: head.archive.with(whole.archived)?,
    })
}
