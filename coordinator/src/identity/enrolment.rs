//! The Enrolment service: certifies agents' keys. Any coordinator serves it. A first enrolment is decided upon in the
//! log, so that a proof counts once; a renewal is not, since the key is the one that was enrolled.

use std::{net::IpAddr, sync::Arc};

use robeing_fleet::{Command, Enrol, Fleet, IdentityCommand, Reply, Role};
use robeing_identity::{LEAF_LIFETIME, PeerRole, Realm, SigningRequest};
use robeing_net::{ConnectInfo, security::TrustClock};
use robeing_proto::internal::v1::{
    self as internal, enrol_request::Proof, enrolment_server::Enrolment as EnrolmentRpc,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tracing::{debug, info};

use super::{
    client_rights::TokenReviewer,
    conflicts::{self, Conflict},
    kubernetes::User,
    pace::{PER_SECOND, Pace},
    proofs::{Claim, ProofError, Proved, ServiceAccount},
    refusals::{ANONYMOUS, Refusals, done_to},
    room::Room,
    trust::{FleetTrust, Trusted},
};
use crate::{
    api::{convert, errors},
    leader::{
        pressure::Admission,
        shortages::{Scarce, Shortages},
    },
    member::Member,
    propose::Proposer,
    read::StateReader,
};

/// The method, as refusals are counted.
const METHOD: &str = "robeing.internal.v1.Enrolment/Enrol";

/// The Enrolment service.
pub struct EnrolmentService {
    pub member: Member,
    pub realm: Realm,
    pub trust: FleetTrust,
    /// Finds out whose the service-account tokens are whose keys are not known here.
    pub reviewer: TokenReviewer,
    pub clock: Arc<TrustClock>,
    pub state: StateReader,
    pub proposer: Proposer,
    pub refusals: Refusals,
    pub room: Room,
    pub pace: Pace,
    pub shortages: Shortages,
}

/// What an agent claims, with its key.
struct Asked<'a> {
    claim: Claim<'a>,
    role: PeerRole,
    request: SigningRequest,
}

