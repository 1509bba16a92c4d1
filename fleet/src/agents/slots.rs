//! The slots of an agent: what it holds, and how many slots that takes. An attempt takes the slots that its task asks for
//! from its beginning until the agent reports that it has ended.

use std::collections::BTreeMap;

use super::{Agent, AgentState, Held, HeldState};
use crate::{
    TaskId,
    sabotage::{Mistake, planted},
};

/// An attempt: the task, and the fencing number.
type Key = (TaskId, u32);

impl Agent {
    /// Returns the number of slots taken by running and stopping attempts.
    pub fn used_slots(&self) -> u32 {
        self.held_attempts() + self.extra_slots
    }

    /// Returns the number of running and stopping attempts.
    pub fn held_attempts(&self) -> u32 {
        self.held.len() as u32
    }

    /// Returns the number of slots that may be given tasks.
    pub(crate) fn free_slots(&self) -> u32 {
        match self.state {
            AgentState::Live => self.slots.saturating_sub(self.used_slots()),
            _ => 0,
        }
    }

    /// Returns the running and stopping attempts, by task.
    pub fn held(&self) -> impl Iterator<Item = Held> + '_ {
        self.held.iter().map(|((task, attempt), state)| Held { task: *task, attempt: *attempt, state: *state })
    }

    /// Returns how many slots an attempt takes; none if the agent does not hold it.
    pub fn slots_of(&self, task: TaskId, attempt: u32) -> u32 {
        let key = (task, attempt);
        let wide = || self.wide.get(&key).copied().unwrap_or(1);
        if self.held.contains_key(&key) { wide() } else { 0 }
    }

    /// Returns the taken slots per thousand.
    pub(crate) fn load(&self) -> u32 {
        let slots = u64::from(self.slots.max(1));
        (u64::from(self.used_slots()) * 1000 / slots) as u32
    }

    /// Takes this many slots for an attempt that begins.
    pub(crate) fn hold(&mut self, key: Key, slots: u32) {
        self.held.insert(key, HeldState::Active);
        if slots > 1 && !planted(Mistake::SlotsIgnored) {
            self.extra_slots += slots - 1;
            self.wide.insert(key, slots);
        }
    }

    /// Notes that an attempt is to stop, whose slots stay taken.
    pub(crate) fn stop(&mut self, key: Key) {
        self.held.insert(key, HeldState::Stopping);
    }

    /// Frees the slots of an attempt.
    pub(crate) fn release(&mut self, key: &Key) {
        self.held.remove(key);
        if let Some(slots) = self.wide.remove(key) {
            self.extra_slots -= slots - 1;
        }
    }

    /// Frees all slots. Returns the attempts that took them.
    pub(crate) fn release_all(&mut self) -> BTreeMap<Key, HeldState> {
        self.wide.clear();
        self.extra_slots = 0;
        std::mem::take(&mut self.held)
    }

    /// Returns whether the taken slots add up.
    pub(crate) fn are_slots_sound(&self) -> bool {
        let extra = self.wide.values().map(|slots| u64::from(*slots).saturating_sub(1)).sum::<u64>();
        self.wide.values().all(|slots| *slots > 1)
            && self.wide.keys().all(|key| self.held.contains_key(key))
            && u64::from(self.extra_slots) == extra
            && u64::from(self.slots) >= self.held.len() as u64 + extra
    }
}
