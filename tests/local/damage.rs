//! Damaged data: a torn end of the log is truncated and logged, and nothing is lost; any other damage is refused with
//! an error. Also: a disk that fills up.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Command,
};

use robeing_client::{SubmitEvent, SubmitOptions};
use robeing_proto::v1::{RetryPolicy, SubmitResult, TaskSpec, TaskState};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    load::Load,
    script::task,
    wait::{check, eventually},
};
use serde_json::json;

/// The beginning of a log frame. It is followed by the length of the body, the frame's number and, at offset 24, the
/// body; frames begin at multiples of 8.
const FRAME: [u8; 4] = *b"RBF1";
const FRAME_HEAD: usize = 24;
const FRAME_ALIGN: usize = 8;

/// Returns the newest segment of the log in a coordinator's data directory.
fn newest_segment(data: &Path) -> PathBuf {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut dirs = vec![data.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("the data directory can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "log") {
                found.push(path);
            }
        }
    }
    found.sort();
    found.pop().unwrap_or_else(|| panic!("no log segment in {}", data.display()))
}

/// Returns the beginning and end of each frame of a segment, including padding.
fn frames(segment: &Path) -> Vec<(u64, u64)> {
    let bytes = fs::read(segment).expect("it is the test's file");
    let mut found = Vec::new();
    let mut at = 0;
    while bytes.get(at..at + 4) == Some(&FRAME) {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().expect("four bytes"));
        let end = (at + FRAME_HEAD + length as usize).next_multiple_of(FRAME_ALIGN);
        found.push((at as u64, end as u64));
        at = end;
    }
    assert!(found.len() > 3, "a log with some content: {found:?}");
    found
}

/// Returns what a crash may leave of the frame after this one: its header and part of its body.
fn half_of_the_next(segment: &Path, last: u64) -> Vec<u8> {
    let bytes = fs::read(segment).expect("it is the test's file");
    let number = &bytes[last as usize + 8..last as usize + 16];
    let next = u64::from_le_bytes(number.try_into().expect("eight bytes")) + 1;
    [&FRAME[..], &64_u32.to_le_bytes(), &next.to_le_bytes(), b"checksum", b"some of a body"].concat()
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    let mut file = File::options().write(true).open(file).expect("it is the test's file");
    file.seek(SeekFrom::Start(at)).expect("within the file");
    file.write_all(bytes).expect("it can be written to");
}

fn set_len(file: &Path, len: u64) {
    File::options().write(true).open(file).and_then(|file| file.set_len(len)).expect("its length can be changed");
}

fn flip_byte(file: &Path, at: u64) {
    let bytes = fs::read(file).expect("it is the test's file");
    overwrite(file, at, &[!bytes[at as usize]]);
}

/// Starts a coordinator that must refuse to start, and checks that its log names the file.
async fn assert_refuses(fleet: &mut Fleet, name: &str, file: &Path, problem: &str) {
    let before = fleet.process(name).log().len();
    fleet.start_one(name);
    let status = fleet.ended(name).await;
    assert!(!status.success(), "it must not start: {status}");
    let log = fleet.process(name).log()[before..].to_owned();
    let file = file.display().to_string();
    assert!(log.contains(&file) && log.contains(problem), "{file} or {problem:?} is not in its log: {log}");
}

