//! Records the result of every task of the demo and checks that each is accepted once, finishes once and has the right
//! output. Also computes how long the takeovers from the killed processes took.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use anyhow::{Result, bail, ensure};
use robeing_client::SubmitEvent;
use robeing_proto::v1::{Attempt, AttemptState, Task, TaskState};
use tokio::time::Instant;

use super::work::Exercise;

/// A task that was taken over from a lost agent.
#[derive(Debug)]
pub struct Takeover {
    task_id: String,
    from: String,
    to: String,
    /// The time from the kill to the next attempt.
    after: Duration,
}

impl fmt::Display for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { task_id, from, to, after } = self;
        write!(f, "takeover   task {task_id}: from {from}, running on {to} after {} ms", after.as_millis())
    }
}

/// All that was reported about the demo's tasks.
pub struct Ledger<'a> {
    exercises: &'a [Exercise],
    began: Instant,
    accepted: Vec<bool>,
    tasks: Vec<Option<Task>>,
    finished: usize,
    last_result: Instant,
    first_accepted_after_kill: Option<Instant>,
    /// The agent that was killed, and when.
    pub agent_kill: Option<(String, SystemTime)>,
    /// The leader that was killed, and when.
    pub leader_kill: Option<(String, Instant)>,
}

impl<'a> Ledger<'a> {
    /// Creates an empty ledger for these tasks. Time is counted from now.
    pub fn new(exercises: &'a [Exercise]) -> Self {
        let now = Instant::now();
        Self {
            exercises,
            began: now,
            accepted: vec![false; exercises.len()],
            tasks: vec![None; exercises.len()],
            finished: 0,
            last_result: now,
            first_accepted_after_kill: None,
            agent_kill: None,
            leader_kill: None,
        }
    }

    /// Returns the number of tasks that finished; each had the right output.
    pub fn finished(&self) -> usize {
        self.finished
    }

    /// Returns the time from the first submission to the last result.
    pub fn took(&self) -> Duration {
        self.last_result - self.began
    }

    /// Records an event.
    ///
    /// # Errors
    /// If it is one that must not happen: a refusal, a failure, a wrong output, a second end.
    pub fn note(&mut self, index: usize, event: SubmitEvent) -> Result<()> {
        match event {
            SubmitEvent::Submitted { result, .. } => {
                if let Some(refusal) = result.refusal {
                    bail!("task {index} was refused ({}): {}", refusal.code, refusal.message);
                }
                ensure!(!self.accepted[index], "task {index} was accepted twice");
                self.accepted[index] = true;
                if self.leader_kill.is_some() {
                    self.first_accepted_after_kill.get_or_insert_with(Instant::now);
                }
            }
            SubmitEvent::Finished { task, .. } => self.finish(index, *task)?,
            SubmitEvent::Expired { task_id, .. } => bail!("the result of task {task_id} expired before it was read"),
            SubmitEvent::NotTaken { .. } => bail!("task {index} was not taken, because the demo may not submit"),
        }
        Ok(())
    }

    fn finish(&mut self, index: usize, task: Task) -> Result<()> {
        let id = task.id.clone();
        ensure!(self.accepted[index], "task {id} ended before it was accepted");
        ensure!(self.tasks[index].is_none(), "task {id} ended twice");
        if task.state() != TaskState::Succeeded {
            bail!("task {id} ended as {}: {:?}", task.state().as_str_name(), task.failure.unwrap_or_default());
        }
        let right = &self.exercises[index].answer;
        if task.output != *right {
            let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
            bail!("task {id} returned {:?} instead of {:?}", shown(&task.output), shown(right));
        }
        self.tasks[index] = Some(task);
        self.finished += 1;
        self.last_result = Instant::now();
        Ok(())
    }

    /// Returns the leader that was killed, and the time from then until the next task was accepted.
    pub fn leader_change(&self) -> Option<(&str, Duration)> {
        let (name, killed) = self.leader_kill.as_ref()?;
        Some((name, self.first_accepted_after_kill? - *killed))
    }

    /// Returns the tasks that the killed agent had, ordered by the time until others took them over.
    pub fn takeovers(&self) -> Vec<Takeover> {
        let Some((victim, killed)) = &self.agent_kill else { return Vec::new() };
        let mut takeovers: Vec<Takeover> =
            self.tasks.iter().flatten().filter_map(|t| takeover(t, victim, *killed)).collect();
        takeovers.sort_by_key(|takeover| takeover.after);
        takeovers
    }
}

fn takeover(task: &Task, victim: &str, killed: SystemTime) -> Option<Takeover> {
    let given_up = [AttemptState::Lost, AttemptState::HandedBack];
    let is_lost = |attempt: &Attempt| attempt.agent == victim && given_up.contains(&attempt.state());
    let lost = task.attempts.iter().position(is_lost)?;
    let next = task.attempts.get(lost + 1)?;
    let assigned = SystemTime::try_from(next.assigned_at?).ok()?;
    // The fleet's timestamps are in whole milliseconds, so a fast takeover may seem to precede the kill.
    let after = assigned.duration_since(killed).unwrap_or_default();
    Some(Takeover { task_id: task.id.clone(), from: victim.into(), to: next.agent.clone(), after })
}
