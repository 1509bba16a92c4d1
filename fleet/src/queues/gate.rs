//! Which tasks limits hold back now, and the counts behind that. All of it is computed from the state.

use std::collections::{BTreeMap, BTreeSet};

use super::{Bucket, Limit, Rate, limit_on, state::Queues};
use crate::{
    FleetMillis, Task, TaskState,
    limits::DEFAULT_QUEUE,
    sabotage::{Mistake, planted},
};

/// Tasks of a queue, or of a key of it if that is not empty.
pub(crate) type Group = (String, String);

/// How many tasks of a queue there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub unfinished: u32,
    /// Those that are assigned to an agent.
    pub running: u32,
}

/// The tasks of a queue, and those that run by key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct OfQueue {
    all: Counts,
    keys: BTreeMap<String, u32>,
}

/// What limits hold back.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Gate {
    /// The limits of the queues that have any.
    limits: BTreeMap<String, Vec<Limit>>,
    /// All tasks, and those of other queues than [`DEFAULT_QUEUE`].
    all: Counts,
    others: Counts,
    /// The tasks that are in another queue or have a key.
    queues: BTreeMap<String, OfQueue>,
    /// The keys without a token, by queue.
    dry: BTreeMap<String, BTreeSet<String>>,
    /// The keys of which no task may start now, by queue; the empty one for all tasks of the queue.
    held: BTreeMap<String, BTreeSet<String>>,
    /// When buckets have a token again, or are full.
    due: BTreeSet<(FleetMillis, Group)>,
    /// What was held back until now, and of which tasks may have to be given to agents. Nothing between two commands.
    opened: BTreeSet<Group>,
    /// When the timer of buckets is set for.
    pub timer: Option<FleetMillis>,
}

/// Adds or removes a group.
fn set(groups: &mut BTreeMap<String, BTreeSet<String>>, queue: &str, key: &str, is_in: bool) {
    match (groups.get_mut(queue), is_in) {
        (Some(keys), true) => {
            keys.insert(key.to_owned());
        }
        (None, true) => {
            groups.insert(queue.to_owned(), BTreeSet::from([key.to_owned()]));
        }
        (Some(keys), false) => {
            keys.remove(key);
            if keys.is_empty() {
                groups.remove(queue);
            }
        }
        (None, false) => {}
    }
}

fn has(groups: &BTreeMap<String, BTreeSet<String>>, queue: &str, key: &str) -> bool {
    !groups.is_empty() && groups.get(queue).is_some_and(|keys| keys.contains(key))
}

fn add(count: &mut u32, is_one: bool, is_there: bool) {
    match is_there {
        true => *count += u32::from(is_one),
        false => *count -= u32::from(is_one),
    }
}

impl Counts {
    fn add(&mut self, is_running: bool, is_there: bool) {
        add(&mut self.unfinished, true, is_there);
        add(&mut self.running, is_running, is_there);
    }
}

impl Gate {
    /// Returns the gate of a state, before any task is counted.
    pub(crate) fn of(queues: &Queues) -> Gate {
        let mut gate = Gate::default();
        for (name, rules) in &queues.set {
            gate.set_limits(name, &rules.limits);
        }
        for (queue, of_queue) in &queues.buckets {
            for (key, bucket) in &of_queue.keys {
                gate.set_bucket((queue, key), None, Some(*bucket));
            }
        }
        gate
    }

    /// Replaces the limits of a queue. What they hold back is found out by [`Gate::refresh`].
    pub(crate) fn set_limits(&mut self, queue: &str, limits: &[Limit]) {
        match limits {
            [] => drop(self.limits.remove(queue)),
            limits => drop(self.limits.insert(queue.to_owned(), limits.to_vec())),
        }
    }

    /// Returns whether no queue has limits.
    #[inline]
    pub(crate) fn has_no_limits(&self) -> bool {
        self.limits.is_empty()
    }

    /// Returns the limit on a key of a queue, or on the queue if the key is empty.
    pub(crate) fn limit_on(&self, queue: &str, key: &str) -> Option<&Limit> {
        limit_on(self.limits.get(queue)?, key)
    }

    /// Returns the rate at which tasks of a key of a queue may start.
    pub(crate) fn rate_of(&self, queue: &str, key: &str) -> Option<Rate> {
        self.limit_on(queue, key)?.rate
    }

    /// Returns whether no task of a key of a queue may start now, or of the queue if the key is empty.
    #[inline]
    pub(crate) fn is_held(&self, queue: &str, key: &str) -> bool {
        has(&self.held, queue, key)
    }

    /// Returns whether a task may not start now, because of its queue or its key.
    pub(crate) fn holds(&self, queue: &str, key: &str) -> bool {
        self.is_held(queue, "") || (!key.is_empty() && self.is_held(queue, key))
    }

    /// Returns whether there are unfinished tasks.
    pub(crate) fn has_tasks(&self) -> bool {
        self.all.unfinished > 0
    }

    /// Returns how many tasks of a queue there are.
    pub(crate) fn counts_of(&self, queue: &str) -> Counts {
        if *queue == *DEFAULT_QUEUE {
            let Counts { unfinished, running } = self.all;
            return Counts { unfinished: unfinished - self.others.unfinished, running: running - self.others.running };
        }
        self.queues.get(queue).map_or_else(Counts::default, |of_queue| of_queue.all)
    }

