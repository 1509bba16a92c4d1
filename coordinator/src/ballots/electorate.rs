//! Who votes: the members that the addresses of a ballot stand for when it is opened.

use std::collections::BTreeMap;

use ring::digest::{Context, SHA256};
use robeing_fleet::{
    BallotId, Elector, LetterId,
    limits::{MAX_ELECTORS, MAX_NAME_BYTES, MAX_VOTE_WEIGHT},
};
use robeing_proto::v1;

use super::{BallotError, Ballots, evidence::Verifying};
use crate::{
    api::convert::{self, BadField},
    mail::address::{Address, Resolver},
};

/// Maximum number of addresses of an electorate.
pub const MAX_ADDRESSES: usize = MAX_ELECTORS;
/// Begins the names of members that are users.
const CLIENT: &str = "client:";
/// The weight of a member whose address gives none.
const DEFAULT_WEIGHT: u32 = 1;
/// Separates the ids of notices from other uses of the digest.
const NOTICE: &[u8] = b"robeing ballot\0";
/// Separates the digests of addresses from other uses of the digest.
const ASKED: &[u8] = b"robeing electorate\0";

/// A member that addresses stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// An agent's name, or `client:NAME`.
    pub name: String,
    pub weight: u32,
    /// Whether it is an agent, which gets a notice.
    pub is_agent: bool,
    /// Whether only a signed vote counts for it.
    pub signs: bool,
}

impl Member {
    /// Returns the member as it is in a ballot with this digest.
    pub fn elector(self, ballot: BallotId, digest: &[u8; 32]) -> Elector {
        let Self { name, weight, is_agent, signs } = self;
        let letter = is_agent.then(|| notice_id(ballot, digest, &name));
        Elector { name, weight, letter, signs }
    }
}

/// Members of an electorate, as a caller has addressed them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressed {
    /// The address, as the caller has written it.
    text: String,
    members: Members,
    /// The weight of each.
    weight: u32,
}

/// Whom an address stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Members {
    /// The user of this name, with `client:` before it.
    Client(String),
    /// Agents.
    Agents(Address),
}

impl Addressed {
    /// Checks the addresses of an electorate.
    ///
    /// # Errors
    /// The first one that is invalid, or that there are too many, or none.
    pub fn check_all(addresses: Vec<v1::ElectorAddress>) -> Result<Vec<Self>, BadField> {
        if !(1..=MAX_ADDRESSES).contains(&addresses.len()) {
            let problem = format!("it has {} addresses, must have 1 to {MAX_ADDRESSES}", addresses.len());
            return Err(convert::bad("electorate", problem));
        }
        addresses.into_iter().map(Self::check).collect()
    }

    /// Returns the digest of addresses and their weights, as they are written.
    pub fn digest(all: &[Self]) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        context.update(ASKED);
        for Self { text, weight, members: _ } in all {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
            context.update(&weight.to_be_bytes());
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    /// Returns whether it stands for agents, and not for a user.
    pub fn names_agents(&self) -> bool {
        matches!(self.members, Members::Agents(_))
    }

    fn check(v1::ElectorAddress { address, weight }: v1::ElectorAddress) -> Result<Self, BadField> {
        let members = Members::parse(&address).map_err(|problem| convert::bad("electorate", problem))?;
        let weight = if weight == 0 { DEFAULT_WEIGHT } else { weight };
        if weight > MAX_VOTE_WEIGHT {
            let problem = format!("the weight of {address:?} is {weight}, must be 1 to {MAX_VOTE_WEIGHT}");
            return Err(convert::bad("electorate", problem));
        }
        Ok(Self { text: address, members, weight })
    }
}

impl Members {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix(CLIENT) {
            let is_odd = |c: char| c.is_control() || c.is_whitespace();
            if name.is_empty() || text.len() > MAX_NAME_BYTES || name.contains(is_odd) {
                return Err(format!(
                    "{:?} names no user: write {CLIENT}NAME, of at most {MAX_NAME_BYTES} bytes without spaces",
                    convert::excerpt(text)
                ));
            }
            return Ok(Self::Client(text.to_owned()));
        }
        match Address::parse(text)? {
            Address::Role(None) => Err("coordinators have no vote; name agents or users".to_owned()),
            address => Ok(Self::Agents(address)),
        }
    }
}

impl Ballots {
    /// Returns the members that these addresses stand for, ascending by name.
    ///
    /// # Errors
    /// [`BallotError`] if an address stands for nobody, or all together for too many.
    pub(super) async fn electors(&self, ballot: BallotId, addressed: &[Addressed]) -> Result<Vec<Member>, BallotError> {
        let mut electors: BTreeMap<String, Member> = BTreeMap::new();
        for addressed in addressed {
            for member in self.members(ballot, addressed).await? {
                electors.entry(member.name.clone()).or_insert(member);
                if electors.len() > MAX_ELECTORS {
                    return Err(BallotError::TooManyElectors { most: MAX_ELECTORS });
                }
            }
        }
        Ok(electors.into_values().collect())
    }

