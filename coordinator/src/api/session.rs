//! The leader's side of agents' sessions, one task per connection.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered},
};
use robeing_fleet::{
    AgentCommand, AgentId, Command, Completion, Failure, FailureKind, Outcome, Reply, RetryPolicy, SessionId,
    StaleReason, TaskCommand,
    sabotage::{Mistake, planted},
};
use robeing_net::{ConnectInfo, gate::Caller};
use robeing_proto::internal::v1::{
    self as internal, AgentMessage, CoordinatorMessage, agent_message::Message as FromAgent,
    coordinator_message::Message as ToAgent,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::{
    api::{
        completions::{handed_back, without_names, without_refs, without_result, without_store, without_subtasks},
        convert,
        waiting::{Waited, while_opening},
    },
    apply::observer::ApplyObserver,
    clock::FleetClock,
    dividing::divide,
    identity::{enrolled, refusals::Refusals},
    leader::{
        health::SessionHealth,
        progress::SessionProgress,
        role::{RaftRole, until, until_not_leading},
        sessions::{
            SessionConnection,
            description::Description,
            opening::{JoinFailed, Opened, SessionOpener},
            outgoing::{Outgoing, Reading},
        },
        standing::Standing,
    },
    lifetime::Lifetime,
    member::Member,
    members::Members,
    policies::Policies,
    propose::{self, Lane, Proposer, Sender},
    read::StateReader,
    verify::compare,
};

/// The method, as refusals are counted.
const METHOD: &str = "robeing.internal.v1.Session/Open";
/// Messages in flight to one agent; what exceeds this waits in its outbox.
const SEND_BUFFER: usize = 4;
/// How long a new connection has to send its Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Groups of completions of one agent that are being written; at this limit nothing more is read from the agent.
const MAX_COMPLETING: usize = 64;

/// The Session service. Cheap to clone.
#[derive(Clone)]
pub struct SessionService {
    pub member: Member,
    pub members: Members,
    pub standing: Standing,
    pub state: StateReader,
    pub proposer: Proposer,
    pub observer: Arc<ApplyObserver>,
    pub clock: FleetClock,
    pub opener: SessionOpener,
    /// What decides about results before they are proposed.
    pub policies: Policies,
    pub refusals: Refusals,
    pub lifetime: Lifetime,
}

#[tonic::async_trait]
impl internal::session_server::Session for SessionService {
    type OpenStream = BoxStream<'static, Result<CoordinatorMessage, Status>>;

    async fn open(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::OpenStream>, Status> {
        let (sender, receiver) = mpsc::channel(SEND_BUFFER);
        let service = self.clone();
        let connection = request.extensions().get::<ConnectInfo>().cloned();
        let caller = Caller::of(request.extensions());
        let inbound = request.into_inner();
        self.lifetime.tasks().spawn(async move {
            let stop = service.lifetime.stop().clone();
            let (refusals, peer) = (service.refusals.clone(), connection.as_ref().and_then(|from| from.peer));
            tokio::select! {
                () = stop.cancelled() => {}
                served = service.serve(connection, caller.clone(), inbound, &sender) => {
                    if let Err(status) = served {
                        refusals.count_ended(METHOD, &status, peer, &caller);
                        // No one receives the status if the agent left first.
                        let _ = sender.send(Err(status)).await;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}

pub(super) type Replies = mpsc::Sender<Result<CoordinatorMessage, Status>>;

/// Wraps a message to an agent.
pub(super) fn message(message: ToAgent) -> CoordinatorMessage {
    CoordinatorMessage { message: Some(message) }
}

impl SessionService {
    /// Refuses a session that is not of the agent whose certificate the connection has, or of another pool than the
    /// agent has enrolled for. An agent that takes no tasks is in no pool for that time.
    async fn check_own(&self, caller: &Caller, hello: &internal::Hello) -> Result<(), Status> {
        let Caller::Member(peer) = caller else { return Ok(()) };
        let role = convert::peer_role(convert::agent_role(hello.role())?);
        if peer.id.name() != hello.name || peer.id.role() != role {
            return Err(Status::permission_denied(format!(
                "the certificate is of {}/{}, and the session would be of {role}/{}",
                peer.id.role(),
                peer.id.name(),
                convert::excerpt(&hello.name)
            )));
        }
        let Some(enrolment) = enrolled::check(&self.state, peer).await? else { return Ok(()) };
        let pool = enrolment.pool.as_deref().unwrap_or_default();
        if !hello.pool.is_empty() && hello.pool != pool {
            return Err(Status::permission_denied(format!(
                "the agent {} has enrolled for the pool {pool:?}, and the session would be in {:?}",
                hello.name,
                convert::excerpt(&hello.pool)
            )));
        }
        Ok(())
    }

    fn redirect(&self) -> ToAgent {
        let leader_address = match self.standing.role() {
            RaftRole::Following { peer, .. } => peer.address,
            _ => String::new(),
        };
        ToAgent::Redirect(internal::Redirect { leader_address, coordinators: self.members.addresses() })
    }

    async fn serve(
        self,
        connection: Option<ConnectInfo>,
        caller: Caller,
        mut inbound: Streaming<AgentMessage>,
        sender: &Replies,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, inbound.next()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no Hello in time"))?;
        let hello = match first.transpose()?.and_then(|m| m.message) {
            Some(FromAgent::Hello(hello)) => hello,
            _ => return Err(Status::invalid_argument("the first message of a session must be Hello")),
        };
        if hello.cluster_id != self.member.cluster_id() {
            return Err(Status::permission_denied(format!(
                "this is cluster {:?}; the agent is configured for {:?}",
                self.member.cluster_id(),
                convert::excerpt(&hello.cluster_id)
            )));
        }
        self.check_own(&caller, &hello).await?;
        let waited = Waited::default();
        let opening = async {
            let mut raft_role = self.standing.roles();
            let settled =
                until(&mut raft_role, |raft_role| !matches!(raft_role, RaftRole::Leading { ready: false, .. }));
            let term = settled.await.and_then(|raft_role| raft_role.leading()).ok_or(JoinFailed::NotLeading)?;
            let opened = self.opener.open(hello, connection, term, &waited).await?;
            Ok((term, opened))
        };
        let opened = while_opening(&self.standing, &mut inbound, sender, &waited, opening).await;
        let (term, (opened, welcome)) = match opened {
            Some(Ok(opened)) => opened,
            Some(Err(JoinFailed::NotLeading)) => {
                let _ = sender.send(Ok(message(self.redirect()))).await;
                return Ok(());
            }
            Some(Err(JoinFailed::Refused(status))) => return Err(status),
            None => return Err(Status::deadline_exceeded("the session could not be opened in time; try again")),
        };
        let mut session = Session::new(self, opened, term);
        session.follow_again();
        if sender.send(Ok(message(welcome))).await.is_ok() {
            session.run(inbound, sender).await;
        }
        session.service.observer.sessions.disconnected(session.agent, &session.link, Instant::now());
        Ok(())
    }
}

struct Session {
    service: SessionService,
    agent: AgentId,
    session: SessionId,
    link: Arc<SessionConnection>,
    term: u64,
    outgoing: Outgoing,
    reading: Reading,
    completing: FuturesUnordered<BoxFuture<'static, Completed>>,
    /// The sender under which its completions are proposed.
    sender: Sender,
    /// The newest heartbeat that is unanswered because this leader had no recent contact with a majority, and the
    /// instant at or after which it needs contact.
    unanswered: Option<(u64, Instant)>,
    health: SessionHealth,
    description: Description,
    progress: SessionProgress,
}

/// Acknowledgements of completions; `None` if their outcome is unknown (the agent sends them again then).
type Completed = Option<Vec<internal::CompletionAck>>;

impl Session {
    fn new(service: SessionService, opened: Opened, term: u64) -> Self {
        let SessionService { state, observer, proposer, .. } = service.clone();
        let description = Description::new(state.clone(), proposer.clone(), &opened, term);
        let progress = SessionProgress::new(state.clone(), proposer.clone(), opened.agent, term);
        let health = SessionHealth::new(state, observer, proposer, &opened, term);
        let Opened { agent, session, link, has_store, .. } = opened;
        Self {
            sender: service.proposer.sender(),
            service,
            agent,
            session,
            link,
            term,
            outgoing: Outgoing::to(has_store),
            reading: Reading::default(),
            completing: FuturesUnordered::new(),
            unanswered: None,
            health,
            description,
            progress,
        }
    }

    async fn run(&mut self, mut inbound: Streaming<AgentMessage>, sender: &Replies) {
        let term = self.term;
        let standing = self.service.standing.clone();
        let mut raft_role = standing.roles();
        loop {
            let reads = self.completing.len() < MAX_COMPLETING;
            if !reads {
                self.progress.held_up();
            }
            tokio::select! {
                biased;
                () = until_not_leading(&mut raft_role, term) => {
                    let _ = sender.try_send(Ok(message(self.service.redirect())));
                    return;
                }
                permit = sender.reserve(), if !self.outgoing.is_empty() => {
                    let Ok(permit) = permit else { return };
                    // Messages that arrived meanwhile may be more urgent than the rest.
                    self.outgoing.add(self.link.take_now());
                    let now = self.service.clock.estimate().fleet;
                    let told = self.outgoing.next(self.service.state.fleet(), now);
                    self.end_unsent();
                    self.reading.begin(&self.service.state, self.outgoing.take_lacking());
                    let Some(told) = told else { continue };
                    let ended = matches!(told, ToAgent::SessionEnded(_));
                    permit.send(Ok(message(told)));
                    if ended {
                        return;
                    }
                }
                outbox = self.link.take(), if self.outgoing.is_empty() => self.outgoing.add(outbox),
                read = self.reading.done() => self.outgoing.add_results(read),
                () = contact_since(&standing, term, self.unanswered), if self.unanswered.is_some() => {
                    self.unanswered.take().into_iter().for_each(|(seq, _)| self.answer_heartbeat(seq));
                }
                () = self.health.act() => {}
                () = self.description.act() => {}
                // What it judges by may not be read yet.
                () = self.progress.act(), if reads => {}
                Some(completed) = self.completing.next() => match completed {
                    Some(acks) => self.link.put(|outbox| outbox.acks.extend(acks)),
                    // The agent reconnects and sends them again.
                    None => return,
                },
                next = inbound.next(), if reads => match next {
                    Some(Ok(AgentMessage { message: Some(said) })) => {
                        let is_present = self.service.observer.sessions.heard(self.agent, &self.link, Instant::now());
                        // A heartbeat of an agent whose loss is in progress must not extend its lease.
                        let renews_nothing = !is_present && matches!(said, FromAgent::Heartbeat(_));
                        if !renews_nothing && !self.handle(said).await {
                            return;
                        }
                    }
                    Some(Ok(AgentMessage { message: None })) => {}
                    Some(Err(status)) => {
                        debug!(agent = self.agent.0, %status, "session connection broke");
                        return;
                    }
                    None => return,
                },
            }
        }
    }

    /// Asks for the lines of attempts that are followed, of which the agent sends nothing over a new connection.
    fn follow_again(&self) {
        self.service.observer.logs.resume(self.agent, |orders| {
            self.link.put(|outbox| outbox.follows.extend(orders));
        });
    }

    /// Handles a message. Returns whether to continue.
    async fn handle(&mut self, said: FromAgent) -> bool {
        let (agent, session) = (self.agent, self.session);
        match said {
            FromAgent::Hello(_) => return false,
            // The answer to an Opening that crossed with Welcome.
            FromAgent::Waiting(_) => {}
            FromAgent::Heartbeat(heartbeat) => {
                self.service.observer.sessions.sent(agent, &self.link, heartbeat.messages_sent);
                self.answer_heartbeat(heartbeat.seq);
                self.description.look();
            }
            FromAgent::Completions(completions) => self.complete(completions.completions),
            FromAgent::HealthReport(report) => self.health.answered(report),
            FromAgent::AttemptLog(log) => self.service.observer.logs.received(agent, log),
            FromAgent::Progressed(said) => self.progress.heard(said),
            FromAgent::Drain(_) => {
                let draining = Command::Agent(AgentCommand::Draining { agent, session });
                if self.service.proposer.propose_one(draining).await.is_ok() {
                    self.link.put(|outbox| outbox.drained = true);
                }
            }
            FromAgent::Leave(_) => {
                let left = Command::Agent(AgentCommand::Left { agent, session });
                // The agent repeats it if it can't be written; its absence is detected in the end, too.
                let _ = self.service.proposer.propose_one(left).await;
            }
        }
        true
    }

    /// Answers a heartbeat only while this leader is certain to lead: it must have had recent contact with a majority.
    fn answer_heartbeat(&mut self, seq: u64) {
        if self.service.standing.may_renew_leases() || planted(Mistake::HeartbeatWithoutMajority) {
            self.link.put(|outbox| outbox.heartbeat = Some(seq));
        } else {
            // Keep the earlier instant, so that the contact requested for an earlier heartbeat counts.
            let since = self.unanswered.map_or_else(Instant::now, |(_, since)| since);
            self.unanswered = Some((seq, since));
        }
    }

    /// Ends the attempts that were not sent: those that the agent could not begin because it has no object store, those that
    /// nobody could begin because a result is lost, and those that the agent would have to hand back.
    fn end_unsent(&mut self) {
        let unreadable = self.outgoing.take_unreadable().into_iter().map(without_store);
        let lacking = self.outgoing.take_lacking_results().into_iter().map(without_result);
        let handed_back = self.outgoing.take_handed_back().into_iter().map(handed_back);
        let ended: Vec<_> = unreadable.chain(lacking).chain(handed_back).collect();
        if !ended.is_empty() {
            self.complete(ended);
        }
    }

    fn complete(&mut self, completions: Vec<internal::Completion>) {
        let mut results: Vec<Completion> = Vec::with_capacity(completions.len());
        let mut about = Vec::with_capacity(completions.len());
        let mut refused = Vec::new();
        let state = &self.service.state;
        let default_retry = |kind: &str| state.look(|fleet| fleet.default_retry(kind));
        for completion in completions {
            // An invalid id is repeated only as far as needed to recognize it.
            let key = (convert::excerpt(&completion.task_id).to_owned(), completion.attempt);
            match reported(self.agent, self.session, completion, default_retry) {
                Ok(result) => {
                    results.push(result);
                    about.push(key);
                }
                Err(reason) => refused.push(ack(key, Err(reason))),
            }
        }
        if !refused.is_empty() {
            self.link.put(|outbox| outbox.acks.extend(refused));
        }
        without_names(&self.service.state, &mut results);
        without_subtasks(&self.service.state, &mut results);
        without_refs(&self.service.state, &mut results);
        let (proposer, sender, agent) = (self.service.proposer.clone(), self.sender, self.agent);
        let policies = self.service.policies.concern_results().then(|| self.service.policies.clone());
        let (state, subtask_policies) = (self.service.state.clone(), self.service.policies.clone());
        self.completing.push(Box::pin(async move {
            if let Some(policies) = policies {
                policies.check_results(agent, &mut results).await;
            }
            divide(&state, &mut results);
            subtask_policies.check_subtasks(agent, &mut results).await;
            compare(&state, &mut results);
            let encoded = |result| propose::encoded(&Command::Task(TaskCommand::Complete(result)));
            let commands: Vec<Bytes> = results.into_iter().map(encoded).collect();
            let replies = proposer.propose_encoded(Lane::Completions, sender, commands).await.ok()?;
            Some(about.into_iter().zip(replies).map(|(key, reply)| ack(key, verdict(&reply))).collect())
        }));
    }
}

/// Reads the completion of an attempt in this session. `default_retry` returns the retry policy of a kind.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub(crate) fn reported(
    agent: AgentId,
    session: SessionId,
    completion: internal::Completion,
    default_retry: impl Fn(&str) -> RetryPolicy,
) -> Result<Completion, String> {
    use internal::completion::Outcome as Wire;
    let task = convert::task_id(&completion.task_id).map_err(|e| e.to_string())?;
    let outcome = match completion.outcome.ok_or("a completion without outcome")? {
        Wire::Output(output) => Outcome::Succeeded(output),
        Wire::Failure(failure) => Outcome::Failed(convert::failure_from_wire(failure)),
        Wire::Stopped(_) => Outcome::Stopped,
        Wire::HandedBack(_) => Outcome::HandedBack,
        Wire::OutputRef(blob) => {
            Outcome::Stored(convert::blob_ref("output_ref", &blob).map_err(|error| error.to_string())?)
        }
        Wire::Suspended(asked) => {
            convert::suspension(asked, default_retry).map_or_else(refused_subtasks, Outcome::Suspended)
        }
    };
    let outcome = outcome.within_limits();
    Ok(Completion { agent, session, task, attempt: completion.attempt, ran_us: completion.ran_us, outcome })
}

/// Returns the end of an attempt that asked for subtasks that can't be.
fn refused_subtasks(problem: String) -> Outcome {
    Outcome::Failed(Failure::of(FailureKind::Subtask, problem))
}

/// Waits until a majority confirms this leader at or after the arrival of the first heartbeat that could not be
/// answered.
async fn contact_since(standing: &Standing, term: u64, unanswered: Option<(u64, Instant)>) {
    if let Some((_, since)) = unanswered {
        standing.contact().since(term, since).await;
    }
}

fn verdict(reply: &Reply) -> Result<(), String> {
    match reply {
        // `Done` is the reply to the end of an attempt that had been asked to stop.
        Reply::Completed | Reply::Done => Ok(()),
        Reply::Stale(reason) => Err(match reason {
            StaleReason::UnknownTask => "the task is not known (any more)",
            StaleReason::Finished => "the task is already finished",
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

fn ack((task_id, attempt): (String, u32), verdict: Result<(), String>) -> internal::CompletionAck {
    let accepted = verdict.is_ok();
    internal::CompletionAck { task_id, attempt, accepted, reason: verdict.err().unwrap_or_default() }
}
