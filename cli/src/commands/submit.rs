//! `robeing submit`: one task or many, awaited or not.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use robeing_proto::v1::{Refusal, RetryPolicy, Role, SubmitResult, Task, TaskSpec, TaskState};

use super::{connect::client, tasks::write_result};
use crate::{
    args::{AgentRole, Connection, Format, SubmitArgs},
    client::{FleetClient, SubmitEvent, SubmitOptions},
    error::CliError,
    exit::Exit,
    inputs::LineInput,
    render::{note, print_list, print_one, results_table},
};

/// Refusals that are told one by one.
const TOLD_REFUSALS: usize = 10;
/// Tasks from which on a progress bar is shown.
const MANY: usize = 2;

pub(super) async fn run(args: SubmitArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let specs = specs(&args, args.read_inputs()?);
    let client = client(fleet, None).await?;
    let total = specs.len();
    let mut outcome = Outcome::new(total, args.wait);
    let began = Instant::now();
    let submitted = submit(&client, specs, &args, &mut outcome).await;
    outcome.bar.finish_and_clear();
    match submitted {
        Ok(()) => {}
        // What is known is worth telling before the error is.
        Err(error) if total > 1 => {
            print(&args, &outcome, began)?;
            return Err(error);
        }
        Err(error) => return Err(error),
    }
    print(&args, &outcome, began)
}

async fn submit(
    client: &FleetClient,
    specs: Vec<TaskSpec>,
    args: &SubmitArgs,
    outcome: &mut Outcome,
) -> Result<(), CliError> {
    let total = specs.len();
    let options = SubmitOptions { wait: args.wait, ..SubmitOptions::default() };
    let submitting = client.submit_many(specs, options, |event| outcome.take(event));
    match args.wait_timeout {
        None => Ok(submitting.await?),
        Some(limit) => match tokio::time::timeout(limit, submitting).await {
            Ok(ended) => Ok(ended?),
            Err(_) => {
                let unfinished = total - outcome.ended();
                Err(CliError::WaitTimedOut { unfinished, total, waited: limit })
            }
        },
    }
}

/// The tasks as they are submitted.
fn specs(args: &SubmitArgs, inputs: Vec<LineInput>) -> Vec<TaskSpec> {
    let retry = args.max_attempts.or(args.retries.map(|retries| retries + 1));
    let submitter = args.submitter.clone().or_else(|| std::env::var("USER").ok()).unwrap_or_default();
    let template = TaskSpec {
        kind: args.kind.clone(),
        deadline_in: args.deadline.map(duration),
        delay: args.delay.map(duration),
        attempt_timeout: args.timeout.map(duration),
        retry: retry.map(|max_attempts| RetryPolicy { max_attempts, ..Default::default() }),
        required_role: args.role.map_or(Role::Unspecified, Role::from).into(),
        required_specialization: args.specialization.clone().unwrap_or_default(),
        result_ttl: args.ttl.map(duration),
        submitter,
        ..Default::default()
    };
    inputs
        .into_iter()
        .map(|line| TaskSpec {
            input: line.input.into(),
            priority: line.priority.or(args.priority).unwrap_or_default(),
            idempotency_key: line.key.or_else(|| args.key.clone()).unwrap_or_default(),
            ..template.clone()
        })
        .collect()
}

impl From<AgentRole> for Role {
    fn from(role: AgentRole) -> Self {
        match role {
            AgentRole::Worker => Self::Worker,
            AgentRole::Specialist => Self::Specialist,
            AgentRole::Messenger => Self::Messenger,
            AgentRole::Guardian => Self::Guardian,
        }
    }
}

fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        // More seconds than fit are more than any fleet will wait.
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: span.subsec_nanos().cast_signed(),
    }
}

/// What has become of the tasks, by their place in the input.
struct Outcome {
    wait: bool,
    submitted: BTreeMap<usize, SubmitResult>,
    finished: BTreeMap<usize, Task>,
    expired: Vec<String>,
    refused: usize,
    bar: ProgressBar,
}

