//! The command that sets queues of tasks.

use std::collections::{BTreeMap, BTreeSet};

use bilrost::{Message, Oneof};

use super::{Limit, QueueRules};
use crate::{
    Fleet, Refusal, Reply,
    config::{check_name, invalid},
    limits::{MAX_TASK_QUEUES, MAX_UPDATED_QUEUES},
    steps::{Job, Jobs},
};

/// A command for the queues of tasks. It needs [`Feature::Queues`](crate::Feature::Queues). All domains share one range of
/// field numbers; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum QueueCommand {
    /// Sets some queues, and removes others; the rest stays as it is. Tasks that wait in a queue that is removed go on as
    /// those of a queue without limits, and of weight 1; no others can be submitted to it.
    #[bilrost(tag(100), message)]
    Update {
        /// The queues that are set.
        #[bilrost(1)]
        set: Vec<TaskQueue>,
        /// The names of those that are removed; unknown ones are ignored.
        #[bilrost(2)]
        remove: Vec<String>,
    },
}

/// A queue of tasks.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct TaskQueue {
    /// The queue's name.
    #[bilrost(1)]
    pub name: String,
    /// What is set for it.
    #[bilrost(2)]
    pub rules: QueueRules,
}

impl TaskQueue {
    /// Refuses queues that can't be set, and removed, together: too many, one out of bounds, or one that is named twice.
    ///
    /// # Errors
    /// Returns [`Refusal::Invalid`], which names the field.
    pub fn check_all(set: &[TaskQueue], remove: &[String]) -> Result<(), Refusal> {
        let count = set.len() + remove.len();
        if count > MAX_UPDATED_QUEUES {
            return Err(invalid("queues", format!("has {count} entries, the most is {MAX_UPDATED_QUEUES}; split it")));
        }
        let mut names = BTreeSet::new();
        for name in set.iter().map(|queue| &queue.name).chain(remove) {
            check_name("queues.name", name)?;
            if !names.insert(name) {
                return Err(invalid("queues.name", format!("{name:?} is there twice")));
            }
        }
        set.iter().try_for_each(|queue| queue.rules.check(&queue.name))
    }
}

impl Fleet {
    pub(crate) fn run_queues(&mut self, command: QueueCommand, jobs: &mut Jobs) -> Reply {
        let QueueCommand::Update { set, remove } = command;
        if let Err(refusal) = TaskQueue::check_all(&set, &remove).and_then(|()| self.check_queue_count(&set, &remove)) {
            return Reply::Refused(refusal);
        }
        let mut ages = false;
        let removed = remove.into_iter().map(|name| (name, None));
        for (name, rules) in set.into_iter().map(|TaskQueue { name, rules }| (name, Some(rules))).chain(removed) {
            // Else all tasks of the fleet would be looked at for none.
            let has_tasks = self.indexes.schedule.gate.counts_of(&name).unfinished > 0;
            ages |= has_tasks && self.aging_of(&name) != rules.as_ref().map_or(0, |rules| rules.aging);
            self.set_queue(&name, rules);
        }
        if ages {
            jobs.push(Job::Age(0));
        }
        Reply::Done
    }

    fn check_queue_count(&self, set: &[TaskQueue], remove: &[String]) -> Result<(), Refusal> {
        let known = &self.state.queues.set;
        let added = set.iter().filter(|queue| !known.contains_key(&queue.name)).count();
        let removed = remove.iter().filter(|name| known.contains_key(*name)).count();
        let full = |what: &str, remedy: &str| {
            let (what, remedy) = (what.to_owned(), remedy.to_owned());
            Err(Refusal::Full { what, limit: MAX_TASK_QUEUES as u64, remedy })
        };
        if known.len() + added - removed > MAX_TASK_QUEUES {
            return full("queues of tasks", "remove some that are not used any more");
        }
        let removed: BTreeSet<&String> = remove.iter().collect();
        if self.left_queues(|name| self.knows_queue(name) && !removed.contains(name)) > MAX_TASK_QUEUES {
            let remedy = "wait until nothing is granted from them, and their tasks have finished";
            return full("queues that are removed and in use", remedy);
        }
        Ok(())
    }

    /// Returns how many queues have unfinished tasks, or something is granted from them, of those that do not stay.
    pub(crate) fn left_queues(&self, stays: impl Fn(&String) -> bool) -> usize {
        let used = self.indexes.resources.queues.keys().chain(self.indexes.schedule.gate.used());
        used.filter(|name| !stays(name)).collect::<BTreeSet<&String>>().len()
    }

    /// Sets a queue, or removes it. A key whose rate is another one starts with a full bucket.
    fn set_queue(&mut self, name: &str, rules: Option<QueueRules>) {
        let before = self.state.queues.set.get(name).map_or_else(Vec::new, |rules| rules.limits.clone());
        let limits = rules.as_ref().map_or_else(Vec::new, |rules| rules.limits.clone());
        match rules {
            Some(rules) => drop(self.state.queues.set.insert(name.to_owned(), rules)),
            None => drop(self.state.queues.set.remove(name)),
        }
        // Allocations of tasks count for it, with its weight, or not any more.
        self.wake_allocations();
        if before != limits {
            self.set_limits(name, &limits);
        }
        if !self.state.queues.set.contains_key(name) {
            self.state.queues.started.remove(name);
            if self.indexes.schedule.gate.counts_of(name).unfinished == 0 {
                self.state.queues.shares.forget(name);
            }
        }
    }

    fn set_limits(&mut self, queue: &str, limits: &[Limit]) {
        let mut keys = self.indexes.schedule.gate.keys_of(queue);
        let buckets = self.state.queues.buckets.get(queue).map_or_else(BTreeMap::new, |of| of.keys.clone());
        // Their due times are by the rates that were in force.
        buckets.keys().for_each(|key| self.set_bucket(queue, key, None));
        let rate_before: Vec<_> = buckets.keys().map(|key| self.indexes.schedule.gate.rate_of(queue, key)).collect();
        self.indexes.schedule.gate.set_limits(queue, limits);
        for ((key, bucket), before) in buckets.into_iter().zip(rate_before) {
            if self.indexes.schedule.gate.rate_of(queue, &key) == before {
                self.set_bucket(queue, &key, Some(bucket));
            }
            keys.insert(key);
        }
        for key in keys {
            if self.indexes.schedule.gate.refresh(queue, &key) {
                self.indexes.schedule.open(queue, &key);
            }
        }
    }
}
