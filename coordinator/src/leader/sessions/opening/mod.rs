//! How an agent's session is opened. What may happen at the same time, and the order that makes it safe, is written at the head
//! of [`sessions`](crate::leader::sessions).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, AgentState, Command, Fleet, Held, PoolShape, Refusal, Reply, SessionId,
    sabotage::{Mistake, planted},
};
use robeing_net::Transport;
use robeing_platform::ConnectInfo;
use robeing_proto::{
    internal::v1::{self as internal, coordinator_message::Message as ToAgent},
    v1,
};
use tokio::time::Instant;
use tonic::Status;
use tracing::info;

use crate::{
    api::{convert, waiting::Waited},
    apply::observer::ApplyObserver,
    leader::{
        evidence::Origin,
        sessions::{AttemptKey, Connection, SessionConnection, reconcile},
        standing::Standing,
    },
    members::Members,
    propose::{ProposeError, Proposer},
    read::StateReader,
};

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
    pub link: Arc<SessionConnection>,
    /// The agent can be asked how it is.
    pub answers_health_checks: bool,
}

/// An agent's session, as the state has it when it is looked at.
struct Stay {
    agent: AgentId,
    session: SessionId,
    /// The agent goes on in it.
    resumed: bool,
}

/// Opens sessions. Cheap to clone.
#[derive(Clone)]
pub struct SessionOpener {
    pub members: Members,
    pub standing: Standing,
    pub state: StateReader,
    pub proposer: Proposer,
    pub observer: Arc<ApplyObserver>,
    /// By which it finds out where an agent's process is.
    pub transport: Transport,
}

impl SessionOpener {
    /// Opens a session for an agent that said hello, in the order that [`sessions`](crate::leader::sessions) demands: the state
    /// is looked at, the connection is taken, and the state is looked at once more.
    pub async fn open(
        &self,
        hello: internal::Hello,
        connection: Option<ConnectInfo>,
        term: u64,
        waited: &Waited,
    ) -> Result<(Opened, ToAgent), JoinFailed> {
        let ConnectInfo { peer, ending } = connection.unwrap_or_default();
        let process = match self.state.look(|fleet| located(fleet, &hello, peer)) {
            Some(known) => Some(known),
            None => self.transport.locate(peer, &hello.address).await,
        };
        let held = reconcile::held(&hello.held).await.map_err(JoinFailed::Refused)?;
        // A leader that was replaced without knowing would hand out what others have finished, under numbers that were used.
        let barrier = self.state.ready_to_read(v1::Consistency::Linearizable.into());
        let leads = planted(Mistake::SessionWithoutBarrier)
            || matches!(tokio::time::timeout(BARRIER_TIMEOUT, barrier).await, Ok(Ok(())));
        if !leads {
            return Err(JoinFailed::NotLeading);
        }
        let sessions = &self.observer.sessions;
        let turn = tokio::time::timeout(TURN_TIMEOUT, sessions.turn(&hello.name)).await;
        let _turn = turn.map_err(|_| JoinFailed::NotLeading)?;
        for _ in 0..MAX_OPENINGS {
            let stay = self.stay(&hello, process, term).await?;
            // The lease on a new session is one that this leader grants, as by the answer to a heartbeat.
            if !stay.resumed && !self.standing.may_grant_lease(term).await {
                return Err(JoinFailed::NotLeading);
            }
            // Leadership may have gone while the join was written; another leader serves the session then.
            if self.standing.leading() != Some(term) {
                return Err(JoinFailed::NotLeading);
            }
            // What the agent sends from now on comes after the session began to count.
            let waited_seq = waited.seq();
            let origin = Origin { process, ending: ending.clone(), guarded: hello.guarded };
            let link = match sessions.connect(term, stay.agent, stay.session, origin, Instant::now()) {
                Connection::Taken(link) => link,
                Connection::TermOver => return Err(JoinFailed::NotLeading),
                Connection::Replaced => continue,
                Connection::Losing(decided) => {
                    let decided = tokio::time::timeout(LOSS_TIMEOUT, decided.cancelled()).await;
                    decided.map_err(|_| JoinFailed::NotLeading)?;
                    continue;
                }
            };
            if !self.begin(&stay, &link, &held) {
                continue;
            }
            let Stay { agent, session, resumed } = stay;
            info!(agent = hello.name, session = session.0, resumed, "agent connected");
            let welcome = self.welcome(term, session, resumed, waited_seq);
            let answers_health_checks = hello.answers_health_checks;
            return Ok((Opened { agent, session, link, answers_health_checks }, welcome));
        }
        Err(JoinFailed::NotLeading)
    }

