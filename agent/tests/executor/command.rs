//! What a command gets, and how its end is interpreted.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use robeing_agent::executor::{
    Attempt, CommandConfig, CommandExecutor, DEFAULT_MAX_OUTPUT, DEFAULT_STDERR_TAIL, Executor, ExecutorError,
    FailureKind, Outcome, PERMANENT_FAILURE_EXIT_CODE,
};

use crate::fixture::{DEADLINE, attempt, command, failure, kill, numbers, output, run, running, shell};

#[tokio::test]
async fn the_input_is_on_stdin_and_the_output_comes_from_stdout() {
    assert_eq!(output(&shell("wc -w"), attempt("four words of input")).await.trim(), "4");
    assert_eq!(command(&["true"]).name(), "command");
}

#[tokio::test]
async fn an_empty_input_is_an_empty_stdin() {
    assert_eq!(output(&command(&["cat"]), attempt("")).await, "");
}

#[tokio::test]
async fn the_largest_input_passes_through_unchanged() {
    let input: Vec<u8> = (0..DEFAULT_MAX_OUTPUT).map(|i| (i * 7 / 3) as u8).collect();
    let outcome = run(&command(&["cat"]), attempt(input.clone())).await;
    assert!(outcome == Outcome::Succeeded { output: input.into() }, "the output differs from the input");
}

#[tokio::test]
async fn the_task_is_described_in_the_environment() {
    let print = shell("echo $ROBEING_TASK_ID $ROBEING_ATTEMPT $ROBEING_KIND ${ROBEING_DEADLINE-unset}");
    let base = Attempt { task_id: "t-1".into(), attempt: 7, kind: "count".into(), ..attempt("") };
    assert_eq!(output(&print, base.clone()).await, "t-1 7 count unset\n");
    let with_deadline = Attempt { deadline: Some(DEADLINE), ..base };
    assert_eq!(output(&print, with_deadline).await, "t-1 7 count 2026-11-23T10:00:00.123Z\n");
}

#[tokio::test]
async fn a_command_leads_a_process_group_of_its_own() {
    let printed = output(&shell("echo $$; ps -o pgid= -p $$"), attempt("")).await;
    let [pid, group] = numbers(&printed)[..] else { panic!("two numbers expected: {printed}") };
    assert_eq!(pid, group);
}

#[tokio::test]
async fn a_nonzero_exit_is_a_failure_worth_another_attempt_with_the_end_of_stderr() {
    let failed = failure(&shell("echo to stdout; echo what went wrong >&2; exit 3"), attempt("")).await;
    assert_eq!((failed.kind, failed.code, failed.retryable), (FailureKind::Exit, Some(3), true));
    assert_eq!(failed.stderr_tail, "what went wrong\n");
    assert_eq!(failed.message, r#"the command "/bin/sh" exited with code 3"#);
}

#[tokio::test]
async fn one_exit_code_says_that_no_attempt_can_do_better() {
    let failed = failure(&shell(&format!("exit {PERMANENT_FAILURE_EXIT_CODE}")), attempt("")).await;
    assert_eq!((failed.code, failed.retryable), (Some(65), false));
}

#[tokio::test]
async fn only_the_tail_of_stderr_is_kept() {
    let failed = failure(&shell("seq 1 100000 >&2; exit 1"), attempt("")).await;
    assert!(failed.stderr_tail.ends_with("\n99999\n100000\n"), "got {:?}", failed.stderr_tail);
    assert_eq!(failed.stderr_tail.len(), DEFAULT_STDERR_TAIL);
}

#[tokio::test]
async fn a_signal_is_named() {
    let failed = failure(&shell("echo last words >&2; kill -SEGV $$"), attempt("")).await;
    assert_eq!((failed.kind, failed.code, failed.retryable), (FailureKind::Signal, Some(11), true));
    assert!(failed.message.contains("SIGSEGV (signal 11)"), "{}", failed.message);
    assert_eq!(failed.stderr_tail, "last words\n");
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_named_in_a_sentence() {
    for program in ["no-such-program-anywhere", "/no/such/program"] {
        let failed = failure(&command(&[program]), attempt("input")).await;
        assert_eq!((failed.kind, failed.retryable), (FailureKind::Spawn, true));
        let expected = format!("the command {program:?} does not exist on this agent");
        assert!(failed.message.starts_with(&expected), "{}", failed.message);
    }
}

#[tokio::test]
async fn a_command_that_may_not_be_executed_is_named_in_a_sentence() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = directory.path().join("script");
    fs::write(&script, "#!/bin/sh\n").expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).expect("permissions");
    let failed = failure(&command(&[script.to_str().expect("UTF-8")]), attempt("")).await;
    assert_eq!((failed.kind, failed.retryable), (FailureKind::Spawn, true));
    assert!(failed.message.contains("may not be executed by this agent; make it executable"), "{}", failed.message);
}

