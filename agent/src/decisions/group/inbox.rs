//! What other members send to the replica of one group: verified before it gets any of it.
//!
//! Invariants:
//!
//! 1. **Each member has an equal share of the room.** One that sends more than its share loses its own messages, and no
//!    other's.
//! 2. **The handler of messages verifies none.** A task for each other member does, so one whose messages take long to
//!    verify holds up its own alone.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use robeing_bft::{Verified, crypto::Ed25519, message::Message};
use robeing_groups::Group;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::spawn_blocking,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::limits::{MAX_INBOX, MAX_INBOX_BYTES, VERIFIED_ASIDE, WARN_PAUSE};
use crate::messaging::packet::MAX_PAYLOAD;

/// The room that a message takes of its sender's share.
pub struct Room {
    _place: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// A verified message, with the room that it takes.
pub struct Inbound {
    /// The message.
    pub message: Verified,
    /// The room.
    pub room: Room,
}

/// What one other member sends.
struct Lane {
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    queue: mpsc::Sender<(Bytes, Room)>,
    _verifying: AbortOnDropHandle<()>,
}

impl Lane {
    fn start(group: &Arc<Group>, sender: &str, share: usize, verified: &mpsc::Sender<Inbound>) -> Self {
        let (queue, messages) = mpsc::channel(share);
        let task = verify_all(Arc::clone(group), sender.to_owned(), messages, verified.clone());
        let others = group.names().count().saturating_sub(1).max(1);
        let bytes = (MAX_INBOX_BYTES / others).max(MAX_PAYLOAD);
        Self {
            places: Arc::new(Semaphore::new(share)),
            bytes: Arc::new(Semaphore::new(bytes)),
            queue,
            _verifying: AbortOnDropHandle::new(tokio::spawn(task)),
        }
    }

    fn room(&self, size: usize) -> Option<Room> {
        let size = u32::try_from(size).ok()?;
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(size).ok()?;
        Some(Room { _place: place, _bytes: bytes })
    }
}

/// The messages of all other members of a group.
pub struct Inbox(BTreeMap<String, Lane>);

impl Inbox {
    /// Begins to verify what the members other than `me` send. Verified messages go to the receiver.
    pub fn start(group: &Arc<Group>, me: &str) -> (Self, mpsc::Receiver<Inbound>) {
        let (verified, messages) = mpsc::channel(MAX_INBOX);
        let share = share_of(group);
        let others = group.names().filter(|name| *name != me);
        let lanes = others.map(|name| (name.to_owned(), Lane::start(group, name, share, &verified))).collect();
        (Self(lanes), messages)
    }

    /// Takes a message of a member. Returns whether there was room for it: what is too much is dropped, and sent again.
    pub fn receive(&self, sender: &str, message: Bytes) -> bool {
        let Some(lane) = self.0.get(sender) else { return false };
        let Some(room) = lane.room(message.len()) else { return false };
        lane.queue.try_send((message, room)).is_ok()
    }
}

/// Returns how many messages of one other member may wait.
fn share_of(group: &Group) -> usize {
    (MAX_INBOX / group.names().count().saturating_sub(1).max(1)).max(1)
}

/// Verifies the messages of a member, one after another, until nobody takes them.
async fn verify_all(
    group: Arc<Group>,
    sender: String,
    mut messages: mpsc::Receiver<(Bytes, Room)>,
    verified: mpsc::Sender<Inbound>,
) {
    let mut warned: Option<Instant> = None;
    while let Some((bytes, room)) = messages.recv().await {
        match verify(&group, bytes).await {
            Ok(message) => {
                // The shares are of the whole queue, so there is a place.
                if verified.send(Inbound { message, room }).await.is_err() {
                    return;
                }
            }
            Err(error) if warned.is_none_or(|at| at.elapsed() >= WARN_PAUSE) => {
                warned = Some(Instant::now());
                let group = group.name();
                warn!(group, sender, error, "a message of a member is dropped; more may be in the next minute");
            }
            Err(_) => {}
        }
    }
}

async fn verify(group: &Arc<Group>, bytes: Bytes) -> Result<Verified, String> {
    let is_large = bytes.len() > VERIFIED_ASIDE;
    let group = Arc::clone(group);
    let verify = move || {
        let message = Message::decode(&bytes).map_err(|error| error.to_string())?;
        Verified::check(message, group.epoch(), &Ed25519).map_err(|error| error.to_string())
    };
    if is_large { spawn_blocking(verify).await.unwrap_or_else(|error| Err(error.to_string())) } else { verify() }
}

#[cfg(test)]
mod tests {
    use robeing_bft::message::{Operation, Request};
    use tokio::task::yield_now;

    use super::*;
    use crate::decisions::group::fixture::{Fleet, identity, signer};

    /// Returns a message that member `b` has signed.
    fn message(group: &Group, number: u64) -> Bytes {
        let call = Operation::Call(Bytes::from_static(b"call"));
        let request = Request::sign(group.epoch().scope(), number, call, &signer(&identity(2)));
        Message::Request(request).encode().into()
    }

    #[tokio::test]
    async fn a_member_that_sends_too_much_takes_no_place_of_another() {
        let group = Arc::new(Fleet::new().group().0);
        let share = share_of(&group);
        assert_eq!(share, MAX_INBOX / 3);
        let (inbox, mut verified) = Inbox::start(&group, "a");
        for number in 0..share {
            assert!(inbox.receive("b", message(&group, number as u64 + 1)), "{number}");
        }
        assert!(!inbox.receive("b", message(&group, 1)), "its share is used up");
        assert!(inbox.receive("c", message(&group, 1)), "that of others is not");
        // What is verified takes its place until the replica takes it.
        while verified.len() < share + 1 {
            yield_now().await;
        }
        assert!(!inbox.receive("b", message(&group, 1)));
        drop(verified.recv().await.expect("a message"));
        drop(verified.recv().await.expect("a message"));
        assert!(inbox.receive("b", message(&group, 1)));
    }

    #[tokio::test]
    async fn the_largest_message_fits_into_a_share_and_strangers_have_none() {
        let group = Arc::new(Fleet::new().group().0);
        let (inbox, mut verified) = Inbox::start(&group, "a");
        assert!(inbox.receive("b", vec![0; MAX_PAYLOAD].into()));
        assert!(!inbox.receive("b", vec![0; MAX_INBOX_BYTES / 3].into()), "there is no room for both");
        assert!(!inbox.receive("a", Bytes::new()), "itself");
        assert!(!inbox.receive("e", Bytes::new()), "no member");
        // What is wrong is dropped, and gives its room back.
        while inbox.0["b"].places.available_permits() < share_of(&group) {
            yield_now().await;
        }
        assert!(verified.try_recv().is_err());
        assert!(inbox.receive("b", vec![0; MAX_INBOX_BYTES / 3].into()));
    }
}
