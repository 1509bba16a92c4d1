//! Snapshots that are taken by copy-on-write while the fleet continues: [`Fleet::begin_snapshot`] fixes the moment, and
//! the state of that moment is then taken in parts, with commands applied in between.
//!
//! Invariants between the beginning and the end of a snapshot:
//! - Agents, then tasks, then the entries of the other domains are taken in the order of their numbers. All numbers
//!   below the next one were taken as they were at the beginning; numbers that were assigned after the beginning are
//!   never taken.
//! - The old version of an entry that changes or is removed before it was taken is saved, once. So the version that is
//!   saved under a number, or else the one in the state, is the version from the beginning.
//!
//! So the bytes are those that [`Fleet::encode`] would have returned at the beginning.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::{
    Agent, AgentId, Allocation, Archived, AuditRecord, Ballot, Bar, Contribution, Enrolment, Fleet, KnownAuthority,
    Letter, Schedule, Task, Team,
    archive::taking::UntakenRows,
    codec::{CodecError, StateWriter},
    fleet::State,
    identity::SpentProof,
    numbered::{Entry, Numbered},
    tasks::keys::SpentKey,
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
pub(crate) struct Rest {
    agents: Untaken<AgentId, Agent>,
    tasks: Untaken<u64, Task>,
    pub enrolments: Untaken<u64, Enrolment>,
    pub bars: Untaken<u64, Bar>,
    pub spent: Untaken<u64, SpentProof>,
    pub records: Untaken<u64, AuditRecord>,
    pub letters: Untaken<u64, Letter>,
    pub ballots: Untaken<u64, Ballot>,
    pub authorities: Untaken<u64, KnownAuthority>,
    pub teams: Untaken<u64, Team>,
    pub contributions: Untaken<u64, Contribution>,
    pub allocations: Untaken<u64, Allocation>,
    pub schedules: Untaken<u64, Schedule>,
    pub keys: Untaken<u64, SpentKey>,
    archived: UntakenRows,
    /// The fleet itself, after another state has replaced it.
    retired: Option<Arc<Fleet>>,
}

/// The entries of one kind with numbers from `next` up to `end`, exclusive.
#[derive(Debug)]
pub(crate) struct Untaken<K, V> {
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
    fn take(&mut self, current: &BTreeMap<K, Arc<V>>, limit: usize, after: impl Fn(K) -> K) -> Vec<Arc<V>> {
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
            taken.extend(value.or(unchanged));
        }
        taken
    }
}

impl<V: Entry> Untaken<u64, V> {
    fn all(entries: &Numbered<V>) -> Self {
        Self { next: 1, end: entries.last() + 1, saved: BTreeMap::new() }
    }

    fn take_of(&mut self, current: &Numbered<V>, limit: usize) -> Vec<Arc<V>> {
        self.take(current.kept(), limit, |number| number + 1)
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

    /// Saves the row of an archived task for the snapshots, after its removal.
    pub(crate) fn save_archived(&self, row: &Archived) {
        self.each(|rest| rest.archived.save(row));
    }

    /// Saves an entry of another domain for the snapshots, before a change or after its removal.
    pub(crate) fn save<V: Entry>(&self, entry: &Arc<V>) {
        self.each(|rest| V::untaken(rest).save(entry.number(), entry));
    }
}

/// A part of a snapshot, shared with the state until it is encoded.
#[derive(Debug)]
pub struct Part(Content);

#[derive(Debug)]
enum Content {
    Agents(Vec<Arc<Agent>>),
    Tasks(Vec<Arc<Task>>),
    Enrolments(Vec<Arc<Enrolment>>),
    Bars(Vec<Arc<Bar>>),
    Spent(Vec<Arc<SpentProof>>),
    Records(Vec<Arc<AuditRecord>>),
    Letters(Vec<Arc<Letter>>),
    Ballots(Vec<Arc<Ballot>>),
    Authorities(Vec<Arc<KnownAuthority>>),
    Teams(Vec<Arc<Team>>),
    Contributions(Vec<Arc<Contribution>>),
    Allocations(Vec<Arc<Allocation>>),
    Schedules(Vec<Arc<Schedule>>),
    Keys(Vec<Arc<SpentKey>>),
    Archived(Vec<Archived>),
}

impl Content {
    fn len(&self) -> usize {
        match self {
            Content::Agents(agents) => agents.len(),
            Content::Tasks(tasks) => tasks.len(),
            Content::Enrolments(enrolments) => enrolments.len(),
            Content::Bars(bars) => bars.len(),
            Content::Spent(spent) => spent.len(),
            Content::Records(records) => records.len(),
            Content::Letters(letters) => letters.len(),
            Content::Ballots(ballots) => ballots.len(),
            Content::Authorities(authorities) => authorities.len(),
            Content::Teams(teams) => teams.len(),
            Content::Contributions(contributions) => contributions.len(),
            Content::Allocations(allocations) => allocations.len(),
            Content::Schedules(schedules) => schedules.len(),
            Content::Keys(keys) => keys.len(),
            Content::Archived(rows) => rows.len(),
        }
    }
}

/// What a snapshot takes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Agents,
    Tasks,
    Enrolments,
    Bars,
    Spent,
    Records,
    Letters,
    Ballots,
    Authorities,
    Teams,
    Contributions,
    Allocations,
    Schedules,
    Keys,
    Archived,
    End,
}

