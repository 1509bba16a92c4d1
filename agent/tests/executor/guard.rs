//! What becomes of commands when their agent is killed.
//!
//! An agent to be killed has to be a process: this test binary, run again for the one test that plays the part.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use robeing_agent::executor::{CommandConfig, CommandExecutor, Executor, Guard, Outcome, guard};
use tokio_util::sync::CancellationToken;

use crate::fixture::{alive, attempt, eventually, kill, kill_group, limits, numbers, output, shell};

/// Which part this process plays; unset in an ordinary run of the tests.
const PART: &str = "ROBEING_TEST_PART";
/// Where the agent's commands report.
const DIRECTORY: &str = "ROBEING_TEST_DIRECTORY";

/// How long the agent that is stopped may let its commands run.
const LEASE: std::time::Duration = std::time::Duration::from_secs(3);

/// Ignores what can be ignored, has children, and writes all their pids to `$0`.
const STUBBORN: &str = "trap '' TERM HUP INT; sleep 600 & a=$!; (sleep 600 & echo $! >$0.sub; wait) & b=$!; \
     while [ ! -s $0.sub ]; do sleep 0.01; done; { echo $$; echo $a; echo $b; cat $0.sub; } >$0.tmp; \
     mv $0.tmp $0; while :; do sleep 600; done";

fn this_test(part: &str, test: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("this binary"));
    command.args(["--exact", test, "--nocapture"]).env(PART, part).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

struct Agent {
    process: Child,
    directory: tempfile::TempDir,
}

impl Agent {
    fn start(part: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let process = this_test(part, "guard::plays_the_agent")
            .env(DIRECTORY, directory.path())
            .spawn()
            .expect("the agent starts");
        Self { process, directory }
    }

    /// Waits until the command `name` has written its pids, and gives them.
    async fn pids(&self, name: &str) -> Vec<i32> {
        let file = self.directory.path().join(name);
        eventually(&format!("{name} has reported"), || file.exists()).await;
        numbers(&fs::read_to_string(file).expect("pids"))
    }

    fn stop(&self) {
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("to stop the agent");
    }

    fn kill(&mut self) {
        self.process.kill().expect("to kill the agent");
        self.process.wait().expect("the agent's end");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for file in fs::read_dir(self.directory.path()).into_iter().flatten().flatten() {
            for pid in fs::read_to_string(file.path()).unwrap_or_default().lines().filter_map(|l| l.parse().ok()) {
                kill_group(pid);
            }
        }
    }
}

#[tokio::test]
async fn a_killed_agent_takes_its_commands_and_its_guard_along() {
    let mut agent = Agent::start("agent");
    let pids = [agent.pids("first").await, agent.pids("guard").await].concat();
    assert!(pids.iter().all(|pid| alive(*pid)), "all of {pids:?} should be running");
    agent.kill();
    eventually(&format!("all of {pids:?} are gone"), || !pids.iter().any(|pid| alive(*pid))).await;
}

#[tokio::test]
async fn a_guard_that_died_is_replaced_and_its_successor_knows_every_group() {
    let mut agent = Agent::start("agent-that-lost-its-guard");
    let first = agent.pids("first").await;
    let second = agent.pids("second").await;
    let guards = agent.pids("guard").await;
    assert_ne!(guards[0], guards[1], "a new guard was expected");
    let pids = [first, second, vec![guards[1]]].concat();
    assert!(pids.iter().all(|pid| alive(*pid)), "all of {pids:?} should be running");
    agent.kill();
    eventually(&format!("all of {pids:?} are gone"), || !pids.iter().any(|pid| alive(*pid))).await;
}

#[tokio::test]
async fn a_guard_that_died_is_replaced_with_the_next_renewal_of_the_lease() {
    let mut agent = Agent::start("agent-that-renews-its-lease");
    let first = agent.pids("first").await;
    let guards = agent.pids("guard").await;
    assert_ne!(guards[0], guards[1], "a new guard was expected");
    // Only the new guard can end these: the command is the agent's child, and its descendants are not.
    let pids = [first, vec![guards[1]]].concat();
    assert!(pids.iter().all(|pid| alive(*pid)), "all of {pids:?} should be running");
    agent.kill();
    eventually(&format!("all of {pids:?} are gone"), || !pids.iter().any(|pid| alive(*pid))).await;
}

