use robeing_fleet::{ControlCommand, Effect, Enrol, FleetConfig, IdentityCommand, LossReason, Stamp, known_version};
use robeing_platform::Ending;

use super::*;
use crate::leader::{
    evidence::Verdict,
    sessions::{SessionTable, SessionTiming, Suspicion},
};

fn hello(incarnation: u64) -> internal::Hello {
    let address = "agent.example:1".into();
    let role = v1::Role::Worker.into();
    internal::Hello { name: "a".into(), incarnation, slots: 1, address, role, ..internal::Hello::default() }
}

fn at(host: u8, port: u16) -> Option<SocketAddr> {
    Some(SocketAddr::from(([10, 0, 0, host], port)))
}

#[test]
fn a_process_is_known_to_be_where_it_was_only_if_it_comes_from_there() {
    let mut fleet = Fleet::new(FleetConfig::default());
    assert_eq!(located(&fleet, &hello(1), at(1, 50_000)), None);
    fleet.apply(
        Stamp::at(1),
        Command::Agent(AgentCommand::Joined(join(&hello(1), at(1, 1)).unwrap())),
        &mut Vec::new(),
    );
    assert_eq!(located(&fleet, &hello(1), at(1, 50_000)), at(1, 1));
    assert_eq!(located(&fleet, &hello(1), at(2, 50_000)), None, "it moved");
    assert_eq!(located(&fleet, &hello(1), None), None);
    assert_eq!(located(&fleet, &hello(2), at(1, 50_000)), None, "another process may be behind another port");
    let elsewhere = internal::Hello { address: "other.example:1".into(), ..hello(1) };
    assert_eq!(located(&fleet, &elsewhere, at(1, 50_000)), None);
}

#[test]
fn the_role_of_an_agent_that_has_enrolled_without_a_proof_is_a_claim() {
    for (proof, expected) in [(ProofKind::Open, true), (ProofKind::PoolSecret, false)] {
        let mut fleet = Fleet::new(FleetConfig::default());
        let raise = Command::Control(ControlCommand::RaiseVersion(known_version()));
        fleet.apply(Stamp::at(1), raise, &mut Vec::new());
        assert!(!is_claim(&fleet, "a"), "it has not enrolled");
        let (agent, role, pool) = ("a".to_owned(), Role::Specialist, None);
        let enrol = Enrol { agent, role, pool, key: [7; 32], proof, single_use: None, names_agent: false };
        fleet.apply(Stamp::at(2), Command::Identity(IdentityCommand::Enrol(enrol)), &mut Vec::new());
        assert_eq!(is_claim(&fleet, "a"), expected, "{proof:?}");
    }
}

#[test]
fn a_sealing_key_has_the_length_of_one_or_none() {
    for (length, expected) in [(0, Ok(None)), (32, Ok(Some([7; 32]))), (31, Err(())), (33, Err(())), (1, Err(()))] {
        let hello = internal::Hello { sealing_key: vec![7; length].into(), ..hello(1) };
        let joined = join(&hello, None);
        if let Err(status) = &joined {
            assert!(status.message().contains(&format!("{length} bytes")), "{status}");
        }
        assert_eq!(joined.map(|join| join.sealing_key).map_err(drop), expected, "{length} bytes");
    }
}

#[test]
fn a_join_says_what_the_agent_contributes_but_no_more_than_is_taken() {
    assert_eq!(join(&hello(1), None).unwrap().contributed, None, "it says nothing");
    for (said, taken) in [(0, 0), (4_000, 4_000), (u64::MAX, MAX_AMOUNT)] {
        let contributed = Some(v1::ResourceAmounts { cpu_millis: said, ..v1::ResourceAmounts::default() });
        let joined = join(&internal::Hello { contributed, ..hello(1) }, None).unwrap();
        assert_eq!(joined.check(), Ok(()));
        assert_eq!(joined.contributed.as_deref(), Some(&Amounts { cpu: taken, ..Amounts::NONE }));
    }
}

#[test]
fn another_process_of_the_same_name_waits_until_the_first_is_gone() {
    let mut fleet = Fleet::new(FleetConfig::default());
    let (first, second) = (hello(1), hello(2));
    assert_eq!(rival(&fleet, &first, at(1, 1)), None, "nobody has the name");
    let joined = fleet.apply(
        Stamp::at(1),
        Command::Agent(AgentCommand::Joined(join(&first, at(1, 1)).unwrap())),
        &mut Vec::new(),
    );
    let Reply::Joined { agent, session } = joined else { panic!("{joined:?}") };
    assert_eq!(rival(&fleet, &first, at(1, 1)), None, "the same process comes back");
    assert_eq!(rival(&fleet, &second, at(1, 2)), Some(session), "another port");
    assert_eq!(rival(&fleet, &second, at(2, 1)), Some(session), "its name resolves to another machine now");
    assert_eq!(rival(&fleet, &second, None), Some(session), "its location is unknown");
    assert_eq!(rival(&fleet, &second, at(1, 1)), None, "it could not listen there if the first still did");
    fleet.apply(
        Stamp::at(2),
        Command::Agent(AgentCommand::Lost { agent, session, reason: LossReason::Silent }),
        &mut Vec::new(),
    );
    assert_eq!(rival(&fleet, &second, at(1, 2)), None);
    // Two processes whose locations are unknown have nothing in common.
    let unknown =
        fleet.apply(Stamp::at(3), Command::Agent(AgentCommand::Joined(join(&second, None).unwrap())), &mut Vec::new());
    assert!(matches!(unknown, Reply::Joined { .. }), "{unknown:?}");
    assert!(rival(&fleet, &hello(3), None).is_some());
}

