//! `robeing send`, `robeing ask`, `robeing broadcast`, `robeing message` and `robeing inbox`.

use std::{
    io::{self, Write},
    time::Duration,
};

use robeing_client::{FleetClient, new_message_id};
use robeing_proto::v1::{
    GetMessageRequest, InboxMessage, MessageCode, MessageStatus, ReadInboxRequest, ReadInboxResponse,
    SendMessageRequest,
};
use uuid::Uuid;

use super::{connect::client, duration};
use crate::{
    args::{AskArgs, BroadcastArgs, Connection, Content, Format, InboxArgs, MessageArgs, SendArgs},
    error::CliError,
    exit::Exit,
    inputs::read_message,
    kubernetes::Access,
    render::{
        Document, inbox_line, inbox_table, note, outcome_text, outcomes_table, plural, print_list, print_one,
        unanswered_text, write_line,
    },
};

/// How long a message may take, unless its sender says otherwise.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a durable message is kept for its receiver, unless its sender says otherwise.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long one call waits for the next message of an inbox that is followed.
const FOLLOW_WAIT: Duration = Duration::from_secs(20);

pub(super) async fn send(args: SendArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let deadline = args.deadline.unwrap_or(if args.durable { KEPT } else { DEADLINE });
    let mut request = request(args.to, args.content, deadline)?;
    request.durable = args.durable;
    request.id = args.id.unwrap_or(request.id);
    let client = client(fleet, None, Access::Use).await?;
    let outcome = only(client.send_sealed(request).await?)?;
    print_one(&mut io::stdout().lock(), args.output.output, &outcome, outcome_text)?;
    Ok(exit_of(outcome.code()))
}

pub(super) async fn ask(args: AskArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let request = request(args.to, args.content, args.deadline)?;
    let client = client(fleet, None, Access::Use).await?;
    let outcome = only(client.send_sealed(request).await?)?;
    match (args.output.output, &outcome.reply, outcome.code()) {
        (Format::Table, Some(reply), MessageCode::Accepted) => io::stdout().lock().write_all(reply)?,
        (Format::Table, ..) => note(unanswered_text(&outcome).trim_end()),
        (format, ..) => print_one(&mut io::stdout().lock(), format, &outcome, outcome_text)?,
    }
    Ok(asked_exit(&outcome))
}

/// Returns the exit code of a question: without a reply, it was in vain.
fn asked_exit(outcome: &MessageStatus) -> Exit {
    match outcome.code() {
        MessageCode::Accepted if outcome.reply.is_none() => Exit::TaskFailed,
        code => exit_of(code),
    }
}

pub(super) async fn broadcast(args: BroadcastArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let to = args.to.clone();
    let mut request = request(args.to, args.content, args.deadline)?;
    request.broadcast = true;
    let client = client(fleet, None, Access::Use).await?;
    let outcomes = client.send_sealed(request).await?;
    print_list(&mut io::stdout().lock(), args.output.output, &outcomes, outcomes_table)?;
    if outcomes.is_empty() {
        note(&format!("no active agent fits the address {to}, so nobody got the message"));
    }
    let missed = outcomes.iter().filter(|outcome| outcome.code() != MessageCode::Accepted).count();
    if missed > 0 && outcomes.iter().any(|outcome| !outcome.agent.is_empty()) {
        note(&format!("{} of {} did not accept the message", missed, plural(outcomes.len(), "agent")));
    }
    Ok(broadcast_exit(&outcomes))
}

/// Returns the exit code of a broadcast to these agents.
fn broadcast_exit(outcomes: &[MessageStatus]) -> Exit {
    let is_nobody = |outcome: &MessageStatus| outcome.agent.is_empty() && outcome.code() == MessageCode::NoSuchAgent;
    if outcomes.iter().all(is_nobody) {
        return Exit::NotFound;
    }
    let is_accepted = |outcome: &MessageStatus| outcome.code() == MessageCode::Accepted;
    if outcomes.iter().all(is_accepted) { Exit::Success } else { Exit::TaskFailed }
}

pub(super) async fn show(args: MessageArgs, fleet: &Connection) -> Result<Exit, CliError> {
    if Uuid::parse_str(&args.id).is_err() {
        return Err(CliError::NotFound(no_message_id(&args.id)));
    }
    let client = client(fleet, None, Access::Use).await?;
    let request = GetMessageRequest { id: args.id, wait: args.wait.map(duration) };
    let outcome = client.get_message(request).await?;
    print_one(&mut io::stdout().lock(), args.output.output, &outcome, outcome_text)?;
    match outcome.code() {
        MessageCode::Kept if args.wait.is_some() => Ok(Exit::TimedOut),
        code => Ok(exit_of(code)),
    }
}

fn no_message_id(id: &str) -> String {
    format!("there is no message {id:?}: a message's id is a UUID, as `robeing send -o json` prints it")
}

