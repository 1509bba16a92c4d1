//! Passes messages to the processes that are attached to the agent, and sends theirs.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use robeing_proto::{
    v1::{MessageCode, MessageStatus},
    worker::v1::{Message, SendCode, SendMessage, SendOutcome, message_outcome},
};
use tokio::time::Instant;

use super::{Delivery, Handler, HandlerOutcome};
use crate::{
    executor::worker::{Post, WorkerMail},
    mailbox::sending::{DurableSender, NotSent, SEND_WITHIN},
    messaging::{
        Messenger, Outcome, Outgoing, PacketId, Priority,
        driver::NoReply,
        packet::{DEFAULT_DEADLINE_MS, PacketError},
    },
};

/// Passes messages to attached processes that handle messages.
pub struct WorkerHandler(pub Arc<WorkerMail>);

#[async_trait]
impl Handler for WorkerHandler {
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome {
        let Delivery { packet, deadline } = delivery;
        let message = Message {
            id: packet.id.to_string(),
            sender: (*packet.sender).into(),
            receiver: (*packet.receiver).into(),
            r#type: (*packet.kind).into(),
            payload: packet.payload,
            priority: packet.priority.get(),
            timestamp_ms: packet.timestamp_ms,
            deadline_in_ms: deadline.saturating_duration_since(Instant::now()).as_millis() as u64,
            reply_to: packet.reply_to.map(|id| id.to_string()).unwrap_or_default(),
            key_id: packet.key_id.as_deref().unwrap_or_default().into(),
            resent: packet.resent,
        };
        match self.0.deliver(message).await {
            Some(message_outcome::Outcome::Accepted(accepted)) => HandlerOutcome::Accepted { reply: accepted.reply },
            Some(message_outcome::Outcome::Refused(refused)) => HandlerOutcome::Refused { reason: refused.reason },
            None => HandlerOutcome::Refused {
                reason: "the process answered without an outcome; it must set accepted or refused".to_owned(),
            },
        }
    }

    fn name(&self) -> &'static str {
        "worker"
    }
}

/// How long a durable message is kept, unless its sender says otherwise.
const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Sends the messages of attached processes.
pub struct MessengerPost {
    /// Sends messages to other agents directly.
    pub messenger: Messenger,
    /// Sends durable ones to the coordinators.
    pub durable: DurableSender,
}

impl MessengerPost {
    /// Sends a durable message, sealed. Where plaintext is accepted it is not sealed: it may arrive under another name, and
    /// its receiver could not open it.
    async fn send_durable(&self, message: SendMessage) -> SendOutcome {
        let seq = message.seq;
        let refused = |reason: String| answer(seq, &Outcome::refused(reason));
        if message.ask || message.without_ack || !message.reply_to.is_empty() {
            return refused("a durable message can't be sent with ask, without_ack or reply_to".to_owned());
        }
        let ttl = match message.deadline_in_ms {
            0 => KEPT_FOR,
            millis => Duration::from_millis(millis),
        };
        let outgoing = match outgoing(SendMessage { deadline_in_ms: 0, ..message }) {
            Ok(outgoing) if self.durable.keeps_name() => {
                match self.messenger.seal_letter(outgoing, SEND_WITHIN).await {
                    Ok(sealed) => sealed,
                    Err(outcome) => return answer(seq, &outcome),
                }
            }
            Ok(outgoing) => outgoing,
            Err(reason) => return refused(reason),
        };
        let is_sealed = outgoing.key_id.is_some();
        match self.durable.send_durable(outgoing, ttl).await {
            // It is the reply to an earlier sending of the message, sealed for that alone.
            Ok(status) if is_sealed => kept(seq, MessageStatus { reply: None, ..status }),
            Ok(status) => kept(seq, status),
            Err(error @ NotSent::Refused(_)) => refused(error.to_string()),
            Err(error @ NotSent::Unconfirmed { .. }) => {
                SendOutcome { seq, code: SendCode::Away.into(), reason: error.to_string(), reply: None }
            }
        }
    }
}

/// Converts what became of a durable message.
fn kept(seq: u64, status: MessageStatus) -> SendOutcome {
    let code = match status.code() {
        MessageCode::Accepted => SendCode::Accepted,
        MessageCode::Kept => SendCode::Kept,
        MessageCode::Refused | MessageCode::Unsealable | MessageCode::Unspecified => SendCode::Refused,
        MessageCode::NoSuchAgent => SendCode::NoSuchAgent,
        MessageCode::Away => SendCode::Away,
        MessageCode::DeadlinePassed => SendCode::DeadlinePassed,
        MessageCode::Overloaded => SendCode::Overloaded,
    };
    SendOutcome { seq, code: code.into(), reason: status.reason, reply: status.reply }
}

