//! What a task makes of how its children ended.

use bytes::Bytes;

use super::{Children, Join};
use crate::{
    Task, TaskState,
    limits::{CHILD_OVERHEAD, MAX_PASSED_REASON_BYTES},
    sabotage::{Mistake, planted},
};

/// What a task with children does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It waits for further children to end.
    Waits,
    /// It is run, with the results of its children.
    Runs,
    /// It succeeds.
    Succeeds,
    /// It fails.
    Fails,
}

impl Children {
    /// Returns what the task does next, given how its children have ended so far.
    pub fn verdict(&self) -> Verdict {
        let failed = self.ended.saturating_sub(self.succeeded);
        let left = self.parts.saturating_sub(self.ended);
        match self.join {
            Join::All | Join::Reduce if failed > 0 => Verdict::Fails,
            Join::All if left == 0 => Verdict::Succeeds,
            Join::Reduce | Join::Resume if left == 0 => Verdict::Runs,
            Join::Settled if left == 0 && failed > self.skipped => Verdict::Fails,
            Join::Settled if left == 0 => Verdict::Succeeds,
            Join::Any if self.succeeded > 0 => Verdict::Succeeds,
            Join::Any if left == 0 => Verdict::Fails,
            Join::Quorum if self.succeeded >= self.quorum => Verdict::Succeeds,
            Join::Quorum if self.succeeded.saturating_add(left) < self.quorum => Verdict::Fails,
            Join::All | Join::Settled | Join::Any | Join::Quorum | Join::Reduce | Join::Resume => Verdict::Waits,
        }
    }

    /// Returns whether attempts at the task are given the results of its children.
    pub(crate) fn passes_results(&self) -> bool {
        matches!(self.join, Join::Reduce | Join::Resume)
    }

    /// Returns the output of a task that succeeds by this child.
    pub(super) fn output_of(&self, child: &Task) -> Bytes {
        let is_that = self.join == Join::Any;
        child.output.clone().filter(|_| is_that).unwrap_or_default()
    }

    /// Counts a child that has ended.
    pub(super) fn count(&mut self, child: &Task, index: u32) {
        let counts = child.state == TaskState::Succeeded || planted(Mistake::FailedPartCounted);
        self.ended = self.ended.saturating_add(1);
        self.succeeded = self.succeeded.saturating_add(u32::from(counts));
        self.skipped = self.skipped.saturating_add(u32::from(child.is_skipped()));
        if index >= self.from {
            self.bytes = self.bytes.saturating_add(passed_bytes(child, CHILD_OVERHEAD));
        }
    }
}

/// Returns what the result of a task that has ended counts for when it is passed on, bytes.
pub(super) fn passed_bytes(task: &Task, overhead: u64) -> u64 {
    let output = task.output.as_ref().map_or(0, |output| output.len());
    let reason = task.reason().len().min(MAX_PASSED_REASON_BYTES);
    overhead + output as u64 + reason as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const JOINS: [Join; 6] = [Join::All, Join::Settled, Join::Any, Join::Quorum, Join::Reduce, Join::Resume];

    /// How a child ended.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum End {
        Success,
        Failure,
        Skip,
    }

    /// The rules in words, of the whole list of what has ended, of so many parts.
    fn expected(join: Join, quorum: usize, parts: usize, ends: &[End]) -> Verdict {
        let count = |end: End| ends.iter().filter(|of| **of == end).count();
        let (good, all_ended) = (count(End::Success), ends.len() == parts);
        let bad = ends.len() - good;
        let (succeeds, fails) = match join {
            Join::All | Join::Reduce => (good == parts, bad > 0),
            Join::Settled => (all_ended && count(End::Failure) == 0, all_ended && count(End::Failure) > 0),
            Join::Any => (good > 0, all_ended && good == 0),
            Join::Quorum => (good >= quorum, parts - bad < quorum),
            Join::Resume => (all_ended, false),
        };
        match (succeeds, fails, matches!(join, Join::Reduce | Join::Resume)) {
            (true, _, true) => Verdict::Runs,
            (true, _, false) => Verdict::Succeeds,
            (false, true, _) => Verdict::Fails,
            (false, false, _) => Verdict::Waits,
        }
    }

    proptest! {
        #[test]
        fn a_join_decides_by_how_its_parts_ended_in_whatever_order(
            join in 0..JOINS.len(), ends in prop::collection::vec(0..3usize, 1..8), more in 0..4usize,
            quorum in 1..8usize,
        ) {
            let join = JOINS[join];
            let ends: Vec<End> = ends.iter().map(|end| [End::Success, End::Failure, End::Skip][*end]).collect();
            let parts = ends.len() + more;
            let quorum = quorum.min(parts);
            let mut children = Children { join, quorum: quorum as u32, parts: parts as u32, ..Children::default() };
            prop_assert_eq!(children.verdict(), Verdict::Waits, "nothing has ended");
            for (n, end) in ends.iter().enumerate() {
                children.ended += 1;
                children.succeeded += u32::from(*end == End::Success);
                children.skipped += u32::from(*end == End::Skip);
                prop_assert_eq!(children.verdict(), expected(join, quorum, parts, &ends[..=n]), "{:?}", &ends[..=n]);
            }
        }
    }
}
