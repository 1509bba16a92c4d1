//! [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md) that clients send, over the HTTP
//! binding: in binary mode, the attributes are headers and the data is the body; in structured mode, the body is the event
//! in JSON, or a list of events. An event becomes a task, or a message: its type is the kind, its data the input, and its
//! source and id together the key by which it counts once.

use bytes::Bytes;
use http::HeaderMap;
use robeing_proto::v1::{SendMessageRequest, TaskSpec};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    forms,
    media::essence_of_body,
    problem::Problem,
    requests::{MAX_TASKS, message_id},
};

/// The media type of one event in structured mode.
pub const EVENT: &str = "application/cloudevents+json";
/// The media type of a list of events.
pub const EVENTS: &str = "application/cloudevents-batch+json";
/// The one version of the specification that is known.
const VERSION: &str = "1.0";
/// Maximum length of an attribute, bytes.
pub const MAX_ATTRIBUTE: usize = 512;
/// Maximum length of a key, bytes. A longer one is replaced by its digest.
const MAX_KEY: usize = 512;

/// An event: what counts of it here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    id: String,
    source: String,
    kind: String,
    data: Bytes,
}

/// How a request carries events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Attributes in headers.
    Binary,
    /// One event as the body.
    Structured,
    /// A list of events as the body.
    Batch,
}

/// An event in JSON. Other attributes are passed over.
#[derive(Deserialize)]
struct Written<'a> {
    specversion: String,
    id: String,
    source: String,
    r#type: String,
    datacontenttype: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

impl Mode {
    /// Returns how a request carries events; `None` if it carries none.
    ///
    /// # Errors
    /// 415 if the body is compressed.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let essence = essence_of_body(headers)?;
        Ok(match essence.as_deref() {
            Some(EVENT) => Some(Self::Structured),
            Some(EVENTS) => Some(Self::Batch),
            _ if headers.contains_key("ce-specversion") => Some(Self::Binary),
            _ => None,
        })
    }

    /// Reads the events of a request: each event of a list, or what is wrong with it.
    ///
    /// # Errors
    /// What is wrong with the only event, or with the list as a whole.
    pub fn read(self, headers: &HeaderMap, body: Bytes) -> Result<Vec<Result<Event, String>>, Problem> {
        let events = match self {
            Self::Binary => binary(headers, body).map(|event| vec![Ok(event)]),
            Self::Structured => structured(&body).map(|event| vec![Ok(event)]),
            Self::Batch => batch(&body),
        };
        events.map_err(|problem| Problem::malformed(unreadable(&problem)))
    }
}

fn unreadable(problem: &str) -> String {
    format!("the CloudEvent can't be read: {problem}")
}

fn binary(headers: &HeaderMap, data: Bytes) -> Result<Event, String> {
    let attribute = |name: &'static str| {
        let value = headers.get(name).ok_or_else(|| format!("there is no header {name}"))?;
        let value = value.to_str().map_err(|_| format!("the header {name} is not text"))?;
        let decoded = percent_encoding::percent_decode_str(value.trim()).decode_utf8();
        decoded.map(|decoded| decoded.into_owned()).map_err(|_| format!("the header {name} is not UTF-8"))
    };
    let version = attribute("ce-specversion")?;
    Event { id: attribute("ce-id")?, source: attribute("ce-source")?, kind: attribute("ce-type")?, data }
        .checked(&version)
}

