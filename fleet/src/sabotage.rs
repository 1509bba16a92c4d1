//! Mistakes that are planted on purpose, one at a time, to see that the simulator finds each. They are in
//! debug builds, and in a release build with the feature `sabotage`, which the agent's binary refuses to be built with. Nobody but
//! the simulator plants any. In release builds [`planted`] is `false`, and what hangs on it is compiled away.
//!
//! A mistake stands where it would be made, as a branch on [`planted`].

/// Whether this build has the mistakes in it.
pub const COMPILED: bool = cfg!(any(feature = "sabotage", debug_assertions));

macro_rules! mistakes {
    ($($(#[doc = $what:literal])+ $mistake:ident = $name:literal,)+) => {
        /// A mistake.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mistake {
            $($(#[doc = $what])+ $mistake,)+
        }

        impl Mistake {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$mistake),+];

            /// What it is called on a command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$mistake => $name,)+
                }
            }
        }
    };
}

mistakes! {
    /// Reads are told that an entry is applied before it is.
    ProgressBeforeApply = "progress-before-apply",
    /// A leader answers heartbeats though it has not heard from a majority.
    HeartbeatWithoutMajority = "heartbeat-without-majority",
    /// A leader opens sessions without making sure that it still leads.
    SessionWithoutBarrier = "session-without-barrier",
    /// A probe that nobody answers counts as proof that the process is gone.
    SilenceIsDeath = "silence-is-death",
    /// An agent does not send its unacknowledged completions again on a new stream.
    CompletionsNotResent = "completions-not-resent",
    /// A vote is given before it is on disk.
    VoteNotSynced = "vote-not-synced",
    /// An agent counts its lease from when the acknowledgement came, not from when its heartbeat was sent.
    LeaseFromReceipt = "lease-from-receipt",
    /// An agent takes its lease to last twice as long.
    LeaseTwiceAsLong = "lease-twice-as-long",
    /// An agent whose lease is over forgets what it runs without stopping it.
    FencingWithoutKilling = "fencing-without-killing",
    /// A result counts whatever attempt it is of.
    StaleResultAccepted = "stale-result-accepted",
    /// The slot of an attempt that is to be stopped is free at once.
    CancelFreesSlot = "cancel-frees-slot",
    /// A new leader watches only over agents that come to it.
    AbsentAgentsForgotten = "absent-agents-forgotten",
    /// A leader judges by its wall clock how long an agent has been silent.
    SilenceByWallClock = "silence-by-wall-clock",
    /// What health checks find is not written down.
    IllnessNotWritten = "illness-not-written",
    /// The leader's clock gains three tenths, so that every duration ends early.
    FleetTimeFast = "fleet-time-fast",
    /// The pause before the next attempt is half of what it should be.
    BackoffHalved = "backoff-halved",
    /// An attempt that was lost with its agent does not count.
    LossNotCounted = "loss-not-counted",
    /// The leader's clock loses four tenths, so that every duration ends late.
    FleetTimeSlow = "fleet-time-slow",
    /// A task without a wish of its own is given to agents of any role.
    RoleIgnored = "role-ignored",
    /// An agent is given an input that lacks its last byte.
    InputCut = "input-cut",
    /// The next task is cancelled, and not the one that was meant.
    CancelHitsNext = "cancel-hits-next",
    /// A watch leaves out a change now and then.
    WatchSkips = "watch-skips",
    /// What an agent has done well counts now and then, as chance has it on each coordinator.
    ApplyByChance = "apply-by-chance",
}

#[cfg(any(feature = "sabotage", debug_assertions))]
mod switch {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Mistake;

    /// The place in [`Mistake::ALL`] of the one that is made, plus one.
    static PLANTED: AtomicUsize = AtomicUsize::new(0);

    /// Makes this mistake from now on, in the whole process.
    pub fn plant(mistake: Mistake) {
        PLANTED.store(mistake as usize + 1, Ordering::Relaxed);
    }

    /// Whether this mistake is to be made.
    pub fn planted(mistake: Mistake) -> bool {
        PLANTED.load(Ordering::Relaxed) == mistake as usize + 1
    }

    /// What no log entry says: true once in a while.
    pub fn by_chance() -> bool {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        ASKED.fetch_add(1, Ordering::Relaxed).is_multiple_of(5)
    }
}

#[cfg(not(any(feature = "sabotage", debug_assertions)))]
mod switch {
    use super::Mistake;

    /// Does nothing: this build has no mistakes in it.
    pub const fn plant(_: Mistake) {}

    /// Whether this mistake is to be made: never.
    #[inline(always)]
    pub const fn planted(_: Mistake) -> bool {
        false
    }

    /// What no log entry says: nothing.
    #[inline(always)]
    pub const fn by_chance() -> bool {
        false
    }
}

pub use switch::{by_chance, plant, planted};
