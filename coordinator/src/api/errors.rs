//! The gRPC code of each error.

use std::{error::Error, time::Duration};

use robeing_fleet::{Refusal, Reply, Role};
use robeing_net::pushback::again_in;
use robeing_proto::v1;
use tonic::{Code, Status, metadata::MetadataValue};

use crate::{
    api::convert::{self, BadField},
    archive::Unread,
    ballots::BallotError,
    leader::membership_change::ChangeError,
    mail::MailError,
    propose::ProposeError,
    resources::ResourceError,
    schedules::ScheduleError,
    teams::TeamError,
};

/// The metadata key that marks the response of a coordinator that does not lead.
const NOT_LEADER: &str = "robeing-not-leader";

/// When a call that opens ballots may be made again, of which too many are under way.
const OPEN_AGAIN: Duration = Duration::from_millis(100);
/// When something may be proposed again that was not written because of what was ahead of it.
const PROPOSE_AGAIN: Duration = Duration::from_secs(1);

/// Returns the refusal of an agent that has to wait because this coordinator has too little processor time.
pub fn too_little_cpu(role: Role) -> Status {
    Status::resource_exhausted(format!(
        "this coordinator has too little processor time and admits agents of higher priority than a {} first; it is tried \
         again",
        convert::peer_role(role).as_str()
    ))
}

impl From<Unread> for Status {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Unanswered(_) => Self::unavailable(unread.to_string()),
            Unread::Lost(_) => Self::data_loss(unread.to_string()),
        }
    }
}

impl From<ChangeError> for Status {
    fn from(error: ChangeError) -> Self {
        use ChangeError as E;
        let code = match &error {
            E::Busy => Code::Aborted,
            E::Invalid(_) => Code::InvalidArgument,
            E::NotLeader | E::NoAnswer { .. } | E::NoQuorum | E::NotTakenOver | E::Failed(_) | E::Stopping => {
                Code::Unavailable
            }
            E::Behind | E::NotCommitted => Code::DeadlineExceeded,
            E::Another { .. }
            | E::NameInUse { .. }
            | E::Elsewhere { .. }
            | E::LastVoter { .. }
            | E::TooFew { .. }
            | E::TooOld { .. }
            | E::Earlier { .. }
            | E::NoSuccessor(_) => Code::FailedPrecondition,
        };
        let mut status = Self::new(code, error.to_string());
        if error == ChangeError::NotLeader {
            status.metadata_mut().insert(NOT_LEADER, MetadataValue::from_static("1"));
        }
        status
    }
}

/// Returns whether a call failed because the called coordinator does not lead, or is not reachable (any more).
pub fn is_not_there(status: &Status) -> bool {
    // A status from a server has no source; one that this side created for a connection error has.
    status.metadata().contains_key(NOT_LEADER) || status.source().is_some()
}

/// Returns the code of a refusal by the state machine.
fn code_of(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::QueueFull { .. }
        | Refusal::TooManyTasks { .. }
        | Refusal::StorageFull { .. }
        | Refusal::NoRoom { .. }
        | Refusal::TooManyAgents { .. }
        | Refusal::TooFewAgents { .. }
        | Refusal::InsufficientResources { .. }
        | Refusal::OverQuota { .. }
        | Refusal::TaskQueueFull { .. }
        | Refusal::Full { .. } => Code::ResourceExhausted,
        Refusal::InputTooLarge { .. } | Refusal::Invalid { .. } => Code::InvalidArgument,
        Refusal::Conflict { .. }
        | Refusal::NameHeld { .. }
        | Refusal::LetterConflict { .. }
        | Refusal::BallotConflict { .. }
        | Refusal::BallotTaken { .. }
        | Refusal::TeamConflict { .. }
        | Refusal::AllocationConflict { .. }
        | Refusal::AlreadyVoted { .. } => Code::AlreadyExists,
        Refusal::ProofSpent { .. } | Refusal::ProofExpired { .. } | Refusal::OpenEnrolmentOff => Code::Unauthenticated,
        Refusal::Barred { .. } | Refusal::OtherReceiver { .. } | Refusal::NotElector { .. } => Code::PermissionDenied,
        Refusal::UnknownTask { .. }
        | Refusal::UnknownLetter { .. }
        | Refusal::UnknownBallot { .. }
        | Refusal::UnknownTeam { .. }
        | Refusal::UnknownDependency { .. }
        | Refusal::UnknownAllocation { .. }
        | Refusal::UnknownSchedule { .. } => Code::NotFound,
        Refusal::StaleSession
        | Refusal::Version { .. }
        | Refusal::NotInForce { .. }
        | Refusal::Unreadable { .. }
        | Refusal::TeamDisbanded { .. }
        | Refusal::StaleTerm { .. }
        | Refusal::StaleToken { .. }
        | Refusal::HolderGone { .. }
        | Refusal::NotDead { .. }
        | Refusal::StillNeeded { .. }
        | Refusal::NoPart { .. }
        | Refusal::ScheduleManaged { .. }
        | Refusal::ScheduleMoved { .. }
        | Refusal::ScheduleBusy { .. }
        | Refusal::BallotClosed { .. } => Code::FailedPrecondition,
    }
}

