//! The delegator: a client that addresses tasks to teams, of which some are disbanded meanwhile, and follows each to
//! its end.

use futures::future::join_all;
use robeing_proto::v1;

use crate::{
    calls::{Calls, PAUSE},
    executor::{Course, Needs},
    profile::between,
    results,
    tasks::{self, SPECIALIZATION, millis},
};

/// The number of tasks.
const TASKS: usize = 6;
/// How long an attempt takes, in milliseconds.
const LASTS: (u64, u64) = (50, 2_000);
/// The deadline, in milliseconds: no agent may be left that fits the team.
const DEADLINE: u64 = 15_000;
/// The longest pause before a task is read again, in milliseconds.
const READ_AGAIN: u64 = 1_500;

/// The delegator.
pub struct Delegator {
    /// Makes its calls.
    pub calls: Calls,
}

impl Delegator {
    /// Runs the delegator; returns when every task has ended.
    pub async fn run(self) {
        join_all((0..TASKS).map(|_| self.activity())).await;
    }

    /// Runs through the life of one task.
    async fn activity(&self) {
        self.calls.pause_to_begin().await;
        let id = self.submit().await;
        loop {
            if let Some(task) = self.calls.task(&id).await
                && results::note(&self.calls.record, &task)
            {
                return self.calls.record.notes().teams.orders.ends(&id);
            }
            self.calls.pause(READ_AGAIN).await;
        }
    }

    /// Submits a task to some team until it is accepted, and returns its id. If the team is about to be disbanded,
    /// another team gets another task.
    async fn submit(&self) -> String {
        loop {
            let open = self.calls.record.notes().teams.open();
            if !open.is_empty() {
                let (team, is_skilled) = &open[self.calls.below(open.len() as u64) as usize];
                let spec = self.task(team, *is_skilled);
                {
                    let mut notes = self.calls.record.notes();
                    notes.ask(&spec);
                    notes.teams.orders.asks(&spec.id, team);
                }
                if self.is_accepted(&spec).await {
                    return spec.id;
                }
            }
            self.calls.pause(PAUSE).await;
        }
    }

    /// Creates a task that fits every member of a team.
    fn task(&self, team: &str, is_skilled: bool) -> v1::TaskSpec {
        let Calls { name, platform, .. } = &self.calls;
        let needs = if is_skilled { Needs::Specialization(SPECIALIZATION) } else { Needs::Nothing };
        let ms = between(&*platform.random, LASTS);
        let course = if self.calls.below(2) == 0 { Course::Stubborn(ms) } else { Course::Succeed(ms) };
        v1::TaskSpec {
            id: tasks::new_id(platform),
            kind: needs.kind(),
            required_specialization: if is_skilled { SPECIALIZATION.to_owned() } else { String::new() },
            input: course.input(0),
            priority: 1 + self.calls.below(10) as u32,
            deadline_in: Some(millis(DEADLINE)),
            submitter: name.clone(),
            team: team.to_owned(),
            ..v1::TaskSpec::default()
        }
    }

    /// Submits a task until it is accepted, or its team is about to be disbanded. Returns whether it is accepted.
    async fn is_accepted(&self, spec: &v1::TaskSpec) -> bool {
        while self.calls.submit(spec).await.is_err() {
            if self.calls.record.notes().teams.may_end(&spec.team) {
                return false;
            }
            self.calls.pause(PAUSE).await;
        }
        true
    }
}