#[test]
fn the_last_sessions_are_for_roles_of_higher_priority_and_no_session_is_counted_twice() {
    let mut fleet = Fleet::new(FleetConfig::default());
    assert_eq!(others(&fleet, &hello(1)), Some(0));
    let joined = Command::Agent(AgentCommand::Joined(join(&hello(1), at(1, 1)).unwrap()));
    let Reply::Joined { agent, session } = fleet.apply(Stamp::at(1), joined, &mut Vec::new()) else { panic!("joined") };
    assert_eq!(others(&fleet, &hello(2)), None, "another process takes the place of the first");
    let another = internal::Hello { name: "b".into(), ..hello(1) };
    assert_eq!(others(&fleet, &another), Some(1));
    let lost = AgentCommand::Lost { agent, session, reason: LossReason::Silent };
    fleet.apply(Stamp::at(2), Command::Agent(lost), &mut Vec::new());
    assert_eq!((others(&fleet, &another), others(&fleet, &hello(2))), (Some(0), Some(0)));

    let last = Role::ALL.map(|role| SESSIONS.of(role));
    assert_eq!(last, [20_000, 20_000, 19_900, 19_800]);
    let text = no_place(19_900, Role::Worker).to_string();
    assert!(text.contains("the remaining 100 are kept for roles of higher priority than worker"), "{text}");
}

const TIMING: SessionTiming = SessionTiming {
    heartbeat_interval: Duration::from_millis(500),
    timeout: Duration::from_secs(2),
    health_check_interval: Duration::from_secs(10),
    grace: Duration::from_millis(50),
};
const TERM: u64 = 1;

/// How the pending loss was detected, and what becomes of it.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Silent,
    Disconnected,
    Failed,
    NotWritten,
}

/// Performs the steps of the two tasks (a loss and an opening) and of the log for one agent, one step at a time.
struct World {
    fleet: Fleet,
    sessions: SessionTable,
    hello: internal::Hello,
    now: Instant,
    old: Arc<SessionConnection>,
    /// Effects that were applied but are not reported yet.
    untold: Vec<Effect>,
    loss: LossAt,
    opening: OpeningAt,
    /// The session that the agent was welcomed to, and its connection.
    welcomed: Option<(AgentId, SessionId, Arc<SessionConnection>)>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum LossAt {
    Noticing,
    Proposed(AgentId, SessionId),
    Applied(AgentId, SessionId),
    Told(AgentId, SessionId),
    Over,
}

#[derive(Clone, PartialEq, Debug)]
enum OpeningAt {
    Looking,
    JoinApplied(AgentId, SessionId),
    Looked(AgentId, SessionId),
    Connected(AgentId, SessionId),
    Over,
}

impl World {
    fn new(loss: Loss) -> Self {
        let mut fleet = Fleet::new(FleetConfig::default());
        let mut hello = hello(1);
        let joined = fleet.apply(
            Stamp::at(1),
            Command::Agent(AgentCommand::Joined(join(&hello, at(1, 1)).unwrap())),
            &mut Vec::new(),
        );
        let Reply::Joined { agent, session } = joined else { panic!("{joined:?}") };
        hello.session = session.0;
        let sessions = SessionTable::new(TIMING);
        sessions.begin(TERM);
        let now = Instant::now();
        let ending = Ending::default();
        let origin = Origin { process: at(1, 1), ending: ending.clone(), guarded: false };
        let Connection::Taken(old) = sessions.connect(TERM, agent, session, origin, now) else {
            panic!("the agent is connected at first")
        };
        assert!(matches!(sessions.suspicions(now, 1)[..], [Suspicion::Probe(..)]));
        sessions.probed(agent, session, Some(true), false, now);
        let mut later = now + TIMING.timeout;
        if let Loss::Failed = loss {
            sessions.failed(agent, &old, later);
        }
        if let Loss::Disconnected = loss {
            ending.close();
            sessions.disconnected(agent, &old, now);
            later = now + TIMING.grace;
        }
        let (untold, welcomed) = (Vec::new(), None);
        let (loss, opening) = (LossAt::Noticing, OpeningAt::Looking);
        Self { fleet, sessions, hello, now: later, old, untold, loss, opening, welcomed }
    }

