//! Durable messages: posting, delivery, settling, expiry, and their limits.

use bytes::Bytes;
use robeing_fleet::{
    BarKind, Command, Effect, Fleet, Letter, LetterAnswer, LetterId, LetterOutcome, MailCommand, PostLetter, Refusal,
    Reply, limits::*,
};

use crate::fixture::{Trial, letter, letters_for, worker};

const NEW: Reply = Reply::Posted { existing: false };
const KNOWN: Reply = Reply::Posted { existing: true };

fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

fn outcome(trial: &Trial, id: u128) -> Option<LetterOutcome> {
    trial.fleet.letter(LetterId(id)).expect("it is kept").outcome().cloned()
}

fn waiting(trial: &Trial, receiver: &str) -> Vec<u128> {
    letters_for(&trial.fleet, receiver).iter().map(|letter| letter.id.0).collect()
}

fn limit_of(refusal: Option<Refusal>) -> u64 {
    match refusal {
        Some(Refusal::Full { limit, .. }) => limit,
        other => panic!("not full: {other:?}"),
    }
}

#[test]
fn a_letter_waits_for_a_receiver_that_is_not_there_and_is_settled_by_it() {
    let mut trial = Trial::newest();
    let revision = trial.fleet.revision();
    assert_eq!(trial.post(letter(1)), NEW);
    assert_eq!(trial.effects, [Effect::Mail { receiver: "b".into(), id: LetterId(1) }]);
    let posted = trial.stamp();
    trial.after(10);
    trial.join(worker("b"));
    let letters = letters_for(&trial.fleet, "b");
    assert_eq!(letters.len(), 1);
    assert_eq!((&letters[0].payload[..], letters[0].posted, letters[0].is_waiting()), (&b"hello"[..], posted, true));
    assert_eq!(trial.settle(1, "b", LetterAnswer::Accepted), Reply::Settled(LetterOutcome::Accepted));
    assert_eq!(trial.effects, [Effect::LetterSettled { id: LetterId(1) }]);
    assert_eq!(waiting(&trial, "b"), [0; 0]);
    let settled = trial.fleet.letter(LetterId(1)).expect("its sender may ask");
    assert_eq!((settled.outcome(), settled.payload.len()), (Some(&LetterOutcome::Accepted), 0));
    let agents = trial.fleet.changed_agents_since(revision).count();
    assert_eq!(agents, 1, "letters are no change of an agent");
}

#[test]
fn the_same_letter_is_posted_once_and_another_content_under_its_id_is_refused() {
    let mut trial = Trial::newest();
    assert_eq!(trial.post(letter(1)), NEW);
    assert_eq!(trial.post(PostLetter { sent: 8, ttl: 1, ..letter(1) }), KNOWN, "as it was sent again");
    assert_eq!(trial.effects, []);
    let other = PostLetter { digest: [2; 32], ..letter(1) };
    let conflict = Reply::Refused(Refusal::LetterConflict { letter: LetterId(1) });
    assert_eq!(trial.post(other.clone()), conflict);
    trial.settle(1, "b", LetterAnswer::Accepted);
    assert_eq!(trial.post(letter(1)), KNOWN, "it is not delivered again");
    assert_eq!(trial.post(other), conflict);
    assert_eq!(trial.fleet.mail_counts().waiting, 0);
    trial.after(LETTER_OUTCOME_TTL_MS);
    assert_eq!(trial.post(letter(1)), NEW, "its outcome is forgotten");
}

#[test]
fn letters_are_delivered_by_priority_and_then_in_the_order_of_posting() {
    let mut trial = Trial::newest();
    for (id, priority) in [(1, 1), (2, 5), (3, 10), (4, 5), (5, 10)] {
        trial.post(PostLetter { priority, ..letter(id) });
    }
    trial.post(PostLetter { receiver: "c".to_owned(), ..letter(6) });
    assert_eq!(waiting(&trial, "b"), [3, 5, 2, 4, 1]);
    assert_eq!(waiting(&trial, "c"), [6]);
    assert_eq!(waiting(&trial, "d"), [0; 0]);
    let after = trial.fleet.letter(LetterId(5)).map(|letter| letter.cursor());
    trial.settle(5, "b", LetterAnswer::Accepted);
    assert_eq!((waiting(&trial, "b"), trial.fleet.letters_waiting_for("b")), (vec![3, 2, 4, 1], 4));
    let sender = letter(1).sender;
    let rest: Vec<u128> = trial.fleet.letters_from(&sender, "b", after).map(|letter| letter.id.0).collect();
    assert_eq!(rest, [2, 4, 1], "whatever became of the last one");
}

