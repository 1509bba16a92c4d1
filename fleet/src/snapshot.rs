//! Snapshots that are taken while the fleet goes on, copy-on-write: [`Fleet::begin_snapshot`] fixes the moment, and the state
//! of that moment is then taken part by part, with commands applied in between.
//!
//! What holds at any time between the beginning and the end of a snapshot:
//! - Agents and tasks are taken in the order of their numbers. Those of lower numbers than the next were taken as they were
//!   at the beginning; numbers that were not given yet at the beginning are never taken.
//! - Whatever changes, or disappears, and is not taken yet is saved first, once. So the first form that is saved or found of
//!   a number is the one it had at the beginning.
//!
//! So the bytes are those that [`Fleet::encode`] would have given at the beginning.

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

/// What is not taken yet.
#[derive(Debug)]
struct Rest {
    agents: Untaken<AgentId, Agent>,
    tasks: Untaken<u64, Task>,
    /// The fleet itself, once another state has replaced it.
    retired: Option<Arc<Fleet>>,
}

/// The agents, or the tasks, from the number `next` up to the number `end`, which is not included.
#[derive(Debug)]
struct Untaken<K, V> {
    next: K,
    end: K,
    /// As they were at the beginning; those that are not here have not changed since.
    saved: BTreeMap<K, Arc<V>>,
}

impl<K: Ord + Copy, V> Untaken<K, V> {
    fn save(&mut self, key: K, value: &Arc<V>) {
        if self.next <= key && key < self.end {
            self.saved.entry(key).or_insert_with(|| Arc::clone(value));
        }
    }

    /// Takes the next ones, at most `limit`; fewer are the last.
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

    /// Before a change of a task, or after it was removed.
    #[inline]
    pub(crate) fn save_task(&self, task: &Arc<Task>) {
        if !self.0.is_empty() {
            self.each(|rest| rest.tasks.save(task.seq, task));
        }
    }

    /// Before a change of an agent, or after it was removed.
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

/// A snapshot that is being taken. Dropping it ends that.
#[derive(Debug)]
pub struct Snapshot {
    rest: Arc<Mutex<Rest>>,
    /// What is written so far.
    writer: StateWriter,
    agents_left: usize,
    tasks_left: usize,
    /// The agents are all taken.
    at_tasks: bool,
}

/// What a task takes in a snapshot besides its input, output and texts, about, bytes.
const TASK_BYTES: usize = 384;

impl Fleet {
    /// Begins a snapshot of the state as it is now. The work does not grow with the number of agents or tasks.
    pub fn begin_snapshot(&mut self) -> Snapshot {
        let State { tasks, agents, .. } = &self.state;
        let rest = Arc::new(Mutex::new(Rest {
            agents: Untaken { next: AgentId(0), end: AgentId(agents.next), saved: BTreeMap::new() },
            tasks: Untaken { next: 0, end: tasks.next_seq, saved: BTreeMap::new() },
            retired: None,
        }));
        // Growing as it goes would take half as much again.
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

    /// Puts another state in the place of this one, which is returned. Snapshots that are being taken of it can be finished.
    pub fn replace(&mut self, with: Fleet) -> Arc<Fleet> {
        let old = Arc::new(std::mem::replace(self, with));
        old.snapshots.each(|rest| rest.retired = Some(Arc::clone(&old)));
        old
    }
}

impl Snapshot {
    /// Takes the next part, of at most `limit` agents or tasks, from the fleet that the snapshot was begun of; `None` when
    /// all is taken. Costs little for each of them, whatever their size: they are shared, not copied.
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

    /// Encodes a part. Parts must come in the order in which they were taken.
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

    /// The bytes.
    ///
    /// # Errors
    /// Not everything was taken and encoded.
    pub fn finish(self) -> Result<Vec<u8>, CodecError> {
        if (self.agents_left, self.tasks_left) != (0, 0) {
            let missing = format!("{} agents and {} tasks are missing", self.agents_left, self.tasks_left);
            return Err(CodecError::Inconsistent(missing));
        }
        Ok(self.writer.finish())
    }
}
