//! Schedules, and keys of submissions: what is submitted again and again starts once, also while leaders die. All
//! processes are real, with TLS.

use std::time::{Duration, SystemTime};

use robeing_proto::v1::{GetScheduleRequest, ScheduleSpec, SetScheduleRequest, TaskSpec, TaskState};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    script::{answer, task},
    terminal::{Ended, Terminal},
    wait::{PATIENCE, check, eventually, eventually_within},
};
use serde_json::{Value, json};

/// How long before a schedule is due the leader dies.
const BEFORE: Duration = Duration::from_millis(100);
/// A schedule is due once in this time.
const MINUTE: Duration = Duration::from_secs(60);

/// A person at a terminal who has the fleet's authority.
struct Person {
    terminal: Terminal,
    endpoints: String,
    authority: String,
}

impl Person {
    fn of(fleet: &Fleet) -> Self {
        Self {
            terminal: Terminal::default(),
            endpoints: fleet.endpoints().join(","),
            authority: fleet.dir().join("identity").display().to_string(),
        }
    }

    async fn run(&self, line: &[&str]) -> Ended {
        self.terminal.run(&[line, &["--endpoint", &self.endpoints, "--ca", &self.authority]].concat()).await
    }

    /// Runs a command until it succeeds: the fleet's version may only be about to have schedules, or its leader about to
    /// be elected.
    async fn succeeds(&self, line: &[&str]) -> String {
        eventually(&format!("{line:?} succeeds"), async || {
            let ended = self.run(line).await;
            check(ended.code == Some(0), ended.stdout.clone(), ended)
        })
        .await
    }

    /// Returns a schedule once `holds` returns true for it.
    async fn sees(&self, name: &str, expected: &str, holds: impl Fn(&Value) -> bool) -> Value {
        eventually(expected, async || {
            let ended = self.run(&["schedule", "show", name, "-o", "json"]).await;
            let shown: Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
            check(holds(&shown), shown.clone(), (shown, ended))
        })
        .await
    }
}

fn spec() -> FleetSpec {
    FleetSpec::new(3).pool(PoolSpec::new("crew", 2)).session_timeout("1s").with_tls()
}

#[tokio::test]
async fn a_schedule_is_set_run_by_hand_suspended_and_removed() {
    let fleet = Fleet::start(spec()).await;
    let person = Person::of(&fleet);
    let line = ["schedule", "set", "nightly", "--cron", "30 4 * * *", "--time-zone", "Europe/Berlin", "--kind", "k"];
    assert!(person.succeeds(&line).await.contains("30 4 * * * in Europe/Berlin"));
    let listed = person.succeeds(&["schedule", "list"]).await;
    assert!(listed.contains("nightly") && listed.contains("Europe/Berlin"), "{listed}");
    let id = person.succeeds(&["schedule", "run", "nightly"]).await;
    let has_ended = |shown: &Value| shown["runs"][0]["state"] == json!("TASK_STATE_SUCCEEDED");
    let shown = person.sees("nightly", "the end of its run", has_ended).await;
    assert_eq!((&shown["runs"][0]["id"], &shown["runs"][0]["byHand"]), (&json!(id.trim()), &json!(true)), "{shown}");
    let next = shown["next"].clone();
    assert!(next.is_string(), "{shown}");
    let task = person.succeeds(&["task", id.trim()]).await;
    assert!(task.contains("Schedule:       nightly, due "), "{task}");

    person.succeeds(&["schedule", "suspend", "nightly"]).await;
    let is_suspended = |shown: &Value| shown["spec"]["suspended"] == json!(true) && shown["next"].is_null();
    person.sees("nightly", "that nothing is due", is_suspended).await;
    person.succeeds(&["schedule", "resume", "nightly"]).await;
    person.sees("nightly", "that it is due again", |shown| shown["next"] == next).await;

    for (cron, words) in [("60 4 * * *", "60"), ("0 0 30 2 *", "never be due")] {
        let refused = person.run(&["schedule", "set", "wrong", "--cron", cron, "--kind", "k"]).await;
        assert!(refused.code != Some(0) && refused.stderr.contains(words), "{refused:?}");
    }
    assert_eq!(person.succeeds(&["schedule", "remove", "nightly"]).await, "removed nightly\n");
    assert_eq!(person.succeeds(&["schedule", "remove", "nightly"]).await, "there is no schedule \"nightly\"\n");
    let gone = person.run(&["schedule", "show", "nightly"]).await;
    assert_eq!(gone.code, Some(4), "{gone:?}");
}

#[tokio::test]
async fn a_run_that_is_due_while_the_leader_dies_starts_once() {
    let mut fleet = Fleet::start(spec()).await;
    let client = fleet.client();
    let request = SetScheduleRequest {
        name: "each-minute".to_owned(),
        spec: Some(ScheduleSpec {
            cron: "* * * * *".to_owned(),
            task: Some(TaskSpec { id: String::new(), ..task(&answer("done")) }),
            ..ScheduleSpec::default()
        }),
        managed: false,
    };
    let set = eventually("the schedule is set", async || client.set_schedule(request.clone()).await).await;
    let due = set.next.and_then(|next| SystemTime::try_from(next).ok()).expect("it is due each minute");
    eventually_within(PATIENCE + MINUTE, "that it is due soon", async || {
        let now = SystemTime::now();
        check(now + BEFORE >= due, (), now)
    })
    .await;
    let leader = fleet.leader().await;
    fleet.kill(&leader);
    let get = GetScheduleRequest { name: "each-minute".to_owned() };
    eventually("its run has succeeded", async || {
        let shown = client.get_schedule(get.clone()).await.map_err(|error| error.to_string())?;
        let run = shown.runs.iter().find(|run| run.due == set.next);
        check(run.is_some_and(|run| run.state() == TaskState::Succeeded), (), format!("{shown:?}"))
    })
    .await;
    fleet.start_one(&leader);
    fleet.ready().await;
    let shown = client.get_schedule(get).await.unwrap_or_else(|error| panic!("{error}"));
    let of_the_moment = shown.runs.iter().filter(|run| run.due == set.next).count();
    let totals = shown.totals.unwrap_or_default();
    assert_eq!((of_the_moment, totals.missed, totals.refused), (1, 0, 0), "{shown:?}");
}

#[tokio::test]
async fn a_key_stands_for_its_task_also_when_that_is_forgotten_and_another_coordinator_leads() {
    let mut fleet = Fleet::start(spec()).await;
    let person = Person::of(&fleet);
    let submit = ["submit", "--kind", "k", "--key", "order 7", "--ttl", "1s"];
    let id = person.succeeds(&submit).await;
    let leader = fleet.leader().await;
    fleet.kill(&leader);
    assert_eq!(person.succeeds(&submit).await, id, "it is the same task");
    eventually("the task is forgotten", async || {
        let read = person.run(&["task", id.trim()]).await;
        check(read.code == Some(4), (), read)
    })
    .await;
    assert_eq!(person.succeeds(&submit).await, id, "it is not done again");
    let other = person.run(&["submit", "--kind", "another", "--key", "order 7"]).await;
    other.assert_failed(3, "key");
}
