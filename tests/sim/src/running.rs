//! The attempts that executors run.

use crate::record::{Ran, Record, Run};

impl Record {
    /// Records that an executor starts an attempt. The attempt ends when the returned value is dropped.
    pub fn runs(&self, agent: &str, task: &str, attempt: u32, limited: bool) -> Running {
        let mut notes = self.notes();
        *notes.begun.entry((task.to_owned(), attempt)).or_default() += 1;
        let number = notes.next_run;
        notes.next_run += 1;
        let now = notes.now;
        notes.seen.entry((task.to_owned(), attempt)).or_default().begun.get_or_insert(now);
        let run = Run { agent: agent.to_owned(), attempt, limited, cancelled: false, number };
        notes.runs.entry(task.to_owned()).or_default().push(run);
        notes.check_alone(task);
        notes.check_delay(task);
        notes.check_health(agent, "starts", task);
        notes.ballots.starts(task);
        let wrong = notes.needs.starts(agent, task, attempt).err();
        if let Some((check, what)) = wrong {
            notes.violation(check, what);
        }
        drop(notes);
        Running { record: self.clone(), task: task.to_owned(), attempt, number }
    }
}

/// A running attempt.
pub struct Running {
    record: Record,
    task: String,
    attempt: u32,
    number: u64,
}

impl Running {
    /// Records that the coordinators want it to stop.
    pub fn cancelled(&self) {
        let mut notes = self.record.notes();
        let runs = notes.runs.get_mut(&self.task).into_iter().flatten();
        runs.filter(|run| run.number == self.number).for_each(|run| run.cancelled = true);
    }

    /// Records that it failed and may be retried.
    pub fn fails(&self) {
        let mut notes = self.record.notes();
        let now = notes.now;
        notes.seen.entry((self.task.clone(), self.attempt)).or_default().failed = Some(now);
    }

    /// Records that it ended on its own.
    pub fn ends(&self, agent: &str) {
        let mut notes = self.record.notes();
        let at = notes.now;
        notes.ran.insert((self.task.clone(), self.attempt), Ran { agent: agent.to_owned(), at });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut notes = self.record.notes();
        if let Some(runs) = notes.runs.get_mut(&self.task) {
            runs.retain(|run| run.number != self.number);
            if runs.is_empty() {
                notes.runs.remove(&self.task);
            }
        }
    }
}
