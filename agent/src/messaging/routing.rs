//! Addresses, and the agents that they stand for. Pure: an address is resolved against a [`Snapshot`] of the
//! fleet's agents.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use robeing_identity::PeerRole;
use robeing_settings::AgentRole;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    packet::{MAX_ADDRESS, MAX_NAME},
    sealing::SealingKey,
};

/// The role of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A coordinator.
    Coordinator,
    /// A worker.
    Worker,
    /// A specialist.
    Specialist,
    /// A messenger, which may pass on messages of others.
    Messenger,
    /// A guardian.
    Guardian,
}

impl Role {
    /// Returns the role's name in addresses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Worker => "worker",
            Self::Specialist => "specialist",
            Self::Messenger => "messenger",
            Self::Guardian => "guardian",
        }
    }

    /// Returns the role in an agent's settings.
    pub fn configured(role: AgentRole) -> Self {
        match role {
            AgentRole::Worker => Self::Worker,
            AgentRole::Specialist => Self::Specialist,
            AgentRole::Messenger => Self::Messenger,
            AgentRole::Guardian => Self::Guardian,
        }
    }

    /// Returns the role in a certificate; `None` if it is not that of an agent.
    pub fn of(role: PeerRole) -> Option<Self> {
        match role {
            PeerRole::Worker => Some(Self::Worker),
            PeerRole::Specialist => Some(Self::Specialist),
            PeerRole::Messenger => Some(Self::Messenger),
            PeerRole::Guardian => Some(Self::Guardian),
            PeerRole::Coordinator | PeerRole::Client | PeerRole::Operator => None,
        }
    }

    /// Returns the role of this name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Coordinator, Self::Worker, Self::Specialist, Self::Messenger, Self::Guardian]
            .into_iter()
            .find(|role| role.name().eq_ignore_ascii_case(name))
    }
}

/// Whether an agent can be sent messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is in the fleet, and takes part in its work.
    Active,
    /// It is in the fleet as a spare: it gets messages by its name, and no others, until it takes another's place.
    Standby,
    /// It is in the fleet, but leaves: it gets messages by its name, and no others.
    Leaving,
    /// It is gone.
    Away,
}

/// An agent of the fleet, as the directory knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: Arc<str>,
    /// Its role.
    pub role: Role,
    /// Its pool; empty: none.
    pub pool: Arc<str>,
    /// Its skills.
    pub skills: BTreeSet<Arc<str>>,
    /// Where it listens, host:port.
    pub address: Arc<str>,
    /// Whether it can be sent messages.
    pub presence: Presence,
    /// How well it does, 0 to 1: among the agents with a skill the best one is chosen.
    pub score: f64,
    /// Its SPIFFE id; empty: none.
    pub spiffe_id: Arc<str>,
    /// The key for payloads that only it can read.
    pub sealing_key: Option<SealingKey>,
    /// The id of its team; empty: none.
    pub team: Arc<str>,
}

/// The agents of the fleet at one time, by name.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    entries: BTreeMap<Arc<str>, Arc<Entry>>,
}

impl Snapshot {
    /// Returns the agent of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(name)
    }

    /// Returns the number of agents, also of those that are gone.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are no agents.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an agent, or replaces what was known of it.
    pub fn insert(&mut self, entry: Arc<Entry>) {
        self.entries.insert(Arc::clone(&entry.name), entry);
    }

    /// Removes the agent of this name, if there is one.
    pub fn remove(&mut self, name: &str) {
        self.entries.remove(name);
    }

    /// Returns the active members of the team of this id, sorted by name.
    pub fn members<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.active().filter(move |entry| *entry.team == *id)
    }

    /// Returns whether an agent is in the team of this id.
    pub fn has_team(&self, id: &str) -> bool {
        self.entries.values().any(|entry| *entry.team == *id)
    }

    /// Returns the active agents, sorted by name.
    pub fn active(&self) -> impl Iterator<Item = &Arc<Entry>> + Clone {
        self.entries.values().filter(|entry| entry.presence == Presence::Active)
    }

    /// Returns the messengers that are active or on standby, sorted by name. Those on standby do for other agents what the
    /// active ones do: they are spares for tasks alone.
    pub fn messengers(&self) -> impl Iterator<Item = &Arc<Entry>> + Clone {
        let is_there = |entry: &Entry| matches!(entry.presence, Presence::Active | Presence::Standby);
        self.entries.values().filter(move |entry| entry.role == Role::Messenger && is_there(entry))
    }
}

