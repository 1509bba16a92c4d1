//! Messages, and what became of them.

use robeing_fleet::{Letter, LetterAnswer, LetterId, LetterOutcome};
use robeing_proto::{
    internal::v1 as internal,
    v1::{MessageCode, MessageStatus},
};

/// Returns what became of a letter, as far as it is known: `None` if its receiver has not decided.
pub fn letter_status(id: LetterId, agent: &str, outcome: Option<&LetterOutcome>) -> MessageStatus {
    let (code, reason, reply) = match outcome {
        None => (MessageCode::Kept, format!("the message is kept until {agent} has decided about it"), None),
        Some(LetterOutcome::Accepted) => (MessageCode::Accepted, String::new(), None),
        Some(LetterOutcome::Replied { reply }) => (MessageCode::Accepted, String::new(), Some(reply.clone())),
        Some(LetterOutcome::ReplyDropped) => {
            let reason = "the agent replied, but the reply was too large, or was not kept for long enough";
            (MessageCode::Accepted, reason.to_owned(), None)
        }
        Some(LetterOutcome::Refused { reason }) => (MessageCode::Refused, reason.clone(), None),
        Some(LetterOutcome::Expired) => {
            (MessageCode::DeadlinePassed, format!("{agent} has not decided in time, or was not there"), None)
        }
    };
    let (id, agent) = (id.to_string(), agent.to_owned());
    MessageStatus { id, agent, code: code.into(), reason, reply, ..MessageStatus::default() }
}

/// Returns that a message has this code for this reason.
pub fn unsettled(id: LetterId, agent: &str, code: MessageCode, reason: String) -> MessageStatus {
    let (id, agent) = (id.to_string(), agent.to_owned());
    MessageStatus { id, agent, code: code.into(), reason, ..MessageStatus::default() }
}

/// Converts a letter to the form in which its receiver gets it. It expires in so many milliseconds.
pub fn letter(letter: &Letter, expires_in_ms: u64, resent: bool) -> internal::Letter {
    internal::Letter {
        id: letter.id.0.to_be_bytes().to_vec().into(),
        sender: letter.sender.clone(),
        receiver: letter.to.clone(),
        r#type: letter.kind.clone(),
        payload: letter.payload.clone(),
        priority: letter.priority.into(),
        timestamp_ms: letter.sent,
        expires_in_ms,
        key_id: letter.key_id.clone(),
        resent,
    }
}

/// Reads the answer of a letter's receiver; `None` if it has no valid id.
pub fn settle_answer(answer: internal::LetterAnswer) -> Option<(LetterId, LetterAnswer)> {
    let internal::LetterAnswer { id, refused, reply, reply_dropped } = answer;
    let id = LetterId(u128::from_be_bytes((*id).try_into().ok()?));
    let answer = match (refused, reply) {
        (Some(reason), _) => LetterAnswer::Refused { reason },
        (None, Some(reply)) => LetterAnswer::Replied { reply },
        (None, None) if reply_dropped => LetterAnswer::ReplyDropped,
        (None, None) => LetterAnswer::Accepted,
    };
    Some((id, answer.within_limits()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_fleet::limits::MAX_LETTER_REPLY_BYTES;

    use super::*;

    #[test]
    fn an_answer_has_an_id_and_keeps_to_the_limits() {
        let answer = |id: usize, reply: Option<usize>| internal::LetterAnswer {
            id: vec![1; id].into(),
            reply: reply.map(|bytes| Bytes::from(vec![0; bytes])),
            ..internal::LetterAnswer::default()
        };
        let read = |id, reply| settle_answer(answer(id, reply)).map(|(_, answer)| answer);
        assert_eq!(read(16, None), Some(LetterAnswer::Accepted));
        assert_eq!(read(15, None), None);
        assert_eq!(read(17, None), None);
        let most = MAX_LETTER_REPLY_BYTES;
        assert_eq!(read(16, Some(most)), Some(LetterAnswer::Replied { reply: Bytes::from(vec![0; most]) }));
        assert_eq!(read(16, Some(most + 1)), Some(LetterAnswer::ReplyDropped));
    }
}
