//! Requests to messengers, and what arrives at ports.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use prost::Message;
use robeing_agent::roles::messenger::gateway::cbor;
use robeing_proto::v1::{
    ElectorAddress, RequiredApproval, ResourceAmounts, RetryPolicy, SendMessageRequest, SubmitRequest, TaskSpec, Verify,
};

use super::Seed;

/// The preface of HTTP/2, and an empty SETTINGS frame (RFC 9113, section 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The beginning of a TLS handshake: a record of type 22 with a ClientHello that is cut short.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\x2e\x01\x00\x00\x2a\x03\x03\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x00\x00\x02\x13\x01\x01\x00";

fn task() -> TaskSpec {
    let after = |seconds| prost_types(Duration::from_secs(seconds));
    TaskSpec {
        id: "018f4e3a-0000-7000-8000-000000000001".into(),
        kind: "ocr".into(),
        input: "text".into(),
        priority: 7,
        deadline_in: after(60),
        delay: after(1),
        attempt_timeout: after(30),
        retry: Some(RetryPolicy {
            max_attempts: 3,
            initial_backoff: after(1),
            max_backoff: after(9),
            multiplier_percent: 150,
            ..RetryPolicy::default()
        }),
        required_role: 2,
        required_specialization: "ocr".into(),
        idempotency_key: "key".into(),
        result_ttl: after(600),
        submitter: "ann".into(),
        requires_approval: Some(RequiredApproval {
            electorate: vec![ElectorAddress { address: "role:guardian".into(), weight: 2 }],
            threshold: "2/3".into(),
            deadline: after(60),
            question: "May it run?".into(),
        }),
        verify: Some(Verify { agents: 3, agree: 2, pointer: Some("/sum".into()), compare: String::new() }),
        team: "018f4e3a-0000-7000-8000-000000000007".into(),
        team_term: 1,
        resources: Some(ResourceAmounts { cpu_millis: 500, memory_bytes: 1 << 20, ..ResourceAmounts::default() }),
        queue: "batch".into(),
        slots: 2,
        skills: vec!["law".into()],
        ..TaskSpec::default()
    }
}

fn prost_types(span: Duration) -> Option<::prost_types::Duration> {
    ::prost_types::Duration::try_from(span).ok()
}

fn message() -> SendMessageRequest {
    SendMessageRequest {
        id: "018f4e3a-0000-7000-8000-000000000002".into(),
        to: "agent:w-0".into(),
        r#type: "note".into(),
        payload: "hello".into(),
        priority: 9,
        deadline: prost_types(Duration::from_secs(60)),
        durable: true,
        ..SendMessageRequest::default()
    }
}

fn requests() -> Vec<Seed> {
    let seed = |name: &str, head: &str, body: &[u8]| {
        Seed::new("gateway_request", name, [head.as_bytes(), b"\n\n", body].concat())
    };
    let json = br#"{"kind":"ocr","input":{"a":[1,2.5]},"priority":7,"deadline":"1m30s","timeout":"3s","maxAttempts":4,"role":"worker"}"#;
    let batch = br#"{"tasks":[{"kind":"a","inputBase64":"_-8"},{"kind":"b","ttl":"soon"},{"kind":1}]}"#;
    let note = br#"{"to":"role:worker","type":"note","payload":"hi","durable":true,"deadline":"1h"}"#;
    let cbor = |json: &[u8]| cbor::from_json(json).expect("it is JSON");
    let tasks = SubmitRequest { tasks: vec![task(), TaskSpec::default()] }.encode_to_vec();
    let event = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":1}}"#;
    vec![
        seed(
            "task",
            "/v1/tasks?wait=30s\ncontent-type: application/json\nidempotency-key: \"k 1\"\naccept: application/cbor;q=0.5, */*",
            json,
        ),
        seed("tasks", "/v1/tasks\ncontent-type: application/json; charset=utf-8\nauthorization: Bearer a.b.c", batch),
        seed("task-cbor", "/v1/tasks/\ncontent-type: application/cbor", &cbor(json)),
        seed("tasks-protobuf", "/v1/tasks\ncontent-type: application/x-protobuf", &tasks),
        seed("message", "/v1/messages?wait=1s\ncontent-type: application/json\nidempotency-key: k", note),
        seed("message-cbor", "/v1/messages\ncontent-type: application/cbor", &cbor(note)),
        seed("message-protobuf", "/v1/messages\ncontent-type: application/protobuf", &message().encode_to_vec()),
        seed("event", "/v1/messages?to=w-0&reason=not+needed%21\ncontent-type: application/cloudevents+json", event),
        seed("cancel", "/v1/tasks/018f4e3a-0000-7000-8000-000000000001?reason=%ff%00", b""),
        seed(
            "compressed",
            "/openapi.json?x=%\ncontent-encoding: gzip\ncontent-type: application/json\naccept: text/html",
            b"\x1f\x8b",
        ),
    ]
}

