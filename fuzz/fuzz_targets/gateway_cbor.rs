//! JSON that becomes CBOR becomes the same JSON again; whatever else is CBOR becomes JSON or is refused.
#![no_main]

use robeing_agent::roles::messenger::gateway::cbor;
use serde_json::Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let (Ok(value), Ok(cbor)) = (serde_json::from_slice::<Value>(bytes), cbor::from_json(bytes)) {
        let json = cbor::to_json(&cbor).expect("it came from JSON");
        let again: Value = serde_json::from_slice(&json).expect("it is JSON");
        assert_eq!(again.to_string(), value.to_string());
    }
    if let Ok(json) = cbor::to_json(bytes) {
        serde_json::from_slice::<serde::de::IgnoredAny>(&json).expect("it is JSON");
    }
});
