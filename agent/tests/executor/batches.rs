//! Processes that take and send several messages in one.

use robeing_agent::executor::{
    Outcome,
    worker::{MAX_BATCH, MAX_BATCH_SUBTASKS},
};
use robeing_proto::worker::v1::{
    FromProcess, FromProcessBatch, Hello, Progress, Subtask, Suspend, Task, TaskLog, TaskProgress, TaskResult,
    from_process, task_result, to_process,
};
use tonic::Code;

use crate::{
    fixture::{attempt, logged},
    worker::{Agent, Process, Running, hello, output},
};

fn takes_batches() -> FromProcess {
    let hello = Hello { name: "mine".into(), takes_batches: true, ..Hello::default() };
    FromProcess { message: Some(from_process::Message::Hello(hello)) }
}

fn batch(batch: FromProcessBatch) -> FromProcess {
    FromProcess { message: Some(from_process::Message::Batch(batch)) }
}

fn result(task: &Task, outcome: task_result::Outcome) -> TaskResult {
    TaskResult { task_id: task.task_id.clone(), attempt: task.attempt, outcome: Some(outcome) }
}

/// Returns the tasks that a process is given, each batch or single one by itself, until it has so many.
async fn tasks(process: &mut Process, count: usize) -> Vec<Vec<Task>> {
    let mut given: Vec<Vec<Task>> = Vec::new();
    while given.iter().map(Vec::len).sum::<usize>() < count {
        given.push(match process.next().await.expect("it is attached") {
            to_process::Message::Task(task) => vec![task],
            to_process::Message::Batch(batch) => batch.tasks,
            other => panic!("expected tasks, got {other:?}"),
        });
    }
    given
}

#[tokio::test]
async fn tasks_and_results_of_a_process_that_takes_batches_go_together() {
    let agent = Agent::new().await;
    let (mut process, welcome) = agent.say(vec![takes_batches()]).await.expect("it attaches");
    assert!(welcome.takes_batches);
    let running: Vec<Running> = (0..8).map(|_| agent.run(attempt(""))).collect();
    let given = tasks(&mut process, 8).await;
    assert!(given.len() < 8, "some were given together: {given:?}");
    let results = given.iter().flatten().map(|task| result(task, output(1))).collect();
    let results = FromProcessBatch { results, ..FromProcessBatch::default() };
    process.outgoing.send(batch(results)).await.expect("it is attached");
    for running in running {
        assert_eq!(running.end().await, Outcome::Succeeded { output: "x".into() });
    }
}

#[tokio::test]
async fn a_process_that_takes_no_batches_gets_each_task_by_itself() {
    let agent = Agent::new().await;
    let (mut old, _) = agent.say(vec![hello("old")]).await.expect("it attaches");
    let running: Vec<Running> = (0..8).map(|_| agent.run(attempt(""))).collect();
    for _ in &running {
        let task = old.task().await;
        old.answer(&task, output(1)).await;
    }
    for running in running {
        assert_eq!(running.end().await, Outcome::Succeeded { output: "x".into() });
    }
}

#[tokio::test]
async fn what_a_batch_says_of_an_attempt_counts_before_its_result() {
    let agent = Agent::new().await;
    let (mut process, _) = agent.say(vec![hello("mine")]).await.expect("it attaches");
    let (asked, log) = logged(attempt(""));
    let running = agent.run(asked);
    let task = process.task().await;
    let (task_id, attempt) = (task.task_id.clone(), task.attempt);
    let progress = Some(Progress { fraction: 0.5, text: "half".into() });
    let said = FromProcessBatch {
        progress: vec![TaskProgress { task_id: task_id.clone(), attempt, progress }],
        logs: vec![TaskLog { task_id, attempt, lines: vec!["one".into()] }],
        results: vec![result(&task, output(1))],
    };
    process.outgoing.send(batch(said)).await.expect("it is attached");
    assert_eq!(running.end().await, Outcome::Succeeded { output: "x".into() });
    assert_eq!(log.progress_after(0).map(|(progress, _)| progress.text), Some("half".into()));
    assert_eq!(log.read(0, usize::MAX).lines.iter().map(|line| &*line.text).collect::<Vec<_>>(), ["one"]);
}

#[tokio::test]
async fn a_batch_of_more_than_so_many_messages_ends_the_stream() {
    let agent = Agent::new().await;
    let late = |results, logs| {
        let (results, logs) = (vec![TaskResult::default(); results], vec![TaskLog::default(); logs]);
        batch(FromProcessBatch { results, logs, ..FromProcessBatch::default() })
    };
    let (mut process, _) = agent.say(vec![hello("mine"), late(MAX_BATCH - 1, 1)]).await.expect("it attaches");
    let running = agent.run(attempt(""));
    let task = process.task().await;
    process.answer(&task, output(1)).await;
    assert_eq!(running.end().await, Outcome::Succeeded { output: "x".into() }, "it is still attached");
    process.outgoing.send(late(MAX_BATCH, 1)).await.expect("it is attached");
    let end = process.next().await.expect_err("it ends");
    assert_eq!(end.code(), Code::InvalidArgument, "{end:?}");
    let problem = format!("a batch of {} messages, the limit is {MAX_BATCH}; ", MAX_BATCH + 1);
    assert!(end.message().starts_with(&problem), "{end:?}");
}

#[tokio::test]
async fn a_batch_that_asks_for_more_than_so_many_subtasks_ends_the_stream() {
    let agent = Agent::new().await;
    let asking = |counts: [usize; 2]| {
        let asks = |count| {
            let asked = Suspend { subtasks: vec![Subtask::default(); count], ..Suspend::default() };
            TaskResult { outcome: Some(task_result::Outcome::Suspend(asked)), ..TaskResult::default() }
        };
        batch(FromProcessBatch { results: counts.map(asks).to_vec(), ..FromProcessBatch::default() })
    };
    let late = asking([MAX_BATCH_SUBTASKS - 1, 1]);
    let (mut process, _) = agent.say(vec![hello("mine"), late]).await.expect("it attaches");
    let running = agent.run(attempt(""));
    let task = process.task().await;
    process.answer(&task, output(1)).await;
    assert_eq!(running.end().await, Outcome::Succeeded { output: "x".into() }, "it is still attached");
    process.outgoing.send(asking([MAX_BATCH_SUBTASKS, 1])).await.expect("it is attached");
    let end = process.next().await.expect_err("it ends");
    assert_eq!(end.code(), Code::InvalidArgument, "{end:?}");
    assert!(end.message().starts_with("a batch that asks for 10001 subtasks, the limit is 10000; "), "{end:?}");
}
