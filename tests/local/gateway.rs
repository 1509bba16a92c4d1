//! The gateway and the webhooks of a messenger, with a fleet of real processes and TLS: what clients send that speak only
//! HTTP, and what they are sent.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use ring::hmac;
use robeing::dev::DevIdentity;
use robeing_client::ClientIdentity;
use robeing_tests::{
    documented,
    fleet::{Fleet, FleetSpec, PoolSpec},
    ports::Ports,
    terminal::{Ended, Terminal},
    wait::{check, eventually, in_time},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring as provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::TLS13,
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// The secret of the webhook.
const SECRET: &str = "a secret of 24 characters";
/// Who may do what.
const RIGHTS: &str = "clients:
- {name: dev, rights: [submit, read, admin]}
- {name: cli, rights: [submit, read, message, admin]}
- {name: ada, rights: [submit, read, message]}
- {name: eve, rights: [read]}
";

/// An answer of the gateway.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A client that speaks HTTP: it trusts the fleet's authority, and may have a certificate.
struct HttpClient {
    address: String,
    config: Arc<ClientConfig>,
}

impl HttpClient {
    fn new(address: &str, trust: &Path, own: Option<(&Path, &Path)>) -> Self {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_file_iter(trust).expect("a file of certificates") {
            roots.add(authority.expect("a certificate")).expect("an authority");
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("it is supported")
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain =
                    CertificateDer::pem_file_iter(certificate).expect("a file").map(|found| found.expect("one"));
                let key = PrivateKeyDer::from_pem_file(key).expect("a key");
                builder.with_client_auth_cert(chain.collect(), key).expect("they fit")
            }
        };
        Self { address: address.to_owned(), config: Arc::new(config) }
    }

    /// Sends a request over a connection of its own.
    async fn try_send(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let tcp = TcpStream::connect(&self.address).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let exchange = async {
            let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let (parts, body) = sender.send_request(request).await?.into_parts();
            Ok((parts, body.collect().await?.to_bytes()))
        };
        let answered = in_time("an answer of the gateway", exchange).await;
        let (parts, body) = answered.map_err(|error: hyper::Error| format!("{error:?}"))?;
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        self.try_send(request).await.unwrap_or_else(|error| panic!("{}: {error}", self.address))
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(post(path, &[], &body.to_string())).await
    }

    async fn get(&self, path: &str) -> Answer {
        let request = Request::get(path).header("host", "localhost").body(Full::default()).expect("a request");
        self.send(request).await
    }
}

/// Returns a request with these headers besides those of JSON.
fn post(path: &str, headers: &[(&str, &str)], body: &str) -> Request<Full<Bytes>> {
    let is_typed = headers.iter().any(|(name, _)| *name == CONTENT_TYPE.as_str());
    let json = (!is_typed).then_some((CONTENT_TYPE.as_str(), "application/json"));
    let request = Request::post(path).header("host", "localhost");
    let request =
        headers.iter().copied().chain(json).fold(request, |request, (name, value)| request.header(name, value));
    request.body(Bytes::copy_from_slice(body.as_bytes()).into()).expect("a request")
}

/// What a webhook's server got.
#[derive(Clone, Debug)]
struct Delivered {
    headers: HeaderMap,
    body: Bytes,
}

impl Delivered {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}")).to_str().expect("it is text")
    }

    /// Returns whether it is signed with this secret, as Standard Webhooks says.
    fn is_signed_with(&self, secret: &str) -> bool {
        let signed = [self.header("webhook-id"), self.header("webhook-timestamp"), ""].join(".");
        let signed = [signed.as_bytes(), &self.body].concat();
        let signature = self.header("webhook-signature").strip_prefix("v1,").expect("version 1");
        let signature = BASE64_STANDARD.decode(signature).expect("base64");
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), &signed, &signature).is_ok()
    }
}

/// A webhook's server, which answers the first request with 500.
#[derive(Default)]
struct Receiver {
    delivered: Mutex<Vec<Delivered>>,
}

