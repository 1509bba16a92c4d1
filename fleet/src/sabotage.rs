//! Mistakes that are planted on purpose, one at a time, to check that the simulator finds each of them. They are
//! compiled into debug builds, and into release builds with the feature `sabotage`, with which the agent's binary
//! refuses to build. Only the simulator plants mistakes. In all other builds [`planted`] is `false` and the mistakes
//! are optimized out.
//!
//! A mistake is a branch on [`planted`] at the place where it would be made.

/// Whether this build contains the mistakes.
pub const COMPILED: bool = cfg!(any(feature = "sabotage", debug_assertions));

macro_rules! mistakes {
    ($($(#[doc = $what:literal])+ $mistake:ident = $name:literal,)+) => {
        /// A mistake that can be planted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mistake {
            $($(#[doc = $what])+ $mistake,)+
        }

        impl Mistake {
            /// All mistakes.
            pub const ALL: &[Self] = &[$(Self::$mistake),+];

            /// Returns the mistake's name on a command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$mistake => $name,)+
                }
            }
        }
    };
}

mistakes! {
    /// Reads are notified that an entry is applied before it is.
    ProgressBeforeApply = "progress-before-apply",
    /// A leader acknowledges heartbeats without recent contact with a majority.
    HeartbeatWithoutMajority = "heartbeat-without-majority",
    /// A leader opens sessions without checking that it still leads.
    SessionWithoutBarrier = "session-without-barrier",
    /// A probe without an answer counts as proof that the process is gone.
    SilenceIsDeath = "silence-is-death",
    /// An agent does not resend its unacknowledged completions on a new stream.
    CompletionsNotResent = "completions-not-resent",
    /// A vote is granted before it is on disk.
    VoteNotSynced = "vote-not-synced",
    /// An agent counts its lease from the arrival of the acknowledgement instead of from the sending of the heartbeat.
    LeaseFromReceipt = "lease-from-receipt",
    /// An agent assumes that its lease lasts twice as long.
    LeaseTwiceAsLong = "lease-twice-as-long",
    /// An agent whose lease has expired forgets what it runs without stopping it.
    FencingWithoutKilling = "fencing-without-killing",
    /// A result counts whichever attempt it is from.
    StaleResultAccepted = "stale-result-accepted",
    /// The slot of an attempt that must stop is free at once.
    CancelFreesSlot = "cancel-frees-slot",
    /// A new leader monitors only agents that connect to it.
    AbsentAgentsForgotten = "absent-agents-forgotten",
    /// A leader measures by its wall clock how long an agent has been silent.
    SilenceByWallClock = "silence-by-wall-clock",
    /// Failed health checks are not written to the log.
    IllnessNotWritten = "illness-not-written",
    /// The leader's clock gains three tenths, so every duration ends early.
    FleetTimeFast = "fleet-time-fast",
    /// The backoff before the next attempt is half as long as it should be.
    BackoffHalved = "backoff-halved",
    /// An attempt that was lost with its agent does not count.
    LossNotCounted = "loss-not-counted",
    /// The leader's clock loses four tenths, so every duration ends late.
    FleetTimeSlow = "fleet-time-slow",
    /// A task without a required role is given to agents of any role.
    RoleIgnored = "role-ignored",
    /// An agent gets an input without its last byte.
    InputCut = "input-cut",
    /// The next task is cancelled instead of the requested one.
    CancelHitsNext = "cancel-hits-next",
    /// A watch omits some changes.
    WatchSkips = "watch-skips",
    /// An agent handles a message again whose outcome it remembers.
    DedupForgets = "dedup-forgets",
    /// A vote that is cast again counts again.
    VoteCountedTwice = "vote-counted-twice",
    /// A ballot that is closed still takes votes, and its outcome is that of all of them.
    OutcomeRecomputed = "outcome-recomputed",
    /// A vote of somebody who is no member of the ballot counts.
    OutsiderVotes = "outsider-votes",
    /// A ballot's threshold is a share of those who have voted instead of the whole electorate.
    ShareOfVoters = "share-of-voters",
    /// A task that needs an approval runs although its ballot was rejected or has expired.
    UnapprovedRuns = "unapproved-runs",
    /// A task that no agent takes waits on although its queue expiry has passed.
    QueueExpiryIgnored = "queue-expiry-ignored",
    /// A task is tried again after a failure that it names as one after which it is not.
    NonRetryableRetried = "non-retryable-retried",
    /// A dead letter is tried again under the epoch in which it died.
    EpochStays = "epoch-stays",
    /// A leader ends no attempt that makes no progress.
    StallIgnored = "stall-ignored",
    /// A leader ends attempts after their progress timeout although they make progress.
    ProgressIgnored = "progress-ignored",
    /// A result is accepted that one agent fewer gave than must agree.
    LieAccepted = "lie-accepted",
    /// Outputs that a comparison has found to be different count as equal.
    DifferentIsEqual = "different-is-equal",
    /// The leader of a team is replaced under the same term.
    TermStays = "term-stays",
    /// What is granted of an agent's contribution can be granted again.
    AllocationOver = "allocation-over",
    /// A renewal of a lease is acknowledged and forgotten.
    RenewalForgotten = "renewal-forgotten",
    /// A lease counts from the request instead of from its grant.
    LeaseFromRequest = "lease-from-request",
    /// The quota of a queue is ignored.
    QuotaIgnored = "quota-ignored",
    /// What an attempt had of an agent's resources is not free once it has ended.
    NeedsNotFreed = "needs-not-freed",
    /// A task that is addressed to a team is given to the best agent, whether that is a member or not.
    OutsiderRuns = "outsider-runs",
    /// A task begins although the last one that it depends on has not ended.
    DependencyIgnored = "dependency-ignored",
    /// A part that has not succeeded counts as if it had.
    FailedPartCounted = "failed-part-counted",
    /// The children of a task that has ended are not cancelled.
    SubtasksSurvive = "subtasks-survive",
    /// An attempt takes one slot of its agent, however many its task asks for.
    SlotsIgnored = "slots-ignored",
    /// What a queue or submitter is served does not count, so that those that come first stay first.
    SharesIgnored = "shares-ignored",
    /// One task more of a queue or a key runs than its limit allows.
    LimitExceeded = "limit-exceeded",
    /// Starts of tasks take no tokens.
    TokensIgnored = "tokens-ignored",
    /// A firing of a schedule counts although its moment was decided before.
    FiringRepeated = "firing-repeated",
    /// Of the runs of a schedule that were missed, the newest alone starts, whatever the schedule says.
    MissedForgotten = "missed-forgotten",
    /// Some successes of agents are not counted, different ones on each coordinator.
    ApplyByChance = "apply-by-chance",
}

#[cfg(any(feature = "sabotage", debug_assertions))]
mod switch {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Mistake;

    /// The planted mistake's index in [`Mistake::ALL`], plus one.
    static PLANTED: AtomicUsize = AtomicUsize::new(0);

    /// Plants this mistake from now on, in the whole process.
    pub fn plant(mistake: Mistake) {
        PLANTED.store(mistake as usize + 1, Ordering::Relaxed);
    }

    /// Returns whether this mistake is planted.
    pub fn planted(mistake: Mistake) -> bool {
        PLANTED.load(Ordering::Relaxed) == mistake as usize + 1
    }

    /// Returns true at every fifth call in this process, independently of the log.
    pub fn by_chance() -> bool {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        ASKED.fetch_add(1, Ordering::Relaxed).is_multiple_of(5)
    }
}

#[cfg(not(any(feature = "sabotage", debug_assertions)))]
mod switch {
    use super::Mistake;

    /// Does nothing: this build contains no mistakes.
    pub const fn plant(_: Mistake) {}

    /// Returns whether this mistake is planted: never.
    #[inline(always)]
    pub const fn planted(_: Mistake) -> bool {
        false
    }

    /// Returns false: this build contains no mistakes.
    #[inline(always)]
    pub const fn by_chance() -> bool {
        false
    }
}

pub use switch::{by_chance, plant, planted};
