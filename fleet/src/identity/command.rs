//! The commands about who may be in the fleet.

use std::{collections::BTreeSet, sync::Arc};

use bilrost::{Enumeration, Message, Oneof};

use super::{BarKind, ProofKind, SingleUse};
use crate::{
    AuditOutcome, Effect, Fleet, Refusal, Reply, Role,
    audit_log::action,
    config::{check_length, check_name, invalid},
    limits::{
        MAX_ISSUER_BYTES, MAX_JOIN_SECRETS, MAX_POOLS, MAX_SERVICE_ACCOUNT_BYTES, MAX_SERVICE_ACCOUNTS,
        MAX_TOKEN_ISSUERS, MAX_TRUST_TEXT_BYTES,
    },
    steps::Jobs,
};

/// A command about who may be in the fleet. All need [`Feature::Identity`](crate::Feature::Identity), and are recorded
/// in the audit log if they change anything or are refused. All domains share one range of field numbers; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum IdentityCommand {
    /// Sets what the fleet trusts.
    #[bilrost(13)]
    Configure(IdentityConfig),
    /// Enrols an agent with a key, after a coordinator has verified its proof.
    #[bilrost(14)]
    Enrol(Enrol),
    /// Bars an agent from the fleet: its session ends, and its tasks are given to others.
    /// Nothing changes if the agent is barred in this way already.
    #[bilrost(tag(15), message)]
    Bar {
        /// The agent's name.
        #[bilrost(1)]
        agent: String,
        /// Why. A removed agent and its enrolment are forgotten, too.
        #[bilrost(2)]
        kind: BarKind,
        /// The reason as text; cut to [`MAX_REASON_BYTES`](crate::limits::MAX_REASON_BYTES).
        #[bilrost(3)]
        reason: String,
        /// Who bars the agent; cut to [`MAX_ACTOR_BYTES`](crate::limits::MAX_ACTOR_BYTES).
        #[bilrost(4)]
        by: String,
    },
    /// Lets an agent into the fleet again, however it was barred. Nothing changes if it is not barred.
    #[bilrost(tag(16), message)]
    Release {
        /// The agent's name.
        #[bilrost(1)]
        agent: String,
        /// Who releases the agent; cut to [`MAX_ACTOR_BYTES`](crate::limits::MAX_ACTOR_BYTES).
        #[bilrost(2)]
        by: String,
    },
}

/// Whether agents must prove who they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum EnrolmentMode {
    /// Agents are enrolled by a proof only.
    Proof = 0,
    /// Agents are enrolled without a proof, too.
    Open = 1,
}

/// What the fleet trusts, as an administrator sets it.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct IdentityConfig {
    /// The certificates of the trusted authorities, as PEM; at most [`MAX_TRUST_TEXT_BYTES`].
    #[bilrost(1)]
    pub bundle: String,
    /// Whether agents must prove who they are.
    #[bilrost(2)]
    pub enrolment: EnrolmentMode,
    /// Whose tokens are proofs; at most [`MAX_TOKEN_ISSUERS`], each issuer once.
    #[bilrost(3)]
    pub issuers: Vec<TokenIssuer>,
    /// What proves that an agent is of a pool; at most [`MAX_POOLS`], each pool once.
    #[bilrost(4)]
    pub pools: Vec<PoolTrust>,
}

/// An issuer of tokens, such as the API server of a Kubernetes cluster.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct TokenIssuer {
    /// The issuer's name in its tokens; at most [`MAX_ISSUER_BYTES`].
    #[bilrost(1)]
    pub issuer: String,
    /// The audience that tokens must have; at most [`MAX_ISSUER_BYTES`].
    #[bilrost(2)]
    pub audience: String,
    /// The issuer's public keys, a JSON Web Key Set; at most [`MAX_TRUST_TEXT_BYTES`].
    #[bilrost(3)]
    pub jwks: String,
}

/// What proves that an agent is of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct PoolTrust {
    /// The pool's name.
    #[bilrost(1)]
    pub pool: String,
    /// The role of the pool's agents.
    #[bilrost(2)]
    pub role: Role,
    /// The service accounts of the pool's agents, as `namespace/name`; at most [`MAX_SERVICE_ACCOUNTS`], each once.
    #[bilrost(3)]
    pub service_accounts: Vec<String>,
    /// The SHA-256 digests of the pool's join secrets, newest first; at most [`MAX_JOIN_SECRETS`].
    #[bilrost(tag(4), encoding(unpacked<plainbytes>))]
    pub secrets: Vec<[u8; 32]>,
}

/// The enrolment of an agent, whose proof a coordinator has verified.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Enrol {
    /// The agent's name.
    #[bilrost(1)]
    pub agent: String,
    /// The agent's role.
    #[bilrost(2)]
    pub role: Role,
    /// The agent's pool.
    #[bilrost(3)]
    pub pool: Option<String>,
    /// The digest of the agent's public key.
    #[bilrost(tag(4), encoding(plainbytes))]
    pub key: [u8; 32],
    /// How the agent proved who it is.
    #[bilrost(5)]
    pub proof: ProofKind,
    /// The proof, if it can be used once. A repetition with the same key is not a second use.
    #[bilrost(6)]
    pub single_use: Option<SingleUse>,
    /// The proof names this agent, so the agent may replace a live one of its name that has another key.
    #[bilrost(7)]
    pub names_agent: bool,
}

