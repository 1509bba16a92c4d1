//! A message as a caller has sent it, checked.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use prost_types::Duration as WireDuration;
use ring::digest::{Context, SHA256};
use robeing_fleet::{
    Letter, LetterId, PostLetter,
    limits::{DEFAULT_PRIORITY, MAX_KEY_ID_BYTES, MAX_LETTER_BYTES, MAX_LETTER_TTL_MS, MAX_NAME_BYTES, MAX_PRIORITY},
};
use robeing_platform::compute;
use robeing_policy::Message;
use robeing_proto::v1;
use robeing_sealing::{CARRIER, CONTENT_OVERHEAD, Content, WRAP_BYTES, is_content};

use super::address::{Address, MAX_TARGETS};
use crate::api::convert::{self, BadField};

/// Largest payload that is not sealed, bytes: 1 MiB.
pub const MAX_PAYLOAD_BYTES: usize = 1024 * 1024;
/// Longest type of a message, bytes.
pub const MAX_TYPE_BYTES: usize = 128;
/// Longest deadline of a message that is not durable, ms: ten minutes.
pub const MAX_DEADLINE_MS: u64 = 600_000;
/// Deadline of a message without one that is not durable, ms.
pub const DEFAULT_DEADLINE_MS: u64 = 30_000;
/// Deadline of a durable message without one, ms: a day.
pub const DEFAULT_DURABLE_MS: u64 = 24 * 3600 * 1000;
/// Bytes that each receiver of a sealed message counts for, besides its name, key id and wrap: its places in lists, and
/// what the sender is told if the message does not go to it.
pub const SEALED_FOR_BYTES: usize = 1024;
/// The type of what messengers pass on, which nobody else may send.
const RELAY_TYPE: &str = "robeing.relay.v1";
/// Separates the ids of a broadcast's messages from other uses of the digest.
const BROADCAST: &[u8] = b"robeing broadcast\0";
const _: () = assert!(MAX_PAYLOAD_BYTES + CONTENT_OVERHEAD <= MAX_LETTER_BYTES);

/// Returns the bytes that a message takes up while it is posted. It need not be valid.
pub fn posting_bytes(request: &v1::SendMessageRequest) -> usize {
    let of = |receiver: &v1::SealedFor| {
        receiver.agent.len() + receiver.key_id.len() + receiver.wrap.len() + SEALED_FOR_BYTES
    };
    request.payload.len() + request.sealed_for.iter().map(of).sum::<usize>()
}

/// A message as a caller has sent it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its id.
    pub id: LetterId,
    /// Whom it is for.
    pub to: Address,
    /// How long it waits, ms.
    pub ttl: u64,
    /// Whether it waits for a receiver that is away.
    pub is_durable: bool,
    /// Whether it goes to all agents that the address stands for.
    pub is_broadcast: bool,
    /// The letter, but for its receiver.
    letter: PostLetter,
    /// Of a content that is encrypted for its receivers: the key id and the wrap of each.
    sealed_for: BTreeMap<String, (String, Bytes)>,
}

