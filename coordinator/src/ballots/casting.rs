//! Casts votes.

use std::sync::Arc;

use bytes::Bytes;
use robeing_fleet::{
    Ballot, BallotCommand, BallotId, CastVote, Command, Refusal, Reply, VoteEvidence,
    limits::{MAX_NAME_BYTES, MAX_VOTE_REASON_BYTES},
};
use robeing_net::gate::Caller;
use robeing_proto::v1;
use robeing_votes::cut_reason;

use super::{
    BallotError, Ballots,
    evidence::{Claim, check_signed},
    unexpected,
};
use crate::{
    api::convert::{self, BadField},
    mail::sender_name,
};

const _: () = assert!(MAX_VOTE_REASON_BYTES == robeing_votes::MAX_REASON_BYTES);

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
        // Whoever can call without TLS is trusted, as with everything else.
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

impl Ballots {
    /// Casts the vote of a caller, and returns the ballot as it is then. If the future is dropped, the vote may be cast
    /// nevertheless.
    ///
    /// # Errors
    /// [`BallotError`] if it does not count, or is not known to.
    pub async fn cast(&self, caller: &Caller, request: v1::CastVoteRequest) -> Result<Arc<Ballot>, BallotError> {
        let draft = Draft::check(caller, request)?;
        let id = draft.ballot;
        // Who votes, and on what, never changes, so any state that knows the ballot tells it.
        let ballot = match self.known(id) {
            Some(ballot) => ballot,
            None => self.current(id).await?,
        };
        let Draft { member, choice, option, reason, is_signed, evidence, .. } = draft;
        if ballot.elector(&member).is_none() {
            return Err(BallotError::Refused(Refusal::NotElector { ballot: id, member }));
        }
        let evidence = match is_signed {
            true => Some(self.proven(&ballot, Claim { member: &member, choice, option, reason: &reason, evidence })?),
            false => None,
        };
        let attested_by = self.name.to_string();
        let vote = CastVote { ballot: id, member, choice, option, reason, evidence, attested_by };
        let command = Command::Ballot(BallotCommand::Cast(vote));
        match self.proposer.propose(self.proposer.sender(), [&command]).await?.pop() {
            Some(Reply::VoteCast { existing, .. }) => {
                if !existing {
                    self.observer.ballot_counters.cast(choice);
                }
                self.current(id).await
            }
            reply => Err(unexpected(reply)),
        }
    }
}

#[cfg(test)]
mod tests {
    use robeing_identity::PeerRole;
    use robeing_net::security::PeerIdentity;

    use super::*;
    use crate::identity::fixture::realm;

    #[test]
    fn one_votes_as_oneself_and_without_tls_as_whom_one_says() {
        let member = |role, name| {
            let id = realm().member(role, name).expect("it is a name");
            Caller::Member(Arc::new(PeerIdentity { id, key: [7; 32] }))
        };
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
