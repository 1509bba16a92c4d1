//! The calls of the Admin service about who may be in the fleet.

use std::{sync::Arc, time::Duration};

use robeing_fleet::{
    AgentState, AuditCommand, AuditEntry, AuditOutcome, Bar, BarKind, Command, EnrolmentMode, Fleet, IdentityCommand,
    IdentityConfig, PoolTrust, Reply, TokenIssuer,
    limits::{MAX_NAME_BYTES, MAX_PAGE, MAX_REASON_BYTES},
};
use robeing_identity::{JoinClaims, PeerRole, Realm, SigningRequest, TrustBundle, jwt::KeySet};
use robeing_net::{gate::Caller, security::TrustClock};
use robeing_proto::v1;
use robeing_settings::Enrolment;
use tokio::time::Instant;
use tonic::Status;

use crate::{
    api::{convert, errors, flags::FlagPace},
    identity::{
        enrolment::check_known,
        trust::{FleetTrust, Trusted},
    },
    member::Member,
    propose::Proposer,
    read::StateReader,
};

/// How long a join token can be used, unless the request sets it.
const TOKEN_VALID: Duration = Duration::from_secs(60 * 60);
/// The longest time that a join token can be used.
pub const MAX_TOKEN_VALID: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a client's certificate is valid, unless the request sets it.
const CLIENT_VALID: Duration = Duration::from_secs(60 * 60);
/// The shortest and the longest validity of a client's certificate.
pub const CLIENT_VALID_SPAN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(366 * 24 * 60 * 60));
/// The actions of audit records.
const CREATE_JOIN_TOKEN: &str = "create_join_token";
const CERTIFY_CLIENT: &str = "certify_client";
const FLAG_AGENT: &str = "agent.flag";
/// Guardians together may keep one of so many live agents in quarantine; one in any case.
pub const QUARANTINED_ONE_OF: usize = 10;
/// Begins the names of guardians, as records and bars have them.
const GUARDIANS: &str = "guardian/";
/// Default number of audit records on a page.
const DEFAULT_PAGE: usize = 100;

/// What certificates are issued with; nothing of it exists without TLS.
#[derive(Clone)]
pub struct Issuing {
    pub trust: FleetTrust,
    pub clock: Arc<TrustClock>,
    pub realm: Realm,
}

/// Carries out the calls.
#[derive(Clone)]
pub struct TrustAdmin {
    pub member: Member,
    pub state: StateReader,
    pub proposer: Proposer,
    pub issuing: Option<Issuing>,
    pub flags: FlagPace,
}

impl TrustAdmin {
    /// Returns what certificates are issued with, and what is trusted, once the fleet's time is known.
    fn issuing(&self) -> Result<(&Issuing, Arc<Trusted>), Status> {
        let issuing = self.issuing.as_ref().ok_or_else(|| {
            Status::failed_precondition(
                "this fleet runs without TLS (--tls=off), so there are no certificates or tokens",
            )
        })?;
        check_known(&issuing.clock)?;
        let config = self.state.look(|fleet| fleet.identity_config().cloned());
        Ok((issuing, issuing.trust.with(config)))
    }

    /// Records in the audit log that a caller receives something with which to get into the fleet. The caller receives
    /// it only after that is recorded.
    async fn record(&self, action: &str, by: &Caller, subject: String, detail: String) -> Result<(), Status> {
        let (actor, outcome) = (by.name(), AuditOutcome::Allowed);
        let entry = AuditEntry { actor, action: action.to_owned(), subject, outcome, detail }.within_limits();
        self.propose(Command::Audit(AuditCommand::Record(vec![entry]))).await
    }

    async fn propose(&self, command: Command) -> Result<(), Status> {
        match self.proposer.propose_one(command).await? {
            Reply::Done => Ok(()),
            Reply::Refused(refusal) => Err(errors::refused(&refusal)),
            other => Err(Status::internal(format!("unexpected reply {other:?}"))),
        }
    }

    /// Returns what agents need to enrol by this coordinator's settings.
    fn configured(&self) -> EnrolmentMode {
        match self.issuing.as_ref().map(|issuing| issuing.trust.configured()) {
            Some(Enrolment::Open) => EnrolmentMode::Open,
            Some(Enrolment::Proof) | None => EnrolmentMode::Proof,
        }
    }