#[test]
fn the_first_letter_of_each_sender_is_known_and_those_after_it() {
    let mut trial = Trial::newest();
    for (id, sender, priority) in [(1, "a", 5), (2, "a", 5), (3, "c", 5), (4, "a", 9), (5, "c", 1)] {
        trial.post(PostLetter { sender: sender.to_owned(), priority, ..letter(id) });
    }
    let firsts = |trial: &Trial| trial.fleet.first_letters_for("b").map(|letter| letter.id.0).collect::<Vec<_>>();
    let of = |trial: &Trial, sender: &str, after: Option<u128>| {
        let after = after.map(|id| trial.fleet.letter(LetterId(id)).expect("it is kept").cursor());
        trial.fleet.letters_from(sender, "b", after).map(|letter| letter.id.0).collect::<Vec<_>>()
    };
    assert_eq!(firsts(&trial), [4, 3]);
    assert_eq!((of(&trial, "a", None), of(&trial, "c", Some(3))), (vec![4, 1, 2], vec![5]));
    assert_eq!(of(&trial, "b", None), [0; 0], "it has sent nothing");
    trial.settle(4, "b", LetterAnswer::Accepted);
    assert_eq!((firsts(&trial), of(&trial, "a", Some(4))), (vec![1, 3], vec![1, 2]), "also after one that is settled");
    for id in [2, 3, 1] {
        trial.settle(id, "b", LetterAnswer::Accepted);
    }
    assert_eq!(firsts(&trial), [5]);
    trial.settle(5, "b", LetterAnswer::Accepted);
    assert_eq!((firsts(&trial), trial.fleet.letters_waiting_for("b")), (vec![], 0));
}

#[test]
fn only_its_receiver_settles_a_letter_and_the_first_answer_stays() {
    let mut trial = Trial::newest();
    trial.post(letter(1));
    let refused = |letter, by: &str| Reply::Refused(Refusal::OtherReceiver { letter: LetterId(letter), by: by.into() });
    assert_eq!(trial.settle(1, "a", LetterAnswer::Accepted), refused(1, "a"));
    let unknown = Reply::Refused(Refusal::UnknownLetter { letter: LetterId(2) });
    assert_eq!(trial.settle(2, "b", LetterAnswer::Accepted), unknown);
    let no = LetterAnswer::Refused { reason: "no".to_owned() };
    let said_no = Reply::Settled(LetterOutcome::Refused { reason: "no".to_owned() });
    assert_eq!(trial.settle(1, "b", no.clone()), said_no);
    let before = trial.fleet.encode();
    for answer in [no, LetterAnswer::Accepted] {
        assert_eq!(trial.settle(1, "b", answer), said_no);
        assert_eq!(trial.effects, []);
        assert_eq!(trial.fleet.encode(), before);
    }
    assert_eq!(trial.settle(1, "a", LetterAnswer::Accepted), refused(1, "a"), "another agent does not get the outcome");
}

#[test]
fn a_letter_expires_to_the_millisecond_and_its_outcome_is_kept_for_a_while() {
    let mut trial = Trial::newest();
    trial.post(letter(1));
    assert_eq!(trial.fleet.next_due(), Some(trial.now + 60_000));
    trial.after(59_999);
    assert_eq!(outcome(&trial, 1), None);
    trial.after(1);
    assert_eq!(trial.effects, [Effect::LetterSettled { id: LetterId(1) }]);
    assert_eq!(outcome(&trial, 1), Some(LetterOutcome::Expired));
    assert_eq!(trial.settle(1, "b", LetterAnswer::Accepted), Reply::Settled(LetterOutcome::Expired), "it is too late");
    trial.after(LETTER_OUTCOME_TTL_MS - 1);
    assert_eq!(outcome(&trial, 1), Some(LetterOutcome::Expired));
    trial.after(1);
    assert!(trial.fleet.letter(LetterId(1)).is_none());
    assert_eq!((trial.fleet.mail_counts(), trial.fleet.next_due()), (Default::default(), None));
}

