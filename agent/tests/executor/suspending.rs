//! Attached processes that are given the results of other tasks, and that ask for subtasks.

use std::time::Duration;

use robeing_agent::executor::{Attempt, Outcome, PassedEnd, PassedResult, Subtask};
use robeing_proto::worker::v1::{self as proto, GivenResult, ResultState, StoredOutput, Suspend, task_result};

use crate::{
    fixture::attempt,
    worker::{Agent, hello},
};

#[tokio::test]
async fn a_process_is_given_the_results_of_other_tasks_and_what_an_earlier_attempt_has_left() {
    let agent = Agent::new().await;
    let (mut process, _) = agent.say(vec![hello("mine")]).await.expect("it attaches");
    let result = |task_id: &str, end| PassedResult { task_id: task_id.to_owned(), end };
    let results = vec![
        result("one", PassedEnd::Succeeded("out".into())),
        result("two", PassedEnd::Failed("why".to_owned())),
        result("", PassedEnd::Cancelled("skipped".to_owned())),
        result("three", PassedEnd::Stored { sha256: "hash".into(), bytes: 5 << 20 }),
    ];
    let running = agent.run(Attempt { results, carried: "state".into(), ..attempt("in") });
    let task = process.task().await;
    let given = |task_id: &str, state: ResultState, output: &'static str, reason: &str| GivenResult {
        task_id: task_id.to_owned(),
        state: state.into(),
        output: output.into(),
        reason: reason.to_owned(),
        stored: None,
    };
    let all = [
        given("one", ResultState::Succeeded, "out", ""),
        given("two", ResultState::Failed, "", "why"),
        given("", ResultState::Cancelled, "", "skipped"),
        GivenResult {
            stored: Some(StoredOutput { sha256: "hash".into(), bytes: 5 << 20 }),
            ..given("three", ResultState::Succeeded, "", "")
        },
    ];
    assert_eq!((&task.results[..], &task.carried[..]), (&all[..], &b"state"[..]));
    process.answer(&task, task_result::Outcome::Output("done".into())).await;
    assert_eq!(running.end().await, Outcome::Succeeded { output: "done".into() });
}

#[tokio::test]
async fn a_process_that_asks_for_subtasks_ends_its_attempt() {
    let agent = Agent::new().await;
    let (mut process, _) = agent.say(vec![hello("mine")]).await.expect("it attaches");
    let running = agent.run(attempt("in"));
    let task = process.task().await;
    let asked = proto::Subtask {
        kind: "part".to_owned(),
        input: "a".into(),
        priority: 7,
        deadline_in_ms: 3_000,
        max_attempts: 2,
        depends_on: vec!["other".to_owned()],
        ..proto::Subtask::default()
    };
    let suspend = Suspend { subtasks: vec![asked, proto::Subtask::default()], carried: "state".into() };
    process.answer(&task, task_result::Outcome::Suspend(suspend)).await;
    let subtask = Subtask {
        kind: "part".to_owned(),
        input: "a".into(),
        priority: 7,
        deadline: Some(Duration::from_secs(3)),
        max_attempts: 2,
        depends_on: vec!["other".to_owned()],
        ..Subtask::default()
    };
    let subtasks = vec![subtask, Subtask::default()];
    assert_eq!(running.end().await, Outcome::Suspended { subtasks, carried: "state".into() });
}