#[tokio::test]
async fn a_torn_end_of_the_log_is_cut_and_damage_elsewhere_is_refused() {
    let mut fleet = Fleet::start(FleetSpec::new(3).pool(PoolSpec::new("work", 1)).session_timeout("10s")).await;
    let mut load = Load::start(&fleet.client(), 60, 16, "");
    let history = load.complete().await;
    drop(load);
    fleet.coordinators_agree().await;
    for name in fleet.coordinators() {
        fleet.kill(&name);
    }

    // One coordinator was writing a frame: its header was written, and part of its body. In another one's last frame,
    // the end was not written.
    let segments: Vec<PathBuf> = fleet.coordinators().iter().map(|name| newest_segment(&fleet.data(name))).collect();
    let (last, end) = *frames(&segments[0]).last().expect("there are some");
    overwrite(&segments[0], end, &half_of_the_next(&segments[0], last));
    let (begin, end) = *frames(&segments[1]).last().expect("there are some");
    let torn = begin + FRAME_HEAD as u64 + 1;
    overwrite(&segments[1], torn, &vec![0; (end - torn) as usize]);
    for name in fleet.coordinators() {
        fleet.start_one(&name);
    }
    fleet.ready().await;
    fleet.coordinators_agree().await;
    for name in ["coordinator-0", "coordinator-1"] {
        let log = fleet.process(name).log();
        assert!(log.contains("torn by a crash"), "{name} logs it: {log}");
    }
    for id in history.accepted_ids() {
        history.seen(robeing_tests::history::Seen::Get, &fleet.task(&id).await);
    }
    history.assert_sound(&fleet.executions_file());

    a_flipped_byte_is_refused(&mut fleet, "coordinator-2").await;
    a_segment_that_was_cut_short_is_refused(&mut fleet, "coordinator-2").await;
    an_emptied_log_is_refused(&mut fleet, "coordinator-2").await;
}

/// Damage before the end affects data that may have been acknowledged, so nothing is dropped.
async fn a_flipped_byte_is_refused(fleet: &mut Fleet, name: &str) {
    fleet.kill(name);
    let segment = newest_segment(&fleet.data(name));
    let written = frames(&segment);
    let middle = written[written.len() / 2].0 + FRAME_HEAD as u64;
    flip_byte(&segment, middle);
    assert_refuses(fleet, name, &segment, "damaged").await;
    // The others continue, and the damaged coordinator works again once it is repaired.
    let mut load = Load::start(&fleet.client(), 20, 8, "");
    assert_eq!(load.complete().await.accepted_count(), 20);
    flip_byte(&segment, middle);
    fleet.start_one(name);
    fleet.coordinators_agree().await;
}

/// A segment has its full length before anything is written to it, so a shorter one has lost data that no crash can
/// take.
async fn a_segment_that_was_cut_short_is_refused(fleet: &mut Fleet, name: &str) {
    fleet.kill(name);
    let segment = newest_segment(&fleet.data(name));
    let content = fs::read(&segment).expect("it is there");
    let (whole, (last, written)) = (content.len() as u64, *frames(&segment).last().expect("there are some"));
    for len in [written - 1, last + 16] {
        set_len(&segment, len);
        assert_refuses(fleet, name, &segment, "was cut short").await;
    }
    fs::write(&segment, content).expect("it can be put back");
    // Nothing was written in the second half.
    assert!(written + FRAME_HEAD as u64 * 2 < whole / 2, "{written} of {whole}");
    set_len(&segment, whole / 2);
    fleet.start_one(name);
    fleet.coordinators_agree().await;
    fleet.kill(name);
    assert_eq!(fs::metadata(&segment).expect("it is there").len(), whole, "it has its full length again");
    fleet.start_one(name);
    fleet.coordinators_agree().await;
}

/// Its votes would be lost with the log, so it must not start with its old identity, nor as if there had never been a
/// log.
async fn an_emptied_log_is_refused(fleet: &mut Fleet, name: &str) {
    fleet.kill(name);
    let data = fleet.data(name);
    for segment in fs::read_dir(&data).expect("it is there").map(|entry| entry.expect("it can be read").path()) {
        if segment.extension().is_some_and(|extension| extension == "log") {
            fs::remove_file(segment).expect("it can be removed");
        }
    }
    assert_refuses(fleet, name, &data, "is missing or empty").await;
    fs::remove_dir_all(&data).expect("it can be removed");
    fleet.start_one(name);
    fleet.coordinators_agree().await;
}

