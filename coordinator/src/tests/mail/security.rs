//! Whose mailbox one may open, and under whose name one sends.

use std::time::Duration;

use robeing_fleet::{AgentCommand, Command, Reply};
use robeing_identity::PeerRole;
use robeing_proto::v1::{self, GetMessageRequest, MessageCode, messages_client::MessagesClient};
use robeing_settings::Enrolment;
use tonic::Code;

use super::mailbox::{TestMailbox, durable, in_force};
use crate::{
    fixture,
    tests::{
        enrolment::enrolled,
        fleet::TestFleet,
        member::{TestMember, code, retried},
    },
};

/// A fleet with TLS that knows the agent `b`.
async fn secured() -> (TestFleet, usize) {
    let fleet = TestFleet::start_secured(Enrolment::Proof);
    let leader = fleet.led().await;
    in_force(&fleet).await;
    let join = Command::Agent(AgentCommand::Joined(fixture::join("b", 1)));
    let joined = fleet.tested(leader).proposer.propose_one(join).await.expect("it leads");
    assert!(matches!(joined, Reply::Joined { .. }), "{joined:?}");
    (fleet, leader)
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_is_that_of_the_certificate_and_a_sender_is_named_by_it() {
    let (fleet, leader) = secured().await;
    let at = fleet.followers(leader)[0];
    let b = enrolled(&fleet, leader, "b").await;
    let mut thief = TestMailbox::open_over(b.channel(&fleet, at), "c").await.expect("it is asked for");
    assert_eq!(thief.next().await.expect_err("it is c's").code(), Code::PermissionDenied);
    let client = TestMember::certified(&fleet, PeerRole::Client, "ann");
    let opened = TestMailbox::open_over(client.channel(&fleet, at), "ann").await;
    assert_eq!(code(opened.map(drop)), Code::PermissionDenied, "clients have no mailbox");
    for (role, name, sender) in [(PeerRole::Client, "ann", "client:ann"), (PeerRole::Guardian, "g", "g")] {
        let member = TestMember::enrolled(&fleet, leader, role, name).await;
        let mut messages = MessagesClient::new(member.channel(&fleet, leader));
        let sent = messages.send_message(durable("b", sender.len() as u128)).await.expect("it may").into_inner();
        assert_eq!(sent.outcomes[0].code(), MessageCode::Kept, "{sent:?}");
        let mut mailbox = TestMailbox::open_over(b.channel(&fleet, at), "b").await.expect("it is its own");
        let letter = mailbox.letter().await;
        assert_eq!(letter.sender, sender);
        mailbox.accept(sender.len() as u128).await;
        let wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        let request = GetMessageRequest { id: sent.outcomes[0].id.clone(), wait };
        let settled = messages.get_message(request).await.expect("it may").into_inner();
        assert_eq!(settled.code(), MessageCode::Accepted);
    }
    let agent = MessagesClient::new(b.channel(&fleet, leader)).read_inbox(v1::ReadInboxRequest::default()).await;
    assert_eq!(code(agent), Code::PermissionDenied, "an agent reads no inbox");
}

#[tokio::test(start_paused = true)]
async fn the_mailbox_of_an_agent_that_is_barred_is_closed() {
    let (fleet, leader) = secured().await;
    let b = enrolled(&fleet, leader, "b").await;
    let mut mailbox = TestMailbox::open_over(b.channel(&fleet, leader), "b").await.expect("it is its own");
    assert!(mailbox.is_silent_for(Duration::from_secs(1)).await);
    let admin = TestMember::certified(&fleet, PeerRole::Client, "root");
    let kind = v1::BarKind::Quarantined.into();
    let bar = v1::BarAgentRequest { agent: "b".into(), kind, reason: "odd".into(), known_only: false };
    retried(async || admin.admin(&fleet, leader).bar_agent(bar.clone()).await).await.expect("it may");
    let ended = mailbox.next().await.expect_err("it is in quarantine");
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert!(ended.message().contains("odd"), "{ended}");
    let again = TestMailbox::open_over(b.channel(&fleet, leader), "b").await;
    assert_eq!(code(again.map(drop)), Code::PermissionDenied);
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_is_closed_when_another_process_has_enrolled_under_its_name_and_stays_open_when_others_have() {
    let (fleet, leader) = secured().await;
    let at = fleet.followers(leader)[0];
    let first = enrolled(&fleet, leader, "b").await;
    let mut mailbox = TestMailbox::open_over(first.channel(&fleet, at), "b").await.expect("it is its own");
    assert!(mailbox.is_silent_for(Duration::from_secs(1)).await);
    enrolled(&fleet, leader, "c").await;
    assert!(mailbox.is_silent_for(Duration::from_secs(5)).await, "that is another agent");
    let second = enrolled(&fleet, leader, "b").await;
    let ended = mailbox.next().await.expect_err("the name is that of another process");
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert!(ended.message().contains("another process has enrolled as the agent b"), "{ended}");
    // What is sent from now on, one process gets.
    let mut mailbox = TestMailbox::open_over(second.channel(&fleet, leader), "b").await.expect("it is its own");
    let sender = TestMember::certified(&fleet, PeerRole::Client, "ann");
    let mut messages = MessagesClient::new(sender.channel(&fleet, leader));
    messages.send_message(durable("b", 7)).await.expect("it may");
    assert_eq!(mailbox.ids(1).await, [7]);
    let mut again = TestMailbox::open_over(first.channel(&fleet, at), "b").await.expect("it is asked for");
    assert_eq!(again.next().await.expect_err("it is not its own").code(), Code::PermissionDenied);
}