pub(super) async fn inbox(args: InboxArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Use).await?;
    let wait = if args.follow { Some(FOLLOW_WAIT) } else { args.wait };
    let request =
        ReadInboxRequest { agent: args.agent.clone(), limit: args.limit, peek: args.peek, wait: wait.map(duration) };
    let format = args.output.output;
    if args.follow {
        return follow(&client, &request, format).await;
    }
    let ReadInboxResponse { messages, left } = client.read_inbox(request).await?;
    print_list(&mut io::stdout().lock(), format, &messages, inbox_table)?;
    // With --peek, those that were printed are left, too.
    let further = (left as usize).saturating_sub(if args.peek { messages.len() } else { 0 });
    if further > 0 && format == Format::Table {
        note(&format!("{} left in the inbox of {}", plural(further, "further message"), args.agent));
    }
    Ok(Exit::Success)
}

async fn follow(client: &FleetClient, request: &ReadInboxRequest, format: Format) -> Result<Exit, CliError> {
    loop {
        let read = client.read_inbox(request.clone()).await?;
        let mut out = io::stdout().lock();
        for message in &read.messages {
            print_line(&mut out, format, message)?;
        }
        out.flush()?;
    }
}

fn print_line(out: &mut dyn Write, format: Format, message: &InboxMessage) -> Result<(), CliError> {
    match format {
        Format::Table => Ok(out.write_all(inbox_line(message).as_bytes())?),
        _ => write_line(out, format, &Document::of(message)?),
    }
}

fn request(to: String, content: Content, deadline: Duration) -> Result<SendMessageRequest, CliError> {
    let payload = match (content.file, content.text) {
        (Some(file), _) => read_message(&file)?,
        (None, text) => text.unwrap_or_default().into_bytes(),
    };
    Ok(SendMessageRequest {
        id: new_message_id(),
        to,
        r#type: content.kind,
        payload: payload.into(),
        priority: content.priority,
        deadline: Some(duration(deadline)),
        ..SendMessageRequest::default()
    })
}

/// Returns what became of the one message.
fn only(outcomes: Vec<MessageStatus>) -> Result<MessageStatus, CliError> {
    let mut outcomes = outcomes.into_iter();
    outcomes.next().ok_or_else(|| CliError::NotFound("no agent fits the address".into()))
}

fn exit_of(code: MessageCode) -> Exit {
    match code {
        MessageCode::Accepted | MessageCode::Kept => Exit::Success,
        MessageCode::NoSuchAgent => Exit::NotFound,
        MessageCode::DeadlinePassed => Exit::TimedOut,
        MessageCode::Unsealable => Exit::Refused,
        MessageCode::Refused | MessageCode::Away | MessageCode::Overloaded | MessageCode::Unspecified => {
            Exit::TaskFailed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_accepted_or_is_kept_is_a_success() {
        for (code, exit) in [
            (MessageCode::Accepted, Exit::Success),
            (MessageCode::Kept, Exit::Success),
            (MessageCode::Refused, Exit::TaskFailed),
            (MessageCode::Away, Exit::TaskFailed),
            (MessageCode::Overloaded, Exit::TaskFailed),
            (MessageCode::NoSuchAgent, Exit::NotFound),
            (MessageCode::DeadlinePassed, Exit::TimedOut),
            (MessageCode::Unsealable, Exit::Refused),
        ] {
            assert_eq!(exit_of(code), exit, "{code:?}");
        }
        assert!(only(Vec::new()).is_err());
    }

    fn outcome(agent: &str, code: MessageCode) -> MessageStatus {
        MessageStatus { agent: agent.into(), code: code.into(), ..MessageStatus::default() }
    }

    #[test]
    fn a_question_without_a_reply_failed() {
        let accepted = outcome("a", MessageCode::Accepted);
        assert_eq!(asked_exit(&accepted), Exit::TaskFailed);
        assert_eq!(asked_exit(&MessageStatus { reply: Some("".into()), ..accepted }), Exit::Success);
        assert_eq!(asked_exit(&outcome("", MessageCode::NoSuchAgent)), Exit::NotFound);
    }

    #[test]
    fn a_broadcast_that_reaches_nobody_is_for_no_agent() {
        let (accepted, away) = (outcome("a", MessageCode::Accepted), outcome("b", MessageCode::Away));
        assert_eq!(broadcast_exit(&[]), Exit::NotFound);
        assert_eq!(broadcast_exit(&[outcome("", MessageCode::NoSuchAgent)]), Exit::NotFound);
        assert_eq!(broadcast_exit(&[outcome("", MessageCode::Refused)]), Exit::TaskFailed);
        assert_eq!(broadcast_exit(&[accepted.clone(), away]), Exit::TaskFailed);
        assert_eq!(broadcast_exit(&[accepted.clone(), accepted]), Exit::Success);
    }

    #[test]
    fn every_message_has_an_id_of_its_own() {
        let content = || Content { text: Some("hi".into()), file: None, kind: "text".into(), priority: 5 };
        let sent = || request("a".into(), content(), DEADLINE).expect("it is right");
        assert_ne!(sent().id, sent().id);
        assert_eq!((&*sent().payload, sent().deadline), (&b"hi"[..], Some(duration(DEADLINE))));
    }
}
