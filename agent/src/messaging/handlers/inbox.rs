//! The built-in inbox: messages are kept until somebody reads them.
//!
//! A message counts as accepted once it is in the inbox. The inbox is in memory: what nobody has read is lost when the
//! agent ends. A full inbox takes no message until one was taken out, which slows down the senders. It refuses none: a
//! durable message comes again later, and a refusal would be the end of it.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::warn;

use super::{Delivery, Handler, HandlerOutcome};
use crate::messaging::{frame::MAX_FRAME_BYTES, inbox::WHOLE_SHARE, packet::Packet};

/// Maximum number of messages in the inbox.
pub const INBOX_MESSAGES: usize = 1_024;
/// Maximum cost of the messages in the inbox, in bytes: 16 MiB.
pub const INBOX_BYTES: u64 = 16 << 20;
/// A payload of this size, in bytes, is a large part of whatever frame it arrived in; a smaller one is copied, because it
/// would keep a frame in memory that may be much larger.
const KEPT_WHOLE: usize = MAX_FRAME_BYTES / WHOLE_SHARE;

#[derive(Default)]
struct Kept {
    messages: VecDeque<Packet>,
    bytes: u64,
    /// Whether it was told that the inbox is full, since it was empty.
    is_told: bool,
}

impl Kept {
    fn fits(&self, packet: &Packet) -> bool {
        self.messages.len() < INBOX_MESSAGES && self.bytes + packet.cost() <= INBOX_BYTES
    }

    /// Takes out the oldest messages, so many.
    fn drain(&mut self, count: usize) -> Vec<Packet> {
        let taken: Vec<Packet> = self.messages.drain(..count).collect();
        self.bytes -= taken.iter().map(Packet::cost).sum::<u64>();
        self.is_told &= !self.messages.is_empty();
        taken
    }

    /// Returns whether it is to be told that the inbox is full: once, until it was empty.
    fn tells(&mut self) -> bool {
        !self.messages.is_empty() && !std::mem::replace(&mut self.is_told, true)
    }
}

/// Keeps messages until somebody reads them.
#[derive(Default)]
pub struct InboxHandler {
    kept: Mutex<Kept>,
    /// The number of changes so far.
    changes: watch::Sender<u64>,
}

impl InboxHandler {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Returns the oldest messages without taking them out, at most `limit`.
    pub fn peek(&self, limit: usize) -> Vec<Packet> {
        self.lock().messages.iter().take(limit).cloned().collect()
    }

    /// Takes out the oldest messages, at most `limit`.
    pub fn take(&self, limit: usize) -> Vec<Packet> {
        let mut kept = self.lock();
        let count = limit.min(kept.messages.len());
        let taken = kept.drain(count);
        drop(kept);
        if !taken.is_empty() {
            self.changed();
        }
        taken
    }

    /// Returns the oldest messages, at most `limit` and of at most `bytes` in all, but at least one if there is any, and the
    /// number of messages that are left. Waits until `deadline` for the first one. Leaves them in if `peek` is set.
    pub async fn page(&self, limit: usize, bytes: u64, peek: bool, deadline: Instant) -> (Vec<Packet>, usize) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let (page, left) = self.read(limit.max(1), bytes, peek);
            // The sender of changes lives as long as this inbox.
            if !page.is_empty() || timeout_at(deadline, changes.changed()).await.is_err() {
                return (page, left);
            }
        }
    }

    fn read(&self, limit: usize, bytes: u64, peek: bool) -> (Vec<Packet>, usize) {
        let mut kept = self.lock();
        let (mut count, mut taken) = (0, 0);
        while count < limit
            && let Some(next) = kept.messages.get(count)
            && (count == 0 || taken + next.cost() <= bytes)
        {
            taken += next.cost();
            count += 1;
        }
        if peek {
            let page = kept.messages.iter().take(count).cloned().collect();
            return (page, kept.messages.len());
        }
        let page = kept.drain(count);
        let left = kept.messages.len();
        drop(kept);
        if !page.is_empty() {
            self.changed();
        }
        (page, left)
    }

    /// Returns the number of messages.
    pub fn len(&self) -> usize {
        self.lock().messages.len()
    }

    /// Returns whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes out the oldest messages, at most `limit`, and waits until `deadline` for the first one.
    pub async fn wait(&self, limit: usize, deadline: Instant) -> Vec<Packet> {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let taken = self.take(limit);
            if !taken.is_empty() || limit == 0 {
                return taken;
            }
            // The sender of changes lives as long as this inbox.
            if timeout_at(deadline, changes.changed()).await.is_err() {
                return Vec::new();
            }
        }
    }

    /// Logs that the inbox is full: its senders learn only that their messages were not decided in time.
    fn tell(&self) {
        let mut kept = self.lock();
        let (messages, bytes) = (kept.messages.len(), kept.bytes);
        let tells = kept.tells();
        drop(kept);
        if tells {
            warn!(messages, bytes, "the inbox is full, and senders wait until their deadlines; read it: robeing inbox");
        }
    }

    /// Puts a message in, if it fits.
    fn put(&self, packet: &Packet) -> bool {
        let mut kept = self.lock();
        if !kept.fits(packet) {
            return false;
        }
        kept.bytes += packet.cost();
        kept.messages.push_back(packet.clone());
        drop(kept);
        self.changed();
        true
    }
}

