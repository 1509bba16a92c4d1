//! Schedules that are set at any coordinator, and fired by whichever leads.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use robeing_fleet::{Command, ControlCommand, FleetConfig, Refusal, Task, TaskId};
use robeing_identity::PeerRole;
use robeing_net::gate::Caller;
use robeing_proto::v1::{
    self, ConcurrencyPolicy, GetScheduleRequest, ListSchedulesRequest, MissedRuns, RemoveScheduleRequest,
    RunScheduleRequest, ScheduleSpec, SetScheduleRequest, SuspendScheduleRequest, TaskSpec,
    schedules_server::Schedules as _,
};
use tonic::{Code, Request, Status};

use crate::{
    identity::fixture::{ann_administers, member},
    schedules::{ScheduleError, Schedules},
    tests::{
        fleet::{COORDINATORS, TestFleet, task},
        mail::mailbox::in_force,
        member::code,
        policies,
    },
};

const MINUTE: u64 = 60_000;
/// A whole hour.
const HOUR: u64 = 500_000 * 60 * MINUTE;

/// A fleet whose schedules of every minute are due soon.
async fn start() -> (TestFleet, usize) {
    let fleet = TestFleet::start_at(HOUR - 8_000);
    let leader = fleet.led().await;
    in_force(&fleet).await;
    (fleet, leader)
}

fn minutely() -> ScheduleSpec {
    let task = TaskSpec { kind: "report".into(), input: "x".into(), ..TaskSpec::default() };
    ScheduleSpec { cron: "* * * * *".into(), task: Some(task), ..ScheduleSpec::default() }
}

async fn set(fleet: &TestFleet, at: usize, name: &str, spec: ScheduleSpec) -> Result<v1::Schedule, Status> {
    let request = SetScheduleRequest { name: name.into(), spec: Some(spec), managed: false };
    let set = fleet.tested(at).schedules.set_schedule(Request::new(request)).await?;
    Ok(set.into_inner().schedule.expect("it says which"))
}

async fn get(fleet: &TestFleet, at: usize, name: &str) -> v1::Schedule {
    let request = Request::new(GetScheduleRequest { name: name.into() });
    fleet.tested(at).schedules.get_schedule(request).await.expect("it is known").into_inner()
}

/// Returns how many runs a coordinator knows to have started.
fn started(fleet: &TestFleet, at: usize, name: &str) -> u64 {
    fleet.tested(at).state.look(|fleet| fleet.schedule(name).map_or(0, |schedule| schedule.totals.started))
}

