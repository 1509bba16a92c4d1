//! What takes the letters of a mailbox.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use robeing_proto::{
    budget::MESSAGE_BUDGET_BYTES,
    v1::{InboxMessage, ReadInboxRequest, ReadInboxResponse},
};
use tokio::time::Instant;

use crate::messaging::{Messenger, Outcome, Packet, handlers::InboxHandler};

/// Maximum number of messages on a page of the inbox.
pub const MAX_PAGE: u32 = 1_000;
/// Longest time that a reader of the inbox waits for a message.
pub const MAX_READ_WAIT: Duration = Duration::from_secs(60);

/// Takes the letters of a mailbox, and shows the inbox.
#[async_trait]
pub trait LetterPort: Send + Sync + 'static {
    /// Handles a letter. `Accepted` and `Refused` are answers; after any other outcome it may be delivered again.
    async fn deliver(&self, letter: Packet) -> Outcome;

    /// Returns a page of the inbox.
    ///
    /// # Errors
    /// Why there is none, as a sentence.
    async fn read_inbox(&self, request: ReadInboxRequest) -> Result<ReadInboxResponse, String>;
}

/// Gives letters to the agent's messenger.
pub struct MessengerPort {
    messenger: Messenger,
    /// The built-in inbox; `None` if the agent's messages go to another handler, which has this name.
    inbox: Result<Arc<InboxHandler>, &'static str>,
}

impl MessengerPort {
    /// Creates a port whose messages are kept in this inbox, or go to a handler of this name.
    pub fn new(messenger: Messenger, inbox: Result<Arc<InboxHandler>, &'static str>) -> Self {
        Self { messenger, inbox }
    }
}

#[async_trait]
impl LetterPort for MessengerPort {
    async fn deliver(&self, letter: Packet) -> Outcome {
        self.messenger.deliver_letter(letter).await
    }

    async fn read_inbox(&self, request: ReadInboxRequest) -> Result<ReadInboxResponse, String> {
        let inbox = self.inbox.as_ref().map_err(|handler| {
            format!("its messages go to the handler {handler} of the agent, and not to the built-in inbox")
        })?;
        let wait = request.wait.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or_default();
        let deadline = Instant::now() + wait.min(MAX_READ_WAIT);
        let limit = request.limit.clamp(1, MAX_PAGE) as usize;
        let (page, left) = inbox.page(limit, MESSAGE_BUDGET_BYTES as u64, request.peek, deadline).await;
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        Ok(ReadInboxResponse { messages: page.iter().map(inbox_message).collect(), left })
    }
}

fn inbox_message(packet: &Packet) -> InboxMessage {
    let sent_at = prost_types::Timestamp {
        seconds: i64::try_from(packet.timestamp_ms / 1_000).unwrap_or(i64::MAX),
        nanos: (packet.timestamp_ms % 1_000) as i32 * 1_000_000,
    };
    InboxMessage {
        id: packet.id.to_string(),
        sender: packet.sender.to_string(),
        receiver: packet.receiver.to_string(),
        r#type: packet.kind.to_string(),
        payload: packet.payload.clone(),
        priority: packet.priority.get(),
        sent_at: Some(sent_at),
        reply_to: packet.reply_to.map(|id| id.to_string()).unwrap_or_default(),
    }
}
