//! Entries that get numbers in the order in which they are added, such as enrolments, letters or records of the audit
//! log. Numbers are never reused, so that a snapshot that is being taken can tell which entries were added after its
//! beginning.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bilrost::encoding::RawMessage;

use crate::{
    audit::{COUNTER_ROOM, Check, ensure},
    snapshot::{Rest, Snapshots, Untaken},
};

/// An entry of the state that has a number.
pub(crate) trait Entry: RawMessage + Clone {
    /// The field of the entries in the message of a state.
    const FIELD: u32;
    /// What several of them are called, for messages.
    const NAME: &str;

    /// Returns the entry's number, at least 1.
    fn number(&self) -> u64;

    /// Returns the entries of this kind that a snapshot has still to take.
    fn untaken(rest: &mut Rest) -> &mut Untaken<u64, Self>;
}

/// The entries of one kind. Entries are shared with the readers and snapshots that hold them, and are copied before a
/// change if they are shared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Numbered<V> {
    kept: BTreeMap<u64, Arc<V>>,
    /// The highest number that was ever given; 0 at first.
    last: u64,
}

impl<V> Default for Numbered<V> {
    fn default() -> Self {
        Self { kept: BTreeMap::new(), last: 0 }
    }
}

impl<V> Numbered<V> {
    /// Returns these entries, as they are in a snapshot.
    pub(crate) fn of(kept: BTreeMap<u64, Arc<V>>, last: u64) -> Self {
        Self { kept, last }
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Returns the highest number that was ever given.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn kept(&self) -> &BTreeMap<u64, Arc<V>> {
        &self.kept
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Arc<V>> {
        self.kept.get(&number)
    }

    /// Returns the entries by number.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<V>> {
        self.kept.values()
    }

    /// Returns the entries with numbers above `after`.
    pub(crate) fn after(&self, after: u64) -> impl Iterator<Item = &Arc<V>> {
        self.kept.range((Bound::Excluded(after), Bound::Unbounded)).map(|(_, entry)| entry)
    }
}

impl<V: Entry> Numbered<V> {
    /// Adds an entry that is made with its number.
    pub(crate) fn add(&mut self, entry: impl FnOnce(u64) -> V) -> &Arc<V> {
        self.last += 1;
        self.kept.entry(self.last).or_insert(Arc::new(entry(self.last)))
    }

    /// Changes anything of an entry but its number.
    pub(crate) fn change<R>(
        &mut self,
        number: u64,
        snapshots: &Snapshots,
        change: impl FnOnce(&mut V) -> R,
    ) -> Option<R> {
        let entry = self.kept.get_mut(&number)?;
        snapshots.save(entry);
        Some(change(Arc::make_mut(entry)))
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, number: u64, snapshots: &Snapshots) -> Option<Arc<V>> {
        let entry = self.kept.remove(&number)?;
        snapshots.save(&entry);
        Some(entry)
    }

    /// Checks what must hold for entries in any state: their numbers, and that there are at most `most`.
    pub(crate) fn check(&self, most: usize) -> Check {
        let numbers = self.kept.iter().all(|(number, entry)| *number == entry.number() && *number > 0);
        let newest = self.kept.last_key_value().is_none_or(|(number, _)| *number <= self.last);
        ensure(numbers && newest && self.last < COUNTER_ROOM, || format!("the numbers of {}", V::NAME))?;
        ensure(self.len() <= most, || format!("{} {}", self.len(), V::NAME))
    }
}
