//! Versions of the behaviour of [`Fleet::apply`]. Coordinators of several versions may form one fleet, and all of them
//! must compute the same state, so a new behaviour is a [`Feature`] that comes into force only when all of them know
//! it: the leader then raises the fleet version by a command. The version is never lowered, because older programs
//! can't read what was written since.
//!
//! Once a feature is in force, commands may use it and the state may contain what it adds. Until then a command that
//! needs it is refused, so every program that knows the version in force can read what any other program writes.

use crate::{
    AgentCommand, Command, Completion, ControlCommand, Failure, FailureKind, Fleet, LossReason, Outcome, Refusal,
    Reply, SubmitTask, TaskCommand,
};

/// The version of a new fleet.
pub const FIRST_VERSION: u32 = 1;

/// Returns the newest version that this program knows: that of its newest feature.
pub fn known_version() -> u32 {
    let known = Feature::ALL.iter().filter(|feature| feature.is_known());
    known.map(|feature| feature.since()).max().unwrap_or(FIRST_VERSION)
}

/// A behaviour that only some versions have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// Enrolments, bars and the audit log.
    Identity,
    /// Durable messages, and the agents' keys for sealed payloads.
    Mail,
    /// The last places of the queue are kept for tasks of roles of higher priority.
    RolePriority,
    /// Guardian policies, and failures by them.
    Policies,
    /// The keys of agents whose sessions began before the fleet could keep them.
    Describe,
    /// Ballots, and the votes on them.
    Ballots,
    /// Tasks that wait for the approval of a ballot.
    Approvals,
    /// Tasks that run on several agents, and whose results are verified.
    Verification,
    /// Teams, and tasks that are addressed to them.
    Teams,
    /// The resource pool, and tasks that need resources of it.
    Resources,
    /// Queue expiries, progress timeouts, jitter, names of failures, and failures that are not tried again.
    Timing,
    /// Dead letters, which are kept for longer, and are tried again or dropped.
    DeadLetters,
    /// Tasks that depend on others, are split, or are suspended until their subtasks have ended.
    Graphs,
    /// Queues of tasks with shares, limits and priorities that age, and shares of submitters.
    Queues,
    /// What kinds of tasks need, tasks that take several slots or skills, and records of agents by kind.
    Kinds,
    /// Schedules, and the tasks of their runs.
    Schedules,
    /// Idempotency keys that outlive their tasks.
    KeyWindow,
    /// Inputs and outputs that are in an object store.
    Blobs,
    /// Results that are archived.
    Archive,
    /// A feature without any effect, for tests of upgrades. It must stay the newest one.
    #[cfg(feature = "trial")]
    Trial,
}

impl Feature {
    /// All features that this build contains.
    pub const ALL: &[Feature] = &[
        Feature::Identity,
        Feature::Mail,
        Feature::RolePriority,
        Feature::Policies,
        Feature::Describe,
        Feature::Ballots,
        Feature::Approvals,
        Feature::Verification,
        Feature::Teams,
        Feature::Resources,
        Feature::Timing,
        Feature::DeadLetters,
        Feature::Graphs,
        Feature::Queues,
        Feature::Kinds,
        Feature::Schedules,
        Feature::KeyWindow,
        Feature::Blobs,
        Feature::Archive,
        #[cfg(feature = "trial")]
        Feature::Trial,
    ];

    /// Returns the fleet version that introduces the feature.
    pub fn since(self) -> u32 {
        match self {
            Feature::Identity => 2,
            Feature::Mail | Feature::RolePriority | Feature::Policies | Feature::Describe => 3,
            Feature::Ballots
            | Feature::Approvals
            | Feature::Verification
            | Feature::Teams
            | Feature::Resources
            | Feature::Timing
            | Feature::DeadLetters
            | Feature::Graphs
            | Feature::Queues
            | Feature::Kinds
            | Feature::Schedules
            | Feature::KeyWindow
            | Feature::Blobs
            | Feature::Archive => 4,
            #[cfg(feature = "trial")]
            Feature::Trial => 5,
        }
    }

