//! Why commands are refused.

use bilrost::{Message, Oneof};

use crate::{
    AllocationId, BallotId, BarKind, LetterId, Resource, Shortage, TaskId, TeamId, UnixMillis, ids::utc,
    resources::amounts::in_words,
};

/// Why a command was refused. The message states the remedy where there is one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Oneof, Message)]
#[bilrost(distinguished)]
pub enum Refusal {
    /// The limit of unfinished tasks is reached.
    #[error("the queue is full: {limit} unfinished tasks; submit again when some have finished")]
    #[bilrost(tag(1), message)]
    QueueFull {
        /// The limit.
        #[bilrost(1)]
        limit: u32,
    },
    /// The limit of kept tasks is reached.
    #[error(
        "{limit} tasks are kept, which is the limit; submit again when results have expired, or use a shorter result TTL"
    )]
    #[bilrost(tag(2), message)]
    TooManyTasks {
        /// The limit.
        #[bilrost(1)]
        limit: u32,
    },
    /// The limit of stored bytes is reached.
    #[error("inputs and results fill {limit} bytes, which is the limit; submit again when results have expired")]
    #[bilrost(tag(3), message)]
    StorageFull {
        /// The limit.
        #[bilrost(1)]
        limit: u64,
    },
    /// The input exceeds the limit.
    #[error("the input has {bytes} bytes, the limit is {limit}; store it elsewhere and submit a reference")]
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
    #[error("{field}: {problem}")]
    #[bilrost(tag(5), message)]
    Invalid {
        /// The field's name.
        #[bilrost(1)]
        field: String,
        /// What is wrong and what would be valid.
        #[bilrost(2)]
        problem: String,
    },
    /// The id or key belongs to a task with another kind or input.
    #[error("{what} belongs to task {task}, which was submitted with another kind or input; use a new one")]
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
    #[error("no task {task}: it never existed, or its result has expired")]
    #[bilrost(tag(7), message)]
    UnknownTask {
        /// The requested id.
        #[bilrost(1)]
        task: TaskId,
    },
    /// The limit of agents is reached.
    #[error("the fleet has {limit} agents, which is the limit")]
    #[bilrost(tag(8), message)]
    TooManyAgents {
        /// The limit.
        #[bilrost(1)]
        limit: u32,
    },
    /// The session is over, or is not the agent's current one.
    #[error("the session is over or belongs to another process")]
    #[bilrost(empty)]
    StaleSession,
    /// The fleet version can't be set: it is lower than the current one, or unknown.
    #[error("fleet version {asked} can't be set: this fleet is at {current} and this coordinator knows up to {known}")]
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
    #[error(
        "the feature {feature} needs fleet version {since}, and this fleet is at {current}: it comes into force once every \
         coordinator runs, in a version that has it, which takes a fleet that has just started a few seconds"
    )]
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
    #[error("the leader can't read this command: {problem}")]
    #[bilrost(tag(21), message)]
    Unreadable {
        /// Why the command can't be decoded.
        #[bilrost(1)]
        problem: String,
    },
    /// The coordinators' disks are nearly full, so the task is refused before it enters the log. The state machine
    /// never returns this.
    #[error("{reason}")]
    #[bilrost(tag(10), message)]
    NoRoom {
        /// Which coordinators' disks are full, and the remedy.
        #[bilrost(1)]
        reason: String,
    },
    /// The single-use proof was used before.
    #[error("the proof of agent {agent} was used before, and proves an identity only once; enrol with a new one")]
    #[bilrost(tag(11), message)]
    ProofSpent {
        /// The agent that is to be enrolled.
        #[bilrost(1)]
        agent: String,
    },
    /// The single-use proof expired so long ago that the fleet no longer knows whether it was used.
    #[error("the proof expired at {}; enrol with a new one", utc(*.expired))]
    #[bilrost(tag(12), message)]
    ProofExpired {
        /// When the proof expired.
        #[bilrost(1)]
        expired: UnixMillis,
    },
    /// The fleet takes no agents without a proof.
    #[error("this fleet enrols no agent without a proof of its identity; set the enrolment to open, or give a proof")]
    #[bilrost(tag(13), message)]
    OpenEnrolmentOff,
    /// The agent is barred from the fleet.
    #[error(
        "agent {agent} was {} at {} by {by} ({reason}); release it to let it in again", .kind.past(), utc(*.since)
    )]
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
    #[error(
        "the name {agent} belongs to a live agent that was enrolled with another key at {}; stop that agent, or give \
         this one another name or a proof that names it",
        utc(*.since)
    )]
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
    #[error("the limit of {limit} {what} is reached; {remedy}")]
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
    #[error("the id {letter} belongs to a letter with another content; use a new one")]
    #[bilrost(tag(17), message)]
    LetterConflict {
        /// The id.
        #[bilrost(1)]
        letter: LetterId,
    },
    /// The letter does not exist.
    #[error("no letter {letter}: it was never posted, or its outcome is forgotten")]
    #[bilrost(tag(18), message)]
    UnknownLetter {
        /// The requested id.
        #[bilrost(1)]
        letter: LetterId,
    },
    /// The letter is for another agent.
    #[error("letter {letter} is not for {by}, and only its receiver can accept or refuse it")]
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
    #[error("no ballot {ballot}: it was never opened, or is forgotten; `robeing vote list` lists those there are")]
    #[bilrost(tag(22), message)]
    UnknownBallot {
        /// The requested id.
        #[bilrost(1)]
        ballot: BallotId,
    },
    /// The id belongs to a ballot with another content.
    #[error("the id {ballot} belongs to a ballot with another content; use a new one")]
    #[bilrost(tag(23), message)]
    BallotConflict {
        /// The id.
        #[bilrost(1)]
        ballot: BallotId,
    },
    /// Whoever votes is not in the ballot's electorate.
    #[error(
        "{member} is not in the electorate of ballot {ballot}, and only its members can vote: `robeing vote show {ballot}` \
         lists them"
    )]
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
    #[error(
        "{member} has cast another vote in ballot {ballot}, and the first one counts: see `robeing vote show {ballot}`"
    )]
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
    #[error("ballot {ballot} is closed and takes no votes: `robeing vote show {ballot}` shows its outcome")]
    #[bilrost(tag(26), message)]
    BallotClosed {
        /// The ballot.
        #[bilrost(1)]
        ballot: BallotId,
    },
    /// The team does not exist.
    #[error("no team {team}: it was never formed, or is forgotten; `robeing team list --all` lists those there are")]
    #[bilrost(tag(27), message)]
    UnknownTeam {
        /// The requested id.
        #[bilrost(1)]
        team: TeamId,
    },
    /// The id belongs to a team with another content.
    #[error("the id {team} belongs to a team with another purpose, size or needs, or of somebody else; use a new one")]
    #[bilrost(tag(28), message)]
    TeamConflict {
        /// The id.
        #[bilrost(1)]
        team: TeamId,
    },
    /// The team is disbanded.
    #[error("team {team} is disbanded, and takes no tasks; form another one")]
    #[bilrost(tag(29), message)]
    TeamDisbanded {
        /// The team.
        #[bilrost(1)]
        team: TeamId,
    },
    /// There are not enough agents that fit and are in no team.
    #[error(
        "a team of {wanted} needs as many live agents that fit and are in no other team, and {}; form a smaller one, allow \
         fewer members, or disband another team",
        there(*.free)
    )]
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
    #[error(
        "team {team} is in term {current} and has another leader than in term {term}: `robeing team show {team}` shows its \
         leader"
    )]
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
    #[error("Insufficient resources: {}", in_words(.short, *.others_wait, *.contributed))]
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
    #[error(
        "no allocation {allocation}: it was never asked for, or is forgotten; `robeing resources list --allocations --all` \
         lists those there are"
    )]
    #[bilrost(tag(33), message)]
    UnknownAllocation {
        /// The requested id.
        #[bilrost(1)]
        allocation: AllocationId,
    },
    /// The id belongs to a request with another content.
    #[error("the id {allocation} belongs to a request for other resources; use a new one")]
    #[bilrost(tag(34), message)]
    AllocationConflict {
        /// The id.
        #[bilrost(1)]
        allocation: AllocationId,
    },
    /// The fencing token is not that of a lease that lasts.
    #[error(
        "the lease of allocation {allocation} is over or has another token; see `robeing resources show {allocation}`, \
         and ask for the resources again if it is over"
    )]
    #[bilrost(tag(35), message)]
    StaleToken {
        /// The allocation.
        #[bilrost(1)]
        allocation: AllocationId,
    },
    /// The queue's quota does not allow it.
    #[error(
        "the quota of queue {queue:?} is {quota} {} of {}, and {used} are granted from it while {asked} are asked for; \
         ask for less, wait, or raise the quota",
        .resource.unit(),
        .resource.name()
    )]
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
    #[error(
        "{holder} is not there: to hold resources, a task must be unfinished, a team not disbanded, and an agent in its \
         session"
    )]
    #[bilrost(tag(37), message)]
    HolderGone {
        /// Who was to hold them.
        #[bilrost(1)]
        holder: String,
    },
    /// The task needs an approval by a ballot with its id, and there is one that was opened before it.
    #[error(
        "the task's approval needs a ballot with the task's id, and ballot {ballot} was opened before; submit the task \
         with another id"
    )]
    #[bilrost(tag(38), message)]
    BallotTaken {
        /// The ballot.
        #[bilrost(1)]
        ballot: BallotId,
    },
}

/// Says how many agents there are.
fn there(free: u32) -> String {
    match free {
        0 => "there is none".to_owned(),
        1 => "there is one".to_owned(),
        _ => format!("there are {free}"),
    }
}
