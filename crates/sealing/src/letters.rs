//! Seals a client's message for its receivers, and opens their replies. Pure, but for random numbers.
//!
//! The client asks a coordinator who the receivers are, and for their keys ([`ResolveMessageResponse`]), seals the
//! message for them, and sends it. It believes the coordinator about the keys, as agents do, and keeps what opens the
//! replies until it has them.

use std::collections::HashMap;

use robeing_platform::Random;
use robeing_proto::v1::{
    MessageCode, MessageReceiver, MessageStatus, ResolveMessageRequest, ResolveMessageResponse, SealedFor,
    SendMessageRequest,
};

use super::{About, CARRIER, Content, ReplyKey, SealingError, SealingKey};

/// A message as it is to be sent.
#[derive(Debug)]
pub enum Prepared {
    /// Sealed for its receivers.
    Sealed(SealedMessage),
    /// As it is: it is sealed already, or the fleet is one in which messages need not be sealed, and a receiver has no
    /// key.
    Plain(SendMessageRequest),
}

/// A message that is sealed for its receivers.
#[derive(Debug)]
pub struct SealedMessage {
    /// What is to be sent; `None`: no receiver is left.
    pub request: Option<SendMessageRequest>,
    /// What became of the message to those for whom it can't be sealed, and to those whom the coordinator did not find.
    unsent: Vec<MessageStatus>,
    sender: String,
    kind: String,
    /// What opens the replies, by the id of the message to each receiver: the receiver, and the secret.
    replies: HashMap<String, (String, ReplyKey)>,
}

/// Returns the request by which a client learns for whom to seal a message; `None`: it is sealed already.
pub fn resolving(message: &SendMessageRequest) -> Option<ResolveMessageRequest> {
    let SendMessageRequest { id, to, durable, broadcast, key_id, .. } = message;
    let request = ResolveMessageRequest { id: id.clone(), to: to.clone(), durable: *durable, broadcast: *broadcast };
    key_id.is_empty().then_some(request)
}

/// Seals a message for the receivers that a coordinator has named. A wrap for a receiver takes about 0.1 ms.
///
/// # Errors
/// [`SealingError`] if the payload is too large.
pub fn seal(
    message: SendMessageRequest,
    resolved: ResolveMessageResponse,
    random: &dyn Random,
) -> Result<Prepared, SealingError> {
    let ResolveMessageResponse { sender, must_seal, receivers, nobody } = resolved;
    let keyed = receivers.into_iter().map(|receiver| {
        let key = SealingKey::from_bytes(&receiver.sealing_key).ok();
        (receiver, key)
    });
    let (keyed, keyless): (Vec<_>, Vec<_>) = keyed.partition(|(_, key)| key.is_some());
    if !keyless.is_empty() && !must_seal {
        return Ok(Prepared::Plain(message));
    }
    let content = Content::new(&message.payload, random)?;
    let mut sealed = SealedMessage {
        request: None,
        unsent: nobody,
        sender,
        kind: message.r#type.clone(),
        replies: HashMap::with_capacity(keyed.len()),
    };
    let mut sealed_for = Vec::with_capacity(keyed.len());
    sealed.unsent.extend(keyless.into_iter().map(|(receiver, _)| unsealable(receiver)));
    for (receiver, key) in keyed.into_iter().filter_map(|(receiver, key)| Some((receiver, key?))) {
        let id = number(&receiver.id);
        let about = About { id, sender: &sealed.sender, agent: &receiver.agent, kind: &sealed.kind };
        match content.wrap(&about, &key, random) {
            Ok((wrap, reply)) => {
                let (agent, key_id) = (receiver.agent.clone(), Content::key_id(&key));
                sealed_for.push(SealedFor { agent, key_id, wrap });
                sealed.replies.insert(receiver.id, (receiver.agent, reply));
            }
            // It is no key that anything can be sealed for.
            Err(_) => sealed.unsent.push(unsealable(receiver)),
        }
    }
    let payload = content.ciphertext().clone();
    sealed.request = (!sealed_for.is_empty()).then(|| SendMessageRequest {
        payload,
        key_id: CARRIER.to_owned(),
        sealed_for,
        ..message
    });
    Ok(Prepared::Sealed(sealed))
}

/// Returns the number that an id as text stands for, without its dashes; 0 if it is none, which the receiver refuses.
fn number(id: &str) -> u128 {
    u128::from_str_radix(&id.replace('-', ""), 16).unwrap_or_default()
}

fn unsealable(receiver: MessageReceiver) -> MessageStatus {
    let MessageReceiver { id, agent, .. } = receiver;
    let reason = format!(
        "{agent} has no key for sealed messages, and this fleet's messages are sealed; it gets one when it joins with \
         this version"
    );
    MessageStatus { id, agent, code: MessageCode::Unsealable.into(), reason, ..MessageStatus::default() }
}

impl SealedMessage {
    /// Opens the replies in what became of the message, and adds what became of it to those whom it was not sent to.
    pub fn finish(mut self, mut outcomes: Vec<MessageStatus>) -> Vec<MessageStatus> {
        outcomes.iter_mut().for_each(|outcome| self.open_reply(outcome));
        outcomes.append(&mut self.unsent);
        outcomes
    }

