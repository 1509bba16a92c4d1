//! Answers requests: limits, routes and bodies.

use std::{fmt::Display, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use robeing_net::{ConnectInfo, web::WebService};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::async_trait;

use super::{
    BODY_WITHIN, DRAIN_WITHIN, MAX_BODIES, MAX_BODY, MAX_DRAINED, MAX_REQUESTS, MAX_WAIT, MAX_WAITS,
    caller::Caller,
    coordinators::Coordinators,
    forms,
    media::Media,
    messages::MESSAGES,
    metrics::GatewayMetrics,
    openapi,
    problem::Problem,
    requests,
    shares::{PARTS, Share, Shares},
    tasks::TASKS,
};

/// The path of the document that describes the gateway.
pub const OPENAPI: &str = "/v1/openapi.json";
/// The path that tells whether the gateway serves.
pub const HEALTHZ: &str = "/healthz";
/// Bytes of bodies are counted in units of this many.
const UNIT: usize = 1_024;
/// Maximum length of an id in a path, bytes.
pub const MAX_ID: usize = 64;
/// Maximum length of the reason for which a task is cancelled, bytes.
pub const MAX_REASON: usize = 1_024;

/// What requests may take at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Number of requests.
    pub requests: usize,
    /// Number of requests that wait.
    pub waits: usize,
    /// Total size of bodies, bytes.
    pub bodies: usize,
    /// Time for a body.
    pub body_within: Duration,
    /// One client may take one of so many parts of the requests and the bodies.
    pub parts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let (requests, waits, bodies) = (MAX_REQUESTS, MAX_WAITS, MAX_BODIES);
        Self { requests, waits, bodies, body_within: BODY_WITHIN, parts: PARTS }
    }
}

/// The room that a request takes, until it is dropped.
#[derive(Default)]
pub struct Permit {
    _request: Option<Room>,
    /// The room for its body.
    pub(super) body: Option<Room>,
}

/// Room of the gateway, which is in the share of one client, until this is dropped.
pub struct Room {
    _room: OwnedSemaphorePermit,
    _share: Share,
}

// The largest body is in the share of a client.
const _: () = assert!(MAX_BODY <= MAX_BODIES / PARTS);

/// Answers the requests of a gateway.
pub struct Server {
    pub(super) coordinators: Coordinators,
    metrics: GatewayMetrics,
    has_tls: bool,
    body_within: Duration,
    requests: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    /// What clients have taken of the requests and the bodies.
    shares: (Shares, Shares),
    stop: CancellationToken,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// Whether the gateway serves.
    Health,
    /// What it serves.
    OpenApi,
    /// All tasks.
    Tasks,
    /// The task with this id.
    Task(&'a str),
    /// All messages.
    Messages,
    /// The message with this id.
    Message(&'a str),
}

impl<'a> Route<'a> {
    /// Returns what a path leads to, if to anything.
    pub fn of(path: &'a str) -> Option<Self> {
        let below = |folder: &str| {
            let id = path.strip_prefix(folder)?.strip_prefix('/')?;
            let is_id = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            Some(id).filter(|id| (1..=MAX_ID).contains(&id.len()) && id.bytes().all(is_id))
        };
        match path {
            HEALTHZ => Some(Self::Health),
            OPENAPI => Some(Self::OpenApi),
            TASKS => Some(Self::Tasks),
            MESSAGES => Some(Self::Messages),
            _ => below(TASKS).map(Self::Task).or_else(|| below(MESSAGES).map(Self::Message)),
        }
    }

    /// Returns the path with its parameters, for metrics and documentation.
    pub fn pattern(self) -> &'static str {
        match self {
            Self::Health => HEALTHZ,
            Self::OpenApi => OPENAPI,
            Self::Tasks => TASKS,
            Self::Task(_) => "/v1/tasks/{id}",
            Self::Messages => MESSAGES,
            Self::Message(_) => "/v1/messages/{id}",
        }
    }

    /// Returns the methods of the path, as in a header `Allow`.
    pub fn methods(self) -> &'static str {
        match self {
            Self::Health | Self::OpenApi => "GET, HEAD",
            Self::Tasks | Self::Messages => "POST",
            Self::Task(_) => "GET, DELETE",
            Self::Message(_) => "GET",
        }
    }
}

#[async_trait]
impl WebService for Server {
    async fn respond(&self, request: Request<Incoming>, connection: ConnectInfo) -> Response<Full<Bytes>> {
        self.answer(request, &connection).await
    }
}

impl Server {
    pub fn new(
        coordinators: Coordinators,
        metrics: GatewayMetrics,
        has_tls: bool,
        limits: Limits,
        stop: CancellationToken,
    ) -> Self {
        let room = |count: usize| Arc::new(Semaphore::new(count));
        let units = limits.bodies.div_ceil(UNIT);
        Self {
            shares: (Shares::new(limits.requests, limits.parts), Shares::new(units, limits.parts)),
            coordinators,
            metrics,
            has_tls,
            body_within: limits.body_within,
            requests: room(limits.requests),
            waits: room(limits.waits),
            bodies: room(units),
            stop,
        }
    }

