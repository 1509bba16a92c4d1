//! The `http` executor: each attempt is a POST of the input, and the body of a 2xx answer is the output.
//!
//! The request carries `Robeing-Task-Id`, `Robeing-Attempt` (a number), `Robeing-Kind` and, when the task has a
//! deadline, `Robeing-Deadline` (RFC 3339 in UTC with milliseconds). Connections are kept alive and reused.
//!
//! Configured headers are added, or replace `Content-Type` and `Authorization`; `Robeing-*` and the headers that frame
//! the request can't be set. User and password of the URL are sent as `Authorization: Basic`. Neither they nor the
//! URL's query are ever shown.
//!
//! - 3xx, and 4xx other than 408 and 429, are failures that are not retryable: redirects are not followed. 5xx, 408,
//!   429, a broken connection and an exceeded time limit are retryable, but not before the `Retry-After` of the answer.
//!   An answer that is too large, or has more than [`MAX_HEADERS`] headers, is not retryable.
//! - The status of an error decides, however long its body takes; the body is read for at most [`ERROR_BODY_WITHIN`].
//! - If no connection can be made, or no TLS session, the attempt never started. The connection is retried for a
//!   second; then the attempt is handed back, and the agent leaves the fleet until the server accepts connections.
//! - If a health path is set, a GET of it determines the executor's health: any status but 2xx is unhealthy, and the
//!   agent joins the fleet only after the first 2xx. Without a health path the executor is healthy while an attempt has
//!   a connection, or else while the server accepts one. No probing connection is opened in the first case, because a
//!   server that handles one request at a time would leave such connections in its queue until that is full.
//! - When the attempt is cancelled, or its future dropped, the connection is closed; a server may take that as the
//!   signal to stop.
//!
//! The executor uses hyper's own client, because the clients built on it neither report whether a request got a
//! connection, which distinguishes an attempt that never started from one that did, nor accept more than a hundred
//! headers.

mod health_path;
pub(crate) mod retry_after;
mod tls;
mod transport;
mod trouble;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION},
};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy::{Error, connect::CaptureConnection};
use robeing_target::{Target, redacted};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{
    health_path::HealthPath,
    transport::{Heard, heard},
};
pub(crate) use self::{retry_after::retry_after, transport::Transport, trouble::unreachable};
pub use self::{tls::CertificatesError, transport::CLOSED_WITHIN};
use super::{
    Attempt, AttemptLog, Executor, ExecutorError, Failure, FailureKind, Health, Limits, Outcome,
    presence::{Presence, TRY_AGAIN},
    text::{at_limit, lossy, rfc3339},
};

/// How long a server may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long setting up a usable connection to the server may take: name resolution, connecting and the TLS handshake.
pub const SECURED_WITHIN: Duration = Duration::from_secs(10);
/// If an attempt makes no connection within its time limit, it counts as timed out if that limit is shorter than this,
/// and otherwise as never started, because the server can't be reached.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the body of an error is read.
pub const ERROR_BODY_WITHIN: Duration = Duration::from_secs(5);
/// The maximum number of headers in an answer.
pub const MAX_HEADERS: usize = 1_000;

/// The server to call, and the limits of an attempt.
#[derive(Debug, Clone, Default)]
pub struct HttpConfig {
    /// An absolute http or https URL.
    pub url: String,
    /// The path requested for health checks, such as `/healthz`. `None`: check whether the server accepts a connection.
    pub health_path: Option<String>,
    /// Headers to add to, or replace, the standard ones. Invalid names and values are rejected.
    pub headers: Vec<(String, String)>,
    /// The limits of an attempt. `kill_grace` and `output_grace` do not apply here; `stderr_tail` bounds how much of an
    /// error's body is kept.
    pub limits: Limits,
}

/// Sends each attempt to a server.
pub struct HttpExecutor {
    target: Arc<Target>,
    headers: HeaderMap,
    health: Option<Arc<HealthPath>>,
    limits: Limits,
    transport: Arc<Transport>,
    presence: Presence,
    under_way: Mutex<Vec<Arc<Progress>>>,
}

/// The progress of an attempt.
#[derive(Default)]
struct Progress {
    connection: Mutex<Option<CaptureConnection>>,
    /// Why the last finished call failed to connect.
    unreached: Mutex<Option<String>>,
    /// The failure for the error status that the server answered; set while the answer's body is read.
    refused: Mutex<Option<Failure>>,
}

