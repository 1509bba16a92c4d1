//! Queries about the queues of tasks.

use std::{collections::BTreeSet, ops::Bound};

use super::QueueRules;
use crate::{Fleet, Task, limits::DEFAULT_QUEUE, schedule::submitter_of};

/// A queue of tasks, as it is set or used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskQueueView {
    /// The queue's name.
    pub name: String,
    /// What is set for it; `None` if nothing is.
    pub rules: Option<QueueRules>,
    /// Its weight, also if it is not set.
    pub weight: u32,
    /// The number of its unfinished tasks.
    pub unfinished: u32,
    /// The number of those that are assigned to an agent.
    pub running: u32,
    /// A limit on all its tasks holds those that are ready.
    pub is_held: bool,
}

/// What metrics tell of a queue of tasks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueFigures {
    /// The queue's name.
    pub name: String,
    /// The number of its unfinished tasks that are not assigned to an agent.
    pub waiting: u32,
    /// The number of those that are.
    pub running: u32,
    /// How many attempts at its tasks have begun since it was set; 0 if it is not.
    pub started: u64,
    /// A limit on all its tasks holds those that are ready.
    pub is_held: bool,
}

/// What a queue and a submitter were served while others waited: the lower, the sooner is the turn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Served {
    /// The queue, for its weight.
    pub queue: u64,
    /// The submitter.
    pub submitter: u64,
}

/// Returns how long it takes until then, in words.
fn from_now(ms: u64) -> String {
    match ms {
        0 => "now".to_owned(),
        1..1_000 => format!("in {ms} ms"),
        ms => format!("in {} s", ms.div_ceil(1_000)),
    }
}

impl Fleet {
    /// Returns a queue of tasks; `None` if it is neither set nor used, nor [`DEFAULT_QUEUE`].
    pub fn task_queue(&self, name: &str) -> Option<TaskQueueView> {
        let gate = &self.indexes.schedule.gate;
        let rules = self.state.queues.set.get(name).cloned();
        let counts = gate.counts_of(name);
        if rules.is_none() && counts.unfinished == 0 && name != DEFAULT_QUEUE {
            return None;
        }
        Some(TaskQueueView {
            name: name.to_owned(),
            rules,
            weight: self.weight_of(name),
            unfinished: counts.unfinished,
            running: counts.running,
            is_held: gate.is_held(name, ""),
        })
    }

    /// Returns at most `limit` queues of tasks that are set or used, by name, after this name. The second value tells
    /// whether there are more.
    pub fn task_queues(&self, after: Option<&str>, limit: usize) -> (Vec<TaskQueueView>, bool) {
        let names = self.queue_names();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = names.range::<str, _>((start, Bound::Unbounded));
        let found = rest.by_ref().take(limit).filter_map(|name| self.task_queue(name)).collect();
        (found, rest.next().is_some())
    }

    /// Returns what metrics tell of the first `limit` queues of tasks by name, and the number of all of them.
    pub fn queue_figures(&self, limit: usize) -> (Vec<QueueFigures>, usize) {
        let (names, gate) = (self.queue_names(), &self.indexes.schedule.gate);
        let figures = |name: &&str| {
            let counts = gate.counts_of(name);
            QueueFigures {
                name: (*name).to_owned(),
                waiting: counts.unfinished - counts.running,
                running: counts.running,
                started: self.state.queues.started.get(*name).copied().unwrap_or(0),
                is_held: gate.is_held(name, ""),
            }
        };
        (names.iter().take(limit).map(figures).collect(), names.len())
    }

    /// Returns the names of the queues that are set or used, and of [`DEFAULT_QUEUE`].
    fn queue_names(&self) -> BTreeSet<&str> {
        let (set, used) = (self.state.queues.set.keys(), self.indexes.schedule.gate.used());
        set.chain(used).map(String::as_str).chain([DEFAULT_QUEUE]).collect()
    }

    /// Returns whether a limit of its queue or its key keeps a task from being started, if it is ready.
    pub fn is_held_back(&self, task: &Task) -> bool {
        let gate = &self.indexes.schedule.gate;
        !gate.has_no_limits() && gate.holds(task.queue(), task.limit_key())
    }

    /// Returns which limit keeps a ready task from being started, as text; `None` if none does.
    pub fn limit_words(&self, task: &Task) -> Option<String> {
        if !task.is_ready() || !self.is_held_back(task) {
            return None;
        }
        let (gate, queue) = (&self.indexes.schedule.gate, task.queue());
        let key = if gate.is_held(queue, "") { "" } else { task.limit_key() };
        let what = match key {
            "" => format!("queue {queue:?}"),
            key => format!("key {key:?} of queue {queue:?}"),
        };
        let (limit, running) = (gate.limit_on(queue, key)?, gate.running(queue, key));
        if let Some(most) = limit.concurrency.filter(|most| running >= *most) {
            let do_so = if running == 1 { "one does".to_owned() } else { format!("{running} do") };
            return Some(format!("a limit of {what}: at most {most} of its tasks may run at a time, and {do_so}"));
        }
        let due = self.state.queues.bucket(queue, key).zip(limit.rate).map(|(bucket, rate)| bucket.due(rate));
        let next = from_now(due.unwrap_or(0).saturating_sub(self.state.now.fleet));
        Some(format!("a limit of {what}: another of its tasks may start {next}"))
    }

    /// Returns what the queue and the submitter of a task were served while others waited.
    pub fn served(&self, task: &Task) -> Served {
        let (shares, queue) = (&self.state.queues.shares, task.queue());
        Served { queue: shares.of_queue(queue), submitter: shares.of_submitter(queue, self.submitter_of(task)) }
    }

    /// Returns for whose share of its queue a task counts. Those that were accepted before the fleet knew shares count as
    /// those of one submitter, who has no name.
    pub fn submitter_of<'a>(&self, task: &'a Task) -> &'a str {
        submitter_of(task, self.indexes.schedule.shared_from)
    }
}
