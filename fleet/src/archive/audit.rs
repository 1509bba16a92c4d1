//! Invariants of archived tasks in any state.

use std::collections::BTreeSet;

use super::{Archived, halves};
use crate::{
    Feature, Task,
    audit::{COUNTER_ROOM, Check, ensure},
    fleet::State,
    limits::{MAX_DURATION_MS, MAX_SUBTASKS, MAX_TIME_MS},
};

fn sorted(state: &State, of: fn(&Archived) -> [u64; 2]) -> Vec<[u64; 2]> {
    let mut all: Vec<[u64; 2]> = state.archive.kept.iter().map(of).collect();
    all.sort_unstable();
    all
}

/// Returns whether the place of a task in its tree can be one.
fn has_sound_place(row: &Archived) -> bool {
    let is_child = row.parent <= row.root && u64::from(row.root) < row.seq && row.index < MAX_SUBTASKS;
    if row.parent > 0 { is_child } else { (row.root, row.index) == (0, 0) }
}

/// Checks that no two children have the same place, be they archived or not.
fn check_places(state: &State) -> Check {
    let archived: BTreeSet<(u64, u32)> = state.archive.kept.iter().filter_map(Archived::place).collect();
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
            && has_sound_place(row);
        ensure(is_sound, || format!("the row of task {}", row.id()))?;
        ensure(!state.tasks.kept.contains_key(&row.seq), || format!("task {} is archived and here", row.id()))?;
        let parent = row.parent().and_then(|parent| state.tasks.kept.get(&parent));
        ensure(parent.is_none_or(|parent| parent.state.is_final()), || {
            format!("task {}, a child of an unfinished one, is archived", row.id())
        })?;
    }
    check_places(state)?;
    let ids = sorted(state, |row| row.id);
    let records = sorted(state, |row| [row.record, 0]);
    let newest = sorted(state, |row| [row.revision, 0]);
    let are_distinct = |all: &Vec<[u64; 2]>| all.windows(2).all(|pair| pair[0] < pair[1]);
    ensure([&ids, &records, &newest].into_iter().all(are_distinct), || {
        "two archived tasks have an id, a record or a revision in common".to_owned()
    })?;
    let is_here = state.tasks.kept.values().find(|task| ids.binary_search(&halves(task.id)).is_ok());
    ensure(is_here.is_none(), || "a task has the id of an archived one".to_owned())?;
    let twice = revisions.iter().find(|revision| newest.binary_search(&[**revision, 0]).is_ok());
    ensure(twice.is_none(), || format!("two things have the revision {twice:?}"))
}
