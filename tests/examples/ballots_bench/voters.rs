//! The members of the ballots. They vote alike at the fleet and at etcd, and their connections have the same certificates.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use bytes::Bytes;
use prost::Message;
use robeing_client::{ClientIdentity, Security, new_ballot_id};
use robeing_identity::{
    Authority, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest, SpiffeId, certificate_pem, files,
};
use robeing_platform::Platform;
use robeing_proto::v1::{CastVoteRequest, ElectorAddress, OpenBallotRequest, VoteChoice};
use robeing_settings::{DEFAULT_NAMESPACE, DEFAULT_TRUST_DOMAIN};
use robeing_votes::{Choice, KeyBinding, VoteStatement, VotingKey, member_name};
use uuid::Uuid;

/// The number of members of each ballot.
pub const VOTERS: usize = 5;
/// The name of the fleet.
pub const CLUSTER: &str = "bench";
/// The folder of the fleet's identities in its data directory.
const IDENTITY: &str = "identity";
const QUESTION: &str = "Does the new version replace the old one?";
/// Every vote counts: the ballot is open until the last one.
const THRESHOLD: &str = "1/1";
/// Seconds until a ballot expires; longer than a run.
const DEADLINE_SECONDS: i64 = 600;

/// The authority of a fleet with TLS.
pub struct FleetAuthority {
    authority: Authority,
    realm: Realm,
}

/// A certificate with its key.
pub struct Certified {
    id: SpiffeId,
    /// DER.
    certificate: Bytes,
    key: PrivateKey,
}

impl FleetAuthority {
    /// Reads the authority of the fleet with this data directory.
    ///
    /// # Errors
    /// If the fleet has none.
    pub fn read(data: &Path) -> Result<Self> {
        let read = |name: &str| {
            let file = data.join(IDENTITY).join(name);
            fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))
        };
        let authority = Authority::from_pem(&read(files::CERTIFICATE)?, &read(files::KEY)?)?;
        Ok(Self { authority, realm: Realm::new(DEFAULT_TRUST_DOMAIN, DEFAULT_NAMESPACE, CLUSTER)? })
    }

    /// Returns the authority's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// Certifies a new key.
    ///
    /// # Errors
    /// If the key or the certificate can't be made.
    pub fn certify(&self, role: PeerRole, name: &str, hosts: &[String]) -> Result<Certified> {
        let key = PrivateKey::generate()?;
        let request = SigningRequest::from_der(&key.request()?)?;
        let id = self.realm.member(role, name)?;
        let now = Platform::real().clock.unix_millis();
        let issued = self.authority.issue(&request, &id, hosts, now, LEAF_LIFETIME)?;
        Ok(Certified { id, certificate: Bytes::copy_from_slice(&issued.certificate), key })
    }
}

impl Certified {
    /// Returns the certificate and the key, PEM.
    pub fn to_pem(&self) -> (String, String) {
        (certificate_pem(&self.certificate), self.key.to_pem())
    }
}

/// A member of the ballots.
pub struct Voter {
    /// `client:NAME`.
    name: String,
    /// How the member connects.
    security: Security,
    /// A vote with everything that proves it, if the member signs: what is written to etcd.
    written: Bytes,
}

impl Voter {
    /// Creates all members: with certificates if there is an authority.
    ///
    /// # Errors
    /// If their certificates can't be made.
    pub fn all(authority: Option<&FleetAuthority>) -> Result<Vec<Self>> {
        let voter = |number: usize| {
            let name = format!("voter-{number}");
            match authority {
                Some(authority) => Self::certified(authority, &name),
                None => Ok(Self::plain(&name)),
            }
        };
        (0..VOTERS).map(voter).collect()
    }

    fn plain(name: &str) -> Self {
        let name = format!("client:{name}");
        let vote = CastVoteRequest { member: name.clone(), ..approval(&new_ballot_id()) };
        Self { name, security: Security::plain(), written: vote.encode_to_vec().into() }
    }

    fn certified(authority: &FleetAuthority, name: &str) -> Result<Self> {
        let own = authority.certify(PeerRole::Client, name, &[])?;
        let identity = ClientIdentity {
            cluster: CLUSTER.to_owned(),
            trust: authority.certificate_pem().to_owned(),
            certificate: Some(own.to_pem()),
            token: None,
        };
        let member = member_name(&own.id).context("a client has no name as a member")?;
        let (key, fleet, ballot) = (VotingKey::generate()?, authority.realm.to_string(), new_ballot_id());
        let statement = VoteStatement {
            fleet: fleet.clone(),
            ballot: Uuid::try_parse(&ballot)?.into_bytes(),
            digest: [7; 32],
            member: member.clone(),
            choice: Choice::Approve.number(),
            option: 0,
            reason: String::new(),
        };
        let vote = CastVoteRequest {
            envelope: key.sign(&statement).to_bytes(),
            binding: KeyBinding::make(&fleet, &member, &key, &own.key)?.to_bytes(),
            certificate: own.certificate,
            ..approval(&ballot)
        };
        let (security, written) = (Security::with_identity(&identity)?, vote.encode_to_vec().into());
        Ok(Self { name: member, security, written })
    }

    /// Returns how the member connects.
    pub fn security(&self) -> &Security {
        &self.security
    }

    /// Returns the member's vote in a ballot. Who has a certificate need not say who it is, and signs it when it is cast.
    pub fn vote(&self, ballot: &str) -> CastVoteRequest {
        let member = if self.security.tls().is_some() { String::new() } else { self.name.clone() };
        CastVoteRequest { member, ..approval(ballot) }
    }

    /// Returns a vote of the member as it is written to etcd. It was signed once, for no ballot: nobody looks at it, so
    /// that no client of etcd spends time on signatures.
    pub fn written(&self) -> Bytes {
        self.written.clone()
    }
}

fn approval(ballot: &str) -> CastVoteRequest {
    let choice = VoteChoice::Approve.into();
    CastVoteRequest { ballot: ballot.to_owned(), choice, ..CastVoteRequest::default() }
}

/// Returns a ballot of these members.
pub fn opening(id: &str, voters: &[Voter]) -> OpenBallotRequest {
    let address = |voter: &Voter| ElectorAddress { address: voter.name.clone(), weight: 1 };
    OpenBallotRequest {
        id: id.to_owned(),
        question: QUESTION.to_owned(),
        electorate: voters.iter().map(address).collect(),
        threshold: THRESHOLD.to_owned(),
        deadline: Some(prost_types::Duration { seconds: DEADLINE_SECONDS, nanos: 0 }),
        ..OpenBallotRequest::default()
    }
}
