//! How members reach each other.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use robeing_bft::{epoch::ReplicaId, message::Message, replica::To};
use robeing_groups::{
    Group,
    exchange::{CLIENT_KIND, PEER_KIND, to_peer},
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::limits::{ASK_WITHIN, MAX_OUTBOX, SEND_WITHIN};
use crate::messaging::{Address, Messenger, Outgoing, Priority, packet::MAX_PAYLOAD};

/// The priority of what members send each other: the highest.
const PRIORITY: u32 = 10;

/// Sends messages to other members.
#[async_trait]
pub trait Post: Send + Sync + 'static {
    /// Sends a message of the type [`PEER_KIND`]. It may get lost.
    async fn send(&self, to: &str, payload: Bytes);

    /// Sends a message of the type [`CLIENT_KIND`], and returns the reply.
    ///
    /// # Errors
    /// Why there is none, as a sentence.
    async fn ask(&self, to: &str, payload: Bytes) -> Result<Bytes, String>;
}

#[async_trait]
impl Post for Messenger {
    async fn send(&self, to: &str, payload: Bytes) {
        let message = Outgoing {
            requires_ack: false,
            deadline: SEND_WITHIN,
            priority: Priority::new(PRIORITY).unwrap_or_default(),
            ..Outgoing::new(Address::Agent(to.into()), PEER_KIND, payload)
        };
        let outcome = Self::send(self, message).await;
        debug!(to, outcome = outcome.name(), "a message to another member of a group");
    }

    async fn ask(&self, to: &str, payload: Bytes) -> Result<Bytes, String> {
        let message =
            Outgoing { deadline: ASK_WITHIN, ..Outgoing::new(Address::Agent(to.into()), CLIENT_KIND, payload) };
        match Self::ask(self, message).await {
            Ok(reply) => Ok(reply.payload),
            Err(_) => Err(format!("{to} has not replied")),
        }
    }
}

/// The other members of a group, each with a queue of its own: one that is slow or away holds up no other.
pub struct Peers {
    group: String,
    queues: Vec<Option<mpsc::Sender<Bytes>>>,
    _sending: Vec<AbortOnDropHandle<()>>,
}

impl Peers {
    /// Begins to send to the members of a group other than `me`.
    pub fn start(group: &Group, me: &str, post: &Arc<dyn Post>) -> Self {
        let (mut queues, mut sending) = (Vec::new(), Vec::new());
        for name in group.names() {
            if name == me {
                queues.push(None);
                continue;
            }
            let (queue, messages) = mpsc::channel(MAX_OUTBOX);
            queues.push(Some(queue));
            let task = send_all(name.to_owned(), messages, Arc::clone(post));
            sending.push(AbortOnDropHandle::new(tokio::spawn(task)));
        }
        Self { group: group.name().to_owned(), queues, _sending: sending }
    }

    /// Sends a message, unless too much waits for its receiver.
    pub fn send(&self, to: To, message: &Message) {
        let payload = to_peer(&self.group, &message.encode());
        if payload.len() > MAX_PAYLOAD {
            warn!(group = self.group, bytes = payload.len(), "a message to other members is too large to be sent");
            return;
        }
        let chosen = match to {
            To::All => &self.queues[..],
            To::One(ReplicaId(index)) => {
                self.queues.get(usize::from(index)).map(std::slice::from_ref).unwrap_or_default()
            }
        };
        for queue in chosen.iter().flatten() {
            // The protocol sends again what gets lost.
            let _ = queue.try_send(payload.clone());
        }
    }
}

async fn send_all(to: String, mut messages: mpsc::Receiver<Bytes>, post: Arc<dyn Post>) {
    while let Some(payload) = messages.recv().await {
        post.send(&to, payload).await;
    }
}
