//! The resource pool: what agents contribute is granted, all or nothing, and free again. All processes are real.

use std::{fs, path::Path};

use robeing_proto::v1::Consistency;
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    terminal::{Ended, Terminal},
    wait::{check, eventually},
};
use serde_json::Value;

struct Person {
    terminal: Terminal,
    endpoints: String,
}

impl Person {
    async fn run(&self, line: &[&str]) -> Ended {
        self.terminal.run(&[line, &["--endpoint", &self.endpoints]].concat()).await
    }

    async fn json(&self, line: &[&str]) -> Value {
        let ended = self.run(&[line, &["-o", "json"]].concat()).await;
        serde_json::from_str(&ended.stdout).unwrap_or_default()
    }
}

#[tokio::test]
async fn what_agents_contribute_is_granted_released_and_free_when_an_agent_is_killed() {
    let pool = PoolSpec::new("work", 2).flag("contribute", "cpu=2,memory=1Gi,storage=0");
    let mut fleet = Fleet::start(FleetSpec::new(3).pool(pool).session_timeout("2s")).await;
    let person = Person { terminal: Terminal::default(), endpoints: fleet.endpoints().join(",") };
    eventually("both agents contribute", async || {
        let pool = person.json(&["resources", "list"]).await;
        check(pool["agents"].as_array().is_some_and(|agents| agents.len() == 2), (), pool)
    })
    .await;

    let gang = ["resources", "request", "--cpu", "1500m", "--parts", "2", "--spread", "--lease", "10m"];
    let granted = person.json(&gang).await;
    let id = granted["id"].as_str().unwrap_or_default().to_owned();
    assert_eq!(granted["state"], "ALLOCATION_STATE_GRANTED", "{granted}");
    assert_ne!(granted["parts"][0]["agent"], granted["parts"][1]["agent"], "{granted}");

    let refused = person.run(&["resources", "request", "--cpu", "1", "--memory", "2Gi"]).await;
    refused.assert_failed(3, "Insufficient resources");
    refused.assert_failed(3, "memory: 2147483648 bytes asked of one agent, at most 1073741824 free at one");

    fleet.kill("work-0");
    eventually("an allocation ends with an agent that gives a part of it", async || {
        let ended = person.json(&["resources", "show", &id]).await;
        check(ended["state"] == "ALLOCATION_STATE_AGENT_LOST", (), ended)
    })
    .await;
    let again = person.json(&["resources", "request", "--cpu", "2", "--wait", "1m"]).await;
    assert_eq!(again["state"], "ALLOCATION_STATE_GRANTED", "all is free again: {again}");
    let id = again["id"].as_str().unwrap_or_default().to_owned();
    person.run(&["resources", "release", &id]).await.success();
    let left = person.run(&["resources", "list", "--allocations"]).await;
    assert_eq!(left.success(), "no allocations\n");
}

#[tokio::test]
async fn a_task_that_needs_resources_is_taken_as_soon_as_the_fleet_knows_such_tasks() {
    let pool = PoolSpec::new("work", 2).flag("contribute", "cpu=2");
    let mut fleet = Fleet::prepare(FleetSpec::new(3).pool(pool));
    fleet.start_all();
    let person = Person { terminal: Terminal::default(), endpoints: fleet.endpoints().join(",") };
    eventually("a fleet of the newest version", async || {
        let status = fleet.client().status(Consistency::Linearizable).await.map_err(|error| error.to_string())?;
        check(status.fleet_version > 1, (), format!("{status:?}"))
    })
    .await;
    // Agents that have joined before are about to contribute, and others to join.
    let submit = ["submit", "--kind", "sum", "--cpu", "2", "--wait"];
    let (first, second) = tokio::join!(person.run(&submit), person.run(&submit));
    for ended in [first, second] {
        ended.success();
    }
    let large = eventually("a task that no agent can run is refused once no more are expected", async || {
        let ended = person.run(&["submit", "--kind", "sum", "--cpu", "3", "--deadline", "1s"]).await;
        check(ended.code != Some(0), ended.clone(), ended)
    })
    .await;
    large.assert_failed(3, "Insufficient resources: cpu: 3000 millis asked of one agent, at most 2000");
}

#[tokio::test]
async fn the_first_allocation_of_the_documentation_is_granted_and_released() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let guide = fs::read_to_string(root.join("docs/decisions.md")).expect("it can be read");
    let (_, section) = guide.split_once("\n## Resources\n").expect("it has a section about resources");
    let block = section.split("```sh\n").nth(1).and_then(|rest| rest.split("\n```").next()).expect("it shows commands");
    let terminal = Terminal::default();
    let dev = terminal.dev(&["-f", &root.join("examples/workshop.yaml").display().to_string()]);
    dev.line_with(&["ready"]).await;
    let mut shown = Vec::new();
    for line in block.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (program, words) = words.split_first().expect("a command");
        assert_eq!(*program, "robeing");
        let what = format!("{line} succeeds");
        let printed = eventually(&what, async || {
            let ended = terminal.run(words).await;
            check(ended.code == Some(0), ended.stdout.clone(), ended)
        });
        shown.push(printed.await);
    }
    let [_, granted, listed, _] = &shown[..] else { panic!("four commands: {shown:?}") };
    assert!(granted.contains("State:          Granted") && granted.contains("bench-"), "{granted}");
    assert!(listed.contains("cpu 1, memory 512Mi"), "{listed}");
}
