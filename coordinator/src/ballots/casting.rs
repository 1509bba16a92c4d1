//! Casts votes.

use std::sync::Arc;

use bytes::Bytes;
use robeing_fleet::{
    Ballot, BallotCommand, BallotId, BallotOutcome, BallotState, CastVote, Command, CountedVote, Elector, Fleet,
    Refusal, Reply, Stamp, StoredEvidence, Vote, VoteEvidence,
    limits::{MAX_NAME_BYTES, MAX_VOTE_REASON_BYTES},
    sabotage::{Mistake, planted},
};
use robeing_net::gate::Caller;
use robeing_proto::v1;
use robeing_votes::{MAX_SIGNED_TOGETHER, Signatures, cut_reason};
use tokio::task::yield_now;

use super::{
    BallotError, Ballots, check_count,
    evidence::{Claim, check_content, check_key, check_signed},
    unexpected,
};
use crate::{
    api::convert::{self, BadField},
    mail::sender_name,
};

const _: () = assert!(MAX_VOTE_REASON_BYTES == robeing_votes::MAX_REASON_BYTES);

/// Number of votes that are verified before other calls have their turn. Each may need several signatures verified, which
/// takes about a millisecond.
const VERIFIED_IN_A_ROW: usize = 8;

/// A vote as it is proposed, with its ballot, or why it does not count.
type Checked = Result<(Arc<Ballot>, CastVote), BallotError>;

/// A vote as its caller has cast it, checked as far as it can be without the ballot.
#[derive(Debug)]
struct Draft {
    ballot: BallotId,
    member: String,
    choice: robeing_fleet::Choice,
    option: u32,
    reason: String,
    is_signed: bool,
    evidence: VoteEvidence,
}

impl Draft {
    fn check(caller: &Caller, request: v1::CastVoteRequest) -> Result<Self, BallotError> {
        let v1::CastVoteRequest { ballot, choice, option, reason, envelope, binding, certificate, member } = request;
        let ballot = convert::ballot_id("ballot", &ballot)?;
        let choice = convert::vote_choice(choice)?;
        let member = member_of(caller, member)?;
        let evidence = VoteEvidence { envelope, binding, certificate, authority: Bytes::new() };
        let is_signed = check_signed(caller, &evidence)?;
        let reason = checked_reason(reason, is_signed)?;
        Ok(Self { ballot, member, choice, option, reason, is_signed, evidence })
    }
}

/// Returns the name of the member that votes: the caller's, unless that has none.
fn member_of(caller: &Caller, named: String) -> Result<String, BallotError> {
    if named.len() > MAX_NAME_BYTES {
        let problem = format!("it has {} bytes, the most is {MAX_NAME_BYTES}", named.len());
        return Err(convert::bad("member", problem).into());
    }
    let caller_name = sender_name(caller);
    match caller {
        _ if named.is_empty() || named == caller_name => Ok(caller_name),
        // Whoever can call without TLS is trusted, as with everything else, but not to vote for an agent that has a
        // certificate: that is checked when the ballot is known.
        Caller::Plaintext => Ok(named),
        Caller::Member(_) | Caller::User(_) | Caller::Anonymous => {
            let member = convert::excerpt(&named).to_owned();
            Err(BallotError::OtherMember { caller: caller_name, member })
        }
    }
}

/// Returns a reason that is not too long. One that is signed can't be cut.
fn checked_reason(reason: String, is_signed: bool) -> Result<String, BadField> {
    if reason.len() <= MAX_VOTE_REASON_BYTES {
        return Ok(reason);
    }
    if is_signed {
        let (bytes, most) = (reason.len(), MAX_VOTE_REASON_BYTES);
        let problem = format!("it has {bytes} bytes, the most is {most}; cut it, and sign what is left");
        return Err(convert::bad("reason", problem));
    }
    Ok(cut_reason(&reason).to_owned())
}

