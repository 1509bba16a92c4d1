//! Verified results: a task runs on several agents, and one that lies is outvoted. All processes are real.

use robeing_proto::v1::{AttemptState, TaskState};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    terminal::Terminal,
    wait::{check, eventually},
};
use serde_json::json;

/// Returns the executor of an agent that answers with this JSON.
fn says(answer: &str) -> serde_json::Value {
    json!({"command": {"argv": ["/bin/sh", "-c", format!("printf %s '{answer}'")]}})
}

#[tokio::test]
async fn an_agent_that_lies_is_outvoted_and_shown() {
    let honest = PoolSpec::new("honest", 2).executor(says(r#"{"total": 7, "by": "me"}"#));
    let liar = PoolSpec::new("liar", 1).executor(says(r#"{"by": "me", "total": 8}"#));
    let fleet = Fleet::start(FleetSpec::new(3).pool(honest).pool(liar)).await;
    let (terminal, endpoint) = (Terminal::default(), fleet.endpoints().join(","));
    let submit = ["submit", "--kind", "sum", "--verify", "2/3", "--verify-json", "/total", "--endpoint", &endpoint];
    let id = eventually("the task is accepted", async || {
        let ended = terminal.run(&submit).await;
        check(ended.code == Some(0), ended.stdout.trim().to_owned(), ended)
    })
    .await;
    let done = fleet.finished(&id, TaskState::Succeeded).await;
    assert!(String::from_utf8_lossy(&done.output).contains("\"total\": 7"), "{done:#?}");
    let agreed: Vec<&str> = done
        .attempts
        .iter()
        .filter(|attempt| attempt.state() == AttemptState::Succeeded)
        .map(|attempt| attempt.agent.as_str())
        .collect();
    assert!(agreed.len() == 2 && agreed.iter().all(|agent| agent.starts_with("honest")), "{done:#?}");
    let why = terminal.run(&["task", &id, "--why", "--endpoint", &endpoint]).await;
    assert!(why.success().contains("2 of 3 agents must give the same output at \"/total\""), "{why:?}");
    let tasks = terminal.run(&["tasks", "--endpoint", &endpoint]).await;
    assert_eq!(tasks.success().matches("sum").count(), 1, "only what was submitted is listed: {tasks:?}");

    let line = ["submit", "--kind", "sum", "--verify", "3/3", "--wait", "--endpoint", &endpoint];
    let disagreed = terminal.run(&line).await;
    assert_ne!(disagreed.code, Some(0), "{disagreed:?}");
    assert!(disagreed.stderr.contains("3 of 3 agents had to give the same output"), "{disagreed:?}");
}
