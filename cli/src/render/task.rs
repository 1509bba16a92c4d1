//! Tasks for people: lists, one task in full, and the explanation of its scheduling.

use std::fmt::Write;

use jiff::Timestamp;
use robeing_client::is_finished;
use robeing_proto::v1::{Attempt, AttemptState, BlobRef, Comparison, Failure, Task, TaskApproval, TaskState, Verify};

use super::{
    candidates::candidates_text,
    parts::is_run_itself,
    resources::amounts_text,
    table::table,
    words::{
        age, attempt_word, between, failure_word, instant, moment, preview, printable, role_word, short_duration,
        state_word,
    },
};

/// Returns the agent that has the task, or had it last. The output of a verified task is that of the first attempt that
/// was not outvoted.
fn agent_of(task: &Task) -> String {
    let is_verified = task.verify.is_some() && task.state() == TaskState::Succeeded;
    let right = task.attempts.iter().find(|attempt| is_verified && attempt.state() == AttemptState::Succeeded);
    right.or(task.attempts.last()).map(|attempt| attempt.agent.clone()).unwrap_or_default()
}

/// Formats the list of `robeing tasks`.
pub fn tasks_table(tasks: &[Task], now: Timestamp) -> String {
    if tasks.is_empty() {
        return "no tasks\n".into();
    }
    table(
        ["ID", "KIND", "STATE", "PRIORITY", "ATTEMPT", "AGENT", "SUBMITTER", "AGE"],
        tasks.iter().map(|task| {
            [
                task.id.clone(),
                task.kind.clone(),
                state_word(task.state()),
                task.priority.to_string(),
                task.attempt.to_string(),
                agent_of(task),
                task.submitter.clone(),
                age(task.submitted_at.as_ref(), now),
            ]
        }),
    )
}

/// Formats the list that `robeing submit --wait` prints for many tasks.
pub fn results_table(tasks: &[Task]) -> String {
    table(
        ["ID", "STATE", "ATTEMPTS", "AGENT", "TOOK", "RESULT"],
        tasks.iter().map(|task| {
            let result = match task.state() {
                TaskState::Succeeded => content(&task.output, task.output_ref.as_ref()),
                TaskState::Cancelled => preview(task.cancel_reason.as_bytes()),
                _ => task.failure.as_ref().map(failure_text).unwrap_or_default(),
            };
            [task.id.clone(), state_word(task.state()), task.attempt.to_string(), agent_of(task), took(task), result]
        }),
    )
}

/// Formats the beginning of content, or where it is.
fn content(inline: &[u8], stored: Option<&BlobRef>) -> String {
    stored.map_or_else(|| preview(inline), stored_text)
}

/// Formats a reference to what is in the object store.
pub fn stored_text(blob: &BlobRef) -> String {
    let hash: String = blob.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes in the object store, sha256/{hash}", blob.bytes)
}

/// Formats the time from acceptance to the end.
fn took(task: &Task) -> String {
    match (instant(task.submitted_at.as_ref()), instant(task.finished_at.as_ref())) {
        (Some(submitted), Some(finished)) => short_duration(between(submitted, finished)),
        _ => String::new(),
    }
}

/// Formats a failure: its kind, what the handler calls it, and the message.
pub(super) fn failure_text(failure: &Failure) -> String {
    let word = match failure.name.as_str() {
        "" => failure_word(failure.kind()),
        name => format!("{} ({name})", failure_word(failure.kind())),
    };
    match failure.message.as_str() {
        "" => word,
        message => format!("{word}: {message}"),
    }
}

/// Formats the approval of a task in a state. A ballot that has not approved a finished task may be rejected, expired, or
/// still open.
fn approval_text(TaskApproval { ballot, approved }: &TaskApproval, state: TaskState) -> String {
    if *approved {
        format!("approved by ballot {ballot}")
    } else if is_finished(state) {
        format!("ballot {ballot}; see `robeing vote show {ballot}`")
    } else {
        format!("waits for ballot {ballot}")
    }
}

/// Formats how the result of a task is verified.
fn verification_text(Verify { agents, agree, pointer, compare }: &Verify) -> String {
    let part = pointer.as_ref().map(|pointer| format!(" at {pointer:?}")).unwrap_or_default();
    let by = if compare.is_empty() { String::new() } else { format!(", as tasks of the kind {compare:?} say") };
    format!("{agree} of {agents} agents must give the same output{part}{by}")
}

