//! How an agent's session is opened. What may happen at the same time, and the order that makes it safe, is written at the head
//! of [`registry`](super::registry).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use robeing_fleet::{
    AgentId, AgentJoin, AgentState, Command, Fleet, Held, PoolShape, Refusal, Reply, SessionId,
    sabotage::{Mistake, planted},
};
use robeing_proto::v1::{self, coordinator_message::Message as ToAgent};
use tokio::time::Instant;
use tonic::Status;
use tracing::info;

use super::{
    evidence::Origin,
    node::Node,
    proposer::ProposeError,
    reconcile,
    registry::{Connection, Link},
    view,
    waiting::Waited,
};
use crate::platform::ConnectInfo;

/// How long the read that confirms the leader may take.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an opening waits for another connection of the same name to be opened.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an opening waits for the fate of the agent's loss.
const LOSS_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an opening looks at the state afresh because the session has ended meanwhile.
const MAX_OPENINGS: usize = 4;

/// Why no session was opened.
pub enum JoinFailed {
    /// This coordinator does not lead, or can't tell in time that it does.
    NotLeading,
    /// The agent can't have a session.
    Refused(Status),
}

impl From<ProposeError> for JoinFailed {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader => Self::NotLeading,
            other => Self::Refused(other.into()),
        }
    }
}

/// A session that is open.
pub struct Opened {
    /// Whose.
    pub agent: AgentId,
    /// Which.
    pub session: SessionId,
    /// Its connection.
    pub link: Arc<Link>,
    /// The agent can be asked how it is.
    pub answers_health_checks: bool,
}

/// Opens a session for an agent that said hello, in the order that [`registry`](super::registry) demands: the state is
/// looked at, the connection is taken, and the state is looked at once more.
pub async fn open(
    node: &Node,
    hello: v1::Hello,
    connection: Option<ConnectInfo>,
    term: u64,
    waited: &Waited,
) -> Result<(Opened, ToAgent), JoinFailed> {
    let ConnectInfo { peer, ending } = connection.unwrap_or_default();
    let process = match node.look(|fleet| located(fleet, &hello, peer)) {
        Some(known) => Some(known),
        None => node.transport.locate(peer, &hello.address).await,
    };
    let held = reconcile::held(&hello.held).await.map_err(JoinFailed::Refused)?;
    // A leader that was replaced without knowing would hand out what others have finished, under numbers that were used.
    let barrier = node.ready_to_read(v1::Consistency::Linearizable.into());
    let leads = planted(Mistake::SessionWithoutBarrier)
        || matches!(tokio::time::timeout(BARRIER_TIMEOUT, barrier).await, Ok(Ok(())));
    if !leads {
        return Err(JoinFailed::NotLeading);
    }
    let turn = tokio::time::timeout(TURN_TIMEOUT, node.hub.registry.turn(&hello.name)).await;
    let _turn = turn.map_err(|_| JoinFailed::NotLeading)?;
    for _ in 0..MAX_OPENINGS {
        let Stay { agent, session, resumed } = stay(node, &hello, process, term).await?;
        // The lease on a new session is one that this leader grants, as by the answer to a heartbeat.
        if !resumed && !node.contact_within(term, node.hub.registry.timing.lease_margin()).await {
            return Err(JoinFailed::NotLeading);
        }
        // Leadership may have gone while the join was written; another leader serves the session then.
        if node.standing.borrow().leading() != Some(term) {
            return Err(JoinFailed::NotLeading);
        }
        // What the agent sends from now on comes after the session began to count.
        let waited_seq = waited.seq();
        let now = Instant::now();
        let origin = Origin { process, ending: ending.clone(), guarded: hello.guarded };
        let link = match node.hub.registry.connect(term, agent, session, origin, now) {
            Connection::Taken(link) => link,
            Connection::TermOver => return Err(JoinFailed::NotLeading),
            Connection::Replaced => continue,
            Connection::Losing(decided) => {
                let decided = tokio::time::timeout(LOSS_TIMEOUT, decided.cancelled()).await;
                decided.map_err(|_| JoinFailed::NotLeading)?;
                continue;
            }
        };
        // Once the link is there nothing that happens to the session is missed; what was before it is in the state.
        let Some(known) = node.look(|fleet| slots_of(fleet, agent, session)) else {
            node.hub.registry.ended(agent, session);
            continue;
        };
        let held = if resumed { &held[..] } else { &[] };
        let (assignments, stops) = reconcile::differences(&known, held);
        link.put(|outbox| {
            outbox.assignments.extend(assignments);
            outbox.stops.extend(stops);
        });
        info!(agent = hello.name, session = session.0, resumed, "agent connected");
        let welcome = welcome(node, term, session, resumed, waited_seq);
        let answers_health_checks = hello.answers_health_checks;
        return Ok((Opened { agent, session, link, answers_health_checks }, welcome));
    }
    Err(JoinFailed::NotLeading)
}

