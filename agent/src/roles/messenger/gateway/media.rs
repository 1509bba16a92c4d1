//! The media types of requests and responses: JSON, CBOR and protobuf.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE},
};
use http_body_util::Full;
use prost::Message;
use serde::Serialize;

use super::{cbor, problem::Problem};

/// Maximum number of media ranges of an `Accept` header that are looked at.
const MAX_RANGES: usize = 32;

/// The form of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `application/cbor`.
    Cbor,
    /// `application/x-protobuf`: a message of the package `robeing.v1`.
    Protobuf,
}

impl Media {
    /// All forms; the first is the one of clients that name none.
    pub const ALL: [Self; 3] = [Self::Json, Self::Cbor, Self::Protobuf];

    /// Returns its media type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Cbor => "application/cbor",
            Self::Protobuf => "application/x-protobuf",
        }
    }

    fn parse(essence: &str) -> Option<Self> {
        if essence.eq_ignore_ascii_case("application/protobuf") {
            return Some(Self::Protobuf);
        }
        Self::ALL.into_iter().find(|media| media.as_str().eq_ignore_ascii_case(essence))
    }

    /// Returns the form of a request's body.
    ///
    /// # Errors
    /// 415 if it has another one, or none is named.
    pub fn of_body(headers: &HeaderMap) -> Result<Self, Problem> {
        let stated = essence_of_body(headers)?;
        stated.as_deref().and_then(Self::parse).ok_or_else(|| unsupported(stated.as_deref()))
    }

    /// Returns the form in which a client wants the response; the given one if it does not say.
    ///
    /// # Errors
    /// 406 if it takes none of those that there are.
    pub fn wanted(headers: &HeaderMap, default: Self) -> Result<Self, Problem> {
        let mut best: Option<(u32, Self)> = None;
        let (mut is_said, mut ranges) = (false, 0);
        for range in headers.get_all(ACCEPT).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
            ranges += 1;
            if ranges > MAX_RANGES {
                break;
            }
            let Ok(range) = std::str::from_utf8(range) else { continue };
            if range.trim().is_empty() {
                continue;
            }
            is_said = true;
            let mut parts = range.split(';').map(str::trim);
            let media = match parts.next().unwrap_or_default() {
                "*/*" | "application/*" => Some(default),
                essence => Self::parse(essence),
            };
            let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            let quality = quality.map_or(1_000, |quality| thousandths(quality).unwrap_or(0));
            if let Some(media) = media.filter(|_| quality > 0 && best.is_none_or(|(known, _)| known < quality)) {
                best = Some((quality, media));
            }
        }
        match best {
            Some((_, media)) => Ok(media),
            None if !is_said => Ok(default),
            None => Err(Problem::new(
                StatusCode::NOT_ACCEPTABLE,
                "NOT_ACCEPTABLE",
                format!("this gateway answers in {}", list()),
            )),
        }
    }

    /// Returns a response in this form: a form for people, or the message of the API.
    ///
    /// # Errors
    /// If the form can't be written, which no value that there is causes.
    pub fn response(
        self,
        status: StatusCode,
        form: &impl Serialize,
        message: &impl Message,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let failed = |problem: String| {
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "INTERNAL",
                format!("no answer could be written: {problem}"),
            )
        };
        let json = || serde_json::to_vec(form).map_err(|error| failed(error.to_string()));
        let body = match self {
            Self::Json => json()?,
            Self::Cbor => cbor::from_json(&json()?).map_err(|error| failed(error.to_string()))?,
            Self::Protobuf => message.encode_to_vec(),
        };
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.as_str()));
        Ok(response)
    }
}

/// Returns the media type of a request's body, in small letters and without parameters.
///
/// # Errors
/// 415 if the body is compressed.
pub fn essence_of_body(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            "send the body without a Content-Encoding",
        ));
    }
    let stated = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    Ok(stated.map(|stated| stated.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()))
}

/// Returns the problem of a body of a media type that is not served.
pub fn unsupported(stated: Option<&str>) -> Problem {
    let what = match stated {
        None => "the request has no Content-Type".to_owned(),
        Some(stated) => format!("{:?} is not served here", stated.chars().take(64).collect::<String>()),
    };
    let detail = format!("{what}; send {}, or a CloudEvent", list());
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", detail)
}

fn list() -> String {
    Media::ALL.map(Media::as_str).join(", ")
}

/// Parses a quality value (RFC 9110, section 12.4.2).
fn thousandths(text: &str) -> Option<u32> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    if rest.len() > 3 || !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction = format!("{rest:0<3}").parse::<u32>().ok()?;
    match whole {
        "0" => Some(fraction),
        "1" if fraction == 0 => Some(1_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: http::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_client_gets_the_form_that_it_likes_best_of_those_that_there_are() {
        for (accept, expected) in [
            ("", Some(Media::Cbor)),
            ("*/*", Some(Media::Cbor)),
            ("application/*;q=0.1", Some(Media::Cbor)),
            ("application/json", Some(Media::Json)),
            ("application/json;q=0.2, application/x-protobuf;q=0.9", Some(Media::Protobuf)),
            ("text/html, Application/JSON;q=0.001", Some(Media::Json)),
            ("application/protobuf", Some(Media::Protobuf)),
            ("application/json;q=0", None),
            ("application/json;q=nonsense", None),
            ("text/html", None),
        ] {
            let wanted = Media::wanted(&headers(ACCEPT, accept), Media::Cbor);
            assert_eq!(
                wanted.map_err(|problem| problem.status()),
                expected.ok_or(StatusCode::NOT_ACCEPTABLE),
                "{accept}"
            );
        }
        assert_eq!(Media::wanted(&HeaderMap::new(), Media::Json), Ok(Media::Json));
    }

    #[test]
    fn no_more_of_an_accept_header_is_looked_at_than_its_limit() {
        let many = |before: usize| {
            let text = "text/html,".repeat(before) + "application/json";
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(&text).expect("a header"))]);
            Media::wanted(&headers, Media::Json).is_ok()
        };
        assert!(many(MAX_RANGES - 1));
        assert!(!many(MAX_RANGES));
    }

    #[test]
    fn other_bodies_are_refused() {
        let of = |value| Media::of_body(&headers(CONTENT_TYPE, value)).map_err(|problem| problem.status());
        assert_eq!(of("Application/json; charset=utf-8"), Ok(Media::Json));
        assert_eq!(of("application/cbor"), Ok(Media::Cbor));
        for wrong in ["text/plain", "", "application/jsonp", "multipart/form-data; boundary=application/json"] {
            assert_eq!(of(wrong), Err(StatusCode::UNSUPPORTED_MEDIA_TYPE), "{wrong}");
        }
        assert!(Media::of_body(&HeaderMap::new()).is_err());
        let mut compressed = headers(CONTENT_TYPE, "application/json");
        compressed.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(Media::of_body(&compressed).is_err());
    }
}
