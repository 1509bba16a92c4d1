//! Ballots: opening, voting, closing, expiry, and their limits.

use bytes::Bytes;
use robeing_fleet::{
    BallotCommand, BallotId, BallotOutcome, BallotState, CastVote, CastVotes, Choice, Command, CountedVote, Effect,
    Elector, Fleet, LetterAnswer, LetterId, LetterOutcome, MailCommand, NOTICE_KIND, NOTICE_SENDER, OpenBallot,
    PostLetter, Refusal, Reply, VoteEvidence, limits::*,
};

use crate::fixture::{Trial, ballot, elector, evidence, letter, signing, vote};

const NEW: Reply = Reply::BallotOpened { existing: false };
const KNOWN: Reply = Reply::BallotOpened { existing: true };
const OPEN: Reply = Reply::VoteCast { existing: false, outcome: None };
const APPROVED: BallotOutcome = BallotOutcome::Approved { option: 0 };

fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

fn id(n: u128) -> BallotId {
    BallotId(n)
}

fn outcome(trial: &Trial, n: u128) -> Option<BallotOutcome> {
    trial.fleet.ballot(id(n)).expect("it is kept").outcome()
}

fn closed_as(outcome: BallotOutcome) -> Reply {
    Reply::VoteCast { existing: false, outcome: Some(outcome) }
}

fn limit_of(refusal: Option<Refusal>) -> u64 {
    match refusal {
        Some(Refusal::Full { limit, .. }) => limit,
        other => panic!("not full: {other:?}"),
    }
}

/// Returns a ballot of one client, which is told of nothing.
fn lone(n: u128) -> OpenBallot {
    OpenBallot { electorate: vec![Elector { letter: None, ..elector("client:c", 0) }], ..ballot(n) }
}

/// Returns evidence of the same authority as `evidence(b"one")`, signed at another time.
fn signed_again() -> VoteEvidence {
    VoteEvidence { envelope: Bytes::from_static(b"other"), ..evidence(b"one") }
}

#[test]
fn a_ballot_is_opened_once_and_its_agents_are_told_by_letters() {
    let mut trial = Trial::newest();
    trial.wall_ahead = 500;
    assert_eq!(trial.open(ballot(1)), NEW);
    let [a, b] = [("a", 101), ("b", 102)].map(|(agent, id)| Effect::Mail { receiver: agent.into(), id: LetterId(id) });
    assert_eq!(trial.effects, [Effect::BallotOpened { id: id(1) }, a, b]);
    let opened = trial.fleet.ballot(id(1)).expect("it is open");
    assert_eq!((opened.opened, opened.expires, opened.is_open()), (trial.stamp(), trial.now + 60_000, true));
    let told = trial.fleet.letter(LetterId(102)).expect("it waits");
    assert_eq!((told.sender.as_str(), told.kind.as_str()), (NOTICE_SENDER, NOTICE_KIND));
    assert_eq!((told.to.as_str(), told.priority, &told.payload[..]), ("agent:b", 8, &b"{}"[..]));
    assert_eq!((told.sent, told.expires), (trial.now + 500, opened.expires));
    assert_eq!(trial.open(OpenBallot { notice: Bytes::new(), ttl: 1, ..ballot(1) }), KNOWN);
    assert_eq!(trial.effects, []);
    let conflict = Reply::Refused(Refusal::BallotConflict { ballot: id(1) });
    assert_eq!(trial.open(OpenBallot { digest: [2; 32], ..ballot(1) }), conflict);
    assert_eq!(trial.fleet.mail_counts().waiting, 2);
}

#[test]
fn a_letter_waits_no_longer_than_letters_may_while_its_ballot_does() {
    let mut trial = Trial::newest();
    trial.open(OpenBallot { ttl: MAX_BALLOT_DURATION_MS, ..ballot(1) });
    trial.after(MAX_LETTER_TTL_MS);
    let told = trial.fleet.letter(LetterId(101)).and_then(|letter| letter.outcome().cloned());
    assert_eq!((told, outcome(&trial, 1)), (Some(LetterOutcome::Expired), None));
    trial.after(MAX_BALLOT_DURATION_MS - MAX_LETTER_TTL_MS);
    assert_eq!(outcome(&trial, 1), Some(BallotOutcome::Expired));
}

