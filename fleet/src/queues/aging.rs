//! Another speed at which the priorities of a queue age: it holds for the tasks that wait, too.

use std::ops::Bound;

use super::Lane;
use crate::{Fleet, Task};

/// Most tasks that one step looks at.
const MAX_LOOKED_AT: usize = 256;
/// Most tasks that one step changes.
const MAX_CHANGED: usize = 16;

impl Task {
    /// Sets how long waiting is worth one priority more.
    pub(crate) fn set_aging(&mut self, aging: u64) {
        match &mut self.lane {
            Some(lane) => lane.aging = aging,
            None if aging > 0 => self.lane = Some(Box::new(Lane { aging, ..Lane::default() })),
            None => {}
        }
        if self.lane.as_ref().is_some_and(|lane| **lane == Lane::default()) {
            self.lane = None;
        }
    }
}

impl Fleet {
    /// Returns how long waiting is worth one priority more in a queue, ms; 0: for ever.
    pub(crate) fn aging_of(&self, queue: &str) -> u64 {
        self.state.queues.set.get(queue).map_or(0, |rules| rules.aging)
    }

    /// Has the unfinished tasks after this number age as their queues say, as far as one step goes. Returns the last one
    /// that it has looked at; `None` if there are no more.
    pub(crate) fn age_some(&mut self, after: u64) -> Option<u64> {
        let rest = (Bound::Excluded(after), Bound::Unbounded);
        let (mut last, mut changes) = (None, Vec::new());
        for (seq, task) in self.state.tasks.kept.range(rest).take(MAX_LOOKED_AT) {
            last = Some(*seq);
            let aging = self.aging_of(task.queue());
            if !task.state.is_final() && task.aging() != aging {
                changes.push((*seq, aging));
            }
            if changes.len() >= MAX_CHANGED {
                break;
            }
        }
        for (seq, aging) in changes {
            self.change_task(seq, |task| task.set_aging(aging));
        }
        last
    }
}
