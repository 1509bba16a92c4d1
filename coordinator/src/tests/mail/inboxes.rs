//! Inboxes of agents, read through whichever coordinator has the mailbox.

use std::time::Duration;

use robeing_proto::v1::{InboxMessage, ReadInboxRequest, ReadInboxResponse};
use tonic::{Code, Status};

use super::mailbox::{TestMailbox, start};
use crate::tests::{agent::TestAgent, fleet::TestFleet};

async fn read(fleet: &TestFleet, at: usize, agent: &str) -> Result<ReadInboxResponse, Status> {
    let request = ReadInboxRequest { agent: agent.into(), limit: 3, ..ReadInboxRequest::default() };
    fleet.tested(at).messages.inboxes.read(request).await.map_err(Status::from)
}

#[tokio::test(start_paused = true)]
async fn an_inbox_is_read_at_any_coordinator() {
    let (fleet, leader) = start().await;
    let _b = TestAgent::join(&fleet, leader, "b").await;
    let known = |fleet: &TestFleet| {
        let knows = |n: usize| fleet.tested(n).state.look(|state| state.agent_by_name("b").is_some());
        fleet.running().into_iter().all(knows)
    };
    fleet.until("all know the agent", known).await;
    let mut mailbox = TestMailbox::open(&fleet, fleet.followers(leader)[0], "b").await;
    for at in fleet.running() {
        let page =
            ReadInboxResponse { messages: vec![InboxMessage { id: at.to_string(), ..Default::default() }], left: 2 };
        let answer = async {
            let query = mailbox.query().await;
            assert_eq!(query.request.map(|request| request.limit), Some(3));
            mailbox.page(query.seq, Ok(page.clone())).await;
        };
        let (read, ()) = tokio::join!(read(&fleet, at, "b"), answer);
        assert_eq!(read.expect("it is read"), page);
        let refuse = async {
            let query = mailbox.query().await;
            mailbox.page(query.seq, Err("it has none")).await;
        };
        let (refused, ()) = tokio::join!(super::inboxes::read(&fleet, at, "b"), refuse);
        let refused = refused.expect_err("it has none");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("it has none"), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_mailbox_no_inbox_is_read_and_an_agent_that_says_nothing_is_not_waited_for_long() {
    let (fleet, leader) = start().await;
    let _b = TestAgent::join(&fleet, leader, "b").await;
    let none = read(&fleet, leader, "b").await.expect_err("it is not open");
    assert_eq!(none.code(), Code::Unavailable);
    assert!(none.message().contains("no mailbox open"), "{none}");
    assert_eq!(read(&fleet, leader, "nobody").await.expect_err("there is none").code(), Code::NotFound);
    let _mailbox = TestMailbox::open(&fleet, leader, "b").await;
    let open = |fleet: &TestFleet| fleet.tested(leader).messages.inboxes.observer.mailboxes.get("b").is_some();
    fleet.until("the mailbox is open", open).await;
    let begun = tokio::time::Instant::now();
    let late = read(&fleet, leader, "b").await.expect_err("it says nothing");
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Unavailable), "{late}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}
