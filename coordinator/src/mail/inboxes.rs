//! Reads the inbox of an agent through its mailbox, at whichever coordinator that is open.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use robeing_net::limited;
use robeing_proto::{
    internal::v1::mailbox_client::MailboxClient,
    v1::{self, ReadInboxRequest, ReadInboxResponse},
};
use tokio::{sync::oneshot, time::timeout};
use tonic::{Code, Request};

use super::{
    MailError,
    mailboxes::{InboxCall, MAX_INBOX_CALLS},
};
use crate::{
    api::convert, apply::observer::ApplyObserver, member::Member, members::Members, peers::Peers, read::StateReader,
};

/// Maximum number of messages that one call reads.
pub const MAX_READ: u32 = 1_000;
/// Number of messages that a call reads that names none.
pub const DEFAULT_READ: u32 = 100;
/// Longest time that a call waits for a message, ms: one minute.
pub const MAX_READ_WAIT_MS: u64 = 60_000;
/// How long an agent may take to answer, besides the time for which the call waits.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long another coordinator may take to answer, besides that.
const PEER_GRACE: Duration = Duration::from_secs(2);

/// Reads inboxes. Cheap to clone.
#[derive(Clone)]
pub struct Inboxes {
    pub member: Member,
    pub members: Members,
    pub state: StateReader,
    pub observer: Arc<ApplyObserver>,
    pub peers: Arc<Peers>,
}

/// Checks a request. Returns how long the call waits for a message.
///
/// # Errors
/// The first invalid field.
fn check(request: &mut ReadInboxRequest) -> Result<Duration, MailError> {
    let wait = convert::millis("wait", request.wait)?.unwrap_or(0);
    if wait > MAX_READ_WAIT_MS {
        let [wait, most] = [wait, MAX_READ_WAIT_MS].map(|ms| convert::span_text(Duration::from_millis(ms)));
        let problem = format!("it is {wait}, the most is {most}");
        return Err(convert::bad("wait", problem).into());
    }
    if request.limit > MAX_READ {
        return Err(convert::bad("limit", format!("it is {}, the most is {MAX_READ}", request.limit)).into());
    }
    if request.limit == 0 {
        request.limit = DEFAULT_READ;
    }
    Ok(Duration::from_millis(wait))
}

impl Inboxes {
    /// Reads the inbox of an agent.
    ///
    /// # Errors
    /// [`MailError`] if there is no such agent, or its inbox can't be read now.
    pub async fn read(&self, mut request: ReadInboxRequest) -> Result<ReadInboxResponse, MailError> {
        let wait = check(&mut request)?;
        self.check_known(&request.agent).await?;
        match self.read_here(request.clone()).await {
            // The mailbox may just have been opened elsewhere.
            Err(MailError::NoMailbox(_) | MailError::InboxLate(_)) => self.read_elsewhere(request, wait).await,
            answer => answer,
        }
    }

    /// Reads the inbox of an agent whose mailbox is open here.
    ///
    /// # Errors
    /// [`MailError::NoMailbox`] if it is not, or another one if the inbox can't be read.
    pub async fn read_here(&self, mut request: ReadInboxRequest) -> Result<ReadInboxResponse, MailError> {
        let within = check(&mut request)? + ANSWER_WITHIN;
        let agent = request.agent.clone();
        let none = || MailError::NoMailbox(agent.clone());
        let mailbox = self.observer.mailboxes.get(&agent).ok_or_else(none)?;
        let (answer, answered) = oneshot::channel();
        mailbox
            .calls
            .try_send(InboxCall { request, answer })
            .map_err(|_| MailError::InboxBusy { agent: agent.clone(), most: MAX_INBOX_CALLS })?;
        match timeout(within, answered).await {
            Ok(Ok(Ok(page))) => Ok(page),
            Ok(Ok(Err(reason))) => Err(MailError::InboxRefused { agent, reason }),
            Ok(Err(_)) => Err(none()),
            Err(_) => Err(MailError::InboxLate(agent)),
        }
    }

    async fn check_known(&self, agent: &str) -> Result<(), MailError> {
        let is_known = || {
            self.state.look(|fleet| fleet.agent_by_name(agent).is_some() || fleet.enrolment_of(agent).is_some())
                || self.observer.mailboxes.get(agent).is_some()
        };
        if is_known() {
            return Ok(());
        }
        let ready = self.state.ready_to_read(v1::Consistency::Linearizable.into()).await;
        ready.map_err(|status| MailError::NotReadable(status.message().to_owned()))?;
        if is_known() { Ok(()) } else { Err(MailError::UnknownAgent(convert::excerpt(agent).to_owned())) }
    }

    /// Asks all other coordinators at once. At most one has the mailbox.
    async fn read_elsewhere(&self, request: ReadInboxRequest, wait: Duration) -> Result<ReadInboxResponse, MailError> {
        let within = wait + ANSWER_WITHIN + PEER_GRACE;
        let others = self.members.all().into_iter().filter(|(id, _, _)| *id != self.member.id());
        let mut asked: FuturesUnordered<_> = others
            .filter_map(|(_, peer, _)| self.peers.channel(&peer.address))
            .map(|channel| {
                let request = Request::new(request.clone());
                async move { timeout(within, limited!(MailboxClient::new(channel)).read_inbox_here(request)).await }
            })
            .collect();
        let mut problem = MailError::NoMailbox(request.agent.clone());
        while let Some(answered) = asked.next().await {
            match answered {
                Ok(Ok(page)) => return Ok(page.into_inner()),
                Ok(Err(status)) => match status.code() {
                    Code::FailedPrecondition => {
                        let (agent, reason) = (request.agent.clone(), status.message().to_owned());
                        return Err(MailError::InboxRefused { agent, reason });
                    }
                    Code::ResourceExhausted => {
                        problem = MailError::InboxBusy { agent: request.agent.clone(), most: MAX_INBOX_CALLS };
                    }
                    Code::DeadlineExceeded => problem = MailError::InboxLate(request.agent.clone()),
                    _ => {}
                },
                // That coordinator is down: the mailbox is open elsewhere soon.
                Err(_) => {}
            }
        }
        Err(problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_reads_so_many_messages_and_waits_so_long() {
        let request = |limit: u32, millis: u64| ReadInboxRequest {
            limit,
            wait: Some(prost_types::Duration {
                seconds: (millis / 1000) as i64,
                nanos: (millis % 1000) as i32 * 1_000_000,
            }),
            ..ReadInboxRequest::default()
        };
        let mut fits = request(MAX_READ, MAX_READ_WAIT_MS);
        assert_eq!(check(&mut fits), Ok(Duration::from_millis(MAX_READ_WAIT_MS)));
        let mut default = ReadInboxRequest::default();
        assert_eq!((check(&mut default), default.limit), (Ok(Duration::ZERO), DEFAULT_READ));
        assert!(check(&mut request(MAX_READ + 1, 0)).is_err());
        assert!(check(&mut request(1, MAX_READ_WAIT_MS + 1)).is_err());
    }
}
