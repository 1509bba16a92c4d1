//! Access to a fleet through a fake API server on loopback: its responses, and the messages that users see.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use robeing_client::stub;
use robeing_proto::v1::Consistency;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinHandle, JoinSet},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use super::*;
use crate::exit::Exit;

const CLUSTERS: &str = "/apis/robeing.io/v1alpha1/namespaces/team/robeingclusters";
const PODS: &str = "/api/v1/namespaces/team/pods";

/// The state of the fake API server.
#[derive(Default)]
struct Known {
    /// Objects by path. A list is the array of its items.
    objects: HashMap<String, Value>,
    /// Refusals by path prefix.
    refusals: HashMap<String, (u16, String)>,
    /// The actual addresses of the pods' ports, and the pods that connections were forwarded to, in order.
    ports: HashMap<String, SocketAddr>,
    forwarded: Vec<String>,
    /// The open port-forwards, with their pods.
    running: Vec<(String, AbortHandle)>,
    queries: Vec<String>,
}

/// A fake API server, with a kubeconfig. It stops when it is dropped.
struct Fake {
    known: Arc<Mutex<Known>>,
    server: JoinHandle<()>,
    dir: TempDir,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let known = Arc::new(Mutex::new(Known::default()));
        let server = tokio::spawn(serve(listener, known.clone()));
        let fake = Self { known, server, dir: tempfile::tempdir().expect("a temporary directory") };
        fake.write_kubeconfig(&address.to_string());
        fake.put(CLUSTERS, json!([]));
        fake.put(PODS, json!([]));
        fake
    }

    fn write_kubeconfig(&self, address: &str) {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [
                {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}},
                {"name": "there", "context": {"cluster": "c", "user": "u", "namespace": "other"}},
            ],
        });
        std::fs::write(self.dir.path().join("config"), kubeconfig.to_string()).expect("it can be written");
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no test panics while it holds this")
    }

    fn put(&self, path: &str, object: Value) {
        self.known().objects.insert(path.into(), object);
    }

    /// Creates clusters with these names, each with three desired coordinators and a status.
    fn clusters(&self, names: &[&str]) {
        let cluster = |name: &&str| {
            json!({
                "metadata": {"name": name, "namespace": "team"},
                "spec": {"coordinators": {"replicas": 3}},
                "status": {"phase": "Degraded", "conditions": [{
                    "type": "QuorumHealthy", "status": "False", "reason": "NoLeader",
                    "message": "no majority of the coordinators answers", "lastTransitionTime": "2026-01-01T00:00:00Z",
                }]},
            })
        };
        self.put(CLUSTERS, names.iter().map(cluster).collect());
        for name in names {
            self.put(&format!("{CLUSTERS}/{name}"), cluster(name));
        }
    }

    /// Creates coordinator pods that are ready or not.
    fn pods(&self, pods: &[(&str, bool)]) {
        let pod = |(name, ready): &(&str, bool)| {
            let ready = if *ready { "True" } else { "False" };
            let conditions = json!([{"type": "Ready", "status": ready}]);
            json!({"metadata": {"name": name}, "status": {"phase": "Running", "conditions": conditions}})
        };
        self.put(PODS, pods.iter().map(pod).collect());
    }

    /// Closes the port-forwards to a pod, and points it to an address that nothing listens on. The pod still appears
    /// ready, so only its connections show that it died.
    async fn kill(&self, pod: &str) {
        let nowhere =
            TcpListener::bind("127.0.0.1:0").await.expect("a port is free").local_addr().expect("it is bound");
        let mut known = self.known();
        known.ports.insert(pod.into(), nowhere);
        known.running.iter().filter(|(to, _)| to == pod).for_each(|(_, forwarding)| forwarding.abort());
    }

    fn refuse(&self, path: &str, code: u16, message: &str) {
        self.known().refusals.insert(path.into(), (code, message.into()));
    }

    fn place(&self, cluster: Option<&str>) -> Location {
        let kubeconfig = Some(self.dir.path().join("config"));
        Location { kubeconfig, cluster: cluster.map(str::to_owned), ..Default::default() }
    }

    async fn find(&self, cluster: Option<&str>) -> Result<Found, KubernetesError> {
        find(&self.place(cluster), false, settings()).await
    }

    /// Returns why the cluster can't be reached, and the exit code.
    async fn refused(&self, cluster: Option<&str>) -> (String, Exit) {
        let error = self.find(cluster).await.expect_err("it can't be reached");
        (error.to_string(), error.exit())
    }
}