#[async_trait]
impl Handler for InboxHandler {
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome {
        let Packet { payload, .. } = &delivery.packet;
        let payload = if payload.len() < KEPT_WHOLE { Bytes::copy_from_slice(payload) } else { payload.clone() };
        let packet = Packet { payload, ..delivery.packet };
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if self.put(&packet) {
                return HandlerOutcome::Accepted { reply: None };
            }
            self.tell();
            let _ = changes.changed().await;
        }
    }

    fn name(&self) -> &'static str {
        "inbox"
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::messaging::{packet::MAX_PAYLOAD, tests::fixture::packet};

    fn delivery(packet: Packet) -> Delivery {
        Delivery { packet, deadline: Instant::now() + Duration::from_secs(1) }
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_read_in_order_once() {
        let inbox = InboxHandler::default();
        for id in 1..=3 {
            inbox.deliver(delivery(packet(id))).await;
        }
        assert_eq!(inbox.peek(2), [packet(1), packet(2)]);
        assert_eq!(inbox.take(2), [packet(1), packet(2)]);
        assert_eq!((inbox.take(9), inbox.is_empty()), (vec![packet(3)], true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_payload_does_not_keep_the_frame_in_memory_that_it_arrived_in() {
        let inbox = InboxHandler::default();
        let frame = Bytes::from(vec![7; MAX_FRAME_BYTES]);
        for (len, is_part) in [(KEPT_WHOLE - 1, false), (KEPT_WHOLE, true)] {
            inbox.deliver(delivery(Packet { payload: frame.slice(..len), ..packet(1) })).await;
            let kept = inbox.take(1).remove(0).payload;
            assert_eq!((kept.len(), frame.as_ptr_range().contains(&kept.as_ptr())), (len, is_part));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_inbox_waits_for_a_reader() {
        let inbox = InboxHandler::default();
        for id in 0..INBOX_MESSAGES as u128 {
            inbox.deliver(delivery(packet(id))).await;
        }
        let mut waiting = Box::pin(inbox.deliver(delivery(packet(9_999))));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        inbox.take(1);
        assert_eq!(waiting.await, HandlerOutcome::Accepted { reply: None });
        assert_eq!(inbox.len(), INBOX_MESSAGES);

        let large = |id| Packet { payload: vec![0; MAX_PAYLOAD].into(), ..packet(id) };
        let inbox = InboxHandler::default();
        for id in 0..u128::from(INBOX_BYTES / large(0).cost()) {
            inbox.deliver(delivery(large(id))).await;
        }
        let waiting = Box::pin(inbox.deliver(delivery(large(99))));
        assert!(futures::poll!(waiting).is_pending());
        assert_eq!(inbox.len(), 15);
    }

    #[tokio::test(start_paused = true)]
    async fn that_it_is_full_is_told_once_until_it_was_empty() {
        let inbox = InboxHandler::default();
        for times in 1..=2 {
            for id in 0..INBOX_MESSAGES as u128 {
                inbox.deliver(delivery(packet(id))).await;
                assert!(!inbox.lock().is_told, "{times}: it is not full");
            }
            let mut waiting = Box::pin(inbox.deliver(delivery(packet(9_999))));
            assert!(futures::poll!(waiting.as_mut()).is_pending() && inbox.lock().is_told);
            assert!(!inbox.lock().tells(), "once");
            inbox.take(1);
            assert!(inbox.lock().is_told, "it was not empty");
            waiting.await;
            inbox.take(INBOX_MESSAGES);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_waits_for_a_message_until_its_deadline() {
        let inbox = InboxHandler::default();
        let soon = Instant::now() + Duration::from_secs(5);
        assert_eq!((inbox.wait(1, soon).await, Instant::now() >= soon), (vec![], true));
        let soon = Instant::now() + Duration::from_secs(5);
        let (read, _) = tokio::join!(inbox.wait(1, soon), inbox.deliver(delivery(packet(1))));
        assert_eq!((read, Instant::now() < soon), (vec![packet(1)], true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_has_so_many_messages_and_bytes_and_at_least_one() {
        let inbox = InboxHandler::default();
        for id in 1..=4 {
            inbox.deliver(delivery(packet(id))).await;
        }
        let (now, cost) = (Instant::now(), packet(1).cost());
        let ids = |(page, left): (Vec<Packet>, usize)| (page.iter().map(|of| of.id.0).collect::<Vec<_>>(), left);
        assert_eq!(ids(inbox.page(9, 2 * cost, true, now).await), (vec![1, 2], 4), "they are left in");
        assert_eq!(ids(inbox.page(9, 2 * cost, false, now).await), (vec![1, 2], 2));
        assert_eq!(ids(inbox.page(9, 2 * cost - 1, false, now).await), (vec![3], 1));
        assert_eq!(ids(inbox.page(1, 0, false, now).await), (vec![4], 0), "one that is larger comes alone");
        let soon = now + Duration::from_secs(5);
        assert_eq!(ids(inbox.page(9, cost, false, soon).await), (vec![], 0));
        assert!(Instant::now() >= soon);
        let later = Instant::now() + Duration::from_secs(5);
        let (page, _) = tokio::join!(inbox.page(9, cost, false, later), inbox.deliver(delivery(packet(5))));
        assert_eq!((ids(page), inbox.lock().bytes), ((vec![5], 0), 0));
    }
}
