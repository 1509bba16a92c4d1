//! Which task an agent takes next, of all that are ready.
//!
//! Invariants, in any order of events:
//!
//! 1. **Nothing waits for nothing.** No ready task waits while an agent that fits it has a free slot and the resources that
//!    it needs, unless a limit of its queue or key holds it back. So no queue with work and a fitting free agent waits,
//!    whatever others do.
//! 2. **Fair shares.** When an agent has a choice, it takes a task of the queue that was *served* least for its weight, and
//!    of that queue one of the submitter that was served least. Of two queues that always have tasks for the same agents,
//!    none gets further ahead than by one task of a queue of weight 1, measured by what they were served: none exceeds its
//!    share while another one waits. So a million tasks of one make ten of another wait for no more than ten others.
//! 3. **Nothing is saved up.** A queue or submitter that had nothing that could be served is served next, but once: it gets
//!    its share from then on, and nothing for the time before.
//! 4. Within a submitter, the order is that of priority and then of acceptance. In a queue whose priorities age, waiting
//!    as long as its `aging` is worth one priority more; so every task is the first one some day. As all age equally,
//!    their order never changes while they wait.
//! 5. A specialist takes tasks of its domain first: the rules above hold for these, and then for the others.
//! 6. What is served counts only while others wait. With one queue and one submitter nothing counts, and the order is that
//!    of priority and acceptance.
//!
//! Limits, and why they hold, are in [`queues`](crate::queues).
//!
//! A task is in one or two [columns](super::columns): in that of its domain, and in one for all that require no
//! specialization. An agent looks at a few of them. In each column, queues have turns, in each queue the submitters, and for
//! each submitter the keys that limits are about; [`Turns`] keeps them in order at a cost that grows with the logarithm of
//! their number. Serving a task changes the turns of its queue and of its submitter, in all columns at once.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    iter,
    ops::Bound,
    sync::Arc,
};

use super::{
    columns::{Column, Columns, Vacant},
    line::{Entry, Line, Rules, columns},
    submitters::Turn,
    turns::{Name, Turns},
};
use crate::{
    Task,
    limits::{DEFAULT_QUEUE, MAX_PRIORITY},
};

/// A task's place among those of its submitter. First comes the number of priorities above its own or, if the priorities
/// of its queue age, the time at which a task of the highest priority would have had to be accepted to be in its place;
/// then its number.
pub(crate) type Rank = (u64, u64);

pub(crate) fn rank(task: &Task) -> Rank {
    let above = u64::from(MAX_PRIORITY.saturating_sub(task.priority));
    let order = match task.aging() {
        0 => above,
        aging => task.epoch_began().fleet.saturating_add(above.saturating_mul(aging)),
    };
    (order, task.seq)
}

/// Returns the place of a task among all that are urgent, whoever submitted them: higher priority first, then earlier
/// acceptance.
pub(crate) fn urgency(task: &Task) -> (u8, u64) {
    (MAX_PRIORITY.saturating_sub(task.priority), task.seq)
}

/// Returns the first task of a set that is not to be skipped. `skip` returns, for one that is, the last number up to which
/// all of the same priority are skipped: those of one task that runs on several agents, of which there are not many.
pub(crate) fn first(set: &BTreeSet<Rank>, skip: &impl Fn(u64) -> Option<u64>) -> Option<Rank> {
    let mut next = set.first().copied();
    while let Some((order, seq)) = next {
        let Some(last) = skip(seq) else { break };
        next = set.range((Bound::Excluded((order, last.max(seq))), Bound::Unbounded)).next().copied();
    }
    next
}

/// The task that an agent should take next, and what its start means for the shares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// How much its queue was served for its weight, while others waited.
    pub served: u64,
    /// Its queue; `None` for [`DEFAULT_QUEUE`].
    queue: Option<Name>,
    pub turn: Turn,
    /// How much the queue was served whose turn is next; `None` if no other one waits for the same agent.
    pub rival: Option<u64>,
}

impl Found {
    /// Returns the task's number.
    pub(crate) fn seq(&self) -> u64 {
        self.turn.rank.1
    }

    /// Returns the name of the task's queue.
    pub(crate) fn queue(&self) -> &str {
        self.queue.as_deref().unwrap_or(DEFAULT_QUEUE)
    }

    /// Returns the first task of a queue.
    pub(crate) fn of(queue: Option<Name>, turn: Turn, rules: Rules<'_>) -> Found {
        let mut found = Found { served: 0, queue, turn, rival: None };
        found.served = rules.shares.of_queue(found.queue());
        found
    }

    /// Same as [`Found::of`], for a queue with this name.
    pub(crate) fn in_queue(queue: &str, turn: Turn, rules: Rules<'_>) -> Found {
        Found::of((queue != DEFAULT_QUEUE).then(|| Name::from(queue)), turn, rules)
    }

