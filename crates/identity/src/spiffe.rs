//! The names of a fleet's members, as SPIFFE ids:
//! `spiffe://<trust-domain>/ns/<namespace>/cluster/<cluster>/<role>/<name>`.
//!
//! See the [SPIFFE ID specification](https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md), section 2, for
//! the characters that a trust domain and a path segment may have.

use std::{fmt, str::FromStr};

/// The scheme of a SPIFFE id.
const SCHEME: &str = "spiffe://";
/// Maximum length of a SPIFFE id, bytes (section 2.3).
const MAX_BYTES: usize = 2_048;
/// Maximum length of a trust domain, bytes (section 2.3).
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// The lowest priority in a shortage.
pub const LOWEST_PRIORITY: u32 = 5;

/// What a member of a fleet is, as the segment before its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerRole {
    /// A coordinator.
    Coordinator,
    /// An agent with the role worker.
    Worker,
    /// An agent with the role specialist.
    Specialist,
    /// An agent with the role messenger.
    Messenger,
    /// An agent with the role guardian.
    Guardian,
    /// A person or a program that uses the fleet.
    Client,
    /// The operator on Kubernetes.
    Operator,
}

impl PeerRole {
    /// All roles.
    pub const ALL: [Self; 7] = [
        Self::Coordinator,
        Self::Worker,
        Self::Specialist,
        Self::Messenger,
        Self::Guardian,
        Self::Client,
        Self::Operator,
    ];

    /// Returns the priority in a shortage; 1 is served first. Clients come after all members.
    pub fn priority(self) -> u32 {
        match self {
            Self::Coordinator | Self::Operator => 1,
            Self::Specialist | Self::Guardian => 2,
            Self::Worker => 3,
            Self::Messenger => 4,
            Self::Client => LOWEST_PRIORITY,
        }
    }

    /// Returns the role as it is written in a SPIFFE id.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Worker => "worker",
            Self::Specialist => "specialist",
            Self::Messenger => "messenger",
            Self::Guardian => "guardian",
            Self::Client => "client",
            Self::Operator => "operator",
        }
    }

    /// Returns the role that is written so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// Returns whether it is the role of an agent.
    pub fn is_agent(self) -> bool {
        matches!(self, Self::Worker | Self::Specialist | Self::Messenger | Self::Guardian)
    }
}

impl fmt::Display for PeerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no name of a fleet's member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// It has another form.
    #[error("{0:?} has not the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/cluster/NAME/ROLE/NAME")]
    Form(String),
    /// A part has a character that SPIFFE forbids, or is empty.
    #[error("the {what} {text:?} must consist of letters, digits, '-', '.' and '_'{}", if *.what == "trust domain" { " (no capital letters)" } else { "" })]
    Characters {
        /// Which part.
        what: &'static str,
        /// The part.
        text: String,
    },
    /// It is too long.
    #[error("the SPIFFE id of {what} would have more than {MAX_BYTES} bytes; shorten its name")]
    TooLong {
        /// The member's name.
        what: String,
    },
}

/// The names that all members of one fleet share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Realm {
    trust_domain: String,
    namespace: String,
    cluster: String,
}

impl Realm {
    /// Creates the realm of a fleet.
    ///
    /// # Errors
    /// If a part has characters that a SPIFFE id can't have.
    pub fn new(trust_domain: &str, namespace: &str, cluster: &str) -> Result<Self, SpiffeIdError> {
        let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_');
        if trust_domain.is_empty() || trust_domain.len() > MAX_TRUST_DOMAIN_BYTES || !trust_domain.bytes().all(lower) {
            return Err(SpiffeIdError::Characters { what: "trust domain", text: trust_domain.to_owned() });
        }
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            namespace: segment("namespace", namespace)?,
            cluster: segment("cluster", cluster)?,
        })
    }

    /// Returns the trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Returns the namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Returns the id of a member of this fleet.
    ///
    /// # Errors
    /// If the name has characters that a SPIFFE id can't have, or is too long.
    pub fn member(&self, role: PeerRole, name: &str) -> Result<SpiffeId, SpiffeIdError> {
        let id = SpiffeId { realm: self.clone(), role, name: segment("name", name)? };
        if id.to_string().len() > MAX_BYTES {
            return Err(SpiffeIdError::TooLong { what: name.to_owned() });
        }
        Ok(id)
    }
}

/// How the SPIFFE ids of the fleet's members begin, up to the cluster's name.
impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trust_domain, namespace, cluster } = self;
        write!(f, "{SCHEME}{trust_domain}/ns/{namespace}/cluster/{cluster}")
    }
}

/// Checks a segment of the path.
fn segment(what: &'static str, text: &str) -> Result<String, SpiffeIdError> {
    if !is_segment(text) {
        return Err(SpiffeIdError::Characters { what, text: text.to_owned() });
    }
    Ok(text.to_owned())
}

/// Returns whether a text can be a segment of a SPIFFE id's path, such as the name of a member.
pub fn is_segment(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !text.is_empty() && !matches!(text, "." | "..") && text.bytes().all(allowed)
}

/// The name of a member of a fleet, unique among all fleets of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    realm: Realm,
    role: PeerRole,
    name: String,
}

impl SpiffeId {
    /// Returns the fleet that the member belongs to.
    pub fn realm(&self) -> &Realm {
        &self.realm
    }

    /// Returns the member's role.
    pub fn role(&self) -> PeerRole {
        self.role
    }

    /// Returns the member's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.realm, self.role, self.name)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let form = || SpiffeIdError::Form(text.chars().take(200).collect());
        if text.len() > MAX_BYTES {
            return Err(form());
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(form)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [trust_domain, "ns", namespace, "cluster", cluster, role, name] = parts[..] else {
            return Err(form());
        };
        let role = PeerRole::parse(role).ok_or_else(form)?;
        Realm::new(trust_domain, namespace, cluster)?.member(role, name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn realm() -> Realm {
        Realm::new("robeing.local", "default", "cluster-01").unwrap()
    }

    #[test]
    fn an_id_is_written_as_documented_and_read_again() {
        let id = realm().member(PeerRole::Worker, "data-0").unwrap();
        assert_eq!(id.to_string(), "spiffe://robeing.local/ns/default/cluster/cluster-01/worker/data-0");
        assert_eq!(realm().to_string(), "spiffe://robeing.local/ns/default/cluster/cluster-01");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "spiffe://",
            "https://robeing.local/ns/default/cluster/a/worker/b",
            "spiffe://robeing.local/ns/default/cluster/a/worker",
            "spiffe://robeing.local/ns/default/cluster/a/worker/b/",
            "spiffe://robeing.local/ns/default/cluster/a/boss/b",
            "spiffe://robeing.local/ns/default/cluster/a/worker/",
            "spiffe://robeing.local/ns/default/cluster/a/worker/..",
            "spiffe://robeing.local/ns/default/cluster/a/worker/a%2fb",
            "spiffe://Robeing.local/ns/default/cluster/a/worker/b",
            "spiffe:///ns/default/cluster/a/worker/b",
            "spiffe://robeing.local:80/ns/default/cluster/a/worker/b",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
        assert!(realm().member(PeerRole::Worker, &"x".repeat(MAX_BYTES)).is_err());
        assert!(Realm::new(&"x".repeat(MAX_TRUST_DOMAIN_BYTES + 1), "a", "b").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_and_what_it_reads_it_writes(text in ".{0,200}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
