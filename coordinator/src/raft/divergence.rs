//! Tracks how far the state machine has applied the log, and detects a leader whose log contradicts it. Applied entries
//! are part of the state and can't be undone. If a leader has different entries in their place, a majority has lost
//! entries that it had acknowledged, and this coordinator must stop.
//!
//! The library does not detect this: it assumes that what a leader sends for indexes that are committed here are the
//! entries that are here, and the two coordinators continue with different states.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use openraft::{entry::RaftEntry, vote::RaftLeaderId};

use super::{LogId, NodeId, wire::AppendRequest};
use crate::{advice::REJOIN, raft::log::Log};

/// How much of a log is applied. Clones share it. A snapshot that is installed counts only once the first entry after
/// it is applied: until the log is purged, it may still hold other entries, of another leader, at the indexes that the
/// snapshot covers.
#[derive(Clone, Debug, Default)]
pub struct Applied(Arc<AtomicU64>);

impl Applied {
    /// Records that the entry at `index`, and all before it, are applied or are about to be.
    pub fn note(&self, index: u64) {
        self.0.fetch_max(index.saturating_add(1), Ordering::SeqCst);
    }

    /// Returns the index after the last applied entry.
    pub fn end(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A leader has a different entry in place of one that is applied here.
#[derive(Debug)]
pub struct Divergence {
    leader: NodeId,
    term: u64,
    said: LogId,
    applied: LogId,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leader, term, said, applied } = self;
        write!(
            f,
            "coordinator {leader:016x}, which leads in term {term}, has an entry {} of term {} where this one has \
             applied one of term {}: a majority of the coordinators has lost entries that were acknowledged, and if \
             this coordinator continued, the two would give different answers to the same question. Keep a copy of \
             this coordinator's data directory, which has those entries. If a coordinator that is down still has its \
             own directory, as it was when it last ran, start it. {REJOIN}. It joins without those entries",
            said.index(),
            said.committed_leader_id().term(),
            applied.committed_leader_id().term(),
        )
    }
}

/// Returns the first entry in the request that differs from the one applied here at its index.
pub fn divergence(log: &Log, request: &AppendRequest) -> Option<Divergence> {
    // Reads `end` first and the vote second, so that no leader that committed an entry before `end` has a newer vote
    // than this one.
    let end = log.applied().end();
    let vote = log.vote();
    let leader = request.vote.leader_id;
    // A replaced leader may well have different entries; the library refuses its request.
    if vote.is_some_and(|vote| request.vote.leader_id < vote.leader_id) {
        return None;
    }
    let said = request.prev_log_id.into_iter().chain(request.entries.iter().map(RaftEntry::log_id));
    said.take_while(|said| said.index() < end).find_map(|said| {
        let applied = log.id_at(said.index()).filter(|&applied| applied != said)?;
        let replaced = leader.term < applied.committed_leader_id().term();
        (!replaced).then_some(Divergence { leader: leader.node_id, term: leader.term, said, applied })
    })
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use openraft::storage::RaftLogStorage;
    use robeing_fleet::{Fleet, FleetConfig};
    use robeing_platform::simulated::SimulatedDisk;

    use super::super::fixture::*;
    use crate::raft::{self, snapshot::SnapshotFile};

    #[tokio::test]
    async fn a_leader_that_has_something_else_in_place_of_what_is_applied_is_not_followed() {
        for (prev, entries) in
            [(id(1, 2, 1), &[id(2, 3, 2)][..]), (id(2, 3, 2), &[]), (id(1, 2, 1), &[id(1, 2, 2), id(2, 3, 3)])]
        {
            let follower = Follower::with_applied(3).await;
            assert!(!follower.append(2, 3, Some(prev), entries.iter().copied(), None).await, "{prev} {entries:?}");
            let reason = follower.reason().expect("it must stop");
            assert!(
                reason.contains("which leads in term 2") && reason.contains("has applied one of term 1"),
                "{reason}"
            );
            follower.raft.shutdown().await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_agrees_comes_later_or_is_of_a_replaced_leader_is_no_contradiction() {
        let follower = Follower::with_applied(3).await;
        let again = [id(1, 2, 2), id(1, 2, 3)].into_iter();
        assert!(follower.append(2, 3, Some(id(1, 2, 1)), again, None).await, "the same entries once more");
        // Coordinator 2 does not know yet that it no longer leads, and has an entry that no other coordinator accepted.
        assert!(
            follower.append(1, 2, Some(id(1, 2, 1)), [id(1, 1, 2)].into_iter(), None).await,
            "informed of the higher vote"
        );
        for term in [2, 3] {
            // Not applied, so it may be replaced.
            let next = [id(term, 3, 4), id(term, 3, 5)].into_iter();
            assert!(follower.append(term, 3, Some(id(1, 2, 3)), next, None).await, "entries of term {term}");
        }
        assert_eq!(follower.log.id_at(5), Some(id(3, 3, 5)));
        assert_eq!(follower.reason(), None);
        follower.raft.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn after_a_start_what_the_snapshot_and_the_log_restore_counts_as_applied() {
        let follower = Follower::with_applied(3).await;
        assert_eq!(follower.log.applied().end(), 4);
        follower.raft.raft().trigger().snapshot().await.unwrap();
        let wait = follower.raft.raft().wait(DEADLINE);
        wait.snapshot(id(1, 2, 3), "it is written").await.unwrap();
        let Follower { disk, raft, .. } = follower;
        raft.shutdown().await.unwrap();
        drop(raft);
        let follower = Follower::start(disk).await;
        assert_eq!(follower.log.applied().end(), 4);
        assert!(!follower.append(2, 3, Some(id(2, 3, 3)), [].into_iter(), None).await);
        assert!(follower.reason().is_some(), "the newest entry of the snapshot");
        follower.raft.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_or_older_snapshot_is_refused_when_the_log_begins_behind_it() {
        let disk = SimulatedDisk::new(1);
        let mut log = open_log(&disk).await;
        log.purge(id(1, 2, 7)).await.unwrap();
        let (file, _) = SnapshotFile::open(Arc::new(disk.clone()), Path::new(DATA)).await.unwrap();
        for (covered, problem) in [(None, "is missing"), (Some(6), "ends with entry 6")] {
            if let Some(index) = covered {
                let meta = raft::SnapshotMeta { last_log_id: Some(id(1, 2, index)), ..Default::default() };
                file.write(&meta, &Fleet::new(FleetConfig::default()).encode().into()).await.unwrap();
            }
            let refused = open_state(&disk, &log).await.err().expect("there is a gap").to_string();
            for part in
                [problem, "/data/snapshot", "after entry 7", "remove its whole data directory", "Never put back"]
            {
                assert!(refused.contains(part), "{part:?} is not in {refused}");
            }
        }
        let meta = raft::SnapshotMeta { last_log_id: Some(id(1, 2, 7)), ..Default::default() };
        file.write(&meta, &Fleet::new(FleetConfig::default()).encode().into()).await.unwrap();
        open_state(&disk, &log).await.map(drop).expect("it reaches to the log");
    }
}
