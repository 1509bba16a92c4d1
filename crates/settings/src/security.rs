//! The settings of TLS and identities.

use std::{fmt, path::PathBuf};

use super::definition::{For, Setting};

/// The default trust domain of SPIFFE ids.
pub const DEFAULT_TRUST_DOMAIN: &str = "robeing.local";
/// The default namespace of SPIFFE ids.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Whether connections are encrypted; see [`TlsMode`].
pub const TLS: Setting = Setting::new(
    For::Both,
    "tls",
    &["ROBEING_TLS"],
    "MODE",
    "strict: TLS alone; permissive: TLS, and plaintext with processes that do not speak it yet; off: plaintext, for \
     loopback addresses alone",
)
.unset("strict");

/// The directory of the fleet's certificate authority.
pub const CA: Setting = Setting::new(
    For::Coordinators,
    "ca",
    &["ROBEING_CA"],
    "DIR",
    "Directory of the fleet's certificate authority: ca.crt, ca.key, join.key, and trust.crt during a rotation",
)
.unset("an authority of its own, made in the data directory")
.path();

/// How agents prove that they may enrol; see [`Enrolment`].
pub const ENROLMENT: Setting = Setting::new(
    For::Coordinators,
    "enrolment",
    &["ROBEING_ENROLMENT"],
    "MODE",
    "proof: agents need a proof to enrol; open: anyone may enrol as a worker or specialist, submit and read",
)
.unset("proof; open without --ca and --join");

/// The trust domain of the SPIFFE ids that coordinators issue.
pub const TRUST_DOMAIN: Setting = Setting::new(
    For::Coordinators,
    "trust-domain",
    &["ROBEING_TRUST_DOMAIN"],
    "NAME",
    "Trust domain of the SPIFFE ids of the fleet",
)
.unset(DEFAULT_TRUST_DOMAIN);

/// The namespace in the SPIFFE ids that coordinators issue.
pub const NAMESPACE: Setting = Setting::new(
    For::Coordinators,
    "namespace",
    &["ROBEING_NAMESPACE"],
    "NAME",
    "Namespace in the SPIFFE ids of the fleet",
)
.unset(DEFAULT_NAMESPACE);

/// The file of clients' names and rights.
pub const RIGHTS: Setting = Setting::new(
    For::Coordinators,
    "rights",
    &["ROBEING_RIGHTS"],
    "FILE",
    "File of clients' names and rights, read again when it changes",
)
.unset("clients with a certificate may do everything")
.path();

/// The directory in which coordinators keep a join secret for agents.
pub const JOIN: Setting = Setting::new(
    For::Coordinators,
    "join",
    &["ROBEING_JOIN"],
    "DIR",
    "Directory in which coordinators keep what agents of any pool and role enrol with, for agents that can read it: \
     join.secret (--join-secret) and trust.crt (--trust)",
)
.unset("none")
.path();

/// The file with the authorities that an agent trusts.
pub const TRUST: Setting = Setting::new(
    For::Agents,
    "trust",
    &["ROBEING_TRUST"],
    "FILE",
    "Certificates of the authorities that the agent trusts, PEM",
)
.unset("the authority that it finds at its first contact")
.path();

/// The token with which an agent enrols once.
pub const JOIN_TOKEN: Setting = Setting::new(
    For::Agents,
    "join-token",
    &["ROBEING_JOIN_TOKEN"],
    "TOKEN",
    "Single-use token with which the agent enrols; a flag can be seen by every user of the machine, so set the variable",
)
.unset("none");

/// The file with the join secret of the agent's pool.
pub const JOIN_SECRET: Setting = Setting::new(
    For::Agents,
    "join-secret",
    &["ROBEING_JOIN_SECRET"],
    "FILE",
    "File with the join secret of the agent's pool, with which it enrols",
)
.unset("none")
.path();

/// The file with a service-account token of the audience `robeing`.
pub const SERVICE_ACCOUNT_TOKEN: Setting = Setting::new(
    For::Agents,
    "service-account-token",
    &["ROBEING_SERVICE_ACCOUNT_TOKEN"],
    "FILE",
    "File with a Kubernetes service-account token of the audience robeing, with which the agent enrols",
)
.unset("none")
.path();

/// Whether the connections of a process are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// All of them.
    #[default]
    Strict,
    /// All but those with processes that don't speak TLS yet: for the time in which a fleet moves to TLS.
    Permissive,
    /// None. For loopback addresses alone.
    Off,
}

impl TlsMode {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Strict, Self::Permissive, Self::Off];

    /// Returns the mode as written in a setting.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
            Self::Off => "off",
        }
    }
}

/// What agents need to enrol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enrolment {
    /// A proof of who they are.
    Proof,
    /// Nothing: anyone may enrol as a worker or a specialist, and clients without a certificate may submit and read.
    Open,
}

impl Enrolment {
    /// All modes.
    pub const ALL: [Self; 2] = [Self::Proof, Self::Open];

    /// Returns the mode as written in a setting.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proof => "proof",
            Self::Open => "open",
        }
    }
}

/// How a coordinator certifies the members of its fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityConfig {
    /// The directory of the fleet's certificate authority. If unset, the coordinator makes an authority of its own in
    /// its data directory.
    pub directory: Option<PathBuf>,
    /// What agents need to enrol. If unset, a proof; nothing if the authority is the coordinator's own and there is no
    /// join directory.
    pub enrolment: Option<Enrolment>,
    /// The trust domain of the fleet's SPIFFE ids.
    pub trust_domain: String,
    /// The namespace in the fleet's SPIFFE ids.
    pub namespace: String,
    /// The file of clients' names and rights.
    pub rights: Option<PathBuf>,
    /// The directory in which coordinators keep a join secret and the trusted authorities, for agents that can read it.
    pub join: Option<PathBuf>,
}

impl Default for AuthorityConfig {
    fn default() -> Self {
        Self {
            directory: None,
            enrolment: None,
            trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
            namespace: DEFAULT_NAMESPACE.to_owned(),
            rights: None,
            join: None,
        }
    }
}

impl AuthorityConfig {
    /// Returns what agents need to enrol.
    pub fn enrolment(&self) -> Enrolment {
        match self.enrolment {
            Some(enrolment) => enrolment,
            None if self.directory.is_some() || self.join.is_some() => Enrolment::Proof,
            None => Enrolment::Open,
        }
    }
}

/// How an agent enrols.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnrolmentConfig {
    /// The file with the authorities that the agent trusts. If unset, it trusts the one that it finds at its first
    /// contact.
    pub trust: Option<PathBuf>,
    /// How it proves who it is.
    pub proof: JoinProof,
}

/// How an agent proves that it may enrol.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum JoinProof {
    /// Not at all, which is enough for open enrolment.
    #[default]
    None,
    /// With a single-use token.
    Token(String),
    /// With the join secret of its pool, in a file.
    Secret(PathBuf),
    /// With a Kubernetes service-account token, in a file.
    ServiceAccount(PathBuf),
}

impl fmt::Debug for JoinProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Token(_) => f.write_str("Token"),
            Self::Secret(file) => f.debug_tuple("Secret").field(file).finish(),
            Self::ServiceAccount(file) => f.debug_tuple("ServiceAccount").field(file).finish(),
        }
    }
}
