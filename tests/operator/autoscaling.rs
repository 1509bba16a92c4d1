//! The query with which the documented ScaledObject sizes a pool, run by Debian's Prometheus, which scrapes a fleet's
//! coordinators.

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
/// The number of tasks that wait for an agent, in addition to the one that runs.
const WAITING: usize = 6;
/// The number of tasks of another fleet.
const MANY: u32 = 11;
const COORDINATORS: u32 = 3;

/// Returns the query of the documented ScaledObject, and its threshold.
fn documented_query() -> (String, String) {
    let object = documented::manifest("docs/kubernetes.md", "ScaledObject");
    let metadata = &object["spec"]["triggers"][0]["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or_else(|| panic!("{field} is text: {object}")).to_owned();
    (text("query"), text("threshold"))
}

/// Returns a configuration with the coordinators of these fleets as targets, with the labels of their pods.
fn configuration(fleets: &[(&str, &str, &Fleet)]) -> Value {
    let mut targets = Vec::new();
    for (namespace, cluster, fleet) in fleets {
        for name in fleet.coordinators() {
            let pod = format!("{cluster}-{}", name.replace("coordinator", "coordinators"));
            let labels = json!({"namespace": namespace, "pod": pod});
            targets.push(json!({"targets": [fleet.metrics_address(&name)], "labels": labels}));
        }
    }
    json!({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "coordinators", "static_configs": targets}],
    })
}

/// Returns the current result of a query, as numbers.
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
    let fleet = Fleet::start(FleetSpec::new(COORDINATORS).pool(PoolSpec::new("work", 1))).await;
    // Another fleet with more tasks, which must not be counted: neither as another cluster of the namespace nor as a
    // cluster of the same name in another namespace.
    let other = Fleet::start(FleetSpec::new(1)).await;
    other.submit((0..MANY).map(|_| task("exit 0")).collect()).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("prometheus.yaml");
    let fleets = [("default", "first", &fleet), ("default", "second", &other), ("elsewhere", "first", &other)];
    fs::write(&config, configuration(&fleets).to_string()).expect("a configuration in the test's folder");
    let ports = Ports::take(1);
    let port = ports.numbers()[0];
    let flags = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", folder.path().join("data").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    assert!(Path::new(PROMETHEUS).exists(), "{PROMETHEUS} does not exist; `tests/setup kube` installs it");
    let prometheus = Process::start("prometheus", Path::new(PROMETHEUS), &flags, &folder.path().join("log"));
    let is = async |wanted: f64| {
        // Waits until all the metrics behind the query have their final values, so that it is not right only by chance.
        let of_each = "robeing_tasks_queued + robeing_tasks_running";
        let mut all = vec![wanted; COORDINATORS as usize];
        all.extend([f64::from(MANY); 2]);
        all.sort_by(f64::total_cmp);
        eventually(&format!("{all:?} tasks by coordinator"), async || {
            let mut found = ask(port, of_each).await;
            found.iter_mut().for_each(|found| found.sort_by(f64::total_cmp));
            check(found.as_ref() == Ok(&all), (), (found, prometheus.log()))
        })
        .await;
        assert_eq!(ask(port, &query).await, Ok(vec![wanted]), "{query}");
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
