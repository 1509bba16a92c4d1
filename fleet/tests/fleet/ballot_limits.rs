//! The limits of ballots and votes at their edges.

use bytes::Bytes;
use robeing_fleet::{
    BallotCommand, BallotId, BallotOutcome, CastVote, Choice, Command, Elector, Fraction, LetterId, OpenBallot,
    Refusal, Reply, VoteEvidence, limits::*,
};

use crate::fixture::{Trial, ballot, elector, evidence, vote};

const NEW: Reply = Reply::BallotOpened { existing: false };

fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

fn limit_of(refusal: Option<Refusal>) -> u64 {
    match refusal {
        Some(Refusal::Full { limit, .. }) => limit,
        other => panic!("not full: {other:?}"),
    }
}

fn field_of(checked: Result<(), Refusal>) -> String {
    match checked {
        Err(Refusal::Invalid { field, .. }) => field,
        other => panic!("not invalid: {other:?}"),
    }
}

fn client(name: String) -> Elector {
    Elector { name, weight: 1, letter: None, signs: false }
}

/// Returns a ballot of one client, which is told of nothing.
fn lone(n: u128) -> OpenBallot {
    OpenBallot { electorate: vec![client("client:c".to_owned())], ..ballot(n) }
}

/// Applies a command without an audit, which takes long for many.
fn apply(trial: &mut Trial, command: BallotCommand) -> Reply {
    trial.fleet.apply(trial.stamp(), Command::Ballot(command), &mut Vec::new())
}

/// Returns names in their order, each of so many bytes.
fn names(count: usize, bytes: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:0>bytes$}")).collect()
}

#[test]
fn ballots_are_held_to_their_limits() {
    type Change = fn(&mut OpenBallot, usize);
    let many: Change = |b, n| b.electorate = names(n, 8).into_iter().map(client).collect();
    let ttl = MAX_BALLOT_DURATION_MS as usize;
    let cases: [(&str, Change, usize, usize); 20] = [
        ("opened_by", |b, n| b.opened_by = text(n), MAX_SENDER_BYTES, MAX_SENDER_BYTES + 1),
        ("opened_by", |b, n| b.opened_by = text(n), 1, 0),
        ("question", |b, n| b.question = text(n), MAX_QUESTION_BYTES, MAX_QUESTION_BYTES + 1),
        ("question", |b, n| b.question = text(n), 1, 0),
        ("fleet", |b, n| b.fleet = text(n), MAX_BALLOT_FLEET_BYTES, MAX_BALLOT_FLEET_BYTES + 1),
        ("fleet", |b, n| b.fleet = text(n), 1, 0),
        ("options", |b, n| b.options = names(n, 8), MIN_BALLOT_OPTIONS, MIN_BALLOT_OPTIONS - 1),
        ("options", |b, n| b.options = names(n, 8), MAX_BALLOT_OPTIONS, MAX_BALLOT_OPTIONS + 1),
        ("options", |b, n| b.options = vec![text(n), "b".to_owned()], MAX_OPTION_BYTES, MAX_OPTION_BYTES + 1),
        ("options", |b, n| b.options = vec![text(n), "b".to_owned()], 1, 0),
        ("electorate", many, 1, 0),
        ("electorate", many, MAX_ELECTORS, MAX_ELECTORS + 1),
        ("electorate.name", |b, n| b.electorate[0].name = format!("a{}", text(n)), MAX_NAME_BYTES - 1, MAX_NAME_BYTES),
        ("electorate.name", |b, n| b.electorate = vec![client(text(n))], 1, 0),
        ("electorate.weight", |b, n| b.electorate[0].weight = n as u32, 1, 0),
        ("electorate.weight", |b, n| b.electorate[0].weight = n as u32, 1_000, MAX_VOTE_WEIGHT as usize + 1),
        ("threshold", |b, n| b.threshold.numerator = n as u32, 1, 0),
        ("threshold", |b, n| b.threshold.numerator = n as u32, 3, 4),
        ("ttl", |b, n| b.ttl = n as u64, 1, 0),
        ("ttl", |b, n| b.ttl = n as u64, ttl, ttl + 1),
    ];
    for (field, change, good, bad) in cases {
        let of = |value| {
            let mut ballot = ballot(1);
            change(&mut ballot, value);
            ballot
        };
        assert_eq!(of(good).check(), Ok(()), "{field}");
        assert_eq!(field_of(of(bad).check()), field);
        let mut trial = Trial::newest();
        assert_eq!(trial.open(of(good)), NEW);
        assert!(matches!(trial.open(of(bad)), Reply::Refused(Refusal::Invalid { .. })), "{field}");
    }
    let told = |bytes: usize| OpenBallot { notice: Bytes::from(vec![0; bytes]), ..ballot(1) };
    assert_eq!(told(MAX_NOTICE_BYTES).check(), Ok(()));
    assert_eq!(field_of(told(MAX_NOTICE_BYTES + 1).check()), "notice");
}

