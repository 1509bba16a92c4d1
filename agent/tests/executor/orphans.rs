//! Orphans of commands, as process 1 of a container sees them.

use std::{fs, process::Command};

use futures::future::join_all;
use robeing_agent::executor::reaper;

use crate::fixture::{attempt, command, eventually, kill, numbers, output, shell, state};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_commands_at_once_leave_no_process_and_no_zombie() {
    reaper::adopt_orphans().expect("to adopt orphans");
    let executor = shell("sleep 600 & echo $!; (sleep 600 & echo $!; exit) ; echo $$; cat >/dev/null");
    let printed = join_all((0..200).map(|_| output(&executor, attempt("input")))).await;
    for pid in printed.iter().flat_map(|pids| numbers(pids)) {
        assert_eq!(state(pid), None, "process {pid} is still there, if only as a zombie (Z)");
    }
    assert_eq!(printed.iter().map(|pids| pids.lines().count()).sum::<usize>(), 600);
}

#[tokio::test]
async fn an_orphan_that_left_its_group_is_reaped_once_it_is_dead() {
    reaper::adopt_orphans().expect("to adopt orphans");
    let directory = tempfile::tempdir().expect("a directory");
    let pid_file = directory.path().join("pid").display().to_string();
    let script = format!("setsid sh -c 'echo $$ > {pid_file}; exec sleep 600' & while [ ! -s {pid_file} ]; do :; done");
    output(&shell(&script), attempt("")).await;
    let escaped = numbers(&fs::read_to_string(pid_file).expect("a pid"))[0];
    kill(escaped);
    eventually("the orphan is dead", || matches!(state(escaped), None | Some('Z'))).await;
    let next = command(&["true"]);
    while state(escaped).is_some() {
        output(&next, attempt("")).await;
    }
}

#[tokio::test]
async fn children_that_others_wait_for_are_left_to_them() {
    reaper::adopt_orphans().expect("to adopt orphans");
    let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn().expect("a child");
    let pid = child.id().cast_signed();
    eventually("the child is a zombie", || state(pid) == Some('Z')).await;
    output(&shell("sleep 600 & exit 0"), attempt("")).await;
    assert_eq!(child.wait().expect("its status").code(), Some(7));
}
