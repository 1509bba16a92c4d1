//! The ready tasks of a queue that have keys which limits are about. In each column, their submitters have turns, and the keys
//! of each submitter; a key that has to wait for its limits comes last. So a start changes the turn of one submitter, however
//! many keys wait, and a limit that holds nothing back any more those of the submitters that have tasks with its key.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    columns::{Column, Columns, Vacant},
    line::{Entry, Rules},
    queue::{Rank, first},
    submitters::{Key, Turn},
    turns::{Name, Turns},
};

/// The ready tasks of a queue that have keys.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Keyed {
    columns: Columns<Crowd>,
    holders: BTreeSet<Holder>,
}

/// A submitter that has tasks with a key in a column.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Holder {
    key: Name,
    domain: Option<Name>,
    role: usize,
    submitter: Name,
}

/// The tasks in one column, by submitter.
#[derive(Clone, PartialEq, Debug, Default)]
struct Crowd {
    submitters: BTreeMap<Name, Keys>,
    turns: Turns<Key>,
}

/// The tasks of one submitter in one column, by key.
#[derive(Clone, PartialEq, Debug, Default)]
struct Keys {
    ready: BTreeMap<Name, BTreeSet<Rank>>,
    turns: Turns<Rank>,
}

impl Vacant for Crowd {
    fn is_vacant(&self) -> bool {
        self.submitters.is_empty()
    }
}

impl Vacant for Keyed {
    fn is_vacant(&self) -> bool {
        self.holders.is_empty()
    }
}

impl Holder {
    fn column(&self) -> Column<'_> {
        Column { domain: self.domain.as_deref(), role: self.role }
    }
}

/// Returns a name that is known, else a new one.
fn named<T>(known: &BTreeMap<Name, T>, name: &str) -> Name {
    known.get_key_value(name).map_or_else(|| Name::from(name), |(name, _)| Arc::clone(name))
}

/// Returns the place of the first task with a key; `None` if it has to wait for its limits.
fn rank_of(ready: &BTreeMap<Name, BTreeSet<Rank>>, key: &str, queue: &str, rules: Rules<'_>) -> Option<Rank> {
    if rules.gate.is_held(queue, key) {
        return None;
    }
    ready.get(key)?.first().copied()
}

/// Returns the turn of a submitter; `None` if all its keys have to wait for their limits.
fn turn_of(submitters: &mut BTreeMap<Name, Keys>, name: &str, queue: &str, rules: Rules<'_>) -> Option<Key> {
    let rank = submitters.get_mut(name)?.next(queue, rules)?;
    Some((rules.shares.of_submitter(queue, name), rank))
}

impl Keyed {
    /// Adds a task to one of its columns. Returns whether the queue's turn there may come earlier.
    pub(super) fn insert(&mut self, column: Column<'_>, of: &Entry<'_>) -> bool {
        let Keyed { columns, holders } = self;
        let (is_first, holder) = columns.grow(column, |crowd| crowd.insert(of));
        if let Some((submitter, key)) = holder {
            let domain = columns.domain_of(column);
            holders.insert(Holder { key, domain, role: column.role, submitter });
        }
        is_first
    }

    /// Removes a task from one of its columns; from that of its domain last.
    pub(super) fn remove(&mut self, column: Column<'_>, of: &Entry<'_>) {
        let Keyed { columns, holders } = self;
        let holds_more = columns.shrink(column, |crowd| crowd.remove(of.submitter, of.key, of.rank));
        if holds_more == Some(false) {
            let (key, submitter) = (Name::from(of.key), Name::from(of.submitter));
            holders.remove(&Holder { key, domain: column.domain.map(Name::from), role: column.role, submitter });
        }
    }

    /// Returns whether there are tasks in a column.
    pub(super) fn has(&self, column: Column<'_>) -> bool {
        self.columns.at(column).is_some_and(|crowd| !crowd.is_vacant())
    }

    /// Returns whether a task in a column need not wait for the limits of its key.
    pub(super) fn has_turn(&mut self, column: Column<'_>, queue: &str, rules: Rules<'_>) -> bool {
        let Some(Crowd { submitters, turns }) = self.columns.at_mut(column) else { return false };
        turns.next(None, |name| turn_of(submitters, name, queue, rules)).is_some()
    }

    /// Returns the better one of a turn and the first one in a column.
    pub(super) fn better(
        &mut self,
        best: Option<Turn>,
        column: Column<'_>,
        queue: &str,
        rules: Rules<'_>,
        skip: &impl Fn(u64) -> Option<u64>,
    ) -> Option<Turn> {
        match self.columns.at_mut(column) {
            Some(crowd) => crowd.better(best, queue, rules, skip),
            None => best,
        }
    }

