//! Ballots: questions on which agents and users vote, through any coordinator.
//!
//! A ballot is in the fleet's state, which counts its votes and closes it. Here is what the state machine can't do:
//! find the members that addresses stand for, verify signatures, and wait.
//!
//! ```text
//! api::ballots ─┬─► opening ─► electorate ─┬─► propose ─► the log ─► observer ─┬─► waiters ─┐
//!               ├─► casting ─► evidence ───┘                                   └─► counters │
//!               └─► reading ◄───────────────────────────────────────────────────────────────┘
//! ```
//!
//! - [`opening`] opens a ballot whose members [`electorate`] has found. The agents among them are told by letters,
//!   which the state machine posts together with the ballot.
//! - [`approving`] finds the members of the ballots that tasks wait for, which are opened with their tasks.
//! - [`casting`] casts votes. [`evidence`] verifies them before they are proposed, so that no vote whose signature is
//!   wrong gets into the log, and [`keys`] remembers which keys are proven.
//! - [`reading`] reads ballots, and waits for their ends, by the [`waiters`](crate::apply::waiters).

pub mod approving;
pub mod casting;
pub mod counters;
pub mod electorate;
pub mod evidence;
pub mod keys;
pub mod opening;
pub mod reading;

use std::sync::Arc;

use robeing_fleet::{Ballot, BallotId, Command, Refusal, Reply};
use robeing_platform::Platform;
use robeing_proto::v1;
use robeing_settings::BallotDefaults;
use robeing_votes::VoteError;
use tokio::sync::Semaphore;

use self::evidence::Verifying;
use crate::{
    api::convert::{BadField, bad},
    apply::observer::ApplyObserver,
    disk_space::Rooms,
    mail::MailError,
    propose::{ProposeError, Proposer},
    read::StateReader,
};

/// Maximum number of calls that open ballots at one coordinator at once: each goes through all agents for each address of
/// one ballot after the other.
pub const MAX_OPENING: usize = 16;
/// Maximum number of calls that wait for ballots to close at one coordinator.
pub const MAX_WAITING: usize = 4_096;

/// Why a call about ballots has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BallotError {
    /// A field of the request is invalid.
    #[error(transparent)]
    BadField(#[from] BadField),
    /// The state machine refuses it.
    #[error("{0}")]
    Refused(Refusal),
    /// It was not confirmed to be in the log.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The agents that an address stands for can't be found.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// The state can't be read now.
    #[error("{0}")]
    NotReadable(String),
    /// An address stands for nobody.
    #[error("the address {address:?} of the electorate stands for nobody: {reason}")]
    Nobody {
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
    /// The addresses stand for too many members.
    #[error("the electorate has more than {most} members, the most; name fewer")]
    TooManyElectors {
        /// The limit.
        most: usize,
    },
    /// Too many calls open ballots here.
    #[error("{most} calls are opening ballots here, the most; open yours in a moment, or at another coordinator")]
    TooManyOpening {
        /// The limit.
        most: usize,
    },
    /// Too many callers wait here.
    #[error("{most} calls wait here for ballots to close, the most; ask again later, or at another coordinator")]
    TooManyWaiting {
        /// The limit.
        most: usize,
    },
    /// The caller would vote for someone else.
    #[error("{caller} can't vote as {member}: with a certificate or a token one votes as oneself")]
    OtherMember {
        /// The caller.
        caller: String,
        /// The member that it named.
        member: String,
    },
    /// The vote must be signed, and is not.
    #[error("{member} has a certificate, and an unsigned vote does not count for it: vote with its certificate")]
    Unsigned {
        /// The member.
        member: String,
    },
    /// The digest of the ballot is another one than that of its content: its members may have been asked otherwise.
    #[error("ballot {ballot} has another digest than its content: no vote in it counts; open it again with a new id")]
    OtherContent {
        /// The ballot.
        ballot: BallotId,
    },
    /// The caller is not the process that the certificate of its vote is of, or not any more.
    #[error("the vote is not counted: {problem}")]
    OtherProcess {
        /// Why.
        problem: String,
    },
    /// The agent has to enrol again.
    #[error("the vote is not counted: {problem}")]
    NotEnrolled {
        /// Why.
        problem: String,
    },
    /// The evidence does not prove that the vote is the member's.
    #[error("the vote is not proven to be one of {member}: {problem}")]
    NotProven {
        /// The member.
        member: String,
        /// What is wrong with the evidence.
        problem: VoteError,
    },
    /// The certificate of a signed vote is not of a trusted authority.
    #[error("the vote is not proven to be one of {member}: nobody who is trusted here has issued its certificate")]
    UnknownAuthority {
        /// The member.
        member: String,
    },
}

/// Opens, counts and reads ballots. Cheap to clone.
#[derive(Clone)]
pub struct Ballots {
    pub state: StateReader,
    pub proposer: Proposer,
    pub observer: Arc<ApplyObserver>,
    pub rooms: Arc<Rooms>,
    /// The source of ids.
    pub platform: Platform,
    /// The name of this coordinator, which attests votes.
    pub name: Arc<str>,
    /// The fleet, as votes name it in ballots that are opened here; see [`Ballot::fleet`].
    pub fleet: Arc<str>,
    /// What ballots that are opened here have if their openers do not set it.
    pub defaults: BallotDefaults,
    /// What signed votes are verified with; nothing of it exists without TLS.
    pub verifying: Option<Verifying>,
    /// The room for calls that open ballots.
    pub opening: Arc<Semaphore>,
}

impl Ballots {
    /// Waits until everything that was accepted before the call is applied here.
    async fn catch_up(&self) -> Result<(), BallotError> {
        let ready = self.state.ready_to_read(v1::Consistency::Linearizable.into()).await;
        ready.map_err(|status| BallotError::NotReadable(status.message().to_owned()))
    }

    /// Proposes commands together, and returns their replies in order.
    async fn propose_all(&self, commands: &[Command]) -> Result<Vec<Reply>, BallotError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.proposer.propose(self.proposer.sender(), commands).await?)
    }

    /// Returns a ballot as it is known here.
    fn known(&self, id: BallotId) -> Option<Arc<Ballot>> {
        self.state.look(|fleet| fleet.ballot(id).cloned())
    }

    /// Returns a ballot as it is now.
    async fn current(&self, id: BallotId) -> Result<Arc<Ballot>, BallotError> {
        self.catch_up().await?;
        self.known(id).ok_or(BallotError::Refused(Refusal::UnknownBallot { ballot: id }))
    }
}

/// Refuses a call with none of something, or with more than `most`.
fn check_count(field: &'static str, count: usize, most: usize) -> Result<(), BadField> {
    match (1..=most).contains(&count) {
        true => Ok(()),
        false => Err(bad(field, format!("it has {count} entries, must have 1 to {most}"))),
    }
}

/// Returns the error for a reply that does not belong to the command.
fn unexpected(reply: Option<Reply>) -> BallotError {
    match reply {
        Some(Reply::Refused(refusal)) => BallotError::Refused(refusal),
        Some(Reply::Unreadable { problem }) => BallotError::NotReadable(format!(
            "this was done, but the coordinator can't decode the outcome ({problem}); get the ballot to see it"
        )),
        other => BallotError::NotReadable(format!("unexpected reply {other:?}")),
    }
}
