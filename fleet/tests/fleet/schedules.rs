//! Schedules: each moment is decided once, and what becomes of its run.

use bytes::Bytes;
use robeing_fleet::{
    AuditOutcome, Command, Concurrency, ControlCommand, Effect, FireSchedule, FleetConfig, MissedRuns, Refusal, Reply,
    Schedule, ScheduleCommand, ScheduleSpec, SetSchedule, Setter, SubmitTask, TaskId, TaskState, TeamId, known_version,
    limits::{DEFAULT_MISSED_RUNS, MAX_ACTIVE_RUNS, MAX_COUNTED_MISSED, MAX_KEPT_RUNS, MAX_PROBLEM_BYTES, MAX_TIME_MS},
};

use crate::fixture::{Trial, failure, retry, success, task, worker};

/// When the schedules of these tests are due first.
pub const DUE: u64 = 1_060_000;
/// How far the moments are apart at which they are due.
pub const APART: u64 = 60_000;

pub fn setter(name: &str) -> Setter {
    Setter { name: name.to_owned(), user: "ann".to_owned(), rights: vec!["submit".to_owned()] }
}

pub fn spec() -> ScheduleSpec {
    ScheduleSpec {
        cron: "* * * * *".to_owned(),
        time_zone: "Europe/Berlin".to_owned(),
        missed: MissedRuns::Latest,
        start_within: None,
        missed_limit: DEFAULT_MISSED_RUNS,
        concurrency: Concurrency::Allow,
        suspended: false,
        task: SubmitTask { id: TaskId::default(), retry: retry(1), ..task(0) },
    }
}

pub fn schedule(name: &str) -> SetSchedule {
    SetSchedule { name: name.to_owned(), spec: spec(), next: Some(DUE), managed: false, by: setter("client:ann") }
}

fn with(name: &str, concurrency: Concurrency) -> SetSchedule {
    SetSchedule { spec: ScheduleSpec { concurrency, ..spec() }, ..schedule(name) }
}

pub fn set(trial: &mut Trial, schedule: SetSchedule) -> Reply {
    trial.apply(Command::Schedule(ScheduleCommand::Set(Box::new(schedule))))
}

fn known<'a>(trial: &'a Trial, name: &str) -> &'a Schedule {
    match trial.fleet.schedule(name) {
        Some(schedule) => schedule,
        None => panic!("schedule {name} is not there"),
    }
}

/// Returns the firing of the moment at which a schedule is due.
fn firing(trial: &Trial, name: &str) -> FireSchedule {
    let schedule = known(trial, name);
    let due = schedule.next.expect("it is due");
    FireSchedule {
        schedule: schedule.seq,
        generation: schedule.generation,
        due,
        run_at: Some(due),
        next: Some(due + APART),
        missed: 0,
        input: None,
        problem: None,
    }
}

fn fire(trial: &mut Trial, fire: FireSchedule) -> Reply {
    trial.apply(Command::Schedule(ScheduleCommand::Fire(Box::new(fire))))
}

/// Waits until a schedule is due, fires it, and returns the task of the run.
fn fired(trial: &mut Trial, name: &str) -> Option<TaskId> {
    let firing = firing(trial, name);
    trial.now = trial.now.max(firing.due);
    match fire(trial, firing) {
        Reply::ScheduleFired { task, existing: false } => task,
        other => panic!("not fired: {other:?}"),
    }
}

fn started(trial: &mut Trial, name: &str) -> TaskId {
    fired(trial, name).expect("a run has started")
}

fn run(trial: &mut Trial, name: &str, id: u128) -> Reply {
    trial.apply(Command::Schedule(ScheduleCommand::Run { name: name.to_owned(), task: TaskId(id), input: None }))
}

fn suspend(trial: &mut Trial, name: &str, suspended: bool, next: u64) -> Reply {
    let (name, by) = (name.to_owned(), "client:ann".to_owned());
    let next = (next > 0).then_some(next);
    trial.apply(Command::Schedule(ScheduleCommand::Suspend { name, suspended, next, by }))
}

