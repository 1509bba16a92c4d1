use proptest::prelude::*;
use robeing_platform::{OsRandom, simulated::SeededRandom};

use super::*;

fn about() -> About<'static> {
    About { id: 1, sender: "a", agent: "b", kind: "test" }
}

fn others() -> [About<'static>; 5] {
    [
        About { id: 2, ..about() },
        About { sender: "c", ..about() },
        About { agent: "c", ..about() },
        About { kind: "other", ..about() },
        About { sender: "ab", agent: "", ..about() },
    ]
}

/// Returns a key, the id under which a payload is sealed for it, and the sealed payload: in both forms.
fn sealed() -> [(OpeningKey, String, Vec<u8>); 2] {
    let [one, other] = [1, 2].map(|seed| OpeningKey::generate(&SeededRandom::new(seed)));
    let direct = one.public().seal(&about(), b"hello", &OsRandom).expect("it is sealed");
    let content = Content::new(b"hello", &OsRandom).expect("it is encrypted");
    let (wrap, _) = content.wrap(&about(), other.public(), &OsRandom).expect("it is wrapped");
    let payload = Content::payload(&wrap, content.ciphertext());
    let ids = (one.public().id(), Content::key_id(other.public()));
    [(one, ids.0, direct.to_vec()), (other, ids.1, payload.to_vec())]
}

#[test]
fn the_receiver_reads_what_was_sealed_for_it_in_either_form() {
    let overheads = [OVERHEAD, CONTENT_OVERHEAD];
    for ((key, id, payload), overhead) in sealed().into_iter().zip(overheads) {
        assert!(key.is_of(&id) && !key.is_of("0000000000000000"), "{id}");
        assert_eq!(payload.len(), b"hello".len() + overhead);
        assert_eq!(key.open(&id, &about(), &payload).as_deref(), Ok(&b"hello"[..]));
    }
}

#[test]
fn nobody_else_reads_it_and_no_change_goes_unseen() {
    for (key, id, payload) in sealed() {
        let refused = Err(SealingError::NotOpened);
        assert_eq!(OpeningKey::generate(&OsRandom).open(&id, &about(), &payload), refused);
        for other in others() {
            assert_eq!(key.open(&id, &other, &payload), refused, "{other:?}");
        }
        for byte in 0..payload.len() {
            let mut changed = payload.clone();
            changed[byte] ^= 1;
            assert_eq!(key.open(&id, &about(), &changed), refused, "byte {byte}");
        }
        for len in 0..payload.len() {
            assert_eq!(key.open(&id, &about(), &payload[..len]), refused, "{len} bytes");
        }
        // In the other form.
        let other = if is_content(&id) { key.public().id() } else { Content::key_id(key.public()) };
        assert_eq!(key.open(&other, &about(), &payload), refused);
    }
}

#[test]
fn a_receiver_can_not_use_the_wrap_of_another_one_or_of_another_content() {
    let keys = [1, 2].map(|seed| OpeningKey::generate(&SeededRandom::new(seed)));
    let contents = [b"first", b"other"].map(|payload| Content::new(payload, &OsRandom).expect("it is encrypted"));
    let of = |agent: usize| About { id: agent as u128, agent: ["a", "b"][agent], ..about() };
    let wrap = |content: usize, agent: usize| {
        contents[content].wrap(&of(agent), keys[agent].public(), &OsRandom).expect("it is wrapped").0
    };
    let open = |agent: usize, about: usize, wrap: &[u8], content: usize| {
        let payload = Content::payload(wrap, contents[content].ciphertext());
        keys[agent].open(&Content::key_id(keys[agent].public()), &of(about), &payload)
    };
    assert_eq!(open(1, 1, &wrap(0, 1), 0).as_deref(), Ok(&b"first"[..]));
    for (agent, about, wrap, content) in
        [(1, 1, wrap(0, 0), 0), (1, 0, wrap(0, 0), 0), (1, 0, wrap(0, 1), 0), (1, 1, wrap(0, 1), 1)]
    {
        assert_eq!(open(agent, about, &wrap, content), Err(SealingError::NotOpened), "{agent} {about} {content}");
    }
}

#[test]
fn two_seals_of_one_payload_differ() {
    let [one, other] = [sealed(), sealed()];
    for (one, other) in one.iter().zip(&other) {
        assert_ne!(one.2, other.2);
    }
}