/// Returns the refusal that a successful call reports for a reply that does not belong to its command. A command whose
/// reply can't be decoded was nevertheless applied.
pub fn unexpected(reply: &Reply) -> v1::Refusal {
    let (code, message) = match reply {
        Reply::Unreadable { problem } => (
            "UNKNOWN",
            format!("this was done, but the coordinator can't decode the outcome ({problem}); get the task to see it"),
        ),
        other => ("INTERNAL", format!("unexpected reply {other:?}")),
    };
    v1::Refusal { code: code.to_owned(), message }
}

/// Returns the name of a refusal's code, for a refusal within a successful call.
pub fn code_name(refusal: &Refusal) -> &'static str {
    match code_of(refusal) {
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::NotFound => "NOT_FOUND",
        _ => "FAILED_PRECONDITION",
    }
}

/// Returns the refusal of a submission whose ballot can't be opened.
pub fn not_opened(error: &BallotError) -> v1::Refusal {
    let code = match Status::from(error.clone()).code() {
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::Unavailable => "UNAVAILABLE",
        _ => "FAILED_PRECONDITION",
    };
    v1::Refusal { code: code.to_owned(), message: format!("the task's approval: {error}") }
}

/// Returns the status of a call that is refused as a whole.
pub fn refused(refusal: &Refusal) -> Status {
    Status::new(code_of(refusal), refusal.to_string())
}

impl From<ProposeError> for Status {
    fn from(error: ProposeError) -> Self {
        let message = error.to_string();
        match error {
            ProposeError::NoLeader | ProposeError::Unanswered | ProposeError::NotLeader | ProposeError::Stopping => {
                Self::unavailable(message)
            }
            ProposeError::TooLarge { .. } => Self::resource_exhausted(message),
            ProposeError::Busy => again_in(PROPOSE_AGAIN, message),
        }
    }
}

impl From<MailError> for Status {
    fn from(error: MailError) -> Self {
        let message = error.to_string();
        match error {
            MailError::BadField(error) => error.into(),
            MailError::Refused(refusal) => refused(&refusal),
            MailError::Propose(error) => error.into(),
            MailError::NotReadable(_) | MailError::NoMailbox(_) => Self::unavailable(message),
            MailError::TooManyTargets { .. } => Self::invalid_argument(message),
            MailError::TooManyWaiting { .. }
            | MailError::TooMuchAtOnce { .. }
            | MailError::TooManyResolving { .. }
            | MailError::TooMuchResolved { .. }
            | MailError::InboxBusy { .. } => Self::resource_exhausted(message),
            MailError::UnknownMessage { .. } | MailError::UnknownAgent(_) => Self::not_found(message),
            MailError::InboxRefused { .. } => Self::failed_precondition(message),
            MailError::InboxLate(_) => Self::deadline_exceeded(message),
        }
    }
}

impl From<TeamError> for Status {
    fn from(error: TeamError) -> Self {
        let message = error.to_string();
        match error {
            TeamError::BadField(error) => error.into(),
            TeamError::Refused(refusal) => refused(&refusal),
            TeamError::Propose(error) => error.into(),
            TeamError::NotReadable(_) => Self::unavailable(message),
            TeamError::OtherAgent { .. } | TeamError::NotYours { .. } => Self::permission_denied(message),
        }
    }
}

