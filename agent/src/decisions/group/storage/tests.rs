//! The disk of a member, with crashes at every operation.

use robeing_bft::{
    certificate::{Certificate, Proposal, Seq, View},
    crypto::Digest,
    message::Batch,
};
use robeing_platform::simulated::SimulatedDisk;

use super::*;
use crate::decisions::group::fixture::{Fleet, GROUP as NAME, identity, platform};

const GROUPS: &str = "/agent/groups";

fn folder(disk: &SimulatedDisk) -> Folder {
    Folder::new(&platform(disk, 1), Path::new(GROUPS), NAME)
}

fn path(file: &str) -> PathBuf {
    Path::new(GROUPS).join(NAME).join(file)
}

/// Returns records that follow the identity.
fn view(number: u64) -> Sync {
    Sync::Append(Record::ViewChange(View(number)))
}

fn all(last: u64) -> Vec<Record> {
    let first = [Record::Identity(identity(1).incarnation), Record::Started(Digest([7; 32]))];
    first.into_iter().chain((1..=last).map(|number| Record::ViewChange(View(number)))).collect()
}

/// Enrols and starts a member, and saves views. Returns how many were saved for sure; `None`: it was not admitted.
async fn script(disk: &SimulatedDisk, group: &Group) -> Option<u64> {
    let folder = folder(disk);
    folder.identity(identity(1)).await.ok()?;
    folder.admit(group).await.ok()?;
    let Ok((mut store, ..)) = folder.open().await else { return Some(0) };
    if store.save(vec![Sync::Append(Record::Started(Digest([7; 32])))], &[]).await.is_err() {
        return Some(0);
    }
    for number in 1..=6 {
        let changes = match number {
            3 => vec![Sync::Replace(all(2)), view(3)],
            number => vec![view(number)],
        };
        if store.save(changes, &[]).await.is_err() {
            return Some(number - 1);
        }
    }
    Some(6)
}

/// Returns a disk on which a member has enrolled.
async fn used(group: &Group) -> SimulatedDisk {
    let disk = SimulatedDisk::new(0);
    assert_eq!(script(&disk, group).await, Some(6));
    disk
}

/// Returns a disk with a folder for decisions, and the platform with it.
async fn disk_of_log() -> (SimulatedDisk, Platform) {
    let disk = SimulatedDisk::new(0);
    disk.create_dir_all(Path::new(GROUPS)).await.expect("a folder");
    let platform = platform(&disk, 1);
    (disk, platform)
}

async fn open_log(platform: &Platform) -> DecisionLog {
    let log = DecisionLog::open(Arc::clone(&platform.disk), Arc::clone(&platform.random), Path::new(GROUPS)).await;
    log.expect("a log")
}

#[tokio::test]
async fn the_power_may_go_during_any_operation() {
    let (group, _) = Fleet::new().group();
    let whole = SimulatedDisk::new(0);
    assert_eq!(script(&whole, &group).await, Some(6));
    for operation in 1..=whole.operations() {
        for seed in 0..4 {
            let disk = SimulatedDisk::new(0);
            disk.power_off_during(operation);
            let saved = script(&disk, &group).await;
            disk.crash(seed);
            let here = format!("operation {operation}, seed {seed}");
            let Some(saved) = saved else {
                // The member continues with the same identity or another one, as nobody knows it yet.
                assert!(folder(&disk).identity(identity(1)).await.is_ok(), "{here}");
                continue;
            };
            let opened = folder(&disk).open().await;
            let (_, mine, records) = opened.unwrap_or_else(|error| panic!("{here}: {error}"));
            assert_eq!(mine, identity(1), "{here}");
            assert!(records.len() >= all(saved).len() || saved == 0, "{here}: {saved} of {records:?}");
            let views = (records.len() as u64).saturating_sub(2);
            assert_eq!(records[..], all(views)[..records.len()], "{here}");
            assert!(views <= saved + 1, "{here}");
        }
    }
}

