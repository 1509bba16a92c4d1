//! What clients may do, without Kubernetes: a list of names and rights, in YAML.
//!
//! ```yaml
//! clients:
//! - name: ann              # the name in her client certificate
//!   rights: [submit, read]
//! - name: "*"              # everybody who has a certificate
//!   rights: [read]
//! - name: anonymous        # everybody; only submit and read
//!   rights: [read]
//! ```
//!
//! A client has the rights of all entries that it comes under. Who is in none may do nothing.

use std::{collections::HashMap, fmt};

use robeing_identity::is_segment;
use serde::Deserialize;

/// Maximum size of a list, bytes.
pub const MAX_RIGHTS_BYTES: usize = 1024 * 1024;
/// Maximum number of entries of a list.
pub const MAX_CLIENTS: usize = 10_000;
/// Maximum length of a client's name, bytes.
pub const MAX_NAME_BYTES: usize = 253;
/// How deep a list may be nested. The correct ones are three deep, an entry's rights in an entry in the list.
const MAX_DEPTH: usize = 8;
/// Maximum number of characters of a name or right that an error shows.
const MAX_SHOWN: usize = 64;
/// The entry of all clients with a certificate.
const ANY: &str = "*";
/// The entry of all clients.
const ANONYMOUS: &str = "anonymous";

/// Something that a client may have the right to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Right {
    /// Submit tasks.
    Submit,
    /// Read tasks, results, agents and the fleet's status.
    Read,
    /// Vote in ballots.
    Vote,
    /// Send messages to agents.
    Message,
    /// Administer the fleet. It contains no other right.
    Admin,
}

impl Right {
    /// All rights.
    pub const ALL: [Self; 5] = [Self::Submit, Self::Read, Self::Vote, Self::Message, Self::Admin];

    /// Returns the right as it is written in lists.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Vote => "vote",
            Self::Message => "message",
            Self::Admin => "admin",
        }
    }

    /// Returns the right that is written so.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|right| right.as_str() == text)
    }

    /// Returns whether clients without a certificate may have it.
    pub fn is_for_anonymous(self) -> bool {
        matches!(self, Self::Submit | Self::Read)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

impl Rights {
    /// Returns the set with one more right.
    #[must_use]
    pub fn with(self, right: Right) -> Self {
        Self(self.0 | (1 << right as u8))
    }

    /// Returns the rights of both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns whether the set has a right.
    pub fn contains(self, right: Right) -> bool {
        self.0 & (1 << right as u8) != 0
    }
}

/// Why a list of rights can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RightsError {
    /// It is too large.
    #[error("it has {bytes} bytes, the most is {MAX_RIGHTS_BYTES}")]
    TooLarge {
        /// Its size, bytes.
        bytes: usize,
    },
    /// It has too many entries.
    #[error("it has {clients} clients, the most is {MAX_CLIENTS}; give rights to \"*\" instead of each client")]
    TooMany {
        /// How many.
        clients: usize,
    },
    /// It is no YAML, or of another form.
    #[error("it must have the form \"clients: [{{name: NAME, rights: [RIGHT, …]}}, …]\": {0}")]
    Malformed(String),
    /// A name can't be a client's.
    #[error(
        "{0:?} is no client's name: give up to {MAX_NAME_BYTES} letters, digits, '-', '.' and '_', or \"*\" for all with \
         a certificate, or anonymous"
    )]
    Name(String),
    /// A client has two entries.
    #[error("the client {0:?} is in it twice: give all its rights in one entry")]
    Twice(String),
    /// There is no such right.
    #[error(
        "the client {client:?} has the right {right:?}, which there is not: give submit, read, vote, message, admin"
    )]
    Unknown {
        /// The client.
        client: String,
        /// The right.
        right: String,
    },
    /// Clients without a certificate have a right that they can't have.
    #[error(
        "anonymous clients can have the rights submit and read, but not {0}: give that to clients with a certificate"
    )]
    Anonymous(Right),
}

/// A client, as its connection proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client<'a> {
    /// A client without a certificate.
    Anonymous,
    /// A client with a token.
    Token,
    /// The client with a certificate of this name.
    Named(&'a str),
}

/// What each client may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientRights {
    named: HashMap<String, Rights>,
    any: Rights,
    anonymous: Rights,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    clients: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    rights: Vec<String>,
}

fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

/// Returns whether a certificate can have this name.
fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && is_segment(name)
}

