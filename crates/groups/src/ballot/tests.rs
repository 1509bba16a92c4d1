//! Ballots in a ledger, and their files.

use robeing_bft::{
    application::Application,
    certificate::Seq,
    crypto::{PublicKey, Signer},
    wire::Wire,
};
use robeing_identity::{Authority, PeerRole, TrustBundle};
use robeing_votes::{Base64, Choice, FileOutcome, MAX_OPTIONS, MAX_REASON_BYTES};

use super::*;
use crate::{
    Call, Group, GroupError, GroupFile, Ledger, MAX_BALLOT_TTL_MS, MAX_CLOSED_BALLOTS, MAX_FORGOTTEN_BALLOTS,
    MAX_OPEN_BALLOTS, MAX_OPTION_BYTES, MAX_QUESTION_BYTES, NextEpoch, Signed, is_approved,
    tests::{NOW, authority, certified, enrolled, enrolled_next, signer},
};

/// A group of the members 1 to 4, with a ledger.
struct Council {
    authority: Authority,
    group: Group,
    ledger: Ledger,
    seq: u64,
}

fn key(member: u8) -> PublicKey {
    signer(member).public_key()
}

impl Council {
    fn new() -> Self {
        let authority = authority();
        let group = GroupFile::of(enrolled(&authority)).unwrap().verify().unwrap();
        let ledger = Ledger::of(group.epoch().scope());
        Self { authority, group, ledger, seq: 0 }
    }

    fn opening(&self, nonce: u8, options: &[&str]) -> Opening {
        Opening {
            group: *self.group.epoch().domain(),
            nonce: [nonce; 16],
            // Later ones have later deadlines.
            at_ms: NOW + u64::from(nonce) * 1_000,
            ttl_ms: 30_000,
            question: "deploy?".into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            threshold: (2, 3),
        }
    }

    fn signed(&self, opening: &Opening) -> Signed {
        opening.sign(&certified(&self.authority, PeerRole::Client, "ada").own()).unwrap()
    }

    /// Executes a call of a member.
    fn call(&mut self, member: u8, call: &bytes::Bytes) -> Result<u64, Refusal> {
        self.seq += 1;
        let result = self.ledger.execute(Seq(self.seq), &key(member), call);
        Ledger::result(&result).map(|seq| seq.0).ok_or_else(|| Ledger::refusal(&result).unwrap())
    }

    fn open(&mut self, member: u8, nonce: u8, options: &[&str]) -> Signed {
        let signed = self.signed(&self.opening(nonce, options));
        self.call(member, &Call::open(&signed)).unwrap();
        signed
    }

    /// Opens a ballot through a member, and has it closed by votes.
    fn closed(&mut self, member: u8, nonce: u8) -> Signed {
        let signed = self.open(member, nonce, &[]);
        for voter in 1..=3 {
            self.vote(voter, &signed, Choice::Approve, 0).unwrap();
        }
        signed
    }

    fn is_known(&self, signed: &Signed) -> bool {
        self.ledger.ballots().get(&ballot_id(signed)).is_some()
    }

    fn vote(&mut self, member: u8, signed: &Signed, choice: Choice, option: u32) -> Result<u64, Refusal> {
        let vote = MemberVote { ballot: ballot_id(signed), choice, option, reason: "so".into() };
        self.call(member, &Call::vote(&vote))
    }

    fn expire(&mut self, member: u8, signed: &Signed) -> Result<u64, Refusal> {
        self.call(member, &Call::expire(&ballot_id(signed)))
    }

    fn record(&self, signed: &Signed) -> BallotRecord {
        self.ledger.ballots().get(&ballot_id(signed)).unwrap().record().clone()
    }

    fn outcome(&self, signed: &Signed) -> (FileOutcome, u32) {
        let record = self.record(signed);
        (record.outcome, record.option)
    }

    fn attested(&self, record: &BallotRecord, members: &[u8]) -> Vec<Attestation> {
        let one = |member: &u8| {
            let signature = record.sign(self.group.epoch().scope(), &signer(*member)).unwrap();
            let name = self.group.name_of(&key(*member)).unwrap().to_owned();
            Attestation { member: name, signature: Base64(signature.encoded().into()) }
        };
        members.iter().map(one).collect()
    }
}

