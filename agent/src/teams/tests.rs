use std::time::Duration;

use tokio::time::timeout;

use super::has_answered;
use crate::messaging::{
    Outcome,
    tests::fleet::{Fleet, outgoing},
};

#[tokio::test]
async fn a_member_that_is_busy_with_a_message_answers_a_probe() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    b.handler.set_open(false);
    let messenger = a.messenger.clone();
    let busy = tokio::spawn(async move { messenger.send(outgoing("b", "hang", "x")).await });
    // A probe of the default priority would wait behind it until its deadline has passed.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let answered = timeout(Duration::from_secs(4), has_answered(&a.messenger, &"b".into())).await;
    assert_eq!(answered, Ok(true));
    assert!(!busy.is_finished());
    b.handler.set_open(true);
    let ended = busy.await.expect("it does not panic");
    assert!(matches!(ended, Outcome::Accepted { .. }), "{ended:?}");
    a.stop().await;
    b.stop().await;
}