    /// Returns the feature's name, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Feature::Identity => "identity",
            Feature::Mail => "mail",
            Feature::RolePriority => "role priority",
            Feature::Policies => "policies",
            Feature::Describe => "describe",
            Feature::Ballots => "ballots",
            Feature::Approvals => "approvals",
            Feature::Verification => "verified results",
            Feature::Teams => "teams",
            Feature::Resources => "resources",
            Feature::Timing => "timing",
            Feature::DeadLetters => "dead letters",
            Feature::Graphs => "task graphs",
            Feature::Queues => "queues of tasks",
            Feature::Kinds => "kinds",
            Feature::Schedules => "schedules",
            Feature::KeyWindow => "idempotency window",
            Feature::Blobs => "objects",
            Feature::Archive => "archive",
            #[cfg(feature = "trial")]
            Feature::Trial => "trial",
        }
    }

    /// Returns the fleet version that introduces `feature`, or the first version if there is none.
    pub(crate) fn version_of(feature: Option<Feature>) -> u32 {
        feature.map_or(FIRST_VERSION, Feature::since)
    }

    /// Returns the newest of these features: this one, unless a later version brings another one.
    pub(crate) fn or_newer(self, others: impl IntoIterator<Item = Feature>) -> Feature {
        others.into_iter().fold(self, |newest, other| if other.since() > newest.since() { other } else { newest })
    }

    fn is_known(self) -> bool {
        match self {
            Feature::Identity
            | Feature::Mail
            | Feature::RolePriority
            | Feature::Policies
            | Feature::Describe
            | Feature::Ballots
            | Feature::Approvals
            | Feature::Verification
            | Feature::Teams
            | Feature::Resources
            | Feature::Timing
            | Feature::DeadLetters
            | Feature::Graphs
            | Feature::Queues
            | Feature::Kinds
            | Feature::Schedules
            | Feature::KeyWindow
            | Feature::Blobs
            | Feature::Archive => true,
            #[cfg(feature = "trial")]
            Feature::Trial => trial::is_known(),
        }
    }
}

impl Command {
    /// Returns the newest feature that the command needs.
    pub fn feature(&self) -> Option<Feature> {
        match self {
            Command::Task(command) => command.feature(),
            Command::Agent(AgentCommand::Lost { reason: LossReason::Barred, .. }) => Some(Feature::Identity),
            Command::Agent(AgentCommand::Joined(join)) if join.lacks_store => Some(Feature::Blobs),
            Command::Agent(AgentCommand::Joined(join)) if join.contributed.is_some() => Some(Feature::Resources),
            Command::Agent(AgentCommand::Joined(join)) if join.sealing_key.is_some() => Some(Feature::Mail),
            Command::Agent(AgentCommand::Describe { .. }) => Some(Feature::Describe),
            Command::Identity(_) | Command::Audit(_) => Some(Feature::Identity),
            Command::Mail(_) => Some(Feature::Mail),
            Command::Policy(_) => Some(Feature::Policies),
            Command::Ballot(_) => Some(Feature::Ballots),
            Command::Team(_) => Some(Feature::Teams),
            Command::Resource(_) => Some(Feature::Resources),
            Command::Queue(_) => Some(Feature::Queues),
            Command::Kind(_) => Some(Feature::Kinds),
            Command::Schedule(command) => Some(command.feature()),
            Command::Control(ControlCommand::Configure(config)) if config.recent_results > 0 => Some(Feature::Archive),
            Command::Control(ControlCommand::Configure(config)) if config.idempotency_window > 0 => {
                Some(Feature::KeyWindow)
            }
            Command::Agent(_) | Command::Pool(_) | Command::Control(_) => None,
        }
    }
}