#[test]
fn a_ballot_is_decided_by_the_votes_of_members_in_their_order() {
    let mut council = Council::new();
    let ballot = council.open(1, 1, &["blue", "green"]);
    assert_eq!(council.vote(1, &ballot, Choice::Approve, 2), Ok(2));
    assert_eq!(council.vote(2, &ballot, Choice::Reject, 0), Ok(3));
    assert_eq!(council.vote(2, &ballot, Choice::Approve, 2), Err(Refusal::VotedBefore));
    assert_eq!(council.vote(3, &ballot, Choice::Approve, 0), Err(Refusal::NoOption));
    assert_eq!(council.vote(3, &ballot, Choice::Approve, 3), Err(Refusal::NoOption));
    assert_eq!(council.outcome(&ballot), (FileOutcome::Open, 0));
    assert_eq!(council.vote(3, &ballot, Choice::Approve, 2), Ok(7));
    // Two of four are less than two thirds.
    assert_eq!(council.outcome(&ballot), (FileOutcome::Open, 0));
    assert_eq!(council.vote(4, &ballot, Choice::Approve, 2), Ok(8));
    assert_eq!(council.outcome(&ballot), (FileOutcome::Approved, 2));
    assert_eq!(council.vote(4, &ballot, Choice::Reject, 0), Err(Refusal::Closed));
    assert_eq!(council.expire(1, &ballot), Err(Refusal::Closed));
    let record = council.record(&ballot);
    assert_eq!((record.opened, record.closed, record.votes.len()), (Seq(1), Some(Seq(8)), 4));
    // Two who are against it are enough for two thirds to be out of reach.
    let ballot = council.open(1, 2, &[]);
    council.vote(1, &ballot, Choice::Reject, 0).unwrap();
    council.vote(2, &ballot, Choice::Abstain, 0).unwrap();
    assert_eq!(council.outcome(&ballot), (FileOutcome::Rejected, 0));
    let unknown = council.signed(&council.opening(9, &[]));
    assert_eq!(council.vote(1, &unknown, Choice::Reject, 0), Err(Refusal::Unknown));
}

#[test]
fn a_ballot_expires_when_one_member_more_says_so_than_may_lie() {
    let mut council = Council::new();
    let ballot = council.open(1, 1, &[]);
    council.expire(4, &ballot).unwrap();
    council.expire(4, &ballot).unwrap();
    assert_eq!(council.outcome(&ballot), (FileOutcome::Open, 0), "one may lie");
    council.vote(1, &ballot, Choice::Approve, 0).unwrap();
    council.expire(2, &ballot).unwrap();
    assert_eq!(council.outcome(&ballot), (FileOutcome::Expired, 0));
    assert_eq!(council.vote(2, &ballot, Choice::Approve, 0), Err(Refusal::Closed));
}

#[test]
fn a_ballot_is_opened_once_and_not_under_the_id_of_another() {
    let mut council = Council::new();
    let ballot = council.open(1, 1, &[]);
    assert_eq!(council.call(2, &Call::open(&ballot)), Ok(1), "it was opened before");
    // The same statement with another signature is another ballot.
    let forged = Signed { signature: Base64(bytes::Bytes::from_static(b"none")), ..ballot.clone() };
    assert_eq!(council.call(4, &Call::open(&forged)), Ok(3));
    assert_ne!(ballot_id(&forged), ballot_id(&ballot));
    assert!(Opening::verify(&forged, &council.group).is_err());
    assert_eq!(Opening::verify(&ballot, &council.group).unwrap().1, "client:ada");
    let elsewhere = Opening { group: Default::default(), ..council.opening(3, &[]) };
    let elsewhere = council.signed(&elsewhere);
    assert_eq!(council.call(1, &Call::open(&elsewhere)), Err(Refusal::OtherGroup));
    assert_eq!(ballot_id_of(&robeing_votes::hex(&ballot_id(&ballot).0)), Ok(ballot_id(&ballot)));
    for bad in ["", "00", &*"0".repeat(63), &*"0".repeat(66), &*"é".repeat(32)] {
        assert!(ballot_id_of(bad).is_err(), "{bad}");
    }
}

