//! What must hold when a run is over.

use std::collections::BTreeMap;

use crate::record::Notes;

/// Everything that does not hold.
pub fn violations(notes: &Notes) -> Vec<String> {
    let mut found = notes.violations.clone();
    for (id, accepted) in &notes.accepted {
        if accepted.ended.is_none() {
            found.push(format!("task {id} was accepted and never finished"));
        }
    }
    let mut finished: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (index, applied) in &notes.applied {
        for id in &applied.finished {
            finished.entry(id).or_default().push(*index);
        }
    }
    for (id, indexes) in &finished {
        if indexes.len() > 1 {
            found.push(format!("task {id} finished more than once, with the log entries {indexes:?}"));
        }
    }
    for id in notes.accepted.keys().filter(|id| !finished.contains_key(id.as_str())) {
        found.push(format!("task {id} was accepted, and no log entry finished it"));
    }
    for ((id, attempt), times) in &notes.begun {
        if *times > 1 {
            found.push(format!("attempt {attempt} of task {id} was begun {times} times"));
        }
    }
    if notes.accepted.is_empty() || notes.begun.is_empty() || notes.applied.is_empty() {
        found.push("nothing happened in this run".to_owned());
    }
    found
}

/// A run in one line.
pub fn summary(notes: &Notes) -> String {
    let mut ends: BTreeMap<&str, u32> = BTreeMap::new();
    for ended in notes.accepted.values().filter_map(|accepted| accepted.ended.as_deref()) {
        *ends.entry(ended.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    let list = |counts: Vec<(&str, u32)>| {
        let counts: Vec<String> = counts.into_iter().map(|(what, n)| format!("{n} {what}")).collect();
        counts.join(", ")
    };
    format!(
        "{} tasks ({}), {} attempts, {} log entries, {} snapshots, {} of them sent, faults: {}; {} events",
        notes.accepted.len(),
        list(ends.into_iter().collect()).to_lowercase(),
        notes.begun.len(),
        notes.applied.len(),
        notes.snapshots_written,
        notes.snapshots_installed,
        list(notes.faults.iter().map(|(kind, n)| (*kind, *n)).collect()),
        notes.events,
    )
}
