//! What attempts say while they run: lines and progress of commands and of attached processes.

use robeing_agent::executor::{
    AttemptLog, CommandConfig, CommandExecutor, Executor, Limits, LogStream, Outcome,
    attempt_log::{MAX_LINES, Progress},
};
use robeing_proto::worker::v1::{self as worker, FromProcess, TaskLog, TaskProgress, from_process};
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{SOON, attempt, eventually, limits, logged, output, shell},
    worker::{Agent, hello, output as answer},
};

fn lines(log: &AttemptLog) -> Vec<(LogStream, String)> {
    log.read(0, usize::MAX).lines.into_iter().map(|line| (line.stream, line.text)).collect()
}

fn line(stream: LogStream, text: &str) -> (LogStream, String) {
    (stream, text.to_owned())
}

#[tokio::test]
async fn the_lines_of_a_command_are_kept_while_it_runs_and_its_output_is_what_it_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let gate = directory.path().join("gate");
    let script = format!(
        "echo one; echo ::progress 0.5 half >&2; while ! [ -e {} ]; do sleep 0.01; done; echo problem >&2; printf two",
        gate.display()
    );
    let (task, log) = logged(attempt(""));
    let executor = shell(&script);
    let running = tokio::spawn(async move { output(&executor, task).await });
    eventually("the first line is there", || log.next() == 1 && log.progress_after(0).is_some()).await;
    assert_eq!(lines(&log), [line(LogStream::Stdout, "one")]);
    let half = Progress { fraction: 0.5, text: "half".to_owned() };
    assert_eq!(log.progress_after(0), Some((half, 1)));
    std::fs::write(&gate, "").expect("it can be written");
    assert_eq!(running.await.expect("no panic"), "one\ntwo");
    log.end();
    let mut kept = lines(&log);
    // The two streams are read in no certain order.
    kept[1..].sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(kept[1..], [line(LogStream::Stderr, "problem"), line(LogStream::Stdout, "two")]);
}

#[tokio::test]
async fn a_command_that_writes_much_keeps_the_newest_lines() {
    let (task, log) = logged(attempt(""));
    let count = MAX_LINES * 3;
    output(&shell(&format!("i=0; while [ $i -lt {count} ]; do echo $i; i=$((i+1)); done")), task).await;
    let kept = log.read(0, usize::MAX);
    assert_eq!((log.next(), kept.first + kept.lines.len() as u64), (count as u64, count as u64));
    assert!(kept.lines.len() <= MAX_LINES && kept.lines.len() > 100, "{} lines", kept.lines.len());
    assert_eq!(kept.lines.last().map(|line| line.text.clone()), Some((count - 1).to_string()));
}

#[tokio::test]
async fn what_a_command_says_when_it_is_cancelled_is_kept_too() {
    let (task, log) = logged(attempt(""));
    let cancel = CancellationToken::new();
    let script = "trap 'echo cleaning up >&2; exit 1' TERM; echo ready >&2; while :; do sleep 0.01; done";
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let limits = Limits { kill_grace: SOON, ..limits() };
    let executor = CommandExecutor::new(CommandConfig { argv, limits, guard: None }).expect("a good configuration");
    let token = cancel.clone();
    let running = tokio::spawn(async move { executor.run(task, token).await });
    eventually("it is ready", || log.next() == 1).await;
    cancel.cancel();
    let outcome = tokio::time::timeout(SOON, running).await.expect("it ends").expect("no panic");
    assert_eq!(outcome, Outcome::Cancelled);
    assert!(lines(&log).contains(&line(LogStream::Stderr, "cleaning up")), "{:?}", lines(&log));
}

#[tokio::test]
async fn lines_and_progress_of_an_attached_process_are_those_of_the_attempt_that_it_runs() {
    let agent = Agent::new().await;
    let (mut process, _) = agent.say(vec![hello("mine")]).await.expect("it attaches");
    let (other, _) = agent.say(vec![hello("another")]).await.expect("it attaches");
    let (asked, log) = logged(attempt("work"));
    let running = agent.run(asked);
    let task = process.task().await;
    let say = |message| FromProcess { message: Some(message) };
    let text = |text: &str, attempt| {
        let lines = vec![text.to_owned(), format!("{text} again")];
        say(from_process::Message::Log(TaskLog { task_id: task.task_id.clone(), attempt, lines }))
    };
    let progress = Some(worker::Progress { fraction: 2.0, text: "nearly".into() });
    let progress = TaskProgress { task_id: task.task_id.clone(), attempt: task.attempt, progress };
    let not_its_own = text("of another process", task.attempt);
    other.outgoing.send(not_its_own).await.expect("it is attached");
    for message in [
        text("of another attempt", task.attempt + 1),
        text("a line", task.attempt),
        say(from_process::Message::Progress(progress)),
    ] {
        process.outgoing.send(message).await.expect("it is attached");
    }
    eventually("it is told", || log.progress_after(0).is_some()).await;
    assert_eq!(lines(&log), [line(LogStream::Worker, "a line"), line(LogStream::Worker, "a line again")]);
    let nearly = Progress { fraction: 1.0, text: "nearly".to_owned() };
    assert_eq!(log.progress_after(0).map(|(progress, _)| progress), Some(nearly));
    process.answer(&task, answer(1)).await;
    running.end().await;
}
