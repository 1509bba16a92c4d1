//! Tasks with a known output, and the check that each is accepted once, ends once, and has that output.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use robeing_client::{ClientError, FleetClient, SubmitEvent, SubmitOptions, new_task_id};
use robeing_proto::v1::{AttemptState, Consistency, GetTaskRequest, Task, TaskSpec, TaskState};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use super::deployed::PATIENCE;

/// The kind and required specialization of the tasks.
pub const KIND: &str = "data_processing";
/// The number of concurrent requests when all tasks are read again.
const READERS: usize = 16;

/// A task, and the number of words that it should count.
#[derive(Clone, Debug)]
pub struct Exercise {
    spec: TaskSpec,
    words: usize,
}

/// Creates `count` tasks that each take `seconds` seconds. Their input is the seconds, a line break, and words to be
/// counted.
pub fn exercises(count: usize, seconds: u32) -> Vec<Exercise> {
    exercises_of(KIND, count, seconds)
}

/// Creates the same tasks for agents of another specialization.
pub fn exercises_of(specialization: &str, count: usize, seconds: u32) -> Vec<Exercise> {
    let exercise = |index: usize| {
        let words = 1 + index % 97;
        let spec = TaskSpec {
            id: new_task_id(),
            kind: specialization.into(),
            required_specialization: specialization.into(),
            input: format!("{seconds}\n{}\n", vec!["word"; words].join(" ")).into(),
            submitter: "end-to-end".into(),
            ..TaskSpec::default()
        };
        Exercise { spec, words }
    };
    (0..count).map(exercise).collect()
}

/// The events of one task.
#[derive(Clone, Debug, Default)]
struct Entry {
    accepted: usize,
    endings: Vec<Task>,
    problems: Vec<String>,
}

type Ledger = BTreeMap<usize, Entry>;

/// Submitted tasks.
#[derive(Debug)]
pub struct Running {
    client: FleetClient,
    exercises: Vec<Exercise>,
    ledger: Arc<Mutex<Ledger>>,
    submission: JoinHandle<Result<(), ClientError>>,
}

fn locked(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(ledger: &Mutex<Ledger>, event: SubmitEvent) {
    let mut ledger = locked(ledger);
    match event {
        SubmitEvent::Submitted { index, result } => {
            let entry = ledger.entry(index).or_default();
            match result.refusal {
                None => entry.accepted += 1,
                Some(refusal) => entry.problems.push(format!("refused: {}", refusal.message)),
            }
        }
        SubmitEvent::Finished { index, task } => ledger.entry(index).or_default().endings.push(*task),
        SubmitEvent::Expired { index, task_id } => {
            ledger.entry(index).or_default().problems.push(format!("the result of {task_id} expired"));
        }
        SubmitEvent::NotTaken { index } => {
            ledger.entry(index).or_default().problems.push("the caller may not submit".to_owned());
        }
    }
}

impl Running {
    /// Submits tasks and waits for their results in the background.
    pub fn start(client: &FleetClient, exercises: Vec<Exercise>) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::new()));
        let specs: Vec<TaskSpec> = exercises.iter().map(|exercise| exercise.spec.clone()).collect();
        let submission = tokio::spawn({
            let (client, ledger) = (client.clone(), Arc::clone(&ledger));
            async move {
                let options = SubmitOptions { wait: true, ..SubmitOptions::default() };
                client.submit_many(specs, options, |event| note(&ledger, event)).await
            }
        });
        Self { client: client.clone(), exercises, ledger, submission }
    }

    /// Returns whether the submission is over, because all tasks have ended or because it failed.
    pub fn is_over(&self) -> bool {
        self.submission.is_finished()
    }

    /// Returns how many tasks were accepted.
    pub fn accepted(&self) -> usize {
        locked(&self.ledger).values().filter(|entry| entry.accepted > 0).count()
    }

    /// Returns how many tasks have ended.
    pub fn ended(&self) -> usize {
        locked(&self.ledger).values().filter(|entry| !entry.endings.is_empty()).count()
    }

    /// Returns what the fleet reports about the tasks whose end was not received, and about its agents.
    async fn unended(&self) -> String {
        let unended = |index: &usize| locked(&self.ledger).get(index).is_none_or(|entry| entry.endings.is_empty());
        let mut told = Vec::new();
        for index in (0..self.exercises.len()).filter(unended) {
            let id = self.exercises[index].spec.id.clone();
            let read = self.client.get_task(GetTaskRequest { id, ..GetTaskRequest::default() });
            told.push(format!("{:?}", timeout(Duration::from_secs(10), read).await));
        }
        let agents = self.client.list_agents(false, Consistency::Local);
        told.push(format!("{:?}", timeout(Duration::from_secs(10), agents).await));
        told.join("\n")
    }

    /// Waits until all tasks have ended, and checks each.
    ///
    /// # Panics
    /// If a task was not accepted exactly once, did not end exactly once or has the wrong output, or if they take too
    /// long.
    pub async fn soundly(mut self) {
        match timeout(PATIENCE, &mut self.submission).await {
            Ok(done) => done.expect("the submission does not panic").unwrap_or_else(|error| panic!("{error}")),
            Err(_) => {
                let (ended, unended) = (self.ended(), self.unended().await);
                panic!(
                    "{ended} of {} tasks ended within {PATIENCE:?}; about the others the fleet reports:\n{unended}",
                    self.exercises.len()
                )
            }
        }
        let read: Vec<_> = stream::iter(self.exercises.iter().map(|exercise| exercise.spec.id.clone()))
            .map(|id| {
                let client = self.client.clone();
                async move { client.get_task(GetTaskRequest { id, ..GetTaskRequest::default() }).await }
            })
            .buffered(READERS)
            .collect()
            .await;
        let ledger = locked(&self.ledger);
        let mut wrong = Vec::new();
        for ((index, exercise), read) in self.exercises.iter().enumerate().zip(read) {
            match read {
                Ok(task) => wrong.extend(check(exercise, ledger.get(&index), &task)),
                Err(error) => wrong.push(format!("{} can't be read: {error}", exercise.spec.id)),
            }
        }
        assert!(wrong.is_empty(), "{} of {} tasks: {wrong:#?}", wrong.len(), self.exercises.len());
    }
}

