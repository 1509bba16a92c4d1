//! The replicated state machine of a fleet: agents, tasks and their scheduling, who may be in the fleet, the audit log,
//! policies, durable messages, ballots, teams, the resource pool, queues of tasks, and schedules.
//!
//! The crate is pure and deterministic: [`Fleet::apply`] takes the time from its caller, draws no random numbers and
//! never iterates in an unspecified order, so the same log gives the same state on every coordinator, byte for byte.
//! Look-up tables are hashed with random keys, which affect no result.

mod agents;
mod archive;
mod audit;
mod audit_log;
mod ballots;
mod codec;
mod command;
mod config;
mod effect;
mod fixed_map;
mod fleet;
mod identity;
mod ids;
mod indexes;
mod kinds;
pub mod limits;
mod mail;
mod numbered;
mod policies;
mod query;
mod queues;
mod refusal;
mod reply;
mod resources;
pub mod sabotage;
mod schedule;
mod schedules;
mod snapshot;
mod steps;
mod tasks;
mod teams;
mod timers;
mod version;
mod words;

pub use agents::{
    Agent, AgentState, Held, HeldState, Loss, PoolView, TrackRecord,
    command::{AgentCommand, AgentJoin, LossReason, PoolCommand, PoolShape, Role},
    kinds::KindRecord,
    query::AgentCounts,
    recovery::{FleetRecoveryStep, Recovery, RecoveryEvent, RecoveryStep},
    role::{COORDINATOR_TRAITS, Places, RoleTraits},
};
pub use archive::{Archived, Kept, KeptPage};
pub use audit_log::{
    AuditOutcome, AuditRecord,
    command::{AuditCommand, AuditEntry},
};
pub use ballots::{
    Ballot, BallotOutcome, BallotState, Choice, Elector, KnownAuthority, NOTICE_KIND, NOTICE_SENDER, StoredEvidence,
    Tally, Vote,
    command::{BallotCommand, CastVote, OpenBallot, VoteEvidence},
    fraction::{Fraction, FractionError},
    query::BallotCounts,
    together::{CastVotes, CountedVote, MemberVote},
};
pub use codec::{
    CodecError, archived_in, command_version, decode_command, decode_reply, decode_task, encode_command, encode_reply,
    encode_task,
};
pub use command::{Command, ControlCommand};
pub use config::{FleetConfig, Weights};
pub use effect::{CancelCause, Effect};
pub use fleet::{Fleet, Progress, Totals, Unfinished};
pub use identity::{
    Bar, BarKind, Enrolment, ProofKind, SingleUse,
    command::{Enrol, EnrolmentMode, IdentityCommand, IdentityConfig, PoolTrust, TokenIssuer},
};
pub use ids::{AgentId, AllocationId, BallotId, FleetMillis, LetterId, SessionId, Stamp, TaskId, TeamId, UnixMillis};
pub use kinds::{RetryDefaults, SplitBy, Splitter, TaskKind, TaskKindList, command::KindCommand};
pub use mail::{
    Letter, LetterOutcome, LetterState,
    command::{LetterAnswer, MailCommand, PostLetter},
    query::{LetterCursor, MailCounts},
};
pub use policies::{PolicyList, StoredPolicy, command::PolicyCommand};
pub use queues::{
    AskedLane, EACH_KEY, Lane, Limit, QueueRules, Rate,
    command::{QueueCommand, TaskQueue},
    query::{QueueFigures, Served, TaskQueueView},
};
pub use refusal::Refusal;
pub use reply::{Reply, StaleReason};
pub use resources::{
    Allocation, AllocationEnd, AllocationState, Contribution, Holder, Part as AllocationPart,
    amounts::{Amounts, Quota, Resource, Shortage},
    command::{QueueShape, RequestResources, ResourceCommand},
    query::{AgentResources, PoolSums, QueueView},
    tasks::{Claim, TaskResources},
};
pub use schedule::{
    candidates::{Candidate, Candidates, Obstacle},
    score::ScoreTerms,
    unschedulable::{UnmetNeed, UnmetNeeds},
};
pub use schedules::{
    Concurrency, MissedRuns, RunEnd, Schedule, ScheduleProblem, ScheduleRun, ScheduleSpec, ScheduleTotals,
    ScheduledFor, Setter,
    command::{FireSchedule, ScheduleCommand, SetSchedule},
    query::ScheduleCounts,
};
pub use snapshot::{Part, Snapshot};
pub use tasks::{
    Attempt, AttemptEnd, Task, TaskState,
    approvals::Approval,
    blobs::BlobRef,
    command::{Completion, Failure, FailureKind, Outcome, RetryPolicy, SubmitTask, TaskCommand},
    comparisons::Comparison,
    dead::{DeadCursor, DropDead, RetryDead, Revival},
    demand::Demand,
    links::{
        AskedLinks, Awaited, ChildOf, Children, Dependency, Join, Links, OnFailure, PartOf, Passing, Split, Verdict,
        children::child_id,
        dividing::{Divider, REDUCE_RESERVE},
        graph::{Cycle, submission_order},
        suspending::Suspension,
        walk::TreeWalk,
    },
    members::Compared,
    query::{Counts, TaskFilter, TaskPage},
    retries::{FailureMatch, Jitter},
    running::TaskRun,
    timing::{TaskTiming, Timing},
    verification::{Answer, Verification, Verify},
    waiting::Waiting,
};
pub use teams::{
    MemberWork, Team, TeamMember, TeamNeeds, TeamState, TeamTotals,
    command::{FormTeam, TeamCommand},
    query::TeamCounts,
    score::LeaderTerms,
};
#[cfg(feature = "trial")]
pub use version::trial;
pub use version::{FIRST_VERSION, Feature, known_version};
