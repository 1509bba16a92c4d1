//! The members of the fleet that is measured, and their certificates.

use std::{fs, path::Path, sync::Arc};

use async_trait::async_trait;
use robeing_agent::messaging::{
    Directory, Entry, Messenger, NoPolicies, Presence, Role, Snapshot,
    driver::{Certified, Deps, MessagingMetrics},
    handlers::{Delivery, Handler, HandlerOutcome},
};
use robeing_identity::{
    Authority, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest, TrustBundle, certificate_pem,
};
use robeing_net::{
    Transport,
    security::{Credentials, Tls, TrustClock},
};
use robeing_platform::Platform;
use robeing_telemetry::Metrics;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Failure;

/// The agent that sends.
pub const SENDER: &str = "sender";
/// The agent that receives with a journal on disk.
pub const DURABLE: &str = "durable";
/// The agent that receives without a data folder.
pub const MEMORY: &str = "memory";
/// The NATS server's certificate.
pub const NATS: &str = "nats";
const CLUSTER: &str = "bench";

/// Creates the authority of the fleet and certificates of all members, as files in a folder.
pub fn create(folder: &Path) -> Result<(), Failure> {
    let realm = Realm::new("robeing.local", "default", CLUSTER)?;
    let now = Platform::real().clock.unix_millis();
    let authority = Authority::create(&realm, now)?;
    fs::write(folder.join("ca.pem"), authority.certificate_pem())?;
    for name in [SENDER, DURABLE, MEMORY, NATS] {
        let key = PrivateKey::generate()?;
        let request = SigningRequest::from_der(&key.request()?)?;
        let id = realm.member(PeerRole::Worker, name)?;
        let issued = authority.issue(&request, &id, &["127.0.0.1".to_owned()], now, LEAF_LIFETIME)?;
        fs::write(folder.join(format!("{name}.pem")), certificate_pem(&issued.certificate))?;
        fs::write(folder.join(format!("{name}.key")), key.to_pem())?;
    }
    Ok(())
}

/// Returns the directory's entry of a worker at an address.
pub fn entry(name: &str, address: &str) -> Entry {
    Entry {
        name: name.into(),
        role: Role::Worker,
        pool: "bench".into(),
        skills: [].into(),
        address: address.into(),
        presence: Presence::Active,
        score: 1.0,
        spiffe_id: "".into(),
        sealing_key: None,
        team: "".into(),
    }
}

/// A directory that does not change.
pub struct Fixed(pub Arc<Snapshot>);

impl Directory for Fixed {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0)
    }
}

/// Accepts every message at once.
struct Accepting;

#[async_trait]
impl Handler for Accepting {
    async fn deliver(&self, _: Delivery) -> HandlerOutcome {
        HandlerOutcome::Accepted { reply: None }
    }

    fn name(&self) -> &'static str {
        "accepting"
    }
}

/// A member of the fleet.
pub struct Member {
    name: String,
    /// Its connections, with mutual TLS.
    pub transport: Transport,
}

impl Member {
    /// Reads the certificate of a member from a folder.
    pub fn read(folder: &Path, name: &str) -> Result<Self, Failure> {
        let bundle = TrustBundle::from_pem(&fs::read_to_string(folder.join("ca.pem"))?)?;
        let certificate = CertificateDer::from_pem_file(folder.join(format!("{name}.pem")))?;
        let key = PrivateKey::from_pem(&fs::read_to_string(folder.join(format!("{name}.key")))?)?;
        let platform = Platform::real();
        let clock = Arc::new(TrustClock::new(platform.clock));
        let credentials = Credentials::new(CLUSTER, Some(bundle), Some((certificate, &key)), &clock)?;
        let tls = Tls::new(watch::channel(Arc::new(credentials)).1, false);
        Ok(Self { name: name.to_owned(), transport: Transport::secured(platform.network, tls) })
    }

    /// Starts the messenger of the member, which knows these agents.
    pub async fn messenger(
        &self,
        entries: impl IntoIterator<Item = Entry>,
        data: Option<&Path>,
        stop: CancellationToken,
    ) -> Result<Messenger, Failure> {
        let directory = Arc::new(Fixed(Arc::new(entries.into_iter().collect())));
        let deps = Deps {
            name: self.name.as_str().into(),
            role: Role::Worker,
            directory,
            connect: Arc::new(Certified(self.transport.clone())),
            platform: Platform::real(),
            handler: Arc::new(Accepting),
            policy: Arc::new(NoPolicies),
            keys: Vec::new(),
            data: data.map(Path::to_owned),
            metrics: MessagingMetrics::new(&Metrics::default()),
            stop,
        };
        Ok(Messenger::start(deps).await?)
    }
}
