//! Who votes: the members that the addresses of a ballot stand for when it is opened.

use std::collections::BTreeMap;

use ring::digest::{Context, SHA256};
use robeing_fleet::{
    BallotId, Elector, LetterId,
    limits::{MAX_ELECTORS, MAX_NAME_BYTES, MAX_VOTE_WEIGHT},
};
use robeing_proto::v1;

use super::{BallotError, Ballots};
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
    pub(super) async fn electors(
        &self,
        ballot: BallotId,
        addressed: &[Addressed],
    ) -> Result<Vec<Elector>, BallotError> {
        let mut electors: BTreeMap<String, Elector> = BTreeMap::new();
        for addressed in addressed {
            for (name, letter) in self.members(ballot, addressed).await? {
                electors.entry(name.clone()).or_insert(Elector { name, weight: addressed.weight, letter });
                if electors.len() > MAX_ELECTORS {
                    return Err(BallotError::TooManyElectors { most: MAX_ELECTORS });
                }
            }
        }
        Ok(electors.into_values().collect())
    }

    /// Returns the members that an address stands for: of each its name and, if it is an agent, the id of its notice.
    async fn members(
        &self,
        ballot: BallotId,
        addressed: &Addressed,
    ) -> Result<Vec<(String, Option<LetterId>)>, BallotError> {
        let nobody = |reason: String| BallotError::Nobody { address: addressed.text.clone(), reason };
        let address = match &addressed.members {
            Members::Client(name) => return Ok(vec![(name.clone(), None)]),
            Members::Agents(address) => address,
        };
        // Nobody is left out as the sender of the notices, not even who opens the ballot.
        let resolver = Resolver { state: &self.state, sender: "", is_durable: true };
        let found = resolver.all(address, LetterId(ballot.0)).await?;
        let agents = found.map_err(|missing| nobody(missing.reason))?;
        if agents.is_empty() {
            return Err(nobody("the fleet has no active agent that fits it".to_owned()));
        }
        Ok(agents.iter().map(|agent| ((**agent).to_owned(), Some(notice_id(ballot, agent)))).collect())
    }
}

/// Returns the id of the letter that tells an agent of a ballot: always the same, so that a ballot that is opened again
/// tells nobody twice.
fn notice_id(ballot: BallotId, agent: &str) -> LetterId {
    let mut context = Context::new(&SHA256);
    context.update(NOTICE);
    context.update(&ballot.0.to_be_bytes());
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
        let of = |ballot, agent| notice_id(BallotId(ballot), agent);
        assert_eq!(of(1, "a"), of(1, "a"));
        assert_ne!(of(1, "a"), of(1, "b"));
        assert_ne!(of(1, "a"), of(2, "a"));
    }
}