    fn open_reply(&self, outcome: &mut MessageStatus) {
        let Some(reply) = outcome.reply.take() else { return };
        let opened = self.replies.get(&outcome.id).and_then(|(agent, key)| {
            let about = About { id: number(&outcome.id), sender: &self.sender, agent, kind: &self.kind };
            key.open(&about, &reply).ok()
        });
        if opened.is_none() {
            outcome.reason =
                "the agent replied, but sealed for whoever sent the message first, who alone can read it".to_owned();
        }
        outcome.sealed_reply = opened.is_none();
        outcome.reply = opened;
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::OsRandom;

    use super::*;
    use crate::{OpeningKey, WRAP_BYTES};

    const ID: &str = "00000000-0000-4000-8000-000000000007";

    fn message(broadcast: bool) -> SendMessageRequest {
        SendMessageRequest {
            id: ID.into(),
            to: "role:worker".into(),
            r#type: "t".into(),
            payload: "a secret".into(),
            broadcast,
            ..SendMessageRequest::default()
        }
    }

    fn receiver(agent: &str, key: Option<&OpeningKey>) -> MessageReceiver {
        let sealing_key = key.map(|key| key.public().to_bytes().to_vec()).unwrap_or_default();
        MessageReceiver { id: ID.into(), agent: agent.into(), sealing_key: sealing_key.into() }
    }

    fn resolved(must_seal: bool, receivers: Vec<MessageReceiver>) -> ResolveMessageResponse {
        ResolveMessageResponse { sender: "client:ann".into(), must_seal, receivers, nobody: Vec::new() }
    }

    fn sealed(message: SendMessageRequest, resolved: ResolveMessageResponse) -> SealedMessage {
        match seal(message, resolved, &OsRandom).expect("it can be sealed") {
            Prepared::Sealed(sealed) => sealed,
            Prepared::Plain(plain) => panic!("it is not sealed: {plain:?}"),
        }
    }

    #[test]
    fn the_receiver_reads_the_message_and_only_its_sender_the_reply() {
        let key = OpeningKey::generate(&OsRandom);
        let first = sealed(message(false), resolved(true, vec![receiver("b", Some(&key))]));
        let second = sealed(message(false), resolved(true, vec![receiver("b", Some(&key))]));
        let request = first.request.clone().expect("it has a receiver");
        let of = &request.sealed_for[0];
        assert_eq!(
            (&*request.key_id, &*request.to, &*of.agent, of.wrap.len()),
            (CARRIER, "role:worker", "b", WRAP_BYTES)
        );
        let payload = Content::payload(&of.wrap, &request.payload);
        let about = About { id: number(ID), sender: "client:ann", agent: "b", kind: "t" };
        assert_eq!(key.open(&of.key_id, &about, &payload).as_deref(), Ok(&b"a secret"[..]));
        let reply = key.reply_key(&payload).and_then(|key| key.seal(&about, b"yes", &OsRandom)).expect("it is sealed");
        let outcome = || vec![MessageStatus { id: ID.into(), reply: Some(reply.clone()), ..MessageStatus::default() }];
        let mine = first.finish(outcome());
        assert_eq!((mine[0].reply.as_deref(), mine[0].sealed_reply), (Some(&b"yes"[..]), false));
        let others = second.finish(outcome());
        assert_eq!((others[0].reply.as_deref(), others[0].sealed_reply), (None, true));
        assert!(others[0].reason.contains("sealed"), "{others:?}");
    }

    #[test]
    fn without_a_key_a_message_is_plain_only_where_that_is_allowed() {
        let key = OpeningKey::generate(&OsRandom);
        let both = || vec![receiver("a", Some(&key)), receiver("b", None)];
        let plain = seal(message(true), resolved(false, both()), &OsRandom).expect("it is prepared");
        assert!(matches!(&plain, Prepared::Plain(plain) if *plain == message(true)), "{plain:?}");
        let strict = sealed(message(true), resolved(true, both()));
        let request = strict.request.clone().expect("one receiver is left");
        assert_eq!(request.sealed_for.iter().map(|of| &*of.agent).collect::<Vec<_>>(), ["a"]);
        let outcomes = strict.finish(Vec::new());
        assert_eq!((&*outcomes[0].agent, outcomes[0].code()), ("b", MessageCode::Unsealable));
        let zero = MessageReceiver { sealing_key: vec![0; 32].into(), ..receiver("z", None) };
        let none = sealed(message(false), resolved(true, vec![zero]));
        assert!(none.request.is_none(), "no key");
        assert_eq!(none.finish(Vec::new())[0].code(), MessageCode::Unsealable);
    }

    #[test]
    fn a_message_that_nobody_can_get_is_not_sent_and_one_that_is_sealed_is_left_alone() {
        let away = MessageStatus { code: MessageCode::Away.into(), ..MessageStatus::default() };
        let nobody = ResolveMessageResponse { nobody: vec![away.clone()], ..resolved(true, Vec::new()) };
        let nobody = sealed(message(false), nobody);
        assert!(nobody.request.is_none());
        assert_eq!(nobody.finish(Vec::new()), [away]);
        assert!(resolving(&message(true)).is_some_and(|request| request.broadcast));
        assert_eq!(resolving(&SendMessageRequest { key_id: "k".into(), ..message(false) }), None);
    }
}