    /// Returns the better one of two tasks for an agent. Those come first that are not marked as tasks of others than a
    /// specialist's domain.
    pub(crate) fn preferred(best: Option<(bool, Found)>, other: (bool, Found)) -> Option<(bool, Found)> {
        let (is_others, found) = other;
        let Some((of_others, known)) = best else { return Some((is_others, found)) };
        match of_others.cmp(&is_others) {
            Ordering::Less => Some((of_others, known)),
            Ordering::Equal => Found::better(Some(known), found).map(|found| (is_others, found)),
            Ordering::Greater => Some((is_others, found)),
        }
    }

    fn order(&self) -> (u64, &str) {
        (self.served, self.queue())
    }

    /// Returns the better one of two, of which each tells how much the other one's queue was served.
    pub(crate) fn better(best: Option<Found>, other: Found) -> Option<Found> {
        let Some(best) = best else { return Some(other) };
        let rival = [best.rival, other.rival].into_iter().flatten().min();
        if best.order() == other.order() {
            let turn = Turn::better(Some(best.turn), other.turn)?;
            return Some(Found { served: best.served, queue: best.queue, turn, rival });
        }
        let (first, second) = if other.order() < best.order() { (other, best) } else { (best, other) };
        // What the second one says of others may be about the first one.
        let rival = first.rival.map_or(second.served, |rival| rival.min(second.served));
        Some(Found { rival: Some(rival), ..first })
    }
}

/// The queued tasks that are ready, of all queues.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct ReadyQueue {
    /// Those of [`DEFAULT_QUEUE`], which has a place of its own: most fleets have no other one.
    default: Line,
    /// Those of other queues, if there are any.
    others: Option<Box<Others>>,
}

#[derive(Clone, PartialEq, Debug, Default)]
struct Others {
    lines: BTreeMap<Name, Line>,
    /// The turns of the queues in each column.
    turns: Columns<Turns<u64>>,
}

impl ReadyQueue {
    /// Queues a task.
    pub(crate) fn insert(&mut self, of: &Entry<'_>) {
        if *of.queue == *DEFAULT_QUEUE {
            for column in columns(of) {
                self.default.insert(column, of);
            }
            return;
        }
        let Others { lines, turns } = &mut **self.others.get_or_insert_default();
        let known = lines.get_key_value(of.queue).map(|(name, _)| Arc::clone(name));
        let name = known.unwrap_or_else(|| Name::from(of.queue));
        let line = lines.entry(Arc::clone(&name)).or_default();
        for column in columns(of) {
            if line.insert(column, of) {
                turns.grow(column, |turns| turns.insert(&name, 0));
            }
        }
    }

    /// Removes a task.
    pub(crate) fn remove(&mut self, of: &Entry<'_>) {
        if *of.queue == *DEFAULT_QUEUE {
            for column in columns(of) {
                self.default.remove(column, of);
            }
            return;
        }
        let Some(others) = &mut self.others else { return };
        let Others { lines, turns } = &mut **others;
        let Some(line) = lines.get_mut(of.queue) else { return };
        for column in columns(of) {
            if !line.remove(column, of) {
                turns.shrink(column, |turns| turns.remove(of.queue));
            }
        }
        if line.is_vacant() {
            lines.remove(of.queue);
        }
        if lines.is_empty() {
            self.others = None;
        }
    }

