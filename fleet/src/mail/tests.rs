use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{Letter, LetterOutcome, LetterState, command::PostLetter};
use crate::{
    Fleet, FleetConfig, LetterId, Refusal, Stamp,
    limits::{MAX_LETTERS, MAX_PRIORITY},
    numbered::Numbered,
};

fn post(id: u128) -> PostLetter {
    PostLetter {
        id: LetterId(id),
        sender: "a".to_owned(),
        receiver: "b".to_owned(),
        kind: "note".to_owned(),
        payload: Bytes::from_static(b"hello"),
        key_id: String::new(),
        priority: 5,
        sent: 7,
        digest: [1; 32],
        ttl: 1,
        to: "agent:b".to_owned(),
    }
}

#[test]
fn so_many_letters_are_kept_with_the_settled_ones_and_one_more_is_refused() {
    let settled = Arc::new(Letter {
        seq: 1,
        id: LetterId(0),
        sender: "a".to_owned(),
        receiver: Arc::from("b"),
        kind: "note".to_owned(),
        payload: Bytes::new(),
        key_id: String::new(),
        priority: 5,
        sent: 0,
        digest: [0; 32],
        posted: Stamp::default(),
        expires: 0,
        to: "agent:b".to_owned(),
        state: LetterState::Settled { outcome: LetterOutcome::Accepted, at: Stamp::default() },
    });
    let kept = |count: usize| -> BTreeMap<u64, Arc<Letter>> {
        (1..=count as u64).map(|seq| (seq, Arc::clone(&settled))).collect()
    };
    // Only their number matters here, so they are not indexed.
    let mut fleet = Fleet::new(FleetConfig::default());
    fleet.state.mail.letters = Numbered::of(kept(MAX_LETTERS - 1), MAX_LETTERS as u64);
    assert_eq!(fleet.refusal_of_letter(&post(1)), None);
    fleet.state.mail.letters = Numbered::of(kept(MAX_LETTERS), MAX_LETTERS as u64);
    let refusal = fleet.refusal_of_letter(&post(1));
    assert!(matches!(refusal, Some(Refusal::Full { limit, .. }) if limit == MAX_LETTERS as u64), "{refusal:?}");
}

fn content(letter: &PostLetter) -> Vec<u8> {
    let mut bytes = Vec::new();
    letter.hash_content(|part| bytes.extend_from_slice(part));
    bytes
}

#[test]
fn other_contents_have_other_digests_and_neither_the_time_of_sending_nor_the_chosen_receiver_is_content() {
    let letter = post(1);
    let same =
        PostLetter { id: LetterId(2), sent: 8, ttl: 9, digest: [2; 32], receiver: "c".to_owned(), ..letter.clone() };
    assert_eq!(content(&same), content(&letter));
    let others = [
        PostLetter { sender: "ab".to_owned(), receiver: "b".to_owned(), ..letter.clone() },
        // The same texts, divided in another way.
        PostLetter { sender: "aagent".to_owned(), to: ":b".to_owned(), ..letter.clone() },
        PostLetter { to: "agent:c".to_owned(), ..letter.clone() },
        PostLetter { kind: "memo".to_owned(), ..letter.clone() },
        PostLetter { payload: Bytes::from_static(b"hell"), ..letter.clone() },
        PostLetter { key_id: "k".to_owned(), ..letter.clone() },
        PostLetter { priority: MAX_PRIORITY, ..letter.clone() },
    ];
    let mut contents: Vec<_> = others.iter().chain([&letter]).map(content).collect();
    let count = contents.len();
    contents.sort();
    contents.dedup();
    assert_eq!(contents.len(), count);
}

#[test]
fn a_letter_that_is_sealed_anew_when_it_is_sent_again_is_the_same_letter() {
    let sealed = PostLetter { key_id: "k".to_owned(), ..post(1) };
    let again = PostLetter {
        key_id: "new".to_owned(),
        payload: Bytes::from_static(b"other bytes"),
        receiver: "c".to_owned(),
        to: "agent:c".to_owned(),
        ..sealed.clone()
    };
    assert_eq!(content(&again), content(&sealed));
    for other in [
        PostLetter { sender: "c".to_owned(), ..sealed.clone() },
        PostLetter { kind: "memo".to_owned(), ..sealed.clone() },
        PostLetter { priority: MAX_PRIORITY, ..sealed.clone() },
        post(1),
    ] {
        assert_ne!(content(&other), content(&sealed));
    }
}