    /// Hands an agent that has just connected what it lacks, and tells it what to stop, given what it `held`. False when its
    /// session is over by now.
    fn begin(&self, stay: &Stay, link: &SessionConnection, held: &[AttemptKey]) -> bool {
        // Once the link is there nothing that happens to the session is missed; what was before it is in the state.
        let Some(known) = self.state.look(|fleet| slots_of(fleet, stay.agent, stay.session)) else {
            self.observer.sessions.ended(stay.agent, stay.session);
            return false;
        };
        let held = if stay.resumed { held } else { &[] };
        let (assignments, stops) = reconcile::differences(&known, held);
        link.put(|outbox| {
            outbox.assignments.extend(assignments);
            outbox.stops.extend(stops);
        });
        true
    }

    /// The session that an agent goes on in, or a new one that is begun for it.
    async fn stay(&self, hello: &internal::Hello, process: Option<SocketAddr>, term: u64) -> Result<Stay, JoinFailed> {
        let (rival, known) = self.state.look(|fleet| (rival(fleet, hello, process), resumable(fleet, hello)));
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
        match self.proposer.propose_in(term, Command::Agent(AgentCommand::Joined(join))).await? {
            Reply::Joined { agent, session } => {
                Ok(Stay { agent, session, resumed: known.is_some_and(|(_, known, _)| known == session) })
            }
            Reply::Refused(refusal) => Err(JoinFailed::Refused(Status::failed_precondition(refusal.to_string()))),
            other => Err(JoinFailed::Refused(Status::internal(format!("unexpected reply {other:?}")))),
        }
    }

    fn welcome(&self, term: u64, session: SessionId, resumed: bool, waited_seq: u64) -> ToAgent {
        let timing = self.observer.sessions.timing;
        ToAgent::Welcome(internal::Welcome {
            session: session.0,
            term,
            heartbeat_interval_ms: timing.heartbeat_interval.as_millis() as u32,
            session_timeout_ms: timing.timeout.as_millis() as u32,
            coordinators: self.members.addresses(),
            resumed,
            waited_seq,
        })
    }
}

/// The session that the process that says hello may go on in, and where the process was then.
fn resumable(fleet: &Fleet, hello: &internal::Hello) -> Option<(AgentId, SessionId, Option<SocketAddr>)> {
    let agent = fleet.agent_by_name(&hello.name)?;
    let same = agent.incarnation == hello.incarnation && agent.session.0 == hello.session;
    (same && agent.state != AgentState::Lost).then_some((agent.id, agent.session, agent.process))
}

/// The taken slots of an agent, in order; `None` if this session of it is over.
fn slots_of(fleet: &Fleet, agent: AgentId, session: SessionId) -> Option<Vec<Held>> {
    let agent = fleet.agent(agent).filter(|agent| agent.session == session && agent.state != AgentState::Lost)?;
    Some(agent.held().collect())
}

/// Where a process that comes back from the same place was found before, so that its session need not wait for a name server.
fn located(fleet: &Fleet, hello: &internal::Hello, peer: Option<SocketAddr>) -> Option<SocketAddr> {
    let agent = fleet.agent_by_name(&hello.name)?;
    let same = agent.incarnation == hello.incarnation && agent.address == hello.address;
    agent.process.filter(|process| same && peer.is_some_and(|peer| peer.ip().to_canonical() == process.ip()))
}

/// The session of another process of this name that may still run attempts. Until it has left or counts as lost, what it has
/// must not be given away. A process that listens where that one did has proved that it is gone; one that merely says the same
/// address has not, since a name may stand for another machine by now.
fn rival(fleet: &Fleet, hello: &internal::Hello, process: Option<SocketAddr>) -> Option<SessionId> {
    let agent = fleet.agent_by_name(&hello.name)?;
    let same_process = agent.incarnation == hello.incarnation;
    let in_its_place = process.is_some() && agent.process == process;
    (!same_process && !in_its_place && agent.state != AgentState::Lost).then_some(agent.session)
}

fn join(hello: &internal::Hello, process: Option<SocketAddr>) -> Result<AgentJoin, Status> {
    let role = v1::Role::try_from(hello.role).unwrap_or_default();
    let pool = (!hello.pool.is_empty()).then(|| PoolShape {
        name: hello.pool.clone(),
        replicas: (hello.pool_replicas > 0).then_some(hello.pool_replicas),
        standby: hello.pool_standby,
    });
    Ok(AgentJoin {
        name: hello.name.clone(),
        incarnation: hello.incarnation,
        role: convert::agent_role(role)?,
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
mod tests;