/// Returns the tasks of runs by the moments at which these were due.
fn runs(fleet: &TestFleet, at: usize) -> BTreeMap<u64, Vec<Arc<Task>>> {
    let mut runs: BTreeMap<u64, Vec<Arc<Task>>> = BTreeMap::new();
    fleet.tested(at).state.look(|fleet| {
        for task in fleet.changed_tasks_since(0) {
            let due = task.scheduled.as_ref().map(|scheduled| scheduled.due);
            due.into_iter().for_each(|due| runs.entry(due).or_default().push(Arc::clone(task)));
        }
    });
    runs
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_is_set_at_any_coordinator_runs_when_it_is_due_and_once_whoever_leads() {
    let (mut fleet, leader) = start().await;
    let follower = fleet.followers(leader)[0];
    let made = set(&fleet, follower, "nightly", minutely()).await.expect("it is set");
    assert_eq!(made.next.map(|next| next.seconds as u64 * 1_000), Some(HOUR));
    fleet.until("the first run", |fleet| started(fleet, leader, "nightly") == 1).await;
    fleet.take_away(leader);
    let leader = fleet.led().await;
    fleet.until("the second run", |fleet| started(fleet, leader, "nightly") == 2).await;
    let runs = runs(&fleet, leader);
    assert_eq!(runs.keys().copied().collect::<Vec<_>>(), [HOUR, HOUR + MINUTE]);
    for (due, tasks) in &runs {
        assert_eq!(tasks.len(), 1, "the run of {due}");
        assert!(tasks[0].submitted_at.wall >= *due, "it is not early");
        assert!(tasks[0].submitted_at.wall < due + 5_000, "nor late");
    }
    let shown = get(&fleet, leader, "nightly").await;
    let due: Vec<u64> = shown.runs.iter().filter_map(|run| Some(run.due?.seconds as u64 * 1_000)).collect();
    assert_eq!(due, [HOUR, HOUR + MINUTE]);
    assert_eq!(shown.next.map(|next| next.seconds as u64 * 1_000), Some(HOUR + 2 * MINUTE));
}

/// Returns how many entries are written in a minute.
async fn written_in_a_minute(fleet: &TestFleet, leader: usize) -> u64 {
    let standing = fleet.tested(leader).standing;
    let committed = async || standing.read_index().await.flatten().expect("a majority follows it");
    let before = committed().await;
    tokio::time::sleep(Duration::from_millis(MINUTE)).await;
    committed().await - before
}

#[tokio::test(start_paused = true)]
async fn a_hundred_schedules_that_are_not_due_write_nothing() {
    let (fleet, leader) = start().await;
    let idle = written_in_a_minute(&fleet, leader).await;
    for n in 0..100 {
        let yearly = ScheduleSpec { cron: "@yearly".into(), ..minutely() };
        set(&fleet, leader, &format!("schedule-{n}"), yearly).await.expect("it is set");
    }
    assert!(written_in_a_minute(&fleet, leader).await <= idle, "they write something");
    // And those that are due at once are started together.
    for n in 0..100 {
        set(&fleet, leader, &format!("schedule-{n}"), minutely()).await.expect("it is set");
    }
    let all_started = |fleet: &TestFleet| (0..100).all(|n| started(fleet, leader, &format!("schedule-{n}")) > 0);
    fleet.until("all have started", all_started).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_while_nobody_led_is_made_up_for_as_the_schedule_says() {
    let (mut fleet, leader) = start().await;
    let with = |missed: MissedRuns, missed_limit| ScheduleSpec { missed: missed.into(), missed_limit, ..minutely() };
    for (name, missed) in [("skip", MissedRuns::Skip), ("latest", MissedRuns::Latest), ("all", MissedRuns::All)] {
        set(&fleet, leader, name, with(missed, 3)).await.expect("it is set");
    }
    let late = ScheduleSpec {
        start_within: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..with(MissedRuns::Latest, 0)
    };
    set(&fleet, leader, "late", late).await.expect("it is set");
    for n in 0..COORDINATORS {
        fleet.take_away(n);
    }
    // Nobody leads until half a minute after the sixth moment at which they were due.
    tokio::time::sleep(Duration::from_millis(8_000 + 5 * MINUTE + MINUTE / 2)).await;
    for n in 0..COORDINATORS {
        fleet.run(n);
    }
    let leader = fleet.led().await;
    let newest = HOUR + 5 * MINUTE;
    let is_past = |fleet: &TestFleet, name: &str| {
        let next = fleet.tested(leader).state.look(|fleet| fleet.schedule(name).and_then(|schedule| schedule.next));
        next.is_some_and(|next| next > newest)
    };
    let all_are = |fleet: &TestFleet| ["skip", "latest", "all", "late"].into_iter().all(|name| is_past(fleet, name));
    fleet.until("all are decided", all_are).await;
    let totals = |name: &str| {
        fleet.tested(leader).state.look(|fleet| {
            let schedule = fleet.schedule(name).expect("it is known");
            let due: Vec<u64> = schedule.runs.iter().map(|run| (run.due - HOUR) / MINUTE).collect();
            (due, schedule.totals.missed)
        })
    };
    assert_eq!(totals("skip"), (vec![5], 5));
    assert_eq!(totals("latest"), (vec![5], 5));
    assert_eq!(totals("all"), (vec![3, 4, 5], 3));
    assert_eq!(totals("late"), (vec![], 6));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_finds_no_room_starts_when_there_is_some() {
    let (fleet, leader) = start().await;
    // Before all of it is in force, the leader would set its own again.
    let is_whole = |fleet: &TestFleet| fleet.tested(leader).state.look(|fleet| fleet.config().recent_results > 0);
    fleet.until("the leader's whole configuration", is_whole).await;
    let config = fleet.tested(leader).state.look(|fleet| fleet.config().clone());
    let configure = async |max_queued| {
        let command = Command::Control(ControlCommand::Configure(FleetConfig { max_queued, ..config.clone() }));
        fleet.tested(leader).proposer.propose_one(command).await.expect("somebody leads");
    };
    let hourly = ScheduleSpec { cron: "@hourly".into(), missed: MissedRuns::Latest.into(), ..minutely() };
    set(&fleet, leader, "hourly", hourly).await.expect("it is set");
    configure(1).await;
    let first = fleet.tested(leader).submissions.submit(vec![task(1)], &Caller::Plaintext).await;
    assert!(first.is_ok());
    // Until half a minute after it was due.
    tokio::time::sleep(Duration::from_millis(8_000 + MINUTE / 2)).await;
    assert_eq!(started(&fleet, leader, "hourly"), 0);
    configure(2).await;
    fleet.until("the run", |fleet| started(fleet, leader, "hourly") == 1).await;
    assert_eq!(runs(&fleet, leader).keys().copied().collect::<Vec<_>>(), [HOUR]);
}

#[tokio::test(start_paused = true)]
async fn policies_decide_about_schedules_as_they_are_set_and_about_each_run() {
    let (fleet, leader) = start().await;
    let deny = r#"{"name": "no-reports", "events": ["Submission"], "rule": "object.kind == 'report'", "action": "deny",
        "message": "report elsewhere"}"#;
    let hide = r#"{"name": "no-tokens", "events": ["Submission"], "match": "type(json) == map", "rule": "has(json.token)",
        "action": "redact", "fields": ["/token"]}"#;
    let with_token = || {
        let task = TaskSpec { kind: "sum".into(), input: r#"{"token":"t"}"#.into(), ..TaskSpec::default() };
        ScheduleSpec { task: Some(task), ..minutely() }
    };
    set(&fleet, leader, "before", minutely()).await.expect("nothing is against it yet");
    set(&fleet, leader, "with-token", with_token()).await.expect("nothing is against it yet");
    policies::set(&fleet, leader, &[deny, hide]).await;
    // The task of a schedule has no id. A task with the id that is none makes it no known task.
    let nil = fleet.tested(leader).submissions.submit(vec![task(0)], &Caller::Plaintext).await;
    assert!(nil.is_ok_and(|results| results[0].refusal.is_none()));
    let refused = set(&fleet, leader, "after", minutely()).await.expect_err("it is denied");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("report elsewhere"), "{refused}");
    let by_hand = RunScheduleRequest { name: "before".into(), task_id: TaskId(0).to_string() };
    let by_hand = fleet.tested(leader).schedules.run_schedule(Request::new(by_hand)).await;
    assert_eq!(code(by_hand), Code::PermissionDenied);
    fleet.until("the run of the other one", |fleet| started(fleet, leader, "with-token") == 1).await;
    let inputs: Vec<_> = runs(&fleet, leader).into_values().flatten().map(|task| task.input.clone()).collect();
    assert_eq!(inputs.len(), 1);
    assert!(!String::from_utf8_lossy(&inputs[0]).contains("\"t\""), "{inputs:?}");
    let denied = |fleet: &TestFleet| {
        fleet.tested(leader).state.look(|fleet| fleet.schedule("before").is_some_and(|known| known.totals.refused == 1))
    };
    fleet.until("the refusal", denied).await;
    let shown = get(&fleet, leader, "before").await;
    assert!(shown.problem.contains("report elsewhere"), "{}", shown.problem);
    let shown = set(&fleet, leader, "hidden", with_token()).await.expect("it is redacted");
    let input = shown.spec.and_then(|spec| spec.task).map(|task| task.input).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&input).contains("\"t\""), "{input:?}");
}

