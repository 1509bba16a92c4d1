//! The `http` executor: each attempt is a POST of the input, and the body of a 2xx answer is the output.
//!
//! The request carries `Robeing-Task-Id`, `Robeing-Attempt` (a number), `Robeing-Kind` and, when the task has a
//! deadline, `Robeing-Deadline` (RFC 3339 in UTC with milliseconds). Connections are kept and used again.
//!
//! - 4xx other than 408 and 429 is a failure that no other attempt would avoid, and so is 3xx: redirects are not
//!   followed. 5xx, 408, 429, a server that can't be reached, a connection that breaks and a time limit that passed
//!   are worth another attempt. An answer that is too large is not.
//! - Its health is that of a GET of the health path, if there is one: any status but 2xx is unhealthy. Without one it is healthy
//!   while the server accepts connections.
//! - When the attempt is cancelled, or its future dropped, the connection is closed; a server may take that as the
//!   sign to stop.

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::text::{at_limit, lossy, rfc3339};
use super::{Attempt, Executor, ExecutorError, Failure, FailureKind, Health, Limits, Outcome};

/// How long a server may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection is kept for the next attempt. Shorter than the keep-alive of common servers, so that it is
/// rarely the server that closes it, just as a request is sent.
const KEEP_IDLE: Duration = Duration::from_secs(4);

/// Where to send attempts, and within which limits.
#[derive(Debug, Clone, Default)]
pub struct HttpConfig {
    /// An absolute http or https URL.
    pub url: String,
    /// What of the server is asked for its health, such as `/healthz`. `None`: whether it accepts a connection.
    pub health_path: Option<String>,
    /// What an attempt may use. `kill_grace` has no meaning here; `stderr_tail` bounds how much of an error's body is
    /// kept.
    pub limits: Limits,
}

/// Sends each attempt to a server.
pub struct HttpExecutor {
    url: Uri,
    health: Option<Uri>,
    limits: Limits,
    client: Transport,
}

/// Plain connections need no certificates, which a small image may not have.
enum Transport {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl HttpExecutor {
    /// Makes the executor. Whether the server answers is seen at each attempt.
    ///
    /// # Errors
    /// When the URL is none that can be called, or it is https and the trusted certificates can't be read.
    pub fn new(config: HttpConfig) -> Result<Self, ExecutorError> {
        let bad_url = |reason: String| ExecutorError::BadUrl { url: config.url.clone(), reason };
        let url: Uri = config.url.parse().map_err(|error: http::uri::InvalidUri| bad_url(error.to_string()))?;
        if url.host().is_none_or(str::is_empty) {
            return Err(bad_url("it names no host".into()));
        }
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_WITHIN));
        tcp.set_nodelay(true);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(KEEP_IDLE);
        let client = match url.scheme_str() {
            Some("http") => Transport::Plain(builder.build(tcp)),
            Some("https") => {
                tcp.enforce_http(false);
                let tls = HttpsConnectorBuilder::new().with_native_roots();
                let tls = tls.map_err(|source| ExecutorError::Certificates { url: config.url.clone(), source })?;
                Transport::Tls(builder.build(tls.https_only().enable_http1().wrap_connector(tcp)))
            }
            scheme => {
                return Err(bad_url(format!("its scheme is {:?}, not http or https", scheme.unwrap_or("none"))));
            }
        };
        let health = config.health_path.map(|path| with_path(&url, &path)).transpose()?;
        Ok(Self { url, health, limits: config.limits, client })
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        match &self.client {
            Transport::Plain(client) => client.request(request).await,
            Transport::Tls(client) => client.request(request).await,
        }
    }

    /// Asks the server how it is.
    async fn ask(&self, health: &Uri) -> Health {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = health.clone();
        match self.send(request).await {
            Ok(answer) if answer.status().is_success() => Health::Healthy,
            Ok(answer) => Health::Unhealthy(format!("{health} answered {}", answer.status())),
            Err(error) => Health::Silent(format!("{health} can't be asked: {}", causes(&error))),
        }
    }

    /// Looks whether the server accepts a connection.
    async fn connect(&self) -> Health {
        let host = self.url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let default = if self.url.scheme_str() == Some("https") { 443 } else { 80 };
        let port = self.url.port_u16().unwrap_or(default);
        match TcpStream::connect((host, port)).await {
            Ok(_) => Health::Healthy,
            Err(error) => Health::Silent(format!("{} can't be reached: {error}; is the server up?", self.url)),
        }
    }

    async fn call(&self, attempt: Attempt) -> Result<Bytes, Failure> {
        let request = self.request(attempt)?;
        let answer = self.send(request).await;
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        if !answer.status().is_success() {
            return Err(self.refused(answer).await);
        }
        self.output(answer.into_body()).await
    }

    fn request(&self, attempt: Attempt) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::new(Full::new(attempt.input));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert("robeing-attempt", attempt.attempt.into());
        insert(headers, "robeing-task-id", &attempt.task_id)?;
        insert(headers, "robeing-kind", &attempt.kind)?;
        if let Some(deadline) = attempt.deadline {
            insert(headers, "robeing-deadline", &rfc3339(deadline.unix_ms))?;
        }
        Ok(request)
    }

    async fn output(&self, mut body: Incoming) -> Result<Bytes, Failure> {
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
        }
        Ok(output.freeze())
    }

    async fn refused(&self, answer: Response<Incoming>) -> Failure {
        let status = answer.status();
        let location = answer.headers().get(LOCATION).map(|to| lossy(to.as_bytes()));
        let mut message = format!("{} answered {status}", self.url);
        if let Some(location) = location.filter(|_| status.is_redirection()) {
            message += &format!(", a redirect to {location:?}, which is not followed; set executor.http.url to it");
        }
        let start = start_of(answer.into_body(), self.limits.stderr_tail).await;
        Failure {
            code: Some(status.as_u16().into()),
            stderr_tail: lossy(&start),
            ..Failure::new(FailureKind::Http, worth_another_attempt(status), message)
        }
    }

    fn too_large(&self) -> Failure {
        let message = format!(
            "{} answered with more than {} bytes; answer with less, or with a reference",
            self.url, self.limits.max_output
        );
        Failure::new(FailureKind::OutputTooLarge, false, message)
    }

    fn unreachable(&self, error: &Error) -> Failure {
        if error.is_connect() {
            let message = format!("{} can't be reached: {}; is the server up?", self.url, causes(error));
            return Failure::new(FailureKind::Unreachable, true, message);
        }
        self.broken(error)
    }

    fn broken(&self, error: &dyn std::error::Error) -> Failure {
        let message = format!("the connection to {} broke before the answer was whole: {}", self.url, causes(error));
        Failure::new(FailureKind::Unreachable, true, message)
    }
}