    async fn answer<B>(&self, request: Request<B>, connection: &ConnectInfo) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>> + Display> + Send,
    {
        let (parts, body) = request.into_parts();
        let mut body = Box::pin(body);
        let route = Route::of(parts.uri.path());
        let answered = match route {
            Some(route) => self.routed(route, &parts, body.as_mut(), connection).await,
            None => Err(Problem::new(
                StatusCode::NOT_FOUND,
                "NOT_FOUND",
                "there is nothing at this path; see /v1/openapi.json",
            )),
        };
        let mut response = answered.unwrap_or_else(Problem::response);
        self.metrics.answered(route.map_or("other", Route::pattern), response.status().as_u16());
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // A body that did not come in time is not waited for again.
        if parts.version == Version::HTTP_2 && response.status() != StatusCode::REQUEST_TIMEOUT {
            drain(body).await;
        }
        response
    }

    async fn routed<B>(
        &self,
        route: Route<'_>,
        parts: &http::request::Parts,
        body: B,
        connection: &ConnectInfo,
    ) -> Result<Response<Full<Bytes>>, Problem>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>> + Display> + Send,
    {
        let (method, headers) = (&parts.method, &parts.headers);
        if !route.methods().split(", ").any(|known| known == method.as_str()) {
            return Err(Problem::method(method, route.methods()));
        }
        match route {
            Route::Health => return Ok(document("text/plain", "ok\n")),
            Route::OpenApi => return Ok(document("application/json", openapi::document())),
            Route::Tasks | Route::Task(_) | Route::Messages | Route::Message(_) => {}
        }
        let caller = Caller::of(connection, headers, self.has_tls)?;
        let query = Query::parse(parts.uri.query())?;
        let mut permit = Permit { _request: Some(self.begins(connection)?), body: None };
        match route {
            Route::Tasks => {
                let (body, room) = self.body(headers, body, connection).await?;
                permit.body = Some(room);
                let tasks = requests::tasks(headers, body)?;
                let wanted = Media::wanted(headers, tasks.media)?;
                self.submit(&caller, tasks, wanted, query.wait, permit).await
            }
            Route::Messages => {
                let (body, room) = self.body(headers, body, connection).await?;
                permit.body = Some(room);
                let (message, media) = requests::message(headers, query.to.as_deref(), body)?;
                let wanted = Media::wanted(headers, media)?;
                self.send(&caller, message, wanted, permit).await
            }
            Route::Task(id) if method == Method::DELETE => {
                let wanted = Media::wanted(headers, Media::Json)?;
                self.cancel(&caller, id, wanted, &query.reason).await
            }
            Route::Task(id) => {
                let wanted = Media::wanted(headers, Media::Json)?;
                self.task(&caller, id, wanted, query.wait, permit).await
            }
            Route::Message(id) => {
                let wanted = Media::wanted(headers, Media::Json)?;
                self.message(&caller, id, wanted, query.wait, permit).await
            }
            Route::Health | Route::OpenApi => Ok(document("text/plain", "")),
        }
    }

    fn begins(&self, connection: &ConnectInfo) -> Result<Room, Problem> {
        let room = Arc::clone(&self.requests).try_acquire_owned();
        let room =
            room.map_err(|_| Problem::busy("this gateway has too many requests in progress; send it again later"));
        let (_room, share) = (room?, self.shares.0.take(connection, 1));
        let too_many = || Problem::greedy("you have too many requests in progress; send it again when some have ended");
        Ok(Room { _room, _share: share.ok_or_else(too_many)? })
    }

    /// Gives back the room of a request that only waits from now on, and takes that of one that waits.
    pub(super) fn waits(&self, permit: Permit) -> Result<OwnedSemaphorePermit, Problem> {
        drop(permit);
        let waiting = Arc::clone(&self.waits).try_acquire_owned();
        waiting.map_err(|_| {
            Problem::busy("too many requests wait at this gateway; what was submitted goes on: ask for it later")
        })
    }

