//! The opening of agents' sessions. [`sessions`](crate::leader::sessions) describes what may happen concurrently, and
//! the order that makes it safe.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, AgentState, Amounts, Command, Feature, Fleet, Held, PoolShape, ProofKind,
    Refusal, Reply, Role, SessionId,
    limits::MAX_AMOUNT,
    sabotage::{Mistake, planted},
};
use robeing_net::{ConnectInfo, Transport};
use robeing_proto::{
    internal::v1::{self as internal, coordinator_message::Message as ToAgent},
    v1,
};
use tokio::time::Instant;
use tonic::Status;
use tracing::info;

use crate::{
    api::{convert, errors, waiting::Waited},
    apply::observer::ApplyObserver,
    leader::{
        evidence::Origin,
        pressure::Admission,
        sessions::{AttemptKey, Connection, SessionConnection, reconcile},
        shortages::{SESSIONS, Scarce},
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
/// How long an opening waits for the outcome of the agent's loss.
const LOSS_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of times that an opening reads the state again because the session has ended meanwhile.
const MAX_OPENINGS: usize = 4;

/// Why no session was opened.
pub enum JoinFailed {
    /// This coordinator does not lead, or can't confirm in time that it does.
    NotLeading,
    /// The agent can't have a session, for this reason.
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

/// An open session.
pub struct Opened {
    /// The agent.
    pub agent: AgentId,
    /// The session.
    pub session: SessionId,
    /// The session's connection.
    pub link: Arc<SessionConnection>,
    /// Whether the agent answers health checks.
    pub answers_health_checks: bool,
    /// The key that the agent reports, if it reports one.
    pub sealing_key: Option<[u8; 32]>,
    /// What the agent contributes to the resource pool.
    pub contributed: Amounts,
    /// Whether the agent has an object store, from which it fetches inputs.
    pub has_store: bool,
}

/// An agent's session, as read from the state.
struct OpenSession {
    agent: AgentId,
    session: SessionId,
    /// Whether the agent resumes it.
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
    /// Determines where an agent's process listens.
    pub transport: Transport,
}

impl SessionOpener {
    /// Opens a session for an agent that sent a Hello, in the order that [`sessions`](crate::leader::sessions)
    /// requires: read the state, register the connection, and read the state again.
    pub async fn open(
        &self,
        hello: internal::Hello,
        connection: Option<ConnectInfo>,
        term: u64,
        waited: &Waited,
    ) -> Result<(Opened, ToAgent), JoinFailed> {
        let ConnectInfo { peer, ending, .. } = connection.unwrap_or_default();
        let process = match self.state.look(|fleet| located(fleet, &hello, peer)) {
            Some(known) => Some(known),
            None => self.transport.locate(peer, &hello.address).await,
        };
        let held = reconcile::held(&hello.held).await.map_err(JoinFailed::Refused)?;
        // A leader that was replaced without knowing it would assign tasks that others have finished, with attempt
        // numbers that were used.
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
            let opened = self.find_or_join(&hello, process, term).await?;
            // Opening a new session grants a lease, like answering a heartbeat does.
            if !opened.resumed && !self.standing.may_grant_lease(term).await {
                return Err(JoinFailed::NotLeading);
            }
            // Leadership may have been lost while the join was written; another leader serves the session then.
            if self.standing.leading() != Some(term) {
                return Err(JoinFailed::NotLeading);
            }
            // The session timeout starts below, so the lease must count from a message that has arrived by now.
            let waited_seq = waited.seq();
            let origin = Origin { process, ending: ending.clone(), guarded: hello.guarded };
            let link = match sessions.connect(term, opened.agent, opened.session, origin, Instant::now()) {
                Connection::Taken(link) => link,
                Connection::TermOver => return Err(JoinFailed::NotLeading),
                Connection::Replaced => continue,
                Connection::Losing(decided) => {
                    let decided = tokio::time::timeout(LOSS_TIMEOUT, decided.cancelled()).await;
                    decided.map_err(|_| JoinFailed::NotLeading)?;
                    continue;
                }
            };
            if !self.begin(&opened, &link, &held) {
                continue;
            }
            let OpenSession { agent, session, resumed } = opened;
            info!(agent = hello.name, session = session.0, resumed, "agent connected");
            let welcome = self.welcome(term, session, resumed, waited_seq);
            let answers_health_checks = hello.answers_health_checks;
            let sealing_key = sealing_key(&hello).ok().flatten();
            let (contributed, has_store) = (contributed(&hello), hello.has_store);
            let opened = Opened { agent, session, link, answers_health_checks, sealing_key, contributed, has_store };
            return Ok((opened, welcome));
        }
        Err(JoinFailed::NotLeading)
    }

    /// Queues the attempts that an agent that has just connected lacks, and those that it must stop; `held` are those
    /// that it has. Returns false if its session is over by now.
    fn begin(&self, opened: &OpenSession, link: &SessionConnection, held: &[AttemptKey]) -> bool {
        // The registered connection receives everything that happens to the session from now on; what happened before
        // is in the state.
        let Some(known) = self.state.look(|fleet| slots_of(fleet, opened.agent, opened.session)) else {
            self.observer.sessions.ended(opened.agent, opened.session);
            return false;
        };
        let held = if opened.resumed { held } else { &[] };
        let (assignments, stops) = reconcile::differences(&known, held);
        link.put(|outbox| {
            outbox.assignments.extend(assignments);
            outbox.stops.extend(stops);
        });
        true
    }

    /// Returns the session that an agent resumes, or a new one that is begun for it.
    async fn find_or_join(
        &self,
        hello: &internal::Hello,
        process: Option<SocketAddr>,
        term: u64,
    ) -> Result<OpenSession, JoinFailed> {
        let (rival, known, open, has, is_claim) = self.state.look(|fleet| {
            let (rival, known, open) = (rival(fleet, hello, process), resumable(fleet, hello), others(fleet, hello));
            let has = [Feature::Mail, Feature::Resources, Feature::Blobs].map(|feature| fleet.has(feature));
            (rival, known, open, has, is_claim(fleet, &hello.name))
        });
        let [keys, resources, blobs] = has;
        if let Some(session) = rival {
            return Err(JoinFailed::Refused(Status::already_exists(format!(
                "another process holds the agent name {:?} (session {}); this one can join once that one has left or counts \
                 as lost. If both are to run, give them different names",
                hello.name, session.0
            ))));
        }
        // Not even what the fleet could not keep when the session began is worth a write here, a key or what the agent
        // contributes: on a slow disk, the agent would count as lost meanwhile. It is recorded once the session is open.
        if let Some((agent, session, _)) = known.filter(|(.., known)| *known == process) {
            return Ok(OpenSession { agent, session, resumed: true });
        }
        // A process that moved resumes its session, but the move is written, so that the next leader does not probe the
        // old location.
        let mut join = join(hello, process).map_err(JoinFailed::Refused)?;
        join.sealing_key = join.sealing_key.filter(|_| keys);
        join.contributed = join.contributed.filter(|_| resources);
        join.lacks_store = blobs && !hello.has_store;
        // A join that is out of bounds is refused whatever the state, so it need not go into the log.
        let refused = |refusal: Refusal| JoinFailed::Refused(Status::failed_precondition(refusal.to_string()));
        join.check().map_err(refused)?;
        if let Some(open) = open.filter(|open| *open >= SESSIONS.of(join.role)) {
            self.observer.shortages.count(Scarce::Sessions, join.role);
            return Err(JoinFailed::Refused(no_place(open, join.role)));
        }
        // What nobody has proved counts as the role that agents have by default.
        let role = if is_claim { Role::Worker } else { join.role };
        if open.is_some() && !self.observer.shortages.admits(Admission::Session, role) {
            return Err(JoinFailed::Refused(errors::too_little_cpu(role)));
        }
        match self.proposer.propose_in(term, Command::Agent(AgentCommand::Joined(join))).await? {
            Reply::Joined { agent, session } => {
                Ok(OpenSession { agent, session, resumed: known.is_some_and(|(_, known, _)| known == session) })
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
            takes_refs: true,
        })
    }
}

/// Returns how many agents have a session, if the sender of this Hello would be one more.
fn others(fleet: &Fleet, hello: &internal::Hello) -> Option<u32> {
    let is_one = fleet.agent_by_name(&hello.name).is_some_and(|agent| agent.state != AgentState::Lost);
    let counts = fleet.agent_counts();
    (!is_one).then_some(counts.live + counts.standby + counts.draining + counts.unhealthy)
}

/// Returns whether the agent of this name has enrolled without a proof, so that its role is a claim that anyone can make.
fn is_claim(fleet: &Fleet, name: &str) -> bool {
    fleet.enrolment_of(name).is_some_and(|known| known.proof == ProofKind::Open)
}

fn no_place(open: u32, role: Role) -> Status {
    Status::resource_exhausted(format!(
        "{open} agents have sessions, and the remaining {} are kept for roles of higher priority than {}; stop agents that \
         are not needed",
        SESSIONS.most.saturating_sub(open),
        convert::peer_role(role).as_str()
    ))
}

/// Returns the session that the sender of this Hello may resume, and where its process was last located.
fn resumable(fleet: &Fleet, hello: &internal::Hello) -> Option<(AgentId, SessionId, Option<SocketAddr>)> {
    let agent = fleet.agent_by_name(&hello.name)?;
    let same = agent.incarnation == hello.incarnation && agent.session.0 == hello.session;
    (same && agent.state != AgentState::Lost).then_some((agent.id, agent.session, agent.process))
}

/// Returns the sealing key that this Hello reports, if it reports one.
fn sealing_key(hello: &internal::Hello) -> Result<Option<[u8; 32]>, Status> {
    let key = hello.sealing_key.as_ref();
    match key.len() {
        0 => Ok(None),
        length => key.try_into().map(Some).map_err(|_| {
            Status::invalid_argument(format!(
                "the sealing key has {length} bytes, and a public key of X25519 has 32; send such a key, or none"
            ))
        }),
    }
}

/// Returns what the sender of this Hello contributes, at most what a fleet takes: more is refused, and would be tried
/// again and again.
fn contributed(hello: &internal::Hello) -> Amounts {
    hello.contributed.as_ref().map_or(Amounts::NONE, convert::amounts).at_most(MAX_AMOUNT)
}

/// Returns the occupied slots of an agent, in order; `None` if this session of it is over.
fn slots_of(fleet: &Fleet, agent: AgentId, session: SessionId) -> Option<Vec<Held>> {
    let agent = fleet.agent(agent).filter(|agent| agent.session == session && agent.state != AgentState::Lost)?;
    Some(agent.held().collect())
}

/// Returns where a process that comes back from the same address was located before, so that its session need not wait
/// for name resolution.
fn located(fleet: &Fleet, hello: &internal::Hello, peer: Option<SocketAddr>) -> Option<SocketAddr> {
    let agent = fleet.agent_by_name(&hello.name)?;
    let same = agent.incarnation == hello.incarnation && agent.address == hello.address;
    agent.process.filter(|process| same && peer.is_some_and(|peer| peer.ip().to_canonical() == process.ip()))
}

/// Returns the session of another process with this name that may still run attempts. Until that process has left or
/// counts as lost, its tasks must not be reassigned. A process that listens where the other did proves that the other
/// is gone; one that merely advertises the same address does not, because a name may resolve to another machine by now.
fn rival(fleet: &Fleet, hello: &internal::Hello, process: Option<SocketAddr>) -> Option<SessionId> {
    let agent = fleet.agent_by_name(&hello.name)?;
    let same_process = agent.incarnation == hello.incarnation;
    let in_its_place = process.is_some() && agent.process == process;
    (!same_process && !in_its_place && agent.state != AgentState::Lost).then_some(agent.session)
}

/// Returns the join of the sender of this Hello, but for what depends on the fleet's version.
///
/// # Errors
/// Its role or its key is none.
pub(crate) fn join(hello: &internal::Hello, process: Option<SocketAddr>) -> Result<AgentJoin, Status> {
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
        sealing_key: sealing_key(hello)?,
        contributed: hello.contributed.is_some().then(|| Box::new(contributed(hello))),
        lacks_store: false,
    })
}

#[cfg(test)]
mod tests;
