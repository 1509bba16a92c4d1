//! Teams: agents that are formed for a purpose, reach each other, and run its tasks. All processes are real, with TLS.

use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    terminal::{Ended, Terminal},
    wait::{check, eventually},
};
use serde_json::{Value, json};

const TEAM: &str = "00000000-0000-4000-8000-000000000001";

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

    /// Runs a command until it succeeds: the fleet's version may only be about to have teams, its leader about to be
    /// elected, or its agents about to join.
    async fn succeeds(&self, line: &[&str]) -> String {
        eventually(&format!("{line:?} succeeds"), async || {
            let ended = self.run(line).await;
            check(ended.code == Some(0), ended.stdout.clone(), ended)
        })
        .await
    }

    /// Returns the team once `holds` returns true for it.
    async fn sees(&self, expected: &str, holds: impl Fn(&Value) -> bool) -> Value {
        eventually(expected, async || {
            let ended = self.run(&["team", "show", TEAM, "-o", "json"]).await;
            let shown: Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
            check(holds(&shown), shown.clone(), (shown, ended))
        })
        .await
    }
}

fn members(team: &Value) -> Vec<String> {
    let members = team["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    members.iter().filter_map(|member| member["name"].as_str().map(str::to_owned)).collect()
}

fn is_active(team: &Value) -> bool {
    team["state"] == json!("TEAM_STATE_ACTIVE")
}

#[tokio::test]
async fn a_team_is_formed_reaches_each_other_runs_its_tasks_and_is_disbanded() {
    let spec = FleetSpec::new(3).pool(PoolSpec::new("crew", 4)).session_timeout("1s").with_tls();
    let fleet = Fleet::start(spec).await;
    let person = Person::of(&fleet);
    let line = ["team", "form", "--purpose", "review", "--size", "3", "--id", TEAM];
    assert_eq!(person.succeeds(&line).await, format!("{TEAM}\n"));
    person.succeeds(&line).await;
    let team = person.sees("a path between every two members", is_active).await;
    assert_eq!(members(&team).len(), 3, "{team}");
    assert_eq!(team["term"], json!("1"), "{team}");
    assert!(team["leader"].as_str().is_some_and(|leader| members(&team).contains(&leader.to_owned())), "{team}");
    let too_many = person.run(&["team", "form", "--purpose", "more", "--size", "2"]).await;
    assert!(
        too_many.code != Some(0) && too_many.stderr.contains("a team of 2 needs as many live agents"),
        "{too_many:?}"
    );
    person.succeeds(&["team", "form", "--purpose", "more", "--size", "2", "--partial"]).await;
    let listed = person.succeeds(&["team", "list"]).await;
    assert!(listed.contains("review") && listed.contains("1 of 1"), "{listed}");
    runs_its_tasks(&person, &members(&team)).await;
    person.succeeds(&["team", "disband", TEAM, "--term", "1"]).await;
    let late = person.run(&["submit", "--kind", "k", "--team", TEAM]).await;
    assert!(late.code != Some(0) && late.stderr.contains("is disbanded"), "{late:?}");
}

/// Every task of the team is run by one of its members, and a broadcast reaches them all.
async fn runs_its_tasks(person: &Person, members: &[String]) {
    for _ in 0..6 {
        person.succeeds(&["submit", "--kind", "k", "--team", TEAM, "--wait"]).await;
    }
    let tasks = person.succeeds(&["tasks", "-o", "json"]).await;
    let tasks: Value = serde_json::from_str(&tasks).expect("it is JSON");
    let of_team = |task: &&Value| task["team"] == json!(TEAM);
    let tasks: Vec<&Value> = tasks.as_array().into_iter().flatten().filter(of_team).collect();
    assert!(tasks.len() >= 6, "{tasks:?}");
    for task in tasks {
        let agent = task["attempts"][0]["agent"].as_str().unwrap_or_default();
        assert!(members.iter().any(|member| member == agent), "{task}");
    }
    let to = format!("team:{TEAM}");
    let told = person.succeeds(&["broadcast", "hello", "--to", &to]).await;
    assert!(members.iter().all(|member| told.contains(member)), "{told}");
    let has_ended = |team: &Value| team["totals"]["unfinished"].as_u64().is_none_or(|unfinished| unfinished == 0);
    let shown = person.sees("its tasks have ended", has_ended).await;
    assert_eq!(shown["totals"]["succeeded"], shown["totals"]["tasks"], "{shown}");
}
