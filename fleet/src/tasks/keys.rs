//! Idempotency keys of tasks that are forgotten or archived. A key stands for its first task for as long as that is
//! kept, and for the fleet's window from its acceptance on; so a submission that is repeated late is no second task,
//! whichever coordinator leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bilrost::Message;

use crate::{
    BlobRef, Feature, Fleet, FleetConfig, FleetMillis, Refusal, Reply, SubmitTask, Task, TaskId, TeamId,
    audit::{Check, ensure},
    fixed_map::FixedMap,
    fleet::State,
    limits::{
        DEFAULT_KEY_WINDOW_MS, MAX_KEPT_KEY_BYTES, MAX_KEY_BYTES, MAX_KEYS_FORGOTTEN, MAX_TIME_MS, SPENT_KEY_OVERHEAD,
    },
    numbered::{Entry, Numbered},
    snapshot::{Rest, Untaken},
};

/// Bytes of keys of tasks that are forgotten from which on submissions with keys are refused. Those of tasks that are not
/// forgotten yet will be added, which is why it is half of what is kept.
const REFUSED_FROM_BYTES: u64 = MAX_KEPT_KEY_BYTES / 2;

/// The key of a task that is forgotten or archived.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub(crate) struct SpentKey {
    /// Its number.
    #[bilrost(1)]
    seq: u64,
    #[bilrost(2)]
    key: String,
    /// The task that had it.
    #[bilrost(3)]
    task: TaskId,
    /// What was submitted with it.
    #[bilrost(4)]
    content: Content,
    /// When the window ends; 0 while the task is archived.
    #[bilrost(5)]
    until: FleetMillis,
    /// The number of the task while it is archived: the key stands for it for as long.
    #[bilrost(6)]
    archived: Option<u64>,
    /// When an archived task was accepted, from which the window counts; else 0.
    #[bilrost(7)]
    accepted_at: FleetMillis,
}

/// What a task is, to tell whether another submission is the same: another one is taken for it by chance once in four
/// billion times.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub(crate) struct Content {
    /// The length of the input, bytes, also of one in the object store.
    #[bilrost(1)]
    pub bytes: u64,
    /// CRC-32C of the kind, the team and the input, or the hash by which that is found.
    #[bilrost(2)]
    pub checksum: u32,
}

impl Content {
    pub(crate) fn of(kind: &str, team: Option<TeamId>, input: &[u8], stored: Option<&BlobRef>) -> Self {
        let (input, bytes) = stored.map_or((input, input.len() as u64), |blob| (&blob.sha256[..], blob.bytes));
        let team = team.map_or(0, |team| team.0).to_be_bytes();
        // No kind has a NUL.
        let parts: [&[u8]; 4] = [kind.as_bytes(), &[0], &team, input];
        let checksum = parts.into_iter().fold(0, crc32c::crc32c_append);
        Self { bytes, checksum }
    }
}

impl SpentKey {
    fn bytes(&self) -> u64 {
        self.key.len() as u64 + SPENT_KEY_OVERHEAD
    }
}

impl Entry for SpentKey {
    const FIELD: u32 = 141;
    const NAME: &str = "idempotency keys";

    fn number(&self) -> u64 {
        self.seq
    }

    fn untaken(rest: &mut Rest) -> &mut Untaken<u64, Self> {
        &mut rest.keys
    }
}

/// The stored keys of tasks that are forgotten.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct SpentKeys {
    pub kept: Numbered<SpentKey>,
}

/// The indexes of these keys. They refer to keys by their numbers.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct KeyIndexes {
    by_key: FixedMap<String, u64>,
    /// The keys of tasks that are forgotten by the ends of their windows.
    ends: BTreeSet<(FleetMillis, u64)>,
    /// What these count for, bytes.
    bytes: u64,
    /// The keys of archived tasks, by the numbers of the tasks.
    held: BTreeMap<u64, u64>,
}