#[test]
fn each_member_has_its_own_room_for_ballots() {
    let mut council = Council::new();
    let mut all = Vec::new();
    for nonce in 0..MAX_OPEN_BALLOTS as u8 {
        all.push(council.open(4, nonce, &[]));
    }
    let more = council.signed(&council.opening(99, &[]));
    assert_eq!(council.call(4, &Call::open(&more)), Err(Refusal::Full));
    assert!(council.call(1, &Call::open(&more)).is_ok(), "another member has room");
    let close = |council: &mut Council, ballot: &Signed| {
        council.expire(1, ballot).unwrap();
        council.expire(2, ballot).unwrap();
    };
    close(&mut council, &more);
    for ballot in &all {
        close(&mut council, ballot);
    }
    for nonce in 100..100 + MAX_CLOSED_BALLOTS as u8 {
        let ballot = council.open(4, nonce, &[]);
        close(&mut council, &ballot);
    }
    let known = |ballot: &Signed| council.ledger.ballots().get(&ballot_id(ballot)).is_some();
    assert!(!known(&all[0]), "the oldest of its ballots is forgotten");
    assert!(known(&more), "those of others are not");
    let of_member = council.ledger.ballots().all().count() - 1;
    assert!(of_member <= MAX_CLOSED_BALLOTS + 1, "{of_member}");
}

#[test]
fn a_ballot_that_is_forgotten_is_not_opened_again() {
    let mut council = Council::new();
    let first = council.closed(1, 1);
    for nonce in 2..=1 + MAX_CLOSED_BALLOTS as u8 {
        council.closed(1, nonce);
    }
    assert!(!council.is_known(&first));
    // A member that lies has kept the opening.
    assert_eq!(council.call(4, &Call::open(&first)), Err(Refusal::Closed));
    assert_eq!(council.vote(4, &first, Choice::Reject, 0), Err(Refusal::Closed));
    let mut again = Ledger::of(council.group.epoch().scope());
    again.restore(&council.ledger.snapshot()).unwrap();
    assert_eq!(again, council.ledger, "it is a part of the state");
    // Nor when its deadline is over: one says so, who may lie, and then another one.
    assert_eq!(council.expire(4, &first), Err(Refusal::Closed));
    assert_eq!(council.expire(4, &council.signed(&council.opening(99, &[]))), Err(Refusal::Unknown));
    assert_eq!(council.call(4, &Call::open(&first)), Err(Refusal::Closed));
    assert_eq!(council.expire(2, &first), Err(Refusal::Closed));
    council.open(2, 50, &[]);
    assert_eq!(council.call(4, &Call::open(&first)), Err(Refusal::Over));
    let late = Opening { nonce: [60; 16], ..council.opening(1, &[]) };
    let late = council.signed(&late);
    assert_eq!(council.call(3, &Call::open(&late)), Err(Refusal::Over), "no other one with that deadline");
}

#[test]
fn a_ballot_is_kept_by_each_member_through_which_it_was_opened() {
    let mut council = Council::new();
    // A member that lies is the first to have it opened.
    let ballot = council.open(4, 1, &[]);
    assert_eq!(council.call(1, &Call::open(&ballot)), Ok(1));
    assert_eq!(council.call(1, &Call::open(&ballot)), Ok(1), "it is kept once");
    for voter in 1..=3 {
        council.vote(voter, &ballot, Choice::Approve, 0).unwrap();
    }
    for nonce in 2..=20 {
        council.closed(4, nonce);
    }
    assert!(council.is_known(&ballot), "another member keeps it");
    for nonce in 21..21 + MAX_CLOSED_BALLOTS as u8 {
        council.closed(1, nonce);
    }
    assert!(!council.is_known(&ballot));
    assert_eq!(council.call(2, &Call::open(&ballot)), Err(Refusal::Closed));
    // Who has no room for it is told that it is open all the same.
    for nonce in 50..50 + MAX_OPEN_BALLOTS as u8 {
        council.open(3, nonce, &[]);
    }
    let ballot = council.open(2, 60, &[]);
    assert!(council.call(3, &Call::open(&ballot)).is_ok());
    let more = council.signed(&council.opening(61, &[]));
    assert_eq!(council.call(3, &Call::open(&more)), Err(Refusal::Full));
}