    /// Takes note that tasks with a key need not wait any more. Returns the columns that they are in.
    pub(super) fn open(&mut self, key: &str) -> Vec<Column<'_>> {
        let Keyed { columns, holders } = self;
        let first = Holder { key: Name::from(key), domain: None, role: 0, submitter: Name::from("") };
        let mut used: Vec<Column<'_>> = Vec::new();
        for holder in holders.range(first..).take_while(|holder| *holder.key == *key) {
            let column = holder.column();
            if let Some(crowd) = columns.at_mut(column) {
                crowd.lower(&holder.submitter, key);
            }
            // Those of one column are next to each other.
            if used.last() != Some(&column) {
                used.push(column);
            }
        }
        used
    }

    /// Returns the columns that have tasks.
    pub(super) fn used(&self) -> impl Iterator<Item = Column<'_>> {
        self.columns.used()
    }

    /// Returns the places of the tasks, in sets of the same domain, required role, submitter and key: so many of each domain and
    /// role.
    pub(super) fn sets(&self, most: usize) -> impl Iterator<Item = &BTreeSet<Rank>> {
        self.columns.of_domains().flat_map(move |crowd| crowd.sets().take(most))
    }

    /// Returns something for each domain and required role.
    pub(super) fn different(&self) -> impl Iterator<Item = ()> {
        self.columns.of_domains().map(|_| ())
    }

    /// Returns the different domains of the tasks.
    pub(super) fn domains(&self) -> impl Iterator<Item = &str> {
        self.columns.domains()
    }

    /// Returns the number of different domains of the tasks.
    pub(super) fn domain_count(&self) -> usize {
        self.columns.domain_count()
    }

    /// Returns whether there are tasks with this domain.
    pub(super) fn has_domain(&self, domain: &str) -> bool {
        self.columns.has_domain(domain)
    }

    /// Returns whether all turns are as [`Turns`] requires.
    pub(super) fn is_sound(&self, queue: &str, rules: Rules<'_>) -> bool {
        let mut crowds = self.columns.used().filter_map(|column| self.columns.at(column));
        crowds.all(|crowd| crowd.is_sound(queue, rules))
    }
}

impl Crowd {
    fn sets(&self) -> impl Iterator<Item = &BTreeSet<Rank>> {
        self.submitters.values().flat_map(|keys| keys.ready.values())
    }

    /// Adds a task. Returns whether it is the first one of its submitter with its key, and the names of both if it is the only
    /// one.
    fn insert(&mut self, of: &Entry<'_>) -> (bool, Option<(Name, Name)>) {
        let submitter = named(&self.submitters, of.submitter);
        let keys = self.submitters.entry(Arc::clone(&submitter)).or_default();
        let key = named(&keys.ready, of.key);
        let ready = keys.ready.entry(Arc::clone(&key)).or_default();
        let (is_only, is_first) = (ready.is_empty(), ready.first().is_none_or(|first| of.rank < *first));
        ready.insert(of.rank);
        if is_first {
            keys.turns.insert(&key, of.rank);
            self.turns.insert(&submitter, (0, of.rank));
        }
        (is_first, is_only.then_some((submitter, key)))
    }

    /// Removes a task. Returns whether its submitter has others with its key.
    fn remove(&mut self, submitter: &str, key: &str, rank: Rank) -> bool {
        let Some(keys) = self.submitters.get_mut(submitter) else { return false };
        let Some(ready) = keys.ready.get_mut(key) else { return false };
        ready.remove(&rank);
        if !ready.is_empty() {
            return true;
        }
        keys.ready.remove(key);
        keys.turns.remove(key);
        if keys.ready.is_empty() {
            self.submitters.remove(submitter);
            self.turns.remove(submitter);
        }
        false
    }

    /// Takes note that a submitter's tasks with a key need not wait any more.
    fn lower(&mut self, submitter: &Name, key: &str) {
        if let Some(keys) = self.submitters.get_mut(submitter) {
            let first = keys.ready.get(key).and_then(BTreeSet::first).copied().unwrap_or_default();
            keys.turns.lower(key, first);
            self.turns.lower(submitter, (0, first));
        }
    }

    /// Returns the better one of a turn and the first one. A second submitter shows whether others wait.
    fn better(
        &mut self,
        mut best: Option<Turn>,
        queue: &str,
        rules: Rules<'_>,
        skip: &impl Fn(u64) -> Option<u64>,
    ) -> Option<Turn> {
        let Crowd { submitters, turns } = self;
        let (mut place, mut found) = (None, 0);
        while found < 2 {
            let next = turns.next(place.as_ref(), |name| turn_of(submitters, name, queue, rules));
            let Some(next) = next else { break };
            let rank = submitters.get_mut(&next.name).and_then(|keys| keys.first(queue, rules, skip));
            if let Some(rank) = rank {
                let submitter = Arc::clone(&next.name);
                best = Turn::better(best, Turn { served: next.key.0, rank, submitter, is_contested: false });
                found += 1;
            }
            place = Some(next);
        }
        best
    }

    fn is_sound(&self, queue: &str, rules: Rules<'_>) -> bool {
        let mut copy = self.submitters.clone();
        let are_sound = |keys: &Keys| keys.turns.is_sound(|key| rank_of(&keys.ready, key, queue, rules));
        self.turns.is_sound(|name| turn_of(&mut copy, name, queue, rules)) && self.submitters.values().all(are_sound)
    }
}