impl EnrolmentService {
    /// Returns the claims of a request.
    fn asked<'a>(&self, request: &'a internal::EnrolRequest) -> Result<Asked<'a>, Status> {
        if request.cluster_id != self.member.cluster_id() {
            return Err(Status::permission_denied(format!(
                "this is cluster {:?}; the agent is configured for {:?}",
                self.member.cluster_id(),
                convert::excerpt(&request.cluster_id)
            )));
        }
        let role = convert::agent_role(request.role())?;
        let peer_role = convert::peer_role(role);
        let claim = Claim {
            cluster: &request.cluster_id,
            name: &request.name,
            role,
            role_name: peer_role.as_str(),
            pool: &request.pool,
        };
        let signing = SigningRequest::from_der(&request.signing_request);
        let signing = signing.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Asked { claim, role: peer_role, request: signing })
    }

    async fn enrol_agent(
        &self,
        request: &internal::EnrolRequest,
        peer: Option<IpAddr>,
    ) -> Result<internal::EnrolResponse, Status> {
        let Asked { claim, role, request: signing } = self.asked(request)?;
        let invalid = |error: robeing_identity::SpiffeIdError| Status::invalid_argument(error.to_string());
        let id = self.realm.member(role, claim.name).map_err(invalid)?;
        let key = signing.public_digest();
        check_known(&self.clock)?;
        let trusted = self.trust.with(self.state.look(|fleet| fleet.identity_config().cloned()));
        let is_renewal = self.is_renewal(claim, key);
        // Why an agent is barred is for those alone who have proved who they are.
        let proved = match is_renewal {
            true => None,
            false => {
                // A proof takes time to check, which is what there is too little of.
                self.check_admitted(claim, request.proof.is_some())?;
                Some(self.prove(&trusted, claim, request.proof.as_ref()).await?)
            }
        };
        self.check_not_barred(claim)?;
        if let Some(proved) = proved {
            self.enrol_proved(claim, key, proved, peer).await?;
        }
        let now = self.clock.now();
        let hosts = if role == PeerRole::Messenger { gateway_hosts(&self.realm, peer) } else { Vec::new() };
        let issued = trusted.certifier.authority.issue(&signing, &id, &hosts, now, LEAF_LIFETIME);
        let issued = issued.map_err(|error| Status::internal(error.to_string()))?;
        Ok(internal::EnrolResponse {
            certificate: issued.certificate.to_vec().into(),
            trust_bundle: trusted.bundle.pem().to_owned(),
            wall_ms: now,
        })
    }

    /// Enrols an agent that has proved who it is.
    async fn enrol_proved(
        &self,
        claim: Claim<'_>,
        key: [u8; 32],
        proved: Proved,
        peer: Option<IpAddr>,
    ) -> Result<(), Status> {
        if !self.pace.take(peer, Instant::now()) {
            return Err(Status::resource_exhausted(format!(
                "too many agents have enrolled from this address; {PER_SECOND} may do so in each second: try again"
            )));
        }
        let granted = self.decide_conflict(claim, proved)?;
        self.enrol(claim, key, proved).await?;
        // The log may have refused the one who would have got the name.
        if let Some(granted) = granted {
            self.shortages.decided(claim.name, claim.role, granted);
        }
        info!(
            agent = claim.name,
            role = claim.role_name,
            pool = claim.pool,
            proof = proved.kind.name(),
            "enrolled an agent"
        );
        Ok(())
    }

    /// Refuses an agent that has to wait because there is too little processor time. A role that comes without a proof is a
    /// claim that anyone can make, so it counts as the one that agents have by default.
    fn check_admitted(&self, claim: Claim<'_>, has_proof: bool) -> Result<(), Status> {
        let role = if has_proof { claim.role } else { Role::Worker };
        match self.shortages.admits(Admission::Enrolment, role) {
            true => Ok(()),
            false => Err(errors::too_little_cpu(role)),
        }
    }

    /// Returns whether the agent is enrolled with this key, in this role and pool.
    fn is_renewal(&self, claim: Claim<'_>, key: [u8; 32]) -> bool {
        self.state.look(|fleet| {
            fleet.enrolment_of(claim.name).is_some_and(|known| {
                known.key == key && known.role == claim.role && known.pool.as_deref().unwrap_or_default() == claim.pool
            })
        })
    }

    /// Refuses a barred agent. The state machine does so, too, but a refusal here costs no entry of the log.
    fn check_not_barred(&self, claim: Claim<'_>) -> Result<(), Status> {
        let bar = self.state.look(|fleet| fleet.bar_of(claim.name).cloned());
        let Some(bar) = bar else { return Ok(()) };
        Err(Status::permission_denied(format!(
            "the agent {} was {} by {} ({}); release it to let it in",
            claim.name,
            done_to(bar.kind),
            bar.by,
            bar.reason
        )))
    }

    /// Verifies a proof. A service-account token whose keys are not known here is verified by the API server, where it
    /// can be asked; then it proves the same.
    async fn prove(&self, trusted: &Trusted, claim: Claim<'_>, proof: Option<&Proof>) -> Result<Proved, Status> {
        let verifier = trusted.verifier(self.clock.now());
        let verified = match (verifier.verify(claim, proof), proof) {
            (Err(error), Some(Proof::ServiceAccountToken(token))) if error.may_be_known_to_its_issuer() => {
                match self.reviewer.review(token).await? {
                    Some(user) => account(&user).and_then(|account| verifier.proved_by(claim, &account)),
                    None => Err(error),
                }
            }
            (verified, _) => verified,
        };
        verified.map_err(|error| match error.is_of_another() {
            true => Status::permission_denied(error.to_string()),
            false => Status::unauthenticated(error.to_string()),
        })
    }

    /// Refuses a name that an agent of another role holds, unless it is to be had; then it returns from whom.
    fn decide_conflict(&self, claim: Claim<'_>, proved: Proved) -> Result<Option<Conflict>, Status> {
        let decide = |fleet: &Fleet| conflicts::decide(fleet, claim.name, claim.role, proved.names_agent);
        let Some(conflict) = self.state.look(decide) else { return Ok(None) };
        if conflict.is_granted {
            return Ok(Some(conflict));
        }
        self.shortages.decided(claim.name, claim.role, conflict);
        Err(Status::already_exists(format!(
            "the name {} is that of a {}, and a {} does not get it; give it another name, or stop the other one and try again \
             half a minute later",
            claim.name,
            convert::peer_role(conflict.holder).as_str(),
            claim.role_name
        )))
    }

    /// Decides upon the enrolment in the log.
    async fn enrol(&self, claim: Claim<'_>, key: [u8; 32], proved: Proved) -> Result<(), Status> {
        let enrol = Enrol {
            agent: claim.name.to_owned(),
            role: claim.role,
            pool: (!claim.pool.is_empty()).then(|| claim.pool.to_owned()),
            key,
            proof: proved.kind,
            single_use: proved.single_use,
            names_agent: proved.names_agent,
        };
        match self.proposer.propose_one(Command::Identity(IdentityCommand::Enrol(enrol))).await? {
            Reply::Enrolled { .. } => Ok(()),
            Reply::Refused(refusal) => Err(errors::refused(&refusal)),
            other => Err(Status::internal(format!("unexpected reply {other:?}"))),
        }
    }
}