impl Draft {
    /// Checks a message. `fresh` draws an id, and `sent` is the time, Unix milliseconds.
    ///
    /// # Errors
    /// The first invalid field.
    pub fn check(
        request: v1::SendMessageRequest,
        sender: &str,
        fresh: impl FnOnce() -> u128,
        sent: u64,
    ) -> Result<Self, BadField> {
        let v1::SendMessageRequest {
            id,
            to,
            r#type,
            payload,
            priority,
            deadline,
            durable,
            broadcast,
            key_id,
            sealed_for,
        } = request;
        let id = if id.is_empty() { LetterId(fresh()) } else { convert::letter_id(&id)? };
        let address = Address::parse(&to).map_err(|problem| convert::bad("to", problem))?;
        let to = if let Address::Team(id) = &address { format!("team:{id}") } else { to };
        check_text("type", &r#type, MAX_TYPE_BYTES)?;
        if r#type.is_empty() || r#type == RELAY_TYPE {
            return Err(convert::bad("type", format!("{:?} is reserved; give another", r#type)));
        }
        check_text("key_id", &key_id, MAX_KEY_ID_BYTES)?;
        let sealed_for = receivers_of(sealed_for, &key_id, broadcast)?;
        check_addressing(&address, broadcast, !key_id.is_empty() && sealed_for.is_empty())?;
        let most = match (key_id.is_empty(), sealed_for.is_empty()) {
            (true, _) => MAX_PAYLOAD_BYTES,
            (false, true) => MAX_LETTER_BYTES,
            (false, false) => MAX_PAYLOAD_BYTES + CONTENT_OVERHEAD - WRAP_BYTES,
        };
        if payload.len() > most {
            let problem =
                format!("it has {} bytes, the most is {most}; store it elsewhere and send a reference", payload.len());
            return Err(convert::bad("payload", problem));
        }
        let priority = match u8::try_from(priority) {
            Ok(0) => DEFAULT_PRIORITY,
            Ok(priority) if priority <= MAX_PRIORITY => priority,
            _ => return Err(convert::bad("priority", format!("it is {priority}, must be 1 to {MAX_PRIORITY}"))),
        };
        let ttl = ttl(deadline, durable)?;
        let mut letter = PostLetter {
            id,
            sender: sender.to_owned(),
            receiver: String::new(),
            kind: r#type,
            payload,
            key_id,
            priority,
            sent,
            digest: [0; 32],
            ttl,
            to,
        };
        letter.digest = digest(&letter);
        Ok(Self { id, to: address, ttl, is_durable: durable, is_broadcast: broadcast, letter, sealed_for })
    }

    /// Returns the agents that the message is sealed for; empty if it is not sealed, or as a whole for one agent.
    pub fn sealed_for(&self) -> impl ExactSizeIterator<Item = &str> {
        self.sealed_for.keys().map(String::as_str)
    }

    /// Returns the payload, unless it is sealed for its receiver.
    pub fn readable(&self) -> Option<&Bytes> {
        self.letter.key_id.is_empty().then_some(&self.letter.payload)
    }

    /// Returns the message as policies see it.
    pub fn seen<'a>(&'a self, id: &'a str, (sender, sender_role): (&'a str, &'a str)) -> Message<'a> {
        let PostLetter { to, kind, payload, priority, .. } = &self.letter;
        Message {
            message_id: id,
            sender,
            sender_role,
            receiver: to,
            message_type: kind,
            priority: u32::from(*priority),
            payload,
        }
    }

    /// Returns whether a letter is this message, which was sent before. The payload of a sealed one is not compared: it
    /// is sealed anew each time.
    pub fn is_same_as(&self, letter: &Letter) -> bool {
        // The digest of a sealed letter does not cover its address: an agent that seals one has chosen its receiver. Of
        // what is sealed by keys for its receivers, the address is what the sender wrote.
        let is_addressed_alike = || Address::parse(&letter.to).is_ok_and(|to| to == self.to);
        self.letter.digest == letter.digest && (self.sealed_for.is_empty() || is_addressed_alike())
    }

    /// Replaces the payload by a redacted one. What is sent again counts as the same message if it is redacted alike.
    pub fn redact(&mut self, payload: Bytes) {
        self.letter.payload = payload;
        self.letter.digest = digest(&self.letter);
    }

    /// Returns the letter to an agent.
    pub fn letter_to(&self, receiver: &str) -> PostLetter {
        let letter = PostLetter { id: self.id_to(receiver), receiver: receiver.to_owned(), ..self.letter.clone() };
        match self.sealed_for.get(receiver) {
            Some((key_id, wrap)) => {
                PostLetter { key_id: key_id.clone(), payload: Content::payload(wrap, &letter.payload), ..letter }
            }
            None => letter,
        }
    }

    /// Returns the id of the letter to an agent. In a broadcast it is derived from the message's id and the agent's name, so
    /// that one that is sent again is handled once by each.
    pub fn id_to(&self, receiver: &str) -> LetterId {
        if !self.is_broadcast {
            return self.id;
        }
        let mut context = Context::new(&SHA256);
        context.update(BROADCAST);
        context.update(&self.id.0.to_be_bytes());
        context.update(receiver.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&context.finish().as_ref()[..16]);
        LetterId(uuid::Builder::from_custom_bytes(bytes).into_uuid().as_u128())
    }

    /// Returns the size of each letter, bytes.
    pub fn letter_bytes(&self) -> usize {
        self.letter.payload.len() + if self.sealed_for.is_empty() { 0 } else { WRAP_BYTES }
    }

    /// Drops the payload, and the keys for its receivers, once it has been posted.
    pub fn drop_payload(&mut self) {
        self.letter.payload = Bytes::new();
        self.sealed_for = BTreeMap::new();
    }
}

fn digest(letter: &PostLetter) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    compute(|| letter.hash_content(|part| context.update(part)));
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

/// Checks for whom a content is encrypted, and returns the key id and the wrap of each.
fn receivers_of(
    sealed_for: Vec<v1::SealedFor>,
    key_id: &str,
    is_broadcast: bool,
) -> Result<BTreeMap<String, (String, Bytes)>, BadField> {
    let bad = |problem: String| Err(convert::bad("sealed_for", problem));
    if sealed_for.is_empty() != (key_id != CARRIER) {
        return bad(format!(
            "it has {} entries, and key_id is {key_id:?}; set both, with the key_id {CARRIER:?}",
            sealed_for.len()
        ));
    }
    let most = if is_broadcast { MAX_TARGETS } else { 1 };
    if sealed_for.len() > most {
        return bad(format!("it has {} entries, the most is {most}", sealed_for.len()));
    }
    let mut receivers = BTreeMap::new();
    for v1::SealedFor { agent, key_id, wrap } in sealed_for {
        if !(1..=MAX_NAME_BYTES).contains(&agent.len()) {
            let (excerpt, bytes) = (convert::excerpt(&agent), agent.len());
            return bad(format!("the name {excerpt:?} has {bytes} bytes, must have 1 to {MAX_NAME_BYTES}"));
        }
        if !is_content(&key_id) || key_id.len() > MAX_KEY_ID_BYTES || wrap.len() != WRAP_BYTES {
            return bad(format!("the key for {:?} is malformed; seal the message again", convert::excerpt(&agent)));
        }
        check_text("sealed_for", &key_id, MAX_KEY_ID_BYTES)?;
        if let Some(_twice) = receivers.insert(agent.clone(), (key_id, wrap)) {
            return bad(format!("it names {:?} twice", convert::excerpt(&agent)));
        }
    }
    Ok(receivers)
}

fn check_text(field: &'static str, text: &str, most: usize) -> Result<(), BadField> {
    if text.len() > most {
        return Err(convert::bad(field, format!("it has {} bytes, the most is {most}", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(convert::bad(field, "it has a control character; remove it"));
    }
    Ok(())
}

fn check_addressing(address: &Address, is_broadcast: bool, is_sealed: bool) -> Result<(), BadField> {
    if address.is_group() && !is_broadcast {
        return Err(convert::bad("to", "it stands for several agents; set `broadcast`"));
    }
    if is_sealed && (is_broadcast || !matches!(address, Address::Agent(_))) {
        return Err(convert::bad("key_id", "a sealed message is for one agent; address it by its name"));
    }
    Ok(())
}

fn ttl(deadline: Option<WireDuration>, is_durable: bool) -> Result<u64, BadField> {
    let (default, most) =
        if is_durable { (DEFAULT_DURABLE_MS, MAX_LETTER_TTL_MS) } else { (DEFAULT_DEADLINE_MS, MAX_DEADLINE_MS) };
    let ttl = convert::millis("deadline", deadline)?.unwrap_or(default);
    if !(1..=most).contains(&ttl) {
        let [ttl, least, most] = [ttl, 1, most].map(|ms| convert::span_text(Duration::from_millis(ms)));
        let durable = if is_durable { "" } else { "; a durable message may have 7 days" };
        return Err(convert::bad("deadline", format!("it is {ttl}, must be from {least} to {most}{durable}")));
    }
    Ok(ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> v1::SendMessageRequest {
        v1::SendMessageRequest { to: "b".into(), r#type: "note".into(), ..v1::SendMessageRequest::default() }
    }

    fn check(change: impl FnOnce(&mut v1::SendMessageRequest)) -> Result<Draft, String> {
        let mut request = request();
        change(&mut request);
        Draft::check(request, "client:x", || 9, 3).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_has_defaults() {
        let draft = check(|_| {}).expect("a message");
        assert_eq!((draft.id, draft.ttl), (LetterId(9), DEFAULT_DEADLINE_MS));
        let letter = draft.letter_to("b");
        assert_eq!((letter.priority, letter.sent, letter.check()), (DEFAULT_PRIORITY, 3, Ok(())));
        let durable = check(|request| request.durable = true).expect("a message");
        assert_eq!(durable.ttl, DEFAULT_DURABLE_MS);
    }

    #[test]
    fn every_field_has_its_limit() {
        let text = |len: usize| "x".repeat(len);
        let millis =
            |ms: u64| Some(WireDuration { seconds: (ms / 1000) as i64, nanos: (ms % 1000) as i32 * 1_000_000 });
        type Change<'a> = &'a dyn Fn(&mut v1::SendMessageRequest);
        let good: [Change<'_>; 7] = [
            &|request| request.r#type = text(MAX_TYPE_BYTES),
            &|request| request.payload = vec![0; MAX_PAYLOAD_BYTES].into(),
            &|request| (request.key_id, request.payload) = (text(MAX_KEY_ID_BYTES), vec![0; MAX_LETTER_BYTES].into()),
            &|request| request.priority = 10,
            &|request| request.deadline = millis(MAX_DEADLINE_MS),
            &|request| (request.deadline, request.durable) = (millis(MAX_LETTER_TTL_MS), true),
            &|request| (request.to, request.broadcast) = ("everyone".into(), true),
        ];
        for (n, change) in good.into_iter().enumerate() {
            assert!(check(change).is_ok(), "{n}: {:?}", check(change));
        }
        let bad: [(&str, Change<'_>); 14] = [
            ("id", &|request| request.id = "seven".into()),
            ("to", &|request| request.to = String::new()),
            ("to", &|request| request.to = "everyone".into()),
            ("type", &|request| request.r#type = String::new()),
            ("type", &|request| request.r#type = text(MAX_TYPE_BYTES + 1)),
            ("type", &|request| request.r#type = RELAY_TYPE.into()),
            ("type", &|request| request.r#type = "a\nb".into()),
            ("payload", &|request| request.payload = vec![0; MAX_PAYLOAD_BYTES + 1].into()),
            ("payload", &|request| {
                (request.key_id, request.payload) = ("k".into(), vec![0; MAX_LETTER_BYTES + 1].into())
            }),
            ("key_id", &|request| request.key_id = text(MAX_KEY_ID_BYTES + 1)),
            ("key_id", &|request| (request.key_id, request.to) = ("k".into(), "role:worker".into())),
            ("priority", &|request| request.priority = 11),
            ("deadline", &|request| request.deadline = millis(0)),
            ("deadline", &|request| request.deadline = millis(MAX_DEADLINE_MS + 1)),
        ];
        for (field, change) in bad {
            let problem = check(change).expect_err(field);
            assert!(problem.starts_with(field), "{field}: {problem}");
        }
    }

    #[test]
    fn a_deadline_that_is_too_long_is_told_in_minutes_and_days() {
        let check = |seconds: i64, durable: bool| {
            let deadline = Some(WireDuration { seconds, nanos: 0 });
            check(|request| (request.deadline, request.durable) = (deadline, durable)).expect_err("it is too long")
        };
        let volatile = check(660, false);
        assert_eq!(volatile, "deadline: it is 11m, must be from 1ms to 10m; a durable message may have 7 days");
        assert_eq!(check(8 * 86_400, true), "deadline: it is 8 days, must be from 1ms to 7 days");
    }

    #[test]
    fn a_content_is_for_the_receivers_that_it_is_sealed_for_and_each_gets_its_own_wrap() {
        let of = |agent: &str, wrap: usize| v1::SealedFor {
            agent: agent.into(),
            key_id: format!("w.{agent}"),
            wrap: vec![agent.len() as u8; wrap].into(),
        };
        let sealed = |broadcast: bool, key_id: &str, sealed_for: Vec<v1::SealedFor>| {
            check(|request| {
                (request.to, request.broadcast, request.key_id) = ("role:worker".into(), broadcast, key_id.into());
                (request.sealed_for, request.payload) = (sealed_for, Bytes::from_static(b"content"));
            })
        };
        let both = sealed(true, CARRIER, vec![of("aa", WRAP_BYTES), of("b", WRAP_BYTES)]).expect("a message");
        assert_eq!(both.sealed_for().collect::<Vec<_>>(), ["aa", "b"]);
        assert_eq!(both.readable(), None);
        let letter = both.letter_to("aa");
        assert_eq!((&*letter.key_id, letter.payload.len(), letter.check()), ("w.aa", both.letter_bytes(), Ok(())));
        assert_eq!(letter.payload, [&[2; WRAP_BYTES][..], b"content"].concat());
        assert_eq!(letter.digest, both.letter_to("b").digest, "sealed anew, it is the same message");
        assert!(sealed(false, CARRIER, vec![of("aa", WRAP_BYTES)]).is_ok());
        for (broadcast, key_id, sealed_for) in [
            (false, CARRIER, vec![of("aa", WRAP_BYTES), of("b", WRAP_BYTES)]),
            (true, CARRIER, vec![of("b", WRAP_BYTES), of("b", WRAP_BYTES)]),
            (true, CARRIER, Vec::new()),
            (true, "", vec![of("b", WRAP_BYTES)]),
            (true, CARRIER, vec![of("b", WRAP_BYTES - 1)]),
            (true, CARRIER, vec![of("b", WRAP_BYTES + 1)]),
            (true, CARRIER, vec![v1::SealedFor { key_id: "k".into(), ..of("b", WRAP_BYTES) }]),
            (true, CARRIER, (0..=MAX_TARGETS).map(|n| of(&format!("a-{n}"), WRAP_BYTES)).collect()),
        ] {
            let problem = sealed(broadcast, key_id, sealed_for).expect_err("malformed");
            assert!(problem.starts_with("sealed_for"), "{problem}");
        }
        let most = MAX_PAYLOAD_BYTES + CONTENT_OVERHEAD - WRAP_BYTES;
        for (bytes, is_ok) in [(most, true), (most + 1, false)] {
            let large = check(|request| {
                (request.key_id, request.sealed_for) = (CARRIER.into(), vec![of("b", WRAP_BYTES)]);
                request.payload = vec![0; bytes].into();
            });
            assert_eq!(large.is_ok(), is_ok, "{bytes}");
        }
    }

    #[test]
    fn the_receivers_of_a_sealed_message_have_short_names_and_count_while_it_is_posted() {
        let of = |name: usize, key_id: usize| v1::SealedFor {
            agent: "n".repeat(name),
            key_id: format!("w.{}", "k".repeat(key_id - 2)),
            wrap: vec![0; WRAP_BYTES].into(),
        };
        let message = |sealed_for: Vec<v1::SealedFor>| v1::SendMessageRequest {
            key_id: CARRIER.into(),
            to: "everyone".into(),
            broadcast: true,
            payload: Bytes::from_static(b"content"),
            sealed_for,
            ..request()
        };
        let checked = |name, key_id| Draft::check(message(vec![of(name, key_id)]), "client:x", || 9, 3);
        for (name, key_id, is_ok) in [
            (0, 9, false),
            (1, 9, true),
            (MAX_NAME_BYTES, MAX_KEY_ID_BYTES, true),
            (MAX_NAME_BYTES + 1, 9, false),
            (1, MAX_KEY_ID_BYTES + 1, false),
        ] {
            assert_eq!(checked(name, key_id).is_ok(), is_ok, "{name} {key_id}");
        }
        let far_too_long = checked(1 << 20, 9).expect_err("the name is too long").to_string();
        assert!(far_too_long.len() < 1024, "{far_too_long}");
        let each = WRAP_BYTES + SEALED_FOR_BYTES;
        assert_eq!(posting_bytes(&message(vec![of(5, 9), of(6, 10)])), b"content".len() + 5 + 9 + 6 + 10 + 2 * each);
        let mut draft = checked(5, 9).expect("a message");
        draft.drop_payload();
        assert_eq!((draft.sealed_for().len(), draft.letter_bytes()), (0, 0));
    }

    #[test]
    fn the_messages_of_a_broadcast_have_ids_of_their_own_which_are_the_same_each_time() {
        let broadcast = |id: u128| {
            check(|request| {
                (request.to, request.broadcast) = ("role:worker".into(), true);
                request.id = LetterId(id).to_string();
            })
            .expect("a message")
        };
        let (first, other) = (broadcast(1), broadcast(2));
        assert_eq!(first.id_to("a"), broadcast(1).id_to("a"));
        let ids = [first.id, first.id_to("a"), first.id_to("b"), other.id_to("a")];
        assert!((1..ids.len()).all(|n| !ids[..n].contains(&ids[n])), "{ids:?}");
        assert_eq!(first.letter_to("a").digest, first.letter_to("b").digest);
    }
}
