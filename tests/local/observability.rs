//! What machines that watch a fleet ask: gRPC health and reflection, metrics.

use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    script::{answer, task},
    wait::{check, eventually, in_time},
};
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

async fn services(channel: Channel) -> Vec<String> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let answers = in_time("reflection", client.server_reflection_info(tokio_stream::iter([request]))).await;
    let mut answers = answers.unwrap_or_else(|status| panic!("reflection: {status}")).into_inner();
    let answer = in_time("the list of services", answers.message()).await.expect("an answer").expect("one message");
    match answer.message_response {
        Some(MessageResponse::ListServicesResponse(list)) => list.service.into_iter().map(|one| one.name).collect(),
        other => panic!("instead of a list: {other:?}"),
    }
}

/// A page over HTTP/1.1: its status line and headers, and its body.
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
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer of HTTP: {answer:?}"));
    (head.into(), body.into())
}

#[tokio::test]
async fn coordinators_and_agents_answer_those_who_watch_them() {
    let fleet = Fleet::start(FleetSpec::new(1).pool(PoolSpec::new("work", 1)).session_timeout("10s")).await;
    let connect = async |address: &str| {
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
        endpoint.connect().await.unwrap_or_else(|error| panic!("{address}: {error}"))
    };
    let coordinator = connect(&fleet.address("coordinator-0")).await;
    assert_eq!(health(coordinator.clone(), "").await, ServingStatus::Serving);
    assert_eq!(health(coordinator.clone(), "robeing.v1.Fleet").await, ServingStatus::Serving);
    let names = services(coordinator).await;
    for name in ["robeing.v1.Fleet", "robeing.v1.Session", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|known| known == name), "{name} is not among {names:?}");
    }
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