fn events() -> Vec<Seed> {
    let seed = |name: &str, input: &[u8]| Seed::new("gateway_event", name, input);
    vec![
        seed("binary", b"b1.0\nid-1\n/source\ncom.example.done\n\xff\x00data"),
        seed("binary-percent", b"b1.0\na%20b\n/s%C3%A9\nt\n"),
        seed("structured", br#"s{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"text/plain","data":"x"}"#),
        seed("structured-base64", br#"s{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"/+8="}"#),
        seed("batch", br#"l[{"specversion":"1.0","id":"1","source":"/s","type":"t"},{"specversion":"1.0","id":"2","source":"/s","type":"t","data":[1]}]"#),
        seed("empty-batch", b"l[]"),
    ]
}

fn conversions() -> Vec<Seed> {
    let seed = |name: &str, input: String| Seed::new("conversion", name, input);
    let (protobuf, json) = (STANDARD.encode(task().encode_to_vec()), br#"{"a":[1,-2,1.5e300,"x",null,true,{}]}"#);
    let cbor = STANDARD.encode(cbor::from_json(json).expect("it is JSON"));
    let named = r#""message":"robeing.v1.TaskSpec""#;
    vec![
        seed(
            "to-protobuf",
            format!(
                r#"{{"from":"json","to":"protobuf",{named},"data":{{"kind":"ocr","priority":7,"deadlineIn":"60s"}}}}"#
            ),
        ),
        seed("from-protobuf", format!(r#"{{"from":"protobuf","to":"json",{named},"dataBase64":"{protobuf}"}}"#)),
        seed("protobuf-to-cbor", format!(r#"{{"from":"protobuf","to":"cbor",{named},"dataBase64":"{protobuf}"}}"#)),
        seed("from-cbor", format!(r#"{{"from":"cbor","to":"json","dataBase64":"{cbor}"}}"#)),
        seed("to-cbor", r#"{"from":"json","to":"cbor","data":{"a":18446744073709551615}}"#.into()),
        seed("unknown-message", r#"{"from":"json","to":"protobuf","message":"google.protobuf.Any","data":{}}"#.into()),
    ]
}

fn connections() -> Vec<Seed> {
    let seed = |name: &str, kind: u8, input: &[u8]| Seed::new("connection", name, [&[kind], input].concat());
    let get = b"GET /v1/tasks/a HTTP/1.1\r\nhost: a\r\n\r\n";
    let chunked = b"POST /v1/tasks HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    // HEADERS with END_STREAM and END_HEADERS: `:method GET`, `:scheme http`, `:path /`, and an authority by its index.
    let request = [HTTP2, b"\0\0\x05\x01\x05\0\0\0\x01\x82\x86\x84\x41\0"].concat();
    vec![
        seed("http1", b'0', get),
        seed("http1-chunked", b'0', chunked),
        seed("http1-pipelined", b'0', &[&get[..], get].concat()),
        seed("http1-slow", b'2', b"GET / HTTP/1.1\r\nhost: "),
        seed("http2", b'0', &request),
        seed("http2-grpc", b'1', &request),
        seed("http2-ping", b'3', &[HTTP2, b"\0\0\x08\x06\0\0\0\0\x0001234567"].concat()),
        seed("http2-window", b'1', &[HTTP2, b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\xff\xff"].concat()),
        seed("tls", b'0', CLIENT_HELLO),
        seed("tls-grpc-silent", b'3', CLIENT_HELLO),
        seed("proxy", b'1', b"PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\n"),
        seed("nothing", b'3', b""),
    ]
}

pub(super) fn seeds() -> Vec<Seed> {
    let mut seeds = [requests(), events(), conversions(), connections()].concat();
    let tasks = SubmitRequest { tasks: vec![task(), TaskSpec::default()] };
    seeds.push(Seed::new("protocol", "tasks", tasks.encode_to_vec()));
    seeds.push(Seed::new(
        "protocol",
        "many",
        SubmitRequest { tasks: vec![TaskSpec::default(); 4_000] }.encode_to_vec(),
    ));
    seeds.push(Seed::new("submission", "full", task().encode_to_vec()));
    seeds.push(Seed::new("submission", "least", TaskSpec { kind: "k".into(), ..TaskSpec::default() }.encode_to_vec()));
    let negative = ::prost_types::Duration { seconds: -1, nanos: i32::MIN };
    let longest = ::prost_types::Duration { seconds: i64::MAX, nanos: 999_999_999 };
    let odd = TaskSpec { delay: Some(negative), result_ttl: Some(longest), required_role: 1, ..task() };
    seeds.push(Seed::new("submission", "odd", odd.encode_to_vec()));
    seeds.push(Seed::new(
        "submission",
        "longest",
        TaskSpec { delay: Some(longest), deadline_in: Some(longest), ..task() }.encode_to_vec(),
    ));
    let send = |name: &str, message: SendMessageRequest| Seed::new("send_message", name, message.encode_to_vec());
    seeds.push(send("durable", message()));
    seeds.push(send("broadcast", SendMessageRequest { to: "everyone".into(), broadcast: true, ..message() }));
    seeds.push(send("sealed", SendMessageRequest { key_id: "0011223344556677".into(), ..message() }));
    seeds.push(send(
        "least",
        SendMessageRequest { to: "w-0".into(), r#type: "t".into(), ..SendMessageRequest::default() },
    ));
    seeds.push(send("longest", SendMessageRequest { deadline: Some(longest), ..message() }));
    seeds
}
