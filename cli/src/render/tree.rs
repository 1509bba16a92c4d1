//! Tasks with their parts and subtasks, for people.

use std::{collections::BTreeMap, fmt::Write};

use robeing_proto::v1::{Join, Task, TaskState};

use super::{
    task::detail,
    words::{camel, printable, state_word},
};

/// What a task makes of its parts, in a few words.
fn join_words(task: &Task) -> String {
    let Some(of) = &task.subtasks else { return String::new() };
    let ended = format!("{} of {} ended, {} succeeded", of.ended, of.parts, of.succeeded);
    match of.join() {
        Join::Resume => format!("subtasks: {ended}"),
        Join::Quorum => format!("parts ({} have to succeed): {ended}", of.quorum),
        join => format!("parts ({}): {ended}", camel(join.as_str_name(), "JOIN_").to_lowercase()),
    }
}

/// Returns the tasks that a task depends on: those with the same parent by their numbers.
fn after_words(task: &Task, numbers: &BTreeMap<&str, (&str, u32)>) -> String {
    let parent = task.part_of.as_ref().map(|of| of.task.as_str());
    let name = |id: &str| match numbers.get(id) {
        Some((of, index)) if Some(*of) == parent => index.to_string(),
        _ => id.to_owned(),
    };
    let names: Vec<String> = task.depends_on.iter().map(|of| name(&of.task)).collect();
    if names.is_empty() { String::new() } else { format!("after {}", names.join(", ")) }
}

/// Formats tasks, each before those below it, and with its depth.
pub fn tree_text(depths: &[usize], tasks: &[Task]) -> String {
    let numbers: BTreeMap<&str, (&str, u32)> = tasks
        .iter()
        .filter_map(|task| task.part_of.as_ref().map(|of| (task.id.as_str(), (of.task.as_str(), of.index))))
        .collect();
    let mut text = String::new();
    for (depth, task) in depths.iter().zip(tasks) {
        let number =
            task.part_of.as_ref().filter(|_| *depth > 0).map(|of| format!("{} ", of.index)).unwrap_or_default();
        let state = if task.skipped { "Skipped".to_owned() } else { state_word(task.state()) };
        // A task that waits says for what by its other parts.
        let own = if task.state() == TaskState::Queued { String::new() } else { detail(task) };
        let parts = [after_words(task, &numbers), own, join_words(task)];
        let rest: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let line = format!("{number}{}  {}  {state}  {}", task.kind, task.id, rest.join("; "));
        // Writing to a string can't fail.
        let _ = writeln!(text, "{}{}", "  ".repeat(*depth), printable(line.trim_end()));
    }
    text
}

#[cfg(test)]
mod tests {
    use robeing_proto::v1::{Attempt, PartOf, Subtasks, TaskDependency};

    use super::*;

    #[test]
    fn a_tree_is_shown_with_what_its_tasks_wait_for() {
        let part = |id: &str, index, state: TaskState| Task {
            id: id.into(),
            kind: "step".into(),
            state: state.into(),
            part_of: Some(PartOf { task: "top".into(), index }),
            ..Task::default()
        };
        let subtasks =
            Some(Subtasks { join: Join::Settled.into(), parts: 3, ended: 1, succeeded: 1, ..Subtasks::default() });
        let top = Task {
            id: "top".into(),
            kind: "workflow".into(),
            state: TaskState::Queued.into(),
            subtasks,
            ..Task::default()
        };
        let after = |id: &str| TaskDependency { task: id.into(), ..TaskDependency::default() };
        let attempts = vec![Attempt { agent: "w-0".into(), ..Attempt::default() }];
        let tasks = [
            top,
            Task { attempts, attempt: 1, ..part("a", 0, TaskState::Assigned) },
            Task { depends_on: vec![after("a"), after("other")], ..part("b", 1, TaskState::Queued) },
            Task { skipped: true, cancel_reason: "why".into(), ..part("c", 2, TaskState::Cancelled) },
        ];
        let text = tree_text(&[0, 1, 1, 1], &tasks);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "workflow  top  Queued  parts (settled): 1 of 3 ended, 1 succeeded",
                "  0 step  a  Assigned  to w-0, attempt 1",
                "  1 step  b  Queued  after 0, other",
                "  2 step  c  Skipped  why",
            ]
        );
    }
}
