//! Every data format in which a fleet was ever written must stay readable forever: a data directory of each format is
//! kept in `tests/data`, with tasks in its snapshot and in its log.
//!
//! A new format needs a directory: `ROBEING_KEEP_FORMAT=1 cargo test --workspace --test local formats::` writes it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use robeing_proto::v1::{RetryPolicy, SubmitRequest, TaskSpec, TaskState, fleet_client::FleetClient as Rpc};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    script::task,
    wait::{check, eventually, in_time},
};
use serde_json::Value;

/// If this variable is set, the directory of the current format is written.
const KEEP: &str = "ROBEING_KEEP_FORMAT";
const COORDINATOR: &str = "coordinator-0";
/// The number of zero bytes that are kept at the end of a log segment; the file gets its full length again when it is
/// opened.
const KEPT_ZEROS: usize = 4_096;
/// The number of log entries after which a snapshot is written.
const SNAPSHOT_AFTER: usize = 100;
/// A task that succeeds and one that fails, both before and after the snapshot, with their idempotency keys.
const TASKS: [(&str, &str, TaskState); 4] = [
    ("early-success", "echo early", TaskState::Succeeded),
    ("early-failure", "echo no >&2; exit 3", TaskState::Failed),
    ("late-success", "echo late", TaskState::Succeeded),
    ("late-failure", "exit 4", TaskState::Failed),
];

fn spec() -> FleetSpec {
    FleetSpec::new(1)
        .pool(PoolSpec::new("work", 1).slots(2))
        .session_timeout("10s")
        .flag("snapshot-after", &SNAPSHOT_AFTER.to_string())
}

fn of(key: &str, script: &str) -> TaskSpec {
    let retry = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
    // Fleet time does not advance while there is no leader, so results are kept until the fleet has had a leader for
    // this long.
    let result_ttl = Some(prost_types::Duration { seconds: 360 * 24 * 3600, nanos: 0 });
    TaskSpec { idempotency_key: key.to_owned(), retry: Some(retry), result_ttl, ..task(script) }
}

/// Submits tasks, or finds those that were submitted before, and waits until they have ended.
async fn end(fleet: &Fleet, tasks: &[(&str, &str, TaskState)]) -> Vec<robeing_proto::v1::Task> {
    let mut ended = Vec::new();
    let address = fleet.address(COORDINATOR);
    let mut rpc = Rpc::connect(format!("http://{address}")).await.expect("it listens");
    for (key, script, state) in tasks {
        // The result contains the id of the task that was submitted first.
        let told = rpc.submit(SubmitRequest { tasks: vec![of(key, script)] }).await.expect("it is accepted");
        ended.push(fleet.finished(&told.into_inner().results[0].task_id, *state).await);
    }
    ended
}

fn format_of(data: &Path) -> u64 {
    let identity = fs::read(data.join("identity.json")).unwrap_or_else(|error| panic!("{}: {error}", data.display()));
    let identity: Value = serde_json::from_slice(&identity).expect("JSON");
    identity["format"].as_u64().expect("a number")
}

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

/// Copies the files of a directory; of log segments, without most of the zeros at their end.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("it can be created");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let mut content = fs::read(entry.path()).expect("a file");
        if entry.path().extension().is_some_and(|extension| extension == "log") {
            let end = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            content.truncate((end + KEPT_ZEROS).next_multiple_of(KEPT_ZEROS));
        }
        fs::write(to.join(entry.file_name()), content).expect("it can be written");
    }
}

async fn keep(fleet: &mut Fleet) {
    end(fleet, &TASKS[..2]).await;
    let snapshot = fleet.data(COORDINATOR).join("snapshot");
    eventually("a snapshot", async || {
        // Each of these tasks is at least one log entry.
        if !snapshot.exists() {
            let filler =
                |_| TaskSpec { result_ttl: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }), ..task(":") };
            fleet.submit((0..50).map(filler).collect()).await;
        }
        check(snapshot.exists(), (), fleet.status().await.log_applied_index)
    })
    .await;
    // What follows is only in the log.
    stop(fleet).await;
    fleet.set_flag(COORDINATOR, "snapshot-after", &u32::MAX.to_string());
    fleet.start_one(COORDINATOR);
    fleet.ready().await;
    end(fleet, &TASKS[2..]).await;
    stop(fleet).await;
    let data = fleet.data(COORDINATOR);
    let snapshot = fs::read(&snapshot).expect("it is there");
    let holds = |key: &str| snapshot.windows(key.len()).any(|bytes| bytes == key.as_bytes());
    assert_eq!(TASKS.map(|(key, ..)| holds(key)), [true, true, false, false], "which tasks the snapshot contains");
    copy(&data, &kept().join(format!("format-{}", format_of(&data))));
}

async fn stop(fleet: &mut Fleet) {
    fleet.terminate(COORDINATOR);
    in_time("the end of the coordinator", fleet.ended(COORDINATOR)).await;
}

#[tokio::test]
async fn the_present_format_is_kept() {
    let mut fleet = Fleet::start(spec()).await;
    let present = format_of(&fleet.data(COORDINATOR));
    if env::var_os(KEEP).is_some() {
        keep(&mut fleet).await;
    }
    let kept = kept().join(format!("format-{present}"));
    assert!(kept.join("snapshot").exists(), "{} is missing; {KEEP}=1 writes it", kept.display());
}

#[tokio::test]
async fn every_format_that_was_kept_opens_and_holds_what_it_held() {
    let mut opened = 0;
    for entry in fs::read_dir(kept()).expect("tests/data") {
        let dir = entry.expect("an entry").path();
        let mut fleet = Fleet::prepare(spec());
        copy(&dir, &fleet.data(COORDINATOR));
        fleet.start_all();
        fleet.ready().await;
        let before = fleet.status().await.finished_total.expect("totals");
        let tasks = end(&fleet, &TASKS).await;
        assert_eq!(tasks[0].output, b"early\n".as_slice(), "{}", dir.display());
        assert_eq!(tasks[2].output, b"late\n".as_slice(), "{}", dir.display());
        assert!(tasks[1].failure.as_ref().is_some_and(|failure| failure.stderr_tail == "no\n"), "{:#?}", tasks[1]);
        let after = fleet.status().await.finished_total.expect("totals");
        assert_eq!(after, before, "none of them ran again");
        // The fleet may still count the agent of that time as live; new tasks succeed nevertheless.
        let more = fleet.submit_one(task("echo more")).await;
        fleet.finished(&more, TaskState::Succeeded).await;
        opened += 1;
    }
    assert!(opened > 0, "no format is kept");
}
