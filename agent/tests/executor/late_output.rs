//! Output that other processes of the group write after the command's own process has exited.

use std::{
    fs,
    time::{Duration, Instant},
};

use robeing_agent::executor::{Attempt, CommandConfig, CommandExecutor, Executor, FailureKind, Limits, Outcome};
use tokio_util::sync::CancellationToken;

use crate::fixture::{SOON, attempt, eventually, failure, kill, numbers, output, run, running};

/// Runs `script`; processes it leaves behind have `output_grace` to write.
fn with_grace(shell: &str, script: &str, output_grace: Duration) -> CommandExecutor {
    let argv = [shell, "-c", script].map(String::from).to_vec();
    let limits = Limits { output_grace, ..Limits::default() };
    CommandExecutor::new(CommandConfig { argv, limits, guard: None }).expect("a good configuration")
}

/// The same in bash, with the longest grace period of these tests.
fn bash(script: &str) -> CommandExecutor {
    with_grace("/bin/bash", script, SOON)
}

#[tokio::test]
async fn it_is_what_a_pipe_to_cat_would_have_given() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log").display().to_string();
    for (script, expected) in [
        (&*format!("exec > >(tee {log}); echo x"), "x\n"),
        ("echo two > >(sed s/two/TWO/)", "TWO\n"),
        ("{ sleep .2; echo late; } & exit 0", "late\n"),
        ("{ sleep .1; echo one; { sleep .1; echo two; } & } & echo zero", "zero\none\ntwo\n"),
        ("exec > >(tr a-z A-Z | tac); echo first; echo second", "SECOND\nFIRST\n"),
        ("exec 3>&1 >/dev/null; { sleep .2; echo by another number >&3; } & exit 0", "by another number\n"),
        ("nohup sh -c 'sleep .2; echo not hung up' 2>/dev/null & exit 0", "not hung up\n"),
        ("exec 3>&1; coproc { sleep .2; echo from a coprocess >&3; }; exit 0", "from a coprocess\n"),
        ("timeout 60 bash -c 'exec > >(sleep .2; cat); echo under a timeout'; exit 0", "under a timeout\n"),
        ("set -m; { sleep .2; echo a job; } & exit 0", "a job\n"),
        ("trap 'sleep .1; echo at the end' EXIT; echo x", "x\nat the end\n"),
    ] {
        assert_eq!(output(&bash(script), attempt("")).await, expected, "{script}");
        let cat = std::process::Command::new("/bin/bash").args(["-c", &format!("( {script} ) | cat")]).output();
        let cat = String::from_utf8(cat.expect("bash runs").stdout).expect("text");
        assert_eq!(cat, expected, "the test itself: {script}");
    }
    let plain = with_grace("/bin/sh", "exec 3<&0; { cat <&3; sleep .2; echo late; } & exit 0", SOON);
    assert_eq!(output(&plain, attempt("input ")).await, "input late\n");
}

#[tokio::test]
async fn much_of_it_is_taken_to_its_limit_and_no_further() {
    let lines = output(&bash("exec > >(cat); seq 1 100000"), attempt("")).await;
    assert!(lines.ends_with("99999\n100000\n") && lines.len() == 588_895, "{} bytes", lines.len());
    let failed = failure(&bash("yes & exit 0"), attempt("")).await;
    assert_eq!((failed.kind, failed.retryable), (FailureKind::OutputTooLarge, false));
}

#[tokio::test]
async fn the_last_words_of_a_failure_are_waited_for_too() {
    for script in [
        "exec 2> >(sed 's/^/error: /' >&2); echo gone wrong >&2; exit 3",
        "exec 2> >(sleep .1; sed 's/^/error: /' >&2); echo gone wrong >&2; exit 3",
        "{ sleep .1; echo error: gone wrong >&2; } & exit 3",
    ] {
        let failed = failure(&bash(script), attempt("")).await;
        assert_eq!((failed.code, &*failed.stderr_tail), (Some(3), "error: gone wrong\n"), "{script}");
    }
}

#[tokio::test]
async fn the_exit_code_is_the_commands_own() {
    let failed = failure(&bash("{ sleep .1; echo fine; exit 0; } & exit 4"), attempt("")).await;
    assert_eq!(failed.code, Some(4));
    assert_eq!(output(&bash("{ sleep .1; echo out; exit 9; } & exit 0"), attempt("")).await, "out\n");
}