/// Formats what there is to say about a task in its state.
pub(super) fn detail(task: &Task) -> String {
    match task.state() {
        TaskState::Assigned => format!("to {}, attempt {}", agent_of(task), task.attempt),
        TaskState::Queued => task.waiting_for.clone(),
        // It succeeded because of its parts.
        TaskState::Succeeded if task.subtasks.is_some() && task.attempts.is_empty() => format!("after {}", took(task)),
        TaskState::Succeeded => format!("by {} after {}", agent_of(task), took(task)),
        TaskState::Cancelled => task.cancel_reason.clone(),
        _ => task.failure.as_ref().map(failure_text).unwrap_or_default(),
    }
}

/// Formats what a task depends on, and its parts and subtasks: names and values of lines.
fn links_lines(task: &Task) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if !task.depends_on.is_empty() {
        let ids: Vec<&str> = task.depends_on.iter().map(|of| of.task.as_str()).collect();
        lines.push(("Depends on", ids.join(", ")));
    }
    if let Some(of) = &task.part_of {
        lines.push(("Part of", format!("{} of task {}", of.index, of.task)));
    }
    if let Some(of) = &task.subtasks {
        let counts = format!("{} of {} ended, {} succeeded", of.ended, of.parts, of.succeeded);
        lines.push(("Subtasks", format!("{counts}; see `robeing task {} --tree`", task.id)));
    }
    lines
}

/// Formats one change of a task as a line, as `robeing task ID --watch` prints it.
pub fn change_line(task: &Task, now: Timestamp) -> String {
    let mut line = format!("{:.3}  {}", now, state_word(task.state()));
    let detail = detail(task);
    if !detail.is_empty() {
        line.push_str("  ");
        line.push_str(&printable(&detail));
    }
    line.push('\n');
    line
}

/// Returns what a task requires of the agent that runs it, and in which queue it waits for one.
fn requirement_lines(task: &Task) -> Vec<(&'static str, String)> {
    let role = if task.required_role == 0 { String::new() } else { role_word(task.required_role()) };
    let skills: Vec<&str> =
        std::iter::once(&task.required_specialization).chain(&task.skills).map(String::as_str).collect();
    let slots = if task.slots > 1 { task.slots.to_string() } else { String::new() };
    let queue = match &task.resources {
        Some(resources) => ("Resources", format!("{} from queue {:?}", amounts_text(Some(resources)), task.queue)),
        None => ("Queue", task.queue.clone()),
    };
    vec![
        ("Role", role),
        ("Specialization", skills.join(",")),
        ("Slots", slots),
        ("Team", task.team.clone()),
        queue,
        ("Limit key", task.limit_key.clone()),
    ]
}

/// Formats one task in full. With `why`, adds its attempts with their scores, and what it is waiting for.
pub fn task_text(task: &Task, why: bool, now: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{:<16}{}", format!("{name}:"), printable(&value));
        }
    };
    line("ID", task.id.clone());
    line("Kind", task.kind.clone());
    line("State", state_word(task.state()));
    line("Waiting for", task.waiting_for.clone());
    if let Some(approval) = &task.approval {
        line("Approval", approval_text(approval, task.state()));
    }
    if let Some(verify) = &task.verify {
        line("Verification", verification_text(verify));
    }
    links_lines(task).into_iter().for_each(|(name, value)| line(name, value));
    line("Priority", task.priority.to_string());
    line("Attempts", format!("{} (counted: {} of {})", task.attempt, task.attempts_used, task.max_attempts));
    line("Agent", agent_of(task));
    line("Submitter", task.submitter.clone());
    if !task.schedule.is_empty() {
        line("Schedule", format!("{}, due {}", task.schedule, moment(task.scheduled_for.as_ref(), now)));
    }
    line("Key", task.idempotency_key.clone());
    requirement_lines(task).into_iter().for_each(|(name, value)| line(name, value));
    line("Submitted by", task.submitted_by.clone());
    line("Submitted", moment(task.submitted_at.as_ref(), now));
    line("Tried again", moment(task.retried_at.as_ref(), now));
    line("Epoch", if task.epoch == 0 { String::new() } else { task.epoch.to_string() });
    line("Not before", moment(task.not_before.as_ref(), now));
    line("Expires", moment(task.queue_until.as_ref(), now));
    line("Deadline", moment(task.deadline.as_ref(), now));
    line("Finished", moment(task.finished_at.as_ref(), now));
    line("Took", took(task));
    line("Kept until", moment(task.expires_at.as_ref(), now));
    line("Dead letter", if task.dead { format!("see `robeing dead retry {}`", task.id) } else { String::new() });
    line("Cancelled", task.cancel_reason.clone());
    if let Some(failure) = &task.failure {
        line("Failure", failure_text(failure));
        line("Code", failure.code.map(|code| code.to_string()).unwrap_or_default());
    }
    line("Input", content(&task.input, task.input_ref.as_ref()));
    line("Output", content(&task.output, task.output_ref.as_ref()));
    if let Some(failure) = task.failure.as_ref().filter(|failure| !failure.stderr_tail.is_empty()) {
        text.push_str("Stderr:\n");
        for line in failure.stderr_tail.lines() {
            let _ = writeln!(text, "  {}", printable(line));
        }
    }
    if why {
        text.push_str(&why_text(task, now));
    }
    text
}

