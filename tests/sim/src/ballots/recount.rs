//! Counts the votes of a ballot again, by exact fractions and from nothing but what clients are told. It shares no code
//! with the fleet.

use robeing_proto::v1::{
    BallotState, VoteChoice,
    ballot::{Member, Tally, Vote},
};

/// The share of the electorate's weight that must approve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Threshold {
    /// As a client writes it.
    pub text: &'static str,
    /// The upper number of the fraction that it is.
    pub numerator: u64,
    /// The lower number.
    pub denominator: u64,
}

impl Threshold {
    /// Returns whether this much weight of the whole is enough.
    fn is_reached(self, weight: u64, whole: u64) -> bool {
        weight * self.denominator >= self.numerator * whole
    }

    /// Returns whether a text, such as `2/3`, is the same fraction.
    pub fn is(self, text: &str) -> bool {
        let number = |text: &str| text.parse::<u64>().ok();
        let numbers = text.split_once('/').and_then(|(upper, lower)| Some((number(upper)?, number(lower)?)));
        numbers.is_some_and(|(upper, lower)| upper * self.denominator == lower * self.numerator)
    }
}

/// What has become of a ballot: its state, and the option that is approved.
pub type Outcome = (BallotState, u32);

/// What is needed to count the votes of a ballot.
#[derive(Clone, Copy)]
pub struct Recount<'a> {
    /// The threshold.
    pub threshold: Threshold,
    /// The members.
    pub electorate: &'a [Member],
    /// The number of options.
    pub options: usize,
}

impl Recount<'_> {
    fn weight(&self, vote: &Vote) -> u64 {
        let member = self.electorate.iter().find(|member| member.name == vote.member);
        member.map_or(0, |member| u64::from(member.weight))
    }

    fn sum(&self, votes: &[Vote], counts: impl Fn(&Vote) -> bool) -> u64 {
        votes.iter().filter(|vote| counts(vote)).map(|vote| self.weight(vote)).sum()
    }

    fn total(&self) -> u64 {
        self.electorate.iter().map(|member| u64::from(member.weight)).sum()
    }

    /// Returns the numbers of what may be approved.
    fn candidates(&self) -> Vec<u32> {
        if self.options == 0 { vec![0] } else { (1..=self.options as u32).collect() }
    }

    fn approving(&self, votes: &[Vote], option: u32) -> u64 {
        self.sum(votes, |vote| vote.choice() == VoteChoice::Approve && vote.option == option)
    }

    /// Returns what these votes decide; `None`: nothing yet.
    pub fn decided(&self, votes: &[Vote]) -> Option<Outcome> {
        let (total, candidates) = (self.total(), self.candidates());
        let missing = total.saturating_sub(self.sum(votes, |_| true));
        let is_approved = |option: &u32| self.threshold.is_reached(self.approving(votes, *option), total);
        if let Some(option) = candidates.iter().copied().find(is_approved) {
            return Some((BallotState::Approved, option));
        }
        let may_be = |option: &u32| self.threshold.is_reached(self.approving(votes, *option) + missing, total);
        if candidates.iter().any(may_be) { None } else { Some((BallotState::Rejected, 0)) }
    }

    /// Returns whether a tally is that of these votes.
    pub fn is_tally(&self, tally: &Tally, votes: &[Vote]) -> bool {
        let of = |choice: VoteChoice| self.sum(votes, |vote| vote.choice() == choice);
        let [approve, reject, abstain] = [VoteChoice::Approve, VoteChoice::Reject, VoteChoice::Abstain].map(of);
        let per_option: Vec<u64> = (1..=self.options as u32).map(|option| self.approving(votes, option)).collect();
        (tally.approve, tally.reject, tally.abstain, tally.total) == (approve, reject, abstain, self.total())
            && tally.per_option == per_option
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Threshold = Threshold { text: "50%", numerator: 1, denominator: 2 };
    const TWO_THIRDS: Threshold = Threshold { text: "", numerator: 2, denominator: 3 };

    fn electorate(weights: &[u32]) -> Vec<Member> {
        let member = |(n, weight): (usize, &u32)| Member { name: n.to_string(), weight: *weight, ..Member::default() };
        weights.iter().enumerate().map(member).collect()
    }

    /// One vote of each member, in their order: the option that it approves, or -1 to reject, or -2 to abstain.
    fn votes(all: &[i64]) -> Vec<Vote> {
        let vote = |(n, says): (usize, &i64)| {
            let (choice, option) = match *says {
                -1 => (VoteChoice::Reject, 0),
                -2 => (VoteChoice::Abstain, 0),
                option => (VoteChoice::Approve, option as u32),
            };
            Vote { member: n.to_string(), choice: choice.into(), option, ..Vote::default() }
        };
        all.iter().enumerate().map(vote).collect()
    }

    #[test]
    fn a_ballot_is_decided_by_the_weight_of_the_whole_electorate() {
        let of = |threshold, weights: &[u32], says: &[i64]| {
            let electorate = electorate(weights);
            Recount { threshold, electorate: &electorate, options: 0 }.decided(&votes(says))
        };
        let approved = Some((BallotState::Approved, 0));
        let rejected = Some((BallotState::Rejected, 0));
        assert_eq!(of(TWO_THIRDS, &[1, 1, 1], &[0]), None);
        assert_eq!(of(TWO_THIRDS, &[1, 1, 1], &[0, 0]), approved);
        assert_eq!(of(TWO_THIRDS, &[1, 1, 1], &[0, -1]), None);
        assert_eq!(of(TWO_THIRDS, &[1, 1, 1], &[-2, -1]), rejected);
        assert_eq!(of(TWO_THIRDS, &[66, 34], &[0]), None, "66 of 100 are not two thirds");
        assert_eq!(of(TWO_THIRDS, &[67, 33], &[0]), approved);
        assert_eq!(of(HALF, &[1, 2, 3], &[0, 0]), approved);
        assert_eq!(of(HALF, &[1, 2, 3], &[]), None);
    }

    #[test]
    fn options_are_counted_one_by_one() {
        let electorate = electorate(&[1, 1, 1, 1]);
        let recount = Recount { threshold: HALF, electorate: &electorate, options: 2 };
        assert_eq!(recount.decided(&votes(&[1, 2])), None);
        assert_eq!(recount.decided(&votes(&[1, 2, 2])), Some((BallotState::Approved, 2)));
        assert_eq!(recount.decided(&votes(&[1, 2, -1])), None);
        assert_eq!(recount.decided(&votes(&[1, 2, -1, -2])), Some((BallotState::Rejected, 0)));
        let right = Tally { approve: 2, reject: 1, abstain: 0, total: 4, approval_rate: 0.25, per_option: vec![1, 1] };
        assert!(recount.is_tally(&right, &votes(&[1, 2, -1])));
        assert!(!recount.is_tally(&Tally { approve: 3, ..right }, &votes(&[1, 2, -1])));
    }

    #[test]
    fn a_threshold_is_the_same_however_it_is_written() {
        assert!(HALF.is("1/2") && HALF.is("50/100") && TWO_THIRDS.is("2/3"));
        assert!(!HALF.is("2/3") && !HALF.is("50%") && !HALF.is(""));
    }
}
