//! The command line with a live fleet: its output in every format, and its exit codes.

use std::{collections::BTreeSet, fmt::Write as _};

use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    script::answer,
    terminal::{Ended, Terminal},
};
use serde_json::{Value, json};

const LINES: usize = 200;

/// A user at a terminal, with a fleet.
struct User {
    terminal: Terminal,
    endpoint: String,
}

impl User {
    async fn run(&self, line: &[&str]) -> Ended {
        self.terminal.run(&[line, &["--endpoint", &self.endpoint]].concat()).await
    }
}

#[tokio::test]
async fn a_user_submits_and_looks() {
    let spec = FleetSpec::new(1).pool(PoolSpec::new("work", 1).slots(8)).session_timeout("10s");
    let mut fleet = Fleet::start(spec).await;
    let user = User { terminal: Terminal::default(), endpoint: fleet.address("coordinator-0") };

    // One task with `--wait`: its output is printed unchanged.
    user.terminal.write("input", "printf 'a\\nb'");
    let ended = user.run(&["submit", "--kind", "shell", "--input", "input", "--wait"]).await;
    assert_eq!(ended.success(), "a\nb");

    let ids = submits_many(&user).await;
    let pid = fleet.process("work-0").pid();
    lists_in_each_form(&user, &ids, pid).await;
    is_told_by_exit_codes(&user, &fleet).await;
    submits_twice_under_a_key(&user).await;

    fleet.kill("coordinator-0");
    user.run(&["status"]).await.assert_failed(5, "no fleet answers");
}

/// Submits many tasks with `--wait`: each input has its own result.
async fn submits_many(user: &User) -> BTreeSet<String> {
    let mut lines = String::new();
    for number in 0..LINES {
        let _ = writeln!(lines, "{}", json!(format!("echo $(({number} * {number}))")));
    }
    user.terminal.write("inputs.jsonl", &lines);
    let submit = ["submit", "--kind", "squares", "--inputs", "inputs.jsonl", "--wait", "-o", "json"];
    let tasks = user.run(&submit).await.json();
    let tasks = tasks.as_array().expect("a list").clone();
    assert_eq!(tasks.len(), LINES);
    for (number, task) in tasks.iter().enumerate() {
        assert_eq!(task["state"], "TASK_STATE_SUCCEEDED", "{task}");
        assert_eq!(task["outputText"], format!("{}\n", number * number), "{task}");
    }
    let ids: BTreeSet<String> = tasks.iter().filter_map(|task| Some(task["id"].as_str()?.to_owned())).collect();
    assert_eq!(ids.len(), LINES, "one task for each line");
    ids
}

async fn lists_in_each_form(user: &User, ids: &BTreeSet<String>, pid: u32) {
    let listed = user.run(&["tasks", "--kind", "squares", "--limit", "0", "-o", "json"]).await.json();
    let listed = listed.as_array().expect("a list").iter();
    let listed: BTreeSet<String> = listed.filter_map(|task| Some(task["id"].as_str()?.to_owned())).collect();
    assert_eq!(listed, *ids);
    let table = user.run(&["tasks", "--kind", "squares", "--limit", "3"]).await;
    assert_eq!(table.success().lines().count(), 1 + 3, "a header and three tasks: {table:?}");
    assert!(table.stderr.contains("--page"), "how to get the next page: {table:?}");
    for what in ["tasks", "agents", "status"] {
        let as_json = user.run(&[what, "-o", "json"]).await.json();
        let as_yaml = user.run(&[what, "-o", "yaml"]).await;
        let as_yaml: Value =
            serde_yaml::from_str(as_yaml.success()).unwrap_or_else(|error| panic!("{error}: {as_yaml:?}"));
        let list_of = |value: &Value| value.as_array().map(Vec::len);
        assert_eq!(list_of(&as_yaml), list_of(&as_json), "{what}");
        assert!(!user.run(&[what]).await.success().is_empty());
    }
    let agents = user.run(&["agents", "-o", "json"]).await.json();
    assert_eq!((&agents[0]["name"], &agents[0]["pid"]), (&json!("work-0"), &json!(pid)), "{agents}");
    let table = user.run(&["agents"]).await;
    assert!(table.success().contains("work-0") && table.stdout.contains(&pid.to_string()), "{table:?}");
    let status = user.run(&["status", "-o", "json"]).await.json();
    assert_eq!(status["leader"], "coordinator-0", "{status}");
    assert_eq!(status["finishedTotal"]["succeeded"], json!((LINES + 1).to_string()), "64 bits are text: {status}");
}

