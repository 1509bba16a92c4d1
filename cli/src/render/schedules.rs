//! Schedules for people.

use std::fmt::Write;

use jiff::Timestamp;
use robeing_client::is_finished;
use robeing_proto::v1::{
    MissedRuns, RemoveScheduleResponse, RunScheduleResponse, Schedule, ScheduleSpec, TaskSpec, schedule::Run,
};

use super::{
    resources::amounts_text,
    table::table,
    words::{age, between, camel, instant, moment, preview, printable, short_duration, state_word},
};

/// The time zone of a schedule without one.
const UTC: &str = "UTC";

fn zone(spec: &ScheduleSpec) -> &str {
    if spec.time_zone.is_empty() { UTC } else { &spec.time_zone }
}

/// Formats when a schedule is due next, for a list.
fn next(schedule: &Schedule, spec: &ScheduleSpec, now: Timestamp) -> String {
    match instant(schedule.next.as_ref()) {
        _ if spec.suspended => "suspended".into(),
        None => "never".into(),
        Some(next) if next > now => format!("in {}", short_duration(between(now, next))),
        Some(_) => "due".into(),
    }
}

fn active(schedule: &Schedule) -> usize {
    schedule.runs.iter().filter(|run| !is_finished(run.state()) && run.ended_at.is_none()).count()
}

/// Formats the list of `robeing schedule list`.
pub fn schedules_table(schedules: &[Schedule], now: Timestamp) -> String {
    if schedules.is_empty() {
        return "no schedules\n".into();
    }
    table(
        ["NAME", "CRON", "ZONE", "KIND", "NEXT", "LAST", "STATE", "ACTIVE", "SET BY"],
        schedules.iter().map(|schedule| {
            let spec = schedule.spec.clone().unwrap_or_default();
            let last = schedule.runs.last();
            [
                schedule.name.clone(),
                spec.cron.clone(),
                zone(&spec).to_owned(),
                spec.task.as_ref().map(|task| task.kind.clone()).unwrap_or_default(),
                next(schedule, &spec, now),
                age(last.and_then(|run| run.started_at.as_ref()), now),
                last.map(|run| state_word(run.state())).unwrap_or_default(),
                active(schedule).to_string(),
                set_by(schedule),
            ]
        }),
    )
}

fn set_by(schedule: &Schedule) -> String {
    if schedule.managed { "the RobeingCluster".into() } else { schedule.set_by.clone() }
}

/// Formats one schedule in full, with its runs.
pub fn schedule_text(schedule: &Schedule, now: Timestamp) -> String {
    let spec = schedule.spec.clone().unwrap_or_default();
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{:<16}{}", format!("{name}:"), printable(&value));
        }
    };
    line("Name", schedule.name.clone());
    line("Due", format!("{} in {}", spec.cron, zone(&spec)));
    line("Next", if spec.suspended { "suspended".into() } else { moment(schedule.next.as_ref(), now) });
    line("Missed", missed(&spec));
    line("Concurrency", camel(spec.concurrency().as_str_name(), "CONCURRENCY_POLICY_"));
    line("Task", spec.task.as_ref().map(task).unwrap_or_default());
    line("Input", spec.task.as_ref().map(|task| preview(&task.input)).unwrap_or_default());
    line("Set", format!("{} by {}", moment(schedule.changed_at.as_ref(), now), set_by(schedule)));
    line("Runs", totals(schedule));
    line("Last success", moment(schedule.last_success.as_ref(), now));
    if !schedule.problem.is_empty() {
        line("Not started", format!("due {}: {}", moment(schedule.problem_due.as_ref(), now), schedule.problem));
    }
    if !schedule.runs.is_empty() {
        text.push('\n');
        text.push_str(&runs_table(&schedule.runs, now));
    }
    text
}

fn missed(spec: &ScheduleSpec) -> String {
    let mut text = camel(spec.missed().as_str_name(), "MISSED_RUNS_");
    if spec.missed_limit > 0 && spec.missed() == MissedRuns::All {
        let _ = write!(text, ", at most {}", spec.missed_limit);
    }
    if let Some(within) = spec.start_within.and_then(|within| std::time::Duration::try_from(within).ok()) {
        let _ = write!(text, ", within {}", short_duration(within));
    }
    text
}

fn task(task: &TaskSpec) -> String {
    let mut text = format!("{}, priority {}", task.kind, task.priority);
    if task.slots > 1 {
        let _ = write!(text, ", {} slots", task.slots);
    }
    let needed = amounts_text(task.resources.as_ref());
    if !needed.is_empty() {
        let _ = write!(text, ", {needed}");
    }
    if !task.team.is_empty() {
        let _ = write!(text, ", team {}", task.team);
    }
    text
}

fn totals(schedule: &Schedule) -> String {
    let totals = schedule.totals.unwrap_or_default();
    format!(
        "{} started: {} succeeded, {} did not, {} active; {} missed, {} skipped, {} refused",
        totals.started,
        totals.succeeded,
        totals.unsuccessful,
        active(schedule),
        totals.missed,
        totals.busy,
        totals.refused
    )
}

