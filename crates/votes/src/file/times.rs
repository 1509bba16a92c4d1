//! Whether the times in a ballot's file can be true together.

use super::{BallotFile, FileOutcome};

/// By how much the times in a file may contradict each other, ms: they are wall time, and the coordinators' clocks may
/// be set back by this much before they warn that one is wrong.
const MAX_CLOCK_STEP_MS: u64 = 5_000;
/// The coordinators measure durations with a clock that may be faster than wall time by one part in this many.
const FASTER_PART: u64 = 20;

impl BallotFile {
    /// Returns which of the times contradict each other by more than clocks explain; `None`: none do.
    pub(super) fn contradiction(&self) -> Option<String> {
        let opened = self.opened_at_ms;
        let is_before = |at: u64, earliest: u64| at.saturating_add(MAX_CLOCK_STEP_MS) < earliest;
        if let Some(vote) = self.votes.iter().find(|vote| is_before(vote.at_ms, opened)) {
            return Some(format!("{} voted before the ballot was opened", vote.member));
        }
        let closed = self.closed_at_ms?;
        if is_before(closed, opened) {
            return Some("it was closed before it was opened".to_owned());
        }
        if let Some(vote) = self.votes.iter().find(|vote| is_before(closed, vote.at_ms)) {
            return Some(format!("{} voted after the ballot was closed", vote.member));
        }
        let deadline = opened.saturating_add(self.ttl_ms - self.ttl_ms / FASTER_PART);
        let is_early = self.outcome == FileOutcome::Expired && is_before(closed, deadline);
        is_early.then(|| "it expired before its deadline".to_owned())
    }
}
