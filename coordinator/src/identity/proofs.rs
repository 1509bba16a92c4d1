//! What an agent's proof proves. Pure: the fleet's configuration and the time are passed in.

use robeing_fleet::{EnrolmentMode, IdentityConfig, ProofKind, Role, SingleUse};
use robeing_identity::{
    JoinKey, JoinSecret, JoinTokenError,
    jwt::{self, ServiceAccountClaims, TokenError, TokenIssuer},
};
use robeing_proto::internal::v1::enrol_request::Proof;
use robeing_settings::Enrolment;

/// Who an agent claims to be.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    pub cluster: &'a str,
    pub name: &'a str,
    pub role: Role,
    /// The name of its role in join tokens.
    pub role_name: &'static str,
    /// Empty for none.
    pub pool: &'a str,
}

/// A proof that was found to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proved {
    pub kind: ProofKind,
    pub single_use: Option<SingleUse>,
    /// Whether the proof names this agent.
    pub names_agent: bool,
}

/// A service account of Kubernetes that a token was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    pub namespace: String,
    pub name: String,
    /// The name of the pod that the token is bound to, if it is bound to one.
    pub pod: Option<String>,
}

impl From<ServiceAccountClaims> for ServiceAccount {
    fn from(claims: ServiceAccountClaims) -> Self {
        Self { namespace: claims.namespace, name: claims.service_account, pod: claims.pod.map(|(name, _)| name) }
    }
}

/// Why a proof is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// There is none, and one is needed.
    #[error(
        "the agent {name} has no proof that it may enrol: give it a join token (--join-token), the join secret of its pool \
         (--join-secret), or a service-account token (--service-account-token)"
    )]
    Missing { name: String },
    /// A join token is refused.
    #[error(transparent)]
    Token(#[from] JoinTokenError),
    /// A service-account token is refused.
    #[error(transparent)]
    ServiceAccount(#[from] TokenError),
    /// No issuer of service-account tokens is known.
    #[error("this fleet knows no issuer of service-account tokens; the operator sets it")]
    NoIssuer,
    /// The join secret is not the pool's.
    #[error(
        "this is not a join secret of the pool {pool:?}; if the secret was replaced, restart the agent with the new one"
    )]
    Secret { pool: String },
    /// The token is a person's or another program's.
    #[error("the token is of the user {user:?}; an agent enrols with the token of a service account")]
    NoServiceAccount { user: String },
    /// The proof is right, but for somebody else.
    #[error("the proof is for {what} {proved:?}, not {claimed:?}")]
    Other { what: &'static str, proved: String, claimed: String },
    /// Without a proof, there are no such roles.
    #[error("without a proof, an agent enrols as a worker or a specialist; a {role} needs a proof")]
    Role { role: &'static str },
}

impl ProofError {
    /// Returns whether the issuer of a token may know better: its keys are not known here, or have changed.
    pub fn may_be_known_to_its_issuer(&self) -> bool {
        match self {
            Self::NoIssuer => true,
            Self::ServiceAccount(error) => error.may_be_a_new_key(),
            _ => false,
        }
    }

    /// Returns whether the proof is right, and what it was used for is not.
    pub fn is_of_another(&self) -> bool {
        matches!(self, Self::Other { .. } | Self::Role { .. } | Self::NoServiceAccount { .. })
    }
}

/// What proofs are verified with.
#[derive(Clone, Copy, Debug)]
pub struct Verifier<'a> {
    pub config: Option<&'a IdentityConfig>,
    /// The issuers of service-account tokens.
    pub issuers: &'a [TokenIssuer],
    /// What agents need to enrol, if the fleet's configuration does not say.
    pub enrolment: Enrolment,
    pub join_key: &'a JoinKey,
    /// The digest of the secret with which agents of any pool and role enrol, if there is one.
    pub join_secret: Option<[u8; 32]>,
    /// The time, Unix milliseconds.
    pub now: u64,
}