#[test]
fn forgotten_ballots_have_a_limit_until_their_deadlines_are_over() {
    let mut council = Council::new();
    let own = certified(&council.authority, PeerRole::Client, "ada");
    let open = |council: &mut Council, number: usize| {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&(number as u64).to_be_bytes());
        // One vote is enough to close it.
        let opening = Opening { nonce, threshold: (1, 4), ..council.opening(1, &[]) };
        let signed = opening.sign(&own.own()).unwrap();
        council.call(4, &Call::open(&signed))?;
        council.vote(4, &signed, Choice::Approve, 0)
    };
    for number in 0..MAX_CLOSED_BALLOTS + MAX_FORGOTTEN_BALLOTS {
        assert_eq!(council.ledger.ballots().awaited(&key(1)).is_some(), number > MAX_CLOSED_BALLOTS + 128, "{number}");
        assert!(open(&mut council, number).is_ok(), "{number}");
    }
    assert_eq!(open(&mut council, 999), Err(Refusal::Many));
    council.closed(1, 2);
    let (ballot, deadline) = council.ledger.ballots().awaited(&key(1)).unwrap();
    assert_eq!(deadline, council.opening(1, &[]).deadline_ms());
    for member in 1..=2 {
        assert_eq!(council.call(member, &Call::expire(&ballot)), Err(Refusal::Closed));
        assert_eq!(council.ledger.ballots().awaited(&key(member)), None, "it has said so");
    }
    let later = council.open(4, 3, &[]);
    assert!(council.is_known(&later), "there is room again");
    assert_eq!(council.ledger.ballots().awaited(&key(3)), None);
}

#[test]
fn the_largest_state_of_ballots_fits_into_a_snapshot() {
    // The longest vote, sixteen of them, and the largest opening, in each place of the largest group.
    let vote = 32 + 1 + 4 + 4 + MAX_REASON_BYTES + 8;
    let ballot = opening::MAX_OPENING_BYTES + 16 * (vote + 2 * 32) + 256;
    let of_member = (MAX_OPEN_BALLOTS + MAX_CLOSED_BALLOTS + 1) * ballot + (MAX_FORGOTTEN_BALLOTS + 1) * 72;
    let ballots = crate::MAX_GROUP_MEMBERS * of_member;
    assert!(ballots + crate::REMEMBERED * 40 < robeing_bft::limits::MAX_SNAPSHOT_BYTES, "{ballots}");
}

#[test]
fn the_state_is_restored_with_its_ballots_until_the_epoch_ends() {
    let mut council = Council::new();
    let ballot = council.open(1, 1, &["a", "b"]);
    council.vote(2, &ballot, Choice::Approve, 1).unwrap();
    council.expire(3, &ballot).unwrap();
    let snapshot = council.ledger.snapshot();
    let mut again = Ledger::of(council.group.epoch().scope());
    again.restore(&snapshot).unwrap();
    assert_eq!(again, council.ledger);
    assert!(again.restore(&snapshot[..snapshot.len() - 1]).is_err());
    assert!(again.restore(&[&snapshot[..], b"x"].concat()).is_err());
    // Another epoch does not know it.
    let mut next = Ledger::default();
    next.restore(&snapshot).unwrap();
    assert_eq!(next.ballots().all().count(), 0);
    assert_eq!(next.snapshot(), Ledger::default().snapshot());
}

#[test]
fn what_is_no_ballot_is_not_opened() {
    let council = Council::new();
    let sign = |change: &dyn Fn(&mut Opening)| {
        let mut opening = council.opening(1, &[]);
        change(&mut opening);
        opening.sign(&certified(&council.authority, PeerRole::Client, "ada").own())
    };
    let texts = |count: usize| (0..count).map(|number| format!("option {number}")).collect::<Vec<_>>();
    assert!(sign(&|one| one.question = "x".repeat(MAX_QUESTION_BYTES)).is_ok());
    assert!(sign(&|one| one.options = texts(MAX_OPTIONS)).is_ok());
    assert!(sign(&|one| one.options = vec!["x".repeat(MAX_OPTION_BYTES), "y".into()]).is_ok());
    assert!(sign(&|one| one.ttl_ms = MAX_BALLOT_TTL_MS).is_ok());
    assert!(sign(&|one| one.threshold = (1, 1)).is_ok());
    let wrong: [&dyn Fn(&mut Opening); 9] = [
        &|one| one.question = String::new(),
        &|one| one.question = "x".repeat(MAX_QUESTION_BYTES + 1),
        &|one| one.options = texts(MAX_OPTIONS + 1),
        &|one| one.options = texts(1),
        &|one| one.options = vec!["x".into(), "x".into()],
        &|one| one.options = vec!["x".repeat(MAX_OPTION_BYTES + 1), "y".into()],
        &|one| one.ttl_ms = MAX_BALLOT_TTL_MS + 1,
        &|one| one.threshold = (3, 2),
        &|one| one.threshold = (0, 2),
    ];
    for change in wrong {
        assert!(matches!(sign(change), Err(GroupError::Malformed { .. })));
    }
}