    /// Returns whether no task is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.default.is_vacant() && self.others.is_none()
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        let others = self.others.iter().flat_map(|others| others.lines.values());
        iter::once(&self.default).chain(others)
    }

    /// Returns the places of some queued tasks, in at most so many sets of the same domain, required role, queue, key and
    /// submitter: as many of each domain, role and queue, unless these are more.
    pub(crate) fn by_need(&self, most: usize) -> impl Iterator<Item = &BTreeSet<Rank>> {
        let different = self.lines().flat_map(|line| line.different()).take(most).count();
        let each = most / different.max(1);
        self.lines().flat_map(move |line| line.by_need(each)).take(most)
    }

    /// Returns the task in some columns that is next, of those that no limit holds back. It is none of those that `skip`
    /// names.
    pub(crate) fn first<'c>(
        &mut self,
        columns: impl Iterator<Item = Column<'c>>,
        rules: Rules<'_>,
        skip: &impl Fn(u64) -> Option<u64>,
    ) -> Option<Found> {
        let Self { default, others } = self;
        let is_held = rules.gate.is_held(DEFAULT_QUEUE, "");
        let Some(others) = others else {
            let turn = if is_held { None } else { default.first(columns, DEFAULT_QUEUE, rules, skip) };
            return turn.map(|turn| Found::of(None, turn, rules));
        };
        let mut best = None;
        for column in columns {
            let turn = if is_held { None } else { default.first(iter::once(column), DEFAULT_QUEUE, rules, skip) };
            if let Some(turn) = turn {
                best = Found::better(best, Found::of(None, turn, rules));
            }
            best = others.better(best, column, rules, skip);
        }
        best
    }

    /// Returns the task of one queue in some columns that is next, as [`ReadyQueue::first`] does.
    pub(crate) fn first_of<'c>(
        &mut self,
        queue: &str,
        columns: impl Iterator<Item = Column<'c>>,
        rules: Rules<'_>,
        skip: &impl Fn(u64) -> Option<u64>,
    ) -> Option<Found> {
        if rules.gate.is_held(queue, "") {
            return None;
        }
        if *queue == *DEFAULT_QUEUE {
            return self.default.first(columns, queue, rules, skip).map(|turn| Found::in_queue(queue, turn, rules));
        }
        let line = self.others.as_mut()?.lines.get_mut(queue)?;
        line.first(columns, queue, rules, skip).map(|turn| Found::in_queue(queue, turn, rules))
    }

    /// Takes note that tasks of a queue need not wait for a limit any more: those with this key, or all if it is empty.
    pub(crate) fn open(&mut self, queue: &str, key: &str) {
        if *queue == *DEFAULT_QUEUE {
            self.default.open_key(key);
            return;
        }
        let Some(others) = &mut self.others else { return };
        let Others { lines, turns } = &mut **others;
        let Some(line) = lines.get_mut(queue) else { return };
        let columns: Vec<Column<'_>> = if key.is_empty() { line.used().collect() } else { line.open_key(key) };
        for column in columns {
            if let Some(turns) = turns.at_mut(column) {
                turns.lower(queue, 0);
            }
        }
    }

    /// Returns whether a queue has tasks.
    pub(crate) fn has(&self, queue: &str) -> bool {
        self.line(queue).is_some_and(|line| !line.is_vacant())
    }

    /// Returns the different domains of a queue's tasks.
    pub(crate) fn domains(&self, queue: &str) -> impl Iterator<Item = &str> {
        self.line(queue).into_iter().flat_map(|line| line.domains())
    }

    /// Returns how many different domains a queue's tasks have, not counting this one.
    pub(crate) fn other_domains(&self, queue: &str, domain: &str) -> usize {
        let line = self.line(queue);
        line.map_or(0, |line| line.domain_count().saturating_sub(usize::from(line.has_domain(domain))))
    }

    fn line(&self, queue: &str) -> Option<&Line> {
        match *queue == *DEFAULT_QUEUE {
            true => Some(&self.default),
            false => self.others.as_ref()?.lines.get(queue),
        }
    }

    /// Returns whether all turns are as [`Turns`] requires.
    pub(crate) fn is_sound(&self, rules: Rules<'_>) -> bool {
        let Some(others) = &self.others else { return self.default.is_sound(DEFAULT_QUEUE, rules) };
        let Others { lines, turns } = &**others;
        let fits = |column: Column<'_>| {
            let mut copy = lines.clone();
            let key = |queue: &str| queue_key(&mut copy, queue, column, rules);
            turns.at(column).is_none_or(|turns| turns.is_sound(key))
        };
        self.default.is_sound(DEFAULT_QUEUE, rules)
            && lines.iter().all(|(queue, line)| line.is_sound(queue, rules))
            && turns.used().all(fits)
    }
}

/// Returns the turn of a queue in a column; `None` if all its tasks there have to wait for limits.
fn queue_key(lines: &mut BTreeMap<Name, Line>, queue: &str, column: Column<'_>, rules: Rules<'_>) -> Option<u64> {
    let may_start = !rules.gate.is_held(queue, "") && lines.get_mut(queue)?.has_turn(column, queue, rules);
    may_start.then(|| rules.shares.of_queue(queue))
}

