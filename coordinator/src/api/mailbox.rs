//! The coordinators' side of agents' mailboxes, one task per stream. Any coordinator serves it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered},
};
use robeing_fleet::{Command, LetterId, MailCommand, Stamp};
use robeing_net::{ConnectInfo, gate::Caller, security::PeerIdentity};
use robeing_proto::{
    internal::v1::{
        self as internal, FromMailbox, InboxPage, InboxQuery, LetterAnswer, Letters, ToMailbox,
        from_mailbox::Message as FromAgent, to_mailbox::Message as ToAgent,
    },
    v1::{self, ReadInboxRequest, ReadInboxResponse},
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    api::convert,
    apply::observer::ApplyObserver,
    clock::FleetClock,
    identity::{enrolled, refusals::Refusals},
    lifetime::{Leaving, Lifetime},
    mail::{
        MailError,
        inboxes::Inboxes,
        mailboxes::{Attended, InboxAnswer, InboxCall, MAX_INBOX_CALLS, MAX_MAILBOXES},
        window::Window,
    },
    member::Member,
    propose::{self, Lane, ProposeError, Proposer, Sender},
    read::StateReader,
};

/// The method, as refusals are counted.
const METHOD: &str = "robeing.internal.v1.Mailbox/Attend";
/// Messages in flight to one agent.
const SEND_BUFFER: usize = 2;
/// How long a new stream has to send its first message.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// Groups of answers of one agent that are being written; at this limit nothing more is read from the agent.
const MAX_SETTLING: usize = 16;
/// Bytes of answers of one agent that are being written; at this limit nothing more is read from the agent.
const MAX_SETTLING_BYTES: usize = 4 * 1024 * 1024;

/// The Mailbox service. Cheap to clone.
#[derive(Clone)]
pub struct MailboxService {
    pub member: Member,
    pub state: StateReader,
    pub proposer: Proposer,
    pub observer: Arc<ApplyObserver>,
    pub clock: FleetClock,
    pub inboxes: Inboxes,
    pub leaving: Leaving,
    pub refusals: Refusals,
    pub lifetime: Lifetime,
}

type Replies = mpsc::Sender<Result<ToMailbox, Status>>;

#[tonic::async_trait]
impl internal::mailbox_server::Mailbox for MailboxService {
    type AttendStream = BoxStream<'static, Result<ToMailbox, Status>>;