impl FromIterator<Entry> for Snapshot {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        Self { entries: entries.into_iter().map(|entry| (Arc::clone(&entry.name), Arc::new(entry))).collect() }
    }
}

/// What knows the agents of the fleet.
pub trait Directory: Send + Sync + 'static {
    /// Returns the agents as they are known now.
    fn snapshot(&self) -> Arc<Snapshot>;

    /// Watches the number of changes so far. `None`: whoever uses the directory looks at it when it needs it.
    fn changes(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The agent of this name.
    Agent(Arc<str>),
    /// One of the best active agents of this role.
    Role(Role),
    /// One of the best active agents of this pool.
    Pool(Arc<str>),
    /// One of the best active agents with this skill.
    Skill(Arc<str>),
    /// All members of this team.
    Team(Arc<str>),
    /// All active agents but the sender.
    Everyone,
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is empty, too long, or has a character that no name has.
    #[error(
        "{0:?} is not an address: write a NAME, agent:NAME, role:ROLE, pool:NAME, skill:NAME, team:ID or everyone, with \
         names of 1 to {MAX_NAME} bytes without spaces"
    )]
    Malformed(String),
    /// It names a role that does not exist.
    #[error("{0:?} is no role: write coordinator, worker, specialist, messenger or guardian")]
    NoSuchRole(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let malformed = || AddressError::Malformed(text.chars().take(MAX_ADDRESS).collect());
        let (kind, name) = text.split_once(':').unwrap_or(("agent", text));
        let is_name = |c: char| !c.is_control() && !c.is_whitespace() && c != ':';
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_name) {
            return Err(malformed());
        }
        Ok(match kind {
            _ if text == "everyone" => Self::Everyone,
            "agent" => Self::Agent(name.into()),
            "role" => Self::Role(Role::named(name).ok_or_else(|| AddressError::NoSuchRole(name.into()))?),
            "pool" => Self::Pool(name.into()),
            "skill" => Self::Skill(name.into()),
            // In the form in which the directory has it.
            "team" => Self::Team(Uuid::try_parse(name).map_or_else(|_| name.into(), |id| id.to_string().into())),
            _ => return Err(malformed()),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(name) => write!(f, "agent:{name}"),
            Self::Role(role) => write!(f, "role:{}", role.name()),
            Self::Pool(name) => write!(f, "pool:{name}"),
            Self::Skill(name) => write!(f, "skill:{name}"),
            Self::Team(id) => write!(f, "team:{id}"),
            Self::Everyone => f.write_str("everyone"),
        }
    }
}

/// Why an address stands for no agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// There is none.
    #[error("{0}")]
    NoSuchAgent(String),
    /// There is one, but it is gone.
    #[error("the agent {0:?} is not in the fleet now; send it a durable message, or send this one again later")]
    Away(Arc<str>),
    /// The address stands for many.
    #[error("{0} stands for several agents; broadcast to it instead")]
    Several(String),
}

impl Address {
    /// Returns whether this text is how the address is written.
    pub fn is_written(&self, text: &str) -> bool {
        match self {
            // Most messages have such an address.
            Self::Agent(name) => text.strip_prefix("agent:") == Some(name),
            other => other.to_string() == text,
        }
    }

    /// Returns whether the address stands for any number of agents, so that only broadcasts go to it.
    pub fn is_group(&self) -> bool {
        matches!(self, Self::Team(_) | Self::Everyone)
    }