fn settings() -> Settings {
    Settings { request_timeout: Duration::from_secs(20), ..Settings::default() }
}

async fn serve(listener: TcpListener, known: Arc<Mutex<Known>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let known = known.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(request, &known);
                async move { Ok::<_, Infallible>(answer) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
    }
}

fn answer(mut request: Request<Incoming>, known: &Mutex<Known>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let mut known = known.lock().expect("no test panics while it holds this");
    known.queries.push(request.uri().query().unwrap_or_default().into());
    let refusal = known.refusals.iter().find(|(start, _)| path.starts_with(*start));
    if let Some((_, (code, message))) = refusal {
        return status(*code, message);
    }
    if let Some(pod) = path.strip_suffix("/portforward").and_then(|path| path.rsplit('/').next()) {
        known.forwarded.push(pod.into());
        let Some(address) = known.ports.get(pod).copied() else {
            return status(404, &format!("pods {pod:?} not found"));
        };
        let key = request.headers()[header::SEC_WEBSOCKET_KEY].as_bytes().to_vec();
        let forwarding = tokio::spawn(forward(hyper::upgrade::on(&mut request), address));
        known.running.push((pod.into(), forwarding.abort_handle()));
        return Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(&key))
            .header(header::SEC_WEBSOCKET_PROTOCOL, "v4.channel.k8s.io")
            .body(Full::default())
            .expect("the answer is well formed");
    }
    match known.objects.get(&path) {
        Some(Value::Array(items)) => Response::new(json!({"items": items}).to_string().into()),
        Some(object) => Response::new(object.to_string().into()),
        None => status(404, "not found"),
    }
}

fn status(code: u16, message: &str) -> Response<Full<Bytes>> {
    let body = json!({"kind": "Status", "status": "Failure", "message": message, "reason": "", "code": code});
    Response::builder().status(code).body(body.to_string().into()).expect("the answer is well formed")
}

/// Forwards one port as a kubelet does: channel 0 carries the data, channel 1 an error, and each starts with the port.
async fn forward(upgrade: OnUpgrade, address: SocketAddr) {
    let Ok(upgraded) = upgrade.await else { return };
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let (mut to_client, mut from_client) = socket.split();
    let port = forward::GRPC_PORT.to_le_bytes();
    for channel in [0, 1] {
        let _ = to_client.send(Message::binary(vec![channel, port[0], port[1]])).await;
    }
    let mut pod = match TcpStream::connect(address).await {
        Ok(pod) => pod,
        Err(error) => {
            let _ = to_client.send(Message::binary([&[1], error.to_string().as_bytes()].concat())).await;
            return;
        }
    };
    let mut bytes = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            message = from_client.next() => match message {
                Some(Ok(Message::Binary(message))) => {
                    if pod.write_all(&message[1..]).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            read = pod.read(&mut bytes) => match read {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    if to_client.send(Message::binary([&[0], &bytes[..count]].concat())).await.is_err() {
                        return;
                    }
                }
            },
        }
    }
}

/// Starts a fake API server with the cluster `f`, whose two ready coordinators are endpoints of a stub of a fleet.
async fn with_fleet() -> (Fake, stub::Running) {
    let fake = Fake::new().await;
    let running = stub::stub(&[stub::Manners::default(), stub::Manners::default()]).await;
    fake.clusters(&["f"]);
    fake.pods(&[("f-coordinators-0", true), ("f-coordinators-1", true), ("f-coordinators-2", false)]);
    for (index, endpoint) in running.endpoints.iter().enumerate() {
        let address = endpoint.parse().expect("it is an address");
        fake.known().ports.insert(format!("f-coordinators-{index}"), address);
    }
    (fake, running)
}

