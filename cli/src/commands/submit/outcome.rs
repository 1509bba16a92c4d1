//! The outcome of submitted tasks, and how it is printed.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt,
    io::{self, IsTerminal, Write},
    rc::Rc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use robeing_blobs::BlobStore;
use robeing_client::{FleetClient, SubmitEvent};
use robeing_proto::v1::{Refusal, SubmitResult, Task, TaskState};

use super::{
    super::{
        store::fetch_output,
        tasks::{why_lost, write_result},
    },
    MANY, NAMED_UNFINISHED, TOLD_REFUSALS, UNSENT,
};
use crate::{
    args::{Format, SubmitArgs},
    error::CliError,
    exit::Exit,
    render::{note, plural, print_list, print_one, results_table, short_duration, state_in_sentence, stored_text},
};

/// Maximum number of results that are gone of which the fleet is asked why, one after the other.
const MOST_ASKED: usize = 100;

/// Fetches the output of a task that has ended and is to be written, if it is in the object store.
///
/// # Errors
/// If it can't be fetched, or there is no store; the message says how to fetch it.
pub(super) async fn fetch_result(store: Option<&BlobStore>, task: &mut Task) -> Result<(), CliError> {
    fetch_output(store, task).await.inspect_err(|_| {
        note(&format!(
            "task {0} has succeeded; `robeing task {0} --result` with the same --object-store fetches its result",
            task.id
        ));
    })?;
    match &task.output_ref {
        None => Ok(()),
        Some(stored) => Err(CliError::Usage(format!(
            "task {} has succeeded, and its result has {}; fetch it by `robeing task {} --result --object-store URL`",
            task.id,
            stored_text(stored),
            task.id
        ))),
    }
}

/// The state of the tasks, by their index in the input.
pub(super) struct Outcome {
    /// The ids that were generated for the tasks.
    ids: Vec<String>,
    wait: bool,
    /// How many tasks may have been sent; they are the first ones.
    pub(super) drawn: Rc<Cell<usize>>,
    /// How many of them the fleet certainly did not take.
    untaken: usize,
    pub(super) submitted: BTreeMap<usize, SubmitResult>,
    finished: BTreeMap<usize, Task>,
    expired: BTreeMap<usize, String>,
    /// Why no coordinator can read the results of some of these, by the tasks' ids.
    lost: BTreeMap<String, String>,
    refused: usize,
    pub(super) bar: ProgressBar,
}

impl Outcome {
    pub(super) fn new(ids: Vec<String>, wait: bool) -> Self {
        let bar = if ids.len() >= MANY && io::stderr().is_terminal() {
            ProgressBar::new(ids.len() as u64).with_style(bar_style())
        } else {
            ProgressBar::hidden()
        };
        Self {
            ids,
            wait,
            drawn: Rc::default(),
            untaken: 0,
            submitted: BTreeMap::new(),
            finished: BTreeMap::new(),
            expired: BTreeMap::new(),
            lost: BTreeMap::new(),
            refused: 0,
            bar,
        }
    }

    /// Fetches the output of a single task that is to be written and is in the object store.
    pub(super) async fn fetch(&mut self, args: &SubmitArgs, store: Option<&BlobStore>) -> Result<(), CliError> {
        let is_written = args.wait && args.inputs.is_none() && args.tasks.is_none();
        let single = self.finished.values_mut().next();
        let Some(task) = single.filter(|_| is_written && args.output.output == Format::Table) else { return Ok(()) };
        fetch_result(store, task).await
    }