    /// Returns what a future returns; `None` if the gateway stops before.
    pub(super) async fn until_stopped<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            result = future => Some(result),
            () = self.stop.cancelled() => None,
        }
    }

    /// Takes the room for a body.
    fn room_for(&self, bytes: usize, connection: &ConnectInfo) -> Result<Room, Problem> {
        let units = bytes.div_ceil(UNIT);
        let room = Arc::clone(&self.bodies).try_acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX));
        let room = room.map_err(|_| Problem::busy("this gateway has no room for the body now; send it again later"));
        let (_room, share) = (room?, self.shares.1.take(connection, units));
        let too_many = || Problem::greedy("the bodies of your requests are too large together; send it again later");
        Ok(Room { _room, _share: share.ok_or_else(too_many)? })
    }

    /// Reads the body of a request. The room for it is taken before.
    async fn body<B>(&self, headers: &HeaderMap, body: B, connection: &ConnectInfo) -> Result<(Bytes, Room), Problem>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>> + Display> + Send,
    {
        let too_large = || {
            let detail = format!("the body has more than {MAX_BODY} bytes; split it");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", detail)
        };
        let stated = body.size_hint().exact();
        if stated.is_some_and(|bytes| bytes > MAX_BODY as u64) {
            return Err(too_large());
        }
        // The media type is judged before the body is read.
        requests::check_media(headers)?;
        let room =
            self.room_for(stated.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(MAX_BODY), connection)?;
        let body = Box::pin(Limited::new(body, MAX_BODY));
        match timeout(self.body_within, body.collect()).await {
            Ok(Ok(body)) => Ok((body.to_bytes(), room)),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(error)) => Err(Problem::malformed(format!("the body can't be read: {error}"))),
            Err(_) => {
                let detail = format!("the body did not arrive within {} s", self.body_within.as_secs());
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT", detail))
            }
        }
    }
}

/// Reads and drops what is left of a small body. Over HTTP/2, a stream that is answered before its body has ended is
/// reset after the answer, which some clients, such as curl 7.88, take for a failure.
async fn drain<B: Body<Data = Bytes> + Unpin>(mut body: B) {
    if body.size_hint().lower() > MAX_DRAINED as u64 {
        return;
    }
    let drained = async {
        let mut left = MAX_DRAINED;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // The answer is sent in any case.
    let _ = timeout(DRAIN_WITHIN, drained).await;
}

fn document(media: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    let headers: &mut HeaderMap<HeaderValue> = response.headers_mut();
    headers.insert::<HeaderName>(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// The parameters of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// How long to wait.
    pub wait: Option<Duration>,
    /// Why a task is cancelled.
    pub reason: String,
    /// For whom a CloudEvent is.
    pub to: Option<String>,
}

impl Query {
    /// Parses the part of a URL after the question mark.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let mut parsed = Self::default();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value);
            match name {
                "wait" => {
                    let wait = forms::span("wait", &value).map_err(Problem::malformed)?;
                    if wait > MAX_WAIT {
                        let detail = format!("\"wait\" is at most {} s", MAX_WAIT.as_secs());
                        return Err(Problem::malformed(detail));
                    }
                    parsed.wait = Some(wait);
                }
                "to" => parsed.to = Some(value),
                "reason" if value.len() <= MAX_REASON => parsed.reason = value,
                "reason" => {
                    return Err(Problem::malformed(format!("\"reason\" has at most {MAX_REASON} bytes")));
                }
                _ => {
                    let name: String = name.chars().take(64).collect();
                    return Err(Problem::malformed(format!(
                        "there is no parameter {name:?}; there are wait, reason and to"
                    )));
                }
            }
        }
        Ok(parsed)
    }
}

/// Decodes a value of a query: percent-encoding, and `+` for a space.
fn decoded(value: &str) -> String {
    let value = value.replace('+', " ");
    percent_encoding::percent_decode_str(&value).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_one_thing_or_nothing() {
        let id = "x".repeat(MAX_ID);
        assert_eq!(Route::of(&format!("/v1/tasks/{id}")), Some(Route::Task(&id)));
        assert_eq!(Route::of("/v1/messages/a-1"), Some(Route::Message("a-1")));
        for path in ["/", "", "/v1/tasks/", "/v1/tasks/a/b", "/v1/tasks/..", "/v1/taskss", "/v1/tasks/%61", "/healthz/"]
        {
            assert_eq!(Route::of(path), None, "{path}");
        }
        assert_eq!(Route::of(&format!("/v1/tasks/{id}x")), None);
    }

    #[test]
    fn parameters_are_within_their_limits() {
        let parse = |query: &str| Query::parse(Some(query)).map_err(|problem| problem.status());
        assert_eq!(parse("wait=600s").map(|query| query.wait), Ok(Some(MAX_WAIT)));
        assert_eq!(parse("wait=1m%2030s").map(|query| query.wait), Ok(Some(Duration::from_secs(90))));
        assert_eq!(parse("reason=not+needed%21").map(|query| query.reason), Ok("not needed!".into()));
        let longest = "x".repeat(MAX_REASON);
        assert!(parse(&format!("reason={longest}")).is_ok());
        assert_eq!(parse(""), Ok(Query::default()));
        for wrong in ["wait=601s", "wait=", "wait=soon", "waits=1s", &format!("reason={longest}x")] {
            assert_eq!(parse(wrong), Err(StatusCode::BAD_REQUEST), "{wrong}");
        }
    }
}
