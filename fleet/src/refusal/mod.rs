//! Why commands are refused.

mod words;

use bilrost::{Message, Oneof};

use crate::{
    AllocationId, BallotId, BarKind, LetterId, Resource, Shortage, TaskId, TaskState, TeamId, UnixMillis,
    limits::QUEUE_RETRY_MS,
};

/// Why a command was refused. Its text states the remedy where there is one.
#[derive(Clone, PartialEq, Eq, Debug, Oneof, Message)]
#[bilrost(distinguished)]
pub enum Refusal {
    /// The limit of unfinished tasks is reached.
    #[bilrost(tag(1), message)]
    QueueFull {
        /// The limit.
        #[bilrost(1)]
        limit: u32,
    },
    /// The limit of kept tasks is reached.
    #[bilrost(tag(2), message)]
    TooManyTasks {
        /// The limit.
        #[bilrost(1)]
        limit: u32,
    },
    /// The limit of stored bytes is reached.
    #[bilrost(tag(3), message)]
    StorageFull {
        /// The limit.
        #[bilrost(1)]
        limit: u64,
    },
    /// The input exceeds the limit.
    #[bilrost(tag(4), message)]
    InputTooLarge {
        /// The input's size, bytes.
        #[bilrost(1)]
        bytes: u64,
        /// The limit, bytes.
        #[bilrost(2)]
        limit: u64,
    },
    /// A field is out of range.
    #[bilrost(tag(5), message)]
    Invalid {
        /// The field's name.
        #[bilrost(1)]
        field: String,
        /// What is wrong and what would be valid.
        #[bilrost(2)]
        problem: String,
    },
    /// The id or key belongs to a task with another kind, input or team, or that is split otherwise.
    #[bilrost(tag(6), message)]
    Conflict {
        /// "the id" or "the idempotency key".
        #[bilrost(1)]
        what: String,
        /// The task that has this id or key.
        #[bilrost(2)]
        task: TaskId,
    },
    /// The task does not exist.
    #[bilrost(tag(7), message)]
    UnknownTask {
        /// The requested id.
        #[bilrost(1)]
        task: TaskId,
    },
    /// The limit of agents is reached.
    #[bilrost(tag(8), message)]
    TooManyAgents {
        /// The limit.
        #[bilrost(1)]
        limit: u32,
    },
    /// The session is over, or is not the agent's current one.
    #[bilrost(empty)]
    StaleSession,
    /// The fleet version can't be set: it is lower than the current one, or unknown.
    #[bilrost(tag(9), message)]
    Version {
        /// The requested version.
        #[bilrost(1)]
        asked: u32,
        /// The fleet's version.
        #[bilrost(2)]
        current: u32,
        /// The newest version that this program knows.
        #[bilrost(3)]
        known: u32,
    },
    /// The command needs a feature that is not in force.
    #[bilrost(tag(20), message)]
    NotInForce {
        /// The feature's name.
        #[bilrost(1)]
        feature: String,
        /// The version that brings it.
        #[bilrost(2)]
        since: u32,
        /// The fleet's version.
        #[bilrost(3)]
        current: u32,
    },
    /// The leader can't decode the command and refuses it before it enters the log. The state machine never returns
    /// this.
    #[bilrost(tag(21), message)]
    Unreadable {
        /// Why the command can't be decoded.
        #[bilrost(1)]
        problem: String,
    },
    /// The coordinators' disks are nearly full, so the task is refused before it enters the log. The state machine
    /// never returns this.
    #[bilrost(tag(10), message)]
    NoRoom {
        /// Which coordinators' disks are full, and the remedy.
        #[bilrost(1)]
        reason: String,
    },
    /// The single-use proof was used before.
    #[bilrost(tag(11), message)]
    ProofSpent {
        /// The agent that is to be enrolled.
        #[bilrost(1)]
        agent: String,
    },
    /// The single-use proof expired so long ago that the fleet no longer knows whether it was used.
    #[bilrost(tag(12), message)]
    ProofExpired {
        /// When the proof expired.
        #[bilrost(1)]
        expired: UnixMillis,
    },
    /// The fleet takes no agents without a proof.
    #[bilrost(tag(13), message)]
    OpenEnrolmentOff,
    /// The agent is barred from the fleet.
    #[bilrost(tag(14), message)]
    Barred {
        /// The agent's name.
        #[bilrost(1)]
        agent: String,
        /// The kind of the bar.
        #[bilrost(2)]
        kind: BarKind,
        /// When the agent was barred.
        #[bilrost(3)]
        since: UnixMillis,
        /// Why.
        #[bilrost(4)]
        reason: String,
        /// By whom.
        #[bilrost(5)]
        by: String,
    },
    /// A live agent with another key has this name.
    #[bilrost(tag(15), message)]
    NameHeld {
        /// The name.
        #[bilrost(1)]
        agent: String,
        /// When the other key was enrolled.
        #[bilrost(2)]
        since: UnixMillis,
    },
    /// A limit of the fleet is reached.
    #[bilrost(tag(16), message)]
    Full {
        /// What there are so many of.
        #[bilrost(1)]
        what: String,
        /// The limit.
        #[bilrost(2)]
        limit: u64,
        /// What to do.
        #[bilrost(3)]
        remedy: String,
    },
    /// The id belongs to a letter with another content.
    #[bilrost(tag(17), message)]
    LetterConflict {
        /// The id.
        #[bilrost(1)]
        letter: LetterId,
    },
    /// The letter does not exist.
    #[bilrost(tag(18), message)]
    UnknownLetter {
        /// The requested id.
        #[bilrost(1)]
        letter: LetterId,
    },
    /// The letter is for another agent.
    #[bilrost(tag(19), message)]
    OtherReceiver {
        /// The letter.
        #[bilrost(1)]
        letter: LetterId,
        /// The agent that answered.
        #[bilrost(2)]
        by: String,
    },
    /// The ballot does not exist.
    #[bilrost(tag(22), message)]
    UnknownBallot {
        /// The requested id.
        #[bilrost(1)]
        ballot: BallotId,
    },
    /// The id belongs to a ballot with another content.
    #[bilrost(tag(23), message)]
    BallotConflict {
        /// The id.
        #[bilrost(1)]
        ballot: BallotId,
    },
    /// Whoever votes is not in the ballot's electorate.
    #[bilrost(tag(24), message)]
    NotElector {
        /// The ballot.
        #[bilrost(1)]
        ballot: BallotId,
        /// Who votes.
        #[bilrost(2)]
        member: String,
    },
    /// The member has cast another vote.
    #[bilrost(tag(25), message)]
    AlreadyVoted {
        /// The ballot.
        #[bilrost(1)]
        ballot: BallotId,
        /// The member.
        #[bilrost(2)]
        member: String,
    },
    /// The ballot has an outcome, or its deadline has passed.
    #[bilrost(tag(26), message)]
    BallotClosed {
        /// The ballot.
        #[bilrost(1)]
        ballot: BallotId,
    },
    /// The team does not exist.
    #[bilrost(tag(27), message)]
    UnknownTeam {
        /// The requested id.
        #[bilrost(1)]
        team: TeamId,
    },
    /// The id belongs to a team with another content.
    #[bilrost(tag(28), message)]
    TeamConflict {
        /// The id.
        #[bilrost(1)]
        team: TeamId,
    },
    /// The team is disbanded.
    #[bilrost(tag(29), message)]
    TeamDisbanded {
        /// The team.
        #[bilrost(1)]
        team: TeamId,
    },
    /// There are not enough agents that fit and are in no team.
    #[bilrost(tag(30), message)]
    TooFewAgents {
        /// How many were asked for.
        #[bilrost(1)]
        wanted: u32,
        /// How many there are.
        #[bilrost(2)]
        free: u32,
    },
    /// The leader in whose name this was to be done is one no longer.
    #[bilrost(tag(31), message)]
    StaleTerm {
        /// The team.
        #[bilrost(1)]
        team: TeamId,
        /// The term that was given.
        #[bilrost(2)]
        term: u64,
        /// The current term.
        #[bilrost(3)]
        current: u64,
    },
    /// What is asked for is not free.
    #[bilrost(tag(32), message)]
    InsufficientResources {
        /// The resources that are short; none if something else is in the way.
        #[bilrost(1)]
        short: Vec<Shortage>,
        /// Requests wait.
        #[bilrost(2)]
        others_wait: bool,
        /// It is a task's, and short is what agents contribute, free or not: none could ever run it.
        #[bilrost(3)]
        contributed: bool,
    },
    /// The allocation does not exist.
    #[bilrost(tag(33), message)]
    UnknownAllocation {
        /// The requested id.
        #[bilrost(1)]
        allocation: AllocationId,
    },
    /// The id belongs to a request with another content.
    #[bilrost(tag(34), message)]
    AllocationConflict {
        /// The id.
        #[bilrost(1)]
        allocation: AllocationId,
    },
    /// The fencing token is not that of a lease that lasts.
    #[bilrost(tag(35), message)]
    StaleToken {
        /// The allocation.
        #[bilrost(1)]
        allocation: AllocationId,
    },
    /// The queue's quota does not allow it.
    #[bilrost(tag(36), message)]
    OverQuota {
        /// The queue.
        #[bilrost(1)]
        queue: String,
        /// The resource.
        #[bilrost(2)]
        resource: Resource,
        /// What is asked for.
        #[bilrost(3)]
        asked: u64,
        /// What is granted from the queue; 0 if the request could wait and asks for too much even so.
        #[bilrost(4)]
        used: u64,
        /// The quota.
        #[bilrost(5)]
        quota: u64,
    },
    /// Who is to hold the resources is gone.
    #[bilrost(tag(37), message)]
    HolderGone {
        /// Who was to hold them.
        #[bilrost(1)]
        holder: String,
    },
    /// A queue of tasks has its limit of unfinished tasks.
    #[bilrost(tag(100), message)]
    TaskQueueFull {
        /// The queue.
        #[bilrost(1)]
        queue: String,
        /// The limit.
        #[bilrost(2)]
        limit: u32,
        /// When there may be room, ms from now.
        #[bilrost(3)]
        retry_after_ms: u64,
    },
    /// The task needs an approval by a ballot with its id, and there is one that was opened before it.
    #[bilrost(tag(38), message)]
    BallotTaken {
        /// The ballot.
        #[bilrost(1)]
        ballot: BallotId,
    },
    /// The task is no dead letter, or died in a later epoch.
    #[bilrost(tag(41), message)]
    NotDead {
        /// The task.
        #[bilrost(1)]
        task: TaskId,
        /// Its state.
        #[bilrost(2)]
        state: TaskState,
    },
    /// Unfinished tasks depend on how the dead letter ended.
    #[bilrost(tag(42), message)]
    StillNeeded {
        /// The task.
        #[bilrost(1)]
        task: TaskId,
    },
    /// A task that the task depends on does not exist.
    #[bilrost(tag(60), message)]
    UnknownDependency {
        /// The task.
        #[bilrost(1)]
        task: TaskId,
    },
    /// The task can't be this part of another one.
    #[bilrost(tag(61), message)]
    NoPart {
        /// The task whose part it would be.
        #[bilrost(1)]
        task: TaskId,
        /// The number of the part.
        #[bilrost(2)]
        index: u32,
        /// Why it can't.
        #[bilrost(3)]
        problem: String,
    },
    /// The schedule does not exist.
    #[bilrost(tag(140), message)]
    UnknownSchedule {
        /// The requested name.
        #[bilrost(1)]
        name: String,
    },
    /// The schedule is a part of the fleet's resource.
    #[bilrost(tag(141), message)]
    ScheduleManaged {
        /// The schedule's name.
        #[bilrost(1)]
        name: String,
    },
    /// The moment of the schedule was decided before, or the schedule was changed or removed.
    #[bilrost(tag(142), message)]
    ScheduleMoved {
        /// The schedule's number.
        #[bilrost(1)]
        schedule: u64,
    },
    /// Earlier runs of the schedule are not finished, and it lets no other one start.
    #[bilrost(tag(143), message)]
    ScheduleBusy {
        /// The schedule's name.
        #[bilrost(1)]
        name: String,
        /// The task of an earlier run.
        #[bilrost(2)]
        task: TaskId,
    },
}

impl Refusal {
    /// Returns when what was refused for lack of room may be tried again, ms from now; `None` if there is no reason to.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Refusal::TaskQueueFull { retry_after_ms, .. } => Some(*retry_after_ms),
            Refusal::QueueFull { .. }
            | Refusal::TooManyTasks { .. }
            | Refusal::StorageFull { .. }
            | Refusal::NoRoom { .. }
            | Refusal::Full { .. } => Some(QUEUE_RETRY_MS),
            _ => None,
        }
    }

    /// Returns whether what is refused may be accepted later: there is no room for it now, or too few resources.
    pub fn is_for_want_of_room(&self) -> bool {
        let lacks_resources = matches!(self, Refusal::InsufficientResources { .. } | Refusal::OverQuota { .. });
        lacks_resources || self.retry_after_ms().is_some()
    }
}