impl Entry {
    fn rights(&self) -> Result<Rights, RightsError> {
        self.rights.iter().try_fold(Rights::default(), |rights, text| match Right::parse(text) {
            Some(right) if self.name == ANONYMOUS && !right.is_for_anonymous() => Err(RightsError::Anonymous(right)),
            Some(right) => Ok(rights.with(right)),
            None => Err(RightsError::Unknown { client: shown(&self.name), right: shown(text) }),
        })
    }
}

fn list(text: &str) -> Result<List, RightsError> {
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_depth: MAX_DEPTH,
            max_documents: 1,
            // Nobody needs aliases here, and a few bytes of them stand for many entries.
            max_aliases: 0,
        },
        with_snippet: false,
    };
    let malformed = |error: serde_yaml::Error| {
        RightsError::Malformed(error.without_snippet().to_string().replace('\n', " ").chars().take(256).collect())
    };
    serde_yaml::from_str_with_options(text, options).map_err(malformed)
}

impl ClientRights {
    /// Reads a list.
    ///
    /// # Errors
    /// If it can't be used as a whole; then none of it is.
    pub fn parse(text: &[u8]) -> Result<Self, RightsError> {
        if text.len() > MAX_RIGHTS_BYTES {
            return Err(RightsError::TooLarge { bytes: text.len() });
        }
        let text = std::str::from_utf8(text).map_err(|_| RightsError::Malformed("it is not UTF-8".into()))?;
        let clients = list(text)?.clients;
        if clients.len() > MAX_CLIENTS {
            return Err(RightsError::TooMany { clients: clients.len() });
        }
        let mut all = HashMap::with_capacity(clients.len());
        for entry in clients {
            if entry.name != ANY && !is_name(&entry.name) {
                return Err(RightsError::Name(shown(&entry.name)));
            }
            let rights = entry.rights()?;
            if all.contains_key(&entry.name) {
                return Err(RightsError::Twice(shown(&entry.name)));
            }
            all.insert(entry.name, rights);
        }
        let any = all.remove(ANY).unwrap_or_default();
        let anonymous = all.remove(ANONYMOUS).unwrap_or_default();
        Ok(Self { named: all, any, anonymous })
    }

    /// Returns the rights of a client. Those of anonymous clients are everybody's.
    pub fn of(&self, client: Client<'_>) -> Rights {
        match client {
            Client::Anonymous => self.anonymous,
            Client::Token => self.any.and(self.anonymous),
            Client::Named(name) => self.named.get(name).copied().unwrap_or_default().and(self.any).and(self.anonymous),
        }
    }

