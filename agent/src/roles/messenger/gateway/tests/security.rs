//! Who calls, over TLS: what the coordinator learns of it.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header::AUTHORIZATION};
use robeing_identity::{Authority, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest, TrustBundle};
use robeing_net::{
    Transport,
    security::{Credentials, Tls, TrustClock},
};
use robeing_platform::{Clock, Platform, SystemClock};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    super::{Gateway, server::Limits},
    client::{Answer, get, over, over_http2, post},
    stub::{Call, Serving, Stub, gateway},
};

/// A fleet with one coordinator and one messenger, with TLS.
struct Secure {
    authority: Authority,
    coordinator: Serving,
    gateway: Gateway,
    _senders: Vec<watch::Sender<Arc<Credentials>>>,
}

fn realm() -> Realm {
    Realm::new("robeing.local", "default", "one").expect("a realm")
}

fn now() -> u64 {
    SystemClock.unix_millis()
}

fn certified(authority: &Authority, role: PeerRole, name: &str) -> (CertificateDer<'static>, PrivateKey) {
    let key = PrivateKey::generate().expect("a key");
    let request = SigningRequest::from_der(&key.request().expect("a request")).expect("it is one");
    let id = realm().member(role, name).expect("a name");
    let hosts = ["127.0.0.1".to_owned()];
    let issued = authority.issue(&request, &id, &hosts, now(), LEAF_LIFETIME).expect("it is issued");
    (issued.certificate, key)
}

impl Secure {
    async fn start() -> Self {
        Self::with(false).await
    }

    /// Begins a fleet. If it is permissive, it moves to TLS, and its coordinator does not speak it yet.
    async fn with(permissive: bool) -> Self {
        let authority = Authority::create(&realm(), now()).expect("an authority");
        let mut senders = Vec::new();
        let mut transport = |role, name| {
            let clock = Arc::new(TrustClock::new(Arc::new(SystemClock)));
            let bundle = TrustBundle::from_pem(authority.certificate_pem()).expect("a bundle");
            let (certificate, key) = certified(&authority, role, name);
            let credentials = Credentials::new("one", Some(bundle), Some((certificate, &key)), &clock);
            let (sender, receiver) = watch::channel(Arc::new(credentials.expect("they fit")));
            senders.push(sender);
            Transport::secured(Platform::real().network, Tls::new(receiver, permissive))
        };
        let mut stub = Stub::default();
        stub.is_closed = true;
        let coordinator = transport(PeerRole::Coordinator, "c-0");
        let plain = Transport::new(Platform::real().network);
        let coordinator = Serving::start(stub, if permissive { &plain } else { &coordinator }).await;
        let messenger = transport(PeerRole::Messenger, "m-0");
        let gateway = gateway(&messenger, vec![coordinator.address.clone()], Limits::default()).await;
        Self { authority, coordinator, gateway, _senders: senders }
    }

    /// Connects as any other HTTP client: it trusts the authority, and checks the address.
    async fn connect(&self, member: Option<(PeerRole, &str)>, protocol: &str) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        let pem = self.authority.certificate_pem();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("it is PEM")).expect("it is usable");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("there are versions")
            .with_root_certificates(roots);
        let mut config = match member {
            None => builder.with_no_client_auth(),
            Some((role, name)) => {
                let (certificate, key) = certified(&self.authority, role, name);
                let key: PrivateKeyDer<'static> = key.to_der();
                builder.with_client_auth_cert(vec![certificate], key).expect("they fit")
            }
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let at = self.gateway.local_addr();
        let stream = TcpStream::connect(at).await.expect("it listens");
        let name = ServerName::IpAddress(at.ip().into());
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("it is trusted")
    }

    async fn submit(&self, member: Option<(PeerRole, &str)>, authorization: Option<&'static str>) -> Answer {
        let mut request = post("/v1/tasks", r#"{"kind":"k"}"#);
        // A client can't speak for others by itself.
        request.headers_mut().insert("robeing-on-behalf-of", HeaderValue::from_static("root"));
        if let Some(value) = authorization {
            request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static(value));
        }
        over(self.connect(member, "http/1.1").await, request).await.expect("it answers")
    }

    fn last(&self) -> Call {
        self.coordinator.stub.calls().pop().expect("there was a call")
    }
}

#[tokio::test]
async fn a_token_is_passed_on_over_a_connection_without_the_messengers_certificate() {
    let fleet = Secure::start().await;
    let answer = fleet.submit(None, Some("Bearer a.b.c")).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let authorization = Some("Bearer a.b.c".to_owned());
    assert_eq!(fleet.last(), Call { method: "Submit", authorization, on_behalf_of: None, peer: None });
    // Nothing of it is left for the next caller.
    let answer = fleet.submit(None, None).await;
    assert_eq!(
        (answer.status, answer.header("www-authenticate")),
        (StatusCode::UNAUTHORIZED, "Bearer realm=\"robeing\"")
    );
    assert_eq!(fleet.last(), Call { method: "Submit", authorization: None, on_behalf_of: None, peer: None });
}

#[tokio::test]
async fn a_token_is_not_passed_on_to_a_coordinator_without_tls_also_while_the_fleet_moves_to_it() {
    let fleet = Secure::with(true).await;
    let client = fleet.submit(Some((PeerRole::Client, "ann")), None).await;
    assert_eq!(client.status, StatusCode::ACCEPTED, "no secret is sent");
    let calls = fleet.coordinator.stub.calls().len();
    let answer = fleet.submit(None, Some("Bearer a.b.c")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(fleet.coordinator.stub.calls().len(), calls);
}

#[tokio::test]
async fn for_a_client_with_a_certificate_the_messenger_calls_with_its_own_and_says_for_whom() {
    let fleet = Secure::start().await;
    // Whatever token comes along, the certificate counts.
    let answer = fleet.submit(Some((PeerRole::Client, "ann")), Some("Bearer x")).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let (on_behalf_of, peer) = (Some("ann".to_owned()), Some("m-0".to_owned()));
    assert_eq!(fleet.last(), Call { method: "Submit", authorization: None, on_behalf_of, peer });
}

#[tokio::test]
async fn other_members_of_the_fleet_are_not_served() {
    let fleet = Secure::start().await;
    for role in PeerRole::ALL.into_iter().filter(|role| *role != PeerRole::Client) {
        let answer = fleet.submit(Some((role, "x")), None).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{role}");
    }
    assert_eq!(fleet.coordinator.stub.calls(), []);
}

#[tokio::test]
async fn http2_is_spoken_too_and_nothing_is_without_tls() {
    let fleet = Secure::start().await;
    let connection = fleet.connect(Some((PeerRole::Client, "ann")), "h2").await;
    assert_eq!(connection.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let answer = over_http2(connection, post("/v1/tasks", r#"{"kind":"k"}"#)).await.expect("it answers");
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let plain = TcpStream::connect(fleet.gateway.local_addr()).await.expect("it listens");
    assert!(over(plain, get("/healthz")).await.is_err());
}
