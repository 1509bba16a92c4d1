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
    /// The proof is right, but for another agent.
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
    /// What agents need to enrol, if the fleet has no configuration.
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
    let proved = crate::api::convert::peer_role(proved).to_string();
    Err(ProofError::Other { what: "the role", proved, claimed: claim.role_name.to_owned() })
}

#[cfg(test)]
mod tests {
    use robeing_fleet::PoolTrust;
    use robeing_identity::{JoinClaims, PeerRole};

    use super::*;
    use crate::identity::fixture::{JOIN_KEY, NOW, Signer, config};

    const CLAIM: Claim<'static> =
        Claim { cluster: "test", name: "w-0", role: Role::Worker, role_name: "worker", pool: "data" };

    struct Fixture {
        config: IdentityConfig,
        join_key: JoinKey,
        issuers: Vec<TokenIssuer>,
        join_secret: Option<[u8; 32]>,
        enrolment: Enrolment,
    }

    impl Fixture {
        /// A fleet with the pool `data` of workers, whose join secrets these are.
        fn new(secrets: &[&JoinSecret]) -> Self {
            let pool = PoolTrust {
                pool: "data".into(),
                role: Role::Worker,
                service_accounts: vec!["default/s".into()],
                secrets: secrets.iter().map(|secret| secret.digest()).collect(),
            };
            let config = IdentityConfig { pools: vec![pool], ..config() };
            let join_key = JoinKey::new(JOIN_KEY.as_bytes());
            Self { config, join_key, issuers: vec![], join_secret: None, enrolment: Enrolment::Proof }
        }

        fn knows(&mut self, signer: &Signer, id: &str) {
            let issuer = signer.issuer(id);
            let keys = jwt::KeySet::from_json(issuer.jwks.as_bytes()).unwrap();
            self.issuers = vec![TokenIssuer { issuer: issuer.issuer, audience: issuer.audience, keys }];
        }

        fn verifier(&self) -> Verifier<'_> {
            Verifier {
                config: Some(&self.config),
                issuers: &self.issuers,
                enrolment: self.enrolment,
                join_key: &self.join_key,
                join_secret: self.join_secret,
                now: NOW,
            }
        }