/// Returns the names and addresses at which clients of a messenger's gateway reach it, which look at nothing else in its
/// certificate: the Service of all gateways, its own machine, and the address that it has connected from. What it says of
/// itself is not among them, so that it can't get a certificate for the name of somebody else.
fn gateway_hosts(realm: &Realm, peer: Option<IpAddr>) -> Vec<String> {
    let (gateway, namespace) = (format!("{}-gateway", realm.cluster()), realm.namespace());
    let mut hosts = vec![format!("{gateway}.{namespace}"), format!("{gateway}.{namespace}.svc"), gateway];
    hosts.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    hosts.extend(peer.map(|peer| peer.to_string()));
    hosts
}

/// Returns the service account that a user of Kubernetes is.
fn account(user: &User) -> Result<ServiceAccount, ProofError> {
    let (namespace, name) =
        user.as_service_account().ok_or_else(|| ProofError::NoServiceAccount { user: user.name.clone() })?;
    let pod = user.pod().map(str::to_owned);
    Ok(ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned(), pod })
}

/// Refuses to certify while the fleet's time is not known: by this machine's own clock, a certificate could have times
/// at which every member refuses it, and an agent would learn a wrong time.
///
/// # Errors
/// If it is not known; it will be in a moment.
pub fn check_known(clock: &TrustClock) -> Result<(), Status> {
    match clock.is_known() {
        true => Ok(()),
        false => Err(Status::unavailable("this coordinator does not know the fleet's time yet; try again")),
    }
}

#[tonic::async_trait]
impl EnrolmentRpc for EnrolmentService {
    async fn enrol(
        &self,
        request: Request<internal::EnrolRequest>,
    ) -> Result<Response<internal::EnrolResponse>, Status> {
        let connection = request.extensions().get::<ConnectInfo>().cloned().unwrap_or_default();
        let request = request.into_inner();
        let answered = async {
            if !connection.encrypted {
                // A proof must not be sent over it, and the certificate would prove nothing.
                return Err(Status::failed_precondition("enrol over TLS: this connection is not encrypted"));
            }
            let role = convert::agent_role(request.role())?;
            let _place = self.room.take(role).ok_or_else(|| {
                self.shortages.count(Scarce::Enrolments, role);
                Status::resource_exhausted(format!(
                    "there is no room here for another enrolment with the role {}; try again",
                    convert::peer_role(role).as_str()
                ))
            })?;
            self.enrol_agent(&request, connection.peer.map(|peer| peer.ip().to_canonical())).await
        };
        let answered: Result<internal::EnrolResponse, Status> = answered.await;
        if let Err(status) = &answered {
            debug!(agent = convert::excerpt(&request.name), %status, "an enrolment was refused");
            self.refusals.count(METHOD, status.code(), connection.peer, ANONYMOUS);
        }
        answered.map(Response::new)
    }
}