impl KeyIndexes {
    /// Indexes a key.
    pub(crate) fn enter(&mut self, key: &SpentKey) {
        self.by_key.insert(key.key.clone(), key.seq);
        match key.archived {
            Some(task) => {
                self.held.insert(task, key.seq);
            }
            None => {
                self.ends.insert((key.until, key.seq));
                self.bytes += key.bytes();
            }
        }
    }

    fn leave(&mut self, key: &SpentKey) {
        // A later task may have the key, whose window has ended.
        if self.by_key.get(&key.key) == Some(&key.seq) {
            self.by_key.remove(&key.key);
        }
        match key.archived {
            Some(task) => {
                self.held.remove(&task);
            }
            None => {
                self.ends.remove(&(key.until, key.seq));
                self.bytes -= key.bytes();
            }
        }
    }

    /// Returns when keys have to be dropped: at the end of the first window, while submissions with keys are refused. Else
    /// those whose windows have ended are dropped when others are kept.
    pub(crate) fn due(&self) -> Option<FleetMillis> {
        let first = self.ends.first().filter(|_| self.bytes >= REFUSED_FROM_BYTES);
        first.map(|(end, _)| *end)
    }
}

impl FleetConfig {
    /// Returns for how long an idempotency key stands for its first task at least, ms.
    pub fn key_window(&self) -> u64 {
        if self.idempotency_window == 0 { DEFAULT_KEY_WINDOW_MS } else { self.idempotency_window }
    }
}

impl Fleet {
    /// Keeps the key of a task that is about to be forgotten until its window ends, and drops some others.
    pub(crate) fn keep_spent_key(&mut self, task: &Arc<Task>) {
        let Some(key) = task.idempotency_key.as_ref().filter(|_| self.has(Feature::KeyWindow)) else { return };
        let due = self.indexes.keys.due();
        let until = task.submitted_at.fleet.saturating_add(self.state.config.key_window()).min(MAX_TIME_MS);
        if until > self.state.now.fleet {
            let content = Content::of(&task.kind, task.team, &task.input, task.input_ref.as_deref());
            let (key, task) = (key.clone(), task.id);
            let added = self.state.keys.kept.add(|seq| SpentKey {
                seq,
                key,
                task,
                content,
                until,
                archived: None,
                accepted_at: 0,
            });
            self.indexes.keys.enter(added);
        }
        self.drop_spent_keys();
        self.set_key_timer(due);
    }

    /// Keeps the key of a task that was archived, for as long as that is kept.
    pub(crate) fn hold_key(&mut self, task: &Task) {
        let Some(key) = task.idempotency_key.clone() else { return };
        let content = Content::of(&task.kind, task.team, &task.input, task.input_ref.as_deref());
        let (task, archived, accepted_at) = (task.id, Some(task.seq), task.submitted_at.fleet);
        let added =
            self.state.keys.kept.add(|seq| SpentKey { seq, key, task, content, until: 0, archived, accepted_at });
        self.indexes.keys.enter(added);
    }

    /// Keeps the key of an archived task that is forgotten until its window ends, and drops some others.
    pub(crate) fn release_key(&mut self, task: u64) {
        let Some(number) = self.indexes.keys.held.get(&task).copied() else { return };
        let Some(held) = self.state.keys.kept.get(number).cloned() else { return };
        let due = self.indexes.keys.due();
        let until = held.accepted_at.saturating_add(self.state.config.key_window()).min(MAX_TIME_MS);
        self.indexes.keys.leave(&held);
        self.state.keys.kept.change(number, &self.snapshots, |key| {
            (key.archived, key.accepted_at, key.until) = (None, 0, until);
        });
        if let Some(released) = self.state.keys.kept.get(number) {
            self.indexes.keys.enter(released);
        }
        self.drop_spent_keys();
        self.set_key_timer(due);
    }

    /// Drops some of the keys whose windows have ended, when their timer has fired.
    pub(crate) fn keys_due(&mut self) {
        self.drop_spent_keys();
        self.set_key_timer(None);
    }

