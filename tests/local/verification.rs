//! Verified results: a task runs on several agents, and one that lies is outvoted. All processes are real.

use robeing_proto::v1::{AttemptState, TaskState};
use robeing_tests::{
    documented::commands,
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

/// Adds pools of one agent each, which answer with a number that is right, almost right, and wrong.
fn with_numbers(spec: FleetSpec) -> FleetSpec {
    [("low", "0.999"), ("high", "1.001"), ("liar", "8")].into_iter().fold(spec, |spec, (name, number)| {
        spec.pool(PoolSpec::new(name, 1).executor(json!({"command": {"argv": ["/bin/echo", number]}})))
    })
}

#[tokio::test]
async fn numbers_agree_within_the_tolerance_of_a_command_that_compares_them() {
    let blocks = commands("docs/decisions.md", "Verified results");
    let [script, line] = &blocks[..] else { panic!("the guide shows {} blocks", blocks.len()) };
    let compares = json!({"command": {"argv": ["/bin/sh", "-c", script]}});
    let judges = PoolSpec::new("judge", 1).specialists("near").executor(compares);
    let fleet = Fleet::start(with_numbers(FleetSpec::new(3).pool(judges))).await;
    let (terminal, endpoint) = (Terminal::default(), fleet.endpoints().join(","));
    let words = line.split_whitespace().skip(1).filter(|word| *word != "--wait");
    let submit: Vec<&str> = words.chain(["--endpoint", &endpoint]).collect();
    let id = eventually("the task is accepted", async || {
        let ended = terminal.run(&submit).await;
        check(ended.code == Some(0), ended.stdout.trim().to_owned(), ended)
    })
    .await;
    let done = fleet.finished(&id, TaskState::Succeeded).await;
    assert!(["0.999\n", "1.001\n"].iter().any(|right| *done.output == *right.as_bytes()), "{done:#?}");
    let agent = |number: u32| done.attempts.iter().find(|attempt| attempt.number == number).map(|found| &*found.agent);
    assert!(done.comparisons.iter().any(|found| found.equal == Some(true)), "{done:#?}");
    for found in &done.comparisons {
        let is_lie =
            [found.one, found.other].into_iter().any(|one| agent(one).is_some_and(|name| name.starts_with("liar")));
        assert_eq!((found.equal, found.agent.starts_with("judge")), (Some(!is_lie), true), "{done:#?}");
    }
    let why = terminal.run(&["task", &id, "--why", "--endpoint", &endpoint]).await;
    assert!(
        why.success().contains("2 of 3 agents must give the same output, as tasks of the kind \"near\" say"),
        "{why:?}"
    );
    assert!(why.stdout.contains("are equal, says judge-"), "{why:?}");

    let line = ["submit", "--kind", "sum", "--role", "worker", "--verify", "2/3", "--verify-compare", "nobody"];
    let line: Vec<&str> = line.into_iter().chain(["--deadline", "3s", "--wait", "--endpoint", &endpoint]).collect();
    let late = terminal.run(&line).await;
    assert_ne!(late.code, Some(0), "{late:?}");
    assert!(late.stderr.contains("to be compared by an agent with the specialization \"nobody\""), "{late:?}");
}