#[test]
fn what_must_be_there_once_is_refused_if_it_is_there_twice() {
    let of = |electorate: &[Elector]| OpenBallot { electorate: electorate.to_vec(), ..ballot(1) }.check();
    let (a, b) = (elector("a", 1), elector("b", 2));
    assert_eq!(of(&[a.clone(), b.clone()]), Ok(()));
    assert_eq!(field_of(of(&[b.clone(), a.clone()])), "electorate");
    assert_eq!(field_of(of(&[a.clone(), a.clone()])), "electorate");
    let same_letter = Elector { letter: Some(LetterId(1)), ..b };
    assert_eq!(field_of(of(&[a, same_letter])), "electorate.letter");
    let options = ["left", "right", "left"].map(str::to_owned).to_vec();
    assert_eq!(field_of(OpenBallot { options, ..ballot(1) }.check()), "options");
}

#[test]
fn votes_are_held_to_their_limits() {
    type Change = fn(&mut CastVote, usize);
    let with = |vote: &mut CastVote, change: fn(&mut VoteEvidence, Bytes), bytes: usize| {
        if let Some(evidence) = &mut vote.evidence {
            change(evidence, Bytes::from(vec![0; bytes]));
        }
    };
    let cases: [(&str, Change, usize); 2] = [
        ("member", |v, n| v.member = text(n), MAX_NAME_BYTES),
        ("attested_by", |v, n| v.attested_by = text(n), MAX_NAME_BYTES),
    ];
    let signed = || CastVote { evidence: Some(evidence(b"one")), ..vote(1, "a", Choice::Approve) };
    for (field, change, most) in cases {
        let of = |bytes| {
            let mut vote = signed();
            change(&mut vote, bytes);
            vote.check()
        };
        assert_eq!((of(1), of(most)), (Ok(()), Ok(())), "{field}");
        assert_eq!([of(0), of(most + 1)].map(field_of), [field, field]);
    }
    type Part = fn(&mut VoteEvidence, Bytes);
    let parts: [(&str, Part, usize); 4] = [
        ("evidence.envelope", |e, bytes| e.envelope = bytes, MAX_ENVELOPE_BYTES),
        ("evidence.binding", |e, bytes| e.binding = bytes, MAX_BINDING_BYTES),
        ("evidence.certificate", |e, bytes| e.certificate = bytes, MAX_VOTE_CERTIFICATE_BYTES),
        ("evidence.authority", |e, bytes| e.authority = bytes, MAX_VOTE_AUTHORITY_BYTES),
    ];
    for (field, part, most) in parts {
        let of = |bytes| {
            let mut vote = signed();
            with(&mut vote, part, bytes);
            vote.check()
        };
        assert_eq!((of(1), of(most)), (Ok(()), Ok(())), "{field}");
        assert_eq!([of(0), of(most + 1)].map(field_of), [field, field]);
    }
}

/// Returns a ballot that one of several opens.
fn by(opener: u128, ballot: OpenBallot) -> OpenBallot {
    // All have names of the same length.
    OpenBallot { opened_by: format!("{opener:0>bytes$}", bytes = ballot.opened_by.len()), ..ballot }
}

#[test]
fn one_opener_has_a_share_and_others_have_theirs() {
    let mut trial = Trial::newest();
    for n in 1..=MAX_OPEN_BALLOTS_OF_ONE as u128 {
        assert_eq!(apply(&mut trial, BallotCommand::Open(lone(n))), NEW);
    }
    assert_eq!(limit_of(trial.fleet.refusal_of_ballot(&lone(0))), MAX_OPEN_BALLOTS_OF_ONE as u64);
    assert!(trial.fleet.check_room_for_ballots("client:another", MAX_OPEN_BALLOTS_OF_ONE, 0).is_ok());
    assert!(trial.fleet.check_room_for_ballots("client:another", MAX_OPEN_BALLOTS_OF_ONE + 1, 0).is_err());
    assert!(matches!(trial.open(lone(0)), Reply::Refused(Refusal::Full { .. })));
    assert_eq!(trial.open(by(1, lone(1_000))), NEW, "others may open theirs");
    trial.cast(vote(7, "client:c", Choice::Reject));
    assert_eq!(trial.open(lone(0)), NEW);

    let mut trial = Trial::newest();
    trial.open(largest(1));
    let each = trial.fleet.ballot_counts().bytes;
    let count = u128::from(MAX_BALLOT_BYTES_OF_ONE / each);
    for n in 2..=count {
        assert_eq!(apply(&mut trial, BallotCommand::Open(largest(n))), NEW);
    }
    assert_eq!(limit_of(trial.fleet.refusal_of_ballot(&largest(0))), MAX_BALLOT_BYTES_OF_ONE);
    assert_eq!(trial.fleet.refusal_of_ballot(&by(1, largest(0))), None);
    assert!(count >= 7, "{count} of the largest ballots, as the documentation says");
}

