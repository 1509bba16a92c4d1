//! Messages to one agent.

use std::time::Duration;

use bytes::Bytes;
use robeing_fleet::{AgentState, LetterId};
use robeing_platform::OsRandom;
use robeing_proto::{
    budget::{MAX_UNANSWERED_LETTERS, URGENT_LETTERS_SHARE},
    internal::v1::LetterAnswer,
    v1::{MessageCode, ResolveMessageRequest, SealedFor, SendMessageRequest},
};
use robeing_sealing::{
    About, Content, OpeningKey,
    letters::{self, Prepared},
};
use tonic::{Code, Status};

use super::mailbox::{SENDER, TestMailbox, code, durable, id, message, send, send_one, start, wire};
use crate::{
    mail::sending::Sending,
    tests::{agent::TestAgent, fleet::TestFleet},
};

fn waits(fleet: &TestFleet, at: usize, letter: u128) -> Option<bool> {
    fleet.tested(at).state.look(|state| state.letter(LetterId(letter)).map(|letter| letter.is_waiting()))
}

#[tokio::test(start_paused = true)]
async fn a_message_is_sent_at_one_coordinator_and_its_receivers_mailbox_is_at_another() {
    let (fleet, leader) = start().await;
    let _b = TestAgent::join(&fleet, leader, "b").await;
    let [one, other] = fleet.followers(leader)[..] else { panic!("three coordinators") };
    let mut mailbox = TestMailbox::open(&fleet, one, "b").await;
    for at in [leader, one, other] {
        let receiver = async {
            let letter = mailbox.letter().await;
            assert_eq!((&*letter.sender, &*letter.receiver, &*letter.payload), (SENDER, "role:worker", &b"hello"[..]));
            assert!((1..=30_000).contains(&letter.expires_in_ms), "{}", letter.expires_in_ms);
            let reply = Some(Bytes::from_static(b"yes"));
            mailbox.answer(LetterAnswer { id: letter.id, reply, ..LetterAnswer::default() }).await;
        };
        let (outcome, ()) = tokio::join!(send_one(&fleet, at, message("role:worker")), receiver);
        assert_eq!(
            (code(&outcome), outcome.reply.as_deref()),
            (MessageCode::Accepted, Some(&b"yes"[..])),
            "{outcome:?}"
        );
        assert_eq!(outcome.agent, "b");
    }
    let refuse = async {
        let refused = Some("not today".to_owned());
        let letter = mailbox.letter().await;
        mailbox.answer(LetterAnswer { id: letter.id, refused, ..LetterAnswer::default() }).await;
    };
    let (outcome, ()) = tokio::join!(send_one(&fleet, other, message("b")), refuse);
    assert_eq!((code(&outcome), &*outcome.reason), (MessageCode::Refused, "not today"));
}