fn runs_table(runs: &[Run], now: Timestamp) -> String {
    table(
        ["DUE", "TASK", "STATE", "STARTED", "TOOK", "BY"],
        runs.iter().rev().map(|run| {
            let (started, ended) = (instant(run.started_at.as_ref()), instant(run.ended_at.as_ref()));
            [
                instant(run.due.as_ref()).map(|due| format!("{due:.0}")).unwrap_or_default(),
                run.task_id.clone(),
                state_word(run.state()),
                started.map(|started| format!("{} ago", short_duration(between(started, now)))).unwrap_or_default(),
                started.zip(ended).map(|(from, to)| short_duration(between(from, to))).unwrap_or_default(),
                if run.by_hand { "hand" } else { "schedule" }.to_owned(),
            ]
        }),
    )
}

/// Formats the answer of `robeing schedule run`: the id of the task.
pub fn run_text(started: &RunScheduleResponse) -> String {
    format!("{}\n", printable(&started.task_id))
}

/// Formats the answer of `robeing schedule remove`.
pub fn removed_text(name: &str, response: &RemoveScheduleResponse) -> String {
    if response.removed { format!("removed {name}\n") } else { format!("there is no schedule {name:?}\n") }
}

#[cfg(test)]
mod tests {
    use prost_types::{Duration, Timestamp as Time};
    use robeing_proto::v1::{ConcurrencyPolicy, TaskState, schedule::Totals};

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn schedule() -> Schedule {
        let at = |seconds: i64| Some(Time { seconds: NOW + seconds, nanos: 0 });
        let run = |due: i64, state: TaskState, ended: Option<i64>| Run {
            due: at(due),
            task_id: format!("task{due}"),
            started_at: at(due),
            ended_at: ended.and_then(at),
            state: state.into(),
            by_hand: ended.is_none(),
        };
        let task = TaskSpec { kind: "report".into(), priority: 5, input: "a\x1b[1m".into(), ..TaskSpec::default() };
        Schedule {
            name: "nightly".into(),
            spec: Some(ScheduleSpec {
                cron: "30 4 * * *".into(),
                missed: MissedRuns::All.into(),
                missed_limit: 3,
                start_within: Some(Duration { seconds: 3_600, nanos: 0 }),
                concurrency: ConcurrencyPolicy::Forbid.into(),
                task: Some(task),
                ..ScheduleSpec::default()
            }),
            set_by: "client:ada".into(),
            changed_at: at(-90),
            next: at(65),
            runs: vec![run(-60, TaskState::Succeeded, Some(-55)), run(-5, TaskState::Assigned, None)],
            totals: Some(Totals { started: 2, succeeded: 1, busy: 4, ..Totals::default() }),
            last_success: at(-60),
            problem: "an earlier run is not finished".into(),
            problem_due: at(-30),
            ..Schedule::default()
        }
    }

    fn now() -> Timestamp {
        Timestamp::new(NOW, 0).expect("a time")
    }

    #[test]
    fn a_schedule_is_shown_with_its_runs_newest_first() {
        let text = schedule_text(&schedule(), now());
        for line in [
            "Name:           nightly\n",
            "Due:            30 4 * * * in UTC\n",
            "Next:           2023-11-14T22:14:25.000Z (in 1m5s)\n",
            "Missed:         All, at most 3, within 1h\n",
            "Concurrency:    Forbid\n",
            "Task:           report, priority 5\n",
            "Input:          a [1m\n",
            "Runs:           2 started: 1 succeeded, 0 did not, 1 active; 0 missed, 4 skipped, 0 refused\n",
            "Not started:    due 2023-11-14T22:12:50.000Z (30s ago): an earlier run is not finished\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("2023-11-14T22:12:20Z   task-60   Succeeded   1m ago "), "{text}");
        assert!(last.ends_with("5.0s   schedule"), "{text}");
    }

    #[test]
    fn schedules_are_a_table() {
        let suspended = Some(ScheduleSpec { suspended: true, ..ScheduleSpec::default() });
        let text = schedules_table(&[schedule(), Schedule { spec: suspended, ..schedule() }], now());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("NAME ") && lines[0].contains(" ACTIVE   SET BY"), "{text}");
        assert!(lines[1].contains("   report   in 1m5s "), "{text}");
        assert!(lines[1].ends_with("   5.0s   Assigned   1        client:ada"), "{text}");
        assert!(lines[2].contains("   suspended   "), "{text}");
        assert_eq!(schedules_table(&[], now()), "no schedules\n");
    }

    #[test]
    fn when_it_is_due_next_is_told() {
        let shown = |next: Option<i64>| {
            let next = next.map(|seconds| Time { seconds: NOW + seconds, nanos: 0 });
            super::next(&Schedule { next, ..schedule() }, &ScheduleSpec::default(), now())
        };
        assert_eq!([shown(None), shown(Some(60)), shown(Some(0))], ["never", "in 1m", "due"]);
    }
}