#[tokio::test]
async fn a_member_that_lost_a_part_of_its_disk_does_not_come_back() {
    let (group, _) = Fleet::new().group();
    for file in [IDENTITY, RECORDS, REQUEST_IDS] {
        let disk = used(&group).await;
        disk.remove(&path(file)).await.expect("it is there");
        let error = folder(&disk).open().await.err().expect("it is refused");
        assert!(matches!(error, StoreError::Lost(_)), "{file}: {error}");
        assert!(error.to_string().contains("does not come back under its old identity"), "{error}");
        if file == IDENTITY {
            let error = folder(&disk).identity(identity(9)).await.expect_err("no other one is made");
            assert!(matches!(error, StoreError::Lost(_)), "{error}");
        }
    }
}

#[tokio::test]
async fn a_wiped_disk_gets_another_identity() {
    let (group, _) = Fleet::new().group();
    let disk = used(&group).await;
    disk.wipe();
    assert!(folder(&disk).group().await.expect("nothing is wrong").is_none());
    assert!(matches!(folder(&disk).open().await, Err(StoreError::Lost(_) | StoreError::Io(_))));
    assert_eq!(folder(&disk).identity(identity(9)).await.expect("a new one"), identity(9));
    assert_eq!(folder(&disk).identity(identity(8)).await.expect("the same one"), identity(9));
}

#[tokio::test]
async fn damage_is_told_from_a_torn_end() {
    let (group, _) = Fleet::new().group();
    let disk = used(&group).await;
    let len = disk.content(&path(RECORDS)).expect("it is there").len() as u64;
    // The last record was being written.
    disk.cut(&path(RECORDS), len - 1).expect("it is cut");
    let (store, _, records) = folder(&disk).open().await.expect("a torn end is cut off");
    assert_eq!(records, all(5));
    drop(store);
    // One before it was synced.
    disk.flip(&path(RECORDS), 60, 1).expect("it is changed");
    let error = folder(&disk).open().await.err().expect("it is refused");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    let disk = used(&group).await;
    disk.flip(&path(IDENTITY), 20, 1).expect("it is changed");
    assert!(matches!(folder(&disk).open().await, Err(StoreError::Damaged { .. })));
    let disk = used(&group).await;
    disk.flip(&path(GROUP), 200, 1).expect("it is changed");
    assert!(matches!(folder(&disk).group().await, Err(StoreError::Damaged { .. })));
}

#[tokio::test]
async fn a_member_runs_once() {
    let (group, _) = Fleet::new().group();
    let disk = used(&group).await;
    let first = folder(&disk).open().await.expect("it is free");
    assert!(matches!(folder(&disk).open().await, Err(StoreError::Locked(_))));
    drop(first);
    assert!(folder(&disk).open().await.is_ok());
}

#[tokio::test]
async fn no_number_of_a_request_comes_twice() {
    let (group, _) = Fleet::new().group();
    let disk = used(&group).await;
    let mut last = 0;
    for seed in 0..3 {
        let (mut store, ..) = folder(&disk).open().await.expect("it opens");
        for _ in 0..RESERVED_AT_ONCE + 2 {
            let next = store.next_request().await.expect("a number");
            assert!(next > last, "{next} after {last}");
            last = next;
        }
        drop(store);
        disk.crash(seed);
    }
}