#[test]
fn the_wall_time_does_not_decide_when_a_letter_expires() {
    let mut trial = Trial::newest();
    trial.post(letter(1));
    trial.wall_ahead = 365 * 24 * 3600 * 1000;
    trial.after(59_999);
    assert_eq!(outcome(&trial, 1), None);
}

#[test]
fn the_letters_of_a_removed_agent_expire_like_others() {
    let mut trial = Trial::newest();
    trial.join(worker("b"));
    trial.post(letter(1));
    trial.bar("b", BarKind::Removed);
    assert_eq!(waiting(&trial, "b"), [1]);
    assert_eq!(trial.post(letter(2)), NEW);
    trial.after(60_000);
    assert_eq!([1, 2].map(|id| outcome(&trial, id)), [Some(LetterOutcome::Expired), Some(LetterOutcome::Expired)]);
}

#[test]
fn letters_are_held_to_their_limits() {
    type Change = fn(&mut PostLetter, usize);
    let cases: [(&str, Change, usize, usize); 14] = [
        ("sender", |l, n| l.sender = text(n), MAX_SENDER_BYTES, MAX_SENDER_BYTES + 1),
        ("sender", |l, n| l.sender = text(n), 1, 0),
        ("to", |l, n| l.to = text(n), MAX_LETTER_ADDRESS_BYTES, MAX_LETTER_ADDRESS_BYTES + 1),
        ("to", |l, n| l.to = text(n), 1, 0),
        ("key_id", |l, n| l.key_id = text(n), MAX_KEY_ID_BYTES, MAX_KEY_ID_BYTES + 1),
        ("receiver", |l, n| l.receiver = text(n), MAX_NAME_BYTES, MAX_NAME_BYTES + 1),
        ("receiver", |l, n| l.receiver = text(n), 1, 0),
        ("kind", |l, n| l.kind = text(n), MAX_NAME_BYTES, MAX_NAME_BYTES + 1),
        ("kind", |l, n| l.kind = text(n), 1, 0),
        ("payload", |l, n| l.payload = Bytes::from(vec![0; n]), MAX_LETTER_BYTES, MAX_LETTER_BYTES + 1),
        ("priority", |l, n| l.priority = n as u8, 1, 0),
        ("priority", |l, n| l.priority = n as u8, 10, 11),
        ("ttl", |l, n| l.ttl = n as u64, 1, 0),
        ("ttl", |l, n| l.ttl = n as u64, MAX_LETTER_TTL_MS as usize, MAX_LETTER_TTL_MS as usize + 1),
    ];
    for (field, change, good, bad) in cases {
        let of = |value| {
            let mut letter = letter(1);
            change(&mut letter, value);
            letter
        };
        assert_eq!(of(good).check(), Ok(()), "{field}");
        let mut trial = Trial::newest();
        assert_eq!(trial.post(of(good)), NEW);
        match trial.post(of(bad)) {
            Reply::Refused(Refusal::Invalid { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let mut trial = Trial::newest();
    trial.post(letter(1));
    let reason = format!("x{}", "é".repeat(MAX_LETTER_REASON_BYTES));
    trial.settle(1, "b", LetterAnswer::Refused { reason });
    match outcome(&trial, 1) {
        Some(LetterOutcome::Refused { reason }) => assert_eq!(reason.len(), MAX_LETTER_REASON_BYTES - 1),
        other => panic!("{other:?}"),
    }
    let fits = LetterAnswer::Refused { reason: text(MAX_LETTER_REASON_BYTES) };
    assert_eq!(fits.clone().within_limits(), fits);
}

/// Posts letters without the audit after each, which takes long for many.
fn post_many(trial: &mut Trial, ids: std::ops::Range<usize>, of: impl Fn(usize) -> PostLetter) {
    let mut effects = Vec::new();
    for n in ids {
        let reply = trial.fleet.apply(trial.stamp(), Command::Mail(MailCommand::Post(of(n))), &mut effects);
        assert_eq!(reply, NEW, "{n}");
    }
}

#[test]
fn so_many_letters_wait_for_one_receiver_and_so_many_for_all_and_one_more_is_refused() {
    let mut trial = Trial::newest();
    let of = |n: usize| PostLetter { receiver: format!("r{}", n / MAX_WAITING_FOR_ONE), ..letter(n as u128 + 1) };
    post_many(&mut trial, 0..MAX_WAITING_FOR_ONE, of);
    let more = PostLetter { receiver: "r0".to_owned(), ..letter(0) };
    assert_eq!(limit_of(trial.fleet.refusal_of_letter(&more)), MAX_WAITING_FOR_ONE as u64);
    assert!(matches!(trial.post(more.clone()), Reply::Refused(Refusal::Full { .. })));
    assert_eq!(trial.fleet.refusal_of_letter(&of(0)), None, "a known one needs no room");
    assert_eq!(trial.post(of(0)), KNOWN);
    trial.settle(1, "r0", LetterAnswer::Accepted);
    assert_eq!(trial.post(more), NEW);
    post_many(&mut trial, MAX_WAITING_FOR_ONE..MAX_WAITING_LETTERS, of);
    let more = PostLetter { receiver: "another".to_owned(), ..letter(u128::MAX) };
    assert_eq!(limit_of(trial.fleet.refusal_of_letter(&more)), MAX_WAITING_LETTERS as u64);
    assert!(matches!(trial.post(more.clone()), Reply::Refused(Refusal::Full { .. })));
    // They all expire at once, in parts.
    trial.after(60_000);
    assert_eq!(trial.fleet.mail_counts().settled, MAX_FIRINGS as u32 + 1);
    assert_eq!(trial.post(more), NEW);
    assert_eq!(trial.fleet.mail_counts().settled, 2 * MAX_FIRINGS as u32 + 1);
}

#[test]
fn so_many_bytes_are_stored_and_a_letter_that_would_exceed_them_is_refused() {
    let mut trial = Trial::newest();
    let texts = "a".len() + "b".len() + "note".len() + "role:worker".len();
    let of = |id: u128, bytes: usize| PostLetter { payload: Bytes::from(vec![0; bytes]), ..letter(id) };
    let count = MAX_MAIL_BYTES as usize / (MAX_LETTER_BYTES + texts);
    post_many(&mut trial, 0..count, |n| of(n as u128 + 1, MAX_LETTER_BYTES));
    let left = MAX_MAIL_BYTES as usize - count * (MAX_LETTER_BYTES + texts) - texts;
    assert_eq!(limit_of(trial.fleet.refusal_of_letter(&of(0, left + 1))), MAX_MAIL_BYTES);
    assert!(matches!(trial.post(of(0, left + 1)), Reply::Refused(Refusal::Full { .. })));
    assert_eq!(trial.post(of(0, left)), NEW);
    assert_eq!(trial.fleet.mail_counts().bytes, MAX_MAIL_BYTES);
    assert!(matches!(trial.post(of(u128::MAX, 0)), Reply::Refused(Refusal::Full { .. })));
    trial.settle(1, "b", LetterAnswer::Accepted);
    assert_eq!(trial.fleet.mail_counts().bytes, MAX_MAIL_BYTES - MAX_LETTER_BYTES as u64, "its payload is dropped");
    assert_eq!(trial.post(of(u128::MAX, MAX_LETTER_BYTES - texts)), NEW);
}

#[test]
fn the_largest_letter_fits_what_a_snapshot_may_take() {
    let mut trial = Trial::newest();
    trial.now = MAX_TIME_MS - MAX_LETTER_TTL_MS;
    let before = trial.fleet.encode().len() as u64;
    let post = PostLetter {
        sender: text(MAX_SENDER_BYTES),
        receiver: text(MAX_NAME_BYTES),
        kind: text(MAX_NAME_BYTES),
        payload: Bytes::from(vec![0; MAX_LETTER_BYTES]),
        key_id: text(MAX_KEY_ID_BYTES),
        to: text(MAX_LETTER_ADDRESS_BYTES),
        sent: u64::MAX,
        ttl: MAX_LETTER_TTL_MS,
        ..letter(u128::MAX)
    };
    trial.post(post);
    let size = |trial: &Trial| trial.fleet.encode().len() as u64 - before;
    assert!(size(&trial) <= trial.fleet.mail_counts().bytes + MAX_LETTER_OVERHEAD);
    let reason = text(MAX_LETTER_REASON_BYTES);
    trial.settle(u128::MAX, &text(MAX_NAME_BYTES), LetterAnswer::Refused { reason });
    assert!(size(&trial) <= trial.fleet.mail_counts().bytes + MAX_LETTER_OVERHEAD);
}

#[test]
fn letters_and_outcomes_are_in_snapshots() {
    let mut trial = Trial::newest();
    for id in 1..4 {
        trial.post(letter(id));
    }
    trial.settle(2, "b", LetterAnswer::Refused { reason: "no".to_owned() });
    let restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    let all = |fleet: &Fleet| [1, 2, 3].map(|id| fleet.letter(LetterId(id)).map(|letter| Letter::clone(letter)));
    assert_eq!(all(&restored), all(&trial.fleet));
    assert_eq!(letters_for(&restored, "b"), letters_for(&trial.fleet, "b"));
    assert_eq!((restored.next_due(), restored.mail_counts()), (trial.fleet.next_due(), trial.fleet.mail_counts()));
}

#[test]
fn a_reply_is_kept_with_the_outcome_and_one_that_is_too_large_is_dropped() {
    let mut trial = Trial::newest();
    let replied = |bytes| LetterAnswer::Replied { reply: Bytes::from(vec![7; bytes]) };
    for (id, bytes) in [(1, 0), (2, MAX_LETTER_REPLY_BYTES)] {
        trial.post(letter(id));
        let kept = LetterOutcome::Replied { reply: Bytes::from(vec![7; bytes]) };
        assert_eq!(trial.settle(id, "b", replied(bytes)), Reply::Settled(kept.clone()));
        assert_eq!(trial.settle(id, "b", LetterAnswer::Accepted), Reply::Settled(kept), "the first answer stays");
    }
    let counted = LEAST_REPLY_BYTES + MAX_LETTER_REPLY_BYTES;
    assert_eq!(trial.fleet.mail_counts().reply_bytes, counted as u64);
    trial.post(letter(3));
    let too_large = replied(MAX_LETTER_REPLY_BYTES + 1);
    assert_eq!(trial.settle(3, "b", too_large), Reply::Settled(LetterOutcome::ReplyDropped));
    trial.after(LETTER_OUTCOME_TTL_MS);
    assert_eq!(trial.fleet.mail_counts(), Default::default(), "nothing of them is kept");
}

#[test]
fn the_oldest_replies_make_room_for_new_ones_and_take_none_from_letters() {
    let mut trial = Trial::newest();
    let small = MAX_REPLIES_BYTES as usize / LEAST_REPLY_BYTES;
    let answer = |bytes: usize| LetterAnswer::Replied { reply: Bytes::from(vec![7; bytes]) };
    let settle = |trial: &mut Trial, id: u128, bytes: usize| {
        let settle = MailCommand::Settle { id: LetterId(id), receiver: "b".to_owned(), answer: answer(bytes) };
        let reply = trial.fleet.apply(trial.stamp(), Command::Mail(settle), &mut Vec::new());
        assert!(matches!(reply, Reply::Settled(LetterOutcome::Replied { .. })), "{id}: {reply:?}");
    };
    post_many(&mut trial, 0..small + 2, |n| letter(n as u128 + 1));
    for id in 1..=small as u128 {
        settle(&mut trial, id, 1);
    }
    let counts = trial.fleet.mail_counts();
    assert_eq!(counts.reply_bytes, MAX_REPLIES_BYTES);
    let dropped = |trial: &Trial| {
        (1..=small as u128 + 2)
            .filter(|id| outcome(trial, *id) == Some(LetterOutcome::ReplyDropped))
            .collect::<Vec<_>>()
    };
    assert_eq!(dropped(&trial), [0; 0]);
    settle(&mut trial, small as u128 + 1, 1);
    assert_eq!(dropped(&trial), [1]);
    settle(&mut trial, small as u128 + 2, MAX_LETTER_REPLY_BYTES);
    let oldest: Vec<u128> = (1..=1 + (MAX_LETTER_REPLY_BYTES / LEAST_REPLY_BYTES) as u128).collect();
    assert_eq!(dropped(&trial), oldest);
    assert_eq!(trial.fleet.mail_counts().reply_bytes, MAX_REPLIES_BYTES);
    assert_eq!(trial.fleet.audit(), Ok(()));
}
