//! How members reach each other.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use robeing_bft::{epoch::ReplicaId, message::Message, replica::To};
use robeing_groups::{
    Group,
    exchange::{CLIENT_KIND, PEER_KIND, to_peer},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::limits::{ASK_WITHIN, MAX_OUTBOX, MAX_OUTBOX_BYTES, SEND_WITHIN};
use crate::messaging::{Address, Messenger, Outgoing, Priority, packet::MAX_PAYLOAD};

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
            priority: Priority::HIGHEST,
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

/// What waits to be sent to one other member.
struct Queue {
    messages: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
    bytes: Arc<Semaphore>,
}

impl Queue {
    fn new() -> (Self, mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>) {
        let (messages, waiting) = mpsc::channel(MAX_OUTBOX);
        (Self { messages, bytes: Arc::new(Semaphore::new(MAX_OUTBOX_BYTES)) }, waiting)
    }

    fn has_room(&self) -> bool {
        self.messages.capacity() > 0 && self.bytes.available_permits() > 0
    }

    /// Adds a message. Returns whether there was room for it.
    fn push(&self, payload: Bytes) -> bool {
        let Ok(size) = u32::try_from(payload.len()) else { return false };
        let Ok(room) = Arc::clone(&self.bytes).try_acquire_many_owned(size) else { return false };
        self.messages.try_send((payload, room)).is_ok()
    }
}

/// The other members of a group, each with a queue of its own: one that is slow or away holds up no other.
pub struct Peers {
    group: String,
    queues: Vec<Option<Queue>>,
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
            let (queue, messages) = Queue::new();
            queues.push(Some(queue));
            let task = send_all(name.to_owned(), messages, Arc::clone(post));
            sending.push(AbortOnDropHandle::new(tokio::spawn(task)));
        }
        Self { group: group.name().to_owned(), queues, _sending: sending }
    }

    /// Sends a message, unless too much waits for its receiver.
    pub fn send(&self, to: To, message: &Message) {
        let chosen = match to {
            To::All => &self.queues[..],
            To::One(ReplicaId(index)) => {
                self.queues.get(usize::from(index)).map(std::slice::from_ref).unwrap_or_default()
            }
        };
        // A member that asks for much and takes none of it causes no work.
        if !chosen.iter().flatten().any(Queue::has_room) {
            return;
        }
        let payload = to_peer(&self.group, &message.encode());
        if payload.len() > MAX_PAYLOAD {
            warn!(group = self.group, bytes = payload.len(), "a message to other members is too large to be sent");
            return;
        }
        for queue in chosen.iter().flatten() {
            // The protocol sends again what gets lost.
            queue.push(payload.clone());
        }
    }
}

async fn send_all(to: String, mut messages: mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>, post: Arc<dyn Post>) {
    while let Some((payload, room)) = messages.recv().await {
        post.send(&to, payload).await;
        drop(room);
    }
}

#[cfg(test)]
mod tests {
    use robeing_bft::{
        certificate::{Checkpoint, Endorsement, Kind, Prepared, Proposal, Seq, Stable, View},
        crypto::{Digest, Signature},
        epoch::Parameters,
        limits::MAX_BATCH_BYTES,
        message::{NewView, Reproposal, ViewChange},
        quorum::Quorums,
    };
    use robeing_groups::{MAX_GROUP_MEMBERS, MAX_GROUP_NAME};

    use super::*;

    const SIGNATURE: Signature = Signature([7; 64]);

    fn endorsements(count: usize) -> Vec<Endorsement> {
        let replicas = (0..u16::MAX).map(ReplicaId).take(count);
        replicas.map(|replica| Endorsement { replica, signature: SIGNATURE }).collect()
    }

    #[tokio::test]
    async fn a_member_that_takes_nothing_fills_only_so_much_memory() {
        let (queue, mut waiting) = Queue::new();
        let largest = Bytes::from(vec![0; MAX_PAYLOAD]);
        for number in 0..MAX_OUTBOX_BYTES / MAX_PAYLOAD {
            assert!(queue.push(largest.clone()), "{number}");
        }
        assert!(!queue.has_room() && !queue.push(Bytes::from_static(b"x")));
        drop(waiting.recv().await.expect("a message"));
        assert!(queue.has_room() && queue.push(largest));
        let (queue, _waiting) = Queue::new();
        for number in 0..MAX_OUTBOX {
            assert!(queue.push(Bytes::from_static(b"x")), "{number}");
        }
        assert!(!queue.has_room() && !queue.push(Bytes::from_static(b"x")));
    }

    #[test]
    fn the_largest_messages_of_the_largest_group_fit_between_agents() {
        let (quorums, window) = (Quorums::of(MAX_GROUP_MEMBERS).expect("a group"), Parameters::default().window);
        let proposal = |seq: u64| Proposal { view: View(1), seq: Seq(seq), kind: Kind::Calls, digest: Digest([1; 32]) };
        let prepares = || endorsements(quorums.quorum() - 1);
        let prepared = |seq: u64| Prepared { proposal: proposal(seq), primary: SIGNATURE, prepares: prepares() };
        let checkpoint = Checkpoint { seq: Seq(1), digest: Digest([1; 32]) };
        let view_change = ViewChange {
            replica: ReplicaId(0),
            view: View(1),
            stable: Some(Stable { checkpoint, votes: endorsements(quorums.quorum()) }),
            prepared: (1..=window).map(prepared).collect(),
            signature: SIGNATURE,
        };
        let proposals = (1..=2 * window).map(|seq| Reproposal { proposal: proposal(seq), signature: SIGNATURE });
        let new_view = NewView {
            view: View(1),
            view_changes: vec![view_change; quorums.quorum()],
            proposals: proposals.collect(),
            signature: SIGNATURE,
        };
        let message = Message::NewView(Box::new(new_view)).encode();
        assert!(to_peer(&"g".repeat(MAX_GROUP_NAME), &message).len() <= MAX_PAYLOAD, "{}", message.len());
        // A batch, with what is around it.
        const { assert!(MAX_BATCH_BYTES + 256 * 1024 <= MAX_PAYLOAD) };
    }
}
