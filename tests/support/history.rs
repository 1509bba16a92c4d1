//! A record of the tasks that a test submitted and of every end that any call reported for each task, and the checks on
//! it: no accepted task is lost, a task ends exactly once, its result is right, and the result is that of one attempt
//! that really ran.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use robeing_client::is_finished;
use robeing_proto::v1::{AttemptState, Task, TaskState};

use crate::script::{Execution, executions};

/// The call that reported the end of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// The stream that submitted it.
    Stream,
    /// A watch.
    Watch,
    /// A get.
    Get,
}

#[derive(Clone, Debug, Default)]
struct Record {
    /// The text that the task outputs.
    text: String,
    accepted: bool,
    refused: Option<String>,
    endings: Vec<(Seen, Task)>,
}

/// The record. Submitters and watchers share it.
#[derive(Debug, Default)]
pub struct History {
    records: Mutex<BTreeMap<String, Record>>,
}

impl History {
    fn records(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a task is submitted whose script is [`answer`](crate::script::answer) with this text.
    pub fn submitted(&self, id: &str, text: &str) {
        self.records().entry(id.into()).or_default().text = text.into();
    }

    /// Records that the task was accepted.
    pub fn accepted(&self, id: &str) {
        self.records().entry(id.into()).or_default().accepted = true;
    }

    /// Records that the task was refused.
    pub fn refused(&self, id: &str, why: &str) {
        self.records().entry(id.into()).or_default().refused = Some(why.into());
    }

    /// Records the end of a task, if it has ended and is in this record.
    pub fn seen(&self, how: Seen, task: &Task) {
        if is_finished(task.state())
            && let Some(record) = self.records().get_mut(&task.id)
        {
            record.endings.push((how, task.clone()));
        }
    }

    /// Returns the ids of the accepted tasks.
    pub fn accepted_ids(&self) -> Vec<String> {
        self.records().iter().filter(|(_, record)| record.accepted).map(|(id, _)| id.clone()).collect()
    }

    /// Returns the number of accepted tasks.
    pub fn accepted_count(&self) -> usize {
        self.records().values().filter(|record| record.accepted).count()
    }

    /// Returns the number of tasks that were seen to end.
    pub fn ended_count(&self) -> usize {
        self.records().values().filter(|record| !record.endings.is_empty()).count()
    }

    /// Returns the ids of the accepted tasks whose end this call did not report.
    pub fn unseen_by(&self, how: Seen) -> Vec<String> {
        let unseen = |record: &Record| record.accepted && !record.endings.iter().any(|(by, _)| *by == how);
        self.records().iter().filter(|(_, record)| unseen(record)).map(|(id, _)| id.clone()).collect()
    }

    /// Returns all violations, each as a sentence. `executions` are the executions that really began.
    pub fn violations(&self, executions: &[Execution]) -> Vec<String> {
        let mut found = Vec::new();
        let mut ran: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        for execution @ Execution { task, attempt, .. } in executions {
            if !ran.entry(task).or_default().insert(*attempt) {
                let same = |other: &&Execution| other.task == *task && other.attempt == *attempt;
                let first = executions.iter().find(same);
                found.push(format!("attempt {attempt} of {task} was executed twice: {first:?} and {execution:?}"));
            }
        }
        let records = self.records();
        for (id, record) in &*records {
            let none = BTreeSet::new();
            check_task(id, record, ran.get(id.as_str()).unwrap_or(&none), &mut found);
        }
        found.extend(ran.keys().filter(|id| !records.contains_key(**id)).map(|id| format!("{id} ran, not submitted")));
        found
    }

    /// Checks the record against the executions in this file.
    ///
    /// # Panics
    /// If there is any violation.
    pub fn assert_sound(&self, file: &Path) {
        let executions = executions(file);
        let found = self.violations(&executions);
        assert!(found.is_empty(), "{} tasks, {} violations: {found:#?}", self.records().len(), found.len());
    }
}

fn check_task(id: &str, record: &Record, ran: &BTreeSet<u32>, found: &mut Vec<String>) {
    if record.refused.is_some() && !record.accepted && !(ran.is_empty() && record.endings.is_empty()) {
        found.push(format!("{id} was refused but ran: attempts {ran:?}"));
    }
    let Some((_, first)) = record.endings.first() else {
        if record.accepted {
            found.push(format!("{id} was accepted and its end was never seen"));
        }
        return;
    };
    for (how, task) in &record.endings {
        let same = task.state == first.state
            && task.output == first.output
            && task.failure == first.failure
            && task.attempt == first.attempt
            && task.finished_at == first.finished_at;
        if !same {
            found.push(format!("{id} ended twice: {first:?}, and by {how:?} {task:?}"));
        }
    }
    if first.state() == TaskState::Succeeded {
        check_result(id, record, first, ran, found);
    }
}

fn check_result(id: &str, record: &Record, task: &Task, ran: &BTreeSet<u32>, found: &mut Vec<String>) {
    let expected = format!("{id} {} {}\n", task.attempt, record.text);
    if task.output != expected.as_bytes() {
        let output = String::from_utf8_lossy(&task.output);
        found.push(format!("{id} returned {output:?} instead of {expected:?}"));
    }
    if !ran.contains(&task.attempt) {
        found.push(format!("{id} has the result of attempt {}, but {ran:?} ran", task.attempt));
    }
    let succeeded = task.attempts.iter().filter(|attempt| attempt.state() == AttemptState::Succeeded);
    let numbers: Vec<u32> = succeeded.map(|attempt| attempt.number).collect();
    if numbers != [task.attempt] {
        found.push(format!("{id} has the result of attempt {}, but attempts {numbers:?} succeeded", task.attempt));
    }
}

#[cfg(test)]
mod tests {
    use robeing_proto::v1::Attempt;

