//! A client for one HTTPS server that is trusted by its own certificate authority, such as the API server of
//! Kubernetes: HTTP/1.1 over connections of the platform's network, kept for the next requests. The certificates' times
//! are judged by the platform's clock.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::HOST};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use robeing_platform::{Clock, Network};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    time_provider::TimeProvider,
};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::innermost;

/// Maximum number of idle connections that are kept.
pub const MAX_IDLE: usize = 8;
/// How long an idle connection is kept.
pub const KEEP_IDLE: Duration = Duration::from_secs(30);
/// How long resolving the name, connecting and the TLS handshake may take together.
pub const HTTPS_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of headers of a response.
pub const MAX_RESPONSE_HEADERS: usize = 64;
/// Maximum size of the headers of a response, bytes.
pub const MAX_RESPONSE_HEADER_BYTES: usize = 32 * 1024;
/// Maximum number of certificate authorities that one client trusts.
pub const MAX_TRUSTED: usize = 256;

/// Why a server can't be asked, or did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpsError {
    /// The host can't be that of a server.
    #[error("{0:?} is no host: give a name or an IP address")]
    Host(String),
    /// The trusted certificates can't be used.
    #[error("the certificates of the trusted authorities can't be used: {0}")]
    Authorities(String),
    /// The server can't be reached, or broke off.
    #[error("cannot ask {address}: {reason}")]
    Unreachable {
        /// The server's address.
        address: String,
        /// Why.
        reason: String,
    },
    /// The server did not answer in time.
    #[error("{address} did not answer within {} ms", .within.as_millis())]
    Late {
        /// The server's address.
        address: String,
        /// The time it had.
        within: Duration,
    },
    /// The answer is too large.
    #[error("the answer of {address} has more than {limit} bytes")]
    TooLarge {
        /// The server's address.
        address: String,
        /// The limit, bytes.
        limit: usize,
    },
}

/// Judges the times of certificates by the platform's clock.
struct ByClock(Arc<dyn Clock>);

impl fmt::Debug for ByClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByClock")
    }
}

impl TimeProvider for ByClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.unix_millis())))
    }
}

struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

/// Sends requests to one server.
pub struct HttpsClient {
    network: Arc<dyn Network>,
    tls: TlsConnector,
    server: ServerName<'static>,
    address: String,
    host: HeaderValue,
    /// Connections without a request, the latest last.
    idle: Mutex<Vec<Idle>>,
}

