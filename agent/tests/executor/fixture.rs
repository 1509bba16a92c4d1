//! Shared by the tests: attempts, shell commands, and checks of which processes exist.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use robeing_agent::executor::{
    Attempt, AttemptLog, CommandConfig, CommandExecutor, Deadline, Executor, Failure, Limits, Outcome,
    attempt_log::MAX_LOG_BYTES,
};
use robeing_platform::Platform;
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// How long these tests wait for anything at most, on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);

/// 2026-11-23T10:00:00.123Z, a second and a half from now.
pub const DEADLINE: Deadline = Deadline { left: Duration::from_millis(1_500), unix_ms: 1_795_428_000_123 };

/// An attempt at a task whose id no other test uses.
pub fn attempt(input: impl Into<Bytes>) -> Attempt {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Attempt {
        task_id: format!("task-{}-{number}", std::process::id()),
        attempt: 1,
        kind: "test".into(),
        input: input.into(),
        deadline: None,
        time_limit: None,
        allowance: None,
        results: Vec::new(),
        carried: Bytes::new(),
        log: AttemptLog::default(),
    }
}

/// Returns the same attempt with a log that keeps what it says, and that log.
pub fn logged(attempt: Attempt) -> (Attempt, AttemptLog) {
    let log = AttemptLog::new(Platform::real().clock, Arc::new(Notify::new()), MAX_LOG_BYTES);
    (Attempt { log: log.clone(), ..attempt }, log)
}

pub fn limits() -> Limits {
    let (kill_grace, output_grace) = (Duration::from_millis(50), Duration::from_millis(50));
    Limits { kill_grace, output_grace, ..Limits::default() }
}

pub fn command(argv: &[&str]) -> CommandExecutor {
    let argv = argv.iter().map(ToString::to_string).collect();
    CommandExecutor::new(CommandConfig { argv, limits: limits(), guard: None }).expect("a good configuration")
}

pub fn shell(script: &str) -> CommandExecutor {
    command(&["/bin/sh", "-c", script])
}

/// Runs an attempt that is not cancelled.
pub async fn run(executor: &impl Executor, attempt: Attempt) -> Outcome {
    tokio::time::timeout(SOON, executor.run(attempt, CancellationToken::new()))
        .await
        .expect("the attempt must end by itself")
}

/// Runs an attempt that must succeed, and returns its output as text.
pub async fn output(executor: &impl Executor, attempt: Attempt) -> String {
    match run(executor, attempt).await {
        Outcome::Succeeded { output } => String::from_utf8(output.to_vec()).expect("text"),
        other => panic!("expected success, got {other:?}"),
    }
}

/// Runs an attempt that must fail.
pub async fn failure(executor: &impl Executor, attempt: Attempt) -> Failure {
    match run(executor, attempt).await {
        Outcome::Failed(failure) => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < give_up, "waited {SOON:?} in vain until {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Returns the running processes that were started for a task, in any process group or session.
pub fn running(task_id: &str) -> Vec<i32> {
    let wanted = format!("ROBEING_TASK_ID={task_id}");
    let environment = |pid: i32| fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    pids()
        .into_iter()
        .filter(|pid| environment(*pid).split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()))
        .collect()
}

/// The state letter of a process, such as `S` or `Z`; none if there is no such process.
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Whether a process exists and is not a zombie.
pub fn alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

pub fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

/// Kills the rest of the process group that a process leads or led.
pub fn kill_group(leader: i32) {
    let leader = nix::unistd::Pid::from_raw(leader);
    let _ = nix::sys::signal::killpg(leader, nix::sys::signal::Signal::SIGKILL);
}

/// Parses one number per line.
pub fn numbers(text: &str) -> Vec<i32> {
    text.lines().map(|line| line.trim().parse().expect("a number a line")).collect()
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}