impl Stage {
    fn next(self) -> Stage {
        match self {
            Stage::Agents => Stage::Tasks,
            Stage::Tasks => Stage::Enrolments,
            Stage::Enrolments => Stage::Bars,
            Stage::Bars => Stage::Spent,
            Stage::Spent => Stage::Records,
            Stage::Records => Stage::Letters,
            Stage::Letters => Stage::Ballots,
            Stage::Ballots => Stage::Authorities,
            Stage::Authorities => Stage::Teams,
            Stage::Teams => Stage::Contributions,
            Stage::Contributions => Stage::Allocations,
            Stage::Allocations => Stage::Schedules,
            Stage::Schedules => Stage::Keys,
            Stage::Keys => Stage::Archived,
            Stage::Archived | Stage::End => Stage::End,
        }
    }

    /// Takes up to `limit` entries of this stage. Fewer mean that these are the last.
    fn take(self, rest: &mut Rest, state: &State, limit: usize) -> Option<Content> {
        let State {
            agents, tasks, identity, audit_log, mail, ballots, teams, resources, schedules, keys, archive, ..
        } = state;
        Some(match self {
            Stage::Agents => Content::Agents(rest.agents.take(&agents.known, limit, |AgentId(id)| AgentId(id + 1))),
            Stage::Tasks => Content::Tasks(rest.tasks.take(&tasks.kept, limit, |seq| seq + 1)),
            Stage::Enrolments => Content::Enrolments(rest.enrolments.take_of(&identity.enrolments, limit)),
            Stage::Bars => Content::Bars(rest.bars.take_of(&identity.bars, limit)),
            Stage::Spent => Content::Spent(rest.spent.take_of(&identity.spent, limit)),
            Stage::Records => Content::Records(rest.records.take_of(&audit_log.records, limit)),
            Stage::Letters => Content::Letters(rest.letters.take_of(&mail.letters, limit)),
            Stage::Ballots => Content::Ballots(rest.ballots.take_of(&ballots.kept, limit)),
            Stage::Authorities => Content::Authorities(rest.authorities.take_of(&ballots.authorities, limit)),
            Stage::Teams => Content::Teams(rest.teams.take_of(&teams.kept, limit)),
            Stage::Contributions => Content::Contributions(rest.contributions.take_of(&resources.contributions, limit)),
            Stage::Allocations => Content::Allocations(rest.allocations.take_of(&resources.allocations, limit)),
            Stage::Schedules => Content::Schedules(rest.schedules.take_of(&schedules.kept, limit)),
            Stage::Keys => Content::Keys(rest.keys.take_of(&keys.kept, limit)),
            Stage::Archived => Content::Archived(rest.archived.take(&archive.kept, limit)),
            Stage::End => return None,
        })
    }
}

/// A snapshot that is being taken. Dropping it cancels it.
#[derive(Debug)]
pub struct Snapshot {
    rest: Arc<Mutex<Rest>>,
    /// The bytes written so far.
    writer: StateWriter,
    /// Number of entries that are not encoded yet.
    left: usize,
    stage: Stage,
    /// The number of the next record of the archive.
    records: u64,
}

/// Approximate size of a task in a snapshot besides its input, output and texts, bytes.
const TASK_BYTES: usize = 384;
/// Size of the row of an archived task in a snapshot, bytes.
const ROW_BYTES: usize = 80;
/// Approximate size of an entry of another domain in a snapshot, bytes.
const ENTRY_BYTES: usize = 192;

