//! Obtains the agent's certificate from the coordinators.

use std::time::Duration;

use robeing_identity::{JoinSecret, PrivateKey, TrustBundle};
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
use tonic::async_trait;

use super::told_role;

/// How long connecting to one coordinator may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How long one coordinator may take to answer. The enrolment is committed before it answers.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Enrols the agent at its coordinators.
pub(super) struct Enrolment {
    config: AgentConfig,
    platform: Platform,
    transport: Transport,
}

impl Enrolment {
    pub(super) fn new(config: AgentConfig, platform: Platform, transport: Transport) -> Self {
        Self { config, platform, transport }
    }

    /// Reads the proof, which may be a file that changes.
    async fn proof(&self) -> Result<Option<Proof>, String> {
        let read = async |file: &std::path::Path| {
            let bytes = self.platform.disk.read(file).await;
            let bytes = bytes.map_err(|error| format!("the proof in {} can't be read: {error}", file.display()))?;
            Ok::<_, String>(String::from_utf8_lossy(&bytes).trim().to_owned())
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

    async fn ask(&self, address: &str, request: EnrolRequest) -> Result<EnrolResponse, String> {
        let channel = self.transport.connect(address, CONNECT_WITHIN).await.map_err(|error| error.to_string())?;
        let mut client = limited!(EnrolmentClient::new(channel));
        match timeout(ANSWER_WITHIN, client.enrol(request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                Err(format!("{address} refused the enrolment: {} ({:?})", status.message(), status.code()))
            }
            Err(_) => Err(format!("{address} did not answer within {ANSWER_WITHIN:?}")),
        }
    }
}

#[async_trait]
impl IdentitySource for Enrolment {
    async fn obtain(&self, key: &PrivateKey) -> Result<Obtained, String> {
        let request = EnrolRequest {
            cluster_id: self.config.cluster_id.clone(),
            name: self.config.name.clone(),
            role: told_role(self.config.role).into(),
            pool: self.config.pool.clone(),
            signing_request: key.request().map_err(|error| error.to_string())?.into(),
            proof: self.proof().await?,
        };
        let mut problem = "no coordinator is configured".to_owned();
        for address in &self.config.coordinators {
            match self.ask(address, request.clone()).await {
                Ok(response) => {
                    let bundle = TrustBundle::from_pem(&response.trust_bundle).map_err(|error| error.to_string())?;
                    let certificate = CertificateDer::from(response.certificate.to_vec());
                    return Ok(Obtained { certificate, bundle, wall: Some(response.wall_ms) });
                }
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }
}
