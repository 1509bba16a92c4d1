//! Votes of one member that one command casts. What proves all of them is in the log once.

use bilrost::Message;
use bytes::Bytes;

use super::{
    BallotOutcome, Choice,
    command::{BallotCommand, CastVote, VoteEvidence},
};
use crate::{BallotId, Effect, Fleet, Refusal, Reply, config::invalid, limits::MAX_VOTES_TOGETHER};

/// Votes of one member, as they are cast. Each counts, or is refused, as if it was cast alone after those before it.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct CastVotes {
    /// The member's name in the electorates.
    #[bilrost(1)]
    pub member: String,
    /// The name of the coordinator that checked who casts the votes.
    #[bilrost(2)]
    pub attested_by: String,
    /// What binds the key that signed the votes to the certificate; empty if none is signed.
    #[bilrost(3)]
    pub binding: Bytes,
    /// The member's certificate, DER; empty if none is signed.
    #[bilrost(4)]
    pub certificate: Bytes,
    /// The certificate of the authority that issued it, DER; empty if none is signed.
    #[bilrost(5)]
    pub authority: Bytes,
    /// The votes: 1 to [`MAX_VOTES_TOGETHER`].
    #[bilrost(6)]
    pub votes: Vec<MemberVote>,
}

/// One of several votes of a member.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct MemberVote {
    /// The ballot.
    #[bilrost(1)]
    pub ballot: BallotId,
    /// What it says.
    #[bilrost(2)]
    pub choice: Choice,
    /// The number of the option that it approves, from 1; 0 if the ballot has none, or the vote does not approve.
    #[bilrost(3)]
    pub option: u32,
    /// Why; cut as that of a vote that is cast alone.
    #[bilrost(4)]
    pub reason: String,
    /// The signed vote; empty if the coordinator only attests to it.
    #[bilrost(5)]
    pub envelope: Bytes,
}

/// What became of one of several votes.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct CountedVote {
    /// The same vote had been cast before.
    #[bilrost(1)]
    pub existing: bool,
    /// The ballot's outcome now; `None` while it is open, or if the vote is refused.
    #[bilrost(2)]
    pub outcome: Option<BallotOutcome>,
    /// Why the vote is refused; `None`: it counts.
    #[bilrost(3)]
    pub refusal: Option<Refusal>,
}

impl CastVotes {
    /// Creates the command of one vote.
    fn of(vote: CastVote) -> Self {
        let CastVote { ballot, member, choice, option, reason, evidence, attested_by } = vote;
        let (envelope, [binding, certificate, authority]) = match evidence {
            Some(VoteEvidence { envelope, binding, certificate, authority }) => {
                (envelope, [binding, certificate, authority])
            }
            None => Default::default(),
        };
        let votes = vec![MemberVote { ballot, choice, option, reason, envelope }];
        Self { member, attested_by, binding, certificate, authority, votes }
    }

    /// Adds the votes of another command, unless they are another member's, are proven by something else, or would be too
    /// many. Returns them then.
    fn add(&mut self, other: Self) -> Option<Self> {
        let are_alike = (&self.member, &self.attested_by) == (&other.member, &other.attested_by)
            && (&self.binding, &self.certificate) == (&other.binding, &other.certificate)
            && self.authority == other.authority;
        if !are_alike || self.votes.len() + other.votes.len() > MAX_VOTES_TOGETHER {
            return Some(other);
        }
        self.votes.extend(other.votes);
        None
    }

    /// Returns the votes as they are cast alone, in order.
    pub fn into_votes(self) -> impl Iterator<Item = CastVote> {
        let Self { member, attested_by, binding, certificate, authority, votes } = self;
        votes.into_iter().map(move |MemberVote { ballot, choice, option, reason, envelope }| {
            let evidence = (!envelope.is_empty()).then(|| VoteEvidence {
                envelope,
                binding: binding.clone(),
                certificate: certificate.clone(),
                authority: authority.clone(),
            });
            let (member, attested_by) = (member.clone(), attested_by.clone());
            CastVote { ballot, member, choice, option, reason, evidence, attested_by }
        })
    }
}

impl BallotCommand {
    /// Returns the commands that cast these votes, in the same order. Votes of one member that follow each other, and are
    /// proven by the same, are cast by one command.
    pub fn cast_all(votes: Vec<CastVote>) -> Vec<Self> {
        let mut together: Vec<CastVotes> = Vec::new();
        for vote in votes {
            let vote = CastVotes::of(vote);
            let rest = match together.last_mut() {
                Some(last) => last.add(vote),
                None => Some(vote),
            };
            together.extend(rest);
        }
        let mut commands = Vec::with_capacity(together.len());
        for cast in together {
            if cast.votes.len() > 1 {
                commands.push(Self::CastAll(cast));
            } else {
                commands.extend(cast.into_votes().map(Self::Cast));
            }
        }
        commands
    }

    /// Returns how many votes the command casts.
    pub fn votes(&self) -> usize {
        match self {
            Self::Open(_) => 0,
            Self::Cast(_) => 1,
            Self::CastAll(cast) => cast.votes.len(),
        }
    }
}

impl CountedVote {
    /// Returns what a vote became whose command has this reply.
    fn of(reply: Reply) -> Self {
        match reply {
            Reply::VoteCast { existing, outcome } => Self { existing, outcome, refusal: None },
            Reply::Refused(refusal) => Self { existing: false, outcome: None, refusal: Some(refusal) },
            // No vote has another reply.
            other => {
                let refusal = Refusal::Unreadable { problem: format!("unexpected reply {other:?}") };
                Self { existing: false, outcome: None, refusal: Some(refusal) }
            }
        }
    }

    /// Returns the reply to the same vote, cast alone.
    pub fn into_reply(self) -> Reply {
        match self {
            Self { refusal: Some(refusal), .. } => Reply::Refused(refusal),
            Self { existing, outcome, refusal: None } => Reply::VoteCast { existing, outcome },
        }
    }
}

impl Fleet {
    /// Casts the votes of one member, one after the other.
    pub(super) fn cast_votes(&mut self, cast: CastVotes, effects: &mut Vec<Effect>) -> Reply {
        let count = cast.votes.len();
        if !(1..=MAX_VOTES_TOGETHER).contains(&count) {
            let problem = format!("has {count} entries, must have 1 to {MAX_VOTES_TOGETHER}");
            return Reply::Refused(invalid("votes", problem));
        }
        let count = |vote: CastVote| CountedVote::of(self.cast_vote(vote.within_limits(), effects));
        Reply::VotesCast { votes: cast.into_votes().map(count).collect() }
    }
}