impl Others {
    /// Returns the better one of a task and the first one in a column. The queue after that is its rival.
    fn better(
        &mut self,
        mut best: Option<Found>,
        column: Column<'_>,
        rules: Rules<'_>,
        skip: &impl Fn(u64) -> Option<u64>,
    ) -> Option<Found> {
        let Others { lines, turns } = self;
        let Some(turns) = turns.at_mut(column) else { return best };
        let (mut place, mut found) = (None, 0);
        while found < 2 {
            let next = turns.next(place.as_ref(), |queue| queue_key(lines, queue, column, rules));
            let Some(next) = next else { break };
            let line = lines.get_mut(&next.name);
            let turn = line.and_then(|line| line.first(iter::once(column), &next.name, rules, skip));
            if let Some(turn) = turn {
                best = Found::better(best, Found::of(Some(Arc::clone(&next.name)), turn, rules));
                found += 1;
            }
            place = Some(next);
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use bytes::Bytes;

    use super::*;
    use crate::{
        AgentCommand, AgentId, AgentJoin, Command, ControlCommand, Fleet, FleetConfig, Reply, Role, Stamp, SubmitTask,
        TaskCommand, TaskId, Verify, known_version,
        limits::{MAX_VERIFIED_TASKS, MAX_VERIFYING_AGENTS},
        queues::{gate::Gate, shares::Shares},
        schedule::{columns::general_columns, free_agents::Needs, turns::LOOKS},
    };

    #[test]
    fn an_agent_that_has_had_its_turns_looks_once_at_each_task() {
        let mut effects = Vec::new();
        let mut fleet = Fleet::new(FleetConfig::default());
        fleet.apply(Stamp::at(1), Command::Control(ControlCommand::RaiseVersion(known_version())), &mut effects);
        let join = AgentJoin::worker("wide", MAX_VERIFIED_TASKS + 1);
        let joined = fleet.apply(Stamp::at(1), Command::Agent(AgentCommand::Joined(join)), &mut effects);
        let agent = if let Reply::Joined { agent, .. } = joined { agent } else { AgentId(u32::MAX) };
        for n in 0..u128::from(MAX_VERIFIED_TASKS) {
            let (agents, agree) = (MAX_VERIFYING_AGENTS, MAX_VERIFYING_AGENTS);
            let verify = Some(Box::new(Verify { agents, agree, pointer: None, compare: None }));
            let task = SubmitTask { verify, ..SubmitTask::new(TaskId(n), "sum", Bytes::new()) };
            fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(task)), &mut effects);
        }
        assert_eq!(fleet.counts().assigned, MAX_VERIFIED_TASKS, "a run of each; the others are queued");
        let agent = fleet.agent(agent).expect("it has joined");
        let looks = Cell::new(0);
        let skip = |seq: u64| {
            looks.set(looks.get() + 1);
            fleet.skipped(seq, agent)
        };
        let mut queue = fleet.indexes.schedule.queue.clone();
        assert_eq!(queue.first(general_columns(agent.role), fleet.rules(), &skip), None);
        assert_eq!(looks.get(), MAX_VERIFIED_TASKS);
    }

    const QUEUES: u64 = 1_000;
    /// The tasks of each queue: the first ones are Ann's, then come Ben's, then Cem's.
    const TASKS: u64 = 60;

    fn entry_of(names: &[String], seq: u64) -> Entry<'_> {
        let submitter = match seq % TASKS {
            0..40 => "ann",
            40..55 => "ben",
            _ => "cem",
        };
        let domain = ["sum", "parse"][(seq % 2) as usize];
        let needs = Needs {
            role: None,
            specialization_required: false,
            domain,
            kind: domain,
            slots: 1,
            skills: &[],
            store: false,
        };
        Entry { queue: &names[(seq / TASKS) as usize], key: "", submitter, needs, rank: (5, seq) }
    }

    #[test]
    fn each_start_among_a_thousand_queues_takes_few_looks_and_all_are_served_in_turn() {
        const ROUNDS: u64 = 30;
        let names: Vec<String> = (0..QUEUES).map(|n| format!("queue-{n}")).collect();
        let (mut queue, mut shares, gate) = (ReadyQueue::default(), Shares::default(), Gate::default());
        for seq in 0..QUEUES * TASKS {
            queue.insert(&entry_of(&names, seq));
        }
        let mut started: BTreeMap<(String, String), u64> = BTreeMap::new();
        let before = LOOKS.with(Cell::get);
        for _ in 0..QUEUES * ROUNDS {
            let rules = Rules { shares: &shares, gate: &gate };
            let found = queue.first(general_columns(Role::Worker), rules, &|_| None).expect("tasks wait");
            shares.count_queue(found.queue(), 1, found.rival.expect("others wait"));
            assert!(found.turn.is_contested);
            shares.count_submitter(found.queue(), &found.turn.submitter);
            *started.entry((found.queue().to_owned(), found.turn.submitter.to_string())).or_default() += 1;
            queue.remove(&entry_of(&names, found.seq()));
        }
        let looks = LOOKS.with(Cell::get) - before;
        // Each start changes the turns of a queue and of a submitter; besides these, the first and the second one are met.
        assert!(looks <= 10 * QUEUES * ROUNDS, "{looks} looks");
        for name in &names {
            let of = |submitter: &str| started.get(&(name.clone(), submitter.to_owned())).copied().unwrap_or(0);
            let (ann, ben, cem) = (of("ann"), of("ben"), of("cem"));
            assert_eq!((ann + ben + cem, cem), (ROUNDS, 5), "{name}");
            assert!(ann.abs_diff(ben) <= 1, "{name}: {ann} of the one, {ben} of the other");
        }
    }
}