#[tokio::test]
async fn the_only_cluster_of_the_namespace_is_reached_through_its_leader() {
    let (fake, _running) = with_fleet().await;
    let mut cluster = fake.known().objects[&format!("{CLUSTERS}/f")].clone();
    cluster["status"]["leader"] = json!("f-coordinators-1");
    fake.put(&format!("{CLUSTERS}/f"), cluster);
    let found = fake.find(None).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.resource.phase(), "Degraded");
    assert_eq!(found.client.endpoints(), ["RobeingCluster team/f"]);
    let status = found.client.status(Consistency::Linearizable).await.expect("a coordinator answers");
    assert_eq!(status.cluster_id, "stub");
    let known = fake.known();
    assert_eq!(known.forwarded, ["f-coordinators-1"], "the first forward is used, and there is one only");
    let labels = known.queries.iter().find(|query| query.contains("labelSelector")).expect("pods were asked for");
    assert!(labels.contains("instance%3Df") && labels.contains("component%3Dcoordinator"), "{labels}");
}

#[tokio::test]
async fn another_pod_is_taken_when_one_dies() {
    let (fake, _running) = with_fleet().await;
    let found = fake.find(Some("f")).await.unwrap_or_else(|error| panic!("{error}"));
    found.client.status(Consistency::Local).await.expect("the first coordinator answers");
    fake.kill("f-coordinators-0").await;
    found.client.status(Consistency::Local).await.expect("the second coordinator answers");
    let forwarded = fake.known().forwarded.clone();
    assert_eq!(forwarded.first().map(String::as_str), Some("f-coordinators-0"));
    assert_eq!(forwarded.last().map(String::as_str), Some("f-coordinators-1"), "{forwarded:?}");
}

#[tokio::test]
async fn a_first_pod_that_can_not_be_forwarded_to_is_passed_over() {
    let (fake, _running) = with_fleet().await;
    fake.known().ports.remove("f-coordinators-0");
    let found = fake.find(Some("f")).await.unwrap_or_else(|error| panic!("{error}"));
    found.client.status(Consistency::Local).await.expect("the second coordinator answers");
    assert_eq!(fake.known().forwarded, ["f-coordinators-0", "f-coordinators-1"]);
}

#[tokio::test]
async fn when_all_die_the_sentence_names_the_cluster() {
    let (fake, _running) = with_fleet().await;
    let brief = Settings { request_timeout: Duration::from_secs(1), ..settings() };
    let found = find(&fake.place(Some("f")), false, brief).await.unwrap_or_else(|error| panic!("{error}"));
    fake.pods(&[]);
    fake.kill("f-coordinators-0").await;
    let error = found.client.status(Consistency::Local).await.expect_err("all are gone").to_string();
    assert!(error.starts_with("the fleet at RobeingCluster team/f has not answered for "), "{error}");
}

#[tokio::test]
async fn clusters_that_are_not_there_are_told_with_those_that_are() {
    let fake = Fake::new().await;
    let told = |sentence: &str, exit| (sentence.to_owned(), exit);
    assert_eq!(
        fake.refused(None).await,
        told("namespace \"team\" has no RobeingCluster; name another namespace with --namespace", Exit::NotFound)
    );
    assert_eq!(
        fake.refused(Some("x")).await,
        told("namespace \"team\" has no RobeingCluster \"x\"; it has none", Exit::NotFound)
    );
    fake.clusters(&["a", "b"]);
    assert_eq!(
        fake.refused(Some("x")).await,
        told("namespace \"team\" has no RobeingCluster \"x\"; it has a, b", Exit::NotFound)
    );
    assert_eq!(
        fake.refused(None).await,
        told("namespace \"team\" has 2 RobeingClusters; choose one with --cluster: a, b", Exit::Usage)
    );
    fake.known().objects.remove(CLUSTERS);
    let (sentence, exit) = fake.refused(None).await;
    assert!(sentence.contains("does not know RobeingClusters; install the chart robeing-crds"), "{sentence}");
    assert_eq!(exit, Exit::NotFound);
}

#[tokio::test]
async fn without_a_ready_coordinator_the_status_says_why() {
    let fake = Fake::new().await;
    fake.clusters(&["f"]);
    fake.pods(&[("f-coordinators-0", false), ("f-coordinators-1", false)]);
    assert_eq!(
        fake.refused(Some("f")).await,
        (
            "no coordinator of RobeingCluster team/f is ready: 2 of its 2 coordinators run; Degraded: no majority of the \
             coordinators answers (NoLeader)"
                .into(),
            Exit::Unreachable
        )
    );
}