fn structured(json: &[u8]) -> Result<Event, String> {
    let written: Written<'_> = forms::parse(json)?;
    let data = match (written.data, written.data_base64.as_deref()) {
        (Some(_), Some(_)) => return Err("there are both data and data_base64".to_owned()),
        (None, None) => Bytes::new(),
        (None, Some(text)) => forms::from_base64("data_base64", text)?,
        // A text of another type than JSON is the data itself (JSON event format, section 3.1.1).
        (Some(value), None) if !is_json(written.datacontenttype.as_deref()) => {
            forms::content("data", Some(value), None)?
        }
        (Some(value), None) => Bytes::copy_from_slice(value.get().as_bytes()),
    };
    let event = Event { id: written.id, source: written.source, kind: written.r#type, data };
    event.checked(&written.specversion)
}

fn batch(json: &[u8]) -> Result<Vec<Result<Event, String>>, String> {
    let list: Vec<&RawValue> = forms::parse(json)?;
    match list.len() {
        0 => Err("the list is empty".to_owned()),
        1..=MAX_TASKS => {
            let event = |raw: &RawValue| structured(raw.get().as_bytes()).map_err(|problem| unreadable(&problem));
            Ok(list.into_iter().map(event).collect())
        }
        count => Err(format!("{count} events in one request, {MAX_TASKS} at most; split it")),
    }
}

/// Returns whether data of this type is JSON; that of no type is.
fn is_json(datacontenttype: Option<&str>) -> bool {
    let Some(stated) = datacontenttype else { return true };
    let essence = stated.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

impl Event {
    fn checked(self, version: &str) -> Result<Self, String> {
        if version != VERSION {
            return Err(format!(
                "its specversion is {:?}; {VERSION} is known",
                version.chars().take(16).collect::<String>()
            ));
        }
        for (name, value) in [("id", &self.id), ("source", &self.source), ("type", &self.kind)] {
            if !(1..=MAX_ATTRIBUTE).contains(&value.len()) {
                return Err(format!("its {name} must have 1 to {MAX_ATTRIBUTE} bytes"));
            }
        }
        Ok(self)
    }

    /// Returns the key by which the event counts once. A source has no spaces, so no two events have the same by chance.
    fn key(&self) -> String {
        let key = format!("{} {}", self.source, self.id);
        if key.len() <= MAX_KEY {
            return key;
        }
        format!("sha256 {}", forms::to_base64(&robeing_identity::digest(key.as_bytes())))
    }

    /// Returns the task that the event asks for.
    pub fn task(self) -> TaskSpec {
        let idempotency_key = self.key();
        TaskSpec { kind: self.kind, input: self.data, idempotency_key, ..TaskSpec::default() }
    }

    /// Returns the message that the event becomes.
    pub fn message(self, to: String) -> SendMessageRequest {
        let id = message_id(&self.key());
        SendMessageRequest { id, to, r#type: self.kind, payload: self.data, ..SendMessageRequest::default() }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header"))
        };
        pairs.iter().map(pair).collect()
    }

    fn read(pairs: &[(&'static str, &str)], body: &str) -> Result<Vec<Event>, Problem> {
        let headers = headers(pairs);
        let mode = Mode::of(&headers)?.expect("it carries events");
        let events = mode.read(&headers, Bytes::copy_from_slice(body.as_bytes()))?;
        events.into_iter().map(|event| event.map_err(Problem::malformed)).collect()
    }

    #[test]
    fn of_a_list_each_event_is_right_or_wrong_by_itself() {
        let headers = headers(&[("content-type", EVENTS)]);
        let list = r#"[{"specversion":"1.0","id":"1","source":"/shop","type":"order"},{"id":"2"}]"#;
        let events = Mode::Batch.read(&headers, list.into()).expect("it is a list");
        assert_eq!(events[0], Ok(event("")));
        let wrong = events[1].as_ref().expect_err("it is no event");
        assert!(wrong.starts_with("the CloudEvent can't be read: missing field"), "{wrong}");
    }

    fn event(data: &str) -> Event {
        Event {
            id: "1".into(),
            source: "/shop".into(),
            kind: "order".into(),
            data: Bytes::copy_from_slice(data.as_bytes()),
        }
    }

    const BINARY: [(&str, &str); 5] = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/shop"),
        ("ce-type", "order"),
        ("content-type", "application/json"),
    ];

    #[test]
    fn an_event_is_the_same_in_every_mode() {
        assert_eq!(read(&BINARY, r#"{"a": 1}"#), Ok(vec![event(r#"{"a": 1}"#)]));
        let structured = |fields: &str| {
            let json =
                format!(r#"{{"specversion":"1.0","id":"1","source":"/shop","type":"order","time":"x"{fields}}}"#);
            (read(&[("content-type", "application/cloudevents+json; charset=utf-8")], &json), json)
        };
        for (fields, data) in [
            (r#","data":{"a": 1}"#, r#"{"a": 1}"#),
            (r#","data":"text""#, r#""text""#),
            (r#","data":"text","datacontenttype":"application/vnd.a+json""#, r#""text""#),
            (r#","data":"text","datacontenttype":"text/plain""#, "text"),
            (r#","data_base64":"aGk=""#, "hi"),
            ("", ""),
        ] {
            assert_eq!(structured(fields).0, Ok(vec![event(data)]), "{fields}");
        }
        let list = format!("[{0},{0}]", structured("").1);
        assert_eq!(read(&[("content-type", EVENTS)], &list), Ok(vec![event(""), event("")]));
        let mut spaced = BINARY;
        spaced[3].1 = "an%20order%C3%A9";
        assert_eq!(read(&spaced, "").expect("it is right")[0].kind, "an orderé");
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for (missing, pair) in BINARY.iter().enumerate().take(4).skip(1) {
            let mut pairs = BINARY.to_vec();
            pairs.remove(missing);
            assert!(read(&pairs, "").is_err(), "{pair:?}");
        }
        let mut later = BINARY;
        later[0].1 = "2.0";
        assert!(read(&later, "").is_err());
        for json in [
            "",
            "[]",
            "{}",
            r#"{"specversion":"1.0","id":"","source":"s","type":"t"}"#,
            r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":1,"data_base64":""}"#,
        ] {
            assert!(read(&[("content-type", EVENT)], json).is_err(), "{json}");
            assert!(read(&[("content-type", EVENTS)], json).is_err(), "{json}");
        }
        assert_eq!(Mode::of(&headers(&[("content-type", "application/json")])), Ok(None));
    }

    #[test]
    fn attributes_and_lists_are_as_long_as_their_limits() {
        let longest = "x".repeat(MAX_ATTRIBUTE);
        let mut pairs = BINARY;
        pairs[1].1 = &longest;
        let key = read(&pairs, "").expect("it is right").remove(0).task().idempotency_key;
        assert!(key.starts_with("sha256 ") && key.len() <= MAX_KEY);
        let longer = format!("{longest}x");
        pairs[1].1 = &longer;
        assert!(read(&pairs, "").is_err());
        let one = r#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#;
        let list = |count: usize| read(&[("content-type", EVENTS)], &format!("[{}]", vec![one; count].join(",")));
        assert!(list(MAX_TASKS).is_ok());
        assert!(list(MAX_TASKS + 1).is_err());
    }

    #[test]
    fn an_event_counts_once_as_a_task_and_as_a_message() {
        let task = event("d").task();
        assert_eq!((&*task.kind, &*task.input, &*task.idempotency_key), ("order", &b"d"[..], "/shop 1"));
        let message = event("d").message("w-0".into());
        assert_eq!((&*message.to, &*message.r#type, &*message.payload), ("w-0", "order", &b"d"[..]));
        assert_eq!(message.id, event("other").message("w-1".into()).id);
    }
}