#[async_trait]
impl Executor for HttpExecutor {
    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Outcome {
        let at_limit = at_limit(attempt.time_limit);
        tokio::select! {
            biased;
            () = cancel.cancelled() => Outcome::Cancelled,
            failure = at_limit => Outcome::Failed(failure),
            answer = self.call(attempt) => match answer {
                Ok(output) => Outcome::Succeeded { output },
                Err(failure) => Outcome::Failed(failure),
            },
        }
    }

    async fn health(&self, within: Duration) -> Health {
        let asked = async {
            match &self.health {
                Some(health) => self.ask(health).await,
                None => self.connect().await,
            }
        };
        let late = || format!("{} did not answer within {}", self.url, humantime::format_duration(within));
        tokio::time::timeout(within, asked).await.unwrap_or_else(|_| Health::Silent(late()))
    }

    fn name(&self) -> &'static str {
        "http"
    }
}

/// The URL with another path and query.
fn with_path(url: &Uri, path: &str) -> Result<Uri, ExecutorError> {
    let bad = |reason: String| ExecutorError::BadHealthPath { path: path.to_owned(), reason };
    if !path.starts_with('/') {
        return Err(bad("it does not begin with a slash".to_owned()));
    }
    let mut parts = url.clone().into_parts();
    parts.path_and_query = Some(path.parse().map_err(|error: http::uri::InvalidUri| bad(error.to_string()))?);
    Uri::from_parts(parts).map_err(|error| bad(error.to_string()))
}

fn worth_another_attempt(status: StatusCode) -> bool {
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

/// The first `limit` bytes of a body, or as many as came.
async fn start_of(mut body: Incoming, limit: usize) -> BytesMut {
    let mut start = BytesMut::new();
    while start.len() < limit
        && let Some(Ok(frame)) = body.frame().await
    {
        if let Ok(data) = frame.into_data() {
            start.extend_from_slice(&data[..data.len().min(limit - start.len())]);
        }
    }
    start
}

/// An error and what caused it, outermost first; an error that already tells its cause is not told twice.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