    /// Takes the next step of the loss. Returns whether it was possible.
    fn lose(&mut self, how: Loss) -> bool {
        self.loss = match self.loss {
            LossAt::Noticing => match self.sessions.suspicions(self.now, 1).pop() {
                Some(Suspicion::Silent(agent, session) | Suspicion::Failed(agent, session)) => {
                    LossAt::Proposed(agent, session)
                }
                Some(Suspicion::Probe(agent, session, _)) => {
                    match self.sessions.probed(agent, session, Some(false), false, self.now) {
                        Verdict::Gone => LossAt::Proposed(agent, session),
                        _ => LossAt::Over,
                    }
                }
                None => LossAt::Over,
            },
            LossAt::Proposed(agent, session) if matches!(how, Loss::NotWritten) => {
                self.sessions.take_back(agent, session, self.now);
                LossAt::Over
            }
            // The log applies one command after the other, and reports each one's effects before the next.
            LossAt::Proposed(..) if !self.untold.is_empty() => return false,
            LossAt::Proposed(agent, session) => {
                let lost = Command::Agent(AgentCommand::Lost { agent, session, reason: LossReason::Silent });
                self.fleet.apply(Stamp::at(2), lost, &mut self.untold);
                LossAt::Applied(agent, session)
            }
            LossAt::Applied(agent, session) => {
                self.tell();
                LossAt::Told(agent, session)
            }
            LossAt::Told(agent, session) => {
                self.sessions.ended(agent, session);
                LossAt::Over
            }
            LossAt::Over => return false,
        };
        true
    }

    /// Takes the next step of the opening. Returns whether it was possible.
    fn open(&mut self) -> bool {
        self.opening = match self.opening {
            OpeningAt::Looking => match resumable(&self.fleet, &self.hello) {
                Some((agent, session, _)) => OpeningAt::Looked(agent, session),
                None if !self.untold.is_empty() => return false,
                None => {
                    let joined = Command::Agent(AgentCommand::Joined(join(&self.hello, at(1, 1)).unwrap()));
                    let reply = self.fleet.apply(Stamp::at(3), joined, &mut self.untold);
                    let Reply::Joined { agent, session } = reply else { panic!("{reply:?}") };
                    OpeningAt::JoinApplied(agent, session)
                }
            },
            OpeningAt::JoinApplied(agent, session) => {
                self.tell();
                OpeningAt::Looked(agent, session)
            }
            OpeningAt::Looked(agent, session) => {
                match self.sessions.connect(TERM, agent, session, Origin::default(), self.now) {
                    Connection::Taken(link) => {
                        self.welcomed = Some((agent, session, link));
                        OpeningAt::Connected(agent, session)
                    }
                    Connection::Losing(decided) if !decided.is_cancelled() => return false,
                    Connection::Losing(_) | Connection::Replaced => OpeningAt::Looking,
                    Connection::TermOver => panic!("the term is not over"),
                }
            }
            OpeningAt::Connected(agent, session) => match slots_of(&self.fleet, agent, session) {
                Some(_) => OpeningAt::Over,
                None => {
                    self.sessions.ended(agent, session);
                    self.welcomed = None;
                    OpeningAt::Looking
                }
            },
            OpeningAt::Over => return false,
        };
        true
    }

    fn tell(&mut self) {
        for effect in std::mem::take(&mut self.untold) {
            match effect {
                Effect::SessionStarted { agent, session } => {
                    self.sessions.started(agent, session, at(1, 1), self.now);
                }
                Effect::SessionEnded { agent, session } => self.sessions.ended(agent, session),
                _ => {}
            }
        }
    }

    /// Checks that a welcomed agent works: nothing that was pending may take that from it afterwards.
    fn check(&self, schedule: &[bool]) {
        let (agent, session, link) = self.welcomed.as_ref().expect("the agent is welcomed in the end");
        let of_state = self.fleet.agent(*agent).expect("it is known");
        assert_eq!((of_state.session, of_state.state), (*session, AgentState::Live), "{schedule:?}");
        assert_eq!(link.take_now().ended, None, "{schedule:?}");
        assert!(self.sessions.heard(*agent, link, self.now), "{schedule:?}");
        assert!(!self.sessions.heard(*agent, &self.old, self.now), "{schedule:?}");
    }
}

#[test]
fn in_every_order_of_steps_an_agent_that_is_welcomed_is_not_taken_for_lost() {
    for how in [Loss::Silent, Loss::Disconnected, Loss::Failed, Loss::NotWritten] {
        let mut schedule: Vec<bool> = Vec::new();
        let mut runs = 0;
        loop {
            let mut world = World::new(how);
            let mut step = 0;
            while world.opening != OpeningAt::Over || world.loss != LossAt::Over {
                if step == schedule.len() {
                    schedule.push(false);
                }
                let first_loses = !schedule[step];
                let moved = if first_loses { world.lose(how) } else { world.open() };
                // A step that must wait is skipped.
                let moved = moved || if first_loses { world.open() } else { world.lose(how) };
                assert!(moved, "both wait for ever: {schedule:?} {:?} {:?}", world.loss, world.opening);
                step += 1;
            }
            world.check(&schedule);
            runs += 1;
            schedule.truncate(step);
            while schedule.pop_if(|last| *last).is_some() {}
            match schedule.last_mut() {
                Some(last) => *last = true,
                None => break,
            }
        }
        assert!(runs > 10, "{how:?}: {runs} orders");
    }
}
