//! Invariants of links in any state.

use std::collections::{BTreeMap, BTreeSet};

use super::{Children, Join, Links, OnFailure, Verdict, join::passed_bytes};
use crate::{
    Feature, Task, TaskState,
    audit::{Check, ensure},
    fleet::State,
    limits::*,
};

/// What the children of a task add up to.
#[derive(Default)]
struct Sum {
    kept: u32,
    ended: u32,
    succeeded: u32,
    skipped: u32,
    /// The numbers of the children, and what the result of each counts for.
    bytes: BTreeMap<u32, u64>,
}

/// Checks the links of all tasks.
pub(crate) fn check_links(state: &State) -> Check {
    let mut sums: BTreeMap<u64, Sum> = BTreeMap::new();
    for task in state.tasks.kept.values() {
        let Some(of) = task.child_of() else { continue };
        let sum = sums.entry(of.seq).or_default();
        let is_final = task.state.is_final();
        let bytes = if is_final { passed_bytes(task, CHILD_OVERHEAD) } else { 0 };
        ensure(sum.bytes.insert(of.index, bytes).is_none(), || format!("task {}: another is the same part", task.id))?;
        sum.kept += 1;
        sum.ended += u32::from(is_final);
        sum.succeeded += u32::from(task.state == TaskState::Succeeded);
        sum.skipped += u32::from(task.is_skipped());
    }
    check_spread(state)?;
    let none = Sum::default();
    for task in state.tasks.kept.values() {
        let Some(links) = &task.links else { continue };
        let problem = |what: &str| format!("task {}: {what}", task.id);
        ensure(state.version >= Feature::Graphs.since(), || problem("links before their version"))?;
        ensure(task.member_of.is_none(), || problem("a member has no links"))?;
        check_dependencies(state, task, links).map_err(|what| problem(&what))?;
        check_parent(state, task).map_err(|what| problem(&what))?;
        if let Some(children) = &links.children {
            check_children(task, children, sums.get(&task.seq).unwrap_or(&none)).map_err(|what| problem(&what))?;
        }
        ensure(!links.skipped || task.state == TaskState::Cancelled, || problem("skipped"))?;
        let is_sound = links.divider.as_ref().is_none_or(|divider| divider.check().is_ok());
        ensure(is_sound, || problem("how it is divided"))?;
    }
    Ok(())
}

/// Checks that no agent runs two parts of a task that are kept apart.
fn check_spread(state: &State) -> Check {
    let mut known = BTreeSet::new();
    for task in state.tasks.kept.values() {
        let Some(on) = task.spread_on() else { continue };
        ensure(known.insert(on), || format!("task {}: its agent runs another part of the same task", task.id))?;
    }
    Ok(())
}

/// Checks that a task knows which of those that it depends on have ended, and has not begun before.
fn check_dependencies(state: &State, task: &Task, links: &Links) -> Check {
    let Links { depends_on, open, .. } = links;
    let distinct: BTreeSet<u64> = depends_on.iter().map(|awaited| awaited.seq).collect();
    let unresolved = depends_on.iter().filter(|awaited| awaited.end.is_none()).count();
    ensure(
        depends_on.len() <= MAX_DEPENDENCIES && distinct.len() == depends_on.len() && *open as usize == unresolved,
        || "dependencies".to_owned(),
    )?;
    let is_sound =
        depends_on.iter().all(|awaited| awaited.end.is_none_or(TaskState::is_final) && awaited.seq < task.seq);
    ensure(is_sound, || "a dependency".to_owned())?;
    ensure(*open == 0 || task.attempts.is_empty(), || "it began before what it depends on had ended".to_owned())?;
    if task.state.is_final() {
        return Ok(());
    }
    for awaited in depends_on {
        if let Some(row) = state.archive.kept.get(awaited.seq).filter(|row| row.id() == awaited.task) {
            let may_run = row.state == TaskState::Succeeded || awaited.on_failure == OnFailure::Run;
            ensure(awaited.end == Some(row.state) && may_run, || format!("archived task {}", awaited.task))?;
            continue;
        }
        let found = state.tasks.kept.get(&awaited.seq).filter(|found| found.id == awaited.task);
        let Some(found) = found.filter(|found| found.member_of.is_none()) else {
            return Err(format!("task {}, on which it depends, is not kept", awaited.task));
        };
        let end = found.state.is_final().then_some(found.state);
        ensure(awaited.end == end, || format!("it has not noted how task {} ended", awaited.task))?;
        let goes_on = end.is_none_or(|end| end == TaskState::Succeeded) || awaited.on_failure == OnFailure::Run;
        ensure(goes_on, || format!("it can't begin any more, because of task {}", awaited.task))?;
    }
    Ok(())
}