    use super::*;

    fn ended(id: &str, attempt: u32) -> Task {
        Task {
            id: id.into(),
            state: TaskState::Succeeded.into(),
            attempt,
            output: format!("{id} {attempt} text\n").into(),
            attempts: vec![Attempt { number: attempt, state: AttemptState::Succeeded.into(), ..Attempt::default() }],
            ..Task::default()
        }
    }

    fn execution(task: &str, attempt: u32) -> Execution {
        Execution { task: task.into(), attempt, group: 1, agent: 1 }
    }

    fn history() -> History {
        let history = History::default();
        history.submitted("a", "text");
        history.accepted("a");
        history
    }

    fn assert_finds(history: &History, executions: &[Execution], words: &str) {
        let found = history.violations(executions);
        assert!(found.iter().any(|sentence| sentence.contains(words)), "{words:?} is not in {found:?}");
    }

    #[test]
    fn a_right_history_passes() {
        let history = history();
        history.seen(Seen::Stream, &ended("a", 2));
        history.seen(Seen::Get, &ended("a", 2));
        assert_eq!(history.violations(&[execution("a", 1), execution("a", 2)]), Vec::<String>::new());
    }

    #[test]
    fn a_lost_task_is_found() {
        assert_finds(&history(), &[execution("a", 1)], "never seen");
    }

    #[test]
    fn two_endings_are_found() {
        let history = history();
        history.seen(Seen::Stream, &ended("a", 1));
        history.seen(Seen::Watch, &ended("a", 2));
        assert_finds(&history, &[execution("a", 1), execution("a", 2)], "ended twice");
    }

    #[test]
    fn a_wrong_answer_is_found() {
        let history = history();
        let task = Task { output: "a 2 text\n".into(), ..ended("a", 1) };
        history.seen(Seen::Get, &task);
        assert_finds(&history, &[execution("a", 1)], "instead of");
    }

    #[test]
    fn a_result_of_nothing_is_found() {
        let history = history();
        history.seen(Seen::Get, &ended("a", 2));
        assert_finds(&history, &[execution("a", 1)], "but {1} ran");
    }

    #[test]
    fn two_accepted_attempts_are_found() {
        let history = history();
        let mut task = ended("a", 2);
        task.attempts.insert(0, Attempt { number: 1, ..task.attempts[0].clone() });
        history.seen(Seen::Get, &task);
        assert_finds(&history, &[execution("a", 1), execution("a", 2)], "attempts [1, 2] succeeded");
    }

    #[test]
    fn an_attempt_that_ran_twice_is_found() {
        let history = history();
        history.seen(Seen::Get, &ended("a", 1));
        assert_finds(&history, &[execution("a", 1), execution("a", 1)], "executed twice");
    }

    #[test]
    fn what_nobody_asked_for_is_found() {
        let history = history();
        history.seen(Seen::Get, &ended("a", 1));
        history.refused("b", "full");
        assert_finds(&history, &[execution("a", 1), execution("c", 1)], "not submitted");
        assert_finds(&history, &[execution("a", 1), execution("b", 1)], "was refused but ran");
    }
}