#[test]
fn a_ballot_whose_letters_have_no_room_is_refused_and_changes_nothing() {
    let mut trial = Trial::newest();
    let payload = |bytes: usize| Bytes::from(vec![0; bytes]);
    for n in 0..(MAX_MAIL_BYTES as usize / MAX_LETTER_BYTES) as u128 {
        trial.post(PostLetter { payload: payload(MAX_LETTER_BYTES - 100), ..letter(n) });
    }
    let left = (MAX_MAIL_BYTES - trial.fleet.mail_counts().bytes) as usize;
    // One letter would fit, but not both.
    let large = OpenBallot { notice: payload(MAX_NOTICE_BYTES.min(left - 100)), ..ballot(1) };
    trial.post(PostLetter { payload: payload(left - large.notice.len() - 200), ..letter(1_000) });
    let before = trial.fleet.encode();
    assert_eq!(limit_of(trial.fleet.refusal_of_ballot(&large)), MAX_MAIL_BYTES);
    assert!(matches!(trial.open(large.clone()), Reply::Refused(Refusal::Full { limit: MAX_MAIL_BYTES, .. })));
    assert_eq!((trial.fleet.encode(), trial.effects.len()), (before, 0));
    trial.settle(0, "b", LetterAnswer::Accepted);
    assert_eq!(trial.fleet.refusal_of_ballot(&large), None);
    assert_eq!(trial.open(large), NEW);
}

#[test]
fn a_ballot_whose_letter_has_a_known_id_is_refused() {
    let mut trial = Trial::newest();
    trial.post(letter(102));
    let refusal = Refusal::LetterConflict { letter: LetterId(102) };
    assert_eq!(trial.fleet.refusal_of_ballot(&ballot(1)), Some(refusal.clone()));
    assert_eq!(trial.open(ballot(1)), Reply::Refused(refusal));
    assert_eq!((trial.fleet.mail_counts().waiting, trial.effects.len()), (1, 0));
}

#[test]
fn a_ballot_is_closed_by_the_vote_that_decides_it() {
    let mut trial = Trial::newest();
    trial.open(ballot(1));
    assert_eq!(trial.cast(vote(1, "a", Choice::Approve)), OPEN);
    let cast = Effect::VoteCast { id: id(1), choice: Choice::Approve };
    assert_eq!(trial.effects, std::slice::from_ref(&cast));
    trial.after(10);
    assert_eq!(trial.cast(vote(1, "client:c", Choice::Approve)), closed_as(APPROVED));
    assert_eq!(trial.effects, [cast, Effect::BallotClosed { id: id(1) }]);
    let closed = trial.fleet.ballot(id(1)).expect("it is kept");
    assert_eq!(closed.state, BallotState::Closed { outcome: APPROVED, at: trial.stamp() });
    let votes: Vec<(&str, u64)> = closed.votes.iter().map(|vote| (vote.member.as_str(), vote.at.fleet)).collect();
    assert_eq!(votes, [("a", trial.now - 10), ("client:c", trial.now)]);
    let late = Reply::Refused(Refusal::BallotClosed { ballot: id(1) });
    assert_eq!(trial.cast(vote(1, "b", Choice::Reject)), late);
    trial.after(60_000);
    assert!(!trial.effects.contains(&Effect::BallotClosed { id: id(1) }));
    assert_eq!(outcome(&trial, 1), Some(APPROVED));
    trial.open(ballot(2));
    assert_eq!(trial.cast(vote(2, "b", Choice::Reject)), OPEN);
    assert_eq!(trial.cast(vote(2, "a", Choice::Abstain)), closed_as(BallotOutcome::Rejected));
}