/// Checks the place of a child in its tree.
fn check_parent(state: &State, task: &Task) -> Check {
    let Some(of) = task.child_of() else { return Ok(()) };
    let in_order = of.root <= of.seq && of.seq < task.seq && (1..=MAX_TASK_DEPTH).contains(&of.depth);
    ensure(in_order && of.index < MAX_SUBTASKS, || "its place among others".to_owned())?;
    let Some(parent) = state.tasks.kept.get(&of.seq) else {
        return ensure(task.state.is_final(), || "it has survived its parent".to_owned());
    };
    let above = parent.child_of().map_or(0, |of| of.depth);
    let is_below = parent.id == of.task && of.depth == above + 1 && of.root == parent.root();
    let is_counted = parent.children().is_some_and(|children| of.index < children.parts);
    ensure(is_below && is_counted && parent.member_of.is_none(), || "its parent".to_owned())?;
    let is_spread = parent.children().is_some_and(|children| children.spread);
    ensure(task.state.is_final() || of.spread == is_spread, || "whether it is kept apart".to_owned())?;
    ensure(task.state.is_final() || !parent.state.is_final(), || "its parent has ended".to_owned())
}

/// Checks that a task knows how many of its children have ended, and that it waits for them exactly as long as they do
/// not decide what it does.
fn check_children(task: &Task, children: &Children, sum: &Sum) -> Check {
    let Children { parts, accepted, ended, succeeded, skipped, from, suspensions, .. } = *children;
    let in_bounds = (1..=MAX_SUBTASKS).contains(&parts)
        && accepted <= parts
        && ended <= accepted
        && succeeded <= ended
        && skipped <= ended - succeeded
        && from < parts
        && suspensions <= MAX_SUSPENSIONS
        && (suspensions > 0) == (children.join == Join::Resume)
        && children.quorum <= parts
        && (!children.spread || parts <= MAX_SPREAD_PARTS)
        && children.carried.len() <= MAX_INPUT_BYTES
        && children.due.is_none_or(|due| due <= MAX_TIME_MS + MAX_DURATION_MS)
        && task.verification.is_none()
        && task.approval.is_none_or(|_| children.join == Join::Resume);
    ensure(in_bounds, || "the numbers of its children".to_owned())?;
    if task.state.is_final() {
        let is_closed = children.due.is_none() && children.carried.is_empty() && children.decided_by.is_none();
        return ensure(!children.waits && is_closed, || "it waits for children although it has ended".to_owned());
    }
    let counted = [accepted, ended, succeeded, skipped];
    let found = [sum.kept, sum.ended, sum.succeeded, sum.skipped];
    ensure(counted == found, || format!("it counts {counted:?} children, and there are {found:?}"))?;
    let bytes: u64 = sum.bytes.range(from..).map(|(_, bytes)| bytes).sum();
    ensure(bytes == children.bytes, || "what the results of its children count for".to_owned())?;
    ensure(children.due.is_some() == (accepted < parts), || "when it stops waiting for parts".to_owned())?;
    let verdict = match (children.waits, children.decided_by) {
        (true, None) => Verdict::Waits,
        (true, Some(_)) => Verdict::Succeeds,
        (false, _) => Verdict::Runs,
    };
    let is_open = task.links.as_ref().is_some_and(|links| links.open > 0);
    ensure(children.decided_by.is_none() || is_open && children.waits, || "it should have succeeded".to_owned())?;
    ensure(children.verdict() == verdict, || format!("it should do otherwise: {:?}", children.verdict()))?;
    ensure(!children.waits || task.state == TaskState::Queued, || "it runs while it waits for children".to_owned())
}
