//! Workflows, parts of tasks and what depends on others, as users submit them. All processes are real.

use robeing_client::FleetClient;
use robeing_proto::v1::{ListSubtasksRequest, Task, TaskState};
use robeing_tests::{
    documented::blocks,
    fleet::{Fleet, FleetSpec, PoolSpec},
    terminal::Terminal,
    wait::{check, eventually},
};
use serde_json::json;

struct Person {
    terminal: Terminal,
    endpoints: String,
}

impl Person {
    /// Submits a task, once the fleet has agreed on a version with links, and returns its id.
    async fn submit(&self, line: &[&str]) -> String {
        let line = [&["submit"][..], line, &["--endpoint", &self.endpoints]].concat();
        eventually("the task is accepted", async || {
            let ended = self.terminal.run(&line).await;
            check(ended.code == Some(0), ended.stdout.trim().to_owned(), ended)
        })
        .await
    }
}

/// Starts a fleet whose agents give the input of each task as its output, and fail those whose input is `no`.
async fn start() -> (Fleet, Person) {
    let command = r#"input=$(cat); printf %s "$input"; [ "$input" != no ] || exit 65"#;
    let echo = json!({"command": {"argv": ["/bin/sh", "-c", command]}});
    let fleet = Fleet::start(FleetSpec::new(3).pool(PoolSpec::new("work", 2).executor(echo))).await;
    let person = Person { terminal: Terminal::default(), endpoints: fleet.endpoints().join(",") };
    (fleet, person)
}

async fn parts(client: &FleetClient, id: &str) -> Vec<Task> {
    let request = ListSubtasksRequest { id: id.to_owned(), include_output: true, ..ListSubtasksRequest::default() };
    client.list_subtasks(request).await.expect("it is known").tasks
}

fn outputs(tasks: &[Task]) -> Vec<String> {
    tasks.iter().map(|task| String::from_utf8_lossy(&task.output).into_owned()).collect()
}

#[tokio::test]
async fn the_workflow_of_the_guide_passes_results_from_step_to_step() {
    let (fleet, person) = start().await;
    let shown = blocks("docs/tasks.md", "Workflows", "yaml");
    let [workflow] = &shown[..] else { panic!("the guide shows {} workflows", shown.len()) };
    person.terminal.write("nightly.yaml", workflow);
    let id = person.submit(&["-f", "nightly.yaml"]).await;
    fleet.finished(&id, TaskState::Succeeded).await;
    let steps = parts(&fleet.client(), &id).await;
    assert_eq!(outputs(&steps), ["words: ", "words: ", "onetwothree", "words: onetwothree"], "{steps:#?}");
    let tree = person.terminal.run(&["task", &id, "--tree", "--endpoint", &person.endpoints]).await;
    let lines: Vec<&str> = tree.success().lines().collect();
    assert_eq!(lines.len(), 1 + 4 + 3, "the task, its steps, and the parts of one: {lines:#?}");
    assert!(lines[0].starts_with("nightly") && lines.iter().any(|line| line.contains("report")), "{lines:#?}");
}

#[tokio::test]
async fn the_parts_of_a_step_are_given_what_the_step_before_it_returned() {
    let (fleet, person) = start().await;
    let steps = "[{name: first, input: \"a \"}, {name: each, inputs: [\"b \", \"c \"], join: reduce}]";
    person.terminal.write("pipeline.yaml", &format!("{{kind: line, strategy: pipeline, steps: {steps}}}"));
    let id = person.submit(&["-f", "pipeline.yaml"]).await;
    fleet.finished(&id, TaskState::Succeeded).await;
    assert_eq!(outputs(&parts(&fleet.client(), &id).await), ["a ", "a b a c a "]);
}

#[tokio::test]
async fn lines_become_parts_which_are_reduced_and_a_failure_decides_what_becomes_of_others() {
    let (fleet, person) = start().await;
    person.terminal.write("pages.jsonl", "\"a\"\n\"b\"\n\"c\"\n");
    let reduce = ["--join", "reduce", "--reduce-kind", "sum", "--results-as-input"];
    let line = [&["--kind", "count", "--inputs", "pages.jsonl", "--split"][..], &reduce].concat();
    let sum = person.submit(&line).await;
    let sum = fleet.finished(&sum, TaskState::Succeeded).await;
    assert_eq!(outputs(&[sum]), ["abc"]);

    person.terminal.write("no", "no");
    let failing = person.submit(&["--kind", "count", "--input", "no"]).await;
    let all = [("", TaskState::Failed), (":skip", TaskState::Cancelled), (":run", TaskState::Succeeded)];
    for (on_failure, state) in all {
        let after = format!("{failing}{on_failure}");
        let id = person.submit(&["--kind", "count", "--depends-on", &after]).await;
        let ended = fleet.finished(&id, state).await;
        assert_eq!(ended.attempts.is_empty(), state != TaskState::Succeeded, "{ended:#?}");
    }
}