    /// Returns how many tasks of a key of a queue run, or of the queue if the key is empty.
    pub(crate) fn running(&self, queue: &str, key: &str) -> u32 {
        if key.is_empty() {
            return self.counts_of(queue).running;
        }
        self.queues.get(queue).and_then(|of_queue| of_queue.keys.get(key)).copied().unwrap_or(0)
    }

    /// Returns the queues that have tasks, but for those without keys in [`DEFAULT_QUEUE`].
    pub(crate) fn used(&self) -> impl Iterator<Item = &String> {
        self.queues.keys()
    }

    /// Counts a task, or counts it no more. Returns whether that opens its queue, and its key.
    pub(crate) fn count(&mut self, task: &Task, is_there: bool) -> [bool; 2] {
        if task.state.is_final() {
            return [false; 2];
        }
        let is_running = task.state == TaskState::Assigned;
        self.all.add(is_running, is_there);
        if task.lane.is_none() && task.resources.is_none() {
            return [is_running && self.refresh(DEFAULT_QUEUE, ""), false];
        }
        let (queue, key) = (task.queue(), task.limit_key());
        let is_other = *queue != *DEFAULT_QUEUE;
        if is_other {
            self.others.add(is_running, is_there);
        }
        if is_other || !key.is_empty() {
            self.count_in(queue, key, is_running, is_there);
        }
        let opens = is_running && self.refresh(queue, "");
        [opens, is_running && !key.is_empty() && self.refresh(queue, key)]
    }

    fn count_in(&mut self, queue: &str, key: &str, is_running: bool, is_there: bool) {
        let of_queue = match self.queues.get_mut(queue) {
            Some(of_queue) => of_queue,
            None => self.queues.entry(queue.to_owned()).or_default(),
        };
        of_queue.all.add(is_running, is_there);
        if is_running && !key.is_empty() {
            let running = match of_queue.keys.get_mut(key) {
                Some(running) => running,
                None => of_queue.keys.entry(key.to_owned()).or_default(),
            };
            add(running, true, is_there);
            if *running == 0 {
                of_queue.keys.remove(key);
            }
        }
        if of_queue.all.unfinished == 0 {
            self.queues.remove(queue);
        }
    }

    /// Finds out again whether the limits of a key of a queue hold tasks back, or those of the queue if the key is empty.
    /// Returns whether they did and do no more; then the group is among those that [`Gate::next_opened`] returns.
    pub(crate) fn refresh(&mut self, queue: &str, key: &str) -> bool {
        if self.limits.is_empty() && self.held.is_empty() {
            return false;
        }
        let holds = self.limit_on(queue, key).is_some_and(|limit| {
            let more = u32::from(planted(Mistake::LimitExceeded));
            let is_full = limit.concurrency.is_some_and(|most| self.running(queue, key) >= most.saturating_add(more));
            is_full || (limit.rate.is_some() && has(&self.dry, queue, key))
        });
        let held = self.is_held(queue, key);
        if holds != held {
            set(&mut self.held, queue, key, holds);
        }
        let opens = held && !holds;
        if opens {
            self.opened.insert((queue.to_owned(), key.to_owned()));
        }
        opens
    }

    /// Returns the keys of a queue that limits may hold back, or do; the empty one for all its tasks.
    pub(crate) fn keys_of(&self, queue: &str) -> BTreeSet<String> {
        let running = self.queues.get(queue).into_iter().flat_map(|of_queue| of_queue.keys.keys());
        let groups = [self.dry.get(queue), self.held.get(queue)].into_iter().flatten().flatten();
        running.chain(groups).cloned().chain([String::new()]).collect()
    }

    /// Takes note of another bucket of a key of a queue, and what it was before. Returns whether that opens the group, as
    /// [`Gate::refresh`] does.
    pub(crate) fn set_bucket(
        &mut self,
        (queue, key): (&str, &str),
        before: Option<Bucket>,
        bucket: Option<Bucket>,
    ) -> bool {
        let Some(rate) = self.rate_of(queue, key) else { return false };
        let due = |bucket: Bucket| (bucket.due(rate), (queue.to_owned(), key.to_owned()));
        if let Some(before) = before {
            self.due.remove(&due(before));
        }
        self.due.extend(bucket.map(due));
        set(&mut self.dry, queue, key, bucket.is_some_and(|bucket| bucket.is_dry(rate)));
        self.refresh(queue, key)
    }

    /// Returns the number of buckets that are not full.
    pub(crate) fn buckets(&self) -> usize {
        self.due.len()
    }

    /// Returns the bucket whose time comes first, and when that is.
    pub(crate) fn next_due(&self) -> Option<&(FleetMillis, Group)> {
        self.due.first()
    }

    /// Returns a group that was held back and is no more.
    pub(crate) fn next_opened(&self) -> Option<&Group> {
        self.opened.last()
    }

    /// Returns whether there are such groups of a queue.
    #[inline]
    pub(crate) fn is_opening(&self, queue: &str) -> bool {
        if self.opened.is_empty() {
            return false;
        }
        let next = self.opened.range((queue.to_owned(), String::new())..).next();
        next.is_some_and(|(of, _)| of == queue)
    }

    /// Removes the groups of the queue of which [`Gate::next_opened`] returns one.
    pub(crate) fn close_opened(&mut self, queue: &str) {
        while self.opened.last().is_some_and(|(of, _)| of == queue) {
            self.opened.pop_last();
        }
    }
}