async fn is_told_by_exit_codes(user: &User, fleet: &Fleet) {
    user.terminal.write("failing", "echo 'out of paper' >&2; exit 9");
    let failing = ["submit", "--kind", "shell", "--input", "failing", "--max-attempts", "1", "--wait"];
    user.run(&failing).await.assert_failed(1, "out of paper");
    let nobody = robeing_client::new_task_id();
    user.run(&["task", &nobody]).await.assert_failed(4, &nobody);
    let ended = user.run(&["cancel", &nobody, "not-an-id"]).await;
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stdout.contains("never existed"), "each id has its own line: {ended:?}");
    assert!(ended.stdout.contains("a task's id is a UUID"), "each id has its own line: {ended:?}");
    user.run(&["task", "not-an-id"]).await.assert_failed(4, "there is no task \"not-an-id\": a task's id is a UUID");
    let gate = fleet.gate("never");
    user.terminal.write("endless", &gate.wait());
    let ended =
        user.run(&["submit", "--kind", "shell", "--input", "endless", "--wait", "--wait-timeout", "200ms"]).await;
    ended.assert_failed(6, "had not finished");
    let running = user.run(&["tasks", "--state", "assigned", "-o", "json"]).await.json();
    let id = running[0]["id"].as_str().unwrap_or_else(|| panic!("the task still runs: {running}")).to_owned();
    let cancelled = user.run(&["cancel", &id, "--reason", "enough", "-o", "json"]).await.json();
    assert_eq!(cancelled, json!([{"id": id, "state": "TASK_STATE_CANCELLED"}]));
    let ended = user.run(&["task", &id, "--watch"]).await;
    assert_eq!(ended.code, Some(1), "a cancelled task did not succeed: {ended:?}");
    let task = user.run(&["task", &id, "-o", "json"]).await.json();
    assert_eq!((&task["state"], &task["cancelReason"]), (&json!("TASK_STATE_CANCELLED"), &json!("enough")), "{task}");
}

/// Submits twice under the same key; also checks `--why` and `--result`.
async fn submits_twice_under_a_key(user: &User) {
    user.terminal.write("keyed", &answer("keyed"));
    let keyed = ["submit", "--kind", "shell", "--input", "keyed", "--key", "one"];
    let first = user.run(&keyed).await.success().trim().to_owned();
    assert_eq!(user.run(&keyed).await.success().trim(), first, "the same key is the same task");
    user.run(&["task", &first, "--watch"]).await.success();
    assert_eq!(user.run(&["task", &first, "--result"]).await.success(), format!("{first} 1 keyed\n"));
    let why = user.run(&["task", &first, "--why"]).await;
    assert!(why.success().contains("work-0"), "{why:?}");
    let ended = user.run(&["cancel", &first]).await;
    assert!(ended.success().contains("had succeeded before; nothing was cancelled"), "{ended:?}");

    // The user is told which options a second submission under the same key does not change.
    let again = user.run(&keyed).await;
    assert_eq!((again.success().trim(), again.stderr.as_str()), (first.as_str(), ""), "it asks for the same");
    let again = user.run(&[&keyed[..], &["--priority", "9", "--deadline", "1m"]].concat()).await;
    assert_eq!(again.success().trim(), first);
    let told = format!("the key \"one\" belongs to task {first}, which was submitted earlier");
    assert!(again.stderr.contains(&told), "{again:?}");
    assert!(again.stderr.contains("is kept and differs: priority 5, no deadline"), "{again:?}");

    // The output of a submission has the fields of a task; with `--inputs` it is a list even if there is only one task.
    let again = user.run(&[&keyed[..], &["-o", "json"]].concat()).await.json();
    assert_eq!(again, json!({"id": first, "existing": true}));
    user.terminal.write("one.jsonl", "\"true\"\n");
    for more in [&[][..], &["--wait"]] {
        let line = ["submit", "--kind", "shell", "--inputs", "one.jsonl", "-o", "json"];
        let submitted = user.run(&[&line[..], more].concat()).await.json();
        let id = submitted[0]["id"].as_str().unwrap_or_else(|| panic!("a list of one task: {submitted}")).to_owned();
        assert_eq!(user.run(&["task", &id, "-o", "json"]).await.json()["id"], json!(id));
    }
    let by = user.run(&["task", &first, "-o", "json"]).await.json()["submitter"].clone();
    assert!(by.as_str().is_some_and(|name| !name.is_empty()), "somebody submits: {by}");
}