        fn verify(&self, claim: Claim<'_>, proof: &Proof) -> Result<Proved, ProofError> {
            self.verifier().verify(claim, Some(proof))
        }
    }

    /// Whose a proof is that is right, but not for this claim.
    fn is_for_another(verified: Result<Proved, ProofError>) -> String {
        let error = verified.expect_err("it is refused");
        assert!(error.is_of_another() && !error.may_be_known_to_its_issuer(), "{error}");
        error.to_string()
    }

    /// The claims of another role, pool and name, with the word that a refusal contains.
    fn others() -> [(&'static str, Claim<'static>); 2] {
        let guardian = Claim { role: Role::Guardian, role_name: "guardian", ..CLAIM };
        [("the role", guardian), ("the pool", Claim { pool: "other", ..CLAIM })]
    }

    fn token(name: Option<&str>, expires: u64) -> (JoinClaims, Proof) {
        let claims = JoinClaims::new("test", PeerRole::Worker, "data", name, expires).unwrap();
        let token = JoinKey::new(JOIN_KEY.as_bytes()).sign(&claims);
        (claims, Proof::JoinToken(token))
    }

    #[test]
    fn a_join_token_proves_what_it_says_and_nothing_else() {
        let fixture = Fixture::new(&[]);
        let (claims, named) = token(Some("w-0"), NOW + 1);
        let single_use = Some(SingleUse { id: claims.digest(), expires: NOW + 1 });
        let proved = Proved { kind: ProofKind::JoinToken, single_use, names_agent: true };
        assert_eq!(fixture.verify(CLAIM, &named).unwrap(), proved);
        for (what, other) in others() {
            assert!(is_for_another(fixture.verify(other, &named)).contains(what));
        }
        assert!(is_for_another(fixture.verify(Claim { name: "w-1", ..CLAIM }, &named)).contains("the agent"));
        let (_, any) = token(None, NOW + 1);
        for name in ["w-0", "w-1"] {
            assert!(!fixture.verify(Claim { name, ..CLAIM }, &any).unwrap().names_agent);
        }
        let (_, late) = token(None, NOW);
        let refused = |claim, proof| fixture.verify(claim, proof).unwrap_err();
        assert!(matches!(refused(CLAIM, &late), ProofError::Token(JoinTokenError::Expired)));
        let elsewhere = Claim { cluster: "elsewhere", ..CLAIM };
        assert!(matches!(refused(elsewhere, &any), ProofError::Token(JoinTokenError::Cluster)));
        assert!(matches!(refused(CLAIM, &Proof::JoinToken("x".into())), ProofError::Token(JoinTokenError::Malformed)));
    }

    #[test]
    fn a_pools_secret_proves_the_pool_until_it_is_replaced_for_the_second_time() {
        let [oldest, old, new] = [(); 3].map(|()| JoinSecret::generate().unwrap());
        let proof = |secret: &JoinSecret| Proof::JoinSecret(secret.bytes().to_vec().into());
        let fixture = Fixture::new(&[&new, &old]);
        for secret in [&new, &old] {
            let proved = Proved { kind: ProofKind::PoolSecret, single_use: None, names_agent: false };
            assert_eq!(fixture.verify(CLAIM, &proof(secret)).unwrap(), proved);
        }
        let refused = |claim, proof: &Proof| fixture.verify(claim, proof).unwrap_err();
        assert!(matches!(refused(CLAIM, &proof(&oldest)), ProofError::Secret { .. }));
        let [(_, guardian), (_, other)] = others();
        assert!(matches!(refused(other, &proof(&new)), ProofError::Secret { pool } if pool == "other"));
        assert!(is_for_another(fixture.verify(guardian, &proof(&new))).contains("the role"));
        for wrong in [vec![], vec![0; 32], vec![0; 1_000]] {
            assert!(matches!(refused(CLAIM, &Proof::JoinSecret(wrong.into())), ProofError::Secret { .. }));
        }
    }

    #[test]
    fn the_secret_of_the_join_directory_is_for_every_pool_and_role() {
        let [one, other] = [(); 2].map(|()| JoinSecret::generate().unwrap());
        let mut fixture = Fixture::new(&[]);
        let proof = |secret: &JoinSecret| Proof::JoinSecret(secret.bytes().to_vec().into());
        assert!(fixture.verify(CLAIM, &proof(&one)).is_err());
        fixture.join_secret = Some(one.digest());
        let without = Verifier { config: None, ..fixture.verifier() };
        for claim in [CLAIM, others()[0].1, others()[1].1, Claim { pool: "", ..CLAIM }] {
            let proved = Proved { kind: ProofKind::PoolSecret, single_use: None, names_agent: false };
            assert_eq!(fixture.verify(claim, &proof(&one)).unwrap(), proved);
            assert_eq!(without.verify(claim, Some(&proof(&one))).unwrap(), proved);
            assert!(fixture.verify(claim, &proof(&other)).is_err());
        }
    }

    #[test]
    fn a_service_accounts_token_proves_its_pools_and_its_pod() {
        let signer = Signer::new();
        let mut fixture = Fixture::new(&[]);
        let proof = |pod| Proof::ServiceAccountToken(format!("{}\n", signer.token(NOW, pod)));
        let refused = |fixture: &Fixture| fixture.verify(CLAIM, &proof(Some("w-0"))).unwrap_err();
        assert!(matches!(refused(&fixture), ProofError::NoIssuer));
        assert!(refused(&fixture).may_be_known_to_its_issuer());
        fixture.knows(&signer, "another");
        assert!(refused(&fixture).may_be_known_to_its_issuer(), "it may be signed with a new key");
        fixture.knows(&Signer::new(), "one");
        assert!(!refused(&fixture).may_be_known_to_its_issuer() && !refused(&fixture).is_of_another(), "forged");

        fixture.knows(&signer, "one");
        let proved = |names_agent| Proved { kind: ProofKind::ServiceAccount, single_use: None, names_agent };
        assert_eq!(fixture.verify(CLAIM, &proof(Some("w-0"))).unwrap(), proved(true));
        assert_eq!(fixture.verify(CLAIM, &proof(None)).unwrap(), proved(false));
        assert!(is_for_another(fixture.verify(CLAIM, &proof(Some("w-1")))).contains("the pod"));
        let [(_, guardian), (_, other)] = others();
        assert!(is_for_another(fixture.verify(guardian, &proof(None))).contains("the role"));
        assert!(is_for_another(fixture.verify(other, &proof(None))).contains("the service account"));
        fixture.config.pools[0].service_accounts = vec!["default/t".into()];
        assert!(is_for_another(fixture.verify(CLAIM, &proof(None))).contains("default/s"));
        let late = Verifier { now: NOW + 2 * 60 * 60 * 1_000, ..fixture.verifier() };
        let late = late.verify(CLAIM, Some(&proof(None))).unwrap_err();
        assert!(matches!(late, ProofError::ServiceAccount(TokenError::Expired { .. })));
    }

    #[test]
    fn without_a_proof_workers_and_specialists_enrol_where_enrolment_is_open() {
        let mut fixture = Fixture::new(&[]);
        let claim = |role, role_name| Claim { role, role_name, ..CLAIM };
        let all = [
            (claim(Role::Worker, "worker"), true),
            (claim(Role::Specialist, "specialist"), true),
            (claim(Role::Messenger, "messenger"), false),
            (claim(Role::Guardian, "guardian"), false),
        ];
        for (claim, _) in all {
            let missing = fixture.verifier().verify(claim, None).unwrap_err();
            assert!(matches!(&missing, ProofError::Missing { .. }) && !missing.is_of_another());
        }
        // What the fleet's configuration says counts before what the coordinator's does.
        fixture.enrolment = Enrolment::Open;
        assert!(!fixture.verifier().is_open());
        fixture.config.enrolment = EnrolmentMode::Open;
        let unconfigured = Verifier { config: None, ..fixture.verifier() };
        for verifier in [fixture.verifier(), unconfigured] {
            for (claim, is_let_in) in all {
                match verifier.verify(claim, None) {
                    Ok(proved) => assert!(is_let_in && proved.kind == ProofKind::Open && !proved.names_agent),
                    Err(error) => assert!(!is_let_in && error.is_of_another(), "{error}"),
                }
            }
            assert!(
                verifier.verify(CLAIM, Some(&Proof::JoinToken("x".into()))).is_err(),
                "a wrong one is worse than none"
            );
        }
    }
}