impl Progress {
    fn is_connected(&self) -> bool {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        connection.as_ref().is_some_and(|connection| connection.connection_metadata().is_some())
    }

    fn heard(&self) -> Option<Heard> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(heard)
    }
}

/// Registers an attempt as in progress until dropped.
struct UnderWay<'a> {
    among: &'a Mutex<Vec<Arc<Progress>>>,
    progress: Arc<Progress>,
}

impl<'a> UnderWay<'a> {
    fn new(among: &'a Mutex<Vec<Arc<Progress>>>) -> Self {
        let progress = Arc::new(Progress::default());
        among.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&progress));
        Self { among, progress }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.among.lock().unwrap_or_else(PoisonError::into_inner).retain(|one| !Arc::ptr_eq(one, &self.progress));
    }
}

/// Why an attempt has no output.
enum Unanswered {
    /// Nothing was sent.
    Unreached(String),
    Failed(Failure),
}

impl HttpExecutor {
    /// Creates the executor. Whether the server answers is checked at each attempt.
    ///
    /// # Errors
    /// When the URL or a header is invalid, or the URL is https and the trusted certificates can't be read.
    pub fn new(config: HttpConfig) -> Result<Self, ExecutorError> {
        let url = || redacted(&config.url);
        let target = Target::parse(&config.url).map_err(|reason| ExecutorError::BadUrl { url: url(), reason })?;
        let health = config.health_path.map(|path| {
            let bad = |reason| ExecutorError::BadHealthPath { path: redacted(&path), reason };
            target.at(&path).map_err(bad)
        });
        let health = health.transpose()?;
        let headers = headers(&target, &config.headers)?;
        let transport =
            Transport::new(target.is_https()).map_err(|source| ExecutorError::Certificates { url: url(), source })?;
        let (target, transport) = (Arc::new(target), Arc::new(transport));
        let health = health.map(|path| Arc::new(HealthPath::new(path, &headers, Arc::clone(&transport))));
        let presence = match &health {
            Some(health) => {
                let health = Arc::clone(health);
                Presence::awaited(Arc::new(move || {
                    let health = Arc::clone(&health);
                    Box::pin(async move { health.answers().await })
                }))
            }
            None => {
                let (server, way) = (Arc::clone(&target), Arc::clone(&transport));
                Presence::new(Arc::new(move || {
                    let (server, way) = (Arc::clone(&server), Arc::clone(&way));
                    Box::pin(async move { connect(&server, &way).await })
                }))
            }
        };
        Ok(Self { target, health, headers, limits: config.limits, transport, presence, under_way: Mutex::default() })
    }

    /// Checks whether the server accepts a connection, unless an attempt in progress has one.
    async fn accepts(&self) -> Health {
        if self.is_connected() {
            return Health::Healthy;
        }
        match connect(&self.target, &self.transport).await {
            Err(why) if !self.is_connected() => Health::Silent(why),
            _ => Health::Healthy,
        }
    }

    /// Whether an attempt has a connection. If the server vanishes, the kernel's keepalive probes end the connection.
    fn is_connected(&self) -> bool {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.iter().any(|progress| progress.is_connected())
    }

    async fn call(&self, attempt: &Attempt, progress: &Progress) -> Result<Bytes, Unanswered> {
        let request = self.request(attempt).map_err(Unanswered::Failed)?;
        let connected = |connection| {
            *progress.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        };
        let answer = self.transport.send(request, connected).await.map_err(|error| self.no_answer(&error, progress))?;
        if !answer.status().is_success() {
            return Err(Unanswered::Failed(self.refused(answer, progress).await));
        }
        self.output(answer.into_body(), &attempt.log).await.map_err(Unanswered::Failed)
    }

    /// Calls the server, retrying while it can't be reached.
    async fn reach(&self, attempt: &Attempt, progress: &Progress) -> Result<Bytes, Unanswered> {
        let until = Instant::now() + TRY_AGAIN.iter().sum::<Duration>();
        let mut pauses = TRY_AGAIN.iter();
        loop {
            match self.call(attempt, progress).await {
                Err(Unanswered::Unreached(why)) => match pauses.next() {
                    Some(pause) if Instant::now() + *pause < until => {
                        *progress.unreached.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                        *progress.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
                        tokio::time::sleep(*pause).await;
                    }
                    _ => return Err(Unanswered::Unreached(why)),
                },
                answered => return answered,
            }
        }
    }