#[test]
fn so_many_ballots_are_open_and_one_more_is_refused() {
    let mut trial = Trial::newest();
    for n in 1..=MAX_OPEN_BALLOTS as u128 {
        assert_eq!(apply(&mut trial, BallotCommand::Open(by(n % 4, lone(n)))), NEW);
    }
    assert_eq!(limit_of(trial.fleet.refusal_of_ballot(&lone(0))), MAX_OPEN_BALLOTS as u64);
    assert!(matches!(trial.open(lone(0)), Reply::Refused(Refusal::Full { .. })));
    assert_eq!(trial.fleet.refusal_of_ballot(&lone(1)), None, "a known one needs no room");
    assert_eq!(trial.open(lone(1)), Reply::BallotOpened { existing: true });
    trial.cast(vote(7, "client:c", Choice::Reject));
    assert_eq!(trial.open(lone(0)), NEW);
    let counts = trial.fleet.ballot_counts();
    assert_eq!((counts.open, counts.closed), (MAX_OPEN_BALLOTS as u32, 1));
}

#[test]
fn so_many_ballots_are_kept_and_the_one_that_was_closed_first_makes_room_for_another() {
    let mut trial = Trial::newest();
    assert_eq!(trial.open(lone(0)), NEW);
    for n in 1..MAX_BALLOTS as u128 {
        trial.now += 1;
        assert_eq!(apply(&mut trial, BallotCommand::Open(OpenBallot { ttl: MAX_BALLOT_DURATION_MS, ..lone(n) })), NEW);
        let closed = apply(&mut trial, BallotCommand::Cast(vote(n, "client:c", Choice::Approve)));
        assert!(matches!(closed, Reply::VoteCast { existing: false, outcome: Some(_) }), "{closed:?}");
    }
    let counts = trial.fleet.ballot_counts();
    assert_eq!((counts.open, counts.closed), (1, MAX_BALLOTS as u32 - 1));
    assert_eq!(trial.open(lone(MAX_BALLOTS as u128)), NEW);
    let kept = |trial: &Trial, n| trial.fleet.ballot(BallotId(n)).is_some();
    assert_eq!([0, 1, 2, MAX_BALLOTS as u128].map(|n| kept(&trial, n)), [true, false, true, true]);
    assert_eq!(trial.fleet.ballots(None, 1, false)[0].id, BallotId(MAX_BALLOTS as u128));
    let counts = trial.fleet.ballot_counts();
    assert_eq!((counts.open, counts.closed), (2, MAX_BALLOTS as u32 - 2));
}

/// Returns the largest ballot.
fn largest(n: u128) -> OpenBallot {
    OpenBallot {
        opened_by: text(MAX_SENDER_BYTES),
        question: text(MAX_QUESTION_BYTES),
        fleet: text(MAX_BALLOT_FLEET_BYTES),
        options: names(MAX_BALLOT_OPTIONS, MAX_OPTION_BYTES),
        electorate: names(MAX_ELECTORS, MAX_NAME_BYTES).into_iter().map(client).collect(),
        threshold: Fraction { numerator: u32::MAX, denominator: u32::MAX },
        ttl: MAX_BALLOT_DURATION_MS,
        digest: [255; 32],
        ..ballot(n)
    }
}

/// Returns the largest vote, whose authority is that of its ballot.
fn largest_vote(n: u128, member: &str) -> CastVote {
    let authority = format!("{n:0>16}").into_bytes();
    let padded = |mut bytes: Vec<u8>, length: usize| {
        bytes.resize(length, 0);
        Bytes::from(bytes)
    };
    let evidence = VoteEvidence {
        envelope: padded(Vec::new(), MAX_ENVELOPE_BYTES),
        binding: padded(Vec::new(), MAX_BINDING_BYTES),
        certificate: padded(Vec::new(), MAX_VOTE_CERTIFICATE_BYTES),
        authority: padded(authority, MAX_VOTE_AUTHORITY_BYTES),
    };
    CastVote {
        option: MAX_BALLOT_OPTIONS as u32,
        reason: text(MAX_VOTE_REASON_BYTES),
        attested_by: text(MAX_NAME_BYTES),
        evidence: Some(evidence),
        ..vote(n, member, Choice::Approve)
    }
}