#[test]
fn replies_are_read_by_the_sender_alone_and_no_two_are_alike() {
    let key = OpeningKey::generate(&OsRandom);
    let content = Content::new(b"hello", &OsRandom).expect("it is encrypted");
    let (wrap, mine) = content.wrap(&about(), key.public(), &OsRandom).expect("it is wrapped");
    let (_, of_another) = content.wrap(&about(), key.public(), &OsRandom).expect("it is wrapped");
    let payload = Content::payload(&wrap, content.ciphertext());
    let theirs = key.reply_key(&payload).expect("it is one");
    let seal = || theirs.seal(&about(), b"yes", &OsRandom).expect("it is sealed");
    let (first, second) = (seal(), seal());
    assert_ne!(first, second);
    assert_eq!(first.len(), b"yes".len() + OVERHEAD);
    for reply in [&first, &second] {
        assert_eq!(mine.open(&about(), reply).as_deref(), Ok(&b"yes"[..]));
        assert_eq!(of_another.open(&about(), reply), Err(SealingError::NotOpened));
    }
    for other in others() {
        assert_eq!(mine.open(&other, &first), Err(SealingError::NotOpened));
    }
    for len in 0..first.len() {
        assert_eq!(mine.open(&about(), &first[..len]), Err(SealingError::NotOpened));
    }
    assert!(key.reply_key(&payload[..KEY_BYTES - 1]).is_err());
    assert_eq!(format!("{mine:?} {content:?}"), "ReplyKey Content(21 bytes)");
}

#[test]
fn keys_are_read_back_and_others_refused() {
    let key = OpeningKey::generate(&OsRandom);
    let again = OpeningKey::from_bytes(&key.to_secret_bytes()).expect("it is a key");
    assert_eq!(again.public(), key.public());
    assert_eq!(SealingKey::from_bytes(&key.public().to_bytes()).as_ref(), Ok(key.public()));
    assert_eq!(SealingKey::from_bytes(&[1; KEY_BYTES - 1]), Err(SealingError::BadKey));
    assert!(OpeningKey::from_bytes(&[1; KEY_BYTES + 1]).is_err());
    assert!(!format!("{key:?}").contains(&format!("{:?}", key.to_secret_bytes())));
    // All of its Diffie-Hellman results would be zero.
    let zero = SealingKey([0; KEY_BYTES]);
    assert!(zero.seal(&about(), b"x", &OsRandom).is_err());
    assert!(Content::new(b"x", &OsRandom).expect("it is encrypted").wrap(&about(), &zero, &OsRandom).is_err());
}

#[test]
fn a_sealed_payload_has_the_limit_of_others() {
    let key = OpeningKey::generate(&OsRandom);
    let seal = |len| key.public().seal(&about(), &vec![0; len], &OsRandom);
    assert_eq!(seal(MAX_PAYLOAD).map(|sealed| sealed.len()), Ok(MAX_PAYLOAD + OVERHEAD));
    assert_eq!(seal(MAX_PAYLOAD + 1), Err(SealingError::TooLarge(MAX_PAYLOAD + 1)));
    let encrypt = |len| Content::new(&vec![0; len], &OsRandom).map(|content| content.ciphertext().len());
    assert_eq!(encrypt(MAX_PAYLOAD), Ok(MAX_PAYLOAD + CONTENT_OVERHEAD - WRAP_BYTES));
    assert_eq!(encrypt(MAX_PAYLOAD + 1), Err(SealingError::TooLarge(MAX_PAYLOAD + 1)));
}

proptest! {
    #[test]
    fn every_receiver_of_a_content_reads_it_and_bytes_from_elsewhere_open_nothing(
        payload in proptest::collection::vec(any::<u8>(), 0..300), seeds in proptest::collection::vec(any::<u64>(), 1..5),
        noise in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let content = Content::new(&payload, &OsRandom).expect("it is encrypted");
        for (n, seed) in seeds.iter().enumerate() {
            let (key, agent) = (OpeningKey::generate(&SeededRandom::new(*seed)), format!("agent-{n}"));
            let about = About { id: n as u128, sender: "a", agent: &agent, kind: "t" };
            let (wrap, reply) = content.wrap(&about, key.public(), &OsRandom).expect("it is wrapped");
            let id = Content::key_id(key.public());
            let sealed = Content::payload(&wrap, content.ciphertext());
            let opened = key.open(&id, &about, &sealed);
            prop_assert_eq!(opened.as_deref(), Ok(&payload[..]));
            let theirs = key.reply_key(&sealed).expect("it is one");
            let answer = theirs.seal(&about, &noise, &OsRandom).expect("it is sealed");
            let opened = reply.open(&about, &answer);
            prop_assert_eq!(opened.as_deref(), Ok(&noise[..]));
            for id in [&id, &key.public().id()] {
                prop_assert_eq!(key.open(id, &about, &noise), Err(SealingError::NotOpened));
            }
            prop_assert!(reply.open(&about, &noise).is_err());
        }
    }
}
