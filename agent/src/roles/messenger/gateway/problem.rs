//! Errors, as [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem details, and the HTTP status of each gRPC code.

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use http_body_util::Full;
use robeing_proto::v1;
use serde_json::{Map, Value, json};
use tonic::{Code, Status};

/// The media type of problem details.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// After how many seconds a client should try again what was refused for lack of room or of a coordinator.
pub const TRY_AGAIN_AFTER: u64 = 1;

/// The HTTP status of each gRPC code, with the code's name.
const CODES: [(Code, &str, StatusCode); 16] = [
    // There is no status for "the client has gone"; nobody reads it.
    (Code::Cancelled, "CANCELLED", StatusCode::SERVICE_UNAVAILABLE),
    (Code::Unknown, "UNKNOWN", StatusCode::INTERNAL_SERVER_ERROR),
    (Code::InvalidArgument, "INVALID_ARGUMENT", StatusCode::BAD_REQUEST),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", StatusCode::GATEWAY_TIMEOUT),
    (Code::NotFound, "NOT_FOUND", StatusCode::NOT_FOUND),
    (Code::AlreadyExists, "ALREADY_EXISTS", StatusCode::CONFLICT),
    (Code::PermissionDenied, "PERMISSION_DENIED", StatusCode::FORBIDDEN),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED", StatusCode::TOO_MANY_REQUESTS),
    (Code::FailedPrecondition, "FAILED_PRECONDITION", StatusCode::BAD_REQUEST),
    (Code::Aborted, "ABORTED", StatusCode::CONFLICT),
    (Code::OutOfRange, "OUT_OF_RANGE", StatusCode::BAD_REQUEST),
    (Code::Unimplemented, "UNIMPLEMENTED", StatusCode::NOT_IMPLEMENTED),
    (Code::Internal, "INTERNAL", StatusCode::INTERNAL_SERVER_ERROR),
    (Code::Unavailable, "UNAVAILABLE", StatusCode::SERVICE_UNAVAILABLE),
    (Code::DataLoss, "DATA_LOSS", StatusCode::INTERNAL_SERVER_ERROR),
    (Code::Unauthenticated, "UNAUTHENTICATED", StatusCode::UNAUTHORIZED),
];

/// Why a request was not answered as the client wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: StatusCode,
    /// The name of a gRPC code, or of what is wrong with the request.
    code: String,
    detail: String,
    retry_after: Option<u64>,
    allow: Option<&'static str>,
    /// More members, by name.
    members: Map<String, Value>,
}

impl Problem {
    /// Creates a problem of a request that was not passed on to a coordinator.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            detail: detail.into(),
            retry_after: None,
            allow: None,
            members: Map::new(),
        }
    }

    /// Creates the problem of a request that is malformed.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", detail)
    }

    /// Creates the problem of a request for which there is no room now.
    pub fn busy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", detail).again()
    }

    /// Creates the problem of a request for which its client has taken too much already.
    pub fn greedy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED", detail).again()
    }

    /// Creates the problem of a method that a path does not have, with those that it has.
    pub fn method(method: &http::Method, allow: &'static str) -> Self {
        let detail = format!("{method} is not for this path; {allow} is");
        let problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail);
        Self { allow: Some(allow), ..problem }
    }

    /// Adds that the request should be sent again after [`TRY_AGAIN_AFTER`].
    #[must_use]
    pub fn again(self) -> Self {
        Self { retry_after: Some(TRY_AGAIN_AFTER), ..self }
    }

    /// Sets after how many milliseconds the request should be sent again, if that is known: 0 if it is not.
    #[must_use]
    pub fn after(self, millis: u64) -> Self {
        if millis == 0 { self } else { Self { retry_after: Some(millis.div_ceil(1_000)), ..self } }
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.members.insert(name.to_owned(), value);
        self
    }

    /// Returns its status.
    #[cfg(test)]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the response.
    pub fn response(self) -> Response<Full<Bytes>> {
        let mut document = json!({
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        if let Value::Object(members) = &mut document {
            members.extend(self.members);
        }
        let mut response = Response::new(Full::new(document.to_string().into()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"robeing\""));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, after.into());
        }
        response
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        of_code(status.code(), status.message())
    }
}

impl From<v1::Refusal> for Problem {
    fn from(refusal: v1::Refusal) -> Self {
        let known = CODES.iter().find(|(_, name, _)| *name == refusal.code);
        of_code(known.map_or(Code::Unknown, |(code, _, _)| *code), &refusal.message)
    }
}

fn of_code(code: Code, detail: &str) -> Problem {
    let known = CODES.iter().find(|(known, _, _)| *known == code);
    // A status that is no error has no place here.
    let (name, status) = known.map_or(("UNKNOWN", StatusCode::INTERNAL_SERVER_ERROR), |(_, name, http)| (name, *http));
    let problem = Problem::new(status, name, detail);
    if matches!(code, Code::ResourceExhausted | Code::Unavailable) { problem.again() } else { problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_one_status_and_those_that_pass_say_when_to_come_back() {
        for number in 1..=16 {
            let code = Code::from(number);
            let response = Problem::from(Status::new(code, "why")).response();
            assert!(response.status().as_u16() >= 400, "{code:?}");
            let passes = matches!(code, Code::ResourceExhausted | Code::Unavailable);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), passes, "{code:?}");
            let challenges = code == Code::Unauthenticated;
            assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), challenges, "{code:?}");
            assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
        }
        assert_eq!(Problem::from(Status::ok("")).status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn a_refusal_says_when_to_come_back_in_whole_seconds_if_that_is_known() {
        let after = |millis| {
            let refusal = v1::Refusal { code: "RESOURCE_EXHAUSTED".into(), message: "why".into() };
            Problem::from(refusal).after(millis).response().headers()[RETRY_AFTER].clone()
        };
        assert_eq!([after(0), after(1), after(1_000), after(1_001)], ["1", "1", "1", "2"]);
    }

    #[test]
    fn a_refusal_has_the_status_of_its_code() {
        let status = |code: &str| Problem::from(v1::Refusal { code: code.into(), message: "why".into() }).status();
        assert_eq!(status("ALREADY_EXISTS"), StatusCode::CONFLICT);
        assert_eq!(status("RESOURCE_EXHAUSTED"), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(status("something"), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
