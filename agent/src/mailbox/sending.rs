//! Sends durable messages, which wait in the fleet's log for a receiver that is away.

use std::time::Duration;

use robeing_net::limited;
use robeing_platform::{Platform, jittered, uuid_v7};
use robeing_proto::v1::{MessageStatus, SendMessageRequest, messages_client::MessagesClient};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Code, Status};

use crate::{
    messaging::{Outgoing, PacketId, driver::SentCount, packet::RELAY_TYPE},
    upstream::SharedUpstream,
};

/// How long it is tried to hand a durable message to the coordinators.
pub const SEND_WITHIN: Duration = Duration::from_secs(30);
/// How long one coordinator may take.
const TRY_WITHIN: Duration = Duration::from_secs(12);
/// Pause before the message is given to another coordinator.
const PAUSE: Duration = Duration::from_millis(200);

/// Why a durable message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The coordinators refuse it.
    #[error("the coordinators refuse the message: {0}")]
    Refused(String),
    /// No coordinator has confirmed it in time. It may be kept nevertheless; sent again with its id, it is handled once.
    #[error(
        "no coordinator has confirmed the message {id} within {SEND_WITHIN:?} ({problem}); send it again with its id"
    )]
    Unconfirmed {
        /// The id of the message.
        id: PacketId,
        /// The last problem.
        problem: String,
    },
}

/// Sends durable messages through the coordinators. Cheap to clone.
#[derive(Clone)]
pub struct DurableSender {
    upstream: SharedUpstream,
    platform: Platform,
    sent: SentCount,
}

impl DurableSender {
    /// Creates a sender.
    pub fn new(upstream: SharedUpstream, platform: Platform) -> Self {
        Self { upstream, platform, sent: SentCount::default() }
    }

    /// Counts what is sent here, but replies.
    #[must_use]
    pub fn counted_by(self, sent: SentCount) -> Self {
        Self { sent, ..self }
    }

    /// Returns whether a message arrives under this agent's name, which a sealed one is for.
    pub fn keeps_name(&self) -> bool {
        self.upstream.proves_name()
    }

    /// Sends a durable message, which waits for its receiver for at most `ttl`. Returns once a majority of the
    /// coordinators has it, or what has become of it if it was sent before. The message's own deadline,
    /// `requires_ack` and `reply_to` do not count.
    ///
    /// # Errors
    /// [`NotSent`] if it is refused, or not confirmed in time.
    pub async fn send_durable(&self, message: Outgoing, ttl: Duration) -> Result<MessageStatus, NotSent> {
        let mut outcomes = self.send(message, ttl, false).await?;
        outcomes.pop().ok_or_else(|| NotSent::Refused("they returned no outcome".to_owned()))
    }

    /// Sends a durable message to all agents that its address stands for but this one. Returns what became of each.
    ///
    /// # Errors
    /// [`NotSent`] if it is refused, or not confirmed in time.
    pub async fn broadcast_durable(&self, message: Outgoing, ttl: Duration) -> Result<Vec<MessageStatus>, NotSent> {
        self.send(message, ttl, true).await
    }

    async fn send(&self, message: Outgoing, ttl: Duration, broadcast: bool) -> Result<Vec<MessageStatus>, NotSent> {
        if message.kind == RELAY_TYPE {
            return Err(NotSent::Refused("the type is reserved for messengers".to_owned()));
        }
        let fresh = || PacketId(uuid_v7(&*self.platform.clock, &*self.platform.random));
        let id = message.id.unwrap_or_else(fresh);
        let is_reply = message.reply_to.is_some();
        let request = SendMessageRequest {
            id: id.to_string(),
            to: message.to.to_string(),
            r#type: message.kind,
            payload: message.payload,
            priority: message.priority.get(),
            deadline: Some(prost_types::Duration {
                seconds: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
                nanos: ttl.subsec_nanos() as i32,
            }),
            durable: true,
            broadcast,
            key_id: message.key_id.unwrap_or_default(),
            ..SendMessageRequest::default()
        };
        let until = Instant::now() + SEND_WITHIN;
        let mut problem = "no coordinator has a usable address".to_owned();
        // Whether a coordinator may have it nevertheless, so that no later refusal for lack of room is the last word.
        let mut may_be_kept = false;
        while Instant::now() < until {
            match self.try_one(&request, until).await {
                Ok(outcomes) => {
                    if !is_reply {
                        self.sent.add();
                    }
                    return Ok(outcomes);
                }
                Err(status) if may_be_repeated(&status) => {
                    (problem, may_be_kept) = (status.message().to_owned(), true);
                }
                Err(status) if may_be_kept && status.code() == Code::ResourceExhausted => {
                    problem = status.message().to_owned();
                }
                Err(status) => return Err(NotSent::Refused(status.message().to_owned())),
            }
            sleep_until((Instant::now() + jittered(&*self.platform.random, PAUSE)).min(until)).await;
        }
        Err(NotSent::Unconfirmed { id, problem })
    }

    async fn try_one(&self, request: &SendMessageRequest, until: Instant) -> Result<Vec<MessageStatus>, Status> {
        let unusable = || Status::unavailable("no coordinator has a usable address");
        let (generation, channel) = self.upstream.channel().ok_or_else(unusable)?;
        let mut client = limited!(MessagesClient::new(channel));
        let until = until.min(Instant::now() + TRY_WITHIN);
        let answered = timeout_at(until, client.send_message(request.clone())).await;
        let answered = answered.unwrap_or_else(|_| Err(Status::unavailable("a coordinator did not answer in time")));
        if answered.as_ref().is_err_and(may_be_repeated) {
            self.upstream.failed(generation);
        }
        answered.map(|response| response.into_inner().outcomes)
    }
}

fn may_be_repeated(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => true,
        // The coordinator is older than this agent; another one may not be.
        Code::Unimplemented => true,
        _ => false,
    }
}
