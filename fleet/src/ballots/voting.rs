//! How votes are cast, and how ballots are closed.

use bytes::Bytes;

use super::{
    Ballot, BallotOutcome, BallotState, KnownAuthority, StoredEvidence, Vote,
    command::{CastVote, VoteEvidence},
};
use crate::{
    Effect, Fleet, Refusal, Reply,
    config::invalid,
    limits::MAX_VOTE_AUTHORITIES,
    sabotage::{Mistake, planted},
};

impl Fleet {
    pub(super) fn cast_vote(&mut self, cast: CastVote, effects: &mut Vec<Effect>) -> Reply {
        let seq = match self.ballot_to_vote_on(&cast) {
            Ok(seq) => seq,
            Err(reply) => return reply,
        };
        let CastVote { ballot: id, member, choice, option, reason, evidence, attested_by } = cast;
        let evidence = evidence.map(|evidence| self.store(evidence));
        let at = self.state.now;
        let vote = Vote { member, choice, option, reason, at, attested_by, evidence };
        let outcome = self.change_ballot(seq, |ballot| {
            ballot.votes.push(vote);
            let outcome = ballot.decided()?;
            ballot.state = BallotState::Closed { outcome, at };
            Some(outcome)
        });
        let outcome = outcome.flatten();
        effects.push(Effect::VoteCast { id, choice });
        if let Some(outcome) = outcome {
            effects.push(Effect::BallotClosed { id });
            self.ballot_decided(id, outcome, effects);
        }
        Reply::VoteCast { existing: false, outcome }
    }

    /// Returns the number of the ballot in which this vote counts; else the reply: a refusal, or what became of the same
    /// vote before.
    fn ballot_to_vote_on(&self, cast: &CastVote) -> Result<u64, Reply> {
        let refused = |refusal| Err(Reply::Refused(refusal));
        let id = cast.ballot;
        if let Err(refusal) = cast.check() {
            return refused(refusal);
        }
        let Some(ballot) = self.ballot(id) else {
            return refused(Refusal::UnknownBallot { ballot: id });
        };
        let elector = ballot.elector(&cast.member);
        if elector.is_none() && !planted(Mistake::OutsiderVotes) {
            return refused(Refusal::NotElector { ballot: id, member: cast.member.clone() });
        }
        if let Some(vote) = ballot.vote_of(&cast.member).filter(|_| !planted(Mistake::VoteCountedTwice)) {
            return match vote.is_same_as(cast) {
                true => Err(Reply::VoteCast { existing: true, outcome: ballot.outcome() }),
                false => refused(Refusal::AlreadyVoted { ballot: id, member: cast.member.clone() }),
            };
        }
        // The timer of its deadline may have to wait for the next command, if very many are due.
        let is_over = !ballot.is_open() || ballot.expires <= self.state.now.fleet;
        if is_over && !planted(Mistake::OutcomeRecomputed) {
            return refused(Refusal::BallotClosed { ballot: id });
        }
        // Whichever coordinator proposes it: none of them alone can let an unsigned vote count for such a member.
        if elector.is_some_and(|elector| elector.signs) && cast.evidence.is_none() {
            let problem = format!("is missing: in this ballot, {} signs its vote with its certificate", cast.member);
            return refused(invalid("evidence", problem));
        }
        let checked = ballot.check_option(cast.choice, cast.option).and_then(|()| self.check_authority_room(cast));
        match checked {
            Ok(()) => Ok(ballot.seq),
            Err(refusal) => refused(refusal),
        }
    }

    /// Refuses a vote whose authority is not kept yet if there is no room for another one.
    fn check_authority_room(&self, cast: &CastVote) -> Result<(), Refusal> {
        let Some(evidence) = &cast.evidence else { return Ok(()) };
        let is_known = self.indexes.ballots.numbers.get(&evidence.authority).is_some();
        if is_known || self.state.ballots.authorities.len() < MAX_VOTE_AUTHORITIES {
            return Ok(());
        }
        Err(Refusal::Full {
            what: "authorities that have issued certificates of voters".to_owned(),
            limit: MAX_VOTE_AUTHORITIES as u64,
            remedy: "vote with a certificate of an authority that is known, or when ballots are forgotten".to_owned(),
        })
    }

    /// Returns the evidence as it is kept, with the number of its authority, which is kept once.
    fn store(&mut self, evidence: VoteEvidence) -> StoredEvidence {
        let VoteEvidence { envelope, binding, certificate, authority } = evidence;
        StoredEvidence { envelope, binding, certificate, authority: self.number_of_authority(authority) }
    }

    fn number_of_authority(&mut self, der: Bytes) -> u64 {
        if let Some(number) = self.indexes.ballots.numbers.get(&der) {
            return *number;
        }
        let since = self.state.now;
        let authority = self.state.ballots.authorities.add(|number| KnownAuthority { number, der, since });
        self.indexes.ballots.enter_authority(authority);
        authority.number
    }

    /// Changes a ballot and updates the indexes. Does nothing if there is no such ballot.
    fn change_ballot<R>(&mut self, seq: u64, change: impl FnOnce(&mut Ballot) -> R) -> Option<R> {
        let indexes = &mut self.indexes;
        self.state.ballots.kept.change(seq, &self.snapshots, |ballot| {
            indexes.leave_ballot(ballot);
            let result = change(ballot);
            indexes.enter_ballot(ballot);
            result
        })
    }

    /// Closes a ballot whose deadline has passed, or forgets a closed one.
    pub(crate) fn ballot_due(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        let Some(ballot) = self.state.ballots.kept.get(seq) else { return };
        if !ballot.is_open() {
            return self.forget_ballot(seq);
        }
        let (id, at) = (ballot.id, self.state.now);
        // The timer that fires is no longer among the timers. It is set again with the ballot's new state.
        self.change_ballot(seq, |ballot| {
            ballot.state = BallotState::Closed { outcome: BallotOutcome::Expired, at };
        });
        effects.push(Effect::BallotClosed { id });
        self.ballot_decided(id, BallotOutcome::Expired, effects);
    }
}