    /// Sets whom the fleet trusts.
    pub async fn set_trust(&self, request: v1::SetTrustRequest) -> Result<v1::SetTrustResponse, Status> {
        let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        if !request.trust_bundle.is_empty() {
            TrustBundle::from_pem(&request.trust_bundle).map_err(|error| invalid(&error))?;
        }
        for issuer in &request.issuers {
            KeySet::from_json(issuer.jwks.as_bytes()).map_err(|error| invalid(&error))?;
        }
        let enrolment = match request.enrolment() {
            v1::EnrolmentMode::Open => EnrolmentMode::Open,
            v1::EnrolmentMode::Proof => EnrolmentMode::Proof,
            v1::EnrolmentMode::Unspecified => self.configured(),
        };
        let issuers = request.issuers.into_iter().map(|issuer| TokenIssuer {
            issuer: issuer.issuer,
            audience: issuer.audience,
            jwks: issuer.jwks,
        });
        let pools = request.pools.into_iter().map(pool_trust);
        let config = IdentityConfig {
            bundle: request.trust_bundle,
            enrolment,
            issuers: issuers.collect(),
            pools: pools.collect::<Result<_, _>>()?,
        };
        self.propose(Command::Identity(IdentityCommand::Configure(config))).await?;
        Ok(v1::SetTrustResponse { revision: self.state.look(|fleet| fleet.revision()) })
    }

    /// Makes a join token.
    pub async fn create_join_token(
        &self,
        request: &v1::CreateJoinTokenRequest,
        by: &Caller,
    ) -> Result<v1::CreateJoinTokenResponse, Status> {
        let (issuing, trusted) = self.issuing()?;
        let role = match request.role() {
            v1::Role::Unspecified => PeerRole::Worker,
            role => convert::peer_role(convert::agent_role(role)?),
        };
        let valid = span("valid_for", request.valid_for, TOKEN_VALID, (Duration::from_secs(1), MAX_TOKEN_VALID))?;
        check_length("pool", &request.pool)?;
        let name = (!request.name.is_empty()).then_some(&request.name[..]);
        if let Some(name) = name {
            check_length("name", name)?;
            issuing.realm.member(role, name).map_err(|error| Status::invalid_argument(error.to_string()))?;
        }
        let expires = issuing.clock.now() + valid.as_millis() as u64;
        let claims = JoinClaims::new(self.member.cluster_id(), role, &request.pool, name, expires);
        let claims = claims.map_err(|error| Status::internal(error.to_string()))?;
        let detail = format!("for {} s, role {role}, pool {:?}, id {}", valid.as_secs(), request.pool, claims.id);
        self.record(CREATE_JOIN_TOKEN, by, name.unwrap_or("any agent").to_owned(), detail).await?;
        let token = trusted.certifier.join_key.sign(&claims);
        Ok(v1::CreateJoinTokenResponse { token, expires: Some(convert::timestamp(expires)) })
    }

    /// Certifies a client's key.
    pub async fn certify_client(
        &self,
        request: &v1::CertifyClientRequest,
        by: &Caller,
    ) -> Result<v1::CertifyClientResponse, Status> {
        let (issuing, trusted) = self.issuing()?;
        let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let id = issuing.realm.member(PeerRole::Client, &request.name).map_err(|error| invalid(&error))?;
        let signing = SigningRequest::from_der(&request.signing_request).map_err(|error| invalid(&error))?;
        let valid = span("valid_for", request.valid_for, CLIENT_VALID, CLIENT_VALID_SPAN)?;
        let detail = format!("for {} s", valid.as_secs());
        self.record(CERTIFY_CLIENT, by, request.name.clone(), detail).await?;
        let issued = trusted.certifier.authority.issue(&signing, &id, &[], issuing.clock.now(), valid);
        let issued = issued.map_err(|error| Status::internal(error.to_string()))?;
        let trust_bundle = trusted.bundle.pem().to_owned();
        Ok(v1::CertifyClientResponse { certificate: issued.certificate.to_vec().into(), trust_bundle })
    }

