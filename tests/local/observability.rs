//! The interfaces for monitoring a fleet: gRPC health and reflection, metrics.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::FileDescriptorProto;
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    script::{answer, task},
    wait::{check, eventually, in_time},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

async fn health(channel: Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.into() };
    let answer = in_time("health", HealthClient::new(channel).check(request)).await;
    answer.unwrap_or_else(|status| panic!("health of {service:?}: {status}")).into_inner().status()
}

/// Returns the reflection service's response to a request.
async fn reflected(channel: Channel, question: MessageRequest) -> Option<MessageResponse> {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(channel);
    let answers = in_time("reflection", client.server_reflection_info(tokio_stream::iter([request]))).await;
    let mut answers = answers.unwrap_or_else(|status| panic!("reflection: {status}")).into_inner();
    // For an unknown symbol, the response may be a status.
    in_time("an answer", answers.message()).await.ok().flatten()?.message_response
}

async fn services(channel: Channel) -> Vec<String> {
    let mut names: Vec<String> = match reflected(channel, MessageRequest::ListServices(String::new())).await {
        Some(MessageResponse::ListServicesResponse(list)) => list.service.into_iter().map(|one| one.name).collect(),
        other => panic!("instead of a list: {other:?}"),
    };
    names.sort();
    names
}

/// Returns the file of this symbol or name and all its imports, as a reflection client collects them; empty if it is
/// unknown.
async fn described(channel: &Channel, question: MessageRequest) -> BTreeMap<String, FileDescriptorProto> {
    let mut found = BTreeMap::new();
    let mut questions = vec![question];
    while let Some(question) = questions.pop() {
        let Some(MessageResponse::FileDescriptorResponse(files)) = reflected(channel.clone(), question).await else {
            continue;
        };
        for file in files.file_descriptor_proto {
            let file = FileDescriptorProto::decode(file.as_slice()).expect("a descriptor");
            questions.extend(file.dependency.iter().cloned().map(MessageRequest::FileByFilename));
            found.insert(file.name().to_owned(), file);
        }
    }
    found
}

async fn assert_tells_nothing_private(channel: &Channel) {
    for symbol in ["Raft", "Session", "Guards", "AppendRequest", "AgentMessage", "GuardReport"] {
        for package in ["robeing.internal.v1", "robeing.v1"] {
            let question = MessageRequest::FileContainingSymbol(format!("{package}.{symbol}"));
            let files = described(channel, question).await;
            assert!(files.is_empty(), "{package}.{symbol} is in {:?}", files.keys());
        }
    }
    for file in ["robeing/internal/v1/raft.proto", "robeing/internal/v1/session.proto"] {
        assert!(described(channel, MessageRequest::FileByFilename(file.into())).await.is_empty(), "{file}");
    }
}

/// Fetches a page over HTTP/1.1; returns its status line and headers, and its body.
async fn page(address: &str, path: &str) -> (String, String) {
    let get = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = in_time(&format!("{path} of {address}"), get).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an HTTP response: {answer:?}"));
    (head.into(), body.into())
}

async fn connect(address: &str) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.unwrap_or_else(|error| panic!("{address}: {error}"))
}

#[tokio::test]
async fn reflection_tells_what_anybody_may_call_and_nothing_of_what_is_private() {
    const ALWAYS: [&str; 2] = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
    let worker = PoolSpec::new("work", 1).executor(json!({"worker": {}}));
    let mut fleet = Fleet::prepare(FleetSpec::new(1).pool(worker));
    fleet.start_all();
    fleet.leader().await;
    let coordinator = connect(&fleet.address("coordinator-0")).await;
    let public = "Admin Ballots DeadLetters Directory Fleet Messages Queues Resources Schedules Teams".split(' ');
    let public: Vec<String> = public.map(|service| format!("robeing.v1.{service}")).collect();
    let public: Vec<&str> = public.iter().map(String::as_str).collect();
    assert_eq!(services(coordinator.clone()).await, [&ALWAYS[..], &public].concat());
    for service in public {
        let files = described(&coordinator, MessageRequest::FileContainingSymbol(service.into())).await;
        let packages: BTreeSet<&str> = files.values().map(FileDescriptorProto::package).collect();
        assert!(packages.contains("robeing.v1"), "{service} is not in {:?}", files.keys());
        assert!(packages.iter().all(|of| ["google.protobuf", "robeing.v1"].contains(of)), "{packages:?}");
    }
    assert_tells_nothing_private(&coordinator).await;

    let name = fleet.agent_names().remove(0);
    let agent = connect(&fleet.agent_such(&name, "is a member", |_| true).await.address).await;
    assert_eq!(services(agent.clone()).await, [&ALWAYS[..], &["robeing.message.v1.Messages"]].concat());
    assert_tells_nothing_private(&agent).await;
    let attach = connect(&fleet.attach_address(&name)).await;
    assert_eq!(services(attach.clone()).await, [&ALWAYS[..], &["robeing.worker.v1.Worker"]].concat());
    assert_tells_nothing_private(&attach).await;
}

#[tokio::test]
async fn coordinators_and_agents_answer_those_who_watch_them() {
    let fleet = Fleet::start(FleetSpec::new(1).pool(PoolSpec::new("work", 1)).session_timeout("10s")).await;
    let coordinator = connect(&fleet.address("coordinator-0")).await;
    assert_eq!(health(coordinator.clone(), "").await, ServingStatus::Serving);
    assert_eq!(health(coordinator, "robeing.v1.Fleet").await, ServingStatus::Serving);
    let agent = fleet.agents().await.remove(0);
    assert_eq!(health(connect(&agent.address).await, "").await, ServingStatus::Serving);

    let id = fleet.submit_one(task(&answer("counted"))).await;
    fleet.finished(&id, robeing_proto::v1::TaskState::Succeeded).await;
    let address = fleet.metrics_address("coordinator-0");
    let (head, body) = eventually("the finished task in the metrics", async || {
        let (head, body) = page(&address, "/metrics").await;
        let is_counted = body.lines().any(|line| line.contains("tasks_succeeded") && line.ends_with(" 1"));
        check(is_counted, (head, body.clone()), body)
    })
    .await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(body.lines().any(|line| line.contains("agents_live") && line.ends_with(" 1")), "{body}");
    let (head, _) = page(&address, "/healthz").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let (head, _) = page(&address, "/nothing").await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}