    /// Returns the members that an address stands for.
    async fn members(&self, ballot: BallotId, addressed: &Addressed) -> Result<Vec<Member>, BallotError> {
        let nobody = |reason: String| BallotError::Nobody { address: addressed.text.clone(), reason };
        let weight = addressed.weight;
        let address = match &addressed.members {
            // Whether a user has a certificate or a token, nobody knows before it votes.
            Members::Client(name) => {
                return Ok(vec![Member { name: name.clone(), weight, is_agent: false, signs: false }]);
            }
            Members::Agents(address) => address,
        };
        // Nobody is left out as the sender of the notices, not even who opens the ballot.
        let resolver = Resolver { state: &self.state, sender: "", is_durable: true };
        let found = resolver.all(address, LetterId(ballot.0)).await?;
        let agents = found.map_err(|missing| nobody(missing.reason))?;
        if agents.is_empty() {
            return Err(nobody("the fleet has no active agent that fits it".to_owned()));
        }
        let member = |name: &str| {
            let signs = self.has_certificate(name);
            Member { name: name.to_owned(), weight, is_agent: true, signs }
        };
        Ok(agents.iter().map(|agent| member(agent)).collect())
    }

    /// Returns whether an agent has a certificate, so that it signs its votes: all have one where TLS is strict, and
    /// else those that have enrolled.
    pub(super) fn has_certificate(&self, agent: &str) -> bool {
        let Some(Verifying { is_strict, .. }) = &self.verifying else { return false };
        *is_strict || self.state.look(|fleet| fleet.enrolment_of(agent).is_some())
    }
}

/// Returns the id of the letter that tells an agent of a ballot with this digest: always the same, so that a ballot
/// that is opened again tells nobody twice; and only who knows all of the ballot can take the id for another letter.
fn notice_id(ballot: BallotId, digest: &[u8; 32], agent: &str) -> LetterId {
    let mut context = Context::new(&SHA256);
    context.update(NOTICE);
    context.update(&ballot.0.to_be_bytes());
    context.update(digest);
    context.update(agent.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&context.finish().as_ref()[..16]);
    LetterId(uuid::Builder::from_custom_bytes(bytes).into_uuid().as_u128())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, weight: u32) -> Result<Addressed, String> {
        let address = v1::ElectorAddress { address: address.to_owned(), weight };
        Addressed::check(address).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_are_those_of_messages_and_users_but_no_coordinators() {
        for good in ["a", "agent:everyone", "role:worker", "pool:data", "skill:ocr", "team:t", "everyone"] {
            let addressed = check(good, 0).expect(good);
            assert!(matches!(addressed.members, Members::Agents(_)), "{good}");
            assert_eq!(addressed.weight, 1);
        }
        for user in ["client:ann", "client:system:serviceaccount:default:s"] {
            assert_eq!(check(user, 0).expect(user).members, Members::Client(user.to_owned()));
        }
        let long = format!("client:{}", "n".repeat(MAX_NAME_BYTES - "client:".len()));
        assert!(check(&long, 1).is_ok());
        for bad in ["", "client:", "client:a b", "role:coordinator", "group:x", &format!("{long}n")] {
            let problem = check(bad, 1).expect_err(bad);
            assert!(problem.starts_with("electorate: "), "{problem}");
        }
    }

    #[test]
    fn weights_and_addresses_have_their_limits() {
        assert!(check("a", MAX_VOTE_WEIGHT).is_ok());
        assert!(check("a", MAX_VOTE_WEIGHT + 1).is_err());
        let of = |count: usize| {
            let address = v1::ElectorAddress { address: "a".into(), weight: 1 };
            Addressed::check_all(vec![address; count]).map(|all| all.len()).ok()
        };
        assert_eq!([0, 1, MAX_ADDRESSES, MAX_ADDRESSES + 1].map(of), [None, Some(1), Some(MAX_ADDRESSES), None]);
    }

    #[test]
    fn each_agent_has_a_notice_of_its_own_for_each_ballot_and_always_the_same() {
        let of = |ballot, digest, agent| notice_id(BallotId(ballot), &[digest; 32], agent);
        assert_eq!(of(1, 1, "a"), of(1, 1, "a"));
        assert_ne!(of(1, 1, "a"), of(1, 1, "b"));
        assert_ne!(of(1, 1, "a"), of(2, 1, "a"));
        assert_ne!(of(1, 1, "a"), of(1, 2, "a"), "who knows the ballot's id alone can't compute it");
    }

    #[test]
    fn what_is_asked_differs_by_each_address_its_weight_and_their_order() {
        let of = |all: &[(&str, u32)]| {
            let addressed = all.iter().map(|(address, weight)| check(address, *weight).expect("an address"));
            Addressed::digest(&addressed.collect::<Vec<_>>())
        };
        let digests = [
            of(&[("a", 1), ("b", 2)]),
            of(&[("a", 1), ("b", 3)]),
            of(&[("b", 2), ("a", 1)]),
            of(&[("a", 1)]),
            of(&[("agent:a", 1), ("b", 2)]),
        ];
        for (n, digest) in digests.iter().enumerate() {
            assert!(!digests[..n].contains(digest), "{n}");
        }
        assert_eq!(of(&[("a", 0)]), of(&[("a", 1)]), "that is the weight if none is given");
    }
}
