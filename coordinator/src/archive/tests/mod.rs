//! Tests of one archive: what is put is read, whatever crashes, and what nobody needs takes no room.

mod crashes;

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use robeing_fleet::{Outcome, TaskId};
use robeing_platform::simulated::SimulatedDisk;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::fixture::fleet_with_ended;

const DIR: &str = "/data";
const SMALL: Sizes = Sizes { segment: 2_048, pending: 64 * 1024 };
const DEADLINE: Duration = Duration::from_secs(60);

/// An archive with its writer.
struct Rig {
    disk: SimulatedDisk,
    archive: Archive,
    _writing: AbortOnDropHandle<()>,
}

impl Rig {
    /// Opens it beside a snapshot that refers to the records below this one.
    async fn open(disk: &SimulatedDisk, below: u64) -> Rig {
        let opened = Archive::open_sized(Arc::new(disk.clone()), Path::new(DIR), below, SMALL).await;
        let Opened { archive, writer } = opened.expect("the disk works");
        let disk = disk.clone();
        Rig { disk, archive, _writing: AbortOnDropHandle::new(tokio::spawn(writer.run())) }
    }

    async fn new() -> Rig {
        let disk = SimulatedDisk::new(1);
        disk.create_dir_all(Path::new(DIR)).await.expect("the disk works");
        Rig::open(&disk, 0).await
    }

    /// Stops it, and opens it again beside a snapshot that refers to all records.
    async fn again(self) -> Rig {
        let Rig { disk, archive, _writing: writing } = self;
        let below = archive.next();
        drop((archive, writing));
        Rig::open(&disk, below).await
    }

    /// Opens it again after a power failure, beside a snapshot that refers to the records below this one.
    async fn crash(self, seed: u64, below: u64) -> Rig {
        let Rig { disk, archive, _writing: writing } = self;
        drop((archive, writing));
        disk.crash(seed);
        Rig::open(&disk, below).await
    }

    fn put(&self, tasks: &[Arc<Task>]) {
        for (record, task) in (0..).zip(tasks) {
            self.archive.put(record, task);
        }
    }

    /// Puts these tasks and waits until they are durable.
    async fn written(&self, tasks: &[Arc<Task>]) {
        self.put(tasks);
        self.archive.flush(tasks.len() as u64).await.expect("the disk works");
    }

    fn files(&self, ending: &str) -> Vec<String> {
        let names = self.disk.files(&Path::new(DIR).join(FOLDER));
        names.into_iter().filter(|name| name.ends_with(ending)).collect()
    }

    /// Returns the bytes of all files.
    fn bytes(&self) -> usize {
        let dir = Path::new(DIR).join(FOLDER);
        let len = |name: String| self.disk.content(&dir.join(name)).map_or(0, |content| content.len());
        self.files("").into_iter().map(len).sum()
    }

    /// Returns which of so many records are read, each of which must be what it was.
    async fn read(&self, tasks: &[Arc<Task>]) -> Vec<u64> {
        let mut found = Vec::new();
        for (record, task) in (0..).zip(tasks) {
            if let Some(read) = self.archive.get(record).await {
                assert_eq!(&read, task, "record {record}");
                found.push(record);
            }
        }
        found
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Rig) -> bool) {
        let waits = async {
            while !is_so(self) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(DEADLINE, waits)
            .await
            .unwrap_or_else(|_| panic!("{what}: {:?}", self.disk.files(&Path::new(DIR).join(FOLDER))));
    }
}

/// Returns so many tasks that have ended with an output of so many bytes.
fn tasks(count: u64, bytes: usize) -> Vec<Arc<Task>> {
    let fleet = fleet_with_ended(count.into(), &Outcome::Succeeded(Bytes::from(vec![7; bytes])));
    let task = |n: u64| Arc::clone(fleet.task(TaskId(n.into())).expect("it is kept"));
    (1..=count).map(task).collect()
}