    fn request(&self, attempt: &Attempt) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::new(Full::new(attempt.input.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.uri().clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        // Set for an empty input too: many servers otherwise answer 411.
        headers.insert(CONTENT_LENGTH, attempt.input.len().into());
        headers.insert("robeing-attempt", attempt.attempt.into());
        insert(headers, "robeing-task-id", &attempt.task_id)?;
        insert(headers, "robeing-kind", &attempt.kind)?;
        if let Some(deadline) = attempt.deadline {
            insert(headers, "robeing-deadline", &rfc3339(deadline.unix_ms))?;
        }
        Ok(request)
    }

    /// Reads an answer. Each part of it is progress.
    async fn output(&self, mut body: Incoming, log: &AttemptLog) -> Result<Bytes, Failure> {
        let limit = self.limits.max_output;
        if body.size_hint().lower() > limit as u64 {
            return Err(self.too_large());
        }
        let mut output = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(&error))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if data.len() > limit - output.len() {
                return Err(self.too_large());
            }
            output.extend_from_slice(&data);
            log.touch();
        }
        Ok(output.freeze())
    }

    async fn refused(&self, answer: Response<Incoming>, progress: &Progress) -> Failure {
        let status = answer.status();
        let location = answer.headers().get(LOCATION).map(|to| redacted(&lossy(to.as_bytes())));
        let mut message = format!("{} answered {status}", self.target.shown());
        if let Some(location) = location.filter(|_| status.is_redirection()) {
            message += &format!(", a redirect to {location:?}, which is not followed; set executor.http.url to it");
        }
        let is_retryable = worth_another_attempt(status);
        let failure = Failure {
            code: Some(status.as_u16().into()),
            retry_after: retry_after(answer.headers(), SystemTime::now()).filter(|_| is_retryable),
            ..Failure::new(FailureKind::Http, is_retryable, message)
        };
        *progress.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.clone());
        let start = start_of(answer.into_body(), self.limits.stderr_tail).await;
        Failure { stderr_tail: lossy(&start), ..failure }
    }

    fn too_large(&self) -> Failure {
        let message = format!(
            "{} answered with more than {} bytes; answer with less, or with a reference",
            self.target.shown(),
            self.limits.max_output
        );
        Failure::new(FailureKind::OutputTooLarge, false, message)
    }

    fn no_answer(&self, error: &Error, progress: &Progress) -> Unanswered {
        let (shown, heard) = (self.target.shown(), progress.heard());
        // In TLS 1.3 a server rejects a client only after the client considers the connection established.
        let is_refused =
            heard == Some(Heard::Nothing) && matches!(trouble::first(error), Some(rustls::Error::AlertReceived(_)));
        if error.is_connect() || is_refused {
            return Unanswered::Unreached(trouble::unreachable(shown, error));
        }
        let is_cancelled = trouble::first::<hyper::Error>(error).is_some_and(hyper::Error::is_canceled);
        if is_cancelled && heard == Some(Heard::Something) {
            return Unanswered::Failed(self.not_http("it sent data before the request"));
        }
        if trouble::first::<hyper::Error>(error).is_some_and(hyper::Error::is_parse_too_large) {
            let message = format!(
                "{shown} answered with more than {MAX_HEADERS} headers, or with ones that are too long or too large"
            );
            return Unanswered::Failed(Failure::new(FailureKind::OutputTooLarge, false, message));
        }
        Unanswered::Failed(self.broken(error))
    }

    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        let (shown, why) = (self.target.shown(), trouble::causes(error));
        if trouble::is_not_http(error) {
            return self.not_http(&why);
        }
        let message = format!("the connection to {shown} broke before the answer was complete: {why}");
        Failure::new(FailureKind::Unreachable, true, message)
    }

    fn not_http(&self, why: &str) -> Failure {
        let mut message = format!("{} did not answer with HTTP: {why}", self.target.shown());
        if !self.target.is_https() {
            message += "; if it speaks TLS, write https://";
        }
        Failure::new(FailureKind::Unreachable, true, message)
    }

    /// Returns the result of an attempt that has reached its time limit.
    fn out_of_time(&self, limit: Option<Duration>, timed_out: Failure, progress: &Progress) -> Unanswered {
        if let Some(refused) = progress.refused.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Unanswered::Failed(refused);
        }
        if progress.is_connected() {
            return Unanswered::Failed(timed_out);
        }
        if let Some(why) = progress.unreached.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Unanswered::Unreached(why);
        }
        if limit.is_some_and(|limit| limit >= PATIENCE) {
            let message = format!("{} does not accept a connection; is the server up?", self.target.shown());
            return Unanswered::Unreached(message);
        }
        Unanswered::Failed(timed_out)
    }
}

