//! Any request with a CloudEvent is read or refused, and every event that is read becomes a task and a message.
#![no_main]

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use robeing_agent::roles::messenger::gateway::cloudevents::{EVENT, EVENTS, Mode};

libfuzzer_sys::fuzz_target!(|input: (u8, [&[u8]; 4], &[u8])| {
    let (mode, attributes, body) = input;
    let mut headers = HeaderMap::new();
    match mode % 3 {
        0 => {
            for (name, value) in ["ce-specversion", "ce-id", "ce-source", "ce-type"].into_iter().zip(attributes) {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    headers.insert(HeaderName::from_static(name), value);
                }
            }
        }
        1 => drop(headers.insert("content-type", HeaderValue::from_static(EVENT))),
        _ => drop(headers.insert("content-type", HeaderValue::from_static(EVENTS))),
    }
    let Ok(Some(mode)) = Mode::of(&headers) else { return };
    for event in mode.read(&headers, Bytes::copy_from_slice(body)).into_iter().flatten() {
        let task = event.clone().task();
        assert!(!task.kind.is_empty() && !task.idempotency_key.is_empty() && task.idempotency_key.len() <= 512);
        assert!(!event.message("w-0".into()).id.is_empty());
    }
});