fn all(tasks: &[Arc<Task>]) -> Vec<u64> {
    (0..tasks.len() as u64).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_put_is_read_before_and_after_it_is_written_and_after_a_restart() {
    let rig = Rig::new().await;
    let tasks = tasks(60, 100);
    assert!(rig.files("").is_empty(), "there is no folder without records");
    rig.put(&tasks);
    assert_eq!(rig.read(&tasks).await, all(&tasks));
    rig.archive.flush(60).await.expect("the disk works");
    assert_eq!(rig.read(&tasks).await, all(&tasks));
    let (segments, indexes) = (rig.files(".rec").len(), rig.files(".idx").len());
    assert!(segments > 3 && indexes == segments - 1, "{segments} segments, {indexes} indexes");
    let rig = rig.again().await;
    assert_eq!((rig.read(&tasks).await, rig.archive.next()), (all(&tasks), 60));
    assert_eq!(rig.archive.get(60).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_put_again_changes_nothing() {
    let rig = Rig::new().await;
    let tasks = tasks(20, 100);
    rig.written(&tasks).await;
    let rig = rig.again().await;
    let before = rig.disk.operations();
    rig.written(&tasks).await;
    assert_eq!((rig.disk.operations(), rig.read(&tasks).await), (before, all(&tasks)));
}

#[tokio::test(start_paused = true)]
async fn an_index_that_is_missing_or_damaged_is_made_again_from_its_segment() {
    let rig = Rig::new().await;
    let tasks = tasks(60, 100);
    rig.written(&tasks).await;
    let dir = Path::new(DIR).join(FOLDER);
    let indexes = rig.files(".idx");
    rig.disk.remove(&dir.join(&indexes[0])).await.expect("the disk works");
    rig.disk.flip(&dir.join(&indexes[1]), 20, 3).expect("it is there");
    rig.disk.cut(&dir.join(&indexes[2]), 30).expect("it is there");
    let rig = rig.again().await;
    assert_eq!((rig.read(&tasks).await, rig.files(".idx")), (all(&tasks), indexes));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_is_not_read_and_no_other_one_is_lost() {
    let rig = Rig::new().await;
    let tasks = tasks(60, 100);
    rig.written(&tasks).await;
    let first = Path::new(DIR).join(FOLDER).join(&rig.files(".rec")[0]);
    rig.disk.flip(&first, 60, 0).expect("it is there");
    assert_eq!(rig.read(&tasks).await, all(&tasks)[1..]);
    let rig = rig.again().await;
    assert_eq!(rig.read(&tasks).await, all(&tasks)[1..]);
}

#[tokio::test(start_paused = true)]
async fn in_the_newest_segment_a_damaged_record_is_told_from_a_write_that_was_interrupted() {
    let tasks = tasks(6, 100);
    let rest = || vec![0, 2, 3, 4, 5];
    let cases: [(u64, Vec<u64>); 4] = [(6, rest()), (3, rest()), (2, vec![0]), (0, vec![0])];
    for byte in [0, 4, 12, 60] {
        let rig = Rig::new().await;
        rig.written(&tasks).await;
        assert_eq!((rig.files(".rec").len(), rig.archive.next()), (1, 6));
        let path = Path::new(DIR).join(FOLDER).join(&rig.files(".rec")[0]);
        let content = rig.disk.content(&path).expect("it is there");
        let second = frame::announced(&content).expect("it begins with a frame") as u64;
        rig.disk.flip(&path, second + byte, 0).expect("it is there");
        let Rig { disk, archive, _writing: writing } = rig;
        drop((archive, writing));
        for (below, found) in &cases {
            let rig = Rig::open(&disk, *below).await;
            assert_eq!(&rig.read(&tasks).await, found, "byte {byte}, below {below}");
            assert_eq!(rig.archive.next(), found.last().map_or(0, |last| last + 1));
        }
        // The log has what the snapshot does not refer to.
        let rig = Rig::open(&disk, 1).await;
        rig.written(&tasks).await;
        assert_eq!(rig.read(&tasks).await, all(&tasks), "byte {byte}");
    }
}

#[tokio::test(start_paused = true)]
async fn segments_that_nobody_needs_are_removed_and_sparse_ones_are_written_again() {
    let rig = Rig::new().await;
    let tasks = tasks(60, 100);
    rig.written(&tasks).await;
    let before = rig.bytes();
    // All of the first half, and of the rest all but each fifth.
    let needed: Vec<u64> = (30..60).filter(|record| record % 5 == 0).collect();
    (0..60).filter(|record| !needed.contains(record)).for_each(|record| rig.archive.forget(record));
    rig.until("less is used", |rig| rig.bytes() < before / 2).await;
    assert_eq!(rig.read(&tasks).await, needed);
    let rig = rig.again().await;
    assert_eq!(rig.archive.keep_only(&needed, 60), 0);
    assert_eq!((rig.read(&tasks).await, rig.archive.next()), (needed.clone(), 60));
    // What expires later goes, too.
    needed.iter().for_each(|record| rig.archive.forget(*record));
    rig.until("only the newest segment is left", |rig| rig.files(".rec").len() == 1).await;
    assert!(rig.read(&tasks).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_only_what_a_snapshot_refers_to_is_kept_and_what_is_newer() {
    let rig = Rig::new().await;
    let tasks = tasks(60, 100);
    rig.written(&tasks).await;
    let rig = rig.again().await;
    assert_eq!(rig.archive.keep_only(&[7, 20, 39], 40), 0);
    let expected: Vec<u64> = [7, 20, 39].into_iter().chain(40..60).collect();
    assert_eq!(rig.read(&tasks).await, expected);
    assert_eq!(rig.archive.keep_only(&[8, 20], 40), 1, "record 8 was dropped before");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_behind_a_snapshot_tells_what_is_missing() {
    let rig = Rig::new().await;
    let tasks = tasks(20, 100);
    rig.written(&tasks[..5]).await;
    assert_eq!(rig.archive.keep_only(&[3, 4, 9, 11], 12), 2);
    assert_eq!(rig.archive.next(), 12);
    // What comes later is added as usual.
    rig.written(&tasks).await;
    let expected: Vec<u64> = [3, 4].into_iter().chain(12..20).collect();
    assert_eq!(rig.read(&tasks).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_no_failure_and_what_waits_is_written_once_there_is_room() {
    let rig = Rig::new().await;
    let tasks = tasks(20, 100);
    rig.disk.set_capacity(Some(500));
    rig.put(&tasks);
    let full = rig.archive.flush(20).await.expect_err("there is no room");
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(rig.read(&tasks).await, all(&tasks), "from memory");
    rig.archive.until_room().await.expect("accepted tasks must finish");
    rig.disk.set_capacity(None);
    timeout(DEADLINE, async {
        while rig.archive.flush(20).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("it is written");
    let rig = rig.crash(3, 20).await;
    assert_eq!(rig.read(&tasks).await, all(&tasks));
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_was_created_on_a_full_disk_and_not_needed_later_is_removed_by_a_restart() {
    let rig = Rig::new().await;
    let tasks = tasks(3, 100);
    rig.disk.set_capacity(Some(0));
    rig.put(&tasks);
    assert!(rig.archive.flush(3).await.is_err(), "there is no room");
    rig.archive.forget(0);
    rig.disk.set_capacity(None);
    timeout(DEADLINE, async {
        while rig.archive.flush(3).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("it is written");
    assert_eq!(rig.files(".rec").len(), 2, "the first one is empty");
    let rig = rig.again().await;
    assert_eq!((rig.files(".rec").len(), rig.read(&tasks).await), (1, vec![1, 2]));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_needs_any_more_is_removed_from_a_full_disk() {
    let rig = Rig::new().await;
    let tasks = tasks(40, 100);
    rig.written(&tasks[..30]).await;
    let mut sealed = rig.files(".rec");
    sealed.pop();
    rig.disk.set_capacity(Some(0));
    rig.put(&tasks);
    assert_eq!(rig.archive.flush(40).await.expect_err("there is no room").kind(), io::ErrorKind::StorageFull);
    (0..30).for_each(|record| rig.archive.forget(record));
    let are_gone = |rig: &Rig| rig.files(".rec").iter().all(|name| !sealed.contains(name));
    rig.until("they are removed while nothing can be written", are_gone).await;
    assert_eq!(rig.read(&tasks).await, all(&tasks)[30..]);
    rig.disk.set_capacity(None);
    timeout(DEADLINE, async {
        while rig.archive.flush(40).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("it is written");
    assert_eq!(rig.read(&tasks).await, all(&tasks)[30..]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_replaced_while_a_reader_opened_it_is_opened_again() {
    let rig = Rig::new().await;
    let tasks = tasks(30, 100);
    rig.written(&tasks).await;
    let place = |rig: &Rig, record: u64| rig.archive.shared.records().place(record);
    let in_first: Vec<u64> =
        (0..30).filter(|record| place(&rig, *record).is_some_and(|(first, _)| first == 0)).collect();
    let (last, others) = in_first.split_last().expect("it has some");
    assert!(others.len() > 1, "so few are left that it is written again");
    let replaced = rig.archive.shared.file(0).await.expect("it is there");
    others.iter().for_each(|record| rig.archive.forget(*record));
    rig.until("it is written again", |rig| place(rig, *last).is_some_and(|(_, now)| now.offset == 0)).await;
    rig.archive.shared.keep_open(0, &replaced);
    assert_eq!(rig.archive.get(*last).await.as_ref(), Some(&tasks[*last as usize]));
}

#[tokio::test(start_paused = true)]
async fn so_much_may_wait_to_be_written_and_then_those_who_add_wait() {
    let rig = Rig::new().await;
    rig.disk.set_hung(true);
    let tasks = tasks(8, 16 * 1024 - TASK_BYTES as usize);
    for (record, task) in (0..).zip(&tasks).take(4) {
        rig.archive.until_room().await.expect("the writer lives");
        rig.archive.put(record, task);
    }
    rig.archive.put(4, &tasks[4]);
    assert!(rig.archive.until_room().now_or_never().is_none(), "more than may wait");
    rig.disk.set_hung(false);
    timeout(DEADLINE, rig.archive.until_room()).await.expect("it is written").expect("the disk works");
}

#[tokio::test(start_paused = true)]
async fn while_the_disk_is_full_commands_are_applied_although_too_much_waits() {
    let rig = Rig::new().await;
    rig.disk.set_capacity(Some(500));
    rig.put(&tasks(4, 16 * 1024 - TASK_BYTES as usize));
    assert!(rig.archive.flush(4).await.is_err());
    assert!(rig.archive.has_room(), "as much as may wait");
    rig.put(&tasks(5, 16 * 1024 - TASK_BYTES as usize));
    rig.archive.until_room().await.expect("accepted tasks must finish");
    assert!(!rig.archive.has_room(), "no record is fetched now");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_stops_the_archive() {
    let rig = Rig::new().await;
    let tasks = tasks(3, 100);
    rig.disk.fail_sync_after(0);
    rig.put(&tasks);
    assert!(rig.archive.flush(3).await.is_err());
    assert!(rig.archive.until_room().await.is_err(), "and its coordinator");
}