/// Runs rounds of `tasks` tasks of `seconds` seconds each until `work` is done, and checks them. The last round ends
/// after `work`.
///
/// # Panics
/// As [`Running::soundly`].
pub async fn under_load<T>(client: &FleetClient, tasks: usize, seconds: u32, work: impl Future<Output = T>) -> T {
    let (stop, stopped) = watch::channel(false);
    let load = async {
        // Runs at least one round, however soon the work is done.
        loop {
            Running::start(client, exercises(tasks, seconds)).soundly().await;
            if *stopped.borrow() {
                break;
            }
        }
    };
    let work = async {
        let done = work.await;
        stop.send_replace(true);
        done
    };
    let ((), done) = tokio::join!(load, work);
    done
}

/// Returns what is wrong with a task, according to its events and to its final state.
fn check(exercise: &Exercise, entry: Option<&Entry>, read: &Task) -> Option<String> {
    let id = &exercise.spec.id;
    let Some(entry) = entry else { return Some(format!("{id} got no event")) };
    let [ended] = &entry.endings[..] else { return Some(format!("{id} ended {} times", entry.endings.len())) };
    let same = |a: &Task, b: &Task| (a.state, &a.output, a.attempt) == (b.state, &b.output, b.attempt);
    let succeeded = read.attempts.iter().filter(|attempt| attempt.state() == AttemptState::Succeeded);
    let succeeded: Vec<u32> = succeeded.map(|attempt| attempt.number).collect();
    let expected = format!("{id} {} {}\n", read.attempt, exercise.words);
    let wrong = if !entry.problems.is_empty() || entry.accepted != 1 {
        format!("was accepted {} times: {:?}", entry.accepted, entry.problems)
    } else if read.state() != TaskState::Succeeded || !same(ended, read) {
        format!("ended as {ended:?} but is read as {read:?}")
    } else if read.output != expected.as_bytes() {
        format!("returned {:?} instead of {expected:?}", String::from_utf8_lossy(&read.output))
    } else if succeeded != [read.attempt] {
        format!("has the result of attempt {}, but attempts {succeeded:?} succeeded", read.attempt)
    } else {
        return None;
    };
    Some(format!("{id} {wrong}"))
}

#[cfg(test)]
mod tests {
    use robeing_proto::v1::Attempt;

    use super::*;

    fn sound() -> (Exercise, Entry, Task) {
        let exercise = exercises(1, 0).remove(0);
        let task = Task {
            id: exercise.spec.id.clone(),
            state: TaskState::Succeeded.into(),
            attempt: 2,
            output: format!("{} 2 1\n", exercise.spec.id).into(),
            attempts: vec![Attempt { number: 2, state: AttemptState::Succeeded.into(), ..Attempt::default() }],
            ..Task::default()
        };
        (exercise, Entry { accepted: 1, endings: vec![task.clone()], problems: vec![] }, task)
    }

    #[test]
    fn a_sound_task_passes_and_every_flaw_is_found() {
        let (exercise, entry, task) = sound();
        assert_eq!(check(&exercise, Some(&entry), &task), None);
        let finds = |entry: Option<&Entry>, task: &Task, words: &str| {
            let found = check(&exercise, entry, task).unwrap_or_default();
            assert!(found.contains(words), "{words:?} is not in {found:?}");
        };
        finds(None, &task, "no event");
        finds(Some(&Entry { accepted: 2, ..entry.clone() }), &task, "accepted 2 times");
        finds(Some(&Entry { endings: vec![task.clone(), task.clone()], ..entry.clone() }), &task, "ended 2 times");
        finds(Some(&entry), &Task { attempt: 1, ..task.clone() }, "is read as");
        let wrong = Task { output: "else".into(), ..task.clone() };
        finds(Some(&Entry { endings: vec![wrong.clone()], ..entry.clone() }), &wrong, "instead of");
        let mut twice = task.clone();
        twice.attempts.push(Attempt { number: 1, ..task.attempts[0].clone() });
        finds(Some(&entry), &twice, "attempts [2, 1] succeeded");
    }
}