/// An agent's session, as the state has it when it is looked at.
struct Stay {
    agent: AgentId,
    session: SessionId,
    /// The agent goes on in it.
    resumed: bool,
}

/// The session that an agent goes on in, or a new one that is begun for it.
async fn stay(node: &Node, hello: &v1::Hello, process: Option<SocketAddr>, term: u64) -> Result<Stay, JoinFailed> {
    let (rival, known) = node.look(|fleet| (rival(fleet, hello, process), resumable(fleet, hello)));
    if let Some(session) = rival {
        return Err(JoinFailed::Refused(Status::already_exists(format!(
            "another process is the agent {:?} (session {}); this one may be it once that one has left or counts as lost. If \
             both are to run, give them different names",
            hello.name, session.0
        ))));
    }
    if let Some((agent, session, _)) = known.filter(|(.., known)| *known == process) {
        return Ok(Stay { agent, session, resumed: true });
    }
    // A process that moved goes on in its session, and the next leader must not look for it where it was.
    let join = join(hello, process).map_err(JoinFailed::Refused)?;
    // What is out of its bounds is refused whatever the state, so it need not go into the log.
    let refused = |refusal: Refusal| JoinFailed::Refused(Status::failed_precondition(refusal.to_string()));
    join.check().map_err(refused)?;
    match node.proposer.propose_in(term, Command::AgentJoined(join)).await? {
        Reply::Joined { agent, session } => {
            Ok(Stay { agent, session, resumed: known.is_some_and(|(_, known, _)| known == session) })
        }
        Reply::Refused(refusal) => Err(JoinFailed::Refused(Status::failed_precondition(refusal.to_string()))),
        other => Err(JoinFailed::Refused(Status::internal(format!("unexpected reply {other:?}")))),
    }
}

/// The session that the process that says hello may go on in, and where the process was then.
fn resumable(fleet: &Fleet, hello: &v1::Hello) -> Option<(AgentId, SessionId, Option<SocketAddr>)> {
    let agent = fleet.agent_by_name(&hello.name)?;
    let same = agent.incarnation == hello.incarnation && agent.session.0 == hello.session;
    (same && agent.state != AgentState::Lost).then_some((agent.id, agent.session, agent.process))
}

/// The taken slots of an agent, in order; `None` if this session of it is over.
fn slots_of(fleet: &Fleet, agent: AgentId, session: SessionId) -> Option<Vec<Held>> {
    let agent = fleet.agent(agent).filter(|agent| agent.session == session && agent.state != AgentState::Lost)?;
    Some(agent.held().collect())
}

fn welcome(node: &Node, term: u64, session: SessionId, resumed: bool, waited_seq: u64) -> ToAgent {
    let timing = node.hub.registry.timing;
    ToAgent::Welcome(v1::Welcome {
        session: session.0,
        term,
        heartbeat_interval_ms: timing.heartbeat_interval.as_millis() as u32,
        session_timeout_ms: timing.timeout.as_millis() as u32,
        coordinators: node.addresses(),
        resumed,
        waited_seq,
    })
}

/// Where a process that comes back from the same place was found before, so that its session need not wait for a name server.
fn located(fleet: &Fleet, hello: &v1::Hello, peer: Option<SocketAddr>) -> Option<SocketAddr> {
    let agent = fleet.agent_by_name(&hello.name)?;
    let same = agent.incarnation == hello.incarnation && agent.address == hello.address;
    agent.process.filter(|process| same && peer.is_some_and(|peer| peer.ip().to_canonical() == process.ip()))
}

/// The session of another process of this name that may still run attempts. Until it has left or counts as lost, what it has
/// must not be given away. A process that listens where that one did has proved that it is gone; one that merely says the same
/// address has not, since a name may stand for another machine by now.
fn rival(fleet: &Fleet, hello: &v1::Hello, process: Option<SocketAddr>) -> Option<SessionId> {
    let agent = fleet.agent_by_name(&hello.name)?;
    let same_process = agent.incarnation == hello.incarnation;
    let in_its_place = process.is_some() && agent.process == process;
    (!same_process && !in_its_place && agent.state != AgentState::Lost).then_some(agent.session)
}