impl IdentityConfig {
    /// Refuses a configuration that is out of bounds.
    pub fn check(&self) -> Result<(), Refusal> {
        check_length("bundle", &self.bundle, MAX_TRUST_TEXT_BYTES)?;
        check_count("issuers", self.issuers.len(), MAX_TOKEN_ISSUERS)?;
        check_count("pools", self.pools.len(), MAX_POOLS)?;
        let (mut issuers, mut pools) = (BTreeSet::new(), BTreeSet::new());
        for issuer in &self.issuers {
            issuer.check()?;
            check_new("issuers.issuer", &issuer.issuer, &mut issuers)?;
        }
        for pool in &self.pools {
            pool.check()?;
            check_new("pools.pool", &pool.pool, &mut pools)?;
        }
        Ok(())
    }

    /// Describes the configuration for the audit log.
    fn summary(&self) -> String {
        let mode = match self.enrolment {
            EnrolmentMode::Proof => "by proof",
            EnrolmentMode::Open => "open",
        };
        format!(
            "enrolment {mode}, {} bytes of trusted certificates, {} issuers, {} pools",
            self.bundle.len(),
            self.issuers.len(),
            self.pools.len()
        )
    }
}

impl TokenIssuer {
    fn check(&self) -> Result<(), Refusal> {
        for (field, text) in [("issuers.issuer", &self.issuer), ("issuers.audience", &self.audience)] {
            if text.is_empty() {
                return Err(invalid(field, "must not be empty"));
            }
            check_length(field, text, MAX_ISSUER_BYTES)?;
        }
        check_length("issuers.jwks", &self.jwks, MAX_TRUST_TEXT_BYTES)
    }
}

impl PoolTrust {
    fn check(&self) -> Result<(), Refusal> {
        check_name("pools.pool", &self.pool)?;
        check_count("pools.service_accounts", self.service_accounts.len(), MAX_SERVICE_ACCOUNTS)?;
        check_count("pools.secrets", self.secrets.len(), MAX_JOIN_SECRETS)?;
        let mut accounts = BTreeSet::new();
        for account in &self.service_accounts {
            let field = "pools.service_accounts";
            check_length(field, account, MAX_SERVICE_ACCOUNT_BYTES)?;
            let parts: Vec<&str> = account.split('/').collect();
            if parts.len() != 2 || parts.contains(&"") {
                return Err(invalid(field, format!("{account:?} is not a namespace and a name, as in default/agents")));
            }
            check_new(field, account, &mut accounts)?;
        }
        Ok(())
    }
}

impl Enrol {
    /// Refuses an enrolment that is out of bounds, whatever the fleet's state.
    pub fn check(&self) -> Result<(), Refusal> {
        check_name("agent", &self.agent)?;
        match &self.pool {
            Some(pool) => check_name("pool", pool),
            None => Ok(()),
        }
    }
}

fn check_count(field: &str, count: usize, most: usize) -> Result<(), Refusal> {
    match count {
        count if count > most => Err(invalid(field, format!("has {count} entries, the most is {most}"))),
        _ => Ok(()),
    }
}

/// Refuses a text that was there before.
fn check_new<'a>(field: &str, text: &'a str, known: &mut BTreeSet<&'a str>) -> Result<(), Refusal> {
    match known.insert(text) {
        true => Ok(()),
        false => Err(invalid(field, format!("{text:?} is there twice"))),
    }
}

impl Fleet {
    pub(crate) fn run_identity(
        &mut self,
        command: IdentityCommand,
        jobs: &mut Jobs,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        self.forget_expired_proofs();
        match command {
            IdentityCommand::Configure(config) => self.configure_identity(config, effects),
            IdentityCommand::Enrol(enrol) => self.enrol(enrol, effects),
            IdentityCommand::Bar { agent, kind, reason, by } => self.bar((agent, kind), reason, by, jobs, effects),
            IdentityCommand::Release { agent, by } => self.release(&agent, by, effects),
        }
    }

    fn configure_identity(&mut self, config: IdentityConfig, effects: &mut Vec<Effect>) -> Reply {
        const ACTOR: &str = "administrator";
        const SUBJECT: &str = "identity";
        if let Err(refusal) = config.check() {
            let detail = refusal.to_string();
            self.record(ACTOR, action::CONFIGURE, SUBJECT, AuditOutcome::Failed, detail);
            return Reply::Refused(refusal);
        }
        if self.state.identity.config.as_deref() == Some(&config) {
            return Reply::Done;
        }
        self.record(ACTOR, action::CONFIGURE, SUBJECT, AuditOutcome::Done, config.summary());
        self.state.identity.config = Some(Arc::new(config));
        self.next_revision();
        effects.push(Effect::TrustChanged);
        Reply::Done
    }
}