    /// Sets the timer by which keys are dropped, which was set for `before`.
    fn set_key_timer(&mut self, before: Option<FleetMillis>) {
        let due = self.indexes.keys.due();
        if due == before {
            return;
        }
        if let Some(at) = before {
            self.indexes.timers.clear_keys(at);
        }
        if let Some(at) = due {
            self.indexes.timers.set_keys(at);
        }
    }

    /// Drops some of the keys whose windows have ended, and the oldest ones if there are too many.
    fn drop_spent_keys(&mut self) {
        let now = self.state.now.fleet;
        for _ in 0..MAX_KEYS_FORGOTTEN {
            let Some((end, seq)) = self.indexes.keys.ends.first().copied() else { return };
            if end > now && self.indexes.keys.bytes <= MAX_KEPT_KEY_BYTES {
                return;
            }
            if let Some(ended) = self.state.keys.kept.remove(seq, &self.snapshots) {
                self.indexes.keys.leave(&ended);
            }
        }
    }

    /// Returns the reply to a submission whose key stands for a task that is forgotten or archived.
    pub(super) fn spent_before(&self, submission: &SubmitTask) -> Option<Reply> {
        let seq = self.indexes.keys.by_key.get(submission.idempotency_key.as_ref()?)?;
        let stands = |spent: &&Arc<SpentKey>| spent.archived.is_some() || spent.until > self.state.now.fleet;
        let spent = self.state.keys.kept.get(*seq).filter(stands)?;
        if let Some(row) = spent.archived.and_then(|seq| self.state.archive.kept.get(seq)) {
            return Some(self.submitted_as(&row, submission, "the idempotency key"));
        }
        let SubmitTask { kind, team, input, input_ref, .. } = submission;
        if spent.content == Content::of(kind, *team, input, input_ref.as_deref()) {
            return Some(Reply::Submitted { task: spent.task, existing: true });
        }
        Some(Reply::Refused(Refusal::Conflict { what: "the idempotency key".to_owned(), task: spent.task }))
    }

    /// Refuses a submission with a key if too many keys of tasks that are forgotten are kept.
    pub(super) fn check_key_room(&self, submission: &SubmitTask) -> Result<(), Refusal> {
        if submission.idempotency_key.is_none() || self.indexes.keys.bytes < REFUSED_FROM_BYTES {
            return Ok(());
        }
        Err(Refusal::Full {
            what: "bytes of idempotency keys whose tasks are forgotten".to_owned(),
            limit: REFUSED_FROM_BYTES,
            remedy: "submit this later, or set a shorter --idempotency-window".to_owned(),
        })
    }
}

/// Checks the keys of tasks that are forgotten.
pub(crate) fn check_keys(state: &State) -> Check {
    let keys = &state.keys.kept;
    let is_known = state.version >= Feature::KeyWindow.since();
    ensure(is_known || state.keys == Default::default() && state.config.idempotency_window == 0, || {
        "idempotency keys before their version".to_owned()
    })?;
    keys.check(usize::MAX)?;
    let bytes: u64 = keys.iter().filter(|key| key.archived.is_none()).map(|key| key.bytes()).sum();
    ensure(bytes <= MAX_KEPT_KEY_BYTES, || format!("{bytes} bytes of idempotency keys"))?;
    let is_held = |key: &Arc<SpentKey>, task: u64| {
        let row = state.archive.kept.get(task);
        row.is_some_and(|row| row.id() == key.task) && key.until == 0 && key.accepted_at <= state.now.fleet
    };
    let is_sound = |key: &Arc<SpentKey>| {
        (1..=MAX_KEY_BYTES).contains(&key.key.len())
            && key.until <= MAX_TIME_MS
            && key.archived.map_or(key.accepted_at == 0, |task| is_held(key, task))
    };
    ensure(keys.iter().all(is_sound), || "an idempotency key".to_owned())?;
    let holders: BTreeSet<u64> = keys.iter().filter_map(|key| key.archived).collect();
    let held = keys.iter().filter(|key| key.archived.is_some()).count();
    ensure(holders.len() == held, || "an archived task has two idempotency keys".to_owned())
}
