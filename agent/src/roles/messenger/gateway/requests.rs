//! What the body of a request asks for.

use bytes::Bytes;
use http::HeaderMap;
use robeing_proto::{
    codec,
    v1::{Refusal, SendMessageRequest, SubmitRequest, TaskSpec},
};
use serde::{Deserialize, de::IgnoredAny};
use uuid::{Builder, Uuid};

use super::{
    cbor,
    cloudevents::{Event, Mode},
    forms::{self, MessageForm, TasksForm},
    media::Media,
    problem::Problem,
    task_form::TaskForm,
};

/// Maximum number of tasks of one request.
pub const MAX_TASKS: usize = 1_000;
/// Maximum length of an `Idempotency-Key`, bytes.
pub const MAX_KEY: usize = 256;
/// The header by which a client marks a request that it repeats (draft-ietf-httpapi-idempotency-key-header).
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Tasks to submit.
#[derive(Debug)]
pub struct Tasks {
    /// Each task, or why it can't be submitted.
    pub tasks: Vec<Result<TaskSpec, Refusal>>,
    /// Whether they were given as a list.
    pub is_batch: bool,
    /// The form of the request.
    pub media: Media,
}

/// Checks that the media type of a request's body is one that is served, before the body is read.
///
/// # Errors
/// 415 if it is not.
pub fn check_media(headers: &HeaderMap) -> Result<(), Problem> {
    match Mode::of(headers)? {
        Some(_) => Ok(()),
        None => Media::of_body(headers).map(drop),
    }
}

/// Returns the tasks that a request asks to submit.
///
/// # Errors
/// What is wrong with the request as a whole.
pub fn tasks(headers: &HeaderMap, body: Bytes) -> Result<Tasks, Problem> {
    if let Some(mode) = Mode::of(headers)? {
        let task = |event: Result<Event, String>| event.map(Event::task).map_err(forms::refused);
        let tasks = mode.read(headers, body)?.into_iter().map(task).collect();
        return Ok(Tasks { tasks, is_batch: mode == Mode::Batch, media: Media::Json });
    }
    let media = Media::of_body(headers)?;
    let mut tasks = match media {
        Media::Json => tasks_of_json(&body)?,
        Media::Cbor => tasks_of_json(&json_of(&body)?)?,
        Media::Protobuf => {
            let request: SubmitRequest = codec::decode(body).map_err(Problem::malformed)?;
            let is_batch = request.tasks.len() != 1;
            check_number(request.tasks.len())?;
            Tasks { tasks: request.tasks.into_iter().map(Ok).collect(), is_batch, media }
        }
    };
    tasks.media = media;
    if let Some(key) = idempotency_key(headers)? {
        mark(&mut tasks, key)?;
    }
    Ok(tasks)
}

/// Returns the message that a request asks to send, and the form of the request. `to`: the receiver, for events, which
/// name none.
///
/// # Errors
/// What is wrong with it.
pub fn message(headers: &HeaderMap, to: Option<&str>, body: Bytes) -> Result<(SendMessageRequest, Media), Problem> {
    if let Some(mode) = Mode::of(headers)? {
        let Some(to) = to else {
            return Err(Problem::malformed("say for whom the event is: /v1/messages?to=ADDRESS"));
        };
        let mut events = mode.read(headers, body)?;
        return match events.pop() {
            Some(event) if events.is_empty() => {
                let event = event.map_err(Problem::malformed)?;
                Ok((event.message(to.to_owned()), Media::Json))
            }
            _ => Err(Problem::malformed("a message is one event; send each of a list by itself")),
        };
    }
    if to.is_some() {
        return Err(Problem::malformed("the parameter to is for CloudEvents; write \"to\" into the body"));
    }
    let media = Media::of_body(headers)?;
    let form = |json: &[u8]| forms::parse::<MessageForm<'_>>(json)?.request();
    let mut message = match media {
        Media::Json => form(&body).map_err(Problem::malformed)?,
        Media::Cbor => form(&json_of(&body)?).map_err(Problem::malformed)?,
        Media::Protobuf => codec::decode(body).map_err(Problem::malformed)?,
    };
    if let Some(key) = idempotency_key(headers)? {
        let id = message_id(&key);
        if !message.id.is_empty() && message.id != id {
            return Err(Problem::malformed("there are both an Idempotency-Key and another id; give one"));
        }
        message.id = id;
    }
    Ok((message, media))
}

