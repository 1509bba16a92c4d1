//! Commands that are stopped: cancelled, timed out, dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use robeing_agent::executor::{Attempt, CommandConfig, CommandExecutor, Executor, FailureKind, Limits, Outcome};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fixture::{SOON, attempt, eventually, failure, limits, running, shell};

/// A shell command that is running: its script has created the file `ready` in its directory.
struct Started {
    task_id: String,
    directory: TempDir,
    cancel: CancellationToken,
    outcome: JoinHandle<Outcome>,
}

impl Started {
    /// `script` finds its directory in `$0`.
    async fn new(script: &str, limits: Limits) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let argv = ["/bin/sh", "-c", script, directory.path().to_str().expect("UTF-8")];
        let argv = argv.map(String::from).to_vec();
        let executor =
            Arc::new(CommandExecutor::new(CommandConfig { argv, limits, guard: None }).expect("a good configuration"));
        let (task, cancel) = (attempt(""), CancellationToken::new());
        let task_id = task.task_id.clone();
        let token = cancel.clone();
        let outcome = tokio::spawn(async move { executor.run(task, token).await });
        let started = Self { task_id, directory, cancel, outcome };
        let ready = started.file("ready");
        eventually("the command is ready", || ready.exists()).await;
        started
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::join(self.directory.path(), name)
    }

    async fn cancelled(self) -> (Outcome, TempDir) {
        self.cancel.cancel();
        let outcome = tokio::time::timeout(SOON, self.outcome).await.expect("it must end once cancelled");
        assert_eq!(running(&self.task_id), Vec::<i32>::new(), "nothing may run once `run` has returned");
        (outcome.expect("no panic"), self.directory)
    }
}

#[tokio::test]
async fn a_cancelled_command_ends_with_all_it_started() {
    let started = Started::new("sleep 600 & (sleep 600 & sleep 600) & >$0/ready; wait", limits()).await;
    let all = || running(&started.task_id).len() >= 4;
    eventually("the shell and all three sleeps are running", all).await;
    assert_eq!(started.cancelled().await.0, Outcome::Cancelled);
}

#[tokio::test]
async fn a_command_may_clean_up_on_sigterm_and_print_while_it_does() {
    // `wait`, because a shell that is forking may lose the signal.
    let script = "trap 'seq 1 100000; >$0/clean; exit 0' TERM; sleep 600 & >$0/ready; wait";
    // The grace period is long, so that the test only ends early if the clean-up ends the command.
    let started = Started::new(script, Limits { kill_grace: SOON, ..Limits::default() }).await;
    let (outcome, directory) = started.cancelled().await;
    assert_eq!(outcome, Outcome::Cancelled);
    assert!(directory.path().join("clean").exists(), "the command's clean-up must run to its end");
}

#[tokio::test]
async fn a_command_that_ignores_sigterm_is_killed_with_all_it_started() {
    let script = "trap '' TERM; (trap '' TERM; sleep 600) & sleep 600 & >$0/ready; while :; do sleep 600; done";
    let started = Started::new(script, limits()).await;
    assert_eq!(started.cancelled().await.0, Outcome::Cancelled);
}

#[tokio::test]
async fn a_child_that_ignores_sigterm_does_not_outlive_a_leader_that_obeys() {
    let script = "(trap '' TERM; >$0/ready; while :; do sleep 600; done) & exec sleep 600";
    let started = Started::new(script, Limits { kill_grace: SOON, ..Limits::default() }).await;
    assert_eq!(started.cancelled().await.0, Outcome::Cancelled);
}