#[async_trait]
impl Post for MessengerPost {
    async fn send(&self, message: SendMessage) -> SendOutcome {
        if message.durable {
            return self.send_durable(message).await;
        }
        let (seq, is_ask) = (message.seq, message.ask);
        let outgoing = match outgoing(message) {
            Ok(outgoing) => outgoing,
            Err(reason) => return answer(seq, &Outcome::refused(reason)),
        };
        if !is_ask {
            return answer(seq, &self.messenger.send(outgoing).await);
        }
        match self.messenger.ask(outgoing).await {
            Ok(reply) => answer(seq, &Outcome::accepted(Some(reply.payload))),
            Err(NoReply::NotAccepted(outcome)) => answer(seq, &outcome),
            Err(error) => {
                SendOutcome { seq, code: SendCode::DeadlinePassed.into(), reason: error.to_string(), reply: None }
            }
        }
    }
}

/// Reads what a process sends.
pub(crate) fn outgoing(message: SendMessage) -> Result<Outgoing, String> {
    let id = |text: &str| (!text.is_empty()).then(|| text.parse::<PacketId>()).transpose();
    let reason = |error: PacketError| error.to_string();
    let to = message.to.parse().map_err(|error: crate::messaging::routing::AddressError| error.to_string())?;
    let deadline = if message.deadline_in_ms == 0 { DEFAULT_DEADLINE_MS } else { message.deadline_in_ms };
    Ok(Outgoing {
        id: id(&message.id).map_err(reason)?,
        priority: Priority::new(message.priority).map_err(reason)?,
        requires_ack: !message.without_ack || message.ask,
        deadline: Duration::from_millis(deadline),
        reply_to: id(&message.reply_to).map_err(reason)?,
        ..Outgoing::new(to, message.r#type, message.payload)
    })
}

fn answer(seq: u64, outcome: &Outcome) -> SendOutcome {
    let code = match outcome {
        Outcome::Accepted { .. } => SendCode::Accepted,
        Outcome::Sent => SendCode::Sent,
        Outcome::Refused { .. } => SendCode::Refused,
        Outcome::NoSuchAgent { .. } => SendCode::NoSuchAgent,
        Outcome::Away { .. } => SendCode::Away,
        Outcome::DeadlinePassed { .. } => SendCode::DeadlinePassed,
        Outcome::Overloaded { .. } => SendCode::Overloaded,
    };
    let reply = match outcome {
        Outcome::Accepted { reply, .. } => reply.clone(),
        _ => None,
    };
    let reason = match outcome {
        Outcome::Accepted { reply_forgotten: true, .. } => {
            "the reply is not kept any more, or too large for a messenger to bring".to_owned()
        }
        Outcome::Accepted { reply: None, reply_is_sealed: true, .. } => {
            "the agent replied, but what a messenger brought of it can't be opened".to_owned()
        }
        Outcome::Accepted { .. } | Outcome::Sent => String::new(),
        Outcome::Refused { reason }
        | Outcome::NoSuchAgent { reason }
        | Outcome::Away { reason }
        | Outcome::Overloaded { reason } => reason.clone(),
        Outcome::DeadlinePassed { .. } => outcome.to_string(),
    };
    SendOutcome { seq, code: code.into(), reason, reply }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_sends_is_checked() {
        let good = || SendMessage { to: "b".into(), r#type: "t".into(), ..SendMessage::default() };
        let read = outgoing(good()).unwrap();
        assert_eq!((read.requires_ack, read.priority.get(), read.deadline), (true, 5, Duration::from_secs(30)));
        assert!(!outgoing(SendMessage { without_ack: true, ..good() }).unwrap().requires_ack);
        for bad in [
            SendMessage { to: String::new(), ..good() },
            SendMessage { priority: 11, ..good() },
            SendMessage { reply_to: "x".into(), ..good() },
            SendMessage { id: "x".into(), ..good() },
        ] {
            assert!(outgoing(bad).is_err());
        }
    }

    #[test]
    fn every_outcome_has_its_code() {
        let passed = answer(7, &Outcome::DeadlinePassed { maybe_handled: true });
        assert_eq!((passed.seq, passed.code()), (7, SendCode::DeadlinePassed));
        assert!(passed.reason.contains("may have been handled"));
        let accepted = answer(1, &Outcome::accepted(Some("yes".into())));
        assert_eq!((accepted.code(), accepted.reply.as_deref()), (SendCode::Accepted, Some(&b"yes"[..])));
    }
}
