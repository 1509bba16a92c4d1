//! One coordinator's consensus on a simulated disk. The test plays its peers.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use openraft::{
    EntryPayload, Membership,
    vote::{RaftLeaderId, leader_id_adv::LeaderId},
};
use robeing_fleet::{Fleet, FleetConfig};
use robeing_net::Transport;
use robeing_platform::{Disk, Platform, simulated::SimulatedDisk};
use robeing_proto::internal::v1 as internal;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::FleetClock,
    peers::Peers,
    raft::{
        self, ConsensusServer, Entry, LogId, NodeId, Observer, Peer, PeerNetwork, RaftHandle, Restraint, SharedFleet,
        SnapshotError, SnapshotMeta, SnapshotStats, StateMachine, StoredMembership, Timing, Told, Vote, log::Log, wire,
    },
};

pub const DATA: &str = "/data";
pub const OWN: NodeId = 1;
pub const DEADLINE: Option<Duration> = Some(Duration::from_secs(30));

pub struct Nobody;

impl Observer for Nobody {
    fn applied(&self, _: u64, _: u64, _: Vec<Told>) {}
    fn installed(&self, _: u64, _: u64) {}
    fn progressed(&self, _: u64) {}
}

pub fn id(term: u64, node: NodeId, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, node).to_committed(), index)
}

pub fn clock() -> FleetClock {
    FleetClock::new(OWN, Platform::real().clock)
}

pub async fn open_log(disk: &SimulatedDisk) -> Log {
    disk.create_dir_all(Path::new(DATA)).await.unwrap();
    Log::open_sized(Arc::new(disk.clone()), Path::new(DATA), 7, 16 * 1024).await.unwrap().log
}

pub async fn open_state(disk: &SimulatedDisk, log: &Log) -> Result<StateMachine, SnapshotError> {
    let fleet = SharedFleet::new(Fleet::new(FleetConfig::default()));
    StateMachine::open(Arc::new(disk.clone()), Path::new(DATA), fleet, Arc::new(Nobody), log, clock()).await
}

/// One of three coordinators; the test plays the other two.
pub struct Follower {
    pub disk: SimulatedDisk,
    pub log: Log,
    pub raft: RaftHandle,
    pub snapshots: Arc<SnapshotStats>,
    pub server: ConsensusServer,
    pub contradicted: watch::Receiver<Option<String>>,
}

impl Follower {
    pub async fn start(disk: SimulatedDisk) -> Self {
        let log = open_log(&disk).await;
        let state = open_state(&disk, &log).await.unwrap();
        let (snapshots, archive) = (state.stats(), state.archive());
        let transport = Transport::new(Platform::real().network);
        let peers = Arc::new(Peers::new(transport.clone()));
        let network = PeerNetwork::new(transport, clock(), Arc::default());
        // Timeouts so long that it never starts an election.
        let timing = Timing { election_min: Duration::from_secs(600), election_max: Duration::from_secs(900) };
        let raft = raft::start(OWN, timing, 0, network, log.clone(), state, 5).await.unwrap();
        let (sender, contradicted) = watch::channel(None);
        let server = ConsensusServer {
            id: OWN,
            raft: raft.clone(),
            log: log.clone(),
            contradicted: sender,
            disk: Arc::new(disk.clone()),
            dir: DATA.into(),
            archive,
            peers,
            clock: clock(),
            seed: 6,
            restraint: Restraint::new(&raft, timing, TaskTracker::new(), CancellationToken::new()),
        };
        Self { disk, log, raft, snapshots, server, contradicted }
    }

    /// Starts a follower with entries 0 to `last` of term 1 from leader 2, all of them applied.
    pub async fn with_applied(last: u64) -> Self {
        Self::with_applied_on(SimulatedDisk::new(1), last).await
    }

    /// Like [`Self::with_applied`], on this disk.
    pub async fn with_applied_on(disk: SimulatedDisk, last: u64) -> Self {
        let follower = Self::start(disk).await;
        let answer = follower.append(1, 2, None, (0..=last).map(|index| id(1, 2, index)), Some(id(1, 2, last))).await;
        assert!(answer, "entries of the first leader are taken");
        follower.raft.raft().wait(DEADLINE).applied_index(Some(last), "all is applied").await.unwrap();
        follower
    }

    /// Sends a leader's entries. Returns whether the follower responds at all.
    pub async fn append(
        &self,
        term: u64,
        leader: NodeId,
        prev: Option<LogId>,
        entries: impl Iterator<Item = LogId>,
        commit: Option<LogId>,
    ) -> bool {
        let members = [OWN, 2, 3];
        let entry = |id: LogId| {
            let nodes: BTreeMap<NodeId, Peer> = members.map(|member| (member, Peer::default())).into();
            let payload = match id.index {
                0 => EntryPayload::Membership(Membership::new(vec![members.into()], nodes).unwrap()),
                _ => EntryPayload::Blank,
            };
            Entry { log_id: id, payload }
        };
        let request = wire::AppendRequest {
            vote: Vote::new_committed(term, leader),
            prev_log_id: prev,
            leader_commit: commit,
            entries: entries.map(entry).collect(),
        };
        let request = wire::append_to_wire(OWN, request, None);
        let mut answers = self.server.append(stream::iter([Ok(request)])).await.unwrap();
        matches!(answers.next().await, Some(Ok(_)))
    }

    /// Sends the snapshot of a leader of term 2 that covers entries up to `last`. Returns whether the follower accepts
    /// it.
    pub async fn install(&self, last: u64) -> bool {
        self.install_state(last, Fleet::new(FleetConfig::default()).encode()).await
    }

    /// Same as [`Self::install`], with this state.
    pub async fn install_state(&self, last: u64, state: Vec<u8>) -> bool {
        let members: [NodeId; 3] = [OWN, 2, 3];
        let nodes: BTreeMap<NodeId, Peer> = members.map(|member| (member, Peer::default())).into();
        let membership = Membership::new(vec![members.into()], nodes).unwrap();
        let meta = SnapshotMeta {
            last_log_id: Some(id(2, 3, last)),
            last_membership: StoredMembership::new(Some(id(1, 2, 0)), membership),
        };
        let data = Bytes::from(state);
        let chunk = internal::SnapshotChunk {
            target: OWN,
            vote_json: wire::json(&Vote::new_committed(2, 3)),
            meta_json: wire::json(&meta),
            data: Bytes::new(),
            total_bytes: data.len() as u64,
            ..Default::default()
        };
        let chunks = [chunk, internal::SnapshotChunk { data, ..Default::default() }];
        self.server.install_snapshot(stream::iter(chunks.map(Ok))).await.is_ok()
    }

    /// Stops the follower like a process that exits.
    pub async fn stop(self) -> SimulatedDisk {
        drop(self.raft.raft().shutdown().await);
        self.disk
    }

    /// Returns why it must stop, if a leader contradicted it.
    pub fn reason(&self) -> Option<String> {
        self.contradicted.borrow().clone()
    }
}
