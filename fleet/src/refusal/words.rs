//! What a refusal says: what happened, to what, and what to do.

use std::{error::Error, fmt};

use super::Refusal;
use crate::{ids::utc, resources::amounts::in_words};

impl Error for Refusal {}

impl fmt::Display for Refusal {
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::QueueFull { limit } => {
                write!(f, "the queue is full: {limit} unfinished tasks; submit again when some have finished")
            }
            Refusal::TooManyTasks { limit } => write!(
                f,
                "{limit} tasks are kept, which is the limit; submit again when results have expired, or use a shorter result TTL"
            ),
            Refusal::StorageFull { limit } => write!(
                f,
                "inputs and results fill {limit} bytes, which is the limit; submit again when results have expired"
            ),
            Refusal::TaskQueueFull { queue, limit, retry_after_ms } => write!(
                f,
                "queue {queue:?} is full: it has {limit} unfinished tasks, its limit; submit again when some have finished, \
                 {retry_after_ms} ms from now or later"
            ),
            Refusal::InputTooLarge { bytes, limit } => write!(
                f,
                "the input has {bytes} bytes, the limit is {limit}; store it elsewhere and submit a reference"
            ),
            Refusal::Invalid { field, problem } => write!(f, "{field}: {problem}"),
            Refusal::Conflict { what, task } => write!(
                f,
                "{what} belongs to task {task}, which was submitted with another kind, input or team, or with other parts \
                 or none (a task that is split has its input in its parts); use a new one, or submit it as it was"
            ),
            Refusal::UnknownTask { task } => write!(f, "no task {task}: it never existed, or its result has expired"),
            Refusal::TooManyAgents { limit } => write!(f, "the fleet has {limit} agents, which is the limit"),
            Refusal::StaleSession => write!(f, "the session is over or belongs to another process"),
            Refusal::Version { asked, current, known } => write!(
                f,
                "fleet version {asked} can't be set: this fleet is at {current} and this coordinator knows up to {known}"
            ),
            Refusal::NotInForce { feature, since, current } => write!(
                f,
                "the feature {feature} needs fleet version {since}, and this fleet is at {current}: it comes into force once every \
                 coordinator runs, in a version that has it, which takes a fleet that has just started a few seconds"
            ),
            Refusal::Unreadable { problem } => write!(f, "the leader can't read this command: {problem}"),
            Refusal::NoRoom { reason } => write!(f, "{reason}"),
            Refusal::ProofSpent { agent } => write!(
                f,
                "the proof of agent {agent} was used before, and proves an identity only once; enrol with a new one"
            ),
            Refusal::ProofExpired { expired } => {
                write!(f, "the proof expired at {}; enrol with a new one", utc(*expired))
            }
            Refusal::OpenEnrolmentOff => write!(
                f,
                "this fleet enrols no agent without a proof of its identity; set the enrolment to open, or give a proof"
            ),
            Refusal::Barred { agent, kind, since, reason, by } => write!(
                f,
                "agent {agent} was {} at {} by {by} ({reason}); release it to let it in again",
                kind.past(),
                utc(*since)
            ),
            Refusal::NameHeld { agent, since } => write!(
                f,
                "the name {agent} belongs to a live agent that was enrolled with another key at {}; stop that agent, or give \
                 this one another name or a proof that names it",
                utc(*since)
            ),
            Refusal::Full { what, limit, remedy } => write!(f, "the limit of {limit} {what} is reached; {remedy}"),
            Refusal::LetterConflict { letter } => {
                write!(f, "the id {letter} belongs to a letter with another content; use a new one")
            }
            Refusal::UnknownLetter { letter } => {
                write!(f, "no letter {letter}: it was never posted, or its outcome is forgotten")
            }
            Refusal::OtherReceiver { letter, by } => {
                write!(f, "letter {letter} is not for {by}, and only its receiver can accept or refuse it")
            }
            Refusal::UnknownBallot { ballot } => write!(
                f,
                "no ballot {ballot}: it was never opened, or is forgotten; `robeing vote list` lists those there are"
            ),
            Refusal::BallotConflict { ballot } => {
                write!(f, "the id {ballot} belongs to a ballot with another content; use a new one")
            }
            Refusal::NotElector { ballot, member } => write!(
                f,
                "{member} is not in the electorate of ballot {ballot}, and only its members can vote: `robeing vote show {ballot}` \
                 lists them"
            ),
            Refusal::AlreadyVoted { ballot, member } => write!(
                f,
                "{member} has cast another vote in ballot {ballot}, and the first one counts: see `robeing vote show {ballot}`"
            ),
            Refusal::BallotClosed { ballot } => write!(
                f,
                "ballot {ballot} is closed and takes no votes: `robeing vote show {ballot}` shows its outcome"
            ),
            Refusal::UnknownTeam { team } => write!(
                f,
                "no team {team}: it was never formed, or is forgotten; `robeing team list --all` lists those there are"
            ),
            Refusal::TeamConflict { team } => write!(
                f,
                "the id {team} belongs to a team with another purpose, size or needs, or of somebody else; use a new one"
            ),
            Refusal::TeamDisbanded { team } => {
                write!(f, "team {team} is disbanded, and takes no tasks; form another one")
            }
            Refusal::TooFewAgents { wanted, free } => write!(
                f,
                "a team of {wanted} needs as many live agents that fit and are in no other team, and {}; form a smaller one, allow \
                 fewer members, or disband another team",
                there(*free)
            ),
            Refusal::StaleTerm { team, term, current } => write!(
                f,
                "team {team} is in term {current} and has another leader than in term {term}: `robeing team show {team}` shows its \
                 leader"
            ),
            Refusal::InsufficientResources { short, others_wait, contributed } => {
                write!(f, "Insufficient resources: {}", in_words(short, *others_wait, *contributed))
            }
            Refusal::UnknownAllocation { allocation } => write!(
                f,
                "no allocation {allocation}: it was never asked for, or is forgotten; `robeing resources list --allocations --all` \
                 lists those there are"
            ),
            Refusal::AllocationConflict { allocation } => {
                write!(f, "the id {allocation} belongs to a request for other resources; use a new one")
            }
            Refusal::StaleToken { allocation } => write!(
                f,
                "the lease of allocation {allocation} is over or has another token; see `robeing resources show {allocation}`, \
                 and ask for the resources again if it is over"
            ),
            Refusal::OverQuota { queue, resource, asked, used, quota } => write!(
                f,
                "the quota of queue {queue:?} is {quota} {} of {}, and {used} are granted from it while {asked} are asked for; \
                 ask for less, wait, or raise the quota",
                resource.unit(),
                resource.name()
            ),
            Refusal::HolderGone { holder } => write!(
                f,
                "{holder} is not there: to hold resources, a task must be unfinished, a team not disbanded, and an agent in its \
                 session"
            ),
            Refusal::BallotTaken { ballot } => write!(
                f,
                "the task's approval needs a ballot with the task's id, and ballot {ballot} was opened before; submit the task \
                 with another id"
            ),
            Refusal::NotDead { task, state } => write!(
                f,
                "task {task} is no dead letter, or none of that epoch; its state is {state:?}. See `robeing task {task}`"
            ),
            Refusal::StillNeeded { task } => write!(
                f,
                "unfinished tasks that depend on task {task} are told how it ended; have it tried again when they have ended"
            ),
            Refusal::UnknownDependency { task } => write!(
                f,
                "no task {task}, on which the task depends: it never existed, or its result has expired; submit tasks after \
                 those that they depend on"
            ),
            Refusal::NoPart { task, index, problem } => {
                write!(f, "the task can't be part {index} of task {task}: {problem}")
            }
            Refusal::UnknownSchedule { name } => write!(
                f,
                "no schedule {name:?}: it was never set, or was removed; `robeing schedule list` lists those there are"
            ),
            Refusal::ScheduleManaged { name } => {
                write!(f, "schedule {name:?} is set by the fleet's RobeingCluster; change it there, in spec.schedules")
            }
            Refusal::ScheduleMoved { schedule } => write!(
                f,
                "schedule number {schedule} is due at another time now: it was fired, changed or removed meanwhile"
            ),
            Refusal::ScheduleBusy { name, task } => write!(
                f,
                "no run of schedule {name:?} can start while task {task} of an earlier one is not finished; wait for it, or cancel it"
            ),
        }
    }
}

/// Says how many agents there are.
fn there(free: u32) -> String {
    match free {
        0 => "there is none".to_owned(),
        1 => "there is one".to_owned(),
        _ => format!("there are {free}"),
    }
}