#[tokio::test]
async fn a_command_that_is_cancelled_in_the_moment_it_starts_is_ended_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().display().to_string();
    let script = "trap '>$0/clean; exit 0' TERM; sleep 600 & >$0/ready; wait";
    let argv = ["/bin/sh", "-c", script, &path].map(String::from).to_vec();
    let limits = Limits { kill_grace: SOON, ..Limits::default() };
    let executor = CommandExecutor::new(CommandConfig { argv, limits, guard: None }).expect("good");
    let (task, cancel) = (attempt(""), CancellationToken::new());
    let mut run = std::pin::pin!(executor.run(task.clone(), cancel.clone()));
    assert!(futures::poll!(run.as_mut()).is_pending());
    // The command runs, but the executor has not been polled since it requested the start.
    let give_up = std::time::Instant::now() + SOON;
    while !directory.path().join("ready").exists() {
        assert!(std::time::Instant::now() < give_up, "the command must start");
        std::thread::yield_now();
    }
    cancel.cancel();
    assert_eq!(run.await, Outcome::Cancelled);
    assert_eq!(running(&task.task_id), Vec::<i32>::new(), "nothing may run once `run` has returned");
    assert!(directory.path().join("clean").exists(), "it must have had its grace");
}

#[tokio::test]
async fn an_attempt_that_is_cancelled_before_it_starts_starts_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("started");
    let executor = shell(&format!("> {}", file.display()));
    let cancel = CancellationToken::new();
    cancel.cancel();
    assert_eq!(executor.run(attempt(""), cancel).await, Outcome::Cancelled);
    // The same executor runs this attempt later, so a file of the first would exist by now.
    crate::fixture::output(&executor, attempt("")).await;
    fs::remove_file(&file).expect("the second attempt creates the file");
    assert!(!file.exists());
}

#[tokio::test]
async fn past_its_time_limit_a_command_is_killed_and_its_last_words_are_kept() {
    let task = Attempt { time_limit: Some(Duration::from_millis(300)), ..attempt("") };
    let script = "trap '' TERM; echo some output; echo still at it >&2; while :; do sleep 600; done";
    let failed = failure(&shell(script), task.clone()).await;
    assert_eq!((failed.kind, failed.code, failed.retryable), (FailureKind::TimedOut, None, true));
    assert_eq!(failed.message, "the attempt was stopped at its time limit of 300ms");
    assert_eq!(failed.stderr_tail, "still at it\n");
    assert_eq!(running(&task.task_id), Vec::<i32>::new());
}

#[tokio::test]
async fn time_limits_at_both_ends_of_the_clock_are_taken_as_they_are() {
    let none_left = Attempt { time_limit: Some(Duration::ZERO), ..attempt("") };
    assert_eq!(failure(&shell("sleep 600"), none_left).await.kind, FailureKind::TimedOut);
    let endless = Attempt { time_limit: Some(Duration::MAX), ..attempt("") };
    assert_eq!(crate::fixture::output(&shell("echo done"), endless).await, "done\n");
}

#[tokio::test]
async fn dropping_the_future_kills_the_group() {
    let script = "trap '' TERM; (trap '' TERM; sleep 600) & sleep 600 & >$0/ready; while :; do sleep 600; done";
    let started = Started::new(script, Limits { kill_grace: SOON, ..Limits::default() }).await;
    started.outcome.abort();
    eventually("the whole group is gone", || running(&started.task_id).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn futures_dropped_while_their_commands_start_leave_nothing() {
    let executor = Arc::new(shell("sleep 600 & sleep 600"));
    let task = attempt("");
    for yields in 0..40 {
        let (executor, task) = (Arc::clone(&executor), task.clone());
        let run = tokio::spawn(async move { executor.run(task, CancellationToken::new()).await });
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        run.abort();
    }
    // Once this command has run, so has every start that was requested before.
    assert!(matches!(executor.run(attempt(""), ended_soon()).await, Outcome::Cancelled));
    eventually("nothing of the dropped attempts runs", || running(&task.task_id).is_empty()).await;
}

fn ended_soon() -> CancellationToken {
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    tokio::spawn(async move {
        tokio::task::yield_now().await;
        token.cancel();
    });
    cancel
}