    /// Bars an agent. A guardian can quarantine one, but not remove it: that is for people, who give away what agents
    /// enrol with.
    pub async fn bar(&self, request: v1::BarAgentRequest, by: &Caller) -> Result<v1::BarAgentResponse, Status> {
        let kind = match request.kind() {
            v1::BarKind::Removed => BarKind::Removed,
            v1::BarKind::Quarantined => BarKind::Quarantined,
            v1::BarKind::Unspecified => {
                return Err(Status::invalid_argument("kind is missing: removed or quarantined"));
            }
        };
        if request.reason.len() > MAX_REASON_BYTES {
            return Err(errors::too_long("reason", request.reason.len(), MAX_REASON_BYTES));
        }
        if kind != BarKind::Quarantined && by.member().is_some_and(|id| id.role().is_agent()) {
            let problem = format!("{} may quarantine an agent, and not remove it; an administrator may", by.name());
            return Err(Status::permission_denied(problem));
        }
        let is_guardian = by.member().is_some_and(|id| id.role() == PeerRole::Guardian);
        if is_guardian && !self.state.look(|fleet| may_quarantine(fleet, &request.agent)) {
            let problem = "guardians keep as many agents in quarantine as they may at a time; an administrator may \
                           quarantine more, or release some";
            return Err(Status::resource_exhausted(problem));
        }
        let known = self.is_known(&request).await?;
        let bar = IdentityCommand::Bar { agent: request.agent, kind, reason: request.reason, by: by.name() };
        self.propose(Command::Identity(bar)).await?;
        Ok(v1::BarAgentResponse { revision: self.state.look(|fleet| fleet.revision()), known })
    }

    /// Returns whether the fleet knows the agent that is to be barred.
    ///
    /// # Errors
    /// `NOT_FOUND` if only one that is known, or barred already, is to be barred.
    async fn is_known(&self, request: &v1::BarAgentRequest) -> Result<bool, Status> {
        let agent = &request.agent;
        if request.known_only {
            self.state.ready_to_read(0).await?;
        }
        let (is_known, is_barred) = self.state.look(|fleet| {
            let is_known = fleet.agent_by_name(agent).is_some() || fleet.enrolment_of(agent).is_some();
            (is_known, fleet.bar_of(agent).is_some())
        });
        if request.known_only && !is_known && !is_barred {
            return Err(Status::not_found(format!("the fleet has no agent {agent:?}, so nothing has changed")));
        }
        Ok(is_known)
    }

    /// Records that an agent of the fleet behaves unlike itself.
    pub async fn flag(&self, request: v1::FlagAgentRequest, by: &Caller) -> Result<v1::FlagAgentResponse, Status> {
        if request.reason.len() > MAX_REASON_BYTES {
            return Err(errors::too_long("reason", request.reason.len(), MAX_REASON_BYTES));
        }
        self.state.ready_to_read(0).await?;
        let (agent, actor) = (request.agent, by.name());
        if self.state.look(|fleet| fleet.agent_by_name(&agent).is_none()) {
            return Err(Status::not_found(format!("the fleet has no agent {agent:?} that could be flagged")));
        }
        let taken = self.flags.take(&actor, &agent, Instant::now());
        taken.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        let (caller, outcome, action) = (actor.clone(), AuditOutcome::Done, FLAG_AGENT.to_owned());
        let entry = AuditEntry { actor, action, subject: agent.clone(), outcome, detail: request.reason };
        let recorded = self.propose(Command::Audit(AuditCommand::Record(vec![entry.within_limits()]))).await;
        if recorded.is_err() {
            self.flags.not_recorded(&caller, &agent);
        }
        recorded.map(|()| v1::FlagAgentResponse {})
    }

    /// Lets an agent enrol again.
    pub async fn release(&self, agent: String, by: &Caller) -> Result<v1::ReleaseAgentResponse, Status> {
        self.state.ready_to_read(0).await?;
        let released = self.state.look(|fleet| fleet.bar_of(&agent).is_some());
        self.propose(Command::Identity(IdentityCommand::Release { agent, by: by.name() })).await?;
        Ok(v1::ReleaseAgentResponse { released })
    }

    /// Returns records of the audit log.
    pub async fn audit_records(
        &self,
        request: v1::ListAuditRecordsRequest,
    ) -> Result<v1::ListAuditRecordsResponse, Status> {
        self.state.ready_to_read(0).await?;
        let size = match request.page_size as usize {
            0 => DEFAULT_PAGE,
            size => size.min(MAX_PAGE),
        };
        let (records, first) = self.state.look(|fleet| {
            let records: Vec<_> = fleet.audit_records(request.after_seq, size).cloned().collect();
            (records, fleet.audit_first_kept())
        });
        let records = records.iter().map(|record| v1::AuditRecord {
            seq: record.seq,
            at: Some(convert::timestamp(record.at.wall)),
            actor: record.actor.clone(),
            action: record.action.clone(),
            subject: record.subject.clone(),
            outcome: match record.outcome {
                AuditOutcome::Allowed => "allowed",
                AuditOutcome::Denied => "denied",
                AuditOutcome::Done => "done",
                AuditOutcome::Failed => "failed",
            }
            .to_owned(),
            detail: record.detail.clone(),
        });
        Ok(v1::ListAuditRecordsResponse { records: records.collect(), first_seq: first.unwrap_or_default() })
    }
}