#[tokio::test(start_paused = true)]
async fn a_message_ends_at_its_deadline_if_nobody_attends_and_at_once_if_there_is_nobody() {
    let (fleet, leader) = start().await;
    let b = TestAgent::join(&fleet, leader, "b").await;
    let at = fleet.followers(leader)[0];
    let deadline = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    let begun = tokio::time::Instant::now();
    let outcome = send_one(&fleet, at, SendMessageRequest { deadline, ..message("b") }).await;
    assert_eq!(code(&outcome), MessageCode::DeadlinePassed);
    assert!(begun.elapsed() >= Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(code(&send_one(&fleet, at, message("nobody")).await), MessageCode::NoSuchAgent);
    assert_eq!(code(&send_one(&fleet, at, message("skill:ocr")).await), MessageCode::NoSuchAgent);
    assert_eq!(code(&send_one(&fleet, at, message("role:coordinator")).await), MessageCode::NoSuchAgent);
    b.end();
    let lost = |fleet: &TestFleet| fleet.running().into_iter().all(|n| b.state(fleet, n) == Some(AgentState::Lost));
    fleet.until("b is lost", lost).await;
    assert_eq!(code(&send_one(&fleet, at, message("b")).await), MessageCode::Away);
    assert_eq!(code(&send_one(&fleet, at, durable("b", 1)).await), MessageCode::Kept);
}

#[tokio::test(start_paused = true)]
async fn a_durable_message_waits_for_a_receiver_that_is_away_and_its_sender_learns_what_became_of_it() {
    let (fleet, leader) = start().await;
    let b = TestAgent::join(&fleet, leader, "b").await;
    b.end();
    for letter in 1..=3 {
        assert_eq!(code(&send_one(&fleet, leader, durable("b", letter)).await), MessageCode::Kept);
    }
    let sending = fleet.tested(fleet.followers(leader)[0]).messages.sending;
    let kept = sending.status(SENDER, LetterId(1), Duration::ZERO).await.expect("it is known");
    assert_eq!((code(&kept), &*kept.agent), (MessageCode::Kept, "b"));
    let mut mailbox = TestMailbox::open(&fleet, fleet.followers(leader)[1], "b").await;
    let letter = mailbox.letter().await;
    assert_eq!((id(&letter), letter.resent), (1, true), "it may have been sent before, for all that is known");
    assert_eq!(mailbox.ids(2).await, [2, 3]);
    let answer = async {
        mailbox.accept(1).await;
    };
    let (settled, ()) = tokio::join!(sending.status(SENDER, LetterId(1), Duration::from_secs(60)), answer);
    assert_eq!(code(&settled.expect("it is known")), MessageCode::Accepted);
    let waiting = sending.status(SENDER, LetterId(2), Duration::from_secs(1)).await.expect("it is known");
    assert_eq!(code(&waiting), MessageCode::Kept, "it waits no longer than asked");
    let others = sending.status("client:other", LetterId(1), Duration::ZERO).await.expect_err("it is not theirs");
    assert_eq!(Status::from(others).code(), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_sent_again_is_handled_once_and_another_one_under_its_id_is_refused() {
    let (fleet, leader) = start().await;
    let _b = TestAgent::join(&fleet, leader, "b").await;
    let mut mailbox = TestMailbox::open(&fleet, leader, "b").await;
    let request = || SendMessageRequest { id: LetterId(7).to_string(), ..message("role:worker") };
    let both = async {
        let mut ids = mailbox.ids(1).await;
        assert!(mailbox.is_silent_for(Duration::from_secs(1)).await, "it is sent once");
        mailbox.accept(ids.remove(0)).await;
    };
    let followers = fleet.followers(leader);
    let (one, other, ()) =
        tokio::join!(send_one(&fleet, followers[0], request()), send_one(&fleet, followers[1], request()), both);
    assert_eq!([code(&one), code(&other)], [MessageCode::Accepted; 2]);
    let again = send_one(&fleet, leader, request()).await;
    assert_eq!(code(&again), MessageCode::Accepted, "also after it was settled");
    assert_eq!(code(&send_one(&fleet, leader, SendMessageRequest { durable: true, ..request() }).await), code(&again));
    let other = SendMessageRequest { payload: Bytes::from_static(b"other"), ..request() };
    let refused = send(&fleet, leader, other).await.expect_err("another content");
    assert_eq!(Status::from(refused).code(), Code::AlreadyExists);
    assert!(mailbox.is_silent_for(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn letters_survive_a_change_of_leaders_and_of_mailboxes() {
    let (mut fleet, leader) = start().await;
    let b = TestAgent::join(&fleet, leader, "b").await;
    b.end();
    let follower = fleet.followers(leader)[0];
    let mut mailbox = TestMailbox::open(&fleet, leader, "b").await;
    send_one(&fleet, follower, durable("b", 1)).await;
    send_one(&fleet, follower, durable("b", 2)).await;
    assert_eq!(mailbox.ids(2).await, [1, 2]);
    fleet.take_away(leader);
    mailbox.next().await.expect_err("its coordinator is gone");
    let mut mailbox = TestMailbox::open(&fleet, follower, "b").await;
    assert_eq!(mailbox.ids(2).await, [1, 2], "nobody has answered them");
    // The answer waits for the next leader.
    mailbox.accept(1).await;
    fleet.led().await;
    fleet.until("an answer", |fleet| waits(fleet, follower, 1) == Some(false)).await;
    let other = fleet.followers(follower)[0];
    send_one(&fleet, other, durable("b", 3)).await;
    assert_eq!(mailbox.ids(1).await, [3]);
    let mut replacing = TestMailbox::open(&fleet, follower, "b").await;
    assert_eq!(replacing.ids(2).await, [2, 3]);
    let ended = mailbox.next().await.expect_err("another took its place");
    assert!(crate::api::mailbox::is_replaced(&ended), "{ended}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_counts_once_whoever_gets_it_and_answers_to_others_letters_count_nothing() {
    let (fleet, leader) = start().await;
    let (_b, _c) = (TestAgent::join(&fleet, leader, "b").await, TestAgent::join_from(&fleet, leader, "c", 2).await);
    let mut mailbox = TestMailbox::open(&fleet, leader, "b").await;
    let liar = TestMailbox::open(&fleet, leader, "c").await;
    send_one(&fleet, leader, durable("b", 1)).await;
    assert_eq!(mailbox.ids(1).await, [1]);
    let lie = LetterAnswer { id: wire(1), refused: Some("I am b".into()), ..LetterAnswer::default() };
    liar.answer(lie).await;
    liar.accept(99).await;
    mailbox.accept(1).await;
    mailbox.answer(LetterAnswer { id: wire(1), refused: Some("no".into()), ..LetterAnswer::default() }).await;
    let sending = fleet.tested(leader).messages.sending;
    let settled = sending.status(SENDER, LetterId(1), Duration::from_secs(60)).await.expect("it is known");
    assert_eq!(code(&settled), MessageCode::Accepted);
    liar.answer(LetterAnswer { id: Bytes::from_static(b"short"), ..LetterAnswer::default() }).await;
    let mut liar = liar;
    assert_eq!(liar.next().await.expect_err("it is no id").code(), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn so_many_letters_are_under_way_and_urgent_ones_overtake() {
    // There is no other sender.
    const MOST: usize = (MAX_UNANSWERED_LETTERS - MAX_UNANSWERED_LETTERS / URGENT_LETTERS_SHARE) / 2;
    let (fleet, leader) = start().await;
    let b = TestAgent::join(&fleet, leader, "b").await;
    b.end();
    for letter in 1..=MOST as u128 + 2 {
        send_one(&fleet, leader, durable("b", letter)).await;
    }
    let mut mailbox = TestMailbox::open(&fleet, leader, "b").await;
    let all: Vec<u128> = (1..=MOST as u128).collect();
    assert_eq!(mailbox.ids(MOST).await, all);
    assert!(mailbox.is_silent_for(Duration::from_secs(5)).await, "nothing beyond the window");
    send_one(&fleet, leader, SendMessageRequest { priority: 9, ..durable("b", 1_000) }).await;
    assert_eq!(mailbox.ids(1).await, [1_000]);
    for letter in [1_000, 3] {
        mailbox.accept(letter).await;
    }
    assert_eq!(mailbox.ids(1).await, [MOST as u128 + 1], "urgent ones count, too");
}

#[tokio::test(start_paused = true)]
async fn a_sender_is_told_the_receiver_with_its_key_and_sends_what_is_sealed_for_it() {
    let (fleet, leader) = start().await;
    let mut b = TestAgent::join(&fleet, leader, "b").await;
    let sending = fleet.tested(fleet.followers(leader)[0]).messages.sending;
    let id_of = |id: u128| LetterId(id).to_string();
    let resolve = async |to: &str, broadcast: bool| {
        let request =
            ResolveMessageRequest { id: id_of(7), to: to.into(), broadcast, ..ResolveMessageRequest::default() };
        sending.resolve(SENDER, request).await.expect("it is resolved")
    };
    assert_eq!(resolve("role:worker", false).await.receivers[0].sealing_key, Bytes::new(), "it has said none");
    let key = OpeningKey::generate(&OsRandom);
    b.resume_with_key(&fleet, leader, key.public().to_bytes()).await;
    let is_known = |fleet: &TestFleet| {
        fleet.running().into_iter().all(|n| {
            let known =
                fleet.tested(n).state.look(|fleet| fleet.agent_by_name("b").and_then(|agent| agent.sealing_key));
            known == Some(key.public().to_bytes())
        })
    };
    fleet.until("the key of the session that was resumed is recorded", is_known).await;
    let resolved = resolve("role:worker", false).await;
    assert_eq!((&*resolved.sender, resolved.must_seal, &*resolved.receivers[0].id), (SENDER, false, &*id_of(7)));
    assert_ne!(resolve("role:worker", true).await.receivers[0].id, id_of(7), "each of a broadcast has its own");
    let nobody = resolve("nobody", false).await;
    assert_eq!((nobody.receivers.len(), code(&nobody.nobody[0])), (0, MessageCode::NoSuchAgent));
    let request = SendMessageRequest { id: id_of(7), ..message("role:worker") };
    let Ok(Prepared::Sealed(mut sealed)) = letters::seal(request, resolved, &OsRandom) else { panic!("it is sealed") };
    let request = sealed.request.take().expect("it has a receiver");
    let mut mailbox = TestMailbox::open(&fleet, leader, "b").await;
    let receiver = async {
        let letter = mailbox.letter().await;
        assert_eq!((&*letter.receiver, &*letter.key_id), ("role:worker", &*Content::key_id(key.public())));
        let about = About { id: 7, sender: SENDER, agent: "b", kind: "note" };
        assert_eq!(key.open(&letter.key_id, &about, &letter.payload).as_deref(), Ok(&b"hello"[..]));
        let secret = key.reply_key(&letter.payload).expect("it is one");
        let reply = Some(secret.seal(&about, b"yes", &OsRandom).expect("it is sealed"));
        mailbox.answer(LetterAnswer { id: letter.id, reply, ..LetterAnswer::default() }).await;
    };
    let (outcomes, ()) = tokio::join!(sending.send(SENDER, request.clone()), receiver);
    let outcomes = sealed.finish(outcomes.expect("it is taken"));
    assert_eq!((&*outcomes[0].agent, outcomes[0].reply.as_deref()), ("b", Some(&b"yes"[..])));
    let told = sending.status(SENDER, LetterId(7), Duration::ZERO).await.expect("it is known");
    assert!(told.sealed_reply && told.reply.as_deref() != Some(&b"yes"[..]), "{told:?}");
    // Of a broadcast, one that the address does not stand for is left out.
    let ghost = SealedFor { agent: "ghost".to_owned(), ..request.sealed_for[0].clone() };
    let sealed_for = vec![ghost, request.sealed_for[0].clone()];
    let all = SendMessageRequest { broadcast: true, durable: true, sealed_for, ..request.clone() };
    let outcomes = sending.send(SENDER, all).await.expect("it is decided");
    let codes: Vec<_> = outcomes.iter().map(|outcome| (&*outcome.agent, code(outcome))).collect();
    assert_eq!(codes, [("ghost", MessageCode::Away), ("b", MessageCode::Kept)]);
    its_id_is_no_message_to_another_address(&sending, &request).await;
    // One for an agent that the address never stood for is not posted.
    let to = "skill:ocr".to_owned();
    let refused =
        sending.send(SENDER, SendMessageRequest { id: id_of(8), to, ..request }).await.expect("it is decided");
    assert_eq!((code(&refused[0]), waits(&fleet, leader, 8)), (MessageCode::Away, None));
}

/// A sealed message under the id of an earlier one that was addressed differently is refused; addressed alike, it is
/// that message.
async fn its_id_is_no_message_to_another_address(sending: &Sending, request: &SendMessageRequest) {
    let to = |to: &str| SendMessageRequest { to: to.to_owned(), ..request.clone() };
    let refused = sending.send(SENDER, to("b")).await.expect_err("it was sent to an agent of a role");
    assert_eq!(Status::from(refused).code(), Code::AlreadyExists);
    let again = sending.send(SENDER, to("role:WORKER")).await.expect("it is known");
    assert_eq!(code(&again[0]), MessageCode::Accepted);
}