/// Only looks whether there are several tasks.
#[derive(Deserialize)]
struct Probe {
    tasks: Option<IgnoredAny>,
}

fn tasks_of_json(json: &[u8]) -> Result<Tasks, Problem> {
    let probe = forms::parse::<Probe>(json).map_err(Problem::malformed)?;
    if probe.tasks.is_none() {
        let task = forms::parse::<TaskForm<'_>>(json).and_then(TaskForm::spec).map_err(Problem::malformed)?;
        return Ok(Tasks { tasks: vec![Ok(task)], is_batch: false, media: Media::Json });
    }
    let list: TasksForm<'_> = forms::parse(json).map_err(Problem::malformed)?;
    check_number(list.tasks.len())?;
    let task = |json: &str| forms::parse::<TaskForm<'_>>(json.as_bytes())?.spec();
    let tasks = list.tasks.into_iter().map(|raw| task(raw.get()).map_err(forms::refused)).collect();
    Ok(Tasks { tasks, is_batch: true, media: Media::Json })
}

fn check_number(tasks: usize) -> Result<(), Problem> {
    match tasks {
        1..=MAX_TASKS => Ok(()),
        0 => Err(Problem::malformed("there is no task")),
        _ => Err(Problem::malformed(format!("{tasks} tasks in one request, {MAX_TASKS} at most; split it"))),
    }
}

fn json_of(cbor: &[u8]) -> Result<Vec<u8>, Problem> {
    cbor::to_json(cbor).map_err(|error| Problem::malformed(error.to_string()))
}

/// Makes the key that of the one task.
fn mark(tasks: &mut Tasks, key: String) -> Result<(), Problem> {
    let [task] = &mut tasks.tasks[..] else {
        return Err(Problem::malformed("an Idempotency-Key is for one task; give each task of a list its own \"key\""));
    };
    if let Ok(task) = task {
        if !task.idempotency_key.is_empty() && task.idempotency_key != key {
            return Err(Problem::malformed("there are both an Idempotency-Key and another \"key\"; give one"));
        }
        task.idempotency_key = key;
    }
    Ok(())
}

/// Returns the key of a request. It may be in quotes, as the draft has it, or without them.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = given.next() else { return Ok(None) };
    let text = value.to_str().ok().map(str::trim);
    let key = text.map(|text| text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text));
    match key.filter(|key| (1..=MAX_KEY).contains(&key.len()) && !key.contains(['"', '\\'])) {
        Some(key) if given.next().is_none() => Ok(Some(key.to_owned())),
        _ => Err(Problem::malformed(format!("the Idempotency-Key must be one text of 1 to {MAX_KEY} characters"))),
    }
}