impl Reply {
    /// Returns the newest feature without which no fleet gives this reply.
    pub(crate) fn feature(&self) -> Option<Feature> {
        match self {
            Reply::Enrolled { .. } => Some(Feature::Identity),
            Reply::Posted { .. } | Reply::Settled(_) => Some(Feature::Mail),
            Reply::PoliciesSet { .. } => Some(Feature::Policies),
            Reply::BallotOpened { .. } | Reply::VoteCast { .. } | Reply::VotesCast { .. } => Some(Feature::Ballots),
            Reply::TeamFormed { .. } | Reply::TeamDisbanded { .. } => Some(Feature::Teams),
            Reply::Allocated { .. } | Reply::LeaseRenewed { .. } => Some(Feature::Resources),
            Reply::DeadRetried { .. } | Reply::DeadDropped { .. } => Some(Feature::DeadLetters),
            Reply::KindsSet { .. } => Some(Feature::Kinds),
            Reply::ScheduleSet { .. } | Reply::ScheduleFired { .. } => Some(Feature::Schedules),
            Reply::Refused(refusal) => refusal.feature(),
            Reply::Submitted { .. }
            | Reply::Cancelled(_)
            | Reply::Joined { .. }
            | Reply::Completed
            | Reply::Stale(_)
            | Reply::Done
            | Reply::PoolsSet { .. }
            | Reply::Unreadable { .. } => None,
        }
    }
}

impl Refusal {
    fn feature(&self) -> Option<Feature> {
        match self {
            Refusal::ProofSpent { .. }
            | Refusal::ProofExpired { .. }
            | Refusal::OpenEnrolmentOff
            | Refusal::Barred { .. }
            | Refusal::NameHeld { .. }
            | Refusal::Full { .. } => Some(Feature::Identity),
            Refusal::LetterConflict { .. } | Refusal::UnknownLetter { .. } | Refusal::OtherReceiver { .. } => {
                Some(Feature::Mail)
            }
            Refusal::UnknownBallot { .. }
            | Refusal::BallotConflict { .. }
            | Refusal::NotElector { .. }
            | Refusal::AlreadyVoted { .. }
            | Refusal::BallotClosed { .. } => Some(Feature::Ballots),
            Refusal::BallotTaken { .. } => Some(Feature::Approvals),
            Refusal::UnknownTeam { .. }
            | Refusal::TeamConflict { .. }
            | Refusal::TeamDisbanded { .. }
            | Refusal::TooFewAgents { .. }
            | Refusal::StaleTerm { .. } => Some(Feature::Teams),
            Refusal::InsufficientResources { .. }
            | Refusal::UnknownAllocation { .. }
            | Refusal::AllocationConflict { .. }
            | Refusal::StaleToken { .. }
            | Refusal::OverQuota { .. }
            | Refusal::HolderGone { .. } => Some(Feature::Resources),
            Refusal::NotDead { .. } | Refusal::StillNeeded { .. } => Some(Feature::DeadLetters),
            Refusal::UnknownDependency { .. } | Refusal::NoPart { .. } => Some(Feature::Graphs),
            Refusal::TaskQueueFull { .. } => Some(Feature::Queues),
            Refusal::UnknownSchedule { .. }
            | Refusal::ScheduleManaged { .. }
            | Refusal::ScheduleMoved { .. }
            | Refusal::ScheduleBusy { .. } => Some(Feature::Schedules),
            Refusal::QueueFull { .. }
            | Refusal::TooManyTasks { .. }
            | Refusal::StorageFull { .. }
            | Refusal::InputTooLarge { .. }
            | Refusal::Invalid { .. }
            | Refusal::Conflict { .. }
            | Refusal::UnknownTask { .. }
            | Refusal::TooManyAgents { .. }
            | Refusal::StaleSession
            | Refusal::Version { .. }
            | Refusal::NotInForce { .. }
            | Refusal::Unreadable { .. }
            | Refusal::NoRoom { .. } => None,
        }
    }
}

