//! Snapshots that are taken by copy-on-write while the fleet continues: [`Fleet::begin_snapshot`] fixes the moment, and
//! the state of that moment is then taken in parts, with commands applied in between.
//!
//! Invariants between the beginning and the end of a snapshot:
//! - Agents and tasks are taken in the order of their numbers. All numbers below the next one were taken as they were
//!   at the beginning; numbers that were assigned after the beginning are never taken.
//! - The old version of an entry that changes or is removed before it was taken is saved, once. So the version that is
//!   saved under a number, or else the one in the state, is the version from the beginning.
//!
//! So the bytes are those that [`Fleet::encode`] would have returned at the beginning.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::{
    Agent, AgentId, Fleet, Task,
    codec::{CodecError, StateWriter},
    fleet::State,
};

/// The snapshots that are being taken of a fleet. A clone of the fleet has none.
#[derive(Debug, Default)]
pub(crate) struct Snapshots(Vec<Weak<Mutex<Rest>>>);

impl Clone for Snapshots {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// The part of the state that is not taken yet.
#[derive(Debug)]
struct Rest {
    agents: Untaken<AgentId, Agent>,
    tasks: Untaken<u64, Task>,
    /// The fleet itself, after another state has replaced it.
    retired: Option<Arc<Fleet>>,
}

/// The agents or tasks with numbers from `next` up to `end`, exclusive.
#[derive(Debug)]
struct Untaken<K, V> {
    next: K,
    end: K,
    /// The versions from the beginning of the snapshot; whatever is missing here has not changed since.
    saved: BTreeMap<K, Arc<V>>,
}

impl<K: Ord + Copy, V> Untaken<K, V> {
    fn save(&mut self, key: K, value: &Arc<V>) {
        if self.next <= key && key < self.end {
            self.saved.entry(key).or_insert_with(|| Arc::clone(value));
        }
    }

    /// Takes up to `limit` further entries; fewer mean that these are the last.
    fn take(&mut self, current: &BTreeMap<K, Arc<V>>, limit: usize, after: impl Fn(K) -> K) -> Vec<(K, Arc<V>)> {
        let mut taken = Vec::with_capacity(limit);
        let mut current = current.range(self.next..self.end).peekable();
        while taken.len() < limit {
            let saved = self.saved.first_key_value().map(|(key, _)| *key);
            let (key, value) = match (current.peek(), saved) {
                (Some((key, _)), Some(saved)) if saved > **key => (**key, None),
                (Some((key, _)), None) => (**key, None),
                (_, Some(_)) => match self.saved.pop_first() {
                    Some((key, value)) => (key, Some(value)),
                    None => break,
                },
                (None, None) => break,
            };
            let unchanged = current.next_if(|(found, _)| **found == key).map(|(_, value)| Arc::clone(value));
            self.next = after(key);
            taken.extend(value.or(unchanged).map(|value| (key, value)));
        }
        taken
    }
}

fn lock(rest: &Mutex<Rest>) -> MutexGuard<'_, Rest> {
    rest.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshots {
    fn each(&self, save: impl Fn(&mut Rest)) {
        for rest in self.0.iter().filter_map(Weak::upgrade) {
            save(&mut lock(&rest));
        }
    }

    /// Saves a task for the snapshots, before a change or after its removal.
    #[inline]
    pub(crate) fn save_task(&self, task: &Arc<Task>) {
        if !self.0.is_empty() {
            self.each(|rest| rest.tasks.save(task.seq, task));
        }
    }

    /// Saves an agent for the snapshots, before a change or after its removal.
    #[inline]
    pub(crate) fn save_agent(&self, agent: &Arc<Agent>) {
        if !self.0.is_empty() {
            self.each(|rest| rest.agents.save(agent.id, agent));
        }
    }
}

/// A part of a snapshot, shared with the state until it is encoded.
#[derive(Debug)]
pub struct Part(Content);

#[derive(Debug)]
enum Content {
    Agents(Vec<(AgentId, Arc<Agent>)>),
    Tasks(Vec<(u64, Arc<Task>)>),
}

/// A snapshot that is being taken. Dropping it cancels it.
#[derive(Debug)]
pub struct Snapshot {
    rest: Arc<Mutex<Rest>>,
    /// The bytes written so far.
    writer: StateWriter,
    agents_left: usize,
    tasks_left: usize,
    /// Whether all agents are taken.
    at_tasks: bool,
}

/// Approximate size of a task in a snapshot besides its input, output and texts, bytes.
const TASK_BYTES: usize = 384;

impl Fleet {
    /// Begins a snapshot of the current state. The cost does not grow with the number of agents or tasks.
    pub fn begin_snapshot(&mut self) -> Snapshot {
        let State { tasks, agents, .. } = &self.state;
        let rest = Arc::new(Mutex::new(Rest {
            agents: Untaken { next: AgentId(0), end: AgentId(agents.next), saved: BTreeMap::new() },
            tasks: Untaken { next: 0, end: tasks.next_seq, saved: BTreeMap::new() },
            retired: None,
        }));
        // Growing the buffer step by step would add about half to the cost.
        let out = Vec::with_capacity(self.stored_bytes() as usize + tasks.kept.len() * TASK_BYTES);
        let snapshot = Snapshot {
            rest: Arc::clone(&rest),
            writer: StateWriter::begin(&self.state, out),
            agents_left: agents.known.len(),
            tasks_left: tasks.kept.len(),
            at_tasks: false,
        };
        self.snapshots.0.retain(|rest| rest.strong_count() > 0);
        self.snapshots.0.push(Arc::downgrade(&rest));
        snapshot
    }