#[tokio::test]
async fn a_coordinator_that_is_not_ready_answers_where_old_answers_will_do() {
    let (fake, _running) = with_fleet().await;
    fake.pods(&[("f-coordinators-0", false)]);
    let found = find(&fake.place(Some("f")), true, settings()).await.unwrap_or_else(|error| panic!("{error}"));
    found.client.status(Consistency::Local).await.expect("it answers");
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let (fake, _running) = with_fleet().await;
    // Refuse all of them: when the first one refuses, another one is tried.
    let forward = format!("{PODS}/f-coordinators-");
    for (path, right, role) in [
        (CLUSTERS, "get robeingclusters", "view"),
        (PODS, "list pods", "view"),
        (&forward, "get and create pods/portforward", "edit"),
    ] {
        fake.refuse(path, 403, "User \"ada\" cannot do that");
        let (sentence, exit) = fake.refused(Some("f")).await;
        assert_eq!(
            sentence,
            format!(
                "permission to {right} in namespace \"team\" is missing (User \"ada\" cannot do that); the ClusterRole \
                 {role:?} grants it"
            )
        );
        assert_eq!(exit, Exit::Refused);
        // The resource can still be read, so it can be shown.
        let told = resource(&fake.place(Some("f")), &settings()).await.ok();
        assert_eq!(told.map(|told| told.phase().to_owned()), (path != CLUSTERS).then(|| "Degraded".into()), "{right}");
        fake.known().refusals.clear();
    }
    fake.refuse("/", 401, "Unauthorized");
    let (sentence, exit) = fake.refused(Some("f")).await;
    assert_eq!(sentence, "Kubernetes does not accept the kubeconfig's credentials (Unauthorized); log in again");
    assert_eq!(exit, Exit::Refused);
}

#[tokio::test]
async fn an_api_server_that_is_away_or_is_none_is_told() {
    let fake = Fake::new().await;
    fake.put(CLUSTERS, json!("hello"));
    let (sentence, exit) = fake.refused(None).await;
    assert!(sentence.contains("does not respond like a Kubernetes API server"), "{sentence}");
    assert_eq!(exit, Exit::Unreachable);
    let nowhere = TcpListener::bind("127.0.0.1:0").await.expect("a port is free").local_addr().expect("it is bound");
    fake.write_kubeconfig(&nowhere.to_string());
    assert_eq!(
        fake.refused(None).await,
        (
            format!(
                "the API server of Kubernetes at http://{nowhere} does not answer (connection refused); see whether kubectl \
                 reaches it"
            ),
            Exit::Unreachable
        )
    );
}

#[tokio::test]
async fn a_kubeconfig_that_can_not_be_used_is_told() {
    let fake = Fake::new().await;
    let told = async |place: Location| {
        let error = find(&place, false, settings()).await.expect_err("it can't be used");
        (error.to_string(), error.exit())
    };
    let place = Location { context: Some("nowhere".into()), ..fake.place(None) };
    assert_eq!(
        told(place).await,
        ("the kubeconfig has no context \"nowhere\"; it has here, there".into(), Exit::Usage)
    );
    let file = fake.dir.path().join("missing");
    assert_eq!(
        told(Location { kubeconfig: Some(file.clone()), ..Default::default() }).await,
        (
            format!(
                "no kubeconfig at {}; name one with --kubeconfig or KUBECONFIG, or a coordinator with --endpoint",
                file.display()
            ),
            Exit::Local
        )
    );
    std::fs::write(&file, "apiVersion: v1\nkind: Config\n").expect("it can be written");
    assert_eq!(
        told(Location { kubeconfig: Some(file), ..Default::default() }).await,
        ("the kubeconfig has no current context; choose one with --context (it has none)".into(), Exit::Usage)
    );
}

#[tokio::test]
async fn the_namespace_is_the_contexts_unless_one_is_given() {
    let fake = Fake::new().await;
    for (context, namespace, expected) in [(None, None, "team"), (Some("there"), None, "other"), (None, Some("x"), "x")]
    {
        let place = Location {
            context: context.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
            ..fake.place(None)
        };
        fake.put(&CLUSTERS.replace("team", expected), json!([]));
        let error = find(&place, false, settings()).await.expect_err("there is no cluster").to_string();
        assert!(error.starts_with(&format!("namespace {expected:?} has no")), "{error}");
    }
}