#[tokio::test]
async fn decisions_are_read_back_in_order_and_the_oldest_are_removed() {
    let (disk, platform) = disk_of_log().await;
    let here = Path::new(GROUPS);
    let mut log = open_log(&platform).await;
    assert_eq!((log.last(), log.first_missing(1, 0), log.first_missing(1, 2)), (0, None, Some(1)));
    log.append(&[(1, vec![1]), (2, vec![2; 100]), (4, vec![4])]).await.expect("they are written");
    disk.crash(1);
    let mut log = open_log(&platform).await;
    assert_eq!((log.last(), log.first_missing(1, 4)), (4, Some(3)));
    assert_eq!(log.get(2).expect("it is here").read().await, Some(Bytes::from(vec![2; 100])));
    assert!(log.get(3).is_none());
    log.append(&[(3, vec![3])]).await.expect("it is written");
    assert_eq!((log.first_missing(1, 4), log.is_cut()), (None, false));
    assert_eq!(log.numbers_from(2).collect::<Vec<_>>(), [2, 3, 4]);
    // Damage costs the decisions behind it in its segment, and no more.
    drop(log);
    let segment = here.join("decisions-0000000000000000");
    disk.flip(&segment, 100, 1).expect("it is changed");
    let log = open_log(&platform).await;
    assert_eq!((log.last(), log.is_cut()), (1, false));
    assert_eq!(log.get(1).expect("it is here").read().await, Some(Bytes::from(vec![1])));
    drop(log);
    disk.flip(&segment, 10, 1).expect("it is changed");
    let log = open_log(&platform).await;
    assert_eq!((log.last(), log.is_cut()), (0, false));
}

