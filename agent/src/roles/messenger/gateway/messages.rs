//! Messages: sending them, and asking what became of them.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use robeing_proto::v1::{GetMessageRequest, MessageCode, MessageStatus, SendMessageRequest, SendMessageResponse};
use serde_json::json;

use super::{
    caller::Caller,
    forms::told,
    media::Media,
    problem::Problem,
    server::{Permit, Server},
    views::{MessageView, OutcomesView, outcome_name},
};

/// The path of messages.
pub const MESSAGES: &str = "/v1/messages";
/// How long a receiver has to decide if the message does not say.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

impl Server {
    /// Sends a message, and returns what became of it.
    pub(super) async fn send(
        &self,
        caller: &Caller,
        mut message: SendMessageRequest,
        wanted: Media,
        mut permit: Permit,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        if message.id.is_empty() {
            message.id = self.coordinators.new_id();
        }
        let wait = wait_of(&message);
        let (is_broadcast, id) = (message.broadcast, message.id.clone());
        // The message stays in memory while it is waited for.
        let room = permit.body.take();
        let waiting = self.waits(permit)?;
        let sent = self.until_stopped(self.coordinators.send_sealed(caller, message, wait)).await;
        drop((waiting, room));
        let answer = sent.unwrap_or_else(|| Err(stopping(&id)))?;
        if is_broadcast {
            return wanted.response(StatusCode::OK, &OutcomesView::from(&answer.outcomes[..]), &answer);
        }
        let status =
            answer.outcomes.first().map_or(StatusCode::INTERNAL_SERVER_ERROR, |outcome| http_of(outcome.code()));
        if status.is_success() {
            return wanted.response(status, &OutcomesView::from(&answer.outcomes[..]), &answer);
        }
        Err(failed(status, &answer))
    }

    /// Returns what became of a message.
    pub(super) async fn message(
        &self,
        caller: &Caller,
        id: &str,
        wanted: Media,
        wait: Option<Duration>,
        permit: Permit,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let until = wait.map(told).transpose().map_err(Problem::malformed)?;
        let request = GetMessageRequest { id: id.to_owned(), wait: until };
        let waiting = self.waits(permit)?;
        let asked = self.coordinators.message(caller, request, wait.unwrap_or_default());
        let asked = self.until_stopped(asked).await;
        drop(waiting);
        let status: MessageStatus = asked.unwrap_or_else(|| Err(stopping(id)))?;
        wanted.response(StatusCode::OK, &MessageView::from(&status), &status)
    }
}

/// Returns how long the answer to a message may take: a durable one is answered once it is kept.
fn wait_of(message: &SendMessageRequest) -> Duration {
    if message.durable {
        return Duration::ZERO;
    }
    let stated = message.deadline.and_then(|deadline| Duration::try_from(deadline).ok());
    // A longer one is refused by the coordinator.
    stated.unwrap_or(DEFAULT_DEADLINE).min(super::MAX_WAIT)
}

fn stopping(id: &str) -> tonic::Status {
    tonic::Status::unavailable(format!("this gateway stops; send the message {id} again with its id"))
}

/// Returns the status of what became of a message to one agent.
fn http_of(code: MessageCode) -> StatusCode {
    match code {
        MessageCode::Accepted => StatusCode::OK,
        MessageCode::Kept => StatusCode::ACCEPTED,
        MessageCode::Refused => StatusCode::UNPROCESSABLE_ENTITY,
        MessageCode::NoSuchAgent => StatusCode::NOT_FOUND,
        MessageCode::Away | MessageCode::Overloaded | MessageCode::Unsealable => StatusCode::SERVICE_UNAVAILABLE,
        MessageCode::DeadlinePassed => StatusCode::GATEWAY_TIMEOUT,
        MessageCode::Unspecified => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn failed(status: StatusCode, answer: &SendMessageResponse) -> Problem {
    let outcome = answer.outcomes.first();
    let name = outcome_name(outcome.map_or(MessageCode::Unspecified, MessageStatus::code));
    let reason = outcome.map_or("", |outcome| &outcome.reason);
    let detail = if reason.is_empty() { format!("the message was not accepted: {name}") } else { reason.to_owned() };
    let problem = Problem::new(status, &name.to_ascii_uppercase(), detail);
    let view = OutcomesView::from(&answer.outcomes[..]);
    let outcomes = serde_json::to_value(view).ok().and_then(|mut view| view.get_mut("outcomes").map(std::mem::take));
    let problem = problem.with("outcomes", outcomes.unwrap_or_else(|| json!([])));
    if status == StatusCode::SERVICE_UNAVAILABLE { problem.again() } else { problem }
}