#[test]
fn a_vote_is_counted_once() {
    let mut trial = Trial::newest();
    trial.open(ballot(1));
    trial.open(ballot(2));
    let signed = CastVote { evidence: Some(evidence(b"one")), ..vote(2, "b", Choice::Approve) };
    assert_eq!(trial.cast(vote(1, "a", Choice::Approve)), OPEN);
    assert_eq!(trial.cast(signed.clone()), OPEN);
    let again = |outcome| Reply::VoteCast { existing: true, outcome };
    let same = CastVote { reason: "another".to_owned(), ..vote(1, "a", Choice::Approve) };
    assert_eq!(trial.cast(same.clone()), again(None));
    assert_eq!(trial.cast(CastVote { attested_by: "c-1".to_owned(), ..signed.clone() }), again(None));
    assert_eq!(trial.effects, []);
    let otherwise = CastVote { reason: "another".to_owned(), ..signed.clone() };
    for (ballot, member, other) in [
        (1, "a", vote(1, "a", Choice::Reject)),
        (1, "a", CastVote { evidence: Some(evidence(b"one")), ..same.clone() }),
        (2, "b", CastVote { evidence: None, ..otherwise.clone() }),
        (2, "b", CastVote { evidence: Some(signed_again()), ..otherwise }),
    ] {
        let refused = Refusal::AlreadyVoted { ballot: id(ballot), member: member.to_owned() };
        assert_eq!(trial.cast(other), Reply::Refused(refused));
    }
    let tally = trial.fleet.ballot(id(1)).expect("it is open").tally();
    assert_eq!((tally.approve, tally.reject, tally.abstain, tally.total), (1, 0, 0, 3));
    trial.after(60_000);
    assert_eq!(trial.cast(same), again(Some(BallotOutcome::Expired)), "also when it is closed");
    let refused = Refusal::AlreadyVoted { ballot: id(1), member: "a".to_owned() };
    assert_eq!(trial.cast(vote(1, "a", Choice::Reject)), Reply::Refused(refused));
}

#[test]
fn the_same_vote_for_the_same_reason_changes_nothing_although_it_is_signed_again() {
    let mut trial = Trial::newest();
    trial.open(ballot(1));
    let first = CastVote { evidence: Some(evidence(b"one")), ..vote(1, "a", Choice::Approve) };
    assert_eq!(trial.cast(first.clone()), OPEN);
    assert_eq!(trial.cast(vote(1, "b", Choice::Approve)), closed_as(APPROVED));
    let before = trial.fleet.ballot(id(1)).cloned();
    for evidence in [Some(signed_again()), Some(evidence(b"two")), None] {
        let again = Reply::VoteCast { existing: true, outcome: Some(APPROVED) };
        assert_eq!(trial.cast(CastVote { evidence, ..first.clone() }), again);
        assert_eq!(trial.effects, []);
        assert_eq!(trial.fleet.ballot(id(1)), before.as_ref(), "the first one stays");
    }
    let refused = Refusal::AlreadyVoted { ballot: id(1), member: "a".to_owned() };
    assert_eq!(trial.cast(CastVote { choice: Choice::Reject, ..first }), Reply::Refused(refused));
}

#[test]
fn only_members_vote_and_only_in_ballots_that_there_are() {
    let mut trial = Trial::newest();
    trial.open(ballot(1));
    let before = trial.fleet.encode();
    let stranger = Refusal::NotElector { ballot: id(1), member: "client:d".to_owned() };
    assert_eq!(trial.cast(vote(1, "client:d", Choice::Approve)), Reply::Refused(stranger));
    assert_eq!(trial.cast(vote(2, "a", Choice::Approve)), Reply::Refused(Refusal::UnknownBallot { ballot: id(2) }));
    let evidence = Some(evidence(b"one"));
    trial.cast(CastVote { evidence, option: 1, ..vote(1, "a", Choice::Approve) });
    assert_eq!((trial.fleet.encode(), trial.effects.len()), (before, 0), "no authority of a refused vote is kept");
}

#[test]
fn an_unsigned_vote_of_a_member_that_signs_is_refused_whoever_attests_it() {
    let mut trial = Trial::newest();
    trial.open(signing(ballot(1), "a"));
    let before = trial.fleet.encode();
    match trial.cast(vote(1, "a", Choice::Approve)) {
        Reply::Refused(Refusal::Invalid { field, .. }) => assert_eq!(field, "evidence"),
        other => panic!("{other:?}"),
    }
    assert_eq!((trial.fleet.encode(), trial.effects.len()), (before, 0));
    assert_eq!(trial.cast(vote(1, "b", Choice::Reject)), OPEN, "others need not sign");
    let signed = CastVote { evidence: Some(evidence(b"one")), ..vote(1, "a", Choice::Abstain) };
    assert_eq!(trial.cast(signed), closed_as(BallotOutcome::Rejected));
}

#[test]
fn a_ballot_keeps_the_fleet_and_what_was_asked() {
    let mut trial = Trial::newest();
    trial.open(OpenBallot { fleet: "two".to_owned(), asked: [9; 32], ..ballot(1) });
    let opened = trial.fleet.ballot(id(1)).expect("it is open");
    assert_eq!((opened.fleet.as_str(), opened.asked), ("two", [9; 32]));
}

