//! Invariants of archived tasks in any state.

use std::collections::BTreeSet;

use super::{Archived, halves};
use crate::{
    Feature, Task,
    audit::{COUNTER_ROOM, Check, ensure},
    fleet::State,
    limits::{MAX_DURATION_MS, MAX_SUBTASKS, MAX_TIME_MS},
};

fn sorted<K: Ord>(state: &State, of: fn(&Archived) -> K) -> Vec<K> {
    let mut all: Vec<K> = state.archive.kept.iter().map(|row| of(&row)).collect();
    all.sort_unstable();
    all
}

fn are_distinct<K: Ord>(sorted: &[K]) -> bool {
    sorted.is_sorted_by(|one, next| one < next)
}

/// Returns whether the place of a task in its tree can be one.
fn has_sound_place(row: &Archived) -> bool {
    let is_child = row.parent <= row.root && u64::from(row.root) < row.seq && row.index < MAX_SUBTASKS;
    if row.parent > 0 { is_child } else { (row.root, row.index) == (0, 0) }
}

/// Checks that no two children have the same place, be they archived or not.
fn check_places(state: &State) -> Check {
    let archived: BTreeSet<(u64, u32)> = state.archive.kept.iter().filter_map(|row| row.place()).collect();
    let count = state.archive.kept.iter().filter(|row| row.parent > 0).count();
    ensure(archived.len() == count, || "two archived tasks are the same part".to_owned())?;
    let of_task = |task: &Task| task.child_of().map(|of| (of.seq, of.index));
    let twice = state.tasks.kept.values().find(|task| of_task(task).is_some_and(|place| archived.contains(&place)));
    ensure(twice.is_none(), || "a task is the same part as an archived one".to_owned())
}

/// Checks the rows beside the tasks in memory. `revisions` are those of everything else.
pub(crate) fn check_archive(state: &State, revisions: &BTreeSet<u64>) -> Check {
    let archive = &state.archive;
    let is_known = state.version >= Feature::Archive.since();
    ensure(is_known || *archive == Default::default() && state.config.recent_results == 0, || {
        "archived tasks before their version".to_owned()
    })?;
    ensure(archive.records < COUNTER_ROOM, || "the number of records is out of range".to_owned())?;
    for row in archive.kept.iter() {
        let is_sound = row.seq < state.tasks.next_seq
            && row.record < archive.records
            && row.revision <= state.revision
            && row.expires_at <= MAX_TIME_MS + MAX_DURATION_MS
            && row.state.is_final()
            && has_sound_place(&row);
        ensure(is_sound, || format!("the row of task {}", row.id()))?;
        let parent = row.parent().and_then(|parent| state.tasks.kept.get(&parent));
        ensure(parent.is_none_or(|parent| parent.state.is_final()), || {
            format!("task {}, a child of an unfinished one, is archived", row.id())
        })?;
    }
    // The rows of tasks that are here, not the tasks of rows: at a start, rows may be many more.
    let is_row = state.tasks.kept.values().find(|task| archive.kept.get(task.seq).is_some());
    ensure(is_row.is_none(), || "a task is archived and here".to_owned())?;
    check_places(state)?;
    ensure(are_distinct(&sorted(state, |row| row.record)), || "two archived tasks have the same record".to_owned())?;
    let (ids, newest) = (sorted(state, |row| row.id), sorted(state, |row| row.revision));
    ensure(are_distinct(&ids) && are_distinct(&newest), || {
        "two archived tasks have an id or a revision in common".to_owned()
    })?;
    let is_here = state.tasks.kept.values().find(|task| ids.binary_search(&halves(task.id)).is_ok());
    ensure(is_here.is_none(), || "a task has the id of an archived one".to_owned())?;
    let twice = revisions.iter().find(|revision| newest.binary_search(revision).is_ok());
    ensure(twice.is_none(), || format!("two things have the revision {twice:?}"))
}