#[tokio::test]
async fn a_stopped_agents_commands_end_with_its_lease() {
    let mut agent = Agent::start("agent-that-is-stopped");
    let pids = agent.pids("first").await;
    agent.pids("guard").await;
    agent.stop();
    eventually(&format!("all of {pids:?} are gone"), || !pids.iter().any(|pid| alive(*pid))).await;
    agent.kill();
}

#[tokio::test]
async fn without_a_guard_the_commands_own_process_still_dies_with_the_agent() {
    let mut agent = Agent::start("agent-without-a-guard");
    let pids = agent.pids("first").await;
    agent.kill();
    eventually("the command is gone", || !alive(pids[0])).await;
}

#[tokio::test]
async fn a_group_is_registered_before_its_command_runs_and_forgotten_after() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    // In the guard's place, a program that writes down what it is told.
    let recorder = format!("exec cat > {}", log.display());
    let guard = Arc::new(Guard::spawn_with(Path::new("/bin/sh"), ["-c", &recorder]).expect("the recorder starts"));
    let argv = ["/bin/sh", "-c", "echo $$"].map(String::from).to_vec();
    let executor = CommandExecutor::new(CommandConfig { argv, limits: limits(), guard: Some(guard) })
        .expect("a good configuration");
    let pid = numbers(&output(&executor, attempt("")).await)[0];
    let expected = [pid.to_le_bytes(), (-pid).to_le_bytes()].concat();
    eventually("both records are there", || fs::read(&log).is_ok_and(|log| log.len() >= 8)).await;
    assert_eq!(fs::read(&log).expect("the log"), expected);
}

#[tokio::test]
async fn a_guard_that_can_not_be_started_is_an_error() {
    let missing = Path::new("/no/such/agent");
    assert_eq!(Guard::spawn(missing).expect_err("no such program").kind(), std::io::ErrorKind::NotFound);
    // And the executor goes on once one can be: nothing here depends on the failed start.
    assert_eq!(output(&shell("echo on"), attempt("")).await, "on\n");
}

/// Not a test but the guard's process, when a test asks for one.
#[test]
fn plays_the_guard() {
    if env::var_os(PART).is_some() {
        guard::main();
    }
}

/// Not a test but the agent's process, when a test asks for one.
#[tokio::test]
async fn plays_the_agent() {
    let Ok(part) = env::var(PART) else { return };
    let directory = PathBuf::from(env::var_os(DIRECTORY).expect("a directory"));
    let this_binary = env::current_exe().expect("this binary");
    let guard = (part != "agent-without-a-guard").then(|| {
        let guard = Guard::spawn_with(&this_binary, ["--exact", "guard::plays_the_guard", "--nocapture"]);
        Arc::new(guard.expect("the guard starts"))
    });
    let start = |name: &str| {
        let report = directory.join(name);
        let argv = ["/bin/sh", "-c", STUBBORN, report.to_str().expect("UTF-8")].map(String::from).to_vec();
        let config = CommandConfig { argv, limits: limits(), guard: guard.clone() };
        let executor = CommandExecutor::new(config).expect("a good configuration");
        let ran = tokio::spawn(async move { executor.run(attempt(""), CancellationToken::new()).await });
        (ran, report)
    };
    let (first, report) = start("first");
    eventually("the first command has reported", || report.exists()).await;
    if let (Some(guard), "agent-that-is-stopped") = (&guard, part.as_str()) {
        guard.lease(Some(LEASE));
    }
    let mut guards = guard.iter().map(|guard| guard.pid()).collect::<Vec<_>>();
    if let (Some(guard), "agent-that-lost-its-guard" | "agent-that-renews-its-lease") = (&guard, part.as_str()) {
        kill(guards[0].cast_signed());
        // The guard here is a test's process, whose first thread may be dead before the one that guards.
        let threads = || fs::read_dir(format!("/proc/{}/task", guards[0])).map_or(0, Iterator::count);
        let dead = || !alive(guards[0].cast_signed()) && threads() <= 1;
        eventually("the guard is dead", dead).await;
        if part == "agent-that-renews-its-lease" {
            guard.lease(Some(LEASE * 100));
        } else {
            let (second, report) = start("second");
            eventually("the second command has reported", || report.exists() || second.is_finished()).await;
        }
        guards.push(guard.pid());
    }
    let text: String = guards.iter().map(|pid| format!("{pid}\n")).collect();
    fs::write(directory.join("guard.tmp"), text).expect("to report");
    fs::rename(directory.join("guard.tmp"), directory.join("guard")).expect("to report");
    // Until the test kills this process.
    assert!(matches!(first.await, Ok(Outcome::Cancelled)), "nobody cancels the command");
}
