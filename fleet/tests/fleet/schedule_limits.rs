//! The bounds of schedules, and their bytes.

use robeing_fleet::{
    Command, ControlCommand, MissedRuns, Refusal, Reply, ScheduleCommand, ScheduleSpec, SetSchedule, SubmitTask,
    TaskId,
    limits::{
        MAX_CRON_BYTES, MAX_MISSED_RUNS, MAX_SCHEDULE_INPUT_BYTES, MAX_SCHEDULE_NAME_BYTES, MAX_SCHEDULES, MAX_TIME_MS,
        MAX_ZONE_BYTES,
    },
};

use crate::{
    codec::{hex, stable},
    fixture::{Trial, success, task, to_approve, worker},
    schedule_samples::schedule_commands,
    schedules::{DUE, refused, remove, schedule, set, spec},
};

/// Makes something of a schedule wrong.
type Change = fn(&mut ScheduleSpec);

#[test]
fn what_is_out_of_bounds_is_refused_with_its_field() {
    let in_spec = |change: &dyn Fn(&mut ScheduleSpec)| {
        let mut set = schedule("nightly");
        change(&mut set.spec);
        set.check().map_err(|refusal| refusal.to_string())
    };
    assert_eq!(in_spec(&|_| {}), Ok(()));
    assert_eq!(in_spec(&|spec| spec.cron = "*".repeat(MAX_CRON_BYTES)), Ok(()), "it is not read here");
    assert_eq!(in_spec(&|spec| spec.task.input = vec![0; MAX_SCHEDULE_INPUT_BYTES].into()), Ok(()));
    assert_eq!(in_spec(&|spec| spec.missed_limit = MAX_MISSED_RUNS), Ok(()));
    let wrong: [(&str, Change); 13] = [
        ("cron", |spec| spec.cron.clear()),
        ("cron", |spec| spec.cron = "*".repeat(MAX_CRON_BYTES + 1)),
        ("time_zone", |spec| spec.time_zone = "x".repeat(MAX_ZONE_BYTES + 1)),
        ("start_within", |spec| spec.start_within = Some(0)),
        ("missed_limit", |spec| spec.missed_limit = 0),
        ("missed_limit", |spec| spec.missed_limit = MAX_MISSED_RUNS + 1),
        ("kind", |spec| spec.task.kind.clear()),
        ("task.input", |spec| spec.task.input = vec![0; MAX_SCHEDULE_INPUT_BYTES + 1].into()),
        ("task.id", |spec| spec.task = to_approve(1)),
        ("task.idempotency_key", |spec| spec.task.idempotency_key = Some("k".to_owned())),
        ("task.requires_approval", |spec| spec.task = to_approve(0)),
        ("task.depends_on", |spec| spec.task.links = Some(Box::default())),
        ("task.team_term", |spec| spec.task.team_term = Some(1)),
    ];
    for (field, change) in wrong {
        let problem = in_spec(&change).expect_err(field);
        assert!(problem.starts_with(&format!("{field}: ")), "{field}: {problem}");
    }
    let named = |name: &str| schedule(name).check().is_ok();
    let longest = "x".repeat(MAX_SCHEDULE_NAME_BYTES);
    assert!(["a", "a-1", "1", &longest].into_iter().all(named));
    assert!(!["", "-a", "a-", "A", "a b", "ä", &format!("{longest}x")].into_iter().any(named));
    let next = |next| SetSchedule { next: Some(next), ..schedule("a") }.check().is_ok();
    assert_eq!([0, 1, MAX_TIME_MS, MAX_TIME_MS + 1].map(next), [false, true, true, false]);
}

#[test]
fn the_bytes_of_a_snapshot_with_schedules_are_what_they_always_were() {
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(4)));
    let stay = trial.join(worker("a"));
    trial.now = DUE + 1;
    for command in schedule_commands().into_iter().take(6) {
        trial.apply(command);
    }
    let (first, attempt) = trial.held_by(stay);
    trial.complete(stay, first, attempt, success());
    trial.submit(SubmitTask { idempotency_key: Some("key".to_owned()), result_ttl: Some(0), ..task(702) });
    trial.cancel(TaskId(702));
    trial.after(1);
    insta::assert_snapshot!(hex(&stable(&trial.fleet)));
}

#[test]
fn there_are_so_many_schedules() {
    let mut trial = Trial::newest();
    for n in 0..MAX_SCHEDULES {
        // Without the audit after each command, which looks at all of them.
        let command = Command::Schedule(ScheduleCommand::Set(Box::new(schedule(&format!("s{n}")))));
        let reply = trial.fleet.apply(trial.stamp(), command, &mut Vec::new());
        assert!(matches!(reply, Reply::ScheduleSet { .. }), "{reply:?}");
    }
    assert!(matches!(refused(set(&mut trial, schedule("more"))), Refusal::Full { limit: 1_000, .. }));
    let changed = SetSchedule { spec: ScheduleSpec { missed: MissedRuns::All, ..spec() }, ..schedule("s7") };
    assert!(matches!(set(&mut trial, changed), Reply::ScheduleSet { generation: 2, .. }));
    assert_eq!(remove(&mut trial, "s7", false), Reply::Done);
    assert!(matches!(set(&mut trial, schedule("more")), Reply::ScheduleSet { .. }));
    let page = trial.fleet.schedules_after("s998", 5);
    assert_eq!(page.iter().map(|schedule| schedule.name.as_str()).collect::<Vec<_>>(), ["s999"]);
}