    async fn attend(&self, request: Request<Streaming<FromMailbox>>) -> Result<Response<Self::AttendStream>, Status> {
        let (sender, receiver) = mpsc::channel(SEND_BUFFER);
        let service = self.clone();
        let caller = Caller::of(request.extensions());
        let peer = request.extensions().get::<ConnectInfo>().and_then(|connection| connection.peer);
        let inbound = request.into_inner();
        self.lifetime.tasks().spawn(async move {
            let (leaving, state, refusals) = (service.leaving.clone(), service.state.clone(), service.refusals.clone());
            let ended = tokio::select! {
                () = leaving.begins() => Err(Status::unavailable("this coordinator is leaving; use another")),
                () = state.until_out_of_touch() => {
                    Err(Status::unavailable("this coordinator has no contact to the others; use another"))
                }
                () = sender.closed() => return,
                served = service.serve(&caller, inbound, &sender) => served,
            };
            if let Err(status) = ended {
                refusals.count_ended(METHOD, &status, peer, &caller);
                // No one receives the status if the agent left first, or does not read.
                let _ = sender.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn read_inbox_here(&self, request: Request<ReadInboxRequest>) -> Result<Response<ReadInboxResponse>, Status> {
        match self.inboxes.read_here(request.into_inner()).await {
            Ok(page) => Ok(Response::new(page)),
            Err(MailError::NoMailbox(agent)) => {
                Err(Status::not_found(format!("the mailbox of {agent} is not open at this coordinator")))
            }
            // The coordinator that asks writes the sentence.
            Err(MailError::InboxRefused { reason, .. }) => Err(Status::failed_precondition(reason)),
            Err(error) => Err(error.into()),
        }
    }
}

impl MailboxService {
    async fn serve(self, caller: &Caller, mut inbound: Streaming<FromMailbox>, sender: &Replies) -> Result<(), Status> {
        let first = tokio::time::timeout(OPEN_WITHIN, inbound.next()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("the mailbox was not named in time"))?;
        let open = match first.transpose()?.and_then(|first| first.message) {
            Some(FromAgent::Open(open)) => open,
            _ => return Err(Status::invalid_argument("the first message of a mailbox must name it")),
        };
        let peer = self.check(caller, &open).await?;
        let attended = self.observer.mailboxes.open(&open.agent).ok_or_else(|| {
            Status::resource_exhausted(format!(
                "{MAX_MAILBOXES} mailboxes are open here, the most; use another coordinator"
            ))
        })?;
        Attending::new(self, attended, peer).run(inbound, sender).await
    }

    /// Refuses a mailbox that is not of the agent whose certificate the connection has. Returns that agent, if it has one.
    async fn check(&self, caller: &Caller, open: &internal::MailboxOpen) -> Result<Option<Arc<PeerIdentity>>, Status> {
        let agent = convert::excerpt(&open.agent);
        if open.cluster_id != self.member.cluster_id() {
            return Err(Status::permission_denied(format!(
                "this is cluster {:?}; the agent is configured for {:?}",
                self.member.cluster_id(),
                convert::excerpt(&open.cluster_id)
            )));
        }
        convert::agent_name(&open.agent)?;
        let Caller::Member(peer) = caller else { return Ok(None) };
        if peer.id.name() != open.agent {
            return Err(Status::permission_denied(format!(
                "the certificate is of {}/{}, and the mailbox would be of {agent:?}",
                peer.id.role(),
                peer.id.name()
            )));
        }
        enrolled::check(&self.state, peer).await?;
        Ok(Some(Arc::clone(peer)))
    }
}

type Settling = BoxFuture<'static, (usize, Result<(), ProposeError>)>;
type CatchingUp = BoxFuture<'static, Result<(), Status>>;

/// A mailbox that is being served.
struct Attending {
    service: MailboxService,
    attended: Attended,
    /// Whose certificate the connection has, if it has one.
    peer: Option<Arc<PeerIdentity>>,
    /// The fleet's time when the mailbox was opened, or a little later. Letters that were posted earlier may have been
    /// sent before. `None`: it is not known here yet, because this coordinator may be behind; so may any letter.
    opened: Option<Stamp>,
    /// Waits until everything that was accepted before the mailbox was opened is applied here.
    catching_up: CatchingUp,
    window: Window,
    /// The state may have letters to be sent.
    has_letters: bool,
    settling: FuturesUnordered<Settling>,
    settling_bytes: usize,
    /// The sender under which answers are proposed.
    sender: Sender,
    /// A query to be sent.
    query: Option<InboxQuery>,
    /// The calls that wait for a page, by the number of the query.
    asked: BTreeMap<u64, oneshot::Sender<InboxAnswer>>,
    asked_last: u64,
}

impl Attending {
    fn new(service: MailboxService, attended: Attended, peer: Option<Arc<PeerIdentity>>) -> Self {
        Self {
            opened: None,
            catching_up: catch_up(&service.state),
            sender: service.proposer.sender(),
            service,
            attended,
            peer,
            window: Window::default(),
            has_letters: true,
            settling: FuturesUnordered::new(),
            settling_bytes: 0,
            query: None,
            asked: BTreeMap::new(),
            asked_last: 0,
        }
    }

    async fn run(&mut self, mut inbound: Streaming<FromMailbox>, sender: &Replies) -> Result<(), Status> {
        let mailbox = Arc::clone(&self.attended.mailbox);
        self.check_its_own()?;
        loop {
            tokio::select! {
                () = mailbox.replaced.cancelled() => {
                    return Err(Status::aborted(format!("the agent {} has opened its mailbox anew", mailbox.agent)));
                }
                () = mailbox.news.notified() => {
                    self.check_its_own()?;
                    self.has_letters = true;
                }
                caught_up = &mut self.catching_up, if self.opened.is_none() => match caught_up {
                    Ok(()) => self.opened = Some(self.service.state.look(|fleet| fleet.now())),
                    // Nobody leads now.
                    Err(_) => self.catching_up = catch_up(&self.service.state),
                },
                Some((bytes, settled)) = self.settling.next() => {
                    self.settling_bytes -= bytes;
                    // The agent opens its mailbox again, and gets the letters again.
                    settled?;
                }
                Some(call) = self.attended.calls.recv(), if self.query.is_none() => self.ask(call),
                permit = sender.reserve(), if self.query.is_some() || self.has_letters => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(message) = self.next() {
                        permit.send(Ok(ToMailbox { message: Some(message) }));
                    }
                }
                next = inbound.next(), if self.may_read() => match next {
                    Some(said) => self.handle(said?)?,
                    None => return Ok(()),
                },
            }
        }
    }

    fn may_read(&self) -> bool {
        self.settling.len() < MAX_SETTLING && self.settling_bytes < MAX_SETTLING_BYTES
    }

    /// Refuses an agent that was barred since its mailbox was opened, or whose name is that of another process by now: that
    /// may have opened the mailbox at another coordinator, and gets every letter, too.
    fn check_its_own(&self) -> Result<(), Status> {
        self.check_not_barred()?;
        match &self.peer {
            Some(peer) => enrolled::applied(&self.service.state, peer).map(drop),
            None => Ok(()),
        }
    }

    fn check_not_barred(&self) -> Result<(), Status> {
        let agent = &self.attended.mailbox.agent;
        match self.service.state.look(|fleet| fleet.bar_of(agent).cloned()) {
            None => Ok(()),
            Some(bar) => {
                Err(Status::permission_denied(format!("the agent {agent} was {}: {}", bar.kind.past(), bar.reason)))
            }
        }
    }

    /// Prepares the query of a call. Calls whose callers are gone make room.
    fn ask(&mut self, InboxCall { request, answer }: InboxCall) {
        self.asked.retain(|_, waiting| !waiting.is_closed());
        if self.asked.len() >= MAX_INBOX_CALLS {
            let _ =
                answer.send(Err(format!("{MAX_INBOX_CALLS} calls read the inbox already, the most; try again later")));
            return;
        }
        self.asked_last += 1;
        self.asked.insert(self.asked_last, answer);
        self.query = Some(InboxQuery { seq: self.asked_last, request: Some(request) });
    }

    /// Returns the next message to the agent.
    fn next(&mut self) -> Option<ToAgent> {
        if let Some(query) = self.query.take() {
            return Some(ToAgent::InboxQuery(query));
        }
        let agent = &self.attended.mailbox.agent;
        let letters = self.service.state.look(|fleet| self.window.next(fleet, agent));
        if letters.is_empty() {
            self.has_letters = false;
            return None;
        }
        let now = self.service.clock.estimate().fleet;
        let wire = |letter: &Arc<robeing_fleet::Letter>| {
            let resent = may_be_known(letter.posted, self.opened);
            convert::letter_message(letter, letter.expires.saturating_sub(now).max(1), resent)
        };
        Some(ToAgent::Letters(Letters { letters: letters.iter().map(wire).collect() }))
    }

    fn handle(&mut self, said: FromMailbox) -> Result<(), Status> {
        match said.message {
            Some(FromAgent::Open(_)) => Err(Status::invalid_argument("the mailbox is open already")),
            Some(FromAgent::Answers(answers)) => self.settle(answers.answers),
            Some(FromAgent::InboxPage(InboxPage { seq, page, refused })) => {
                if let Some(waiting) = self.asked.remove(&seq) {
                    let answer = if refused.is_empty() { Ok(page.unwrap_or_default()) } else { Err(refused) };
                    // The caller may be gone.
                    let _ = waiting.send(answer);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Writes the agent's answers to letters that wait for it. Others are ignored: a letter that is not known here yet
    /// is sent again.
    fn settle(&mut self, answers: Vec<LetterAnswer>) -> Result<(), Status> {
        let agent = Arc::clone(&self.attended.mailbox.agent);
        let read: Option<Vec<(LetterId, robeing_fleet::LetterAnswer)>> =
            answers.into_iter().map(convert::settle_answer).collect();
        let mut answers =
            read.ok_or_else(|| Status::invalid_argument("an answer names no letter: its id must have 16 bytes"))?;
        self.service.state.look(|fleet| {
            let waits = |id| fleet.letter(id).is_some_and(|letter| letter.is_waiting() && letter.receiver == agent);
            answers.retain(|(id, _)| waits(*id));
        });
        if answers.is_empty() {
            return Ok(());
        }
        let command = |(id, answer)| {
            propose::encoded(&Command::Mail(MailCommand::Settle { id, receiver: agent.to_string(), answer }))
        };
        let commands: Vec<_> = answers.into_iter().map(command).collect();
        let bytes = commands.iter().map(|command| command.len()).sum();
        self.settling_bytes += bytes;
        let (proposer, sender) = (self.service.proposer.clone(), self.sender);
        self.settling.push(Box::pin(async move {
            (bytes, proposer.propose_encoded(Lane::Completions, sender, commands).await.map(drop))
        }));
        Ok(())
    }
}

/// Returns whether a letter may have been sent to the agent before its mailbox was opened.
fn may_be_known(posted: Stamp, opened: Option<Stamp>) -> bool {
    opened.is_none_or(|opened| posted.fleet <= opened.fleet)
}

fn catch_up(state: &StateReader) -> CatchingUp {
    let state = state.clone();
    Box::pin(async move { state.ready_to_read(v1::Consistency::Linearizable.into()).await })
}

/// Returns whether a mailbox ended because the agent has opened another one.
#[cfg(test)]
pub fn is_replaced(status: &Status) -> bool {
    status.code() == tonic::Code::Aborted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_may_be_known_until_the_time_of_opening_is() {
        assert!(may_be_known(Stamp::at(5), None), "another coordinator may have sent it");
        assert!(may_be_known(Stamp::at(5), Some(Stamp::at(5))));
        assert!(!may_be_known(Stamp::at(6), Some(Stamp::at(5))));
    }
}
