//! Ballots and their votes.

use bytes::Bytes;
use robeing_fleet::{Ballot, BallotOutcome, BallotState, Choice, Elector, Stamp, Tally, Vote};
use robeing_proto::v1;

use super::{BadField, bad, due, happened};
use crate::ballots::reading::Authorities;

/// Reads a choice.
///
/// # Errors
/// If it is none.
pub fn vote_choice(choice: i32) -> Result<Choice, BadField> {
    match v1::VoteChoice::try_from(choice) {
        Ok(v1::VoteChoice::Approve) => Ok(Choice::Approve),
        Ok(v1::VoteChoice::Reject) => Ok(Choice::Reject),
        Ok(v1::VoteChoice::Abstain) => Ok(Choice::Abstain),
        Ok(v1::VoteChoice::Unspecified) | Err(_) => {
            Err(bad("choice", format!("it is {choice}, which is no choice; approve, reject or abstain")))
        }
    }
}

fn choice(choice: Choice) -> v1::VoteChoice {
    match choice {
        Choice::Approve => v1::VoteChoice::Approve,
        Choice::Reject => v1::VoteChoice::Reject,
        Choice::Abstain => v1::VoteChoice::Abstain,
    }
}

/// Converts what became of a ballot (`None`: it is open) to its state and the approved option.
pub fn ballot_state(outcome: Option<BallotOutcome>) -> (v1::BallotState, u32) {
    match outcome {
        None => (v1::BallotState::Open, 0),
        Some(BallotOutcome::Approved { option }) => (v1::BallotState::Approved, option),
        Some(BallotOutcome::Rejected) => (v1::BallotState::Rejected, 0),
        Some(BallotOutcome::Expired) => (v1::BallotState::Expired, 0),
    }
}

/// Converts a ballot to its API form, as of `now`. What proves the votes is left out unless the authorities that they
/// refer to are given.
pub fn ballot(ballot: &Ballot, now: Stamp, authorities: Option<&Authorities>) -> v1::Ballot {
    let (state, option) = ballot_state(ballot.outcome());
    let closed_at = match &ballot.state {
        BallotState::Open => None,
        BallotState::Closed { at, .. } => Some(happened(*at)),
    };
    v1::Ballot {
        id: ballot.id.to_string(),
        question: ballot.question.clone(),
        options: ballot.options.clone(),
        electorate: ballot.electorate.iter().map(member).collect(),
        threshold: ballot.threshold.to_string(),
        opened_by: ballot.opened_by.clone(),
        opened_at: Some(happened(ballot.opened)),
        expires_at: Some(due(ballot.expires, now)),
        closed_at,
        state: state.into(),
        option,
        votes: ballot.votes.iter().map(|cast| vote(cast, authorities)).collect(),
        tally: Some(tally(ballot.tally())),
        digest: Bytes::copy_from_slice(&ballot.digest),
        fleet: ballot.fleet.clone(),
        ttl_ms: ballot.ttl,
    }
}

fn member(elector: &Elector) -> v1::ballot::Member {
    let Elector { name, weight, letter, signs } = elector;
    v1::ballot::Member { name: name.clone(), weight: *weight, agent: letter.is_some(), signs: *signs }
}

fn vote(vote: &Vote, authorities: Option<&Authorities>) -> v1::ballot::Vote {
    let told = v1::ballot::Vote {
        member: vote.member.clone(),
        choice: choice(vote.choice).into(),
        option: vote.option,
        reason: vote.reason.clone(),
        at: Some(happened(vote.at)),
        attested_by: vote.attested_by.clone(),
        signed: vote.evidence.is_some(),
        ..v1::ballot::Vote::default()
    };
    let Some((authorities, evidence)) = authorities.zip(vote.evidence.as_ref()) else { return told };
    v1::ballot::Vote {
        envelope: evidence.envelope.clone(),
        binding: evidence.binding.clone(),
        certificate: evidence.certificate.clone(),
        authority: authorities.get(&evidence.authority).cloned().unwrap_or_default(),
        ..told
    }
}

fn tally(tally: Tally) -> v1::ballot::Tally {
    let Tally { approve, reject, abstain, total, per_option } = tally;
    let most = per_option.iter().copied().max().unwrap_or(approve);
    // Weights are small, so that this is as exact as the result.
    let approval_rate = if total == 0 { 0.0 } else { most as f64 / total as f64 };
    v1::ballot::Tally { approve, reject, abstain, total, approval_rate, per_option }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::closed_ballot;

    #[test]
    fn every_choice_is_read_and_others_are_refused() {
        for of in [Choice::Approve, Choice::Reject, Choice::Abstain] {
            assert_eq!(vote_choice(choice(of).into()), Ok(of));
        }
        assert!(vote_choice(0).is_err() && vote_choice(4).is_err());
    }

    #[test]
    fn the_approval_rate_is_that_of_the_best_option_over_the_whole_electorate() {
        let rate = |approve, per_option: &[u64]| {
            let (total, per_option) = (8, per_option.to_vec());
            tally(Tally { approve, reject: 1, abstain: 0, total, per_option }).approval_rate
        };
        assert_eq!([rate(4, &[]), rate(4, &[1, 3]), rate(0, &[0, 0])], [0.5, 0.375, 0.0]);
    }

    #[test]
    fn a_ballot_that_has_closed_says_when_and_how() {
        let closed = closed_ballot(7);
        let told = ballot(&closed, Stamp::at(9), None);
        assert_eq!((told.id.clone(), told.state()), (closed.id.to_string(), v1::BallotState::Approved));
        assert!(told.closed_at.is_some());
        assert_eq!((told.fleet.as_str(), told.digest.len(), told.votes.len()), ("fleet", 32, 1));
        assert!(!told.votes[0].signed && told.votes[0].envelope.is_empty());
        assert!(!told.electorate[0].agent);
    }
}