impl Outcome {
    fn new(total: usize, wait: bool) -> Self {
        let bar = if total >= MANY && io::stderr().is_terminal() {
            ProgressBar::new(total as u64).with_style(bar_style())
        } else {
            ProgressBar::hidden()
        };
        Self { wait, submitted: BTreeMap::new(), finished: BTreeMap::new(), expired: Vec::new(), refused: 0, bar }
    }

    /// Tasks of which nothing more will be heard.
    fn ended(&self) -> usize {
        if self.wait { self.finished.len() + self.expired.len() + self.refused } else { self.submitted.len() }
    }

    fn take(&mut self, event: SubmitEvent) {
        match event {
            SubmitEvent::Submitted { index, result } => {
                if let Some(refusal) = &result.refusal {
                    self.tell_refusal(index, refusal);
                }
                self.submitted.insert(index, result);
            }
            SubmitEvent::Finished { index, task } => {
                self.finished.insert(index, *task);
            }
            SubmitEvent::Expired { task_id, .. } => self.expired.push(task_id),
        }
        self.bar.set_position(self.ended() as u64);
    }

    fn tell_refusal(&mut self, index: usize, refusal: &Refusal) {
        self.refused += 1;
        if self.refused <= TOLD_REFUSALS {
            let sentence = format!("task {} was refused ({}): {}", index + 1, refusal.code, refusal.message);
            self.bar.suspend(|| note(&sentence));
        }
    }

    fn exit(&self) -> Exit {
        if self.refused > 0 {
            return Exit::Refused;
        }
        let all_succeeded = self.finished.values().all(|task| task.state() == TaskState::Succeeded);
        if all_succeeded && self.expired.is_empty() { Exit::Success } else { Exit::TaskFailed }
    }
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{wide_bar} {pos}/{len} tasks, {per_sec}, {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn print(args: &SubmitArgs, outcome: &Outcome, began: Instant) -> Result<Exit, CliError> {
    if outcome.refused > TOLD_REFUSALS {
        note(&format!("… and {} more were refused", outcome.refused - TOLD_REFUSALS));
    }
    for id in &outcome.expired {
        note(&format!("task {id} finished, but its result expired before it was read"));
    }
    let single = args.inputs.is_none();
    let mut out = io::stdout().lock();
    match (args.wait, single) {
        (false, _) => print_submitted(&mut out, args.output.output, outcome, single)?,
        (true, true) => print_single(&mut out, args.output.output, outcome)?,
        (true, false) => {
            let tasks: Vec<Task> = outcome.finished.values().cloned().collect();
            print_list(&mut out, args.output.output, &tasks, results_table)?;
            note(&summary(outcome, began.elapsed()));
        }
    }
    Ok(outcome.exit())
}

fn print_submitted(out: &mut dyn Write, format: Format, outcome: &Outcome, single: bool) -> Result<(), CliError> {
    let results: Vec<SubmitResult> = outcome.submitted.values().cloned().collect();
    match (format, single, results.first()) {
        (Format::Table, _, _) => {
            for result in results.iter().filter(|result| result.refusal.is_none()) {
                writeln!(out, "{}", result.task_id)?;
            }
            Ok(())
        }
        (_, true, Some(result)) => print_one(out, format, result, |_| String::new()),
        _ => print_list(out, format, &results, |_| String::new()),
    }
}

fn print_single(out: &mut dyn Write, format: Format, outcome: &Outcome) -> Result<(), CliError> {
    let Some(task) = outcome.finished.values().next() else { return Ok(()) };
    if format == Format::Table {
        return write_result(out, task).map(|_| ());
    }
    print_one(out, format, task, |_| String::new())
}

/// How it went, in one line.
fn summary(outcome: &Outcome, took: Duration) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for task in outcome.finished.values() {
        *counts.entry(crate::render::state_word(task.state())).or_default() += 1;
    }
    let counts: Vec<_> = counts.iter().map(|(state, count)| format!("{count} {}", state.to_lowercase())).collect();
    let rate = outcome.finished.len() as f64 / took.as_secs_f64().max(0.001);
    format!(
        "{} tasks in {:.1} s ({rate:.0}/s): {}",
        outcome.finished.len(),
        took.as_secs_f64(),
        if counts.is_empty() { "none finished".into() } else { counts.join(", ") }
    )
}