#[async_trait]
impl Executor for HttpExecutor {
    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Outcome {
        let under_way = UnderWay::new(&self.under_way);
        let progress = &*under_way.progress;
        let answer = tokio::select! {
            biased;
            () = cancel.cancelled() => return Outcome::Cancelled,
            failure = at_limit(attempt.time_limit) => Err(self.out_of_time(attempt.time_limit, failure, progress)),
            answer = self.reach(&attempt, progress) => answer,
        };
        match answer {
            Ok(output) => Outcome::Succeeded { output },
            Err(Unanswered::Failed(failure)) => Outcome::Failed(failure),
            Err(Unanswered::Unreached(why)) => {
                self.presence.lost(&why).await;
                Outcome::NotBegun
            }
        }
    }

    async fn health(&self, within: Duration) -> Health {
        if let Some(health) = &self.health {
            return health.ask(within).await;
        }
        match tokio::time::timeout(within, self.accepts()).await {
            Ok(health) => health,
            Err(_) if self.is_connected() => Health::Healthy,
            Err(_) => {
                let within = humantime::format_duration(within);
                Health::Silent(format!("{} accepted no connection within {within}", self.target.shown()))
            }
        }
    }

    fn presence(&self) -> Option<watch::Receiver<bool>> {
        Some(self.presence.watch())
    }

    fn name(&self) -> &'static str {
        "http"
    }
}

/// Returns the headers of every request.
fn headers(target: &Target, given: &[(String, String)]) -> Result<HeaderMap, ExecutorError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Some(authorization) = target.authorization() {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    let mut names = HashSet::new();
    for (name, value) in given {
        let bad = |reason: &str| ExecutorError::BadHeader { name: name.clone(), reason: reason.into() };
        let header =
            HeaderName::try_from(name).map_err(|_| bad("its name may only contain letters, digits and '-'"))?;
        if is_reserved(&header) {
            return Err(bad("the agent sets it itself"));
        }
        if !names.insert(header.clone()) {
            return Err(bad(
                "it is set twice, and names are case-insensitive; set it once, with the values joined by ', '",
            ));
        }
        let mut value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| bad("its value has a control character, such as a line break"))?;
        // The value may be a secret, which must not appear in any log.
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

/// Whether a header controls how the request is sent, or identifies the attempt.
fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("robeing-")
        || matches!(
            name,
            "content-length" | "transfer-encoding" | "connection" | "te" | "trailer" | "upgrade" | "expect"
        )
}

/// Checks whether the server accepts a connection; the error gives the reason.
async fn connect(target: &Target, transport: &Transport) -> Result<(), String> {
    transport.connect(target.uri()).await.map_err(|error| trouble::unreachable(target.shown(), &*error))
}

pub(crate) fn worth_another_attempt(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) -> Result<(), Failure> {
    let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
        let message = format!("{value:?} can't be sent as the header {name}: it contains a control character");
        Failure::new(FailureKind::InvalidAttempt, false, message)
    })?;
    headers.insert(name, value);
    Ok(())
}

/// Returns the first `limit` bytes of a body, or what arrived within [`ERROR_BODY_WITHIN`].
pub(crate) async fn start_of(mut body: Incoming, limit: usize) -> BytesMut {
    let until = Instant::now() + ERROR_BODY_WITHIN;
    let mut start = BytesMut::new();
    while start.len() < limit
        && let Ok(Some(Ok(frame))) = tokio::time::timeout_at(until, body.frame()).await
    {
        if let Ok(data) = frame.into_data() {
            start.extend_from_slice(&data[..data.len().min(limit - start.len())]);
        }
    }
    start
}