fn join(hello: &v1::Hello, process: Option<SocketAddr>) -> Result<AgentJoin, Status> {
    let role = v1::Role::try_from(hello.role).unwrap_or_default();
    let pool = (!hello.pool.is_empty()).then(|| PoolShape {
        name: hello.pool.clone(),
        replicas: (hello.pool_replicas > 0).then_some(hello.pool_replicas),
        standby: hello.pool_standby,
    });
    Ok(AgentJoin {
        name: hello.name.clone(),
        incarnation: hello.incarnation,
        role: view::agent_role(role)?,
        pool,
        specializations: hello.specializations.clone(),
        slots: hello.slots,
        address: hello.address.clone(),
        process,
        pid: hello.pid,
        version: hello.version.clone(),
    })
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{Effect, FleetConfig, LossReason, Stamp};

    use super::*;
    use crate::{
        coordinator::{
            evidence::Verdict,
            registry::{Registry, SessionTiming, Suspicion},
        },
        platform::Ending,
    };

    fn hello(incarnation: u64) -> v1::Hello {
        let address = "agent.example:1".into();
        let role = v1::Role::Worker.into();
        v1::Hello { name: "a".into(), incarnation, slots: 1, address, role, ..v1::Hello::default() }
    }

    fn at(host: u8, port: u16) -> Option<SocketAddr> {
        Some(SocketAddr::from(([10, 0, 0, host], port)))
    }

    #[test]
    fn a_process_is_known_to_be_where_it_was_only_if_it_comes_from_there() {
        let mut fleet = Fleet::new(FleetConfig::default());
        assert_eq!(located(&fleet, &hello(1), at(1, 50_000)), None);
        fleet.apply(Stamp::at(1), Command::AgentJoined(join(&hello(1), at(1, 1)).unwrap()), &mut Vec::new());
        assert_eq!(located(&fleet, &hello(1), at(1, 50_000)), at(1, 1));
        assert_eq!(located(&fleet, &hello(1), at(2, 50_000)), None, "it moved");
        assert_eq!(located(&fleet, &hello(1), None), None);
        assert_eq!(located(&fleet, &hello(2), at(1, 50_000)), None, "another process may be behind another port");
        let elsewhere = v1::Hello { address: "other.example:1".into(), ..hello(1) };
        assert_eq!(located(&fleet, &elsewhere, at(1, 50_000)), None);
    }

    #[test]
    fn another_process_of_the_same_name_waits_until_the_first_is_gone() {
        let mut fleet = Fleet::new(FleetConfig::default());
        let (first, second) = (hello(1), hello(2));
        assert_eq!(rival(&fleet, &first, at(1, 1)), None, "nobody has the name");
        let joined = fleet.apply(Stamp::at(1), Command::AgentJoined(join(&first, at(1, 1)).unwrap()), &mut Vec::new());
        let Reply::Joined { agent, session } = joined else { panic!("{joined:?}") };
        assert_eq!(rival(&fleet, &first, at(1, 1)), None, "the same process comes back");
        assert_eq!(rival(&fleet, &second, at(1, 2)), Some(session), "another port");
        assert_eq!(rival(&fleet, &second, at(2, 1)), Some(session), "its name stands for another machine now");
        assert_eq!(rival(&fleet, &second, None), Some(session), "who knows where it is");
        assert_eq!(rival(&fleet, &second, at(1, 1)), None, "it could not listen there if the first still did");
        fleet.apply(Stamp::at(2), Command::AgentLost { agent, session, reason: LossReason::Silent }, &mut Vec::new());
        assert_eq!(rival(&fleet, &second, at(1, 2)), None);
        // Two whose whereabouts are unknown have nothing in common.
        let unknown = fleet.apply(Stamp::at(3), Command::AgentJoined(join(&second, None).unwrap()), &mut Vec::new());
        assert!(matches!(unknown, Reply::Joined { .. }), "{unknown:?}");
        assert!(rival(&fleet, &hello(3), None).is_some());
    }

    const TIMING: SessionTiming = SessionTiming {
        heartbeat_interval: Duration::from_millis(500),
        timeout: Duration::from_secs(2),
        health_check_interval: Duration::from_secs(10),
        grace: Duration::from_millis(50),
    };
    const TERM: u64 = 1;

    /// How the loss that is on its way was noticed, and what becomes of it.
    #[derive(Clone, Copy, Debug)]
    enum Loss {
        Silent,
        Disconnected,
        Failed,
        NotWritten,
    }

    /// What the steps of two tasks and the log do to one agent, one step at a time.
    struct World {
        fleet: Fleet,
        registry: Registry,
        hello: v1::Hello,
        now: Instant,
        old: Arc<Link>,
        /// What was applied and is not told yet.
        untold: Vec<Effect>,
        loss: LossAt,
        opening: OpeningAt,
        /// The session that the agent was welcomed to, and its connection.
        welcomed: Option<(AgentId, SessionId, Arc<Link>)>,
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
            let joined =
                fleet.apply(Stamp::at(1), Command::AgentJoined(join(&hello, at(1, 1)).unwrap()), &mut Vec::new());
            let Reply::Joined { agent, session } = joined else { panic!("{joined:?}") };
            hello.session = session.0;
            let registry = Registry::new(TIMING);
            registry.begin(TERM);
            let now = Instant::now();
            let ending = Ending::default();
            let origin = Origin { process: at(1, 1), ending: ending.clone(), guarded: false };
            let Connection::Taken(old) = registry.connect(TERM, agent, session, origin, now) else {
                panic!("the agent is connected at first")
            };
            assert!(matches!(registry.suspicions(now, 1)[..], [Suspicion::Probe(..)]));
            registry.probed(agent, session, Some(true), false, now);
            let mut later = now + TIMING.timeout;
            if let Loss::Failed = loss {
                registry.failed(agent, &old, later);
            }
            if let Loss::Disconnected = loss {
                ending.close();
                registry.disconnected(agent, &old, now);
                later = now + TIMING.grace;
            }
            let (untold, welcomed) = (Vec::new(), None);
            let (loss, opening) = (LossAt::Noticing, OpeningAt::Looking);
            Self { fleet, registry, hello, now: later, old, untold, loss, opening, welcomed }
        }

        /// The next step of the loss; whether it could be taken.
        fn lose(&mut self, how: Loss) -> bool {
            self.loss = match self.loss {
                LossAt::Noticing => match self.registry.suspicions(self.now, 1).pop() {
                    Some(Suspicion::Silent(agent, session) | Suspicion::Failed(agent, session)) => {
                        LossAt::Proposed(agent, session)
                    }
                    Some(Suspicion::Probe(agent, session, _)) => {
                        match self.registry.probed(agent, session, Some(false), false, self.now) {
                            Verdict::Gone => LossAt::Proposed(agent, session),
                            _ => LossAt::Over,
                        }
                    }
                    None => LossAt::Over,
                },
                LossAt::Proposed(agent, session) if matches!(how, Loss::NotWritten) => {
                    self.registry.take_back(agent, session, self.now);
                    LossAt::Over
                }
                // The log applies one command after the other, each told before the next.
                LossAt::Proposed(..) if !self.untold.is_empty() => return false,
                LossAt::Proposed(agent, session) => {
                    let lost = Command::AgentLost { agent, session, reason: LossReason::Silent };
                    self.fleet.apply(Stamp::at(2), lost, &mut self.untold);
                    LossAt::Applied(agent, session)
                }
                LossAt::Applied(agent, session) => {
                    self.tell();
                    LossAt::Told(agent, session)
                }
                LossAt::Told(agent, session) => {
                    self.registry.ended(agent, session);
                    LossAt::Over
                }
                LossAt::Over => return false,
            };
            true
        }

        /// The next step of the opening; whether it could be taken.
        fn open(&mut self) -> bool {
            self.opening = match self.opening {
                OpeningAt::Looking => match resumable(&self.fleet, &self.hello) {
                    Some((agent, session, _)) => OpeningAt::Looked(agent, session),
                    None if !self.untold.is_empty() => return false,
                    None => {
                        let joined = Command::AgentJoined(join(&self.hello, at(1, 1)).unwrap());
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
                    match self.registry.connect(TERM, agent, session, Origin::default(), self.now) {
                        Connection::Taken(link) => {
                            self.welcomed = Some((agent, session, link));
                            OpeningAt::Connected(agent, session)
                        }
                        Connection::Losing(decided) if !decided.is_cancelled() => return false,
                        Connection::Losing(_) | Connection::Replaced => OpeningAt::Looking,
                        Connection::TermOver => panic!("the term goes on"),
                    }
                }
                OpeningAt::Connected(agent, session) => match slots_of(&self.fleet, agent, session) {
                    Some(_) => OpeningAt::Over,
                    None => {
                        self.registry.ended(agent, session);
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
                        self.registry.started(agent, session, at(1, 1), self.now);
                    }
                    Effect::SessionEnded { agent, session } => self.registry.ended(agent, session),
                    _ => {}
                }
            }
        }

        /// An agent that was welcomed works: nothing that was on its way may take that from it afterwards.
        fn check(&self, schedule: &[bool]) {
            let (agent, session, link) = self.welcomed.as_ref().expect("the agent is welcomed in the end");
            let of_state = self.fleet.agent(*agent).expect("it is known");
            assert_eq!((of_state.session, of_state.state), (*session, AgentState::Live), "{schedule:?}");
            assert_eq!(link.take_now().ended, None, "{schedule:?}");
            assert!(self.registry.heard(*agent, link, self.now), "{schedule:?}");
            assert!(!self.registry.heard(*agent, &self.old, self.now), "{schedule:?}");
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
                    // One that must wait is passed over.
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
}