#[tokio::test(start_paused = true)]
async fn a_schedule_is_listed_suspended_started_by_hand_and_removed() {
    let (fleet, leader) = start().await;
    let [one, other] = fleet.followers(leader)[..] else { panic!("three coordinators") };
    let service = |at: usize| fleet.tested(at).schedules;
    for name in ["c", "a", "b"] {
        let spec = ScheduleSpec { cron: "@yearly".into(), time_zone: "Asia/Tokyo".into(), ..minutely() };
        set(&fleet, one, name, spec).await.expect("it is set");
    }
    let list = async |limit, page_token: &str| {
        let request = ListSchedulesRequest { limit, page_token: page_token.into(), ..ListSchedulesRequest::default() };
        let page = service(other).list_schedules(Request::new(request)).await.expect("they are listed").into_inner();
        let names: Vec<String> = page.schedules.into_iter().map(|schedule| schedule.name).collect();
        (names, page.next_page_token)
    };
    assert_eq!(list(2, "").await, (vec!["a".to_owned(), "b".to_owned()], "b".to_owned()));
    assert_eq!(list(2, "b").await, (vec!["c".to_owned()], String::new()));
    let status = service(other).schedules.state.look(|fleet| fleet.schedule_counts());
    assert_eq!((status.kept, status.managed), (3, 0));

    let suspend = async |suspended| {
        let request = SuspendScheduleRequest { name: "a".into(), suspended };
        let changed = service(one).suspend_schedule(Request::new(request)).await.expect("it is changed");
        changed.into_inner().schedule.expect("it says which")
    };
    let next = get(&fleet, one, "a").await.next;
    let changed = suspend(true).await;
    assert_eq!((changed.next, changed.spec.map(|spec| spec.suspended)), (None, Some(true)));
    assert_eq!(suspend(false).await.next, next);

    let run = async |at: usize, name: &str| {
        let request = RunScheduleRequest { name: name.into(), task_id: TaskId(7).to_string() };
        service(at).run_schedule(Request::new(request)).await.map(|run| run.into_inner().existing)
    };
    assert!(!run(one, "a").await.expect("it starts"));
    assert!(run(other, "a").await.expect("it has started"), "the same run");
    assert_eq!(code(run(one, "d").await), Code::NotFound);
    assert_eq!(code(run(one, "b").await), Code::AlreadyExists, "another schedule's run has the id");

    let remove = async |name: &str| {
        let request = RemoveScheduleRequest { name: name.into(), managed: false };
        service(one).remove_schedule(Request::new(request)).await.expect("it is no error").into_inner().removed
    };
    assert_eq!((remove("a").await, remove("a").await), (true, false));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_schedule_is_said_when_it_is_set() {
    let (fleet, leader) = start().await;
    for (spec, problem) in [
        (ScheduleSpec { cron: "61 * * * *".into(), ..minutely() }, "must be 0 to 59"),
        (ScheduleSpec { cron: "0 0 30 2 *".into(), ..minutely() }, "would never be due"),
        (ScheduleSpec { time_zone: "Mars/Olympus".into(), ..minutely() }, "there is no time zone"),
        (ScheduleSpec { task: None, ..minutely() }, "spec.task: it is missing"),
        (ScheduleSpec { missed_limit: 101, ..minutely() }, "missed_limit: is 101, must be 1 to 100"),
        (ScheduleSpec { task: Some(TaskSpec::default()), ..minutely() }, "kind: must not be empty"),
    ] {
        let refused = set(&fleet, leader, "a", spec).await.expect_err(problem);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(problem), "{refused}");
    }
    assert_eq!(code(set(&fleet, leader, "A", minutely()).await), Code::InvalidArgument);
    let forbid = ScheduleSpec { concurrency: ConcurrencyPolicy::Forbid.into(), ..minutely() };
    set(&fleet, leader, "a", forbid).await.expect("it is right");
    let run = async || {
        let request = RunScheduleRequest { name: "a".into(), task_id: String::new() };
        fleet.tested(leader).schedules.run_schedule(Request::new(request)).await
    };
    run().await.expect("it starts");
    assert_eq!(code(run().await), Code::FailedPrecondition, "one at a time");
}

