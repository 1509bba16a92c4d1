//! Tests of the dispatcher.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use robeing_proto::message::v1::Relay;
use tokio::sync::Notify;

use super::*;
use crate::messaging::{
    driver::fixture::{shared, shared_of},
    handlers::HandlerOutcome,
    inbox::Received,
    routing::Snapshot,
    tests::fixture::{entry, packet},
};

/// Maximum number of messages of a flood: thousands of passes of the dispatcher.
const FLOOD: u64 = 50_000;

/// Handles a message at once, and has the next one ready; one of the type `slow` only after other tasks have run.
struct Flooding {
    shared: Arc<Shared>,
    reply: Bytes,
    sent: AtomicU64,
    /// Whether the slow message or the flood was over first.
    first: OnceLock<&'static str>,
    end: Notify,
}

impl Flooding {
    fn send(&self, seq: u64, priority: u32, kind: &str) {
        let (shared, id) = (&self.shared, u128::from(priority) << 64 | u128::from(seq));
        let (priority, kind) = (Priority::new(priority).unwrap(), kind.into());
        let packet = Packet { seq, priority, kind, requires_ack: false, ..packet(id) };
        let mut inbox = shared.inbox();
        inbox.credits(&shared.me);
        assert_eq!(inbox.receive(0, &shared.me, packet), Ok(Received::Queued));
    }

    fn is_over(&self, what: &'static str) {
        self.first.get_or_init(|| what);
        self.end.notify_one();
    }
}

#[async_trait]
impl Handler for Flooding {
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome {
        if &*delivery.packet.kind == "slow" {
            for _ in 0..10 {
                yield_now().await;
            }
            self.is_over("slow");
        } else if self.first.get().is_none() {
            match self.sent.fetch_add(1, Ordering::Relaxed) {
                FLOOD => self.is_over("flood"),
                sent => self.send(sent + 1, 5, "flood"),
            }
        }
        HandlerOutcome::Accepted { reply: Some(self.reply.clone()) }
    }

    fn name(&self) -> &'static str {
        "flooding"
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_waits_goes_on_beside_many_that_end_at_once() {
    let (shared, sent) = (shared(), AtomicU64::new(1));
    // With replies of this size, a pass ends early and has no reason of its own to let other tasks run.
    let reply = vec![0; MAX_REPLY].into();
    let (first, end) = (OnceLock::new(), Notify::new());
    let handler = Arc::new(Flooding { shared: Arc::clone(&shared), reply, sent, first, end });
    handler.send(1, 5, "flood");
    handler.send(1, 6, "slow");
    let running = tokio::spawn(run(Arc::clone(&shared), handler.clone(), None));
    handler.end.notified().await;
    shared.stop.cancel();
    running.await.unwrap();
    assert_eq!(handler.first.get(), Some(&"slow"));
}

/// Handles a message when the test says so.
#[derive(Default)]
struct Slow {
    has_begun: Notify,
    ends: Notify,
}

#[async_trait]
impl Handler for Slow {
    async fn deliver(&self, _: Delivery) -> HandlerOutcome {
        self.has_begun.notify_one();
        self.ends.notified().await;
        HandlerOutcome::Accepted { reply: None }
    }

    fn name(&self) -> &'static str {
        "slow"
    }
}

/// Stops an agent while its handler has a message, which takes so long afterwards. Returns what is recorded.
async fn recorded_after_the_stop(takes: Duration) -> Vec<PacketId> {
    let (shared, handler, (recorder, mut queue)) = (shared(), Arc::new(Slow::default()), queue());
    shared.inbox().receive(0, &shared.me, Packet { seq: 1, ..packet(7) }).unwrap();
    shared.inbox().receive(0, &shared.me, Packet { seq: 2, ..packet(8) }).unwrap();
    let running = tokio::spawn(run(Arc::clone(&shared), handler.clone(), Some(recorder)));
    handler.has_begun.notified().await;
    shared.stop.cancel();
    tokio::time::sleep(takes).await;
    handler.ends.notify_one();
    running.await.unwrap();
    all_recorded(&mut queue).await
}

/// Returns what a dispatcher that has ended has had recorded.
async fn all_recorded(queue: &mut mpsc::Receiver<Group>) -> Vec<PacketId> {
    let mut recorded = Vec::new();
    while let Some(group) = queue.recv().await {
        recorded.extend(group.done.iter().map(|done| done.id));
    }
    recorded
}

#[tokio::test(start_paused = true)]
async fn what_the_handler_decides_when_the_agent_stops_is_recorded_and_nothing_more_is_handed_out() {
    assert_eq!(recorded_after_the_stop(Duration::ZERO).await, [PacketId(7)]);
    assert_eq!(recorded_after_the_stop(STOP_GRACE / 2).await, [PacketId(7)]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_takes_long_does_not_keep_the_agent_from_stopping() {
    assert_eq!(recorded_after_the_stop(2 * STOP_GRACE).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_messenger_that_stops_does_not_say_what_became_of_a_message_that_it_may_have_passed_on() {
    let shared = shared_of(Role::Messenger, Snapshot::from_iter([entry("c", 0.5)]));
    let (handler, (recorder, mut queue)) = (Arc::new(Slow::default()), queue());
    let message = Packet { agent: "c".into(), receiver: "agent:c".into(), ..packet(8) };
    let relay = Relay { message: Some(message.to_wire(60_000)), targets: vec![relay::target("c", PacketId(8))] };
    let asked = Packet { seq: 1, kind: RELAY_TYPE.into(), payload: relay.encode_to_vec().into(), ..packet(7) };
    shared.inbox().connect(&"a".into());
    shared.inbox().receive(0, &"a".into(), asked).unwrap();
    let running = tokio::spawn(run(Arc::clone(&shared), handler, Some(recorder)));
    while shared.link_count() == 0 {
        yield_now().await;
    }
    shared.stop.cancel();
    running.await.unwrap();
    shared.tasks.close();
    shared.tasks.wait().await;
    assert_eq!(all_recorded(&mut queue).await, [], "the sender asks again after the restart");
}

#[tokio::test(start_paused = true)]
async fn a_pass_ends_once_the_replies_are_large() {
    let shared = shared();
    let mut handling = FuturesUnordered::new();
    let peer = Arc::clone(&shared.me);
    for seq in 1..=9 {
        shared.inbox().receive(0, &peer, Packet { seq, ..packet(seq.into()) }).unwrap();
    }
    let reply = Outcome::accepted(Some(vec![0; TOGETHER_REPLIES / 4].into()));
    let start = |handed: Handed| std::future::ready((Ticket::of(&handed), reply.clone()));
    let ended = [(); 3].map(|()| end_together(&shared, None, &mut handling, start).len());
    assert_eq!(ended, [4, 4, 1]);
}

#[tokio::test]
async fn outcomes_with_so_many_bytes_of_replies_wait_to_be_recorded_and_further_ones_later() {
    let (recorder, mut queue) = queue();
    let done = |len: usize| {
        let outcome = Outcome::accepted(Some(Bytes::from(vec![0; len])));
        vec![Done { sender: "a".into(), id: PacketId(1), requires_ack: true, outcome, passed: None }]
    };
    recorder.record(done(QUEUED_REPLIES)).await;
    recorder.record(done(0)).await;
    let mut further = Box::pin(recorder.record(done(1)));
    assert!(futures::poll!(further.as_mut()).is_pending());
    drop(queue.recv().await.expect("the first one"));
    further.await;
    assert_eq!(queue.recv().await.map(|group| reply_len(&group.done[0].outcome)), Some(0));
}
