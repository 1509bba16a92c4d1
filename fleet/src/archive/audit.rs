//! Invariants of archived tasks in any state.

use std::collections::BTreeSet;

use super::{Archived, halves};
use crate::{
    Feature,
    audit::{COUNTER_ROOM, Check, ensure},
    fleet::State,
    limits::{MAX_DURATION_MS, MAX_TIME_MS},
};

fn sorted(state: &State, of: fn(&Archived) -> [u64; 2]) -> Vec<[u64; 2]> {
    let mut all: Vec<[u64; 2]> = state.archive.kept.iter().map(of).collect();
    all.sort_unstable();
    all
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
            && row.state.is_final();
        ensure(is_sound, || format!("the row of task {}", row.id()))?;
        ensure(!state.tasks.kept.contains_key(&row.seq), || format!("task {} is archived and here", row.id()))?;
    }
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