/// The schedules of a coordinator where TLS is on, and ann alone is an administrator.
fn with_tls(fleet: &TestFleet, at: usize) -> Schedules {
    Schedules { rights: ann_administers(), ..fleet.tested(at).schedules.schedules }
}

#[tokio::test(start_paused = true)]
async fn a_schedule_is_changed_by_whoever_has_set_it_and_administrators_and_the_resources_by_these_alone() {
    let (fleet, leader) = start().await;
    let schedules = with_tls(&fleet, leader);
    let [ann, bob, carol] = ["ann", "bob", "carol"].map(|name| member(PeerRole::Client, name));
    let set = async |by: &Caller, name: &str, cron: &str, managed| {
        let spec = Some(ScheduleSpec { cron: cron.into(), ..minutely() });
        let set = schedules.set(by, SetScheduleRequest { name: name.into(), spec, managed }).await;
        set.map(|shown| shown.schedule.set_by.name.clone())
    };
    assert_eq!(set(&carol, "a", "@daily", false).await, Ok("client:carol".to_owned()));
    for refused in [
        set(&bob, "a", "@weekly", false).await.err(),
        schedules.suspend(&bob, "a", true).await.err(),
        schedules.remove(&bob, "a", false).await.err(),
    ] {
        assert!(matches!(refused, Some(ScheduleError::NotYours { .. })), "{refused:?}");
    }
    assert_eq!(set(&carol, "a", "@weekly", false).await, Ok("client:carol".to_owned()));
    assert_eq!(set(&ann, "a", "@monthly", false).await, Ok("client:ann".to_owned()));
    assert!(matches!(set(&carol, "a", "@daily", false).await, Err(ScheduleError::NotYours { .. })), "it is ann's now");
    assert!(matches!(set(&carol, "b", "@daily", true).await, Err(ScheduleError::NotAdmin { .. })));
    assert_eq!(set(&ann, "b", "@daily", true).await, Ok("client:ann".to_owned()));
    let managed = set(&ann, "b", "@weekly", false).await;
    assert!(matches!(managed, Err(ScheduleError::Refused(Refusal::ScheduleManaged { .. }))));
    assert!(matches!(schedules.remove(&bob, "b", true).await, Err(ScheduleError::NotAdmin { .. })));
    assert_eq!(schedules.remove(&ann, "b", true).await, Ok(true));
}
