//! What the parts or subtasks of a task have to do with what becomes of it, for people.

use std::fmt::Write;

use robeing_client::is_finished;
use robeing_proto::v1::{FailureKind, Join, Task, TaskState};

use super::{
    task::detail,
    words::{printable, state_word},
};

/// Maximum number of parts that are shown because they made their task fail.
const MOST_SHOWN: usize = 3;

/// Returns whether a task is given to an agent, now or once its parts have ended; if not, only its parts are.
pub(super) fn is_run_itself(task: &Task) -> bool {
    task.subtasks.as_ref().is_none_or(|of| matches!(of.join(), Join::Reduce | Join::Resume))
}

/// Returns whether a task has failed because of its parts or subtasks.
pub fn failed_by_parts(task: &Task) -> bool {
    let is_by_parts = task.failure.as_ref().is_some_and(|failure| failure.kind() == FailureKind::Subtask);
    is_by_parts && task.subtasks.is_some()
}

/// Returns whether a task waits for its parts or subtasks.
pub fn waits_for_parts(task: &Task) -> bool {
    task.state() == TaskState::Queued && task.subtasks.as_ref().is_some_and(|of| of.ended < of.parts)
}

/// Formats those of the parts of a task because of which it has failed: the one that its failure names, or else those that
/// failed.
pub fn failed_parts_text(task: &Task, parts: &[Task]) -> String {
    let message = task.failure.as_ref().map_or("", |failure| failure.message.as_str());
    let has_failed = |part: &Task| matches!(part.state(), TaskState::Failed | TaskState::DeadLettered);
    let mut blamed: Vec<&Task> = parts.iter().filter(|part| message.contains(&part.id)).collect();
    if blamed.is_empty() {
        blamed = parts.iter().filter(|part| has_failed(part)).collect();
    }
    if blamed.is_empty() {
        return String::new();
    }
    let mut text = String::from("\nParts that made it fail:\n");
    for part in blamed.iter().take(MOST_SHOWN) {
        let number = part.part_of.as_ref().map(|of| format!("{} ", of.index)).unwrap_or_default();
        let line = format!("{number}{}  {}  {}  {}", part.kind, part.id, state_word(part.state()), detail(part));
        // Writing to a string can't fail.
        let _ = writeln!(text, "  {}", printable(line.trim_end()));
    }
    if let Some(left @ 1..) = blamed.len().checked_sub(MOST_SHOWN) {
        let _ = writeln!(text, "  and {left} more; see `robeing task {} --tree`", task.id);
    }
    text
}

/// Formats how far the parts or subtasks are that a task waits for. `parts` are those that were accepted.
pub fn waiting_parts_text(task: &Task, parts: &[Task]) -> String {
    let Some(of) = &task.subtasks else { return String::new() };
    let count = |is_one: fn(TaskState) -> bool| parts.iter().filter(|part| is_one(part.state())).count();
    let missing = (of.parts as usize).saturating_sub(parts.len());
    let counts = [
        (count(is_finished), "has ended", "have ended"),
        (count(|state| state == TaskState::Assigned), "is at an agent", "are at agents"),
        (count(|state| state == TaskState::Queued), "waits", "wait"),
        (missing, "is not submitted yet", "are not submitted yet"),
    ];
    let words = counts.iter().filter(|(count, ..)| *count > 0);
    let words: Vec<String> =
        words.map(|(count, one, many)| format!("{count} {}", if *count == 1 { one } else { many })).collect();
    let what = if of.join() == Join::Resume { "subtasks" } else { "parts" };
    format!("Of its {} {what}, {}; see `robeing task {} --tree`.\n", of.parts, words.join(", "), task.id)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use robeing_proto::v1::{Failure, PartOf, Subtasks};

    use super::*;
    use crate::render::task_text;

    fn part(id: &str, index: u32, state: TaskState, message: &str) -> Task {
        let failure = Failure { kind: FailureKind::Exit.into(), message: message.into(), ..Failure::default() };
        Task {
            id: id.into(),
            kind: "step".into(),
            state: state.into(),
            part_of: Some(PartOf { task: "top".into(), index }),
            failure: (state == TaskState::Failed).then_some(failure),
            ..Task::default()
        }
    }

    fn failed(message: &str) -> Task {
        let failure = Failure { kind: FailureKind::Subtask.into(), message: message.into(), ..Failure::default() };
        let subtasks = Some(Subtasks { parts: 5, ..Subtasks::default() });
        Task { id: "top".into(), state: TaskState::Failed.into(), failure: Some(failure), subtasks, ..Task::default() }
    }

    #[test]
    fn the_part_that_a_failure_names_is_shown_with_its_own_failure() {
        let parts = [
            part("id-0", 0, TaskState::Failed, "earlier"),
            part("id-1", 1, TaskState::Failed, "no such\nfile"),
            part("id-2", 2, TaskState::Cancelled, ""),
        ];
        let task = failed("its part 1, task id-1, failed, and all 5 have to succeed");
        assert!(failed_by_parts(&task) && !failed_by_parts(&parts[0]));
        let text = failed_parts_text(&task, &parts);
        assert_eq!(text, "\nParts that made it fail:\n  1 step  id-1  Failed  Exit: no such file\n");
    }

    #[test]
    fn if_a_failure_names_no_part_some_of_those_that_failed_are_shown() {
        let task = failed("2 of its 5 parts have not succeeded");
        let cancelled = part("id-9", 9, TaskState::Cancelled, "");
        for (count, last) in [(MOST_SHOWN, "  2 step  id-2  Failed  Exit: why"), (MOST_SHOWN + 1, "  and 1 more; see")]
        {
            let failed = (0..count as u32).map(|n| part(&format!("id-{n}"), n, TaskState::Failed, "why"));
            let parts: Vec<Task> = failed.chain([cancelled.clone()]).collect();
            let text = failed_parts_text(&task, &parts);
            assert!(text.lines().last().is_some_and(|line| line.starts_with(last)), "{text}");
        }
        assert_eq!(failed_parts_text(&task, &[cancelled]), "");
    }

    #[test]
    fn it_is_said_how_many_parts_wait() {
        let subtasks = Some(Subtasks { join: Join::Settled.into(), parts: 6, ended: 1, ..Subtasks::default() });
        let task = Task { id: "top".into(), state: TaskState::Queued.into(), subtasks, ..Task::default() };
        assert!(waits_for_parts(&task) && !is_run_itself(&task) && is_run_itself(&Task::default()));
        let text = task_text(&task, true, Timestamp::UNIX_EPOCH);
        assert!(text.contains("\nIt is not run itself: its parts are.\n"), "{text}");
        let parts = [
            part("a", 0, TaskState::Succeeded, ""),
            part("b", 1, TaskState::Assigned, ""),
            part("c", 2, TaskState::Queued, ""),
            part("d", 3, TaskState::Queued, ""),
        ];
        assert_eq!(
            waiting_parts_text(&task, &parts),
            "Of its 6 parts, 1 has ended, 1 is at an agent, 2 wait, 2 are not submitted yet; see `robeing task top \
             --tree`.\n"
        );
    }
}
