//! Votes, bindings of voting keys, and files of ballots.

use bytes::Bytes;
use robeing_identity::{Authority, LEAF_LIFETIME, PeerRole, PrivateKey, SigningRequest};
use robeing_votes::{
    BallotContent, BallotFile, Base64, Choice, Envelope, FILE_VERSION, FileElector, FileEvidence, FileOutcome,
    FileThreshold, FileVote, KeyBinding, VoteStatement, VotingKey, hex,
};

use super::Seed;
use crate::targets::identity::{NOW, realm};

/// The id of the ballots.
const ID: u128 = 1;
/// The member who votes.
const MEMBER: &str = "w-0";

/// Returns an open ballot of two members without votes.
fn empty(options: &[&str]) -> BallotFile {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    let (fleet, question) = (realm().to_string(), "Deploy?".to_owned());
    let content = BallotContent {
        fleet: &fleet,
        id: ID,
        question: &question,
        options: &options,
        electorate: vec![("client:ann", 1), (MEMBER, 2)],
        threshold: (2, 3),
        ttl: 30_000,
    };
    let digest = hex(&content.digest());
    let elector = |(name, weight): &(&str, u32)| FileElector { name: (*name).to_owned(), weight: *weight };
    let electorate = content.electorate.iter().map(elector).collect();
    BallotFile {
        api_version: FILE_VERSION.to_owned(),
        fleet,
        id: "00000000-0000-0000-0000-000000000001".to_owned(),
        question,
        options,
        electorate,
        threshold: FileThreshold { numerator: 2, denominator: 3 },
        ttl_ms: 30_000,
        digest,
        opened_by: "client:ann".to_owned(),
        opened_at_ms: NOW,
        closed_at_ms: None,
        outcome: FileOutcome::Open,
        option: 0,
        votes: Vec::new(),
        authorities: Vec::new(),
    }
}

/// Returns a vote of the member in a ballot, and the binding of its key.
fn signed(file: &BallotFile, option: u32, signer: &PrivateKey) -> (Envelope, KeyBinding) {
    let key = VotingKey::generate().expect("it is made");
    let content = BallotContent {
        fleet: &file.fleet,
        id: ID,
        question: &file.question,
        options: &file.options,
        electorate: file.electorate.iter().map(|elector| (elector.name.as_str(), elector.weight)).collect(),
        threshold: (2, 3),
        ttl: file.ttl_ms,
    };
    let statement = VoteStatement {
        fleet: file.fleet.clone(),
        ballot: ID.to_be_bytes(),
        digest: content.digest(),
        member: MEMBER.to_owned(),
        choice: Choice::Approve.number(),
        option,
        reason: "it is tested".to_owned(),
    };
    let binding = KeyBinding::make(&file.fleet, MEMBER, &key, signer).expect("it is made");
    (key.sign(&statement), binding)
}

/// Returns an approved ballot, with the vote and the binding in it.
fn approved(options: &[&str], option: u32) -> (BallotFile, Envelope, KeyBinding) {
    let authority = Authority::create(&realm(), NOW).expect("it is made");
    let signer = PrivateKey::generate().expect("it is made");
    let request = SigningRequest::from_der(&signer.request().expect("it is made")).expect("it was made");
    let id = realm().member(PeerRole::Worker, MEMBER).expect("a name");
    let issued = authority.issue(&request, &id, &[], NOW, LEAF_LIFETIME).expect("it is issued");
    let mut file = empty(options);
    let (envelope, binding) = signed(&file, option, &signer);
    let evidence = FileEvidence {
        envelope: Base64(envelope.to_bytes()),
        binding: Base64(binding.to_bytes()),
        certificate: Base64(Bytes::copy_from_slice(&issued.certificate)),
        authority: file.authority(Bytes::copy_from_slice(authority.certificate())),
    };
    file.votes = vec![FileVote {
        member: MEMBER.to_owned(),
        choice: Choice::Approve,
        option,
        reason: "it is tested".to_owned(),
        at_ms: NOW,
        attested_by: "c-0".to_owned(),
        evidence: Some(evidence),
    }];
    (file.outcome, file.option, file.closed_at_ms) = (FileOutcome::Approved, option, Some(NOW));
    assert!(file.verify(None).is_right(), "the seed is a right ballot");
    (file, envelope, binding)
}

/// Returns a ballot that two members have rejected, as a coordinator says.
fn attested() -> BallotFile {
    let vote = |member: &str, choice: Choice| FileVote {
        member: member.to_owned(),
        choice,
        option: 0,
        reason: String::new(),
        at_ms: NOW,
        attested_by: "c-0".to_owned(),
        evidence: None,
    };
    let votes = vec![vote("client:ann", Choice::Abstain), vote(MEMBER, Choice::Reject)];
    BallotFile { votes, outcome: FileOutcome::Rejected, closed_at_ms: Some(NOW), ..empty(&[]) }
}

pub(super) fn seeds() -> Vec<Seed> {
    let (file, envelope, binding) = approved(&[], 0);
    let (with_options, option, _) = approved(&["now", "later"], 2);
    let mut wrong = envelope.clone();
    wrong.signature[0] ^= 1;
    let file_of = |name: &str, file: &BallotFile| Seed::new("ballot_file", name, file.to_json());
    vec![
        Seed::new("vote_envelope", "vote", envelope.to_bytes()),
        Seed::new("vote_envelope", "option", option.to_bytes()),
        Seed::new("vote_envelope", "wrong-signature", wrong.to_bytes()),
        Seed::new("vote_binding", "worker", binding.to_bytes()),
        file_of("approved", &file),
        file_of("option", &with_options),
        file_of("attested", &attested()),
        file_of("open", &empty(&["a", "b"])),
    ]
}
