//! Who the agent is: what its settings claim, and the certificate by which it proves that.

mod enrolment;
mod gate;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use robeing_identity::{IdentityError, TrustBundle};
use robeing_net::{
    Transport,
    gate::Gate,
    security::{CredentialsError, IdentityKeeper, IdentitySource, Tls, TrustClock},
};
use robeing_platform::Platform;
use robeing_proto::v1;
use robeing_settings::{AgentConfig, AgentRole, JoinProof, TlsMode};
use robeing_telemetry::{ConnectionMetrics, Metrics};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use self::enrolment::Enrolment;
pub use self::gate::{AgentGate, RefusedCalls};
use crate::messaging::{Directory, driver::Authentication};

/// How often the counters of connections are refreshed.
const REFRESH: Duration = Duration::from_secs(1);

/// An agent's identity within its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster_id: String,
    /// The agent's name, the same after a restart.
    pub name: String,
    /// The agent's role.
    pub role: AgentRole,
}

impl Identity {
    /// Returns the identity that the settings claim.
    pub fn claimed(config: &AgentConfig) -> Self {
        Self { cluster_id: config.cluster_id.clone(), name: config.name.clone(), role: config.role }
    }
}

/// Converts an agent's role to the protocol's type.
pub fn told_role(role: AgentRole) -> v1::Role {
    match role {
        AgentRole::Worker => v1::Role::Worker,
        AgentRole::Specialist => v1::Role::Specialist,
        AgentRole::Messenger => v1::Role::Messenger,
        AgentRole::Guardian => v1::Role::Guardian,
    }
}

/// Why an agent can't begin to get a certificate.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// The file of trusted authorities can't be read.
    #[error("the trusted authorities in {file} can't be read: {source}; see --trust")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file of trusted authorities has the wrong content.
    #[error("the trusted authorities in {file} can't be used: {source}; see --trust")]
    Trust {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: IdentityError,
    },
    /// TLS can't be set up.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// The agent's TLS. It is kept certified until this is dropped.
pub struct Secured {
    /// Makes connections, and accepts them once there is a certificate.
    pub transport: Transport,
    tls: Option<Tls>,
    refused: RefusedCalls,
    _keeping: Option<[AbortOnDropHandle<()>; 2]>,
}

impl Secured {
    /// Begins to enrol, unless the agent runs without TLS.
    ///
    /// # Errors
    /// If the file of trusted authorities can't be used.
    pub async fn begin(config: &AgentConfig, platform: &Platform, metrics: &Metrics) -> Result<Self, SecurityError> {
        let refused = RefusedCalls::new(metrics);
        let transport = Transport::new(Arc::clone(&platform.network));
        if config.tls == TlsMode::Off {
            warn!("this agent runs without TLS and trusts everyone who can connect to it");
            return Ok(Self { transport, tls: None, refused, _keeping: None });
        }
        let bundle = match &config.enrolment.trust {
            None => {
                warn!(
                    "no trusted authority is given (--trust): this agent trusts the coordinator that it meets first, and \
                     the authority of that coordinator from then on"
                );
                if config.enrolment.proof != JoinProof::None {
                    warn!(
                        "the agent shows its proof to whichever server answers at the address of a coordinator; give the \
                         fleet's authorities with --trust, so that nobody else can get hold of it"
                    );
                }
                None
            }
            Some(file) => {
                let unreadable = |source| SecurityError::Unreadable { file: file.clone(), source };
                let bytes = platform.disk.read(file).await.map_err(unreadable)?;
                let text = String::from_utf8_lossy(&bytes);
                let wrong = |source| SecurityError::Trust { file: file.clone(), source };
                Some(TrustBundle::from_pem(&text).map_err(wrong)?)
            }
        };
        let permissive = config.tls == TlsMode::Permissive;
        let clock = Arc::new(TrustClock::new(Arc::clone(&platform.clock)));
        let source = |credentials: &_| {
            // Enrolling needs TLS, also while a fleet moves to it: proofs are secrets. It needs no certificate.
            let strict = transport.with_tls(&Tls::new(Clone::clone(credentials), false).nameless());
            Arc::new(Enrolment::new(config.clone(), platform.clone(), strict)) as Arc<dyn IdentitySource>
        };
        let (keeper, credentials) = IdentityKeeper::new(&config.cluster_id, bundle, source, clock)?;
        let tls = Tls::new(credentials, permissive).recertified_by(keeper.recertify());
        let counting = count(tls.clone(), ConnectionMetrics::new(metrics));
        let keeping = [tokio::spawn(keeper.run()), tokio::spawn(counting)].map(AbortOnDropHandle::new);
        Ok(Self { transport: transport.with_tls(&tls), tls: Some(tls), refused, _keeping: Some(keeping) })
    }

    /// Returns the gate of the agent's listener, and how other agents prove to it who they are. Without TLS there is no
    /// gate, and they prove nothing.
    pub fn gate(&self, directory: Arc<dyn Directory>) -> (Option<Arc<dyn Gate>>, Authentication) {
        let Some(tls) = &self.tls else { return (None, Authentication::Hello) };
        let permissive = tls.is_permissive();
        let refused = self.refused.clone();
        let gate: Arc<dyn Gate> = Arc::new(AgentGate { directory, permissive, refused });
        (Some(gate), if permissive { Authentication::Hello } else { Authentication::Required })
    }

    /// Waits until the agent may open a session: until it has a certificate, or at once if plaintext will do.
    pub async fn ready(&self) {
        if let Some(tls) = self.tls.as_ref().filter(|tls| !tls.is_permissive()) {
            tls.certified().await;
        }
    }
}

/// Refreshes the counters of connections for as long as it runs.
async fn count(tls: Tls, connections: ConnectionMetrics) {
    loop {
        connections.refresh(tls.stats());
        tokio::time::sleep(REFRESH).await;
    }
}