impl Receiver {
    /// Starts it, and returns its URL.
    async fn start() -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/hooks", listener.local_addr().expect("it is bound"));
        let receiver = Arc::new(Self::default());
        let serving = Arc::clone(&receiver);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let receiver = Arc::clone(&serving);
                let answer = service_fn(move |request| Arc::clone(&receiver).answer(request));
                tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        (receiver, url)
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let mut delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        delivered.push(Delivered { headers: parts.headers, body });
        let mut response = Response::new(Full::default());
        if delivered.len() == 1 {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        Ok(response)
    }

    fn delivered(&self) -> Vec<Delivered> {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A fleet with a messenger that serves a gateway and calls a webhook.
struct Scene {
    fleet: Fleet,
    terminal: Terminal,
    gateway: String,
    receiver: Arc<Receiver>,
    _ports: Ports,
}

impl Scene {
    async fn start() -> Self {
        let (terminal, ports) = (Terminal::default(), Ports::take(1));
        let gateway = format!("127.0.0.1:{}", ports.numbers()[0]);
        let (receiver, url) = Receiver::start().await;
        let secret = terminal.write("secret", SECRET).display().to_string();
        let webhook = json!([{"name": "billing", "url": url, "secret": {"file": secret}, "kinds": ["invoice"]}]);
        let webhooks = terminal.write("webhooks.json", &webhook.to_string()).display().to_string();
        let rights = terminal.write("rights.yaml", RIGHTS).display().to_string();
        let messengers = PoolSpec::new("relay", 1).role("Messenger").executor(json!({"echo": {}}));
        let messengers = messengers.flag("gateway-listen", &gateway).flag("webhooks", &webhooks);
        let workers = PoolSpec::new("work", 1).executor(json!({"echo": {}}));
        let spec = FleetSpec::new(1).pool(workers).pool(messengers).flag("rights", &rights).with_tls();
        Self { fleet: Fleet::start(spec).await, terminal, gateway, receiver, _ports: ports }
    }

    /// Runs a command as an administrator.
    async fn run(&self, line: &[&str]) -> Ended {
        let authority = self.fleet.dir().join("identity").display().to_string();
        let endpoint = self.fleet.address("coordinator-0");
        self.terminal.run(&[line, &["--endpoint", &endpoint, "--ca", &authority]].concat()).await
    }

    fn trust(&self) -> PathBuf {
        self.fleet.dir().join("identity").join("ca.crt")
    }

    /// Returns a client with a certificate of this name.
    async fn client(&self, name: &str) -> HttpClient {
        self.run(&["client", "create", name, "--out", name]).await.success();
        let dir = self.terminal.dir().join(name);
        let own = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        HttpClient::new(&self.gateway, &self.trust(), Some((&own.0, &own.1)))
    }

    fn anonymous(&self) -> HttpClient {
        HttpClient::new(&self.gateway, &self.trust(), None)
    }
}

#[tokio::test]
async fn clients_without_grpc_submit_tasks_and_send_messages_by_their_own_rights_alone() {
    let scene = Scene::start().await;
    let ada = scene.client("ada").await;
    let answer = ada.post("/v1/tasks?wait=30s", &json!({"kind": "ocr", "input": "hello"})).await;
    assert_eq!((answer.status, &answer.json()["output"]), (StatusCode::OK, &json!("hello")), "{answer:?}");
    let path = format!("/v1/tasks/{}", answer.json()["id"].as_str().expect("an id"));
    assert_eq!(ada.get(&path).await.json()["state"], "succeeded");

    // A CloudEvent becomes a task, once.
    let event = || {
        let headers = [
            ("content-type", "text/csv"),
            ("ce-specversion", "1.0"),
            ("ce-id", "7"),
            ("ce-source", "/shop"),
            ("ce-type", "order"),
        ];
        post("/v1/tasks", &headers, "a,b")
    };
    let (first, again) = (ada.send(event()).await, ada.send(event()).await);
    assert_eq!((first.status, &first.json()["existing"]), (StatusCode::ACCEPTED, &json!(false)), "{first:?}");
    assert_eq!(again.json(), json!({"id": first.json()["id"], "existing": true}));
    let path = format!("/v1/tasks/{}?wait=30s", first.json()["id"].as_str().expect("an id"));
    let task = ada.get(&path).await.json();
    assert_eq!((&task["kind"], &task["output"]), (&json!("order"), &json!("a,b")), "{task}");

    let message = json!({"to": "pool:work", "type": "greeting", "payload": "hello"});
    let sent = eventually("the message is accepted", async || {
        let sent = ada.post("/v1/messages", &message).await;
        check(sent.status == StatusCode::OK, sent.json(), sent)
    })
    .await;
    assert_eq!(sent["outcomes"][0]["outcome"], "accepted", "{sent}");
    let inbox = scene.run(&["inbox", "work-0", "-o", "json"]).await.json();
    assert_eq!(inbox[0]["payloadText"], "hello", "{inbox}");

    let task = json!({"kind": "ocr"});
    let eve = scene.client("eve").await;
    let refused = eve.post("/v1/tasks", &task).await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::FORBIDDEN, &json!("PERMISSION_DENIED")));
    assert_eq!(eve.post("/v1/messages", &message).await.status, StatusCode::FORBIDDEN);
    assert_eq!(eve.get("/v1/tasks/00000000-0000-4000-8000-000000000000").await.status, StatusCode::NOT_FOUND);
    strangers_are_refused(&scene, &task).await;
}