impl SubmitTask {
    /// Returns the newest feature that the task needs.
    pub(crate) fn feature(&self) -> Option<Feature> {
        let needs = [
            #[cfg(feature = "trial")]
            (self.trial, Feature::Trial),
            (self.links.is_some(), Feature::Graphs),
            (self.verify.is_some(), Feature::Verification),
            (self.approval.is_some(), Feature::Approvals),
            (self.team.is_some() || self.team_term.is_some(), Feature::Teams),
            (self.resources.is_some(), Feature::Resources),
            (self.timing.is_some(), Feature::Timing),
            (self.lane.is_some(), Feature::Queues),
            (self.demand.is_some(), Feature::Kinds),
            (self.input_ref.is_some(), Feature::Blobs),
        ];
        needs.into_iter().find(|(is_needed, _)| *is_needed).map(|(_, feature)| feature)
    }
}

impl TaskCommand {
    /// Returns the newest feature that the command needs.
    pub(crate) fn feature(&self) -> Option<Feature> {
        match self {
            TaskCommand::Submit(task) => task.feature(),
            TaskCommand::Complete(Completion { outcome: Outcome::Failed(failure), .. }) if failure.needs_timing() => {
                Some(Feature::Timing)
            }
            TaskCommand::Complete(Completion {
                outcome: Outcome::Failed(Failure { kind: FailureKind::Denied, .. }),
                ..
            }) => Some(Feature::Policies),
            TaskCommand::Complete(Completion {
                outcome: Outcome::Failed(Failure { kind: FailureKind::NotApproved, .. }),
                ..
            }) => Some(Feature::Approvals),
            TaskCommand::Complete(Completion {
                outcome: Outcome::Answered { .. } | Outcome::Failed(Failure { kind: FailureKind::Disagreement, .. }),
                ..
            }) => Some(Feature::Verification),
            TaskCommand::Complete(Completion { outcome: Outcome::Suspended(suspension), .. }) => {
                Some(Feature::Graphs.or_newer(suspension.subtasks.iter().filter_map(SubmitTask::feature)))
            }
            TaskCommand::Complete(Completion {
                outcome:
                    Outcome::Failed(Failure {
                        kind: FailureKind::Dependency | FailureKind::Subtask | FailureKind::ResultsTooLarge,
                        ..
                    }),
                ..
            }) => Some(Feature::Graphs),
            TaskCommand::Complete(Completion { outcome: Outcome::Stored(_), .. }) => Some(Feature::Blobs),
            TaskCommand::RetryDead(_) | TaskCommand::DropDead(_) => Some(Feature::DeadLetters),
            TaskCommand::Stalled { .. } => Some(Feature::Timing),
            TaskCommand::Cancel { .. } | TaskCommand::Complete(_) => None,
        }
    }
}

impl Fleet {
    /// Returns whether a feature is in force.
    pub fn has(&self, feature: Feature) -> bool {
        feature.since() <= self.version()
    }

    /// Refuses a command that needs a feature that is not in force.
    pub fn check_feature(&self, command: &Command) -> Result<(), Refusal> {
        command.feature().map_or(Ok(()), |feature| self.check_has(feature))
    }

    /// Refuses what needs a feature that is not in force.
    ///
    /// # Errors
    /// [`Refusal::NotInForce`].
    pub fn check_has(&self, feature: Feature) -> Result<(), Refusal> {
        match self.has(feature) {
            true => Ok(()),
            false => Err(Refusal::NotInForce {
                feature: feature.name().to_owned(),
                since: feature.since(),
                current: self.version(),
            }),
        }
    }
}

/// A switch that decides whether the process knows [`Feature::Trial`], so that tests can run both an older and a newer
/// program.
#[cfg(feature = "trial")]
pub mod trial {
    use std::sync::atomic::{AtomicBool, Ordering};

    static KNOWN: AtomicBool = AtomicBool::new(false);

    /// Makes this process know the feature. Call it before anything else, and only in debug builds: every build of the
    /// whole workspace contains this module.
    pub fn know() {
        KNOWN.store(true, Ordering::Relaxed);
    }

    /// Returns whether this process knows the feature.
    pub fn is_known() -> bool {
        KNOWN.load(Ordering::Relaxed)
    }
}
