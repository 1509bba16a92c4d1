//! Mistakes that are planted on purpose, one at a time, to check that the simulator finds each of them. They are
//! compiled into debug builds, and into release builds with the feature `sabotage`. In all other builds [`planted`] is
//! `false` and the mistakes are optimized out.

/// Whether this build contains the mistakes.
pub const COMPILED: bool = cfg!(any(feature = "sabotage", debug_assertions));

/// A mistake that can be planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mistake {
    /// Quorums and certificates have one member less.
    QuorumOfOneLess,
    /// The proofs in a new view are not checked, nor what it proposes.
    NewViewUnchecked,
    /// A sequence number is used again: a second proposal for it replaces the accepted one.
    SequenceReused,
}

#[cfg(any(feature = "sabotage", debug_assertions))]
mod switch {
    use std::cell::Cell;

    use super::Mistake;

    thread_local! {
        static PLANTED: Cell<Option<Mistake>> = const { Cell::new(None) };
    }

    /// Plants this mistake, or none, from now on in this thread. The protocol runs in the thread that calls it, so
    /// that other tests of the same process are not affected.
    pub fn plant(mistake: Option<Mistake>) {
        PLANTED.set(mistake);
    }

    /// Returns whether this mistake is planted.
    pub fn planted(mistake: Mistake) -> bool {
        PLANTED.get() == Some(mistake)
    }
}

#[cfg(not(any(feature = "sabotage", debug_assertions)))]
mod switch {
    use super::Mistake;

    /// Does nothing: this build contains no mistakes.
    pub const fn plant(_: Option<Mistake>) {}

    /// Returns whether this mistake is planted: never.
    #[inline(always)]
    pub const fn planted(_: Mistake) -> bool {
        false
    }
}

pub use switch::{plant, planted};