    /// Asks the fleet which of the results that are gone have not expired, but can't be read: of the first [`MOST_ASKED`].
    /// Those after them count as expired, and so do the others if it does not answer.
    pub(super) async fn find_lost(&mut self, client: &FleetClient) {
        for id in self.asked() {
            match why_lost(client, &id).await {
                Ok(Some(problem)) => drop(self.lost.insert(id, problem)),
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }

    /// Returns the tasks of which the fleet is asked why their results are gone.
    fn asked(&self) -> Vec<String> {
        self.expired.values().take(MOST_ASKED).cloned().collect()
    }

    /// Returns a sentence about each task whose result is gone.
    fn gone(&self) -> impl Iterator<Item = String> {
        self.expired.values().map(|id| match self.lost.get(id) {
            Some(problem) => format!("task {id} finished, but {problem}"),
            None => format!("task {id} finished, but its result expired before it was read"),
        })
    }

    pub(super) fn total(&self) -> usize {
        self.ids.len()
    }

    /// Returns the number of tasks that need no further updates.
    pub(super) fn ended(&self) -> usize {
        if self.wait { self.finished.len() + self.expired.len() + self.refused } else { self.submitted.len() }
    }

    pub(super) fn take(&mut self, event: SubmitEvent) {
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
            SubmitEvent::Expired { index, task_id } => {
                self.expired.insert(index, task_id);
            }
            SubmitEvent::NotTaken { .. } => self.untaken += 1,
        }
        self.bar.set_position(self.ended() as u64);
    }

    /// Describes the tasks that have not finished, for a submission that ends early.
    pub(super) fn standing(&self) -> String {
        let (total, drawn) = (self.total(), self.drawn.get().saturating_sub(self.untaken));
        if drawn == 0 {
            return UNSENT.into();
        }
        let has_ended = |index: &usize| self.finished.contains_key(index) || self.expired.contains_key(index);
        let accepted = self.submitted.iter().filter(|(index, result)| result.refusal.is_none() && !has_ended(index));
        let going: Vec<&str> = accepted.map(|(_, result)| result.task_id.as_str()).collect();
        let unknown = drawn.saturating_sub(self.submitted.len());
        match (&self.ids[..], &going[..]) {
            ([_], [id]) => return format!("task {id} was accepted and continues: `robeing task {id}` shows it"),
            ([id], []) if unknown > 0 => {
                return format!("whether task {id} was accepted is not known: check with `robeing task {id}`");
            }
            _ => {}
        }
        let mut known = Vec::new();
        if !going.is_empty() {
            let verbs = if going.len() == 1 { "was accepted and continues" } else { "were accepted and continue" };
            known.push(format!("{} {verbs}", going.len()));
        }
        if unknown > 0 {
            known.push(format!("{unknown} may or may not have been accepted"));
        }
        if drawn < total {
            let unsent = total - drawn;
            known.push(format!("{unsent} {} not submitted", if unsent == 1 { "was" } else { "were" }));
        }
        if known.is_empty() {
            return "all have ended".into();
        }
        let mut standing = format!("of {}, {}", plural(total, "task"), known.join(", "));
        // Without --wait, the ids are already printed as output.
        if self.wait && !going.is_empty() {
            let named = &going[..going.len().min(NAMED_UNFINISHED)];
            standing.push_str(&format!("; `robeing task ID` shows one that continues:\n  {}", named.join("\n  ")));
            if going.len() > named.len() {
                standing.push_str(&format!("\n  … and {} more", going.len() - named.len()));
            }
        }
        standing
    }

    /// Returns the ids of tasks whose key was already known, which differ from the generated ids.
    pub(super) fn known(&self) -> Vec<&str> {
        let is_known = |index: usize, result: &SubmitResult| {
            result.refusal.is_none() && self.ids.get(index).is_some_and(|id| *id != result.task_id)
        };
        let known = self.submitted.iter().filter(|(index, result)| is_known(**index, result));
        known.map(|(_, result)| result.task_id.as_str()).collect()
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
    ProgressStyle::with_template("{wide_bar} {pos}/{len} tasks, {rate}, {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
            // A failure to draw the bar is no reason to stop.
            let _ = write!(out, "{:.0}/s", state.per_sec());
        })
}

/// Prints the outcome. A broken pipe does not change the exit code, so a failed task is reported even if nobody reads
/// the output.
pub(super) fn print(
    out: &mut dyn Write,
    args: &SubmitArgs,
    outcome: &Outcome,
    began: Instant,
) -> Result<Exit, CliError> {
    CliError::if_read(print_outcome(out, args, outcome, began), outcome.exit())
}

fn print_outcome(out: &mut dyn Write, args: &SubmitArgs, outcome: &Outcome, began: Instant) -> Result<(), CliError> {
    if outcome.refused > TOLD_REFUSALS {
        note(&format!("… and {} more were refused", outcome.refused - TOLD_REFUSALS));
    }
    outcome.gone().for_each(|sentence| note(&sentence));
    let single = args.inputs.is_none() && args.tasks.is_none();
    match (args.wait, single) {
        (false, _) => print_submitted(out, args.output.output, outcome, single),
        (true, true) => print_single(out, args.output.output, outcome),
        (true, false) => {
            let tasks: Vec<Task> = outcome.finished.values().cloned().collect();
            let printed = print_list(out, args.output.output, &tasks, results_table);
            note(&summary(outcome, began.elapsed()));
            printed
        }
    }
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

/// Summarizes the outcome in one line.
fn summary(outcome: &Outcome, took: Duration) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for task in outcome.finished.values() {
        *counts.entry(state_in_sentence(task.state())).or_default() += 1;
    }
    let counts: Vec<_> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let rate = outcome.finished.len() as f64 / took.as_secs_f64().max(0.001);
    format!(
        "{} in {} ({rate:.0}/s): {}",
        plural(outcome.finished.len(), "task"),
        short_duration(took),
        if counts.is_empty() { "none finished".into() } else { counts.join(", ") }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        Task { kind: "k".into(), ..Default::default() }
    }

    /// Returns an outcome with this many tasks drawn, accepted and ended, each starting from the first.
    fn outcome(total: usize, wait: bool, drawn: usize, accepted: usize, ended: usize) -> Outcome {
        let mut outcome = Outcome::new((0..total).map(|index| format!("id-{index}")).collect(), wait);
        outcome.drawn.set(drawn);
        for index in 0..accepted {
            let result = SubmitResult { task_id: format!("id-{index}"), ..Default::default() };
            outcome.take(SubmitEvent::Submitted { index, result });
        }
        for index in 0..ended {
            outcome.take(SubmitEvent::Finished { index, task: Box::new(task()) });
        }
        outcome
    }

    #[test]
    fn what_is_known_before_the_end_is_told() {
        let standing = |total, wait, drawn, accepted, ended| outcome(total, wait, drawn, accepted, ended).standing();
        assert_eq!(standing(1, true, 0, 0, 0), "nothing was submitted");
        assert_eq!(standing(1, true, 1, 1, 0), "task id-0 was accepted and continues: `robeing task id-0` shows it");
        assert_eq!(
            standing(1, false, 1, 0, 0),
            "whether task id-0 was accepted is not known: check with `robeing task id-0`"
        );
        assert_eq!(
            standing(60_000, false, 4_096, 3_072, 0),
            "of 60000 tasks, 3072 were accepted and continue, 1024 may or may not have been accepted, 55904 were not submitted"
        );
        assert_eq!(standing(3, true, 3, 3, 3), "all have ended");
        let mut refused = outcome(3, false, 3, 0, 0);
        (0..3).for_each(|index| refused.take(SubmitEvent::NotTaken { index }));
        assert_eq!(refused.standing(), "nothing was submitted", "the caller may not submit");
        insta::assert_snapshot!(standing(3, true, 2, 2, 1), @"
        of 3 tasks, 1 was accepted and continues, 1 was not submitted; `robeing task ID` shows one that continues:
          id-1
        ");
        let many = standing(20, true, 20, 20, 1);
        assert!(many.starts_with("of 20 tasks, 19 were accepted and continue; `robeing task ID` shows one"), "{many}");
        assert!(many.ends_with("\n  id-9\n  id-10\n  … and 9 more"), "{many}");
    }

    #[test]
    fn a_result_that_no_coordinator_can_read_is_told_from_one_that_expired() {
        let mut outcome = outcome(2, true, 2, 2, 0);
        for index in [0, 1] {
            outcome.take(SubmitEvent::Expired { index, task_id: format!("id-{index}") });
        }
        outcome.lost.insert("id-1".into(), "the result of task id-1 can't be read".into());
        let gone: Vec<String> = outcome.gone().collect();
        assert_eq!(gone[0], "task id-0 finished, but its result expired before it was read");
        assert_eq!(gone[1], "task id-1 finished, but the result of task id-1 can't be read");
        assert_eq!(outcome.exit(), Exit::TaskFailed);
    }

    #[test]
    fn of_many_results_that_are_gone_the_fleet_is_asked_about_the_first_ones() {
        for (gone, asked) in [(0, 0), (MOST_ASKED, MOST_ASKED), (MOST_ASKED + 1, MOST_ASKED)] {
            let mut outcome = outcome(gone, true, gone, gone, 0);
            for index in 0..gone {
                outcome.take(SubmitEvent::Expired { index, task_id: format!("id-{index}") });
            }
            assert_eq!((outcome.asked().len(), outcome.gone().count()), (asked, gone));
        }
    }

    /// A writer whose reader is gone.
    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_failure_is_one_also_where_nobody_reads_of_it() {
        for (flags, total) in [(&["-o", "json"][..], 1), (&["-o", "yaml", "--inputs", "-"], 2), (&["--inputs", "-"], 2)]
        {
            let line = [&["robeing", "submit", "--kind", "k", "--wait"], flags].concat();
            let line: Vec<std::ffi::OsString> = line.into_iter().map(Into::into).collect();
            let cli = crate::args::parse(&line).unwrap_or_else(|error| panic!("{error}"));
            let crate::args::Command::Submit(args) = cli.command else { panic!("another command") };
            let mut outcome = outcome(total, true, total, total, 0);
            let failed = Task { state: TaskState::Failed.into(), ..task() };
            outcome.take(SubmitEvent::Finished { index: 0, task: Box::new(failed) });
            let exit = print(&mut Gone, &args, &outcome, Instant::now()).expect("it is known");
            assert_eq!(exit, Exit::TaskFailed, "{flags:?}");
        }
    }

    #[test]
    fn the_summary_counts_in_words() {
        let mut outcome = Outcome::new(vec!["a".into()], true);
        let finished = Task { state: TaskState::DeadLettered.into(), ..task() };
        outcome.finished.insert(0, finished);
        assert_eq!(summary(&outcome, Duration::from_micros(500_400)), "1 task in 500ms (2/s): 1 dead-lettered");
    }
}