/// Returns whether guardians may quarantine one more agent, or one that they have quarantined already. A guardian that is
/// not what it should be must not be able to take down the fleet.
fn may_quarantine(fleet: &Fleet, agent: &str) -> bool {
    let is_guardians = |bar: &Bar| bar.kind == BarKind::Quarantined && bar.by.starts_with(GUARDIANS);
    let others = fleet.bars().filter(|bar| is_guardians(bar) && *bar.agent != *agent).count();
    let live = fleet.agents().filter(|agent| agent.state == AgentState::Live).count();
    others < (live / QUARANTINED_ONE_OF).max(1)
}

fn check_length(field: &str, name: &str) -> Result<(), Status> {
    match name.len() {
        bytes if bytes > MAX_NAME_BYTES => {
            Err(Status::invalid_argument(format!("{field} has {bytes} bytes, the most is {MAX_NAME_BYTES}")))
        }
        _ => Ok(()),
    }
}

fn pool_trust(pool: v1::PoolTrust) -> Result<PoolTrust, Status> {
    let role = convert::agent_role(pool.role())?;
    let digest = |digest: &bytes::Bytes| <[u8; 32]>::try_from(&digest[..]);
    let secrets: Result<Vec<[u8; 32]>, _> = pool.join_secret_digests.iter().map(digest).collect();
    let secrets =
        secrets.map_err(|_| Status::invalid_argument("join_secret_digests: a SHA-256 digest has 32 bytes"))?;
    Ok(PoolTrust { pool: pool.pool, role, service_accounts: pool.service_accounts, secrets })
}

/// Returns the duration of a field, within its bounds.
fn span(
    field: &str,
    given: Option<prost_types::Duration>,
    default: Duration,
    (least, most): (Duration, Duration),
) -> Result<Duration, Status> {
    let Some(given) = given else { return Ok(default) };
    match Duration::try_from(given) {
        Ok(span) if (least..=most).contains(&span) => Ok(span),
        _ => {
            let (least, most) = (convert::span_text(least), convert::span_text(most));
            Err(Status::invalid_argument(format!("{field} must be from {least} to {most}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{AgentCommand, ControlCommand, FleetConfig, Stamp, known_version};

    use super::*;
    use crate::fixture;

    #[test]
    fn guardians_keep_one_of_so_many_agents_in_quarantine_and_administrators_as_many_as_they_want() {
        let mut fleet = Fleet::new(FleetConfig::default());
        let raise = Command::Control(ControlCommand::RaiseVersion(known_version()));
        fleet.apply(Stamp::at(1), raise, &mut Vec::new());
        let apply = |fleet: &mut Fleet, command| drop(fleet.apply(Stamp::at(1), command, &mut Vec::new()));
        let bar = |fleet: &mut Fleet, agent: &str, by: &str| {
            let (agent, reason, by) = (agent.to_owned(), "odd".to_owned(), by.to_owned());
            let bar = IdentityCommand::Bar { agent, kind: BarKind::Quarantined, reason, by };
            fleet.apply(Stamp::at(1), Command::Identity(bar), &mut Vec::new());
        };
        bar(&mut fleet, "a", "client/ann");
        assert!(may_quarantine(&fleet, "b"), "people may quarantine more");
        bar(&mut fleet, "b", "guardian/g");
        assert!(may_quarantine(&fleet, "b"), "that changes nothing");
        assert!(!may_quarantine(&fleet, "c"));
        for n in 0..2 * QUARANTINED_ONE_OF {
            let join = fixture::join(&format!("live-{n}"), 1);
            apply(&mut fleet, Command::Agent(AgentCommand::Joined(join)));
        }
        assert!(may_quarantine(&fleet, "c"));
        bar(&mut fleet, "c", "guardian/h");
        assert!(!may_quarantine(&fleet, "d"), "all guardians together");
    }
}
