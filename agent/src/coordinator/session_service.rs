//! The leader's side of agents' sessions: one task for each connection.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream::BoxStream, stream::FuturesUnordered};
use prost::Message;
use robeing_fleet::{
    AgentId, AgentJoin, AgentState, Command, Completion, Fleet, Outcome, PoolShape, Refusal, Reply, SessionId,
    StaleReason,
    sabotage::{Mistake, planted},
};
use robeing_proto::{
    budget::in_messages,
    v1::{
        self, AgentMessage, CoordinatorMessage, agent_message::Message as FromAgent,
        coordinator_message::Message as ToAgent,
    },
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

use super::{
    leadership::{Standing, until, until_not_leading},
    node::Node,
    opening::{Waited, while_opening},
    proposer::{self, Lane, ProposeError, Sender},
    registry::{Link, Outbox, reconcile},
    view,
};
use crate::platform::ConnectInfo;

/// Messages on their way to one agent; what waits beyond that is gathered in its outbox.
const SEND_BUFFER: usize = 4;
/// How long a new connection has to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a majority's confirmation of the leader is waited for.
const READY_TIMEOUT: Duration = Duration::from_secs(1);
/// Groups of completions of one agent that are being written; beyond it nothing more is read from the agent.
const MAX_COMPLETING: usize = 64;

/// The service.
pub struct SessionService {
    node: Arc<Node>,
    tasks: TaskTracker,
}

impl SessionService {
    /// Of this node; its tasks end when the node stops.
    pub fn new(node: Arc<Node>, tasks: TaskTracker) -> Self {
        Self { node, tasks }
    }
}

#[tonic::async_trait]
impl v1::session_server::Session for SessionService {
    type OpenStream = BoxStream<'static, Result<CoordinatorMessage, Status>>;

    async fn open(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::OpenStream>, Status> {
        let (sender, receiver) = mpsc::channel(SEND_BUFFER);
        let node = Arc::clone(&self.node);
        let peer = request.extensions().get::<ConnectInfo>().and_then(|info| info.peer);
        let inbound = request.into_inner();
        self.tasks.spawn(async move {
            let stop = node.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                served = serve(node, peer, inbound, &sender) => {
                    if let Err(status) = served {
                        // Nobody listens any more when the agent went first.
                        let _ = sender.send(Err(status)).await;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

pub(super) type Outgoing = mpsc::Sender<Result<CoordinatorMessage, Status>>;

/// Wraps a message to an agent.
pub(super) fn message(message: ToAgent) -> CoordinatorMessage {
    CoordinatorMessage { message: Some(message) }
}

fn redirect(node: &Node) -> ToAgent {
    let leader_address = match &*node.standing.borrow() {
        Standing::Following { peer, .. } => peer.address.clone(),
        _ => String::new(),
    };
    ToAgent::Redirect(v1::Redirect { leader_address, coordinators: node.addresses() })
}

async fn serve(
    node: Arc<Node>,
    peer: Option<SocketAddr>,
    mut inbound: Streaming<AgentMessage>,
    sender: &Outgoing,
) -> Result<(), Status> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, inbound.next()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello"))?;
    let hello = match first.transpose()?.and_then(|m| m.message) {
        Some(FromAgent::Hello(hello)) => hello,
        _ => return Err(Status::invalid_argument("the first message of a session is hello")),
    };
    if hello.cluster_id != node.identity.cluster_id {
        return Err(Status::permission_denied(format!(
            "this is cluster {:?}; the agent is configured for {:?}",
            node.identity.cluster_id, hello.cluster_id
        )));
    }
    let waited = Waited::default();
    let opening = async {
        let mut standing = node.standing.clone();
        let settled = until(&mut standing, |standing| !matches!(standing, Standing::Leading { ready: false, .. }));
        let term = settled.await.and_then(|standing| standing.leading()).ok_or(JoinFailed::NotLeading)?;
        let process = match node.look(|fleet| located(fleet, &hello, peer)) {
            Some(known) => Some(known),
            None => node.transport.locate(peer, &hello.address).await,
        };
        Session::open(&node, hello, process, term, &waited).await
    };
    let opened = while_opening(&node, &mut inbound, sender, &waited, opening).await;
    let (mut session, welcome) = match opened {
        Some(Ok(opened)) => opened,
        Some(Err(JoinFailed::NotLeading)) => {
            let _ = sender.send(Ok(message(redirect(&node)))).await;
            return Ok(());
        }
        Some(Err(JoinFailed::Refused(status))) => return Err(status),
        None => return Err(Status::deadline_exceeded("the session could not be opened in time; ask again")),
    };
    if sender.send(Ok(message(welcome))).await.is_ok() {
        session.run(inbound, sender).await;
    }
    node.hub.registry.disconnected(session.agent, &session.link, Instant::now());
    Ok(())
}

enum JoinFailed {
    NotLeading,
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

struct Session {
    node: Arc<Node>,
    agent: AgentId,
    session: SessionId,
    link: Arc<Link>,
    term: u64,
    completing: FuturesUnordered<BoxFuture<'static, Completed>>,
    /// As which its completions wait.
    sender: Sender,
    /// The newest heartbeat that is not answered, because this leader has not heard of a majority lately.
    unanswered: Option<(u64, Instant)>,
}

/// Completions whose fate is known, or not (then the agent sends them again).
type Completed = Option<Vec<v1::CompletionAck>>;

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

impl Session {
    async fn open(
        node: &Arc<Node>,
        hello: v1::Hello,
        process: Option<SocketAddr>,
        term: u64,
        waited: &Waited,
    ) -> Result<(Self, ToAgent), JoinFailed> {
        // A leader that was replaced without knowing would hand out what others have finished, under numbers that were used.
        let barrier = node.ready_to_read(v1::Consistency::Linearizable.into());
        let leads = planted(Mistake::SessionWithoutBarrier)
            || matches!(tokio::time::timeout(READY_TIMEOUT, barrier).await, Ok(Ok(())));
        if !leads {
            return Err(JoinFailed::NotLeading);
        }
        if let Some(session) = node.look(|fleet| rival(fleet, &hello, process)) {
            return Err(JoinFailed::Refused(Status::already_exists(format!(
                "another process is the agent {:?} (session {}); this one may be it once that one has left or counts as lost. If \
                 both are to run, give them different names",
                hello.name, session.0
            ))));
        }
        let known = node.look(|fleet| {
            let agent = fleet.agent_by_name(&hello.name)?;
            let same = agent.incarnation == hello.incarnation && agent.session.0 == hello.session;
            (same && agent.state != AgentState::Lost).then_some((agent.id, agent.session, agent.process == process))
        });
        let (agent, session) = match known {
            Some((agent, session, true)) => (agent, session),
            // A process that moved goes on in its session, and the next leader must not look for it where it was.
            Some((_, _, false)) | None => {
                let join = join(&hello, process).map_err(JoinFailed::Refused)?;
                // What is out of its bounds is refused whatever the state, so it need not go into the log.
                let refused = |refusal: Refusal| JoinFailed::Refused(Status::failed_precondition(refusal.to_string()));
                join.check().map_err(refused)?;
                match node.proposer.propose_here(Command::AgentJoined(join)).await? {
                    Reply::Joined { agent, session } => (agent, session),
                    Reply::Refused(refusal) => {
                        return Err(JoinFailed::Refused(Status::failed_precondition(refusal.to_string())));
                    }
                    other => return Err(JoinFailed::Refused(Status::internal(format!("unexpected reply {other:?}")))),
                }
            }
        };
        let resumed = known.is_some_and(|(_, known, _)| known == session);
        // The lease on a new session is one that this leader grants, as by the answer to a heartbeat.
        let margin = node.hub.registry.timing.lease_margin();
        if !resumed && !node.contact_within(term, margin).await {
            return Err(JoinFailed::NotLeading);
        }
        // Leadership may have gone while the join was written; another leader serves the session then.
        if node.standing.borrow().leading() != Some(term) {
            return Err(JoinFailed::NotLeading);
        }
        // What the agent sends from now on comes after the session began to count.
        let waited_seq = waited.seq();
        let link = node.hub.registry.connected(term, agent, session, process, Instant::now());
        // After the link is there, so that nothing assigned meanwhile is missed; told twice does no harm.
        let held = if resumed { &hello.held[..] } else { &[] };
        let now = node.clock.estimate().fleet;
        let (assignments, stops) = node.look(|fleet| reconcile(fleet, agent, held, now));
        link.put(|outbox| {
            outbox.assignments.extend(assignments);
            outbox.stops.extend(stops);
        });
        info!(agent = hello.name, session = session.0, resumed, "agent connected");
        let timing = node.hub.registry.timing;
        let welcome = ToAgent::Welcome(v1::Welcome {
            session: session.0,
            term,
            heartbeat_interval_ms: timing.heartbeat_interval.as_millis() as u32,
            session_timeout_ms: timing.timeout.as_millis() as u32,
            coordinators: node.addresses(),
            resumed,
            waited_seq,
        });
        let node = Arc::clone(node);
        let (sender, completing) = (node.proposer.sender(), FuturesUnordered::new());
        Ok((Self { node, agent, session, link, term, completing, sender, unanswered: None }, welcome))
    }

    async fn run(&mut self, mut inbound: Streaming<AgentMessage>, sender: &Outgoing) {
        let mut standing = self.node.standing.clone();
        let term = self.term;
        let node = Arc::clone(&self.node);
        let mut pending: VecDeque<ToAgent> = VecDeque::new();
        loop {
            tokio::select! {
                biased;
                () = until_not_leading(&mut standing, term) => {
                    let _ = sender.try_send(Ok(message(redirect(&self.node))));
                    return;
                }
                permit = sender.reserve(), if !pending.is_empty() => {
                    let (Ok(permit), Some(told)) = (permit, pending.pop_front()) else { return };
                    let ended = matches!(told, ToAgent::SessionEnded(_));
                    permit.send(Ok(message(told)));
                    if ended {
                        return;
                    }
                }
                // Taken only when all before is sent, so that a slow agent's outbox gathers instead of queueing messages.
                outbox = self.link.take(), if pending.is_empty() => pending.extend(messages(outbox)),
                () = contact_since(&node, term, self.unanswered), if self.unanswered.is_some() => {
                    self.unanswered.take().into_iter().for_each(|(seq, _)| self.answer_heartbeat(seq));
                }
                Some(completed) = self.completing.next() => match completed {
                    Some(acks) => self.link.put(|outbox| outbox.acks.extend(acks)),
                    // The agent comes back and sends them again.
                    None => return,
                },
                next = inbound.next(), if self.completing.len() < MAX_COMPLETING => match next {
                    Some(Ok(AgentMessage { message: Some(said) })) => {
                        self.node.hub.registry.heard(self.agent, &self.link, Instant::now());
                        if !self.handle(said).await {
                            return;
                        }
                    }
                    Some(Ok(AgentMessage { message: None })) => {}
                    Some(Err(status)) => {
                        debug!(agent = self.agent.0, %status, "session broke");
                        return;
                    }
                    None => return,
                },
            }
        }
    }

    /// Handles a message: whether to go on.
    async fn handle(&mut self, said: FromAgent) -> bool {
        let (agent, session) = (self.agent, self.session);
        match said {
            FromAgent::Hello(_) => return false,
            // In answer to an Opening that crossed Welcome.
            FromAgent::Waiting(_) => {}
            FromAgent::Heartbeat(heartbeat) => self.answer_heartbeat(heartbeat.seq),
            FromAgent::Completions(completions) => self.complete(completions.completions),
            FromAgent::Drain(_) => {
                let draining = Command::AgentDraining { agent, session };
                if self.node.proposer.propose_one(draining).await.is_ok() {
                    self.link.put(|outbox| outbox.drained = true);
                }
            }
            FromAgent::Leave(_) => {
                let left = Command::AgentLeft { agent, session };
                // Told again by the agent if it can't be written; its absence is noticed in the end, too.
                let _ = self.node.proposer.propose_one(left).await;
            }
        }
        true
    }

    /// A heartbeat counts only while this leader is sure to lead: it must have heard of a majority lately.
    fn answer_heartbeat(&mut self, seq: u64) {
        let margin = self.node.hub.registry.timing.lease_margin();
        let in_touch = self.node.quorum_age().is_some_and(|age| age <= margin);
        if in_touch || planted(Mistake::HeartbeatWithoutMajority) {
            self.link.put(|outbox| outbox.heartbeat = Some(seq));
        } else {
            // Of contact that was wanted for an earlier one nothing is lost.
            let since = self.unanswered.map_or_else(Instant::now, |(_, since)| since);
            self.unanswered = Some((seq, since));
        }
    }

    fn complete(&mut self, completions: Vec<v1::Completion>) {
        let mut commands: Vec<Bytes> = Vec::with_capacity(completions.len());
        let mut about = Vec::with_capacity(completions.len());
        let mut refused = Vec::new();
        for completion in completions {
            // An id that is none is repeated only as far as it takes to recognize it.
            let key = (view::excerpt(&completion.task_id).to_owned(), completion.attempt);
            match self.completion(completion) {
                Ok(command) => {
                    commands.push(proposer::encoded(&Command::Complete(command)));
                    about.push(key);
                }
                Err(reason) => refused.push(ack(key, Err(reason))),
            }
        }
        if !refused.is_empty() {
            self.link.put(|outbox| outbox.acks.extend(refused));
        }
        let (proposer, sender) = (self.node.proposer.clone(), self.sender);
        self.completing.push(Box::pin(async move {
            let replies = proposer.propose_encoded(Lane::Completions, sender, commands).await.ok()?;
            Some(about.into_iter().zip(replies).map(|(key, reply)| ack(key, verdict(&reply))).collect())
        }));
    }

    fn completion(&self, completion: v1::Completion) -> Result<Completion, String> {
        use v1::completion::Outcome as Wire;
        let task = view::task_id(&completion.task_id).map_err(|e| e.to_string())?;
        let outcome = match completion.outcome.ok_or("a completion without outcome")? {
            Wire::Output(output) => Outcome::Succeeded(output),
            Wire::Failure(failure) => Outcome::Failed(view::failure_from_wire(failure)),
            Wire::Stopped(_) => Outcome::Stopped,
            Wire::HandedBack(_) => Outcome::HandedBack,
        };
        let (agent, session) = (self.agent, self.session);
        let outcome = outcome.within_limits();
        Ok(Completion { agent, session, task, attempt: completion.attempt, ran_us: completion.ran_us, outcome })
    }
}

/// Waits until a majority confirms this leader since the first heartbeat that could not be answered.
async fn contact_since(node: &Node, term: u64, unanswered: Option<(u64, Instant)>) {
    if let Some((_, since)) = unanswered {
        node.contact.since(term, since).await;
    }
}

fn verdict(reply: &Reply) -> Result<(), String> {
    match reply {
        // `Done` answers the end of an attempt that had been asked to stop.
        Reply::Completed | Reply::Done => Ok(()),
        Reply::Stale(reason) => Err(match reason {
            StaleReason::UnknownTask => "the task is not known (any more)",
            StaleReason::Finished => "the task had been finished",
            StaleReason::NotCurrent => {
                "the attempt is not current: the task was given to another agent, or the attempt was ended"
            }
            StaleReason::SessionEnded => "the session is over",
        }
        .to_owned()),
        Reply::Refused(refusal) => Err(refusal.to_string()),
        other => Err(format!("unexpected reply {other:?}")),
    }
}

fn ack((task_id, attempt): (String, u32), verdict: Result<(), String>) -> v1::CompletionAck {
    let accepted = verdict.is_ok();
    v1::CompletionAck { task_id, attempt, accepted, reason: verdict.err().unwrap_or_default() }
}

fn messages(outbox: Outbox) -> Vec<ToAgent> {
    let mut messages = Vec::new();
    if let Some(seq) = outbox.heartbeat {
        messages.push(ToAgent::HeartbeatAck(v1::HeartbeatAck { seq }));
    }
    let acks = in_messages(outbox.acks, Message::encoded_len);
    messages.extend(acks.into_iter().map(|acks| ToAgent::CompletionAcks(v1::CompletionAcks { acks })));
    let assignments = in_messages(outbox.assignments, Message::encoded_len);
    messages.extend(assignments.into_iter().map(|assignments| ToAgent::Assignments(v1::Assignments { assignments })));
    let stops = in_messages(outbox.stops, Message::encoded_len);
    messages.extend(stops.into_iter().map(|attempts| ToAgent::Cancels(v1::Cancels { attempts })));
    if outbox.drained {
        messages.push(ToAgent::Drained(v1::Drained {}));
    }
    if let Some(reason) = outbox.ended {
        messages.push(ToAgent::SessionEnded(v1::SessionEnded { reason }));
    }
    messages
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{FleetConfig, LossReason, Stamp, TaskId};
    use robeing_proto::budget::{MAX_ITEM_BYTES, MESSAGE_BUDGET_BYTES};

    use super::*;

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

    #[test]
    fn what_waits_for_a_slow_agent_comes_in_messages_that_fit() {
        let mut outbox = Outbox::default();
        for n in 0..2_000 {
            let task_id = TaskId(n).to_string();
            outbox.stops.push(v1::AttemptRef { task_id: task_id.clone(), attempt: 1 });
            outbox.acks.push(v1::CompletionAck {
                task_id: task_id.clone(),
                reason: "r".repeat(1_000),
                ..Default::default()
            });
            let input = vec![0; if n % 100 == 0 { 1024 * 1024 } else { 1_000 }].into();
            outbox.assignments.push(v1::Assignment { task_id, input, ..Default::default() });
        }
        let (mut assigned, mut acknowledged, mut stopped) = (0, 0, 0);
        for told in messages(outbox) {
            let told = message(told);
            let bytes = told.encoded_len();
            let count = match told.message {
                Some(ToAgent::Assignments(of)) => (of.assignments.len(), &mut assigned),
                Some(ToAgent::CompletionAcks(of)) => (of.acks.len(), &mut acknowledged),
                Some(ToAgent::Cancels(of)) => (of.attempts.len(), &mut stopped),
                other => panic!("{other:?}"),
            };
            *count.1 += count.0;
            let limit = if count.0 > 1 { MESSAGE_BUDGET_BYTES + 16 * 1024 } else { MAX_ITEM_BYTES };
            assert!(bytes <= limit, "{} things in {bytes} bytes", count.0);
        }
        assert_eq!((assigned, acknowledged, stopped), (2_000, 2_000, 2_000));
    }
}