#[test]
fn open_ballots_have_room_for_the_largest_votes_of_all_their_members_and_closed_ones_make_room() {
    let mut trial = Trial::newest();
    trial.now = MAX_TIME_MS - MAX_BALLOT_DURATION_MS - BALLOT_TTL_MS;
    trial.open(largest(1));
    let before = trial.fleet.encode().len() as u64;
    let each = trial.fleet.ballot_counts().bytes;
    let count = u128::from(MAX_BALLOT_BYTES / each);
    for n in 2..=count {
        assert_eq!(apply(&mut trial, BallotCommand::Open(by(n % 5, largest(n)))), NEW);
    }
    let more = by(9, largest(0));
    assert_eq!(limit_of(trial.fleet.refusal_of_ballot(&more)), MAX_BALLOT_BYTES);
    assert!(matches!(trial.open(more), Reply::Refused(Refusal::Full { limit: MAX_BALLOT_BYTES, .. })));
    assert_eq!(trial.fleet.refusal_of_ballot(&largest(1)), None, "a known one needs no room");
    for n in 1..=count {
        trial.now += 1;
        let mut last = None;
        for member in names(MAX_ELECTORS, MAX_NAME_BYTES) {
            let reply = apply(&mut trial, BallotCommand::Cast(largest_vote(n, &member)));
            assert!(matches!(reply, Reply::VoteCast { existing: false, .. }), "{reply:?}");
            last = Some(reply);
        }
        let outcome = Some(BallotOutcome::Approved { option: MAX_BALLOT_OPTIONS as u32 });
        assert_eq!(last, Some(Reply::VoteCast { existing: false, outcome }));
    }
    assert_eq!(trial.fleet.ballot_counts().bytes, count as u64 * each, "exactly what was counted from the beginning");
    let size = trial.fleet.encode().len() as u64 - before;
    let authorities = count as u64 * (MAX_VOTE_AUTHORITY_BYTES as u64 + MAX_VOTE_AUTHORITY_OVERHEAD);
    assert!(size <= count as u64 * (each + MAX_BALLOT_OVERHEAD) + authorities, "{size} bytes in a snapshot");
    assert_eq!(trial.open(largest(0)), NEW);
    assert!(trial.fleet.ballot(BallotId(1)).is_none() && trial.fleet.ballot(BallotId(2)).is_some());
    assert!(trial.fleet.authority(1).is_none() && trial.fleet.authority(2).is_some());
}

#[test]
fn so_many_authorities_are_kept_and_a_vote_with_another_one_is_refused_until_one_is_forgotten() {
    let mut trial = Trial::newest();
    let signed = |n: u128, authority: u128| {
        let authority = evidence(format!("{authority}").as_bytes());
        CastVote { evidence: Some(authority), ..vote(n, "client:c", Choice::Approve) }
    };
    let most = MAX_VOTE_AUTHORITIES as u128;
    for n in 1..=most {
        assert_eq!(apply(&mut trial, BallotCommand::Open(lone(n))), NEW);
        let counted = apply(&mut trial, BallotCommand::Cast(signed(n, n)));
        assert!(matches!(counted, Reply::VoteCast { existing: false, .. }), "{counted:?}");
    }
    trial.open(lone(most + 1));
    trial.open(lone(most + 2));
    let before = trial.fleet.encode();
    let refused = trial.cast(signed(most + 1, most + 1));
    assert!(matches!(refused, Reply::Refused(Refusal::Full { limit, .. }) if limit == MAX_VOTE_AUTHORITIES as u64));
    assert_eq!(trial.fleet.encode(), before);
    let known = trial.cast(signed(most + 2, 1));
    assert!(matches!(known, Reply::VoteCast { existing: false, .. }), "one that is known needs no room: {known:?}");
    trial.after(BALLOT_TTL_MS);
    trial.open(lone(most + 3));
    let counted = trial.cast(signed(most + 3, most + 1));
    assert!(matches!(counted, Reply::VoteCast { existing: false, .. }), "{counted:?}");
}

#[test]
fn small_ballots_count_for_at_least_so_many_bytes() {
    let mut trial = Trial::newest();
    trial.open(lone(1));
    assert!(trial.fleet.ballot_counts().bytes > LEAST_BALLOT_BYTES, "it has room for a vote");
    trial.cast(vote(1, "client:c", Choice::Reject));
    assert_eq!(trial.fleet.ballot_counts().bytes, LEAST_BALLOT_BYTES);
}