#[tokio::test]
async fn segments_before_the_last_one_are_only_read_and_may_be_lost() {
    let (disk, platform) = disk_of_log().await;
    let here = Path::new(GROUPS);
    let mut log = open_log(&platform).await;
    log.append(&[(1, vec![1]), (2, vec![2])]).await.expect("they are written");
    drop(log);
    let [first, second, third] = [0, 1, 2].map(|segment| here.join(format!("decisions-{segment:016x}")));
    disk.rename(&first, &second).await.expect("it is there");
    // The file of no decision is no file of a log.
    let file = disk.open(&first, true).await.expect("it is made");
    file.write_at_and_sync(0, Bytes::from_static(b"nonsense")).await.expect("it is written");
    let mut log = open_log(&platform).await;
    assert_eq!((log.last(), log.is_cut()), (2, false));
    log.append(&[(3, vec![3])]).await.expect("it is written");
    drop(log);
    disk.rename(&second, &third).await.expect("it is there");
    let before = disk.content(&first).expect("it is there");
    let log = open_log(&platform).await;
    assert_eq!(log.numbers_from(1).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(disk.content(&first).expect("it is there"), before, "it is not written");
}

#[tokio::test]
async fn after_a_failed_sync_the_disk_is_opened_again_and_goes_on() {
    let (group, _) = Fleet::new().group();
    let disk = used(&group).await;
    let (mut store, ..) = folder(&disk).open().await.expect("it opens");
    disk.fail_sync_after(0);
    assert!(store.save(vec![view(7)], &[]).await.is_err());
    drop(store);
    // What was not synced may be there or not: nobody was told.
    let (mut store, _, records) = folder(&disk).open().await.expect("it opens");
    let next = if records == all(7) { 8 } else { 7 };
    assert_eq!(records, all(next - 1));
    store.save(vec![view(next)], &[]).await.expect("it is saved");
    drop(store);
    disk.crash(3);
    let (_, _, records) = folder(&disk).open().await.expect("it opens");
    assert_eq!(records, all(next));
}

fn decision(seq: u64) -> Decision {
    let batch = Batch::null();
    let proposal = Proposal { view: View(0), seq: Seq(seq), kind: batch.kind(), digest: batch.digest() };
    Decision { certificate: Certificate { proposal, commits: Vec::new() }, batch }
}

#[tokio::test]
async fn decisions_are_in_the_log_before_the_records_drop_them() {
    let (group, _) = Fleet::new().group();
    let disk = used(&group).await;
    let (mut store, ..) = folder(&disk).open().await.expect("it opens");
    let decided = [decision(1), decision(2)];
    let appended = decided.iter().map(|one| Sync::Append(Record::Decided(Box::new(one.clone())))).collect();
    store.save(appended, &decided).await.expect("it is saved");
    assert_eq!(store.find(1, 10, 1 << 20).read().await.len(), 2);
    store.save(vec![Sync::Replace(all(2))], &[]).await.expect("it is saved");
    drop(store);
    disk.crash(1);
    let (mut store, ..) = folder(&disk).open().await.expect("it opens");
    let read = store.find(1, 10, 1 << 20).read().await;
    assert_eq!(read, [decision(1).encoded(), decision(2).encoded()]);
    assert_eq!(store.find(1, 10, 0).read().await.len(), 1);
    assert_eq!((store.first_missing(1, 2), store.first_missing(1, 3)), (None, Some(3)));
    // Records that do not know what is in the log are older than what the member has said.
    assert!(store.check_age(2).is_ok());
    assert!(matches!(store.check_age(1), Err(StoreError::Damaged { .. })));
    store.fill(&[decision(2), decision(3)], 1..=3).await.expect("they are kept");
    assert_eq!(store.first_missing(1, 3), None);
}

/// Saves two decisions at once, with a checkpoint between them.
async fn save_around_a_checkpoint(disk: &SimulatedDisk) -> Result<(), StoreError> {
    let (mut store, ..) = folder(disk).open().await?;
    let record = |seq: u64| Record::Decided(Box::new(decision(seq)));
    let kept = all(2).into_iter().chain([record(1)]).collect();
    let changes = vec![Sync::Append(record(1)), Sync::Replace(kept), Sync::Append(record(2))];
    store.save(changes, &[decision(1), decision(2)]).await
}

#[tokio::test]
async fn whenever_the_power_goes_the_log_has_no_decision_that_the_records_do_not_know() {
    let (group, _) = Fleet::new().group();
    let whole = used(&group).await;
    let before = whole.operations();
    save_around_a_checkpoint(&whole).await.expect("it is saved");
    for operation in 1..=whole.operations() - before {
        for seed in 0..4 {
            let disk = used(&group).await;
            disk.power_off_during(operation);
            // The last operations may be those of closing.
            let _ = save_around_a_checkpoint(&disk).await;
            disk.crash(seed);
            let (store, _, records) = folder(&disk).open().await.expect("it opens");
            let number = |record: &Record| match record {
                Record::Decided(decision) => Some(decision.seq().0),
                _ => None,
            };
            let last = records.iter().filter_map(number).max().unwrap_or(0);
            let checked = store.check_age(last);
            assert!(checked.is_ok(), "operation {operation}, seed {seed}: {checked:?}");
        }
    }
}

#[tokio::test]
async fn a_decision_that_is_not_executed_yet_does_not_get_into_the_log() {
    let (group, _) = Fleet::new().group();
    let disk = used(&group).await;
    let (mut store, ..) = folder(&disk).open().await.expect("it opens");
    // Another member answers with more than was asked for, and repeats itself.
    let answer = [decision(1), decision(2), decision(3), decision(3), decision(4)];
    store.fill(&answer, 2..=3).await.expect("they are kept");
    drop(store);
    disk.crash(1);
    let (mut store, ..) = folder(&disk).open().await.expect("it opens");
    assert!(store.check_age(3).is_ok(), "it comes back");
    let read = store.find(1, 10, 1 << 20).read().await;
    assert_eq!(read, [decision(2).encoded(), decision(3).encoded()]);
    // Those that were too early come when they are executed.
    store.fill(&answer, 4..=4).await.expect("it is kept");
    assert_eq!(store.first_missing(2, 4), None);
}

#[tokio::test]
async fn holes_behind_decisions_that_had_to_be_removed_are_found() {
    let (group, _) = Fleet::new().group();
    let disk = used(&group).await;
    let (mut store, ..) = folder(&disk).open().await.expect("it opens");
    store.fill(&[decision(5), decision(6), decision(8)], 1..=8).await.expect("they are kept");
    drop(store);
    // The oldest segment is not the first one that there was.
    let [first, second] = ["decisions-0000000000000000", "decisions-0000000000000001"].map(path);
    disk.rename(&first, &second).await.expect("it is there");
    let (store, ..) = folder(&disk).open().await.expect("it opens");
    assert_eq!(store.first_missing(1, 8), Some(7), "the hole, and not what was removed");
}
