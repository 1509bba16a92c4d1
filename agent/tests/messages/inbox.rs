//! The built-in inbox, over TCP.

use std::sync::Arc;

use robeing_agent::messaging::{Outcome, handlers::InboxHandler, outbox::LANE_PACKETS};
use tokio::time::Instant;

use crate::fixture::{SOON, outgoing, pair};

#[tokio::test]
async fn messages_are_kept_until_they_are_read() {
    let inbox = Arc::new(InboxHandler::default());
    let (sender, _receiver) = pair(Arc::clone(&inbox)).await;
    let reader = Arc::clone(&inbox);
    let reading = tokio::spawn(async move { reader.wait(1, Instant::now() + SOON).await });
    assert_eq!(sender.send("receiver", "greeting", "hello").await, Outcome::accepted(None));
    let read = reading.await.unwrap();
    assert_eq!((&*read[0].sender, &*read[0].kind, &*read[0].payload), ("sender", "greeting", &b"hello"[..]));
}

#[tokio::test]
async fn many_messages_at_once_are_all_handled_in_order() {
    let inbox = Arc::new(InboxHandler::default());
    let (sender, _receiver) = pair(Arc::clone(&inbox)).await;
    let sends = (0..LANE_PACKETS.min(1_000)).map(|_| sender.messenger.send(outgoing("receiver", "t", "x")));
    let outcomes = tokio::time::timeout(SOON, futures::future::join_all(sends)).await.expect("in time");
    assert!(outcomes.iter().all(Outcome::is_accepted));
    let read = inbox.take(usize::MAX);
    assert_eq!(read.len(), 1_000);
    assert!(read.windows(2).all(|pair| pair[0].seq < pair[1].seq));
}
