use proptest::{collection::vec, prelude::*};

use super::{Ballot, BallotOutcome, BallotState, Choice, Elector, Vote, fraction::Fraction};
use crate::{BallotId, Stamp};

fn ballot(weights: &[u32], options: usize, threshold: Fraction) -> Ballot {
    let elector = |(n, weight): (usize, &u32)| {
        let name = format!("m{n:03}");
        Elector { name, weight: *weight, letter: None, signs: false }
    };
    Ballot {
        seq: 1,
        id: BallotId(1),
        opened_by: "client:a".to_owned(),
        question: "Now?".to_owned(),
        options: (0..options).map(|n| format!("option {n}")).collect(),
        electorate: weights.iter().enumerate().map(elector).collect(),
        threshold,
        opened: Stamp::default(),
        expires: 10,
        ttl: 10,
        digest: [1; 32],
        votes: Vec::new(),
        state: BallotState::Open,
        fleet: "one".to_owned(),
        asked: [2; 32],
    }
}

/// Adds the vote of a member, and returns what is decided then.
fn vote(ballot: &mut Ballot, member: usize, choice: Choice, option: u32) -> Option<BallotOutcome> {
    ballot.votes.push(Vote {
        member: format!("m{member:03}"),
        choice,
        option,
        reason: String::new(),
        at: Stamp::default(),
        attested_by: "c".to_owned(),
        evidence: None,
    });
    ballot.decided()
}

const APPROVED: Option<BallotOutcome> = Some(BallotOutcome::Approved { option: 0 });

#[test]
fn a_ballot_is_approved_by_exactly_the_threshold_of_the_whole_electorate() {
    let mut two_of_three = ballot(&[1; 3], 0, Fraction::TWO_THIRDS);
    assert_eq!(two_of_three.decided(), None);
    assert_eq!(vote(&mut two_of_three, 0, Choice::Approve, 0), None);
    assert_eq!(vote(&mut two_of_three, 2, Choice::Approve, 0), APPROVED);
    // 66 of 100 are less than two thirds, and exactly 66 %.
    let percent = Fraction { numerator: 66, denominator: 100 };
    for (threshold, outcome) in [(Fraction::TWO_THIRDS, None), (percent, APPROVED)] {
        let mut weighted = ballot(&[66, 34], 0, threshold);
        assert_eq!(vote(&mut weighted, 0, Choice::Approve, 0), outcome, "{threshold}");
    }
}

#[test]
fn a_ballot_is_rejected_once_the_threshold_is_out_of_reach_and_abstentions_count_for_the_whole() {
    for choice in [Choice::Reject, Choice::Abstain] {
        let mut three = ballot(&[1; 3], 0, Fraction::TWO_THIRDS);
        assert_eq!(vote(&mut three, 0, choice, 0), None, "two may still approve");
        assert_eq!(vote(&mut three, 1, choice, 0), Some(BallotOutcome::Rejected));
    }
    let mut unanimous = ballot(&[1, 1_000], 0, Fraction { numerator: 1, denominator: 1 });
    assert_eq!(vote(&mut unanimous, 1, Choice::Approve, 0), None);
    assert_eq!(vote(&mut unanimous, 0, Choice::Abstain, 0), Some(BallotOutcome::Rejected));
}

#[test]
fn one_option_must_reach_the_threshold_alone() {
    let mut five = ballot(&[1; 5], 3, Fraction { numerator: 3, denominator: 5 });
    for (member, option) in [(0, 1), (1, 2), (2, 1)] {
        assert_eq!(vote(&mut five, member, Choice::Approve, option), None);
    }
    let mut first = five.clone();
    assert_eq!(vote(&mut first, 3, Choice::Approve, 1), Some(BallotOutcome::Approved { option: 1 }));
    assert_eq!(vote(&mut five, 3, Choice::Approve, 2), None, "the last one decides");
    let tally = five.tally();
    assert_eq!((tally.approve, tally.total, tally.missing()), (4, 5, 1));
    assert_eq!(tally.per_option, [2, 2, 0]);
    assert_eq!(vote(&mut five, 4, Choice::Approve, 3), Some(BallotOutcome::Rejected), "although everyone approved one");
}

#[test]
fn an_option_is_named_by_an_approval_if_there_are_options_and_never_else() {
    let (without, with) = (ballot(&[1], 0, Fraction::TWO_THIRDS), ballot(&[1], 2, Fraction::TWO_THIRDS));
    for (ballot, choice, option, is_right) in [
        (&without, Choice::Approve, 0, true),
        (&without, Choice::Approve, 1, false),
        (&without, Choice::Reject, 0, true),
        (&without, Choice::Reject, 1, false),
        (&with, Choice::Approve, 0, false),
        (&with, Choice::Approve, 1, true),
        (&with, Choice::Approve, 2, true),
        (&with, Choice::Approve, 3, false),
        (&with, Choice::Approve, u32::MAX, false),
        (&with, Choice::Reject, 0, true),
        (&with, Choice::Reject, 1, false),
        (&with, Choice::Abstain, 0, true),
        (&with, Choice::Abstain, 1, false),
    ] {
        let refused = ballot.check_option(choice, option);
        assert_eq!(refused.is_ok(), is_right, "{choice:?} of {option}: {refused:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What is rejected stays so, and when all have voted, everything is decided.
    #[test]
    fn votes_decide_as_soon_as_the_others_make_no_difference(
        weights in vec(1..=1_000_u32, 1..12), options in prop_oneof![Just(0_usize), 2..5_usize],
        (numerator, denominator) in (1..100_u32, 1..100_u32), says in vec((0..3_u8, any::<prop::sample::Index>()), 12),
    ) {
        let threshold = Fraction { numerator: numerator.min(denominator), denominator };
        let mut ballot = ballot(&weights, options, threshold);
        let mut decided = None;
        for (member, (says, option)) in (0..weights.len()).zip(&says) {
            let (choice, option) = match says {
                0 if options > 0 => (Choice::Approve, option.index(options) as u32 + 1),
                0 => (Choice::Approve, 0),
                1 => (Choice::Reject, 0),
                _ => (Choice::Abstain, 0),
            };
            let now = vote(&mut ballot, member, choice, option);
            let tally = ballot.tally();
            let most = tally.per_option.iter().max().copied().unwrap_or(tally.approve);
            let reached = most * u64::from(denominator) >= tally.total * u64::from(threshold.numerator);
            prop_assert_eq!(matches!(now, Some(BallotOutcome::Approved { .. })), reached);
            if decided == Some(BallotOutcome::Rejected) {
                prop_assert_eq!(now, decided);
            }
            decided = decided.or(now);
        }
        prop_assert!(decided.is_some());
    }
}
