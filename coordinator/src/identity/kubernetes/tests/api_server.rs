//! An API server of Kubernetes, as far as it is asked: HTTPS with a certificate of its own authority.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use robeing_platform::{
    Listener, Network,
    sync::{Mutex, MutexGuard, PoisonError},
};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

/// How an API server answers.
#[derive(Clone, Debug, Default)]
pub enum Mood {
    /// As it should.
    #[default]
    Well,
    /// As it should, after a while.
    Slowly(Duration),
    /// Not at all.
    Silent,
    /// With a status.
    Status(u16),
    /// With a body, whatever the question.
    Body(Bytes),
}

/// What an API server knows, and was asked.
#[derive(Debug, Default)]
pub struct Known {
    pub mood: Mood,
    /// The token of the coordinator.
    pub own_token: String,
    /// The users and groups, each with a subresource of the cluster that it may use.
    pub granted: BTreeSet<(String, String)>,
    /// The latest questions: path and body.
    pub asked: VecDeque<(String, Value)>,
}

#[derive(Default)]
struct State {
    known: Mutex<Known>,
    asked: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

/// An API server. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    state: Arc<State>,
    /// The certificate of its authority, PEM.
    pub authority: String,
    tls: TlsAcceptor,
}

fn users(token: &str) -> Value {
    match token.strip_prefix("good-") {
        // Some tokens are bound to a pod.
        Some(bound) if bound.contains('@') => {
            let (name, pod) = bound.split_once('@').unwrap_or_default();
            let extra = json!({"authentication.kubernetes.io/pod-name": [pod]});
            json!({"authenticated": true, "audiences": ["robeing"], "user": {"username": name, "extra": extra}})
        }
        Some(name) => json!({"authenticated": true, "audiences": ["robeing"], "user": {"username": name}}),
        None => json!({"error": "invalid bearer token"}),
    }
}

impl Known {
    fn answer(&self, path: &str, question: &Value) -> Option<Value> {
        let text = |pointer: &str| question.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let status = match path {
            "/apis/authentication.k8s.io/v1/tokenreviews" => users(&text("/spec/token")),
            "/apis/authorization.k8s.io/v1/namespaces/team/localsubjectaccessreviews" => {
                let groups = question.pointer("/spec/groups").and_then(Value::as_array).into_iter().flatten();
                let mut who = groups.filter_map(Value::as_str).map(str::to_owned).chain([text("/spec/user")]);
                let wanted = text("/spec/resourceAttributes/subresource");
                json!({"allowed": who.any(|who| self.granted.contains(&(who, wanted.clone())))})
            }
            _ => return None,
        };
        Some(json!({"kind": "Answer", "status": status}))
    }
}

impl ApiServer {
    /// Creates an API server for this IP address, and lets it listen there on port 443, or on a free one.
    pub async fn start(network: &dyn Network, host: &str, port: u16) -> (Self, u16) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = Issuer::new(params.clone(), KeyPair::generate().unwrap());
        let pem = params.self_signed(authority.key()).unwrap().pem();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap());
        let tls = TlsAcceptor::from(Arc::new(config.unwrap()));
        let server = Self { state: Arc::default(), authority: pem, tls };
        let listener = network.listen(&format!("{host}:{port}")).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(server.clone().serve(listener));
        (server, port)
    }

    /// What it knows, to be changed.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.state.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many questions were asked.
    pub fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    /// How many questions were asked at one time, at most.
    pub fn most_at_once(&self) -> usize {
        self.state.most_open.load(Ordering::SeqCst)
    }

    async fn serve(self, mut listener: Box<dyn Listener>) {
        while let Ok(connection) = listener.accept().await {
            let server = self.clone();
            tokio::spawn(async move {
                let stream = TokioIo::new(server.tls.accept(connection).await?);
                let service = service_fn(|request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                http1::Builder::new().serve_connection(stream, service).await.map_err(std::io::Error::other)
            });
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        /// Counts a question until it is answered, or given up.
        struct Open(Arc<State>);
        impl Drop for Open {
            fn drop(&mut self) {
                self.0.open.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.state.asked.fetch_add(1, Ordering::SeqCst);
        let open = self.state.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.state.most_open.fetch_max(open, Ordering::SeqCst);
        let _open = Open(Arc::clone(&self.state));

        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let question: Value = serde_json::from_slice(&body).unwrap_or_default();
        let with = |status: u16, body: Bytes| {
            Response::builder().status(status).body(Full::new(body)).expect("there is no header")
        };
        let mood = {
            let mut known = self.known();
            let own = format!("Bearer {}", known.own_token);
            if head.headers.get(AUTHORIZATION).is_none_or(|value| value.as_bytes() != own.as_bytes()) {
                return with(StatusCode::UNAUTHORIZED.as_u16(), Bytes::new());
            }
            known.asked.push_back((head.uri.path().to_owned(), question.clone()));
            known.mood.clone()
        };
        match mood {
            Mood::Well => {}
            Mood::Slowly(time) => tokio::time::sleep(time).await,
            Mood::Silent => std::future::pending().await,
            Mood::Status(status) => return with(status, Bytes::from_static(b"no")),
            Mood::Body(body) => return with(201, body),
        }
        match self.known().answer(head.uri.path(), &question) {
            Some(answer) => with(201, answer.to_string().into()),
            None => with(404, Bytes::new()),
        }
    }
}