/// Returns a vote with the binding and the certificate that all votes of a request have, if it is signed and has none of
/// its own.
fn with_shared(mut vote: v1::CastVoteRequest, binding: &Bytes, certificate: &Bytes) -> v1::CastVoteRequest {
    let is_signed = !vote.envelope.is_empty();
    for (own, shared) in [(&mut vote.binding, binding), (&mut vote.certificate, certificate)] {
        if is_signed && own.is_empty() {
            own.clone_from(shared);
        }
    }
    vote
}

impl Ballots {
    /// Casts the vote of a caller, and returns the ballot as it is then. If the future is dropped, the vote may be cast
    /// nevertheless.
    ///
    /// # Errors
    /// [`BallotError`] if it does not count, or is not known to.
    pub async fn cast(&self, caller: &Caller, request: v1::CastVoteRequest) -> Result<Arc<Ballot>, BallotError> {
        let draft = Draft::check(caller, request)?;
        let id = draft.ballot;
        let checked = self.check_all(caller, vec![Ok(draft)]).await?.pop();
        let (ballot, vote) = checked.unwrap_or_else(|| Err(unexpected(None)))?;
        let (existing, outcome) = match self.propose_votes(vec![vote.clone()]).await?.pop() {
            Some(Reply::VoteCast { existing, outcome }) => (existing, outcome),
            reply => return Err(unexpected(reply)),
        };
        // A state that has the vote has everything that was accepted before it.
        let has_vote = |ballot: &Arc<Ballot>| ballot.vote_of(&vote.member).is_some();
        if let Some(ballot) = self.known(id).filter(has_vote).filter(|_| !existing) {
            return Ok(ballot);
        }
        match self.current(id).await {
            // The vote counts, but the ballot is closed and dropped already, to make room.
            Err(BallotError::Refused(Refusal::UnknownBallot { .. })) => {
                let now = self.state.look(Fleet::now);
                Ok(Arc::new(with_vote((*ballot).clone(), vote, outcome, now)))
            }
            ballot => ballot,
        }
    }

    /// Casts several votes of a caller. Returns for each, in the same order, what became of its ballot by then (`None`: it
    /// is open), or why it does not count. If the future is dropped, the votes may be cast nevertheless.
    ///
    /// # Errors
    /// [`BallotError`] if none of them counts, or it is not known which of them do.
    pub async fn cast_all(
        &self,
        caller: &Caller,
        request: v1::CastVotesRequest,
    ) -> Result<Vec<Result<Option<BallotOutcome>, BallotError>>, BallotError> {
        let v1::CastVotesRequest { votes, binding, certificate } = request;
        // Votes that are signed together are cast by one call, so that their signature is verified once.
        check_count("votes", votes.len(), MAX_SIGNED_TOGETHER)?;
        let draft = |vote| Draft::check(caller, with_shared(vote, &binding, &certificate));
        let drafts: Vec<Result<Draft, BallotError>> = votes.into_iter().map(draft).collect();
        let checked = self.check_all(caller, drafts).await?;
        let mut votes = Vec::with_capacity(checked.len());
        let take = |one: Checked| one.map(|(_, vote)| votes.push(vote));
        let checked: Vec<Result<(), BallotError>> = checked.into_iter().map(take).collect();
        let mut replies = self.propose_votes(votes).await?.into_iter();
        let mut counted = |()| match replies.next() {
            Some(Reply::VoteCast { outcome, .. }) => Ok(outcome),
            reply => Err(unexpected(reply)),
        };
        Ok(checked.into_iter().map(|one| one.and_then(&mut counted)).collect())
    }

