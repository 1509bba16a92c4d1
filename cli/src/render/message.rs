//! Messages, and what became of them, for people.

use std::str;

use robeing_proto::v1::{InboxMessage, MessageCode, MessageStatus};

use super::{
    table::table,
    words::{instant, message_word, preview, printable},
};

/// Formats what became of messages as a table.
pub fn outcomes_table(outcomes: &[MessageStatus]) -> String {
    if outcomes.is_empty() {
        return "no agents\n".into();
    }
    table(
        ["AGENT", "OUTCOME", "REASON", "ID"],
        outcomes.iter().map(|status| {
            [status.agent.clone(), message_word(status.code()), status.reason.clone(), status.id.clone()]
        }),
    )
}

/// Formats what became of one message as a sentence.
pub fn outcome_text(status: &MessageStatus) -> String {
    let (agent, reason, id) = (printable(&status.agent), printable(&status.reason), printable(&status.id));
    let text = match status.code() {
        MessageCode::Accepted if status.sealed_reply => {
            format!("accepted by {agent}, whose reply is sealed for whoever sent the message")
        }
        MessageCode::Accepted => match &status.reply {
            Some(reply) => format!("accepted by {agent}, which replied: {}", preview(reply)),
            None if reason.is_empty() => format!("accepted by {agent}"),
            None => format!("accepted by {agent}: {reason}"),
        },
        MessageCode::Kept => format!("kept for {agent}; `robeing message {id}` shows what becomes of it"),
        MessageCode::Refused => format!("refused by {agent}: {reason}"),
        code if agent.is_empty() => format!("{}: {reason}", message_word(code)),
        code => format!("{} ({agent}): {reason}", message_word(code)),
    };
    text + "\n"
}

/// Formats why there is no reply to a message as a sentence.
pub fn unanswered_text(status: &MessageStatus) -> String {
    let (agent, reason) = (printable(&status.agent), printable(&status.reason));
    match status.code() {
        MessageCode::Accepted if reason.is_empty() => format!("{agent} has accepted the message and did not reply\n"),
        MessageCode::Accepted => format!("{agent} has accepted the message: {reason}\n"),
        _ => outcome_text(status),
    }
}

/// Formats the messages of an inbox as a table.
pub fn inbox_table(messages: &[InboxMessage]) -> String {
    if messages.is_empty() {
        return "no messages\n".into();
    }
    table(["TIME", "SENDER", "TO", "TYPE", "PRIORITY", "MESSAGE"], messages.iter().map(columns))
}

/// Formats a message as a line that needs no other lines: the same columns, without alignment.
pub fn inbox_line(message: &InboxMessage) -> String {
    let columns = columns(message).map(|column| if column.is_empty() { "-".to_owned() } else { printable(&column) });
    format!("{}\n", columns.join("   "))
}

fn columns(message: &InboxMessage) -> [String; 6] {
    let time = instant(message.sent_at.as_ref()).map(|time| format!("{time:.3}")).unwrap_or_default();
    let text = str::from_utf8(&message.payload).map_or_else(|_| preview(&message.payload), str::to_owned);
    let (sender, receiver) = (message.sender.clone(), message.receiver.clone());
    [time, sender, receiver, message.r#type.clone(), message.priority.to_string(), text]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: MessageCode, agent: &str, reason: &str) -> MessageStatus {
        MessageStatus {
            id: "m-1".into(),
            agent: agent.into(),
            code: code.into(),
            reason: reason.into(),
            ..MessageStatus::default()
        }
    }

    #[test]
    fn what_became_of_a_message_is_one_sentence() {
        let replied = MessageStatus { reply: Some("42\n".into()), ..status(MessageCode::Accepted, "a", "") };
        let sealed = MessageStatus { sealed_reply: true, ..replied.clone() };
        for (status, text) in [
            (status(MessageCode::Accepted, "a", ""), "accepted by a\n"),
            (sealed, "accepted by a, whose reply is sealed for whoever sent the message\n"),
            (replied, "accepted by a, which replied: 42\n"),
            (status(MessageCode::Accepted, "a", "the reply was too large"), "accepted by a: the reply was too large\n"),
            (status(MessageCode::Kept, "a", "away"), "kept for a; `robeing message m-1` shows what becomes of it\n"),
            (status(MessageCode::Refused, "a", "too\x1b[1mbad"), "refused by a: too [1mbad\n"),
            (status(MessageCode::NoSuchAgent, "", "no agent"), "NoSuchAgent: no agent\n"),
            (status(MessageCode::Away, "a", "gone"), "Away (a): gone\n"),
        ] {
            assert_eq!(outcome_text(&status), text);
        }
    }

    #[test]
    fn a_question_says_why_it_has_no_reply() {
        for (status, text) in [
            (status(MessageCode::Accepted, "a", ""), "a has accepted the message and did not reply\n"),
            (
                status(MessageCode::Accepted, "a", "the reply was too large"),
                "a has accepted the message: the reply was too large\n",
            ),
            (status(MessageCode::Refused, "a", "too bad"), "refused by a: too bad\n"),
        ] {
            assert_eq!(unanswered_text(&status), text);
        }
    }

    #[test]
    fn a_broadcast_lists_every_agent_and_why_it_did_not_accept() {
        let outcomes = [status(MessageCode::Accepted, "a", ""), status(MessageCode::DeadlinePassed, "b", "30 s")];
        assert_eq!(
            outcomes_table(&outcomes),
            "AGENT   OUTCOME          REASON   ID\na       Accepted         -        m-1\nb       DeadlinePassed   30 s     m-1\n"
        );
        assert_eq!(outcomes_table(&[]), "no agents\n");
    }

    #[test]
    fn messages_of_an_inbox_are_shown_as_text_that_no_terminal_obeys() {
        let message = InboxMessage {
            sender: "client:ada".into(),
            receiver: "skill:ocr".into(),
            r#type: "text".into(),
            payload: "a\nb\x07".into(),
            priority: 5,
            sent_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            ..InboxMessage::default()
        };
        assert_eq!(inbox_line(&message), "2023-11-14T22:13:20.000Z   client:ada   skill:ocr   text   5   a b \n");
        let binary = InboxMessage { payload: vec![0xff, 0].into(), ..message };
        assert!(inbox_table(&[binary]).contains("(2 bytes)"));
        assert_eq!(inbox_table(&[]), "no messages\n");
    }
}