impl Fleet {
    /// Begins a snapshot of the current state. The cost does not grow with the number of entries.
    pub fn begin_snapshot(&mut self) -> Snapshot {
        let State {
            tasks, agents, identity, audit_log, mail, ballots, teams, resources, schedules, keys, archive, ..
        } = &self.state;
        let rest = Arc::new(Mutex::new(Rest {
            agents: Untaken { next: AgentId(0), end: AgentId(agents.next), saved: BTreeMap::new() },
            tasks: Untaken { next: 0, end: tasks.next_seq, saved: BTreeMap::new() },
            enrolments: Untaken::all(&identity.enrolments),
            bars: Untaken::all(&identity.bars),
            spent: Untaken::all(&identity.spent),
            records: Untaken::all(&audit_log.records),
            letters: Untaken::all(&mail.letters),
            ballots: Untaken::all(&ballots.kept),
            authorities: Untaken::all(&ballots.authorities),
            teams: Untaken::all(&teams.kept),
            contributions: Untaken::all(&resources.contributions),
            allocations: Untaken::all(&resources.allocations),
            schedules: Untaken::all(&schedules.kept),
            keys: Untaken::all(&keys.kept),
            archived: UntakenRows::all(archive),
            retired: None,
        }));
        let others = mail.letters.len()
            + ballots.kept.len()
            + ballots.authorities.len()
            + teams.kept.len()
            + resources.contributions.len()
            + resources.allocations.len()
            + schedules.kept.len()
            + keys.kept.len()
            + identity.enrolments.len()
            + identity.bars.len()
            + identity.spent.len()
            + audit_log.records.len();
        // Growing the buffer step by step would add about half to the cost.
        let bytes = self.bytes_in_memory() + self.mail_counts().bytes + self.indexes.ballots.stored;
        let rows = archive.kept.len();
        let room = bytes as usize + tasks.kept.len() * TASK_BYTES + others * ENTRY_BYTES + rows * ROW_BYTES;
        let snapshot = Snapshot {
            rest: Arc::clone(&rest),
            writer: StateWriter::begin(&self.state, Vec::with_capacity(room)),
            left: agents.known.len() + tasks.kept.len() + others + rows,
            stage: Stage::Agents,
            records: archive.records,
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
    /// Returns the number below which are the records of all archived tasks in the snapshot.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Takes the next part, of at most `limit` entries, from the fleet that the snapshot was begun on. Returns `None`
    /// when everything is taken. The cost per entry is small whatever its size, because entries are shared, not copied.
    pub fn take(&mut self, fleet: &Fleet, limit: usize) -> Option<Part> {
        let mut rest = lock(&self.rest);
        let retired = rest.retired.clone();
        let state = &retired.as_deref().unwrap_or(fleet).state;
        loop {
            let content = self.stage.take(&mut rest, state, limit)?;
            if content.len() > 0 {
                return Some(Part(content));
            }
            self.stage = self.stage.next();
        }
    }

    /// Encodes a part. Parts must be encoded in the order in which they were taken.
    pub fn encode(&mut self, part: &Part) {
        self.left = self.left.saturating_sub(part.0.len());
        let writer = &mut self.writer;
        match &part.0 {
            Content::Agents(agents) => agents.iter().for_each(|agent| writer.agent(agent)),
            Content::Tasks(tasks) => tasks.iter().for_each(|task| writer.task(task)),
            Content::Enrolments(entries) => entries.iter().for_each(|entry| writer.entry(entry.as_ref())),
            Content::Bars(entries) => entries.iter().for_each(|entry| writer.entry(entry.as_ref())),
            Content::Spent(entries) => entries.iter().for_each(|entry| writer.entry(entry.as_ref())),
            Content::Records(entries) => entries.iter().for_each(|entry| writer.entry(entry.as_ref())),
            Content::Letters(entries) => entries.iter().for_each(|entry| writer.entry(entry.as_ref())),
            Content::Ballots(entries) => entries.iter().for_each(|entry| writer.entry(entry.as_ref())),
            Content::Authorities(entries) => entries.iter().for_each(|entry| writer.entry(entry.as_ref())),
            Content::Teams(entries) => entries.iter().for_each(|entry| writer.entry(entry.as_ref())),
            Content::Contributions(entries) => entries.iter().for_each(|entry| writer.entry(entry.as_ref())),
            Content::Allocations(entries) => entries.iter().for_each(|entry| writer.entry(entry.as_ref())),
            Content::Schedules(entries) => entries.iter().for_each(|entry| writer.entry(entry.as_ref())),
            Content::Keys(entries) => entries.iter().for_each(|entry| writer.entry(entry.as_ref())),
            Content::Archived(rows) => rows.iter().for_each(|row| writer.archived(row)),
        }
    }

    /// Returns the bytes.
    ///
    /// # Errors
    /// Returns an error if not everything was taken and encoded.
    pub fn finish(self) -> Result<Vec<u8>, CodecError> {
        match self.left {
            0 => Ok(self.writer.finish()),
            left => Err(CodecError::Inconsistent(format!("{left} entries are missing"))),
        }
    }
}