#[test]
fn an_option_wins_alone() {
    let mut trial = Trial::newest();
    let options = vec!["left".to_owned(), "right".to_owned()];
    trial.open(OpenBallot { options, ..ballot(1) });
    let option = |member: &str, option| CastVote { option, ..vote(1, member, Choice::Approve) };
    for wrong in [option("a", 0), option("a", 3), CastVote { choice: Choice::Reject, ..option("a", 1) }] {
        match trial.cast(wrong) {
            Reply::Refused(Refusal::Invalid { field, .. }) => assert_eq!(field, "option"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(trial.cast(option("a", 2)), OPEN);
    assert_eq!(trial.cast(option("b", 1)), OPEN);
    assert_eq!(trial.cast(option("client:c", 2)), closed_as(BallotOutcome::Approved { option: 2 }));
    assert_eq!(trial.fleet.ballot(id(1)).expect("it is kept").tally().per_option, [1, 2]);
}

#[test]
fn a_ballot_expires_to_the_millisecond_and_is_kept_for_a_week() {
    let mut trial = Trial::newest();
    trial.open(ballot(1));
    trial.cast(vote(1, "a", Choice::Approve));
    trial.after(59_999);
    assert_eq!(outcome(&trial, 1), None);
    trial.after(1);
    assert!(trial.effects.contains(&Effect::BallotClosed { id: id(1) }));
    assert_eq!(outcome(&trial, 1), Some(BallotOutcome::Expired), "silence is not a no");
    let late = Reply::Refused(Refusal::BallotClosed { ballot: id(1) });
    assert_eq!(trial.cast(vote(1, "b", Choice::Approve)), late);
    trial.after(BALLOT_TTL_MS - 1);
    assert_eq!(outcome(&trial, 1), Some(BallotOutcome::Expired));
    trial.after(1);
    assert!(trial.fleet.ballot(id(1)).is_none());
    assert_eq!((trial.fleet.ballot_counts(), trial.fleet.next_due()), (Default::default(), None));
    assert_eq!(trial.cast(vote(1, "a", Choice::Approve)), Reply::Refused(Refusal::UnknownBallot { ballot: id(1) }));
}

#[test]
fn no_vote_counts_after_the_deadline_even_if_its_timer_has_to_wait() {
    let mut trial = Trial::newest();
    let mut effects = Vec::new();
    for n in 0..=MAX_FIRINGS as u128 {
        let waits = PostLetter { receiver: format!("r{}", n % 2), ttl: 60_000, ..letter(n) };
        trial.fleet.apply(trial.stamp(), Command::Mail(MailCommand::Post(waits)), &mut effects);
    }
    trial.open(OpenBallot { ttl: 60_001, ..lone(1) });
    trial.now += 60_001;
    let late = Reply::Refused(Refusal::BallotClosed { ballot: id(1) });
    assert_eq!(trial.cast(vote(1, "client:c", Choice::Approve)), late);
    trial.after(0);
    assert_eq!(outcome(&trial, 1), Some(BallotOutcome::Expired));
}

#[test]
fn the_wall_time_does_not_decide_when_a_ballot_expires() {
    let mut trial = Trial::newest();
    trial.open(ballot(1));
    trial.wall_ahead = 365 * 24 * 3600 * 1000;
    trial.after(59_999);
    assert_eq!(outcome(&trial, 1), None);
}

#[test]
fn an_authority_is_kept_once_and_for_as_long_as_a_vote_refers_to_it() {
    let mut trial = Trial::newest();
    trial.open(ballot(1));
    trial.after(1_000);
    trial.open(ballot(2));
    let signed = |n, member, authority: &[u8]| {
        let evidence = Some(evidence(authority));
        CastVote { evidence, ..vote(n, member, Choice::Approve) }
    };
    trial.cast(signed(1, "a", b"one"));
    trial.cast(signed(1, "b", b"other"));
    trial.cast(signed(2, "a", b"one"));
    trial.cast(signed(2, "b", b"one"));
    let numbers = |trial: &Trial, n| -> Vec<u64> {
        let ballot = trial.fleet.ballot(id(n)).expect("it is kept");
        ballot.votes.iter().filter_map(|vote| Some(vote.evidence.as_ref()?.authority)).collect()
    };
    assert_eq!((numbers(&trial, 1), numbers(&trial, 2)), (vec![1, 2], vec![1, 1]));
    let der = |trial: &Trial, number| trial.fleet.authority(number).map(|authority| authority.der.clone());
    assert_eq!(der(&trial, 1), Some(Bytes::from_static(b"one")));
    let mut snapshot = trial.fleet.begin_snapshot();
    let before = trial.fleet.encode();
    trial.after(BALLOT_TTL_MS);
    assert_eq!((der(&trial, 1), der(&trial, 2)), (None, None));
    while let Some(part) = snapshot.take(&trial.fleet, 1) {
        snapshot.encode(&part);
    }
    assert_eq!(snapshot.finish(), Ok(before), "what was forgotten meanwhile is in it");
    trial.open(ballot(3));
    trial.cast(signed(3, "a", b"one"));
    assert_eq!(numbers(&trial, 3), [3], "a number is not used again");
}

#[test]
fn ballots_are_listed_with_the_newest_first() {
    let mut trial = Trial::newest();
    for n in 1..=5 {
        trial.open(lone(n));
    }
    trial.cast(vote(4, "client:c", Choice::Approve));
    let listed = |before, limit, only_open| -> Vec<u128> {
        trial.fleet.ballots(before, limit, only_open).iter().map(|ballot| ballot.id.0).collect()
    };
    assert_eq!(listed(None, MAX_PAGE, false), [5, 4, 3, 2, 1]);
    assert_eq!(listed(None, MAX_PAGE, true), [5, 3, 2, 1]);
    assert_eq!(listed(None, 2, true), [5, 3]);
    assert_eq!(listed(Some(3), 2, true), [2, 1]);
    assert_eq!(listed(Some(1), 2, false), [0; 0]);
    for (asked, given) in [(0, 1), (3, 3), (usize::MAX, 5)] {
        assert_eq!(listed(None, asked, false).len(), given, "of {asked}");
    }
}

#[test]
fn ballots_and_votes_are_in_snapshots() {
    let mut trial = Trial::newest();
    trial.open(ballot(1));
    trial.open(ballot(2));
    trial.cast(CastVote { evidence: Some(evidence(b"one")), ..vote(1, "b", Choice::Abstain) });
    trial.cast(vote(2, "a", Choice::Approve));
    trial.cast(vote(2, "b", Choice::Approve));
    let mut restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    for n in [1, 2] {
        assert_eq!(restored.ballot(id(n)), trial.fleet.ballot(id(n)));
    }
    assert_eq!(restored.authority(1), trial.fleet.authority(1));
    assert_eq!(restored.next_due(), trial.fleet.next_due());
    assert_eq!(restored.ballot_counts(), trial.fleet.ballot_counts());
    let cast = Command::Ballot(BallotCommand::Cast(vote(1, "a", Choice::Abstain)));
    let closed = closed_as(BallotOutcome::Rejected);
    assert_eq!(restored.apply(trial.stamp(), cast.clone(), &mut Vec::new()), closed);
    assert_eq!(trial.apply(cast), closed);
    assert_eq!(restored.encode(), trial.fleet.encode());
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let mut trial = Trial::newest();
    trial.open(ballot(1));
    let reason = format!("x{}", "é".repeat(MAX_VOTE_REASON_BYTES));
    trial.cast(CastVote { reason, ..vote(1, "a", Choice::Approve) });
    let kept = trial.fleet.ballot(id(1)).and_then(|ballot| Some(ballot.vote_of("a")?.reason.len()));
    assert_eq!(kept, Some(MAX_VOTE_REASON_BYTES - 1));
    let fits = CastVote { reason: text(MAX_VOTE_REASON_BYTES), ..vote(1, "b", Choice::Approve) };
    assert_eq!(fits.clone().within_limits(), fits);
}

/// Returns what casts votes of one member together.
fn together(votes: Vec<CastVote>) -> CastVotes {
    match &BallotCommand::cast_all(votes)[..] {
        [BallotCommand::CastAll(cast)] => cast.clone(),
        other => panic!("one command casts all: {other:?}"),
    }
}

#[test]
fn votes_that_are_cast_together_count_or_are_refused_as_if_each_was_cast_alone() {
    let signed = |n, choice| CastVote { evidence: Some(evidence(b"one")), ..vote(n, "b", choice) };
    let votes = vec![
        signed(1, Choice::Approve),
        signed(9, Choice::Approve),
        signed(2, Choice::Reject),
        signed(1, Choice::Approve),
        signed(2, Choice::Approve),
        CastVote { option: 7, ..signed(3, Choice::Approve) },
        CastVote { reason: text(MAX_VOTE_REASON_BYTES + 1), ..signed(3, Choice::Abstain) },
    ];
    let (mut alone, mut at_once) = (Trial::newest(), Trial::newest());
    for trial in [&mut alone, &mut at_once] {
        for n in 1..=3 {
            trial.open(ballot(n));
        }
    }
    let replies: Vec<Reply> = votes.iter().map(|vote| alone.cast(vote.clone())).collect();
    let cast = Command::Ballot(BallotCommand::CastAll(together(votes.clone())));
    let Reply::VotesCast { votes: counted } = at_once.apply(cast) else { panic!("they are counted") };
    assert_eq!(counted.iter().filter(|counted| counted.refusal.is_some()).count(), 3, "{counted:?}");
    assert_eq!(counted.into_iter().map(CountedVote::into_reply).collect::<Vec<_>>(), replies);
    for n in 1..=3 {
        let (one, other) = (alone.fleet.ballot(id(n)).expect("it is kept"), at_once.fleet.ballot(id(n)));
        let other = other.expect("it is kept");
        let kept = |ballot: &robeing_fleet::Ballot| {
            let votes = ballot.votes.iter();
            votes.map(|vote| (vote.choice, vote.option, vote.reason.clone(), vote.evidence.clone())).collect::<Vec<_>>()
        };
        assert_eq!((kept(one), one.outcome()), (kept(other), other.outcome()), "{n}");
    }
    assert_eq!(alone.fleet.ballot_counts(), at_once.fleet.ballot_counts());
}

#[test]
fn one_command_casts_so_many_votes_of_one_member_that_are_proven_by_the_same() {
    let of = |member: &str, count: usize| -> Vec<CastVote> {
        (0..count as u128).map(|n| vote(n, member, Choice::Approve)).collect()
    };
    let sizes =
        |votes: Vec<CastVote>| BallotCommand::cast_all(votes).iter().map(BallotCommand::votes).collect::<Vec<_>>();
    assert_eq!(sizes(Vec::new()), [0; 0]);
    assert_eq!(sizes(of("a", MAX_VOTES_TOGETHER)), [MAX_VOTES_TOGETHER]);
    assert_eq!(sizes(of("a", MAX_VOTES_TOGETHER + 1)), [MAX_VOTES_TOGETHER, 1]);
    let signed = |authority: &[u8]| CastVote { evidence: Some(evidence(authority)), ..vote(1, "a", Choice::Approve) };
    let attested = CastVote { attested_by: "c-1".to_owned(), ..vote(2, "a", Choice::Approve) };
    let mixed = [of("a", 2), of("b", 2), of("a", 1), vec![attested], vec![signed(b"one"); 2], vec![signed(b"two")]];
    assert_eq!(sizes(mixed.concat()), [2, 2, 1, 1, 2, 1]);
    let again = BallotCommand::cast_all(mixed.concat()).into_iter().flat_map(|command| match command {
        BallotCommand::Cast(vote) => vec![vote],
        BallotCommand::CastAll(cast) => cast.into_votes().collect(),
        BallotCommand::Open(_) => Vec::new(),
    });
    assert_eq!(again.collect::<Vec<_>>(), mixed.concat(), "they are the same, in the same order");

    let mut trial = Trial::newest();
    let most = together(of("a", MAX_VOTES_TOGETHER));
    let one = most.votes[0].clone();
    for wrong in [Vec::new(), vec![one; MAX_VOTES_TOGETHER + 1]] {
        let cast = BallotCommand::CastAll(CastVotes { votes: wrong, ..most.clone() });
        let refused = trial.apply(Command::Ballot(cast));
        assert!(matches!(&refused, Reply::Refused(Refusal::Invalid { field, .. }) if field == "votes"), "{refused:?}");
    }
    let Reply::VotesCast { votes } = trial.apply(Command::Ballot(BallotCommand::CastAll(most))) else {
        panic!("so many are cast")
    };
    assert_eq!(votes.len(), MAX_VOTES_TOGETHER);
}
