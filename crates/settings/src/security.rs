//! The settings of TLS and identities.

use std::{fmt, path::PathBuf};

/// The default trust domain of SPIFFE ids.
pub const DEFAULT_TRUST_DOMAIN: &str = "robeing.local";
/// The default namespace of SPIFFE ids.
pub const DEFAULT_NAMESPACE: &str = "default";

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
    /// What agents need to enrol. If unset, a proof; nothing if the authority is the coordinator's own.
    pub enrolment: Option<Enrolment>,
    /// The trust domain of the fleet's SPIFFE ids.
    pub trust_domain: String,
    /// The namespace in the fleet's SPIFFE ids.
    pub namespace: String,
    /// The file of clients' names and rights.
    pub rights: Option<PathBuf>,
}

impl Default for AuthorityConfig {
    fn default() -> Self {
        Self {
            directory: None,
            enrolment: None,
            trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
            namespace: DEFAULT_NAMESPACE.to_owned(),
            rights: None,
        }
    }
}

impl AuthorityConfig {
    /// Returns what agents need to enrol.
    pub fn enrolment(&self) -> Enrolment {
        match (self.enrolment, &self.directory) {
            (Some(enrolment), _) => enrolment,
            (None, Some(_)) => Enrolment::Proof,
            (None, None) => Enrolment::Open,
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