impl From<BallotError> for Status {
    fn from(error: BallotError) -> Self {
        let message = error.to_string();
        match error {
            BallotError::BadField(error) => error.into(),
            BallotError::Refused(refusal) => refused(&refusal),
            BallotError::Propose(error) => error.into(),
            BallotError::Mail(error) => error.into(),
            BallotError::NotReadable(_) => Self::unavailable(message),
            BallotError::Nobody { .. } => Self::not_found(message),
            BallotError::TooManyElectors { .. } => Self::invalid_argument(message),
            BallotError::TooManyOpening { .. } => again_in(OPEN_AGAIN, message),
            BallotError::TooManyWaiting { .. } => Self::resource_exhausted(message),
            BallotError::OtherMember { .. }
            | BallotError::Unsigned { .. }
            | BallotError::OtherProcess { .. }
            | BallotError::NotProven { .. }
            | BallotError::UnknownAuthority { .. } => Self::permission_denied(message),
            BallotError::NotEnrolled { .. } => Self::unauthenticated(message),
            BallotError::OtherContent { .. } => Self::data_loss(message),
        }
    }
}

impl From<ResourceError> for Status {
    fn from(error: ResourceError) -> Self {
        let message = error.to_string();
        match error {
            ResourceError::BadField(error) => error.into(),
            ResourceError::Refused(refusal) => refused(&refusal),
            ResourceError::Propose(error) => error.into(),
            ResourceError::NotReadable(_) => Self::unavailable(message),
            ResourceError::TooManyWaiting { .. } => Self::resource_exhausted(message),
            ResourceError::NotYours { .. } => Self::permission_denied(message),
        }
    }
}

impl From<ScheduleError> for Status {
    fn from(error: ScheduleError) -> Self {
        let message = error.to_string();
        match error {
            ScheduleError::BadField(error) => error.into(),
            ScheduleError::Cron(_) => Self::invalid_argument(message),
            ScheduleError::Refused(refusal) => refused(&refusal),
            ScheduleError::Propose(error) => error.into(),
            ScheduleError::NotReadable(_) => Self::unavailable(message),
            ScheduleError::NotYours { .. } | ScheduleError::NotAdmin { .. } => Self::permission_denied(message),
            ScheduleError::Denied(_) => Self::permission_denied(message),
            ScheduleError::NeedsApproval(_) => Self::failed_precondition(message),
        }
    }
}

impl From<BadField> for Status {
    fn from(error: BadField) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// Returns the status for a task that does not exist.
pub fn no_task(id: &str) -> Status {
    Status::not_found(format!("no task {id}: it never existed, or its result has expired"))
}

/// Returns the status for a request with too many items.
pub fn too_many(what: &str, count: usize, limit: usize) -> Status {
    Status::invalid_argument(format!("{count} {what} in one request, {limit} at most; split it"))
}

/// Returns the status for a call that, together with others, submits too many bytes at once.
pub fn too_much_at_once(limit: usize) -> Status {
    Status::resource_exhausted(format!(
        "{limit} bytes of submissions are in progress; submit again later, or over SubmitStream, which waits for room"
    ))
}

/// Returns the status for a field that is too long.
pub fn too_long(field: &str, bytes: usize, limit: usize) -> Status {
    Status::invalid_argument(format!("{field} has {bytes} bytes, {limit} at most"))
}

#[cfg(test)]
mod tests {
    use robeing_net::{earlier::EARLIER_VERSION, pushback::asked_pause};

    use super::*;

    #[test]
    fn a_coordinator_of_an_earlier_version_is_not_added_before_it_is_stopped() {
        let status = Status::from(ChangeError::Earlier { address: "c-3:8080".to_owned(), problem: EARLIER_VERSION });
        assert_eq!(status.code(), Code::FailedPrecondition, "repeating the call does not help");
        for words in ["c-3:8080", EARLIER_VERSION] {
            assert!(status.message().contains(words), "{words:?} is not in {status}");
        }
    }

    #[test]
    fn what_is_refused_because_of_others_that_are_under_way_may_be_asked_again() {
        let asked = |error: BallotError| asked_pause(&Status::from(error));
        assert_eq!(asked(BallotError::TooManyOpening { most: 16 }), Some(OPEN_AGAIN));
        assert_eq!(asked(BallotError::Propose(ProposeError::Busy)), Some(PROPOSE_AGAIN));
        assert_eq!(asked(BallotError::Propose(ProposeError::TooLarge { bytes: 1 })), None, "it is as large then");
    }
}