    /// Returns whether a client has a right.
    pub fn allow(&self, client: Client<'_>, right: Right) -> bool {
        self.of(client).contains(right)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<ClientRights, RightsError> {
        ClientRights::parse(text.as_bytes())
    }

    fn allowed(rights: &ClientRights, client: Client<'_>) -> Vec<Right> {
        Right::ALL.into_iter().filter(|right| rights.allow(client, *right)).collect()
    }

    #[test]
    fn a_client_has_the_rights_of_all_entries_that_it_comes_under() {
        let rights = parse(
            "clients:\n\
             - name: ann\n  rights: [submit, vote]\n\
             - {name: root, rights: [admin, admin]}\n\
             - {name: \"*\", rights: [message]}\n\
             - {name: anonymous, rights: [read]}\n",
        )
        .unwrap();
        use Right::{Admin, Message, Read, Submit, Vote};
        for (client, expected) in [
            (Client::Named("ann"), vec![Submit, Read, Vote, Message]),
            (Client::Named("root"), vec![Read, Message, Admin]),
            (Client::Named("bob"), vec![Read, Message]),
            // No names of entries, but of clients.
            (Client::Named("anonymous"), vec![Read, Message]),
            (Client::Named("*"), vec![Read, Message]),
            (Client::Token, vec![Read, Message]),
            (Client::Anonymous, vec![Read]),
        ] {
            assert_eq!(allowed(&rights, client), expected, "{client:?}");
        }
    }

    #[test]
    fn who_is_in_no_entry_may_do_nothing() {
        for text in ["clients: []", "clients: [{name: ann, rights: []}]", "{}", r#"{"clients":[]}"#] {
            let rights = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            for client in [Client::Anonymous, Client::Named("ann"), Client::Named("")] {
                assert_eq!(allowed(&rights, client), [], "{text}");
            }
        }
    }

    #[test]
    fn every_right_is_written_and_read_again() {
        for right in Right::ALL {
            assert_eq!(Right::parse(&right.to_string()), Some(right));
            let named = parse(&format!("clients: [{{name: ann, rights: [{right}]}}]")).unwrap();
            assert_eq!(allowed(&named, Client::Named("ann")), [right]);
            let anonymous = parse(&format!("clients: [{{name: anonymous, rights: [{right}]}}]"));
            match matches!(right, Right::Submit | Right::Read) {
                true => assert_eq!(allowed(&anonymous.unwrap(), Client::Anonymous), [right]),
                false => assert_eq!(anonymous, Err(RightsError::Anonymous(right))),
            }
        }
    }

    #[test]
    fn a_wrong_list_is_refused_with_what_is_wrong() {
        let unknown = |right: &str| RightsError::Unknown { client: "ann".into(), right: right.into() };
        for (text, expected) in [
            ("clients: [{name: ann, rights: [Submit]}]", unknown("Submit")),
            ("clients: [{name: ann, rights: [\"*\"]}]", unknown("*")),
            ("clients: [{name: ann, rights: []}, {name: ann, rights: []}]", RightsError::Twice("ann".into())),
            ("clients: [{name: '*', rights: []}, {name: '*', rights: []}]", RightsError::Twice("*".into())),
            ("clients: [{name: '', rights: []}]", RightsError::Name(String::new())),
            ("clients: [{name: 'a b', rights: []}]", RightsError::Name("a b".into())),
            ("clients: [{name: 'ann@x', rights: []}]", RightsError::Name("ann@x".into())),
            ("clients: [{name: 'é', rights: []}]", RightsError::Name("é".into())),
            ("clients: [{name: '..', rights: []}]", RightsError::Name("..".into())),
        ] {
            assert_eq!(parse(text), Err(expected), "{text}");
        }
        for text in [
            "clients",
            "[]",
            "clients: 1",
            "clients: [{name: ann}]",
            "clients: [{rights: [read]}]",
            "clients: [{name: ann, rights: read}]",
            "clients: [{name: ann, rights: [], more: 1}]",
            "client: []",
            "clients: [}",
            "clients: []\nclients: []",
            "clients: []\n---\nclients: []",
            "clients: &all [{name: ann, rights: &r [read]}, {name: bob, rights: *r}]",
        ] {
            assert!(matches!(parse(text), Err(RightsError::Malformed(_))), "{text}: {:?}", parse(text));
        }
        assert!(matches!(ClientRights::parse(b"clients: [\xff]"), Err(RightsError::Malformed(_))));
        let nested = format!("clients: {}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(parse(&nested), Err(RightsError::Malformed(_))));
    }

    #[test]
    fn names_entries_and_bytes_are_bounded() {
        let named = |bytes: usize| parse(&format!("clients: [{{name: {}, rights: [read]}}]", "a".repeat(bytes)));
        assert!(named(MAX_NAME_BYTES).unwrap().allow(Client::Named(&"a".repeat(MAX_NAME_BYTES)), Right::Read));
        assert_eq!(named(MAX_NAME_BYTES + 1), Err(RightsError::Name("a".repeat(MAX_SHOWN))));

        let many = |clients: usize| {
            let all =
                (0..clients).map(|n| format!("- {{name: client-{n}, rights: [submit, read, vote, message, admin]}}\n"));
            format!("clients:\n{}", all.collect::<String>())
        };
        let most = many(MAX_CLIENTS);
        assert!(most.len() < MAX_RIGHTS_BYTES, "{}", most.len());
        assert!(parse(&most).unwrap().allow(Client::Named("client-9999"), Right::Admin));
        assert_eq!(parse(&many(MAX_CLIENTS + 1)), Err(RightsError::TooMany { clients: MAX_CLIENTS + 1 }));

        let mut text = many(1);
        text.push_str(&"\n".repeat(MAX_RIGHTS_BYTES - text.len()));
        assert!(parse(&text).unwrap().allow(Client::Named("client-0"), Right::Vote));
        text.push('\n');
        assert_eq!(parse(&text), Err(RightsError::TooLarge { bytes: MAX_RIGHTS_BYTES + 1 }));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..400), words in "[a-z:*&\\-\\[\\]{}, \n\"']{0,200}") {
            let _ = (ClientRights::parse(&text), parse(&words), parse(&format!("clients: {words}")));
        }
    }
}