/// Returns the id of the message with this key: the key itself if it is a UUID, and otherwise one that is made of it.
pub fn message_id(key: &str) -> String {
    let id = Uuid::try_parse(key).unwrap_or_else(|_| {
        let digest = robeing_identity::digest(format!("robeing message\0{key}").as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        // Version 8: of the maker's own making.
        Builder::from_bytes(bytes).with_variant(uuid::Variant::RFC4122).with_version(uuid::Version::Custom).into_uuid()
    });
    id.to_string()
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
    use prost::Message;

    use super::*;

    fn headers(media: &'static str, key: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media))]);
        if let Some(key) = key {
            headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(key).expect("a header"));
        }
        headers
    }

    fn of_json(json: &str, key: Option<&str>) -> Result<Tasks, Problem> {
        tasks(&headers("application/json", key), Bytes::copy_from_slice(json.as_bytes()))
    }

    #[test]
    fn a_task_is_given_alone_or_in_a_list() {
        let one = of_json(r#"{"kind":"k"}"#, None).expect("it is right");
        assert!(!one.is_batch && one.tasks.len() == 1);
        let list = of_json(r#"{"tasks":[{"kind":"k"},{"kin":"k"}]}"#, None).expect("it is right");
        assert!(list.is_batch && list.tasks[0].is_ok());
        assert_eq!(list.tasks[1].as_ref().expect_err("it is wrong").code, "INVALID_ARGUMENT");
        for wrong in ["", "[]", "1", "{}", r#"{"tasks":[]}"#, r#"{"tasks":1}"#, r#"{"tasks":[{}],"kind":"k"}"#] {
            assert_eq!(of_json(wrong, None).expect_err(wrong).status(), StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn a_request_has_as_many_tasks_as_the_limit() {
        let list = |count: usize| format!(r#"{{"tasks":[{}]}}"#, vec![r#"{"kind":"k"}"#; count].join(","));
        assert!(of_json(&list(MAX_TASKS), None).is_ok());
        assert!(of_json(&list(MAX_TASKS + 1), None).is_err());
        let request = |count| SubmitRequest { tasks: vec![TaskSpec::default(); count] }.encode_to_vec().into();
        let headers = headers("application/x-protobuf", None);
        assert!(tasks(&headers, request(MAX_TASKS)).is_ok());
        assert!(tasks(&headers, request(MAX_TASKS + 1)).is_err());
        assert!(tasks(&headers, request(0)).is_err());
    }

    #[test]
    fn a_key_is_that_of_the_one_task() {
        let key = |json: &str, key: &str| {
            of_json(json, Some(key)).map(|tasks| tasks.tasks[0].as_ref().expect("a task").idempotency_key.clone())
        };
        let longest = "x".repeat(MAX_KEY);
        for (given, expected) in [("\"a b\"", "a b"), ("a", "a"), (&longest, &longest)] {
            assert_eq!(key(r#"{"kind":"k"}"#, given).as_deref(), Ok(expected));
        }
        assert!(key(r#"{"kind":"k","key":"a"}"#, "a").is_ok());
        for (json, given) in [
            (r#"{"kind":"k","key":"b"}"#, "a"),
            (r#"{"tasks":[{"kind":"k"},{"kind":"k"}]}"#, "a"),
            (r#"{"kind":"k"}"#, ""),
            (r#"{"kind":"k"}"#, "\"\""),
            (r#"{"kind":"k"}"#, &format!("{longest}x")),
        ] {
            assert!(key(json, given).is_err(), "{json} {given}");
        }
    }

    #[test]
    fn a_message_with_a_key_has_the_id_that_the_key_stands_for() {
        let of = |json: &str, key| {
            message(&headers("application/json", Some(key)), None, Bytes::copy_from_slice(json.as_bytes()))
                .map(|(message, _)| message.id)
        };
        let uuid = "0198c1a2-0000-7000-8000-000000000001";
        assert_eq!(of(r#"{"to":"a","type":"t"}"#, uuid).as_deref(), Ok(uuid));
        let made = of(r#"{"to":"a","type":"t"}"#, "order 1").expect("it is right");
        assert_eq!(Uuid::try_parse(&made).expect("a UUID").get_version_num(), 8);
        assert_eq!(of(r#"{"to":"b","type":"t"}"#, "order 1").as_deref(), Ok(&*made));
        assert_ne!(of(r#"{"to":"a","type":"t"}"#, "order 2").as_deref(), Ok(&*made));
        assert!(of(&format!(r#"{{"to":"a","type":"t","id":"{uuid}"}}"#), "order 1").is_err());
    }
}
