//! Sessions: an agent whose connection broke comes back while its loss is detected, written and reported.
//!
//! The three threads do what `opening`, `failure_detector` and the state machine do, in the same order; each step is
//! the shipped code.

use std::sync::{Arc, Mutex as Unpointed};

use bytes::Bytes;
use robeing_fleet::{
    AgentCommand, AgentId, AgentState, Command, Fleet, FleetConfig, LossReason, Reply, SessionId, Stamp, TaskCommand,
    TaskState,
};
use robeing_platform::{Ending, sync::Mutex};
use shuttle::{future::block_on, thread};
use tokio::time::Instant;

use crate::{
    apply::observer::ApplyObserver,
    fixture::{join, task},
    leader::{
        evidence::{Origin, Verdict},
        sessions::{Connection, SessionConnection, SessionTable, Suspicion},
    },
    raft::{SharedFleet, StateMachine},
    tests::models::{ORDERS, apply_one, explore, fails, machine, results::TIMING},
};

const TERM: u64 = 1;

/// What happened to the agent's session, in order.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Event {
    /// The agent's loss is proposed from now on.
    Losing(SessionId),
    /// The loss is written and reported.
    Lost(SessionId),
    /// The agent is welcomed to the session.
    Welcomed(SessionId),
}

/// The parts of the coordinator that matter here.
#[derive(Clone)]
struct World {
    fleet: SharedFleet,
    observer: Arc<ApplyObserver>,
    /// The log: one command is applied after the other.
    log: Arc<Mutex<(StateMachine, u64)>>,
    /// A lock of the standard library, which is no scheduling point, so that an event is recorded together with the
    /// step before it.
    events: Arc<Unpointed<Vec<Event>>>,
}

impl World {
    fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    fn propose(&self, command: Command) -> Reply {
        let mut log = self.log.lock().unwrap();
        log.1 += 1;
        let index = log.1;
        apply_one(&mut log.0, index, command)
    }

    fn session(&self, agent: AgentId) -> Option<SessionId> {
        self.fleet.read().agent(agent).filter(|agent| agent.state != AgentState::Lost).map(|agent| agent.session)
    }

    /// Acts on what is suspected at `now`, as the failure detector does.
    fn detect(&self, now: Instant) {
        let sessions = &self.observer.sessions;
        for suspicion in sessions.suspicions(now, 10) {
            let (agent, session) = match suspicion {
                Suspicion::Silent(agent, session) | Suspicion::Failed(agent, session) => (agent, session),
                Suspicion::Probe(agent, session, _)
                    if sessions.probed(agent, session, Some(false), true, now) == Verdict::Gone =>
                {
                    (agent, session)
                }
                Suspicion::Probe(..) => continue,
            };
            self.note(Event::Losing(session));
            self.propose(Command::Agent(AgentCommand::Lost { agent, session, reason: LossReason::Disconnected }));
            sessions.ended(agent, session);
            self.note(Event::Lost(session));
        }
    }

    /// Opens the agent's session, and returns it with its connection. `looks_again`: whether the state is read again
    /// after connecting, as it must be.
    fn open(&self, agent: AgentId, looks_again: bool, now: Instant) -> (SessionId, Arc<SessionConnection>) {
        loop {
            let session = self.session(agent).unwrap_or_else(|| {
                match self.propose(Command::Agent(AgentCommand::Joined(join("a", 1)))) {
                    Reply::Joined { session, .. } => session,
                    other => panic!("{other:?}"),
                }
            });
            let link = match self.observer.sessions.connect(TERM, agent, session, Origin::default(), now) {
                Connection::Taken(link) => link,
                Connection::Losing(decided) => {
                    block_on(decided.cancelled());
                    continue;
                }
                Connection::Replaced => continue,
                Connection::TermOver => panic!("the term is not over"),
            };
            if looks_again && self.session(agent) != Some(session) {
                self.observer.sessions.ended(agent, session);
                continue;
            }
            self.note(Event::Welcomed(session));
            return (session, link);
        }
    }
}

/// Returns a world with an agent that runs a task and whose connection has just broken.
fn broken(now: Instant) -> (World, AgentId) {
    let mut fleet = Fleet::new(FleetConfig::default());
    let process = Some(([127, 0, 0, 1], 1).into());
    let joined = Command::Agent(AgentCommand::Joined(robeing_fleet::AgentJoin { process, ..join("a", 1) }));
    let Reply::Joined { agent, session } = fleet.apply(Stamp::at(1), joined, &mut Vec::new()) else {
        panic!("an agent may join")
    };
    fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(task(1, Bytes::new()))), &mut Vec::new());
    let observer = Arc::new(ApplyObserver::new(SessionTable::new(TIMING)));
    observer.sessions.begin(TERM);
    let ending = Ending::default();
    let origin = Origin { process, ending: ending.clone(), guarded: false };
    let Connection::Taken(link) = observer.sessions.connect(TERM, agent, session, origin, now) else {
        panic!("it is connected at first")
    };
    assert!(matches!(observer.sessions.suspicions(now, 1)[..], [Suspicion::Probe(..)]), "its place is asked");
    observer.sessions.probed(agent, session, Some(true), false, now);
    ending.close();
    observer.sessions.disconnected(agent, &link, now);
    let fleet = SharedFleet::new(fleet);
    let log = Arc::new(Mutex::new((machine(&fleet, &observer), 1)));
    (World { fleet, observer, log, events: Arc::default() }, agent)
}

fn model(looks_again: bool) -> impl Fn() + Send + Sync + 'static {
    move || {
        let now = Instant::now();
        let (world, agent) = broken(now);
        let detecting = thread::spawn({
            let world = world.clone();
            move || world.detect(now + TIMING.grace)
        });
        let (session, link) = world.open(agent, looks_again, now);
        // What the agent has comes with the welcome, or is sent over the connection.
        let in_state = world.session(agent) == Some(session);
        detecting.join().unwrap();

        let is_over = world.session(agent) != Some(session);
        let outbox = link.take_now();
        assert!(!is_over || outbox.ended.is_some(), "the agent is left in a dead session: {:?}", world.events);
        let mut losing = None;
        for event in world.events.lock().unwrap().iter() {
            match *event {
                Event::Losing(session) => losing = Some(session),
                Event::Lost(_) => losing = None,
                Event::Welcomed(session) => {
                    assert!(!looks_again || losing != Some(session), "it is welcomed while its work is given away")
                }
            }
        }
        // The agent that runs the task knows of it: its session in the state is the connected one, or nobody's.
        let fleet = world.fleet.read();
        let task = fleet.task(robeing_fleet::TaskId(1)).expect("it is not over");
        assert!(in_state || is_over || task.state == TaskState::Assigned, "{task:?}");
    }
}

#[test]
fn an_agent_that_comes_back_while_it_is_lost_is_in_a_session_that_lives_or_told_that_it_ended() {
    explore(ORDERS, model(true));
}

#[test]
fn without_the_second_look_an_agent_may_be_left_in_a_dead_session() {
    assert!(fails(model(false)), "no order was found in which the end of the session is missed");
}