impl Verifier<'_> {
    /// Returns whether anyone may enrol.
    pub fn is_open(&self) -> bool {
        match self.config {
            Some(config) => config.enrolment == EnrolmentMode::Open,
            None => self.enrolment == Enrolment::Open,
        }
    }

    /// Returns what a proof proves.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, claim: Claim<'_>, proof: Option<&Proof>) -> Result<Proved, ProofError> {
        match proof {
            Some(Proof::JoinToken(token)) => self.verify_token(claim, token),
            Some(Proof::JoinSecret(secret)) => self.verify_secret(claim, secret),
            Some(Proof::ServiceAccountToken(token)) => {
                self.proved_by(claim, &self.verify_service_account(token)?.into())
            }
            None if !self.is_open() => Err(ProofError::Missing { name: claim.name.to_owned() }),
            None => match claim.role {
                Role::Worker | Role::Specialist => {
                    Ok(Proved { kind: ProofKind::Open, single_use: None, names_agent: false })
                }
                Role::Messenger | Role::Guardian => Err(ProofError::Role { role: claim.role_name }),
            },
        }
    }

    fn verify_token(&self, claim: Claim<'_>, token: &str) -> Result<Proved, ProofError> {
        let claims = self.join_key.verify(token, claim.cluster, self.now)?;
        same("the role", &claims.role, claim.role_name)?;
        same("the pool", &claims.pool, claim.pool)?;
        if let Some(name) = &claims.name {
            same("the agent", name, claim.name)?;
        }
        let single_use = SingleUse { id: claims.digest(), expires: claims.expires };
        let names_agent = claims.name.is_some();
        Ok(Proved { kind: ProofKind::JoinToken, single_use: Some(single_use), names_agent })
    }

    fn verify_secret(&self, claim: Claim<'_>, secret: &[u8]) -> Result<Proved, ProofError> {
        let proved = Proved { kind: ProofKind::PoolSecret, single_use: None, names_agent: false };
        if JoinSecret::is_one_of(secret, self.join_secret.as_slice()) {
            return Ok(proved);
        }
        let pools = self.config.map(|config| &config.pools[..]).unwrap_or_default();
        let pool = pools.iter().find(|pool| pool.pool == claim.pool);
        let pool = pool.filter(|pool| JoinSecret::is_one_of(secret, &pool.secrets));
        let pool = pool.ok_or_else(|| ProofError::Secret { pool: claim.pool.to_owned() })?;
        same_role(pool.role, claim)?;
        Ok(proved)
    }

    /// Returns what a token of a service account proves.
    ///
    /// # Errors
    /// If the account is not one of the claimed pool, or the token is bound to another pod.
    pub fn proved_by(&self, claim: Claim<'_>, account: &ServiceAccount) -> Result<Proved, ProofError> {
        let name = format!("{}/{}", account.namespace, account.name);
        let pools = self.config.map(|config| &config.pools[..]).unwrap_or_default();
        let pool = pools.iter().find(|pool| pool.pool == claim.pool && pool.service_accounts.contains(&name));
        let Some(pool) = pool else {
            let claimed = format!("an agent of the pool {}", claim.pool);
            return Err(ProofError::Other { what: "the service account", proved: name, claimed });
        };
        same_role(pool.role, claim)?;
        if let Some(pod) = &account.pod {
            same("the pod", pod, claim.name)?;
        }
        Ok(Proved { kind: ProofKind::ServiceAccount, single_use: None, names_agent: account.pod.is_some() })
    }

    /// Verifies a service-account token of one of the fleet's issuers.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify_service_account(&self, token: &str) -> Result<ServiceAccountClaims, ProofError> {
        if self.issuers.is_empty() {
            return Err(ProofError::NoIssuer);
        }
        Ok(jwt::verify(token.trim(), self.issuers, self.now)?)
    }
}

fn same(what: &'static str, proved: &str, claimed: &str) -> Result<(), ProofError> {
    if proved == claimed {
        return Ok(());
    }
    Err(ProofError::Other { what, proved: proved.to_owned(), claimed: claimed.to_owned() })
}

fn same_role(proved: Role, claim: Claim<'_>) -> Result<(), ProofError> {
    if proved == claim.role {
        return Ok(());
    }
    let proved = crate::api::convert::role_name(proved).to_owned();
    Err(ProofError::Other { what: "the role", proved, claimed: claim.role_name.to_owned() })
}
