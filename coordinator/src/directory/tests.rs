use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, Command, Effect, Fleet, FleetConfig, LossReason, SessionId, Stamp,
};

use super::{
    changed::{ChangedAgents, Noted},
    entries::Found,
    fixture::Watcher,
    log::Look,
    *,
};
use crate::fixture::join;

#[test]
fn looks_lie_further_apart_the_more_watchers_there_are() {
    assert_eq!((pause(0), pause(100)), (MIN_PAUSE, MIN_PAUSE));
    assert_eq!(pause(10_000), Duration::from_secs(2));
    assert_eq!((pause(MAX_WATCHERS), pause(usize::MAX)), (MAX_PAUSE, MAX_PAUSE));
}

#[tokio::test(start_paused = true)]
async fn all_groups_of_watchers_are_notified_within_the_pause() {
    let directory = Directory::default();
    let mut seats: Vec<_> = (0..1_000).map(|_| directory.seat().expect("there is room")).collect();
    assert_eq!(directory.watchers(), 1_000);
    let begun = Instant::now();
    directory.notify().await;
    assert!(begun.elapsed() >= pause(1_000) && begun.elapsed() < 2 * pause(1_000));
    assert!(seats.iter_mut().all(|seat| seat.news.has_changed().expect("it is open")));
}

#[test]
fn places_are_limited_and_free_again_when_watchers_leave() {
    let directory = Directory::default();
    let mut seats: Vec<_> = (0..MAX_WATCHERS).map(|_| directory.seat().expect("there is room")).collect();
    assert!(directory.seat().is_none());
    drop(seats.pop());
    assert!(directory.seat().is_some());
}

/// A step of a history. Numbers are taken modulo the number of candidates.
#[derive(Clone, Debug)]
enum Op {
    /// A command is accepted.
    Accept(Change),
    /// A coordinator applies that many commands. `false`: the effects of the last one are not noted yet.
    Apply(usize, usize, bool),
    /// A coordinator looks.
    Look(usize),
    /// A coordinator gets a snapshot of everything that is accepted.
    Install(usize),
    /// A watcher reads that many messages.
    Read(usize, usize),
    /// A watcher loses its stream, and resumes at that coordinator.
    Resume(usize, usize),
}

#[derive(Clone, Debug)]
enum Change {
    Join {
        agent: u8,
        incarnation: u64,
        pool: u8,
    },
    Lose(u8),
    Drain(u8),
    Leave(u8),
    /// Something that changes the revision, and nothing that the directory shows.
    Other,
}

fn op() -> impl Strategy<Value = Op> {
    let change = prop_oneof![
        6 => (0..6u8, 0..3u64, 0..3u8).prop_map(|(agent, incarnation, pool)| Change::Join { agent, incarnation, pool }),
        2 => (0..6u8).prop_map(Change::Lose),
        1 => (0..6u8).prop_map(Change::Drain),
        2 => (0..6u8).prop_map(Change::Leave),
        2 => Just(Change::Other),
    ];
    prop_oneof![
        8 => change.prop_map(Op::Accept),
        8 => (0..3usize, 1..5usize, any::<bool>()).prop_map(|(at, count, told)| Op::Apply(at, count, told)),
        6 => (0..3usize).prop_map(Op::Look),
        1 => (0..3usize).prop_map(Op::Install),
        6 => (0..3usize, 1..6usize).prop_map(|(who, count)| Op::Read(who, count)),
        4 => (0..3usize, 0..3usize).prop_map(|(who, at)| Op::Resume(who, at)),
    ]
}

/// A coordinator: its state, what its observer has noted, and its directory.
struct Coordinator {
    fleet: Fleet,
    applied: usize,
    /// Effects that the observer does not know yet.
    untold: Vec<Effect>,
    told: u64,
    changed: ChangedAgents,
    log: DirectoryLog,
}

impl Coordinator {
    fn new() -> Self {
        let fleet = Fleet::new(FleetConfig::default());
        let (untold, changed) = (Vec::new(), ChangedAgents::default());
        changed.note_everything();
        Self { fleet, applied: 0, untold, told: 0, changed, log: DirectoryLog::default() }
    }

    fn tell(&mut self) {
        for effect in self.untold.drain(..) {
            if let Effect::DirectoryChanged { agent } = effect {
                self.changed.note(agent);
            }
        }
        self.told = self.fleet.revision();
    }

    fn apply(&mut self, accepted: &[Command], count: usize, told: bool) {
        let end = (self.applied + count).min(accepted.len());
        for command in &accepted[self.applied..end] {
            self.tell();
            self.fleet.apply(Stamp::at(1), command.clone(), &mut self.untold);
        }
        self.applied = end;
        if told {
            self.tell();
        }
    }

    fn install(&mut self, from: &Fleet, applied: usize) {
        if applied > self.applied {
            (self.fleet, self.applied, self.told) = (from.clone(), applied, from.revision());
            self.untold.clear();
            self.changed.note_everything();
        }
    }

