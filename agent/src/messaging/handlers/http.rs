//! Passes messages to a server: a POST of the payload for each.
//!
//! The request carries `X-Robeing-Message-Id`, `-Sender`, `-Receiver`, `-Type`, `-Priority`, `-Timestamp` (Unix
//! milliseconds), `-Deadline-In-Ms`, `-Resent` (`true` or `false`), and where there is one `-Reply-To` and `-Key-Id`, each
//! with the prefix `X-Robeing-Message`. A 2xx answer accepts the message, and its body is the reply if it is not empty.
//! 3xx, and 4xx other than 408 and 429, refuse it with the start of the body as the reason. After any other status, or
//! if the server can't be reached, the request is repeated until the message's deadline, with the same id, and not
//! before the answer's `Retry-After`.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName},
};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use robeing_target::{Target, redacted};
use tokio::time::Instant;
use tracing::debug;

use super::{Delivery, Handler, HandlerError, HandlerOutcome};
use crate::{
    executor::http::{Transport, retry_after, start_of, unreachable, worth_another_attempt},
    messaging::{
        outcome::{MAX_REASON, MAX_REPLY},
        packet::Packet,
    },
};

/// The first pause before a request is repeated.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before a request is repeated, unless the answer asks for a longer one.
pub const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Passes messages to a server.
pub struct HttpHandler {
    target: Target,
    transport: Transport,
    headers: HeaderMap,
}

/// The result of a request.
enum Answer {
    Decided(HandlerOutcome),
    /// Another request may succeed, after this pause if the answer asks for one.
    Again(Option<Duration>),
}

impl HttpHandler {
    /// Creates a handler that calls this absolute http or https URL.
    ///
    /// # Errors
    /// [`HandlerError`] if it is no such URL, or https and the trusted certificates can't be read.
    pub fn new(url: &str) -> Result<Self, HandlerError> {
        let target = Target::parse(url).map_err(|reason| HandlerError::BadUrl { url: redacted(url), reason })?;
        let transport = Transport::new(target.is_https())
            .map_err(|source| HandlerError::Certificates { url: redacted(url), source })?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if let Some(authorization) = target.authorization() {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(Self { target, transport, headers })
    }

    fn request(&self, packet: &Packet, deadline: Instant) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(packet.payload.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.uri().clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        headers.insert(CONTENT_LENGTH, packet.payload.len().into());
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        insert(headers, "x-robeing-message-id", &packet.id.to_string());
        insert(headers, "x-robeing-message-sender", &packet.sender);
        insert(headers, "x-robeing-message-receiver", &packet.receiver);
        insert(headers, "x-robeing-message-type", &packet.kind);
        insert(headers, "x-robeing-message-priority", &packet.priority.get().to_string());
        insert(headers, "x-robeing-message-timestamp", &packet.timestamp_ms.to_string());
        insert(headers, "x-robeing-message-deadline-in-ms", &left.to_string());
        insert(headers, "x-robeing-message-resent", if packet.resent { "true" } else { "false" });
        if let Some(id) = packet.reply_to {
            insert(headers, "x-robeing-message-reply-to", &id.to_string());
        }
        if let Some(id) = &packet.key_id {
            insert(headers, "x-robeing-message-key-id", id);
        }
        request
    }

    async fn call(&self, packet: &Packet, deadline: Instant) -> Answer {
        let answer = match self.transport.send(self.request(packet, deadline), drop).await {
            Ok(answer) => answer,
            Err(error) => {
                debug!(reason = unreachable(self.target.shown(), &error), "a message could not be passed on yet");
                return Answer::Again(None);
            }
        };
        let status = answer.status();
        if status.is_success() {
            return match body(answer).await {
                Some(reply) => {
                    Answer::Decided(HandlerOutcome::Accepted { reply: Some(reply).filter(|r| !r.is_empty()) })
                }
                None => Answer::Again(None),
            };
        }
        if worth_another_attempt(status) {
            return Answer::Again(retry_after(answer.headers(), SystemTime::now()));
        }
        let start = start_of(answer.into_body(), MAX_REASON).await;
        let said = String::from_utf8_lossy(&start);
        let reason = match said.trim() {
            "" => format!("{} answered {status}", self.target.shown()),
            said => said.to_owned(),
        };
        Answer::Decided(HandlerOutcome::Refused { reason })
    }
}

#[async_trait]
impl Handler for HttpHandler {
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome {
        let Delivery { mut packet, deadline } = delivery;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.call(&packet, deadline).await {
                Answer::Decided(outcome) => return outcome,
                Answer::Again(wanted) => tokio::time::sleep(wanted.map_or(pause, |wanted| wanted.max(pause))).await,
            }
            pause = (pause * 2).min(MAX_PAUSE);
            packet.resent = true;
        }
    }

    fn name(&self) -> &'static str {
        "http"
    }
}

/// Sets a header. Values of packets have no control characters, which alone can't be sent.
fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// Returns the body of an answer, or its start if it is too large for a reply. `None`: the connection broke.
async fn body(answer: Response<Incoming>) -> Option<Bytes> {
    let mut answer = answer.into_body();
    let mut body = BytesMut::new();
    while let Some(frame) = answer.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            body.extend_from_slice(&data);
        }
        // One byte more than a reply may have is enough to tell that it is too large.
        if body.len() > MAX_REPLY {
            body.truncate(MAX_REPLY + 1);
            break;
        }
    }
    Some(body.freeze())
}