pub fn remove(trial: &mut Trial, name: &str, managed: bool) -> Reply {
    let (name, by) = (name.to_owned(), "client:ann".to_owned());
    trial.apply(Command::Schedule(ScheduleCommand::Remove { name, managed, by }))
}

pub fn refused(reply: Reply) -> Refusal {
    match reply {
        Reply::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// Returns a fleet with one schedule.
fn one(schedule: SetSchedule) -> Trial {
    let mut trial = Trial::newest();
    let next = schedule.next;
    assert_eq!(set(&mut trial, schedule), Reply::ScheduleSet { generation: 1, next });
    trial
}

#[test]
fn a_moment_is_decided_once_whatever_leads() {
    let mut trial = one(schedule("nightly"));
    let first = firing(&trial, "nightly");
    trial.now = DUE;
    let Reply::ScheduleFired { task: Some(id), existing: false } = fire(&mut trial, first.clone()) else {
        panic!("no run has started")
    };
    assert!(trial.effects.contains(&Effect::SchedulesChanged));
    let seq = known(&trial, "nightly").seq;
    // Another leader, or the same one again, computes the same, or something else.
    for again in [
        first.clone(),
        FireSchedule { next: Some(DUE + 1), ..first.clone() },
        FireSchedule { run_at: None, ..first.clone() },
    ] {
        assert_eq!(refused(fire(&mut trial, again)), Refusal::ScheduleMoved { schedule: seq });
    }
    let schedule = known(&trial, "nightly");
    assert_eq!((schedule.next, schedule.decided, schedule.totals.started), (Some(DUE + APART), DUE, 1));
    assert_eq!(trial.fleet.counts().queued, 1);
    let scheduled = trial.task(id).scheduled.as_ref().expect("it is a run");
    assert_eq!((scheduled.schedule.as_str(), scheduled.due), ("nightly", DUE));
    let unknown = FireSchedule { schedule: 99, ..first };
    assert_eq!(refused(fire(&mut trial, unknown)), Refusal::ScheduleMoved { schedule: 99 });
}

#[test]
fn what_was_computed_before_a_change_does_not_count() {
    let mut trial = one(schedule("nightly"));
    let before = firing(&trial, "nightly");
    let changed = SetSchedule {
        spec: ScheduleSpec { cron: "0 * * * *".to_owned(), ..spec() },
        next: Some(DUE),
        ..schedule("nightly")
    };
    assert_eq!(set(&mut trial, changed), Reply::ScheduleSet { generation: 2, next: Some(DUE) });
    trial.now = DUE;
    assert!(matches!(refused(fire(&mut trial, before)), Refusal::ScheduleMoved { .. }));
    started(&mut trial, "nightly");
}

#[test]
fn no_run_is_early_and_no_firing_contradicts_itself() {
    let mut trial = one(schedule("nightly"));
    let right = firing(&trial, "nightly");
    trial.now = DUE - 1;
    let early = refused(fire(&mut trial, right.clone()));
    assert!(early.to_string().contains("run_at: is 1060000, must be 1060000 to 1059999"), "{early}");
    trial.now = DUE + APART;
    for wrong in [
        FireSchedule { run_at: Some(DUE - 1), ..right.clone() },
        FireSchedule { run_at: Some(DUE + APART + 1), next: Some(DUE + 2 * APART), ..right.clone() },
        FireSchedule { next: Some(DUE), ..right.clone() },
        FireSchedule { next: Some(MAX_TIME_MS + 1), ..right.clone() },
        FireSchedule { run_at: None, next: Some(DUE), ..right.clone() },
        FireSchedule { missed: MAX_COUNTED_MISSED + 1, ..right.clone() },
    ] {
        assert!(matches!(refused(fire(&mut trial, wrong.clone())), Refusal::Invalid { .. }), "{wrong:?}");
    }
    assert_eq!(known(&trial, "nightly").next, Some(DUE));
    // The wall time decides, and not the fleet's.
    trial.wall_ahead = -(APART as i64) - 1;
    assert!(matches!(refused(fire(&mut trial, right.clone())), Refusal::Invalid { .. }));
    trial.wall_ahead = -(APART as i64);
    let right = FireSchedule { missed: MAX_COUNTED_MISSED, ..right };
    assert!(matches!(fire(&mut trial, right), Reply::ScheduleFired { task: Some(_), .. }));
}

#[test]
fn a_run_may_be_that_of_a_later_moment_and_others_are_missed() {
    let mut trial = one(schedule("nightly"));
    trial.now = DUE + 5 * APART;
    let latest = FireSchedule {
        run_at: Some(DUE + 5 * APART),
        next: Some(DUE + 6 * APART),
        missed: 5,
        ..firing(&trial, "nightly")
    };
    assert!(matches!(fire(&mut trial, latest), Reply::ScheduleFired { task: Some(_), .. }));
    let of_run = known(&trial, "nightly").last_run().expect("one has started").due;
    assert_eq!(of_run, DUE + 5 * APART);
    trial.now = DUE + 8 * APART;
    let problem = Some("no leader".repeat(200));
    let none =
        FireSchedule { run_at: None, missed: 2, next: Some(DUE + 8 * APART), problem, ..firing(&trial, "nightly") };
    assert_eq!(fire(&mut trial, none), Reply::ScheduleFired { task: None, existing: false });
    let schedule = known(&trial, "nightly");
    assert_eq!((schedule.totals.missed, schedule.totals.started), (7, 1));
    let problem = schedule.problem.as_ref().expect("why");
    assert_eq!((problem.due, problem.reason.len()), (DUE + 6 * APART, MAX_PROBLEM_BYTES));
}

#[test]
fn while_an_earlier_run_is_not_finished_another_one_starts_is_skipped_or_replaces_it() {
    let mut trial = one(with("allow", Concurrency::Allow));
    set(&mut trial, with("forbid", Concurrency::Forbid));
    set(&mut trial, with("replace", Concurrency::Replace));
    let first = ["allow", "forbid", "replace"].map(|name| started(&mut trial, name));
    let allowed = started(&mut trial, "allow");
    assert_eq!((trial.state(first[0]), trial.state(allowed)), (TaskState::Queued, TaskState::Queued));
    assert_eq!(fired(&mut trial, "forbid"), None);
    let forbid = known(&trial, "forbid");
    assert_eq!((forbid.totals.busy, forbid.next), (1, Some(DUE + 2 * APART)));
    let reason = &forbid.problem.as_ref().expect("why").reason;
    assert_eq!(*reason, format!("task {} of an earlier run was not finished", first[1]));
    let replacing = started(&mut trial, "replace");
    assert_eq!((trial.state(first[2]), trial.state(replacing)), (TaskState::Cancelled, TaskState::Queued));
    let why = trial.task(first[2]).cancel_reason.as_deref();
    assert_eq!(why, Some("replaced by the next run of schedule replace"));
    let replaced = known(&trial, "replace").totals;
    assert_eq!((replaced.started, replaced.unsuccessful), (2, 1));
    trial.cancel(first[1]);
    started(&mut trial, "forbid");
}

#[test]
fn how_runs_end_is_counted_and_the_newest_are_kept() {
    let mut trial = one(schedule("nightly"));
    let stay = trial.join(worker("a"));
    for n in 0..MAX_KEPT_RUNS as u64 + 3 {
        let id = started(&mut trial, "nightly");
        let outcome = if n % 2 == 0 { success() } else { failure(false) };
        trial.complete(stay, id, 1, outcome);
    }
    let schedule = known(&trial, "nightly");
    assert_eq!(schedule.runs.len(), MAX_KEPT_RUNS);
    assert_eq!(schedule.runs[0].due, DUE + 3 * APART, "the oldest are dropped");
    assert_eq!((schedule.totals.started, schedule.totals.succeeded, schedule.totals.unsuccessful), (13, 7, 6));
    assert_eq!(schedule.last_success, Some(DUE + 12 * APART));
    let end = schedule.last_run().and_then(|run| run.end).expect("it has ended");
    assert_eq!((end.state, end.at.fleet), (TaskState::Succeeded, trial.now));
}

#[test]
fn runs_that_are_not_finished_are_kept_and_bounded() {
    let mut trial = Trial::newest();
    let often = SetSchedule { spec: ScheduleSpec { concurrency: Concurrency::Allow, ..spec() }, ..schedule("often") };
    set(&mut trial, often);
    let first = started(&mut trial, "often");
    for _ in 1..MAX_ACTIVE_RUNS {
        started(&mut trial, "often");
    }
    assert_eq!(fired(&mut trial, "often"), None, "there are as many as there may be");
    assert_eq!((known(&trial, "often").runs.len(), known(&trial, "often").totals.busy), (MAX_ACTIVE_RUNS, 1));
    assert!(matches!(refused(run(&mut trial, "often", 7)), Refusal::ScheduleBusy { task, .. } if task == first));
    trial.cancel(first);
    started(&mut trial, "often");
    assert_eq!(trial.fleet.active_runs(known(&trial, "often")).len(), MAX_ACTIVE_RUNS);
}

#[test]
fn a_run_for_which_there_is_no_room_may_start_later() {
    let mut trial = Trial::with(FleetConfig { max_queued: 1, ..FleetConfig::default() });
    trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    set(&mut trial, with("nightly", Concurrency::Replace));
    let other = trial.submit(task(1));
    let firing = firing(&trial, "nightly");
    trial.now = DUE;
    let refusal = refused(fire(&mut trial, firing.clone()));
    assert!(refusal.is_for_want_of_room() && matches!(refusal, Refusal::QueueFull { .. }), "{refusal}");
    assert_eq!(known(&trial, "nightly").next, Some(DUE), "nothing is decided");
    trial.cancel(other);
    assert!(matches!(fire(&mut trial, firing), Reply::ScheduleFired { task: Some(_), .. }));
}

#[test]
fn a_run_that_is_refused_whatever_room_there_is_is_decided() {
    let of_team = SubmitTask { team: Some(TeamId(7)), ..spec().task };
    let mut trial = one(SetSchedule { spec: ScheduleSpec { task: of_team, ..spec() }, ..schedule("nightly") });
    assert_eq!(fired(&mut trial, "nightly"), None);
    let found = known(&trial, "nightly");
    assert_eq!((found.totals.refused, found.next), (1, Some(DUE + APART)));
    let reason = &found.problem.as_ref().expect("why").reason;
    assert!(reason.starts_with("no team "), "{reason}");
    // A policy that the leader has asked may refuse it as well, or redact its input.
    let mut trial = one(schedule("nightly"));
    trial.now = DUE;
    let denied = FireSchedule { problem: Some("denied".to_owned()), ..firing(&trial, "nightly") };
    assert_eq!(fire(&mut trial, denied), Reply::ScheduleFired { task: None, existing: false });
    assert_eq!(known(&trial, "nightly").totals.refused, 1);
    trial.now += APART;
    let redacted = FireSchedule { input: Some(Bytes::from_static(b"***")), ..firing(&trial, "nightly") };
    let Reply::ScheduleFired { task: Some(id), .. } = fire(&mut trial, redacted) else { panic!("it has started") };
    assert_eq!(trial.task(id).input, Bytes::from_static(b"***"));
}

#[test]
fn a_run_is_started_by_hand_once_and_changes_nothing_of_when_it_is_due() {
    let mut trial = one(with("nightly", Concurrency::Forbid));
    let task = TaskId(7);
    assert_eq!(run(&mut trial, "nightly", 7), Reply::ScheduleFired { task: Some(task), existing: false });
    assert_eq!(run(&mut trial, "nightly", 7), Reply::ScheduleFired { task: Some(task), existing: true });
    assert_eq!(
        refused(run(&mut trial, "nightly", 8)),
        Refusal::ScheduleBusy { name: "nightly".to_owned(), task },
        "the same rule as for others"
    );
    let schedule = known(&trial, "nightly");
    assert_eq!((schedule.next, schedule.decided, schedule.totals.started), (Some(DUE), 0, 1));
    assert!(schedule.last_run().is_some_and(|run| run.by_hand && run.due == trial.now));
    trial.cancel(task);
    trial.submit(crate::fixture::task(9));
    let taken = refused(run(&mut trial, "nightly", 9));
    assert_eq!(taken, Refusal::Conflict { what: "the id".to_owned(), task: TaskId(9) });
    assert_eq!(refused(run(&mut trial, "other", 9)), Refusal::UnknownSchedule { name: "other".to_owned() });
    suspend(&mut trial, "nightly", true, DUE);
    assert!(
        matches!(run(&mut trial, "nightly", 10), Reply::ScheduleFired { existing: false, .. }),
        "also if suspended"
    );
}

#[test]
fn setting_the_same_again_changes_nothing_and_what_is_not_about_time_keeps_when_it_is_due() {
    let mut trial = one(schedule("nightly"));
    let revision = trial.fleet.revision();
    let later = SetSchedule { next: Some(DUE + 7), by: setter("client:bob"), ..schedule("nightly") };
    let same = Reply::ScheduleSet { generation: 1, next: Some(DUE) };
    assert_eq!((set(&mut trial, later.clone()), trial.fleet.revision()), (same, revision));
    let other_input = SubmitTask { input: Bytes::from_static(b"3"), ..spec().task };
    let other = SetSchedule { spec: ScheduleSpec { task: other_input, ..spec() }, ..later.clone() };
    assert_eq!(set(&mut trial, other), Reply::ScheduleSet { generation: 2, next: Some(DUE) });
    assert_eq!(known(&trial, "nightly").set_by.name, "client:bob");
    let zone = SetSchedule { spec: ScheduleSpec { time_zone: String::new(), ..spec() }, ..later };
    assert_eq!(set(&mut trial, zone), Reply::ScheduleSet { generation: 3, next: Some(DUE + 7) });
    let records = trial.fleet.audit_records(0, 10).map(|record| (record.action.as_str(), record.outcome));
    assert_eq!(records.collect::<Vec<_>>(), [("schedule.set", AuditOutcome::Done); 3]);
}

#[test]
fn after_a_change_nothing_is_due_that_was_decided_before() {
    let mut trial = one(schedule("nightly"));
    started(&mut trial, "nightly");
    let seq = known(&trial, "nightly").seq;
    let changed = |next| SetSchedule {
        spec: ScheduleSpec { cron: "*/2 * * * *".to_owned(), ..spec() },
        next: Some(next),
        ..schedule("nightly")
    };
    // The clock has gone back meanwhile.
    assert_eq!(refused(set(&mut trial, changed(DUE))), Refusal::ScheduleMoved { schedule: seq });
    assert_eq!(set(&mut trial, changed(DUE + 1)), Reply::ScheduleSet { generation: 2, next: Some(DUE + 1) });
    assert_eq!(suspend(&mut trial, "nightly", true, 0), Reply::ScheduleSet { generation: 3, next: None });
    assert_eq!(refused(suspend(&mut trial, "nightly", false, DUE)), Refusal::ScheduleMoved { schedule: seq });
    assert_eq!(
        suspend(&mut trial, "nightly", false, DUE + 1),
        Reply::ScheduleSet { generation: 4, next: Some(DUE + 1) }
    );
}

#[test]
fn nothing_is_due_while_a_schedule_is_suspended() {
    let mut trial = one(schedule("nightly"));
    let before = firing(&trial, "nightly");
    suspend(&mut trial, "nightly", true, 0);
    assert_eq!(trial.fleet.due_schedules().count(), 0);
    trial.now = DUE + APART;
    assert!(matches!(refused(fire(&mut trial, before)), Refusal::ScheduleMoved { .. }));
    // It is no change to suspend it again, and setting it as it was lets it go on.
    assert_eq!(suspend(&mut trial, "nightly", true, 0), Reply::ScheduleSet { generation: 2, next: None });
    let next = Some(DUE + 2 * APART);
    assert_eq!(
        set(&mut trial, SetSchedule { next, ..schedule("nightly") }),
        Reply::ScheduleSet { generation: 3, next }
    );
    assert_eq!(trial.fleet.due_schedules().map(|(due, _)| Some(due)).collect::<Vec<_>>(), [next]);
}

#[test]
fn what_is_a_part_of_the_resource_is_changed_there_alone() {
    let mut trial = one(schedule("own"));
    set(&mut trial, schedule("nightly"));
    let managed = SetSchedule { managed: true, ..schedule("nightly") };
    assert_eq!(
        set(&mut trial, managed.clone()),
        Reply::ScheduleSet { generation: 2, next: Some(DUE) },
        "it is taken over"
    );
    let counts = trial.fleet.schedule_counts();
    assert_eq!((counts.kept, counts.managed), (2, 1));
    let is_managed = Refusal::ScheduleManaged { name: "nightly".to_owned() };
    assert_eq!(refused(set(&mut trial, schedule("nightly"))), is_managed);
    assert_eq!(refused(suspend(&mut trial, "nightly", true, 0)), is_managed);
    assert_eq!(refused(remove(&mut trial, "nightly", false)), is_managed);
    assert!(matches!(run(&mut trial, "nightly", 7), Reply::ScheduleFired { .. }), "a run may be started");
    assert_eq!(refused(remove(&mut trial, "own", true)), Refusal::UnknownSchedule { name: "own".to_owned() });
    assert_eq!(remove(&mut trial, "nightly", true), Reply::Done);
    assert_eq!(trial.fleet.schedules_after("", 10).len(), 1);
}

#[test]
fn the_runs_of_a_schedule_that_is_removed_go_on() {
    let mut trial = one(schedule("nightly"));
    let id = started(&mut trial, "nightly");
    assert_eq!(remove(&mut trial, "nightly", false), Reply::Done);
    assert_eq!((trial.state(id), trial.fleet.schedule("nightly")), (TaskState::Queued, None));
    trial.cancel(id);
    // Another one of its name is another one: its runs are others, also at the same moments.
    set(&mut trial, schedule("nightly"));
    assert_ne!(started(&mut trial, "nightly"), id);
    assert_eq!(refused(remove(&mut trial, "other", false)), Refusal::UnknownSchedule { name: "other".to_owned() });
}

#[test]
fn the_id_of_a_run_follows_from_the_schedule_and_the_moment_and_nobody_can_take_it_away() {
    let ids = || {
        let mut trial = one(schedule("a"));
        set(&mut trial, schedule("b"));
        [started(&mut trial, "a"), started(&mut trial, "b"), started(&mut trial, "a")]
    };
    let [first, other, second] = ids();
    assert_eq!(ids(), [first, other, second]);
    assert!(first != other && first != second && other != second);
    let mut trial = one(schedule("a"));
    trial.submit(SubmitTask { id: first, ..task(1) });
    let instead = started(&mut trial, "a");
    assert_ne!(instead, first, "the run has another id");
    assert!(trial.task(instead).scheduled.is_some() && trial.task(first).scheduled.is_none());
}