    fn look(&mut self) {
        if self.told == 0 {
            return;
        }
        let look = Look { complete: self.told, up_to: self.fleet.revision() };
        let found = |name: &Arc<str>| Found::named(&self.fleet, name).map(|found| found.encoded(None));
        match self.changed.take() {
            Noted::Agents(names) => {
                let changes = names.into_iter().map(|name| (Arc::clone(&name), found(&name)));
                self.log.change(changes.collect(), look);
            }
            Noted::Everything => {
                let all = self.fleet.agents().map(|agent| (Arc::clone(&agent.name), Found::of(&self.fleet, agent)));
                self.log.replace(all.map(|(name, found)| (name, found.encoded(None))).collect(), look);
            }
        }
    }
}

/// A fleet of three coordinators, with three watchers.
struct History {
    accepted: Vec<Command>,
    newest: Fleet,
    coordinators: Vec<Coordinator>,
    /// Each with where it is, and at which coordinator.
    watchers: Vec<(Watcher, Option<Position>, usize)>,
}

impl History {
    fn new() -> Self {
        let newest = Fleet::new(FleetConfig::default());
        let coordinators = (0..3).map(|_| Coordinator::new()).collect();
        let watchers = (0..3).map(|at| (Watcher::default(), None, at)).collect();
        Self { accepted: Vec::new(), newest, coordinators, watchers }
    }

    fn command(&self, change: &Change) -> Command {
        let session = |agent: u8| {
            let known = self.newest.agent_by_name(&format!("a-{agent}"));
            known.map_or((AgentId(0), SessionId(0)), |agent| (agent.id, agent.session))
        };
        Command::Agent(match *change {
            Change::Join { agent, incarnation, pool } => {
                let address = format!("{incarnation}:{pool}");
                AgentCommand::Joined(AgentJoin { incarnation, address, ..join(&format!("a-{agent}"), 1) })
            }
            Change::Lose(agent) => {
                let (agent, session) = session(agent);
                AgentCommand::Lost { agent, session, reason: LossReason::Silent }
            }
            Change::Drain(agent) => {
                let (agent, session) = session(agent);
                AgentCommand::Draining { agent, session }
            }
            Change::Leave(agent) => {
                let (agent, session) = session(agent);
                AgentCommand::Left { agent, session }
            }
            Change::Other => return Command::Pool(robeing_fleet::PoolCommand::Set(Vec::new())),
        })
    }

    fn read(&mut self, who: usize, count: usize) {
        let (watcher, position, at) = &mut self.watchers[who];
        let log = &mut self.coordinators[*at].log;
        for _ in 0..count {
            let Some(now) = *position else {
                // A resumed watch waits until its coordinator knows what it has seen.
                *position = log.start(watcher.revision);
                continue;
            };
            match log.next(now) {
                Next::Message(message, then) => {
                    watcher.receive(&message);
                    *position = Some(then);
                }
                Next::Behind => {
                    watcher.pending.clear();
                    *position = Some(log.everything());
                }
                Next::Nothing => return,
            }
        }
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Accept(change) => {
                let command = self.command(change);
                self.newest.apply(Stamp::at(1), command.clone(), &mut Vec::new());
                self.accepted.push(command);
            }
            Op::Apply(at, count, told) => self.coordinators[*at].apply(&self.accepted, *count, *told),
            Op::Look(at) => self.coordinators[*at].look(),
            Op::Install(at) => self.coordinators[*at].install(&self.newest, self.accepted.len()),
            Op::Read(who, count) => self.read(*who, *count),
            Op::Resume(who, at) => {
                let (watcher, position, now_at) = &mut self.watchers[*who];
                watcher.pending.clear();
                (*position, *now_at) = (None, *at);
            }
        }
    }

    /// Lets everybody catch up, and checks that all watchers know what the state is.
    fn finish(mut self) -> Result<(), TestCaseError> {
        for coordinator in &mut self.coordinators {
            coordinator.apply(&self.accepted, usize::MAX - coordinator.applied, true);
            coordinator.look();
        }
        let names: BTreeSet<String> = self.newest.agents().map(|agent| agent.name.to_string()).collect();
        for who in 0..self.watchers.len() {
            self.read(who, 10_000);
            let (watcher, ..) = &self.watchers[who];
            prop_assert_eq!(watcher.known.keys().cloned().collect::<BTreeSet<_>>(), names.clone());
            for (name, entry) in &watcher.known {
                let found = Found::named(&self.newest, name).expect("it is known");
                prop_assert_eq!(&Bytes::from(entry.encode_to_vec()), &found.encoded(None), "{}", name);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn a_watcher_that_breaks_off_anywhere_and_resumes_anywhere_knows_the_state_in_the_end(
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut history = History::new();
        history.step(&Op::Accept(Change::Join { agent: 0, incarnation: 1, pool: 0 }));
        for op in &ops {
            history.step(op);
        }
        history.finish()?;
    }
}