    /// Returns the one agent that a message from `sender` goes to. If several fit equally well, `spread` decides, which
    /// may be any number: messages with different ones are spread evenly.
    ///
    /// # Errors
    /// [`Unresolved`] if there is none, or the address stands for a group.
    pub fn resolve_one(&self, snapshot: &Snapshot, sender: &str, spread: u64) -> Result<Arc<Entry>, Unresolved> {
        match self {
            Self::Agent(name) => match snapshot.get(name) {
                Some(entry) if entry.presence == Presence::Away => Err(Unresolved::Away(Arc::clone(name))),
                Some(entry) => Ok(Arc::clone(entry)),
                None => Err(Unresolved::NoSuchAgent(format!(
                    "the fleet has no agent {name:?}; `robeing agents` lists those it has"
                ))),
            },
            Self::Team(id) if !snapshot.has_team(id) => Err(no_team(id)),
            Self::Team(_) | Self::Everyone => Err(Unresolved::Several(self.to_string())),
            Self::Role(_) | Self::Pool(_) | Self::Skill(_) => {
                let fitting = snapshot.active().filter(|entry| self.fits(entry) && &*entry.name != sender);
                best(fitting, spread).cloned().ok_or_else(|| {
                    Unresolved::NoSuchAgent(format!(
                        "no other active agent of the fleet fits {self}; agents on standby and those that leave get \
                         messages by their names alone"
                    ))
                })
            }
        }
    }

    /// Returns all agents that a broadcast from `sender` goes to, sorted by name: the active ones that fit, without the
    /// sender.
    ///
    /// # Errors
    /// [`Unresolved`] if the address names an agent or a team that does not exist.
    pub fn resolve_all(&self, snapshot: &Snapshot, sender: &str) -> Result<Vec<Arc<Entry>>, Unresolved> {
        match self {
            Self::Agent(_) => Ok(vec![self.resolve_one(snapshot, sender, 0)?]),
            Self::Team(id) if !snapshot.has_team(id) => Err(no_team(id)),
            _ => {
                let fitting = snapshot.active().filter(|entry| self.fits(entry) && &*entry.name != sender);
                Ok(fitting.cloned().collect())
            }
        }
    }

    fn fits(&self, entry: &Entry) -> bool {
        match self {
            Self::Agent(name) => entry.name == *name,
            Self::Role(role) => entry.role == *role,
            Self::Pool(pool) => entry.pool == *pool,
            Self::Skill(skill) => entry.skills.contains(skill),
            Self::Team(id) => entry.team == *id,
            Self::Everyone => true,
        }
    }
}

fn no_team(id: &str) -> Unresolved {
    Unresolved::NoSuchAgent(format!("the fleet has no team {id:?}"))
}