#[tokio::test]
async fn output_is_allowed_up_to_its_limit_and_not_a_byte_more() {
    let zeros = |count: usize| command(&["head", "-c", Box::leak(count.to_string().into_boxed_str()), "/dev/zero"]);
    match run(&zeros(DEFAULT_MAX_OUTPUT), attempt("")).await {
        Outcome::Succeeded { output } => assert_eq!(output.len(), DEFAULT_MAX_OUTPUT),
        other => panic!("expected success, got {other:?}"),
    }
    let failed = failure(&zeros(DEFAULT_MAX_OUTPUT + 1), attempt("")).await;
    assert_eq!((failed.kind, failed.retryable), (FailureKind::OutputTooLarge, false));
    assert!(failed.message.contains("more than 1048576 bytes to stdout"), "{}", failed.message);
}

#[tokio::test]
async fn a_command_that_prints_without_end_is_killed_and_takes_no_memory() {
    let before = peak_memory();
    for script in ["head -c 400000000 /dev/zero; sleep 600", "trap '' TERM PIPE; yes & yes; wait"] {
        let task = attempt("");
        let failed = failure(&shell(script), task.clone()).await;
        assert_eq!(failed.kind, FailureKind::OutputTooLarge, "{script}");
        assert_eq!(running(&task.task_id), Vec::<i32>::new(), "{script}");
    }
    let grown = peak_memory() - before;
    assert!(grown < 200 << 20, "the memory grew by {grown} bytes for 400 MB of output");
}

#[tokio::test]
async fn stderr_without_end_takes_no_memory_either() {
    let before = peak_memory();
    let failed = failure(&shell("head -c 400000000 /dev/zero >&2; exit 9"), attempt("")).await;
    assert_eq!((failed.code, failed.stderr_tail.len()), (Some(9), DEFAULT_STDERR_TAIL));
    let grown = peak_memory() - before;
    assert!(grown < 200 << 20, "the memory grew by {grown} bytes for 400 MB of stderr");
}

#[tokio::test]
async fn a_command_need_not_read_its_input() {
    let megabyte = vec![b'x'; 1 << 20];
    assert_eq!(output(&command(&["true"]), attempt(megabyte.clone())).await, "");
    assert_eq!(output(&shell("exec <&-; echo closed"), attempt(megabyte.clone())).await, "closed\n");
    assert_eq!(output(&shell("head -c 5"), attempt(megabyte.clone())).await, "xxxxx");
    // A command that neither reads nor exits: the full pipe must not hide its time limit.
    let stuck = Attempt { time_limit: Some(Duration::from_millis(100)), ..attempt(megabyte) };
    assert_eq!(failure(&command(&["sleep", "600"]), stuck).await.kind, FailureKind::TimedOut);
}

#[tokio::test]
async fn children_left_behind_with_the_output_open_are_killed_and_not_waited_for() {
    let task = attempt("");
    let script = "(trap '' TERM HUP; sleep 600) & sleep 600 & echo done; exit 0";
    assert_eq!(output(&shell(script), task.clone()).await, "done\n");
    assert_eq!(running(&task.task_id), Vec::<i32>::new());
}

#[tokio::test]
async fn a_process_that_left_the_group_does_not_hold_the_attempt() {
    let directory = tempfile::tempdir().expect("a directory");
    let pid_file = directory.path().join("pid").display().to_string();
    let script = format!(
        "setsid sh -c 'echo $$ > {pid_file}; exec sleep 600' & while [ ! -s {pid_file} ]; do :; done; echo done"
    );
    assert_eq!(output(&shell(&script), attempt("")).await, "done\n");
    for escaped in numbers(&fs::read_to_string(pid_file).expect("a pid")) {
        kill(escaped);
    }
}

#[tokio::test]
async fn a_task_that_no_environment_can_carry_is_refused() {
    let failed = failure(&command(&["true"]), Attempt { kind: "a\0b".into(), ..attempt("") }).await;
    assert_eq!((failed.kind, failed.retryable), (FailureKind::InvalidAttempt, false));
    assert!(failed.message.starts_with("ROBEING_KIND would contain a NUL"), "{}", failed.message);
}

#[test]
fn a_configuration_without_a_program_is_refused() {
    for argv in [vec![], vec![String::new()]] {
        let refused = CommandExecutor::new(CommandConfig { argv, ..CommandConfig::default() });
        assert!(matches!(refused, Err(ExecutorError::NoProgram)));
    }
    let argv = vec!["echo".into(), "a\0b".into()];
    let refused = CommandExecutor::new(CommandConfig { argv, ..CommandConfig::default() });
    assert!(matches!(refused, Err(ExecutorError::NulInArgv { index: 1 })));
}

/// The most memory this process ever held, in bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") << 10
}