impl Keys {
    /// Returns the place of the first task that need not wait for the limits of its key, whether it is to be skipped or not.
    fn next(&mut self, queue: &str, rules: Rules<'_>) -> Option<Rank> {
        let Keys { ready, turns } = self;
        turns.next(None, |key| rank_of(ready, key, queue, rules)).map(|place| place.key)
    }

    /// Same as [`Keys::next`], but for the tasks that are to be skipped.
    fn first(&mut self, queue: &str, rules: Rules<'_>, skip: &impl Fn(u64) -> Option<u64>) -> Option<Rank> {
        let Keys { ready, turns } = self;
        let (mut place, mut best) = (None, None);
        loop {
            let next = turns.next(place.as_ref(), |key| rank_of(ready, key, queue, rules));
            let Some(next) = next else { return best };
            let rank = ready.get(&next.name).and_then(|ready| first(ready, skip));
            best = best.into_iter().chain(rank).min();
            // Those of the next keys come later than what is skipped of this one.
            if best.is_some_and(|best| best <= next.key) {
                return best;
            }
            place = Some(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{
        Role,
        queues::{gate::Gate, shares::Shares},
        schedule::{
            columns::general_columns,
            free_agents::Needs,
            line::{Line, columns},
            turns::LOOKS,
        },
    };

    const KEYS: u64 = 5_000;
    /// How often each key has a task of each submitter.
    const ROUNDS: u64 = 2;

    /// In each round, each key has a task of Ann's and one of Ben's.
    fn entry_of(keys: &[String], seq: u64) -> Entry<'_> {
        let needs = Needs {
            role: None,
            specialization_required: false,
            domain: "sum",
            kind: "sum",
            slots: 1,
            skills: &[],
            store: false,
        };
        let submitter = if seq.is_multiple_of(2) { "ann" } else { "ben" };
        Entry { queue: "q", key: &keys[(seq / 2 % KEYS) as usize], submitter, needs, rank: (5, seq) }
    }

    fn insert(line: &mut Line, of: &Entry<'_>) {
        for column in columns(of) {
            line.insert(column, of);
        }
    }

    fn remove(line: &mut Line, of: &Entry<'_>) {
        for column in columns(of) {
            line.remove(column, of);
        }
    }

    fn next(line: &mut Line, rules: Rules<'_>) -> Option<Turn> {
        line.first(general_columns(Role::Worker), "q", rules, &|_| None)
    }

    #[test]
    fn each_start_among_thousands_of_keys_takes_few_looks_and_their_submitters_have_turns() {
        let keys: Vec<String> = (0..KEYS).map(|n| format!("key-{n:05}")).collect();
        let (mut line, mut shares, gate) = (Line::default(), Shares::default(), Gate::default());
        for seq in 0..2 * KEYS * ROUNDS {
            insert(&mut line, &entry_of(&keys, seq));
        }
        let before = LOOKS.with(Cell::get);
        for start in 0..2 * KEYS * ROUNDS {
            let turn = next(&mut line, Rules { shares: &shares, gate: &gate }).expect("tasks wait");
            let of = entry_of(&keys, turn.rank.1);
            assert_eq!((turn.is_contested, of.submitter), (start + 1 < 2 * KEYS * ROUNDS, &*turn.submitter));
            if turn.is_contested {
                shares.count_submitter("q", &turn.submitter);
            }
            assert_eq!(turn.rank.1, start, "by turns, and in order");
            remove(&mut line, &of);
        }
        let looks = LOOKS.with(Cell::get) - before;
        assert!(looks <= 16 * 2 * KEYS * ROUNDS, "{looks} looks");
        assert!(line.is_vacant());
    }

    #[test]
    fn the_first_look_costs_no_more_than_others_however_much_was_added_before() {
        let keys: Vec<String> = (0..KEYS).map(|n| format!("key-{n:05}")).collect();
        let (mut line, shares, gate) = (Line::default(), Shares::default(), Gate::default());
        for seq in (0..2 * KEYS).rev() {
            insert(&mut line, &entry_of(&keys, seq));
        }
        let before = LOOKS.with(Cell::get);
        assert!(next(&mut line, Rules { shares: &shares, gate: &gate }).is_some_and(|turn| turn.rank.1 == 0));
        let looks = LOOKS.with(Cell::get) - before;
        assert!(looks <= 16, "{looks} looks");
    }

    #[test]
    fn other_keys_of_the_same_submitter_are_no_others() {
        let keys: Vec<String> = (0..KEYS).map(|n| format!("key-{n:05}")).collect();
        let (mut line, shares, gate) = (Line::default(), Shares::default(), Gate::default());
        for seq in [0, 2, 4] {
            insert(&mut line, &entry_of(&keys, seq));
        }
        let rules = Rules { shares: &shares, gate: &gate };
        assert!(next(&mut line, rules).is_some_and(|turn| !turn.is_contested && turn.rank.1 == 0));
        insert(&mut line, &entry_of(&keys, 7));
        assert!(next(&mut line, rules).is_some_and(|turn| turn.is_contested && turn.rank.1 == 0));
    }
}
