//! Converts data between JSON, CBOR and protobuf for other agents, which send a messenger a message of the type
//! [`CONVERT`]. Its payload is JSON, and so is the reply:
//!
//! ```json
//! {"from": "json", "to": "protobuf", "message": "robeing.v1.TaskSpec", "data": {"kind": "ocr", "priority": 7}}
//! {"dataBase64": "CgNvY3IgBw=="}
//! ```
//!
//! JSON is in `data`, and other forms are in `dataBase64`. `message` names a message of the package `robeing.v1`, whose
//! JSON form is that of proto3; it is needed for protobuf alone.

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use robeing_proto::{FILE_DESCRIPTOR_SET, codec};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::gateway::{cbor, forms};
use crate::messaging::{
    handlers::{Delivery, Handler, HandlerOutcome},
    outcome::MAX_REPLY,
};

/// The type of messages that ask for a conversion.
pub const CONVERT: &str = "robeing.convert.v1";
/// Maximum size of the data to convert, bytes.
pub const MAX_DATA: usize = 256 * 1024;
/// The package whose messages are known.
const PACKAGE: &str = "robeing.v1.";

static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).ok());

/// Converts what it is asked to, and passes every other message on to another handler.
pub struct Converting {
    inner: Arc<dyn Handler>,
}

impl Converting {
    /// Creates a handler that passes other messages on to `inner`.
    pub fn new(inner: Arc<dyn Handler>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl Handler for Converting {
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome {
        if &*delivery.packet.kind != CONVERT {
            return self.inner.deliver(delivery).await;
        }
        match converted(&delivery.packet.payload) {
            Ok(reply) => HandlerOutcome::Accepted { reply: Some(reply) },
            Err(reason) => HandlerOutcome::Refused { reason },
        }
    }

    fn at_once(&self) -> usize {
        self.inner.at_once()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    Json,
    Cbor,
    Protobuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Asked<'a> {
    from: Form,
    to: Form,
    message: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

/// Returns the reply to a request for a conversion.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub fn converted(payload: &[u8]) -> Result<Bytes, String> {
    let asked: Asked<'_> = forms::parse(payload)?;
    let data = match (asked.from, asked.data, asked.data_base64.as_deref()) {
        (Form::Json, Some(json), None) => Bytes::copy_from_slice(json.get().as_bytes()),
        (Form::Cbor | Form::Protobuf, None, Some(base64)) => forms::from_base64("dataBase64", base64)?,
        (Form::Json, _, _) => return Err("give JSON in \"data\"".to_owned()),
        (Form::Cbor | Form::Protobuf, _, _) => return Err("give CBOR and protobuf in \"dataBase64\"".to_owned()),
    };
    if data.len() > MAX_DATA {
        return Err(format!("the data has {} bytes, {MAX_DATA} at most", data.len()));
    }
    // JSON is between all forms.
    let json = match asked.from {
        Form::Json => data.to_vec(),
        Form::Cbor => cbor::to_json(&data).map_err(|error| error.to_string())?,
        Form::Protobuf => from_protobuf(descriptor(asked.message.as_deref())?, &data)?,
    };
    let base64 = |bytes: Vec<u8>| format!(r#"{{"dataBase64":"{}"}}"#, forms::to_base64(&bytes));
    let reply = match asked.to {
        Form::Json => [br#"{"data":"#, &json[..], b"}"].concat(),
        Form::Cbor => base64(cbor::from_json(&json).map_err(|error| error.to_string())?).into_bytes(),
        Form::Protobuf => base64(to_protobuf(descriptor(asked.message.as_deref())?, &json)?).into_bytes(),
    };
    match reply.len() <= MAX_REPLY {
        true => Ok(reply.into()),
        false => Err(format!("the result has {} bytes, a reply {MAX_REPLY} at most", reply.len())),
    }
}

fn descriptor(name: Option<&str>) -> Result<MessageDescriptor, String> {
    let Some(name) = name else {
        return Err("give the name of the \"message\", such as robeing.v1.TaskSpec".to_owned());
    };
    let known = POOL.as_ref().filter(|_| name.starts_with(PACKAGE)).and_then(|pool| pool.get_message_by_name(name));
    known.ok_or_else(|| format!("there is no message {:?} in {PACKAGE}", name.chars().take(64).collect::<String>()))
}

fn from_protobuf(descriptor: MessageDescriptor, data: &[u8]) -> Result<Vec<u8>, String> {
    codec::check_parts(data)?;
    let message = DynamicMessage::decode(descriptor, data).map_err(|error| format!("it is not protobuf: {error}"))?;
    serde_json::to_vec(&message).map_err(|error| error.to_string())
}

fn to_protobuf(descriptor: MessageDescriptor, json: &[u8]) -> Result<Vec<u8>, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let message = DynamicMessage::deserialize(descriptor, &mut deserializer);
    let message = message.and_then(|message| deserializer.end().map(|()| message));
    message.map(|message| message.encode_to_vec()).map_err(|error| format!("it is not the message in JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use robeing_proto::v1::TaskSpec;
    use serde_json::{Value, json};

    use super::*;

    fn convert(asked: Value) -> Result<Value, String> {
        let reply = converted(asked.to_string().as_bytes())?;
        Ok(serde_json::from_slice(&reply).expect("a reply is JSON"))
    }

    #[test]
    fn every_form_becomes_every_other() {
        let spec = TaskSpec { kind: "ocr".into(), priority: 7, ..TaskSpec::default() };
        let json = json!({"kind": "ocr", "priority": 7});
        let protobuf = forms::to_base64(&spec.encode_to_vec());
        let message = "robeing.v1.TaskSpec";
        let cbor = convert(json!({"from": "json", "to": "cbor", "data": json})).expect("it converts");
        let cbor = cbor["dataBase64"].as_str().expect("base64").to_owned();
        let forms = [
            ("json", json!({"data": json})),
            ("cbor", json!({"dataBase64": cbor})),
            ("protobuf", json!({"dataBase64": protobuf})),
        ];
        for (from, data) in &forms {
            for (to, expected) in &forms {
                let mut asked = json!({"from": from, "to": to, "message": message});
                asked.as_object_mut().expect("an object").extend(data.as_object().expect("an object").clone());
                assert_eq!(convert(asked).as_ref(), Ok(expected), "{from} to {to}");
            }
        }
    }

    #[test]
    fn what_can_not_be_converted_is_refused_with_a_sentence() {
        for (asked, words) in [
            (json!({"from": "json", "to": "xml", "data": 1}), "unknown variant"),
            (json!({"from": "json", "to": "cbor"}), "in \"data\""),
            (json!({"from": "cbor", "to": "json", "data": 1}), "in \"dataBase64\""),
            (json!({"from": "cbor", "to": "json", "dataBase64": "/w=="}), "not CBOR"),
            (json!({"from": "json", "to": "protobuf", "data": {}}), "name of the \"message\""),
            (json!({"from": "json", "to": "protobuf", "data": {}, "message": "google.protobuf.Any"}), "no message"),
            (
                json!({"from": "json", "to": "protobuf", "data": {"x": 1}, "message": "robeing.v1.Task"}),
                "not the message",
            ),
            (
                json!({"from": "protobuf", "to": "json", "dataBase64": "/w==", "message": "robeing.v1.Task"}),
                "not protobuf",
            ),
        ] {
            let error = convert(asked).expect_err(words);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn data_is_as_large_as_the_limit() {
        let asked = |bytes: usize| convert(json!({"from": "json", "to": "json", "data": "x".repeat(bytes - 2)}));
        assert!(asked(MAX_DATA).is_ok());
        assert!(asked(MAX_DATA + 1).is_err_and(|error| error.contains("at most")));
        // Bytes of protobuf can take far more in memory.
        let many = forms::to_base64(&[0x0a, 0].repeat(codec::MAX_PARTS + 1));
        let asked =
            json!({"from": "protobuf", "to": "json", "dataBase64": many, "message": "robeing.v1.SubmitRequest"});
        assert!(convert(asked).is_err_and(|error| error.contains("parts")));
    }
}
