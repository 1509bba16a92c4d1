//! What the gateway does with requests, without TLS.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use prost::Message;
use robeing_platform::OsRandom;
use robeing_proto::v1::{self, TaskState};
use robeing_sealing::OpeningKey;
use serde_json::{Value, json};

use super::{
    super::{cbor, server::Limits},
    client::{PATIENCE, get, post, send},
    stub::{Plain, Stub},
};

#[tokio::test]
async fn a_task_is_submitted_once_however_often_it_is_sent() {
    let fleet = Plain::start().await;
    let at = fleet.gateway.local_addr();
    let answer = send(at, post("/v1/tasks", r#"{"kind":"k","input":{"a":1}}"#)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(answer.header("location"), format!("/v1/tasks/{id}"));
    assert_eq!(answer.json(), json!({"id": id, "existing": false}));
    assert_eq!(fleet.coordinator.stub.tasks()[0].input, r#"{"a":1}"#);
    let again = send(at, post("/v1/tasks", &format!(r#"{{"kind":"k","id":"{id}"}}"#))).await;
    assert_eq!(again.json(), json!({"id": id, "existing": true}));
    let mut keyed = post("/v1/tasks", r#"{"kind":"k"}"#);
    keyed.headers_mut().insert("idempotency-key", "\"order 7\"".parse().expect("a value"));
    assert_eq!(send(at, keyed).await.status, StatusCode::ACCEPTED);
    assert!(fleet.coordinator.stub.tasks().iter().any(|task| task.idempotency_key == "order 7"));
}

#[tokio::test]
async fn a_call_that_a_coordinator_does_not_answer_is_repeated_with_the_same_id() {
    let fleet = Plain::start().await;
    fleet.coordinator.stub.failing.store(2, Ordering::SeqCst);
    let answer = send(fleet.gateway.local_addr(), post("/v1/tasks", r#"{"kind":"k"}"#)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!((fleet.coordinator.stub.calls().len(), fleet.coordinator.stub.tasks().len()), (3, 1));
}

#[tokio::test]
async fn of_a_list_each_task_has_its_own_result() {
    let fleet = Plain::start().await;
    let list = r#"{"tasks":[{"kind":"k"},{"kin":"k"},{"kind":"refused"},{"kind":"k"}]}"#;
    let answer = send(fleet.gateway.local_addr(), post("/v1/tasks", list)).await;
    assert_eq!(answer.status, StatusCode::OK);
    let tasks = answer.json()["tasks"].clone();
    let codes: Vec<&Value> = tasks.as_array().expect("a list").iter().map(|task| &task["refusal"]["code"]).collect();
    assert_eq!(codes, [&Value::Null, &json!("INVALID_ARGUMENT"), &json!("RESOURCE_EXHAUSTED"), &Value::Null]);
    assert_eq!(fleet.coordinator.stub.tasks().len(), 2);
}

#[tokio::test]
async fn a_request_that_waits_gets_the_finished_task_or_after_its_time_what_there_is() {
    let fleet = Plain::start().await;
    let at = fleet.gateway.local_addr();
    let waiting = tokio::spawn(send(at, post("/v1/tasks?wait=60s", r#"{"kind":"k","input":"hello"}"#)));
    let stub = &fleet.coordinator.stub;
    let watched = async {
        while !stub.calls().iter().any(|call| call.method == "WatchTasks") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, watched).await.expect("it is watched");
    stub.finish();
    let answer = waiting.await.expect("it ends");
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!((&answer.json()["state"], &answer.json()["output"]), (&json!("succeeded"), &json!("hello")));
    let unfinished = send(at, post("/v1/tasks?wait=10ms", r#"{"kind":"k"}"#)).await;
    assert_eq!(unfinished.status, StatusCode::ACCEPTED);
    let id = unfinished.json()["id"].as_str().expect("an id").to_owned();
    let task = send(at, get(&format!("/v1/tasks/{id}?wait=10ms"))).await;
    assert_eq!((task.status, &task.json()["state"]), (StatusCode::OK, &json!("queued")));
    let list = send(at, post("/v1/tasks?wait=1s", r#"{"tasks":[{"kind":"k"}]}"#)).await;
    assert_eq!(list.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn tasks_are_read_and_cancelled() {
    let fleet = Plain::start().await;
    let at = fleet.gateway.local_addr();
    let id = send(at, post("/v1/tasks", r#"{"kind":"k"}"#)).await.json()["id"].as_str().expect("an id").to_owned();
    let delete = |id: &str| {
        let request = Request::delete(format!("/v1/tasks/{id}?reason=not%20needed")).header("host", "gateway");
        request.body(Full::default()).expect("a request")
    };
    let answer = send(at, delete(&id)).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({"id": id, "state": "cancelled"})));
    let task = send(at, get(&format!("/v1/tasks/{id}"))).await.json();
    assert_eq!((&task["state"], &task["cancelReason"]), (&json!("cancelled"), &json!("not needed")));
    let unknown = send(at, get("/v1/tasks/none")).await;
    assert_eq!((unknown.status, unknown.header("content-type")), (StatusCode::NOT_FOUND, "application/problem+json"));
    assert_eq!(unknown.json()["code"], "NOT_FOUND");
    assert_eq!(send(at, delete("none")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_message_is_sealed_for_its_receiver_and_the_reply_is_opened() {
    let mut stub = Stub::default();
    stub.key = Some(OpeningKey::generate(&OsRandom));
    let fleet = Plain::with(stub, Limits::default()).await;
    let at = fleet.gateway.local_addr();
    let answer = send(at, post("/v1/messages", r#"{"type":"t","to":"role:worker","payload":"a secret"}"#)).await;
    assert_eq!((answer.status, &answer.json()["outcomes"][0]["reply"]), (StatusCode::OK, &json!("a secret")));
    let sent = &fleet.coordinator.stub.messages()[0];
    assert_eq!((&*sent.to, &*sent.sealed_for[0].agent), ("role:worker", "w-0"));
    assert!(!sent.payload.windows(6).any(|window| window == b"secret"), "{sent:?}");
}

#[tokio::test]
async fn what_became_of_a_message_is_the_status_of_its_request() {
    let fleet = Plain::start().await;
    let at = fleet.gateway.local_addr();
    let sent = async |fields: &str| send(at, post("/v1/messages", &format!(r#"{{"type":"t",{fields}}}"#))).await;
    let answer = sent(r#""to":"w-0","payload":"hi","priority":9,"deadline":"5s""#).await;
    assert_eq!(answer.status, StatusCode::OK);
    let outcome = &answer.json()["outcomes"][0];
    assert_eq!((&outcome["outcome"], &outcome["reply"]), (&json!("accepted"), &json!("hi")));
    let message = &fleet.coordinator.stub.messages()[0];
    assert_eq!((message.priority, message.deadline.map(|deadline| deadline.seconds)), (9, Some(5)));
    for (fields, status, again) in [
        (r#""to":"w-0","durable":true"#, StatusCode::ACCEPTED, false),
        (r#""to":"gone""#, StatusCode::NOT_FOUND, false),
        (r#""to":"away""#, StatusCode::SERVICE_UNAVAILABLE, true),
        (r#""to":"refuses""#, StatusCode::UNPROCESSABLE_ENTITY, false),
        (r#""to":"slow""#, StatusCode::GATEWAY_TIMEOUT, false),
        (r#""to":"everyone","broadcast":true"#, StatusCode::OK, false),
    ] {
        let answer = sent(fields).await;
        assert_eq!((answer.status, answer.headers.contains_key("retry-after")), (status, again), "{fields}");
        assert!(answer.json()["outcomes"][0]["id"].is_string(), "{answer:?}");
    }
    let kept = send(at, get("/v1/messages/0198c1a2-0000-7000-8000-000000000001")).await;
    assert_eq!((kept.status, &kept.json()["outcome"]), (StatusCode::OK, &json!("kept")));
}

#[tokio::test]
async fn cbor_and_protobuf_are_as_good_as_json() {
    let fleet = Plain::start().await;
    let at = fleet.gateway.local_addr();
    let request = |media: &str, path: &str, body: Vec<u8>| {
        let request = Request::post(path).header("host", "gateway").header("content-type", media);
        request.body(Full::from(Bytes::from(body))).expect("a request")
    };
    let task = cbor::from_json(br#"{"kind":"k","inputBase64":"/w=="}"#).expect("it converts");
    let answer = send(at, request("application/cbor", "/v1/tasks", task)).await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::ACCEPTED, "application/cbor"));
    let json = cbor::to_json(&answer.body).expect("it is CBOR");
    assert!(serde_json::from_slice::<Value>(&json).expect("JSON")["id"].is_string());
    assert_eq!(fleet.coordinator.stub.tasks()[0].input, &b"\xff"[..]);
    let spec = v1::TaskSpec { kind: "k".into(), input: "p".into(), ..v1::TaskSpec::default() };
    let body = v1::SubmitRequest { tasks: vec![spec] }.encode_to_vec();
    let answer = send(at, request("application/x-protobuf", "/v1/tasks", body)).await;
    let response = v1::SubmitResponse::decode(answer.body).expect("it is protobuf");
    let mut wanted = get(&format!("/v1/tasks/{}", response.results[0].task_id));
    wanted.headers_mut().insert("accept", "application/x-protobuf".parse().expect("a value"));
    let task = v1::Task::decode(send(at, wanted).await.body).expect("it is protobuf");
    assert_eq!((task.state(), &task.input[..]), (TaskState::Queued, &b"p"[..]));
    let message = v1::SendMessageRequest { to: "w-0".into(), r#type: "t".into(), ..v1::SendMessageRequest::default() };
    let answer = send(at, request("application/x-protobuf", "/v1/messages", message.encode_to_vec())).await;
    assert_eq!(v1::SendMessageResponse::decode(answer.body).expect("it is protobuf").outcomes.len(), 1);
    let html = send(at, request("text/html", "/v1/tasks", Vec::new())).await;
    assert_eq!(html.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let mut wanted = post("/v1/tasks", r#"{"kind":"k"}"#);
    wanted.headers_mut().insert("accept", "text/html".parse().expect("a value"));
    assert_eq!(send(at, wanted).await.status, StatusCode::NOT_ACCEPTABLE);
    assert_eq!(fleet.coordinator.stub.tasks().len(), 2, "what can't be answered is not submitted");
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let fleet = Plain::start().await;
    let at = fleet.gateway.local_addr();
    assert_eq!(send(at, get("/healthz")).await.body, "ok\n");
    assert_eq!(send(at, get("/v1/openapi.json")).await.json()["openapi"], "3.1.0");
    assert_eq!(send(at, get("/v2")).await.status, StatusCode::NOT_FOUND);
    let mut put = post("/v1/tasks", "{}");
    *put.method_mut() = Method::PUT;
    let answer = send(at, put).await;
    assert_eq!((answer.status, answer.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "POST"));
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(send(at, get("/v1/tasks/a?state=x")).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn requests_that_wait_are_answered_when_the_gateway_stops() {
    let fleet = Plain::with(Stub::default(), Limits::default()).await;
    let at = fleet.gateway.local_addr();
    let waiting = tokio::spawn(send(at, post("/v1/tasks?wait=600s", r#"{"kind":"k"}"#)));
    let watched = async {
        while !fleet.coordinator.stub.calls().iter().any(|call| call.method == "WatchTasks") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, watched).await.expect("it is watched");
    fleet.gateway.stop().await;
    let answer = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("at once").expect("it ends");
    assert_eq!(answer.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_cloud_event_becomes_a_task_or_a_message() {
    let fleet = Plain::start().await;
    let at = fleet.gateway.local_addr();
    let event = |path: &str| {
        let request = Request::post(path).header("host", "gateway").header("content-type", "text/csv");
        let request = request.header("ce-specversion", "1.0").header("ce-id", "7").header("ce-source", "/shop");
        request.header("ce-type", "order").body(Full::from("a,b")).expect("a request")
    };
    assert_eq!(send(at, event("/v1/tasks")).await.status, StatusCode::ACCEPTED);
    let task = &fleet.coordinator.stub.tasks()[0];
    assert_eq!((&*task.kind, &task.input[..], &*task.idempotency_key), ("order", &b"a,b"[..], "/shop 7"));
    assert_eq!(send(at, event("/v1/messages?to=pool%3Adata")).await.status, StatusCode::OK);
    assert_eq!(fleet.coordinator.stub.messages()[0].to, "pool:data");
    assert_eq!(send(at, event("/v1/messages")).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn one_wrong_event_of_a_list_is_refused_by_itself() {
    let fleet = Plain::start().await;
    let event = |id: &str| format!(r#"{{"specversion":"1.0","id":"{id}","source":"/shop","type":"order"}}"#);
    let request = |list: &str| {
        let mut request = post("/v1/tasks", list);
        let media = "application/cloudevents-batch+json".parse().expect("a value");
        request.headers_mut().insert("content-type", media);
        request
    };
    let at = fleet.gateway.local_addr();
    let answer = send(at, request(&format!(r#"[{},{{"id":"2"}},{}]"#, event("1"), event("3")))).await;
    assert_eq!(answer.status, StatusCode::OK);
    let tasks = answer.json()["tasks"].clone();
    let codes: Vec<&Value> = tasks.as_array().expect("a list").iter().map(|task| &task["refusal"]["code"]).collect();
    assert_eq!(codes, [&Value::Null, &json!("INVALID_ARGUMENT"), &Value::Null]);
    assert_eq!(fleet.coordinator.stub.tasks().len(), 2);
    assert_eq!(send(at, request(&format!("[{},", event("1")))).await.status, StatusCode::BAD_REQUEST);
}