/// Who has no certificate, a wrong token, or a certificate of another fleet is refused.
async fn strangers_are_refused(scene: &Scene, task: &Value) {
    let nobody = scene.anonymous();
    let refused = nobody.post("/v1/tasks", task).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{refused:?}");
    assert!(refused.headers.contains_key("www-authenticate"), "{refused:?}");
    let forged = post("/v1/tasks", &[("authorization", "Bearer forged")], &task.to_string());
    assert_eq!(nobody.send(forged).await.status, StatusCode::UNAUTHORIZED);
    let document = nobody.get("/v1/openapi.json").await;
    assert_eq!((document.status, &document.json()["openapi"]), (StatusCode::OK, &json!("3.1.0")));

    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let other = DevIdentity::open(elsewhere.path(), "tested").expect("certificates can be made");
    let ClientIdentity { certificate: Some((certificate, key)), .. } = other.client().clone() else {
        panic!("the client has a certificate");
    };
    let own = (scene.terminal.write("their.crt", &certificate), scene.terminal.write("their.key", &key));
    let stranger = HttpClient::new(&scene.gateway, &scene.trust(), Some((&own.0, &own.1)));
    let refused = stranger.try_send(post("/v1/tasks", &[], &task.to_string())).await;
    assert!(refused.is_err(), "{refused:?}");
}

#[tokio::test]
async fn a_webhook_gets_the_end_of_a_task_signed_and_again_until_it_accepts_it() {
    let scene = Scene::start().await;
    let ada = scene.client("ada").await;
    // The webhook is new, and begins with what ends from when it follows the fleet.
    let mut ids = Vec::new();
    let delivered = eventually("the webhook is called until it accepts", async || {
        let submitted = ada.post("/v1/tasks?wait=30s", &json!({"kind": "invoice", "input": "7"})).await;
        ids.push(submitted.json()["id"].clone());
        ada.post("/v1/tasks", &json!({"kind": "other"})).await;
        let delivered = scene.receiver.delivered();
        let first = delivered.first().map(|first| first.header("webhook-id").to_owned());
        let times = delivered.iter().filter(|again| Some(again.header("webhook-id")) == first.as_deref()).count();
        check(times >= 2, delivered, times)
    })
    .await;
    let first = delivered.first().expect("it was called");
    let same: Vec<&Delivered> =
        delivered.iter().filter(|again| again.header("webhook-id") == first.header("webhook-id")).collect();
    assert_eq!(same[0].body, same[1].body, "it is the same event");
    for event in &delivered {
        assert!(event.is_signed_with(SECRET) && !event.is_signed_with("another secret of the same"), "{event:?}");
        let body: Value = serde_json::from_slice(&event.body).expect("JSON");
        assert_eq!((&body["type"], &body["specversion"]), (&json!("io.robeing.task.succeeded"), &json!("1.0")));
        assert_eq!((&body["data"]["kind"], &body["data"]["output"]), (&json!("invoice"), &json!("7")), "no other kind");
        assert!(ids.contains(&body["id"]) && body["id"] == event.header("webhook-id"), "{body}");
    }
    let changed = Delivered { body: Bytes::from_static(b"{}"), ..first.clone() };
    assert!(!changed.is_signed_with(SECRET), "the signature is of the body");
}

