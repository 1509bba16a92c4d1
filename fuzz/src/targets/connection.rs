//! What arrives at a port that takes connections with and without TLS.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use robeing_identity::{Authority, LEAF_LIFETIME, PeerRole, PrivateKey, SigningRequest, TrustBundle};
use robeing_net::{
    ConnectInfo, Transport, described_routes,
    security::{Credentials, Tls, TrustClock},
    web::WebService,
};
use robeing_platform::{Clock, Network, simulated::MemoryNetwork};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::async_trait;

use super::identity::{CLUSTER, NOW, realm};

/// Where it arrives.
const ADDRESS: &str = "10.0.0.1:80";
/// How long a body may take to arrive. Services have such a limit of their own; see [`WebService`].
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// How long a connection may last on which the client sends no more: more than any limit of the listener and its service.
const ENDS_WITHIN: Duration = Duration::from_secs(300);

struct Frozen;

impl Clock for Frozen {
    fn unix_millis(&self) -> u64 {
        NOW
    }

    fn elapsed_millis(&self) -> u64 {
        0
    }
}

static TLS: LazyLock<Tls> = LazyLock::new(|| {
    let authority = Authority::create(&realm(), NOW).expect("it is made");
    let key = PrivateKey::generate().expect("it is made");
    let request = SigningRequest::from_der(&key.request().expect("it is made")).expect("it was made");
    let id = realm().member(PeerRole::Coordinator, "c-0").expect("a name");
    let issued = authority.issue(&request, &id, &[], NOW, LEAF_LIFETIME).expect("it is issued");
    let bundle = TrustBundle::from_pem(authority.certificate_pem()).expect("it is a certificate");
    let clock = Arc::new(TrustClock::new(Arc::new(Frozen)));
    let credentials = Credentials::new(CLUSTER, Some(bundle), Some((issued.certificate, &key)), &clock);
    Tls::new(watch::channel(Arc::new(credentials.expect("they can be used"))).1, true)
});

/// Answers each request with its body, or with nothing if that does not arrive in time.
struct Echo;

#[async_trait]
impl WebService for Echo {
    async fn respond(&self, request: Request<Incoming>, connection: ConnectInfo) -> Response<Full<Bytes>> {
        assert!(connection.identity.is_none(), "nobody has a certificate");
        let body = match timeout(BODY_WITHIN, request.into_body().collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) | Err(_) => Bytes::new(),
        };
        Response::new(Full::new(body))
    }
}

/// What a client sends ends the connection after a while, however it goes on. The first byte selects the kind of port, and
/// whether the client ends its side.
pub fn connection(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let (is_web, ends) = (kind & 1 == 0, kind & 2 == 0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let network = MemoryNetwork::default();
        let transport = Transport::secured(Arc::new(network.clone()), TLS.clone());
        let bound = transport.bind(ADDRESS).await.expect("it is free");
        let stop = CancellationToken::new();
        let served = async {
            match is_web {
                true => bound.serve_web(Arc::new(Echo), stop).await,
                false => drop(bound.serve(described_routes(&[]).expect("there are none"), stop).await),
            }
        };
        let mut connection = network.connect(ADDRESS).await.expect("it is served");
        let talk = async {
            // It may have been ended already.
            let _ = connection.write_all(bytes).await;
            if ends {
                let _ = connection.shutdown().await;
            }
            let _ = connection.read_to_end(&mut Vec::new()).await;
        };
        tokio::select! {
            () = served => panic!("a client has ended the listener"),
            ended = timeout(ENDS_WITHIN, talk) => assert!(ended.is_ok(), "the connection ends"),
        }
    });
}