#[tokio::test]
async fn a_snapshot_is_read_back_and_a_damaged_one_is_refused() {
    let echo = PoolSpec::new("work", 1).executor(json!({"echo": {}}));
    let mut fleet = Fleet::start(FleetSpec::new(1).pool(echo).session_timeout("10s")).await;
    let kept = fleet.submit_one(task("kept")).await;
    let kept = fleet.finished(&kept, TaskState::Succeeded).await;
    // A log that is much larger than the state, because large results expire at once.
    let snapshot = fleet.data("coordinator-0").join("snapshot");
    let large = |_| TaskSpec {
        input: vec![b'x'; 1024 * 1024].into(),
        result_ttl: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
        retry: Some(RetryPolicy::default()),
        ..task("")
    };
    eventually("a snapshot", async || {
        if !snapshot.exists() {
            fleet.submit((0..8).map(large).collect()).await;
        }
        check(snapshot.exists(), (), fleet.status().await.log_applied_index)
    })
    .await;
    fleet.kill("coordinator-0");
    fleet.start_one("coordinator-0");
    fleet.ready().await;
    assert_eq!(fleet.task(&kept.id).await, kept, "the state before the snapshot is still there");
    let again = fleet.submit_one(task("again")).await;
    fleet.finished(&again, TaskState::Succeeded).await;

    fleet.kill("coordinator-0");
    let middle = fs::metadata(&snapshot).expect("it is there").len() / 2;
    flip_byte(&snapshot, middle);
    assert_refuses(&mut fleet, "coordinator-0", &snapshot, "damaged").await;
    // The report was right: once repaired, it starts.
    flip_byte(&snapshot, middle);
    fleet.start_one("coordinator-0");
    fleet.ready().await;
    assert_eq!(fleet.task(&kept.id).await, kept);
}

/// A small file system, as a volume is.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "only root can mount a small disk; run this test as root"
        );
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because the coordinator may still be ending.
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{} is still mounted", self.0.path().display());
    }
}

/// Submits tasks one after the other, each of about a MiB, and returns the results.
async fn submit_large(fleet: &Fleet, count: usize) -> Vec<SubmitResult> {
    let input = format!("echo done #{}", "x".repeat(1_000_000));
    let specs =
        (0..count).map(|_| TaskSpec { kind: "large".into(), input: input.clone().into(), ..TaskSpec::default() });
    let mut results = Vec::new();
    let options = SubmitOptions { window: 1, ..SubmitOptions::default() };
    let note = |event| {
        if let SubmitEvent::Submitted { result, .. } = event {
            results.push(result)
        }
    };
    fleet.client().submit_many(specs, options, note).await.expect("the coordinator answers");
    results
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_new_work_and_what_was_accepted_is_finished() {
    let disk = SmallDisk::mount("192m");
    let spec = FleetSpec::new(1).pool(PoolSpec::new("work", 1)).flag("result-ttl", "2s").session_timeout("10s");
    let mut fleet = Fleet::prepare(spec);
    fleet.set_flag("coordinator-0", "data", disk.0.path().to_str().expect("a path of ASCII"));
    fleet.start_one("coordinator-0");
    fleet.leader().await;

    // No agent runs yet, so everything that is accepted stays.
    let (accepted, refused): (Vec<_>, Vec<_>) =
        submit_large(&fleet, 150).await.into_iter().partition(|result| result.refusal.is_none());
    assert!(accepted.len() > 10, "{} tasks were accepted", accepted.len());
    let refusal = refused[0].refusal.clone().expect("it was refused");
    assert_eq!(refusal.code, "RESOURCE_EXHAUSTED");
    assert!(refusal.message.contains("the disk of coordinator-0 is nearly full"), "{}", refusal.message);
    let warnings = fleet.status().await.warnings;
    assert!(warnings.iter().any(|warning| warning.reason == "DiskNearlyFull"), "{warnings:?}");

    // Joins and completions still work, and results that expire free space.
    for agent in fleet.agent_names() {
        fleet.start_one(&agent);
    }
    eventually("all that was accepted succeeds", async || {
        let status = fleet.status().await;
        let succeeded = status.finished_total.unwrap_or_default().succeeded;
        check(succeeded as usize == accepted.len(), (), status)
    })
    .await;
    eventually("new tasks are accepted again", async || {
        let result = submit_large(&fleet, 1).await.remove(0);
        check(result.refusal.is_none(), (), result)
    })
    .await;
    eventually("the warning ends", async || {
        let warnings = fleet.status().await.warnings;
        check(warnings.is_empty(), (), warnings)
    })
    .await;
}