/// Returns the TLS configuration of a client that trusts these authorities, PEM.
fn trusting(authorities: &[u8], clock: Arc<dyn Clock>) -> Result<ClientConfig, HttpsError> {
    let wrong = |problem: String| HttpsError::Authorities(problem);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities) {
        if roots.len() == MAX_TRUSTED {
            return Err(wrong(format!("there are more than {MAX_TRUSTED}")));
        }
        roots.add(certificate.map_err(|error| wrong(error.to_string()))?).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there are none".into()));
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_details(provider, Arc::new(ByClock(clock)))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

impl HttpsClient {
    /// Creates a client of the server at this host, a name or an IP address, and port, which trusts these certificate
    /// authorities, PEM. It connects with the first request.
    ///
    /// # Errors
    /// If the host or the certificates can't be used.
    pub fn new(
        network: Arc<dyn Network>,
        clock: Arc<dyn Clock>,
        host: &str,
        port: u16,
        authorities: &[u8],
    ) -> Result<Self, HttpsError> {
        let plain = host.trim_start_matches('[').trim_end_matches(']');
        let unusable = || HttpsError::Host(host.to_owned());
        let server = ServerName::try_from(plain.to_owned()).map_err(|_| unusable())?;
        // Only IPv6 addresses have colons.
        let address = if plain.contains(':') { format!("[{plain}]:{port}") } else { format!("{plain}:{port}") };
        let host = HeaderValue::try_from(&address).map_err(|_| unusable())?;
        let tls = TlsConnector::from(Arc::new(trusting(authorities, clock)?));
        Ok(Self { network, tls, server, address, host, idle: Mutex::default() })
    }

    /// The address of the server, `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and returns the response with its body of at most `max_body` bytes, all of it `within` this
    /// time. The request's URI is a path. If a kept connection turns out to be closed, the request is sent once more
    /// over a new one: it must be one that may be carried out twice.
    ///
    /// # Errors
    /// If the server does not answer. Any status is an answer.
    pub async fn send(
        &self,
        request: Request<Bytes>,
        max_body: usize,
        within: Duration,
    ) -> Result<Response<Bytes>, HttpsError> {
        let mut request = request.map(Full::new);
        request.headers_mut().insert(HOST, self.host.clone());
        let late = HttpsError::Late { address: self.address.clone(), within };
        timeout(within, self.exchange(request, max_body)).await.unwrap_or(Err(late))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, max_body: usize) -> Result<Response<Bytes>, HttpsError> {
        if let Some(kept) = self.kept() {
            match self.over(kept, request.clone(), max_body).await {
                Err(HttpsError::Unreachable { .. }) => {}
                answer => return answer,
            }
        }
        let connected = timeout(HTTPS_CONNECT_TIMEOUT, self.connect());
        let late = HttpsError::Late { address: self.address.clone(), within: HTTPS_CONNECT_TIMEOUT };
        let sender = connected.await.unwrap_or(Err(late))?;
        self.over(sender, request, max_body).await
    }

    /// Takes an idle connection that is still open.
    fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle();
        idle.retain(|kept| kept.since.elapsed() < KEEP_IDLE && !kept.sender.is_closed());
        let at = idle.iter().rposition(|kept| kept.sender.is_ready())?;
        Some(idle.remove(at).sender)
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> HttpsError {
        HttpsError::Unreachable { address: self.address.clone(), reason: innermost(error) }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, HttpsError> {
        let connection = self.network.connect(&self.address).await.map_err(|error| self.unreachable(&error))?;
        let secured = self.tls.connect(self.server.clone(), connection).await;
        let secured = TokioIo::new(secured.map_err(|error| self.unreachable(&error))?);
        let mut builder = http1::Builder::new();
        builder.max_headers(MAX_RESPONSE_HEADERS).max_buf_size(MAX_RESPONSE_HEADER_BYTES);
        let (sender, connection) = builder.handshake(secured).await.map_err(|error| self.unreachable(&error))?;
        // Ends when the sender is dropped, or the server closes the connection. The sender gets the error.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    async fn over(
        &self,
        mut sender: SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
        max_body: usize,
    ) -> Result<Response<Bytes>, HttpsError> {
        let response = sender.send_request(request).await.map_err(|error| self.unreachable(&error))?;
        let (parts, body) = response.into_parts();
        let body =
            Limited::new(body, max_body).collect().await.map_err(|error| match error.is::<LengthLimitError>() {
                true => HttpsError::TooLarge { address: self.address.clone(), limit: max_body },
                false => self.unreachable(&*error),
            })?;
        let mut idle = self.idle();
        if idle.len() == MAX_IDLE {
            idle.remove(0);
        }
        idle.push(Idle { sender, since: Instant::now() });
        Ok(Response::from_parts(parts, body.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hyper::{body::Incoming, server, service::service_fn};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use robeing_platform::{Listener, simulated::MemoryNetwork};
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const ADDRESS: &str = "10.0.0.1:443";
    const A_SECOND: Duration = Duration::from_secs(1);
    const HALF_A_MINUTE: Duration = Duration::from_secs(30);
    /// Unix milliseconds, within the times of the certificates below.
    const NOW: u64 = 1_790_000_000_000;

    struct At(u64);

    impl Clock for At {
        fn unix_millis(&self) -> u64 {
            self.0
        }
    }

    /// A server with a certificate for 10.0.0.1 that is valid for a day around [`NOW`].
    struct TestServer {
        network: MemoryNetwork,
        authority: String,
        connections: Arc<AtomicUsize>,
    }

    async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let response = Response::builder().header("robeing-host", request.headers()[HOST].clone());
        let more = request.uri().path().strip_prefix("/headers/").map_or(0, |count| count.parse().unwrap());
        let response = (0..more).fold(response, |response, n| response.header(format!("more-{n}"), "x"));
        let body = match request.uri().path() {
            "/slow" => std::future::pending().await,
            "/broken" => return Err(std::io::Error::other("broken off")),
            "/closed" => return Ok(response.header("connection", "close").body("closed".into()).unwrap()),
            path => match path[1..].parse() {
                Ok(bytes) => Bytes::from(vec![b'x'; bytes]),
                Err(_) => request.into_body().collect().await.unwrap().to_bytes(),
            },
        };
        Ok(response.body(body.into()).unwrap())
    }

    async fn serve(mut listener: Box<dyn Listener>, tls: TlsAcceptor, connections: Arc<AtomicUsize>) {
        while let Ok(connection) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            let tls = tls.clone();
            tokio::spawn(async move {
                let stream = TokioIo::new(tls.accept(connection).await?);
                let served = server::conn::http1::Builder::new().serve_connection(stream, service_fn(answer)).await;
                served.map_err(std::io::Error::other)
            });
        }
    }

    impl TestServer {
        async fn start() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let authority = Issuer::new(params.clone(), KeyPair::generate().unwrap());
            let authority_pem = params.self_signed(authority.key()).unwrap().pem();
            let mut params = CertificateParams::new(vec!["10.0.0.1".to_owned()]).unwrap();
            // 2026-09-21 and a day later.
            params.not_before = rcgen::date_time_ymd(2026, 9, 21);
            params.not_after = rcgen::date_time_ymd(2026, 9, 22);
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(
                    vec![certificate.der().clone()],
                    PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
                );
            // A server does not look at its own certificate's times.
            let tls = TlsAcceptor::from(Arc::new(config.unwrap()));
            let (network, connections) = (MemoryNetwork::default(), Arc::<AtomicUsize>::default());
            let listener = network.listen(ADDRESS).await.unwrap();
            tokio::spawn(serve(listener, tls, Arc::clone(&connections)));
            Self { network, authority: authority_pem, connections }
        }

        fn client_at(&self, now: u64) -> HttpsClient {
            let (network, clock) = (Arc::new(self.network.clone()), Arc::new(At(now)));
            HttpsClient::new(network, clock, "10.0.0.1", 443, self.authority.as_bytes()).unwrap()
        }

        fn connections(&self) -> usize {
            self.connections.load(Ordering::SeqCst)
        }
    }

    fn post(path: &str, body: &'static str) -> Request<Bytes> {
        Request::post(path).body(body.into()).unwrap()
    }

    async fn sent(client: &HttpsClient, path: &str) -> Result<Bytes, HttpsError> {
        client.send(post(path, "hello"), 100, A_SECOND).await.map(Response::into_body)
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_kept_for_a_while_and_replaced_when_they_are_closed() {
        let server = TestServer::start().await;
        let client = server.client_at(NOW);
        for _ in 0..3 {
            assert_eq!(sent(&client, "/echo").await.unwrap(), "hello");
        }
        assert_eq!(server.connections(), 1);
        assert_eq!(sent(&client, "/closed").await.unwrap(), "closed");
        let answer = client.send(post("/echo", "again"), 100, A_SECOND).await.unwrap();
        assert_eq!((answer.headers()["robeing-host"].to_str().unwrap(), &answer.body()[..]), (ADDRESS, &b"again"[..]));
        assert_eq!(server.connections(), 2);
        tokio::time::sleep(KEEP_IDLE).await;
        assert_eq!(sent(&client, "/echo").await.unwrap(), "hello");
        assert_eq!(server.connections(), 3);
        let many = futures::future::join_all((0..2 * MAX_IDLE).map(|_| sent(&client, "/echo"))).await;
        assert!(many.iter().all(Result::is_ok), "{many:?}");
        assert_eq!(client.idle().len(), MAX_IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_be_as_large_as_the_limit_and_must_come_in_time() {
        let server = TestServer::start().await;
        let client = server.client_at(NOW);
        assert_eq!(sent(&client, "/100").await.unwrap().len(), 100);
        let too_large = HttpsError::TooLarge { address: ADDRESS.into(), limit: 100 };
        assert_eq!(sent(&client, "/101").await, Err(too_large));
        let late = HttpsError::Late { address: ADDRESS.into(), within: A_SECOND };
        assert_eq!(sent(&client, "/slow").await, Err(late.clone()));
        assert_eq!(late.to_string(), "10.0.0.1:443 did not answer within 1000 ms");
        assert!(matches!(sent(&client, "/broken").await, Err(HttpsError::Unreachable { .. })));
        // The server itself adds the headers robeing-host, content-length and date.
        let fitting = format!("/headers/{}", MAX_RESPONSE_HEADERS - 3);
        assert_eq!(sent(&client, &fitting).await.unwrap(), "hello");
        let too_many = sent(&client, &format!("/headers/{}", MAX_RESPONSE_HEADERS - 2)).await;
        assert!(matches!(too_many, Err(HttpsError::Unreachable { .. })), "{too_many:?}");
        server.network.black_hole(ADDRESS.parse().unwrap());
        let unconnected = client.send(post("/echo", ""), 100, HALF_A_MINUTE).await.unwrap_err();
        assert_eq!(unconnected, HttpsError::Late { address: ADDRESS.into(), within: HTTPS_CONNECT_TIMEOUT });
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_trusted_by_its_authority_name_and_times() {
        let server = TestServer::start().await;
        const DAY: u64 = 24 * 3_600 * 1_000;
        for (now, expected) in [(NOW - DAY, "not valid yet"), (NOW + DAY, "expired")] {
            let refused = sent(&server.client_at(now), "/echo").await.unwrap_err().to_string();
            assert!(refused.contains(expected), "{refused}");
        }
        let clock = || Arc::new(At(NOW));
        let stranger = TestServer::start().await;
        let network = Arc::new(server.network.clone());
        let client = HttpsClient::new(network, clock(), "10.0.0.1", 443, stranger.authority.as_bytes()).unwrap();
        let refused = sent(&client, "/echo").await.unwrap_err().to_string();
        assert!(refused.contains("invalid peer certificate"), "{refused}");
        let make = |host: &str, authorities: &str| {
            HttpsClient::new(Arc::new(MemoryNetwork::default()), clock(), host, 443, authorities.as_bytes())
                .map(|client| client.address().to_owned())
        };
        assert_eq!(make("[fd00::1]", &server.authority).unwrap(), "[fd00::1]:443");
        assert_eq!(make("fd00::1", &server.authority).unwrap(), "[fd00::1]:443");
        assert_eq!(make("api.example", &server.authority).unwrap(), "api.example:443");
        assert_eq!(make("a b", &server.authority), Err(HttpsError::Host("a b".into())));
        assert!(matches!(make("10.0.0.1", ""), Err(HttpsError::Authorities(_))));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(make("10.0.0.1", broken), Err(HttpsError::Authorities(_))));
        assert!(make("10.0.0.1", &server.authority.repeat(MAX_TRUSTED)).is_ok());
        let too_many = make("10.0.0.1", &server.authority.repeat(MAX_TRUSTED + 1));
        assert_eq!(too_many, Err(HttpsError::Authorities("there are more than 256".into())));
    }
}