#[tokio::test]
async fn it_is_waited_for_as_long_as_said_and_what_came_is_taken() {
    let task = attempt("");
    let executor = with_grace("/bin/sh", "{ echo some; sleep 600; echo never; } & exit 0", Duration::from_millis(500));
    assert_eq!(output(&executor, task.clone()).await, "some\n");
    assert_eq!(running(&task.task_id), Vec::<i32>::new());
    // The time limit cuts it short.
    let limited = Attempt { time_limit: Some(Duration::from_millis(500)), ..attempt("") };
    assert_eq!(output(&bash("{ echo some; sleep 600; } & exit 0"), limited).await, "some\n");
}

#[tokio::test]
async fn a_command_whose_children_closed_its_output_is_not_waited_for() {
    let task = attempt("");
    assert_eq!(output(&bash("sleep 600 >/dev/null & echo done"), task.clone()).await, "done\n");
    assert_eq!(running(&task.task_id), Vec::<i32>::new());
}

#[tokio::test]
async fn whoever_keeps_what_goes_to_stderr_has_time_for_it_after_a_success() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log").display().to_string();
    let script = format!("exec 2> >(sleep .2; cat > {log}); echo noted >&2; echo done");
    assert_eq!(output(&bash(&script), attempt("")).await, "done\n");
    assert_eq!(fs::read_to_string(log).expect("it was made"), "noted\n");
}

#[tokio::test]
async fn what_is_left_is_asked_to_end_before_it_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (ready, asked) = (directory.path().join("ready"), directory.path().join("asked"));
    let script = format!(
        "(trap 'echo asked > {}; exit' TERM; echo ready > {}; while :; do sleep .01; done) & exit 0",
        asked.display(),
        ready.display()
    );
    let (task, cancel) = (attempt(""), CancellationToken::new());
    let (executor, token) = (bash(&script), cancel.clone());
    let outcome = tokio::spawn(async move { executor.run(task, token).await });
    eventually("what was left behind can be asked", || ready.exists()).await;
    cancel.cancel();
    assert_eq!(tokio::time::timeout(SOON, outcome).await.expect("it ends").expect("no panic"), Outcome::Cancelled);
    assert_eq!(fs::read_to_string(asked).expect("it was asked"), "asked\n");
}

#[tokio::test]
async fn a_process_that_left_the_group_holds_nobody_up() {
    let directory = tempfile::tempdir().expect("a directory");
    for (index, leave) in
        ["setsid", "setsid -f", "perl -MPOSIX -e 'POSIX::setpgid(0,0); exec @ARGV' --"].iter().enumerate()
    {
        let pid_file = directory.path().join(index.to_string()).display().to_string();
        let script = format!(
            "{leave} sh -c 'echo $$ > {pid_file}; exec sleep 600' & while [ ! -s {pid_file} ]; do :; done; \
             {{ sleep .2; echo late; }} & exit 0"
        );
        let began = Instant::now();
        assert_eq!(output(&bash(&script), attempt("")).await, "late\n", "{leave}");
        assert!(began.elapsed() < SOON, "{leave}: it was waited for");
        for daemon in numbers(&fs::read_to_string(pid_file).expect("a pid")) {
            assert!(crate::fixture::alive(daemon), "{leave}: it is out of reach");
            kill(daemon);
        }
    }
}

#[tokio::test]
async fn an_attempt_that_is_cancelled_meanwhile_ends_at_once() {
    let (task, cancel) = (attempt(""), CancellationToken::new());
    let (executor, token, id) = (bash("sleep 600 & exit 0"), cancel.clone(), task.task_id.clone());
    let outcome = tokio::spawn(async move { executor.run(task, token).await });
    eventually("only what was left behind runs", || running(&id).len() == 1).await;
    cancel.cancel();
    assert_eq!(tokio::time::timeout(SOON, outcome).await.expect("it ends").expect("no panic"), Outcome::Cancelled);
    assert_eq!(running(&id), Vec::<i32>::new());
}

#[tokio::test]
async fn hundreds_of_them_at_once_each_give_theirs() {
    let executor = with_grace("/bin/sh", "n=$(cat); { sleep .5; echo $n; } & exit 0", SOON);
    let all = futures::future::join_all((0..200).map(|n| run(&executor, attempt(n.to_string())))).await;
    for (n, outcome) in all.into_iter().enumerate() {
        assert_eq!(outcome, Outcome::Succeeded { output: format!("{n}\n").into() });
    }
}
