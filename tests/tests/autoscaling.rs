//! The query by which the documented ScaledObject sizes a pool, asked of Debian's Prometheus, which scrapes a fleet's coordinators.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use robeing_tests::{
    documented,
    fleet::{Fleet, FleetSpec, PoolSpec},
    ports::Ports,
    processes::Process,
    script::{Gate, task},
    wait::{check, eventually},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// From Debian's package of that name.
const PROMETHEUS: &str = "/usr/bin/prometheus";
/// Tasks that wait for an agent, besides the one that runs.
const WAITING: usize = 6;

/// The query of the documented ScaledObject, and its threshold.
fn documented_query() -> (String, String) {
    let object = documented::manifest("docs/kubernetes.md", "ScaledObject");
    let metadata = &object["spec"]["triggers"][0]["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or_else(|| panic!("{field} is text: {object}")).to_owned();
    (text("query"), text("threshold"))
}

/// Coordinators as Prometheus finds those of the documented cluster: with the labels of their pods.
fn configuration(fleet: &Fleet) -> Value {
    let target = |name: String| {
        let labels =
            json!({"namespace": "default", "pod": format!("first-{}", name.replace("coordinator", "coordinators"))});
        json!({"targets": [fleet.metrics_address(&name)], "labels": labels})
    };
    // Of another fleet, and what would be added to it.
    let mut targets: Vec<Value> = fleet.coordinators().into_iter().map(target).collect();
    let mut other = targets[0].clone();
    other["labels"] = json!({"namespace": "default", "pod": "second-coordinators-0"});
    targets.push(other);
    json!({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "coordinators", "static_configs": targets}],
    })
}

/// What Prometheus answers to a query now, as numbers.
async fn ask(port: u16, query: &str) -> Result<Vec<f64>, String> {
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let request = Request::get(format!("/api/v1/query?query={encoded}")).header("Host", "localhost");
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let body = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
    let answer: Value = serde_json::from_slice(&body).map_err(|error| format!("{error}: {body:?}"))?;
    if answer["status"] != "success" {
        return Err(answer.to_string());
    }
    let results = answer["data"]["result"].as_array().cloned().unwrap_or_default();
    Ok(results.iter().filter_map(|one| one["value"][1].as_str()?.parse().ok()).collect())
}

#[tokio::test]
async fn the_documented_query_is_the_number_of_tasks_that_want_an_agent() {
    let (query, threshold) = documented_query();
    assert!(threshold.parse::<u32>().is_ok_and(|tasks| tasks > 0), "{threshold}");
    let fleet = Fleet::start(FleetSpec::new(3).pool(PoolSpec::new("work", 1))).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("prometheus.yaml");
    fs::write(&config, configuration(&fleet).to_string()).expect("a configuration in the test's folder");
    let ports = Ports::take(1);
    let port = ports.numbers()[0];
    let flags = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", folder.path().join("data").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    assert!(Path::new(PROMETHEUS).exists(), "{PROMETHEUS} is not there; tests/devkube/install installs it");
    let prometheus = Process::start("prometheus", Path::new(PROMETHEUS), &flags, &folder.path().join("log"));
    let is = async |wanted: f64| {
        eventually(&format!("{wanted} tasks by {query}"), async || {
            let found = ask(port, &query).await;
            check(found.as_deref() == Ok(&[wanted]), (), (found, prometheus.log()))
        })
        .await;
    };
    is(0.0).await;
    let gate: Gate = fleet.gate("open");
    let tasks: Vec<_> = (0..=WAITING).map(|_| task(&gate.wait())).collect();
    let ids = fleet.submit(tasks).await;
    is((WAITING + 1) as f64).await;
    gate.open();
    for id in ids {
        fleet.finished(&id, robeing_proto::v1::TaskState::Succeeded).await;
    }
    is(0.0).await;
}
