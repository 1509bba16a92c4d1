//! Obtains the agent's certificate from the coordinators.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use robeing_identity::{JoinSecret, PrivateKey, TrustBundle, jwt::MAX_TOKEN_BYTES};
use robeing_net::{
    Transport, limited,
    security::{IdentitySource, Obtained},
};
use robeing_platform::Platform;
use robeing_proto::internal::v1::{
    EnrolRequest, EnrolResponse, enrol_request::Proof, enrolment_client::EnrolmentClient,
};
use robeing_settings::{AgentConfig, JoinProof};
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;
use tonic::{Code, async_trait};

use super::told_role;

/// How long connecting to one coordinator may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How long one coordinator may take to answer. The enrolment is committed before it answers.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Maximum size of a file with a proof, bytes: that of a service-account token.
const MAX_PROOF_BYTES: usize = MAX_TOKEN_BYTES;

/// Enrols the agent at its coordinators.
pub(super) struct Enrolment {
    config: AgentConfig,
    platform: Platform,
    transport: Transport,
    /// The coordinator that is asked first.
    first: AtomicUsize,
}

/// Why one coordinator did not certify the agent.
enum Failed {
    /// It was not reached or can't answer now.
    Away(String),
    /// It has refused.
    Refused(String),
}

impl Enrolment {
    /// Creates the source of the agent's certificates. The transport must not present one: an expired certificate could not
    /// be renewed then.
    pub(super) fn new(config: AgentConfig, platform: Platform, transport: Transport) -> Self {
        // Agents that start together don't all ask the same coordinator.
        let first = AtomicUsize::new(platform.random.next_u64() as usize);
        Self { config, platform, transport, first }
    }

    /// Reads the proof, which may be a file that changes.
    async fn proof(&self) -> Result<Option<Proof>, String> {
        let read = async |file: &Path| {
            let bytes = self.platform.disk.read(file).await;
            let bytes = bytes.map_err(|error| format!("the proof in {} can't be read: {error}", file.display()))?;
            if bytes.len() > MAX_PROOF_BYTES {
                let (file, bytes) = (file.display(), bytes.len());
                return Err(format!("the proof in {file} has {bytes} bytes, the most is {MAX_PROOF_BYTES}"));
            }
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        Ok(match &self.config.enrolment.proof {
            JoinProof::None => None,
            JoinProof::Token(token) => Some(Proof::JoinToken(token.clone())),
            JoinProof::Secret(file) => {
                let secret = JoinSecret::from_text(&read(file).await?)
                    .map_err(|error| format!("{error}: {}", file.display()))?;
                Some(Proof::JoinSecret(secret.bytes().to_vec().into()))
            }
            JoinProof::ServiceAccount(file) => Some(Proof::ServiceAccountToken(read(file).await?)),
        })
    }

    async fn ask(&self, address: &str, request: EnrolRequest) -> Result<EnrolResponse, Failed> {
        let connected = self.transport.connect(address, CONNECT_WITHIN).await;
        let channel = connected.map_err(|error| Failed::Away(error.to_string()))?;
        let mut client = limited!(EnrolmentClient::new(channel));
        match timeout(ANSWER_WITHIN, client.enrol(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                let problem = format!("{address} refused the enrolment: {} ({:?})", status.message(), status.code());
                match status.code() {
                    Code::Unavailable | Code::ResourceExhausted | Code::Cancelled | Code::Unknown => {
                        Err(Failed::Away(problem))
                    }
                    _ => Err(Failed::Refused(problem)),
                }
            }
            Err(_) => Err(Failed::Away(format!("{address} did not answer within {ANSWER_WITHIN:?}"))),
        }
    }

    /// Asks one coordinator after the other, beginning with the one that answered last.
    async fn ask_all(&self, request: &EnrolRequest) -> Result<EnrolResponse, Failed> {
        let addresses = &self.config.coordinators;
        let first = self.first.load(Ordering::Relaxed);
        let mut problem = Failed::Away("no coordinator is configured".to_owned());
        for n in 0..addresses.len() {
            let at = first.wrapping_add(n) % addresses.len();
            match self.ask(&addresses[at], request.clone()).await {
                Ok(response) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(response);
                }
                // The reason of a refusal is more useful than that others are away.
                Err(Failed::Away(_)) if matches!(problem, Failed::Refused(_)) => {}
                Err(failed) => problem = failed,
            }
        }
        Err(problem)
    }
}

#[async_trait]
impl IdentitySource for Enrolment {
    async fn obtain(&self, key: &PrivateKey) -> Result<Obtained, String> {
        // Without a proof, an agent that has enrolled with this key before is certified again all the same.
        let (proof, unreadable) = match self.proof().await {
            Ok(proof) => (proof, None),
            Err(problem) => (None, Some(problem)),
        };
        let request = EnrolRequest {
            cluster_id: self.config.cluster_id.clone(),
            name: self.config.name.clone(),
            role: told_role(self.config.role).into(),
            pool: self.config.pool.clone(),
            signing_request: key.request().map_err(|error| error.to_string())?.into(),
            proof,
        };
        let response = self.ask_all(&request).await.map_err(|failed| match (failed, unreadable) {
            (Failed::Refused(refused), Some(unreadable)) => format!("{unreadable}; without it, {refused}"),
            (Failed::Refused(problem) | Failed::Away(problem), _) => problem,
        })?;
        let bundle = TrustBundle::from_pem(&response.trust_bundle).map_err(|error| error.to_string())?;
        let certificate = CertificateDer::from(response.certificate.to_vec());
        Ok(Obtained { certificate, bundle, wall: Some(response.wall_ms) })
    }
}