    /// Checks votes of a caller in their ballots, and returns them in the same order.
    ///
    /// # Errors
    /// [`BallotError`] if the caller may not vote now, or an unknown ballot can't be looked for.
    async fn check_all(
        &self,
        caller: &Caller,
        mut drafts: Vec<Result<Draft, BallotError>>,
    ) -> Result<Vec<Checked>, BallotError> {
        if let Caller::Member(peer) = caller {
            self.check_enrolled(peer).await?;
        }
        check_keys(caller, &mut drafts);
        // Who votes, and on what, never changes, so any state that knows a ballot has it.
        if drafts.iter().flatten().any(|draft| self.known(draft.ballot).is_none()) {
            self.catch_up().await?;
        }
        let (mut checked, mut signatures) = (Vec::with_capacity(drafts.len()), Signatures::default());
        for (place, draft) in (1_usize..).zip(drafts) {
            checked.push(draft.and_then(|draft| self.checked(draft, &mut signatures)));
            if place.is_multiple_of(VERIFIED_IN_A_ROW) {
                yield_now().await;
            }
        }
        Ok(checked)
    }

    /// Proposes votes together, and returns the reply to each.
    async fn propose_votes(&self, votes: Vec<CastVote>) -> Result<Vec<Reply>, BallotError> {
        let commands = BallotCommand::cast_all(votes);
        let counts: Vec<usize> = commands.iter().map(BallotCommand::votes).collect();
        let commands: Vec<Command> = commands.into_iter().map(Command::Ballot).collect();
        let replies = self.propose_all(&commands).await?;
        let of_votes = |(count, reply): (usize, Reply)| match reply {
            Reply::VotesCast { votes } => votes.into_iter().map(CountedVote::into_reply).collect::<Vec<_>>(),
            // To a single vote, or to all of a command.
            reply => vec![reply; count],
        };
        Ok(counts.into_iter().zip(replies).flat_map(of_votes).collect())
    }

    /// Checks a vote in its ballot, as that is known here.
    fn checked(&self, draft: Draft, signatures: &mut Signatures) -> Checked {
        let Draft { ballot: id, member, choice, option, reason, is_signed, evidence } = draft;
        let ballot = self.known(id).ok_or(BallotError::Refused(Refusal::UnknownBallot { ballot: id }))?;
        check_content(&ballot)?;
        let elector = ballot.elector(&member);
        if elector.is_none() && !planted(Mistake::OutsiderVotes) {
            return Err(BallotError::Refused(Refusal::NotElector { ballot: id, member }));
        }
        let signs = |elector: &Elector| elector.signs || (elector.letter.is_some() && self.has_certificate(&member));
        let evidence = if is_signed {
            let claim = Claim { member: &member, choice, option, reason: &reason, evidence };
            Some(self.proven(&ballot, claim, signatures)?)
        } else if elector.is_some_and(signs) {
            return Err(BallotError::Unsigned { member });
        } else {
            None
        };
        let attested_by = self.name.to_string();
        Ok((ballot, CastVote { ballot: id, member, choice, option, reason, evidence, attested_by }))
    }
}

/// Refuses the votes whose certificates are not of the key with which their caller has connected.
fn check_keys(caller: &Caller, drafts: &mut [Result<Draft, BallotError>]) {
    let Caller::Member(peer) = caller else { return };
    // As a rule, all have the same one.
    let mut right = Bytes::new();
    for draft in drafts {
        let Ok(Draft { evidence: VoteEvidence { certificate, .. }, .. }) = &*draft else { continue };
        if *certificate == right {
            continue;
        }
        let certificate = certificate.clone();
        match check_key(peer, &certificate) {
            Ok(()) => right = certificate,
            Err(error) => *draft = Err(error),
        }
    }
}

