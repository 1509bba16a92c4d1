//! What a messenger reads for clients that don't speak gRPC, and whom it calls.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use robeing_agent::{
    messaging::outcome::MAX_REPLY,
    roles::messenger::{
        convert,
        gateway::{
            cbor,
            cloudevents::{EVENT, EVENTS, Mode},
        },
        webhooks::config::{self, MAX_WEBHOOKS},
    },
};
use robeing_platform::{Disk, simulated::SimulatedDisk};
use robeing_target::{Target, redacted};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::check_sentence;

/// JSON that becomes CBOR becomes the same JSON again; whatever else is CBOR becomes JSON or is refused.
pub fn cbor(bytes: &[u8]) {
    if let (Ok(value), Ok(cbor)) = (serde_json::from_slice::<Value>(bytes), cbor::from_json(bytes)) {
        let json = cbor::to_json(&cbor).expect("it came from JSON");
        let again: Value = serde_json::from_slice(&json).expect("it is JSON");
        assert_eq!(again.to_string(), value.to_string());
    }
    match cbor::to_json(bytes) {
        Ok(json) => drop(serde_json::from_slice::<IgnoredAny>(&json).expect("it is JSON")),
        Err(refused) => check_sentence(refused),
    }
}

/// Any request with a CloudEvent is read or refused, and every event that is read becomes a task and a message. The first
/// byte selects how the event is carried, the four lines after it are the attributes in headers, and the rest is the body.
pub fn event(bytes: &[u8]) {
    let Some((mode, rest)) = bytes.split_first() else { return };
    let mut lines = rest.splitn(5, |byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    match mode {
        b'b' => {
            for name in ["ce-specversion", "ce-id", "ce-source", "ce-type"] {
                if let Ok(value) = HeaderValue::from_bytes(lines.next().unwrap_or_default()) {
                    headers.insert(HeaderName::from_static(name), value);
                }
            }
        }
        b's' => drop(headers.insert("content-type", HeaderValue::from_static(EVENT))),
        _ => drop(headers.insert("content-type", HeaderValue::from_static(EVENTS))),
    }
    let body = if *mode == b'b' { lines.next().unwrap_or_default() } else { rest };
    let Ok(Some(mode)) = Mode::of(&headers) else { return };
    for event in mode.read(&headers, Bytes::copy_from_slice(body)).into_iter().flatten().flatten() {
        let task = event.clone().task();
        assert!(!task.kind.is_empty() && !task.idempotency_key.is_empty() && task.idempotency_key.len() <= 512);
        assert!(!event.message("w-0".into()).id.is_empty());
    }
}

/// A request of another agent to convert data: the reply is JSON within the limit, or there is a reason.
pub fn conversion(bytes: &[u8]) {
    match convert::converted(bytes) {
        Ok(reply) => {
            assert!(reply.len() <= MAX_REPLY);
            serde_json::from_slice::<IgnoredAny>(&reply).expect("it is JSON");
        }
        Err(reason) => check_sentence(reason),
    }
}

/// A list of webhooks is read, or refused with what is wrong.
pub fn webhooks(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new(7));
    let env = |name: &str| (name == "SECRET").then(|| "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz".to_owned());
    match runtime.expect("a runtime").block_on(config::parse(bytes, &env, &disk)) {
        Ok(webhooks) => {
            let names: BTreeSet<&str> = webhooks.iter().map(|webhook| &*webhook.name).collect();
            assert!(names.len() == webhooks.len() && webhooks.len() <= MAX_WEBHOOKS);
        }
        Err(refused) => check_sentence(refused),
    }
}

/// The URL of a webhook, a handler or a task is called without the credentials in it, or refused.
pub fn url(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Target::parse(text) {
        Ok(target) => {
            assert!(target.uri().host().is_some_and(|host| !host.is_empty()));
            assert!(target.uri().authority().is_some_and(|authority| !authority.as_str().contains('@')));
            assert_eq!(redacted(text), target.shown());
            let again = Target::parse(&target.uri().to_string()).expect("it is a URL");
            assert_eq!((again.uri(), again.authorization()), (target.uri(), None));
            target.at("/healthz?a=b").expect("it is a path");
        }
        Err(refused) => {
            check_sentence(refused);
            let _ = redacted(text);
        }
    }
}
