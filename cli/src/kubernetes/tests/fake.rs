//! A fake API server on loopback, with a stub of a fleet behind its port-forwards.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use robeing_client::stub;
use robeing_identity::{Authority, PeerRole, PrivateKey, Realm, SigningRequest};
use rustls::{ServerConfig, crypto::ring, version::TLS13};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use crate::{
    exit::Exit,
    kubernetes::{Access, Found, KubernetesError, Location, Settings, find, forward},
};

pub(super) const CLUSTERS: &str = "/apis/robeing.io/v1alpha1/namespaces/team/robeingclusters";
pub(super) const PODS: &str = "/api/v1/namespaces/team/pods";
pub(super) const TRUST: &str = "/api/v1/namespaces/team/configmaps/f-trust";
const ACCOUNTS: &str = "/api/v1/namespaces/team/serviceaccounts";

/// The state of the fake API server.
#[derive(Default)]
pub(super) struct Known {
    /// Objects by path. A list is the array of its items.
    pub objects: HashMap<String, Value>,
    /// Refusals by path prefix.
    pub refusals: HashMap<String, (u16, String)>,
    /// The actual addresses of the pods' ports, and the pods that connections were forwarded to, in order.
    pub ports: HashMap<String, SocketAddr>,
    pub forwarded: Vec<String>,
    /// The open port-forwards, with their pods.
    running: Vec<(String, AbortHandle)>,
    pub queries: Vec<String>,
    /// The TokenRequests by path. Each gets a token with its number.
    pub token_requests: Vec<(String, Value)>,
    /// Whether the answers to TokenRequests contain no token.
    pub makes_none: bool,
}

/// A fake API server, with a kubeconfig. It stops when it is dropped.
pub(super) struct Fake {
    known: Arc<Mutex<Known>>,
    server: JoinHandle<()>,
    pub dir: TempDir,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    pub async fn new() -> Self {
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

    pub fn write_kubeconfig(&self, address: &str) {
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

    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no test panics while it holds this")
    }

    pub fn put(&self, path: &str, object: Value) {
        self.known().objects.insert(path.into(), object);
    }

    /// Creates clusters with these names, each with three desired coordinators and a status.
    pub fn clusters(&self, names: &[&str]) {
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
    pub fn pods(&self, pods: &[(&str, bool)]) {
        let pod = |(name, ready): &(&str, bool)| {
            let ready = if *ready { "True" } else { "False" };
            let conditions = json!([{"type": "Ready", "status": ready}]);
            json!({"metadata": {"name": name}, "status": {"phase": "Running", "conditions": conditions}})
        };
        self.put(PODS, pods.iter().map(pod).collect());
    }

    /// Closes the port-forwards to a pod, and points it to an address that nothing listens on. The pod still appears
    /// ready, so only its connections show that it died.
    pub async fn kill(&self, pod: &str) {
        let nowhere =
            TcpListener::bind("127.0.0.1:0").await.expect("a port is free").local_addr().expect("it is bound");
        let mut known = self.known();
        known.ports.insert(pod.into(), nowhere);
        known.running.iter().filter(|(to, _)| to == pod).for_each(|(_, forwarding)| forwarding.abort());
    }

    pub fn refuse(&self, path: &str, code: u16, message: &str) {
        self.known().refusals.insert(path.into(), (code, message.into()));
    }

    pub fn place(&self, cluster: Option<&str>) -> Location {
        let kubeconfig = Some(self.dir.path().join("config"));
        Location { kubeconfig, cluster: cluster.map(str::to_owned), ..Default::default() }
    }

    pub async fn find(&self, cluster: Option<&str>) -> Result<Found, KubernetesError> {
        find(&self.place(cluster), Access::Use, false, settings()).await
    }

    /// Returns why the cluster can't be reached, and the exit code.
    pub async fn refused(&self, cluster: Option<&str>) -> (String, Exit) {
        let error = self.find(cluster).await.expect_err("it can't be reached");
        (error.to_string(), error.exit())
    }
}

pub(super) fn settings() -> Settings {
    Settings { request_timeout: Duration::from_secs(20), ..Settings::default() }
}

async fn serve(listener: TcpListener, known: Arc<Mutex<Known>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let known = known.clone();
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let known = known.clone();
                async move {
                    let is_token_request = request.method() == Method::POST && request.uri().path().ends_with("/token");
                    let answer = if is_token_request { token(request, &known).await } else { answer(request, &known) };
                    Ok::<_, Infallible>(answer)
                }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
    }
}

/// Answers a TokenRequest with the object at its path, and a token.
async fn token(request: Request<Incoming>, known: &Mutex<Known>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut known = known.lock().expect("no test panics while it holds this");
    if let Some((_, (code, message))) = known.refusals.iter().find(|(start, _)| path.starts_with(*start)) {
        return status(*code, message);
    }
    let Some(mut made) = known.objects.get(&path).cloned() else { return status(404, "not found") };
    known.token_requests.push((path, serde_json::from_slice(&body).unwrap_or_default()));
    if !known.makes_none {
        made["status"] = json!({"token": format!("token-{}", known.token_requests.len())});
    }
    Response::new(made.to_string().into())
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

/// Starts a fake API server with the cluster `f`, whose two ready coordinators are endpoints of a stub of a fleet. They
/// speak TLS, and each account for people has tokens.
pub(super) async fn with_fleet() -> (Fake, stub::Running) {
    let (fake, running) = with_plain_fleet().await;
    let realm = Realm::new("robeing.local", "team", "f").expect("a realm");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    let authority = Authority::create(&realm, now).expect("an authority");
    fake.put(TRUST, json!({"data": {"trust.crt": authority.certificate_pem()}}));
    for account in ["f.user", "f.admin"] {
        fake.put(&tokens(account), json!({"spec": {"expirationSeconds": 3600}}));
    }
    let acceptor = acceptor(&authority, &realm, now);
    for (index, endpoint) in running.endpoints.iter().enumerate() {
        let address = with_tls(acceptor.clone(), endpoint.parse().expect("it is an address")).await;
        fake.known().ports.insert(format!("f-coordinators-{index}"), address);
    }
    (fake, running)
}

/// As [`with_fleet`], but as an operator of an earlier version made it: nothing is known of whom to trust, and its
/// coordinators speak no TLS.
pub(super) async fn with_plain_fleet() -> (Fake, stub::Running) {
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

/// Returns the path of the tokens of a ServiceAccount.
pub(super) fn tokens(account: &str) -> String {
    format!("{ACCOUNTS}/{account}/token")
}

/// Returns the TLS of a coordinator.
fn acceptor(authority: &Authority, realm: &Realm, now: u64) -> TlsAcceptor {
    let key = PrivateKey::generate().expect("a key");
    let request = SigningRequest::from_der(&key.request().expect("a request")).expect("it is well formed");
    let id = realm.member(PeerRole::Coordinator, "f-coordinators-0").expect("a name");
    let issued = authority.issue(&request, &id, &[], now, Duration::from_secs(3_600)).expect("a certificate");
    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&[&TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![issued.certificate], key.to_der())
        .expect("the key is the certificate's");
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Accepts TLS in front of a server without, and returns where.
async fn with_tls(acceptor: TlsAcceptor, server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut near) = acceptor.accept(stream).await else { return };
                let Ok(mut far) = TcpStream::connect(server).await else { return };
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}