fn why_text(task: &Task, now: Timestamp) -> String {
    let mut text = String::from("\n");
    if task.attempts.is_empty() && !is_run_itself(task) {
        text.push_str("It is not run itself: its parts are.\n");
    } else if task.attempts.is_empty() {
        text.push_str("It has not been assigned to an agent.\n");
    } else {
        text.push_str(&table(
            [
                "ATTEMPT",
                "AGENT",
                "STATE",
                "BEGAN",
                "TOOK",
                "SCORE",
                "SPECIALIZATION",
                "LOAD",
                "PERFORMANCE",
                "CANDIDATES",
                "FAILURE",
            ],
            task.attempts.iter().map(|attempt| attempt_row(attempt, now)),
        ));
        text.push_str(
            "\nThe score is the sum of its three terms; of the candidates, the agent with the highest gets the task.\n",
        );
    }
    if task.verify.is_some() && task.attempts.iter().any(|attempt| !attempt.digest.is_empty()) {
        text.push_str("\nAttempts with the same digest have the same output:\n");
        for attempt in task.attempts.iter().filter(|attempt| !attempt.digest.is_empty()) {
            let digest: String = attempt.digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            let _ = writeln!(text, "  {digest}  {} ({})", printable(&attempt.agent), attempt_word(attempt.state()));
        }
    }
    text.push_str(&comparisons_text(task));
    text.push_str(&candidates_text(task));
    if task.state() == TaskState::Queued {
        let waits = if task.waiting_for.is_empty() { "an agent" } else { &task.waiting_for };
        let _ = writeln!(text, "Waiting for: {}", printable(waits));
    }
    text
}

/// Formats which outputs were found equal and which different, and by whom.
fn comparisons_text(task: &Task) -> String {
    let agent = |number: u32| {
        let attempt = task.attempts.iter().find(|attempt| attempt.number == number);
        attempt.map(|attempt| format!(" ({})", printable(&attempt.agent))).unwrap_or_default()
    };
    let mut text = String::new();
    for (n, Comparison { one, other, agent: by, equal }) in task.comparisons.iter().enumerate() {
        if n == 0 {
            text.push_str("\nOutputs that were compared:\n");
        }
        let found = match equal {
            Some(true) => "are equal",
            Some(false) => "differ",
            None => "are being compared",
        };
        let by = if by.is_empty() { String::new() } else { format!(", says {}", printable(by)) };
        let _ = writeln!(text, "  attempts {one}{} and {other}{} {found}{by}", agent(*one), agent(*other));
    }
    text
}

fn attempt_row(attempt: &Attempt, now: Timestamp) -> [String; 11] {
    let score = attempt.score.unwrap_or_default();
    let began = instant(attempt.assigned_at.as_ref());
    let ended = instant(attempt.ended_at.as_ref());
    [
        attempt.number.to_string(),
        attempt.agent.clone(),
        attempt_word(attempt.state()),
        began.map(|began| format!("{} ago", short_duration(between(began, now)))).unwrap_or_default(),
        began.zip(ended).map(|(began, ended)| short_duration(between(began, ended))).unwrap_or_default(),
        format!("{:.1}", score.total),
        format!("{:+.1}", score.specialization),
        format!("{:+.1}", score.load),
        format!("{:+.1}", score.performance),
        attempt.candidates.to_string(),
        attempt.failure.as_ref().map(failure_text).unwrap_or_default(),
    ]
}