    /// Replaces this state by another one and returns the old one, of which snapshots in progress can still be
    /// finished.
    pub fn replace(&mut self, with: Fleet) -> Arc<Fleet> {
        let old = Arc::new(std::mem::replace(self, with));
        old.snapshots.each(|rest| rest.retired = Some(Arc::clone(&old)));
        old
    }
}

impl Snapshot {
    /// Takes the next part, of at most `limit` agents or tasks, from the fleet that the snapshot was begun on. Returns
    /// `None` when everything is taken. The cost per entry is small whatever its size, because entries are shared, not
    /// copied.
    pub fn take(&mut self, fleet: &Fleet, limit: usize) -> Option<Part> {
        let mut rest = lock(&self.rest);
        let retired = rest.retired.clone();
        let state = &retired.as_deref().unwrap_or(fleet).state;
        if !self.at_tasks {
            let agents = rest.agents.take(&state.agents.known, limit, |AgentId(id)| AgentId(id + 1));
            if !agents.is_empty() {
                return Some(Part(Content::Agents(agents)));
            }
            self.at_tasks = true;
        }
        let tasks = rest.tasks.take(&state.tasks.kept, limit, |seq| seq + 1);
        (!tasks.is_empty()).then_some(Part(Content::Tasks(tasks)))
    }

    /// Encodes a part. Parts must be encoded in the order in which they were taken.
    pub fn encode(&mut self, part: &Part) {
        match &part.0 {
            Content::Agents(agents) => {
                self.agents_left = self.agents_left.saturating_sub(agents.len());
                agents.iter().for_each(|(_, agent)| self.writer.agent(agent));
            }
            Content::Tasks(tasks) => {
                self.tasks_left = self.tasks_left.saturating_sub(tasks.len());
                tasks.iter().for_each(|(_, task)| self.writer.task(task));
            }
        }
    }

    /// Returns the bytes.
    ///
    /// # Errors
    /// Returns an error if not everything was taken and encoded.
    pub fn finish(self) -> Result<Vec<u8>, CodecError> {
        if (self.agents_left, self.tasks_left) != (0, 0) {
            let missing = format!("{} agents and {} tasks are missing", self.agents_left, self.tasks_left);
            return Err(CodecError::Inconsistent(missing));
        }
        Ok(self.writer.finish())
    }
}