/// Returns two ports, the second of which is the one after the first.
fn neighbours() -> (Ports, u16, u16) {
    let ports = Ports::take(32);
    let pair = ports.numbers().windows(2).find(|pair| pair[1] == pair[0] + 1).expect("two of many are neighbours");
    let (first, second) = (pair[0], pair[1]);
    (ports, first, second)
}

#[tokio::test]
async fn the_gateway_of_a_fleet_on_this_machine_is_used_as_documented() {
    let blocks = documented::commands("docs/gateway.md", "On your machine");
    let [start, use_it] = &blocks[..] else { panic!("two terminals: {blocks:?}") };
    // The test's own ports, for it is not alone on this machine.
    let (_ports, first, second) = neighbours();
    let own = |script: &str| script.replace("18080", &first.to_string()).replace("18081", &second.to_string());
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/");
    let start = own(start).replace("examples/", examples);
    let line: Vec<&str> = start.strip_prefix("robeing dev ").expect("it runs a fleet").split_whitespace().collect();
    let terminal = Terminal::default();
    let dev = terminal.dev(&line);
    dev.line_with(&["gateway:", &format!("https://127.0.0.1:{second} (mess-0)")]).await;
    dev.line_with(&["ready"]).await;
    let ended = terminal.shell(&own(use_it)).await;
    let answer = ended.success();
    assert!(answer.contains("\"succeeded\"") && answer.contains("\"hello\""), "{ended:?}");
}

#[tokio::test]
async fn robeing_dev_calls_the_webhooks_whose_secrets_are_in_the_manifest() {
    let (terminal, (receiver, url)) = (Terminal::default(), Receiver::start().await);
    let manifest = json!({
        "apiVersion": "robeing.io/v1alpha1",
        "kind": "RobeingCluster",
        "metadata": {"name": "hooked"},
        "spec": {
            "coordinators": {"replicas": 1},
            "pools": [
                {"name": "work", "replicas": 1, "executor": {"echo": {}}},
                {"name": "mess", "role": "Messenger", "replicas": 2, "executor": {"echo": {}}},
            ],
            "gateway": {"webhooks": [
                {"name": "absent", "url": url, "secretKeyRef": {"name": "elsewhere", "key": "a"}},
                {"name": "billing", "url": url, "secretKeyRef": {"name": "hooks", "key": "billing"}},
            ]},
        },
    });
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "hooks"},
        "stringData": {"billing": SECRET},
    });
    terminal.write("manifest.yaml", &format!("{manifest}\n---\n{secret}\n"));
    let dev = terminal.dev(&["-f", "manifest.yaml"]);
    dev.line_with(&["ready"]).await;
    // The webhook is new, and begins with what ends from when a messenger follows the fleet.
    let delivered = eventually("the webhook is called", async || {
        terminal.run(&["submit", "--kind", "invoice", "--wait"]).await.success();
        let delivered = receiver.delivered();
        check(!delivered.is_empty(), delivered.clone(), delivered)
    })
    .await;
    assert!(delivered.iter().all(|event| event.is_signed_with(SECRET)), "no other webhook is called: {delivered:?}");
}
