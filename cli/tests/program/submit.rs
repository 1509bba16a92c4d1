//! Tests of `robeing submit` that ends early, with a stub of a fleet.

use std::process::{Child, Stdio};

use robeing_client::stub::{Manners, Running, Shared, stub};

use crate::bench::*;

fn start(bench: &Bench, line: &[&str]) -> Child {
    let mut command = bench.command(line);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program can be started")
}

/// Interrupts a process with Ctrl-C, and returns its result.
fn interrupt(child: Child) -> Ended {
    Ended::of(press_ctrl_c(child.id(), || child.wait_with_output().expect("it is our child")))
}

/// Runs a command, interrupts it once the fleet is in the given state, and returns its result.
fn interrupted(bench: &Bench, fleet: &Running, line: &[&str], when: impl Fn(&Shared) -> bool) -> Ended {
    let child = start(bench, &[line, &["--endpoint", &fleet.endpoints[0]]].concat());
    wait_until("what the fleet is to see", || when(&fleet.stub.shared()));
    interrupt(child)
}

fn lines(count: usize) -> String {
    (0..count).map(|line| format!("{line}\n")).collect()
}

/// Answers submissions only in batches of this size.
fn holding(hold: usize) -> Manners {
    Manners { hold, ..Manners::default() }
}

/// Accepts tasks that never finish.
fn endless() -> Manners {
    Manners { break_after: Some(usize::MAX), ..Manners::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ctrl_c_tells_which_tasks_were_accepted_and_of_how_many_it_is_not_known() {
    let bench = Bench::new();
    bench.write("ten", &lines(10));
    let fleet = stub(&[holding(100)]).await;
    let all_sent = |shared: &Shared| shared.most_unanswered == 10;
    let ended = interrupted(&bench, &fleet, &["submit", "--kind", "k", "--inputs", "ten"], all_sent);
    ended.assert(130, "interrupted; of 10 tasks, 10 may or may not have been accepted\n");
    assert_eq!(ended.stdout, "");

    bench.write("many", &lines(2_100));
    let fleet = stub(&[holding(1_000)]).await;
    // At most 1,024 tasks are sent at a time, so a thousand answers have arrived by then.
    let second = |shared: &Shared| shared.accepted.len() > 1_024;
    let ended = interrupted(&bench, &fleet, &["submit", "--kind", "k", "--inputs", "many"], second);
    let ids: Vec<&str> = ended.stdout.lines().collect();
    assert!(ids.len() >= 900, "{} ids", ids.len());
    assert!(ids.iter().all(|id| fleet.stub.shared().accepted.contains_key(*id)), "an id is not the fleet's");
    ended.assert(130, &format!("interrupted; of 2100 tasks, {} were accepted and continue", ids.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ctrl_c_names_the_one_task() {
    let bench = Bench::new();
    let fleet = stub(&[holding(100)]).await;
    let sent = |shared: &Shared| shared.most_unanswered == 1;
    for more in [&[][..], &["--wait"]] {
        fleet.stub.shared().most_unanswered = 0;
        let ended = interrupted(&bench, &fleet, &[&["submit", "--kind", "k"], more].concat(), sent);
        ended.assert(130, "interrupted; whether task ");
        ended.assert(130, " was accepted is not known: check with `robeing task ");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_may_not_submit_is_told_that_nothing_was_submitted() {
    let bench = Bench::new();
    bench.write("three", &lines(3));
    let fleet = stub(&[Manners { forbids: true, ..Manners::default() }]).await;
    for more in [&[][..], &["--inputs", "three"], &["--wait"]] {
        let line = [&["submit", "--kind", "k", "--endpoint", &fleet.endpoints[0]], more].concat();
        let ended = Ended::of(start(&bench, &line).wait_with_output().expect("it is our child"));
        ended.assert(3, "nothing was submitted\nerror: the fleet refused (PERMISSION_DENIED): ");
    }
}

#[test]
fn ctrl_c_before_anything_was_sent_says_so() {
    let bench = Bench::new();
    for line in [&["submit", "--kind", "k", "--inputs", "-"], &["submit", "--kind", "k", "--input", "-"]] {
        let mut command = bench.command(line);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be started");
        wait_for_handler(&child);
        // Keep standard input open until the program has ended.
        let input = child.stdin.take();
        interrupt(child).assert(130, "interrupted; nothing was submitted\n");
        drop(input);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ctrl_c_says_nothing_of_submissions_where_there_were_none() {
    let bench = Bench::new();
    let fleet = stub(&[Manners { silent: true, ..Manners::default() }]).await;
    let id = "0190a5c8-0000-7000-8000-000000000001";
    for (line, said) in [
        (&["status"][..], "interrupted\n"),
        (&["task", id, "--watch"], "interrupted; the task continues\n"),
        (&["cancel", id], "interrupted; whether anything was cancelled is not known\n"),
    ] {
        fleet.stub.shared().calls = 0;
        let ended = interrupted(&bench, &fleet, line, |shared| shared.calls > 0);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(130), said), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_wait_that_is_too_long_names_what_is_unfinished() {
    let bench = Bench::new();
    bench.write("three", &lines(3));
    let (one, three) = (stub(&[endless()]).await, stub(&[endless()]).await);
    let wait = ["submit", "--kind", "k", "--wait", "--wait-timeout", "2s", "--endpoint"];
    let waiting_for_one = start(&bench, &[&wait[..], &[&one.endpoints[0]]].concat());
    let waiting_for_three = start(&bench, &[&wait[..], &[&three.endpoints[0], "--inputs", "three"]].concat());
    let end = |child: Child| Ended::of(child.wait_with_output().expect("it is our child"));
    let ended = end(waiting_for_one);
    ended.assert(6, "error: 1 of 1 task had not finished after 2.0s; ");
    let id = one.stub.shared().accepted.keys().next().cloned().expect("it was accepted");
    ended.assert(6, &format!("task {id} "));
    ended.assert(6, &format!("`robeing task {id}`"));
    let ended = end(waiting_for_three);
    ended.assert(6, "error: 3 of 3 tasks had not finished after 2.0s; ");
    for id in three.stub.shared().accepted.keys() {
        ended.assert(6, id);
    }
}