/// Returns a ballot with a vote that counts, and what became of it by then.
fn with_vote(mut ballot: Ballot, vote: CastVote, outcome: Option<BallotOutcome>, at: Stamp) -> Ballot {
    let CastVote { ballot: _, member, choice, option, reason, evidence, attested_by } = vote;
    if ballot.vote_of(&member).is_none() {
        // Nobody is told the number of the authority, but whether there is evidence.
        let stored = |evidence: VoteEvidence| {
            let VoteEvidence { envelope, binding, certificate, authority: _ } = evidence;
            StoredEvidence { envelope, binding, certificate, authority: 0 }
        };
        let evidence = evidence.map(stored);
        ballot.votes.push(Vote { member, choice, option, reason, at, attested_by, evidence });
    }
    if let (true, Some(outcome)) = (ballot.is_open(), outcome) {
        ballot.state = BallotState::Closed { outcome, at };
    }
    ballot
}

#[cfg(test)]
mod tests {
    use robeing_identity::PeerRole;

    use super::*;
    use crate::{fixture::closed_ballot, identity::fixture::member};

    #[test]
    fn a_vote_that_counts_is_in_the_answer_although_the_ballot_is_dropped() {
        let closed = closed_ballot(7);
        let open = Ballot { state: BallotState::Open, votes: Vec::new(), ..(*closed).clone() };
        let evidence = Some(VoteEvidence {
            envelope: Bytes::from_static(b"signed"),
            binding: Bytes::from_static(b"bound"),
            certificate: Bytes::from_static(b"certified"),
            authority: Bytes::from_static(b"authority"),
        });
        let vote = CastVote {
            ballot: BallotId(7),
            member: "client:ann".to_owned(),
            choice: robeing_fleet::Choice::Approve,
            option: 0,
            reason: String::new(),
            evidence,
            attested_by: "c-0".to_owned(),
        };
        let outcome = BallotOutcome::Approved { option: 0 };
        let counted = with_vote(open.clone(), vote.clone(), Some(outcome), Stamp::at(9));
        assert_eq!((counted.votes.len(), counted.outcome()), (1, Some(outcome)));
        assert!(counted.votes[0].evidence.is_some());
        let undecided = with_vote(open, vote.clone(), None, Stamp::at(9));
        assert_eq!((undecided.votes.len(), undecided.is_open()), (1, true));
        let again = with_vote((*closed).clone(), vote, Some(outcome), Stamp::at(9));
        assert_eq!(again, *closed, "what was known is not changed");
    }

    #[test]
    fn one_votes_as_oneself_and_without_tls_as_whom_one_says() {
        let (agent, client) = (member(PeerRole::Worker, "a"), member(PeerRole::Client, "ann"));
        let user = Caller::user("ann");
        let of = |caller: &Caller, named: &str| member_of(caller, named.to_owned()).ok();
        for (caller, name) in [(&agent, "a"), (&client, "client:ann"), (&user, "client:ann")] {
            assert_eq!(of(caller, ""), Some(name.to_owned()));
            assert_eq!(of(caller, name), Some(name.to_owned()));
            assert_eq!(of(caller, "b"), None, "{name} is not b");
        }
        assert_eq!(of(&Caller::Plaintext, "b"), Some("b".to_owned()));
        assert_eq!(of(&Caller::Plaintext, ""), Some("client:anonymous".to_owned()));
        assert_eq!(of(&Caller::Anonymous, "b"), None);
        let long = "n".repeat(MAX_NAME_BYTES);
        assert_eq!(of(&Caller::Plaintext, &long), Some(long.clone()));
        assert_eq!(of(&Caller::Plaintext, &format!("{long}n")), None);
    }

    #[test]
    fn a_long_reason_is_cut_unless_it_is_signed() {
        let reason = |bytes: usize, is_signed| checked_reason("r".repeat(bytes), is_signed).map(|cut| cut.len()).ok();
        assert_eq!(reason(MAX_VOTE_REASON_BYTES, true), Some(MAX_VOTE_REASON_BYTES));
        assert_eq!(reason(MAX_VOTE_REASON_BYTES + 1, false), Some(MAX_VOTE_REASON_BYTES));
        assert_eq!(reason(MAX_VOTE_REASON_BYTES + 1, true), None);
    }
}