#[test]
fn the_largest_opening_fits_into_a_call() {
    let council = Council::new();
    let opening = Opening {
        question: "q".repeat(MAX_QUESTION_BYTES),
        options: (0..MAX_OPTIONS).map(|number| format!("{number:>MAX_OPTION_BYTES$}")).collect(),
        ..council.opening(1, &[])
    };
    let statement = opening.encoded().len();
    let most = statement
        + crate::MAX_SIGNATURE_BYTES
        + robeing_votes::MAX_CERTIFICATE_BYTES
        + robeing_votes::MAX_AUTHORITY_BYTES;
    assert!(most + 16 <= opening::MAX_OPENING_BYTES, "{most}");
}

#[test]
fn the_next_members_are_approved_by_a_quorum_of_votes_for_just_them() {
    let mut council = Council::new();
    let next = NextEpoch::verify(&council.group, enrolled_next(&council.authority)).unwrap();
    let asks = |council: &Council, nonce: u8, threshold: (u32, u32)| {
        council.signed(&Opening { question: next.question(), threshold, ..council.opening(nonce, &[]) })
    };
    // One vote closes the ballot, and is no quorum.
    let easy = asks(&council, 1, (1, 4));
    council.call(1, &Call::open(&easy)).unwrap();
    council.vote(4, &easy, Choice::Approve, 0).unwrap();
    assert_eq!(council.outcome(&easy), (FileOutcome::Approved, 0));
    assert!(!is_approved(&council.ledger, next.membership(), 3));
    let right = asks(&council, 2, (2, 3));
    council.call(1, &Call::open(&right)).unwrap();
    for member in 1..=3 {
        assert!(!is_approved(&council.ledger, next.membership(), 3));
        council.vote(member, &right, Choice::Approve, 0).unwrap();
    }
    assert!(is_approved(&council.ledger, next.membership(), 3));
    let mut other = next.membership().clone();
    other.members[0].incarnation.0 = [9; 16];
    assert!(!is_approved(&council.ledger, &other, 3), "one of them has another disk");
}

#[test]
fn a_closed_ballot_is_proved_by_the_signatures_of_a_quorum() {
    let mut council = Council::new();
    let ballot = council.open(1, 1, &[]);
    let open = council.record(&ballot);
    assert!(open.sign(council.group.epoch().scope(), &signer(1)).is_none(), "it is not final");
    for member in 1..=3 {
        council.vote(member, &ballot, Choice::Approve, 0).unwrap();
    }
    let record = council.record(&ballot);
    let file = |record: &BallotRecord, members: &[u8]| {
        let attested = council.attested(record, members);
        GroupBallotFile::of(&council.group, ballot.clone(), record, attested)
    };
    let trusted = TrustBundle::from_der(&[council.authority.certificate().to_vec()]).unwrap();
    let good = file(&record, &[1, 2, 4]);
    let read = GroupBallotFile::from_json(good.to_json().as_bytes()).unwrap();
    let report = read.verify(Some(&trusted)).unwrap();
    assert_eq!((report.author, report.is_trusted), (Ok("client:ada".to_owned()), Some(true)));
    assert_eq!(report.signers, ["a", "b", "d"]);
    assert_eq!(report.record.outcome, FileOutcome::Approved);
    let other = TrustBundle::from_der(&[authority().certificate().to_vec()]).unwrap();
    assert!(matches!(read.verify(Some(&other)), Err(GroupError::Untrusted(_))));
    // Too few, one of them twice, and one who has signed something else.
    assert!(matches!(file(&record, &[1, 2]).verify(None), Err(GroupError::NotProved { .. })));
    assert!(matches!(file(&record, &[1, 2, 2]).verify(None), Err(GroupError::NotProved { .. })));
    let changed = BallotRecord { outcome: FileOutcome::Rejected, ..record.clone() };
    let mixed = GroupBallotFile { record: Base64(changed.encoded().into()), ..good.clone() };
    assert!(matches!(mixed.verify(None), Err(GroupError::NotProved { .. })));
    // Even if all members sign it, an outcome must follow from the votes.
    assert!(matches!(file(&changed, &[1, 2, 3, 4]).verify(None), Err(GroupError::Malformed { .. })));
    let mut twice = record.clone();
    twice.votes[1].by = twice.votes[0].by;
    assert!(matches!(file(&twice, &[1, 2, 3]).verify(None), Err(GroupError::Malformed { .. })));
    // The record of another ballot.
    let elsewhere = BallotRecord { ballot: Default::default(), ..record };
    assert!(matches!(file(&elsewhere, &[1, 2, 3]).verify(None), Err(GroupError::Other { .. })));
}