/// Returns one of the agents with the highest score, by `spread`. A score that is no number is the lowest.
fn best<'a>(entries: impl Iterator<Item = &'a Arc<Entry>> + Clone, spread: u64) -> Option<&'a Arc<Entry>> {
    let score = |entry: &Entry| if entry.score.is_nan() { f64::NEG_INFINITY } else { entry.score };
    let (highest, equals) = entries.clone().fold((f64::NEG_INFINITY, 0), |(highest, equals), entry| {
        match score(entry).total_cmp(&highest) {
            Ordering::Greater => (score(entry), 1),
            Ordering::Equal => (highest, equals + 1),
            Ordering::Less => (highest, equals),
        }
    });
    let chosen = usize::try_from(spread.checked_rem(equals)?).ok()?;
    entries.filter(|entry| score(entry) == highest).nth(chosen)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::messaging::tests::fixture::entry;

    fn fleet() -> Snapshot {
        Snapshot::from_iter([
            entry("a", 0.2),
            entry("b", 0.9),
            entry("c", 0.9),
            Entry { role: Role::Messenger, pool: "relay".into(), ..entry("m", f64::NAN) },
            Entry { presence: Presence::Away, ..entry("gone", 1.0) },
            Entry { presence: Presence::Leaving, ..entry("old", 1.0) },
            Entry { presence: Presence::Standby, pool: "spare".into(), ..entry("s", 1.0) },
            Entry { presence: Presence::Standby, role: Role::Messenger, ..entry("t", 1.0) },
            Entry { team: "8".into(), ..entry("u", 0.1) },
            Entry { team: "8".into(), ..entry("v", 0.1) },
        ])
    }

    fn one(address: &str, sender: &str) -> Result<String, Unresolved> {
        let address: Address = address.parse().expect(address);
        address.resolve_one(&fleet(), sender, 0).map(|entry| (*entry.name).to_owned())
    }

    #[test]
    fn an_address_of_one_agent_goes_to_the_best_that_fits() {
        for (address, sender, expected) in [
            ("a", "b", "a"),
            ("agent:old", "a", "old"),
            ("s", "a", "s"),
            ("role:worker", "a", "b"),
            ("role:WORKER", "b", "c"),
            ("pool:data", "a", "b"),
            ("pool:relay", "a", "m"),
            ("skill:ocr", "b", "c"),
        ] {
            assert_eq!(one(address, sender), Ok(expected.to_owned()), "{address} from {sender}");
        }
        // A pool of spares has nobody to do its work.
        for address in ["nobody", "team:7", "pool:other", "pool:spare", "skill:x", "role:guardian"] {
            assert!(matches!(one(address, "a"), Err(Unresolved::NoSuchAgent(_))), "{address}");
        }
        assert!(matches!(one("role:messenger", "m"), Err(Unresolved::NoSuchAgent(_))), "the sender itself");
        assert_eq!(one("gone", "a"), Err(Unresolved::Away("gone".into())));
        assert!(matches!(one("everyone", "a"), Err(Unresolved::Several(_))));
        assert!(matches!(one("team:8", "a"), Err(Unresolved::Several(_))));
    }

    #[test]
    fn messages_are_spread_over_agents_that_fit_equally_well() {
        let all = Snapshot::from_iter([
            entry("a", 0.2),
            entry("b", 0.9),
            entry("c", 0.9),
            entry("d", 0.9),
            entry("e", f64::NAN),
            entry("f", f64::NAN),
        ]);
        let chosen = |sender: &str, snapshot: &Snapshot| -> String {
            let one = |spread| Address::Role(Role::Worker).resolve_one(snapshot, sender, spread).expect("one fits");
            [0, 1, 2, 3, u64::MAX].map(|spread| one(spread).name.to_string()).concat()
        };
        assert_eq!(chosen("a", &all), "bcdbb");
        assert_eq!(chosen("c", &all), "bdbdd");
        let numberless = Snapshot::from_iter([entry("e", f64::NAN), entry("f", f64::NEG_INFINITY)]);
        assert_eq!(chosen("a", &numberless), "efeff");
    }

    #[test]
    fn a_broadcast_goes_to_all_active_agents_but_the_sender() {
        let all = |address: &str| {
            let address: Address = address.parse().expect(address);
            let found = address.resolve_all(&fleet(), "a").expect("agents");
            found.iter().map(|entry| (*entry.name).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(all("everyone"), ["b", "c", "m", "u", "v"]);
        assert_eq!(all("pool:data"), ["b", "c", "u", "v"]);
        assert_eq!(all("team:8"), ["u", "v"]);
        let team = "0a000000-0000-4000-8000-00000000000b";
        let of_team: Address = format!("team:{{{}}}", team.to_uppercase()).parse().expect("an address");
        assert_eq!(of_team.to_string(), format!("team:{team}"));
        assert_eq!(all("skill:none"), [""; 0]);
        assert_eq!(all("b"), ["b"]);
    }

    #[test]
    fn messengers_on_standby_pass_messages_on_like_others() {
        let all = fleet();
        assert_eq!(all.messengers().map(|entry| &*entry.name).collect::<Vec<_>>(), ["m", "t"]);
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_to_write() {
        for text in ["", "agent:", "x y", "what:ever", "a:b:c", "agent:a\n", &"x".repeat(MAX_NAME + 1)] {
            let refused = text.parse::<Address>().unwrap_err().to_string();
            assert!(refused.contains("write a NAME"), "{refused}");
        }
        assert!("role:king".parse::<Address>().unwrap_err().to_string().contains("write coordinator"));
        assert!("x".repeat(MAX_NAME).parse::<Address>().is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_or_refused_and_an_address_is_read_back(text: String) {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
