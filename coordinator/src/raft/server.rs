//! The server side of consensus: handles the requests of other coordinators.

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use openraft::raft::{TransferLeaderRequest, VoteRequest};
use robeing_fleet::{CodecError, Stamp, archived_in, limits::MAX_SNAPSHOT_BYTES};
use robeing_net::limited;
use robeing_platform::{
    Disk, compute, is_full,
    sync::{Mutex, PoisonError},
};
use robeing_proto::internal::v1::{self as internal, raft_client::RaftClient};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::Status;
use tracing::{info, warn};

use super::{
    NodeId, RaftHandle, Runtime, SnapshotMeta, TypeConfig, Vote,
    audit::{self, VOTE_GIVEN},
    divergence,
    network::Snapshot,
    restraint::Restraint,
    wire::{self, Malformed},
};
use crate::{
    archive::{self, Archive, Others},
    clock::FleetClock,
    peers::Peers,
    raft::log::{Log, SEGMENT_BYTES},
};

/// Bytes that must stay free for the log when a snapshot is installed.
const ROOM_BESIDE_SNAPSHOT: u64 = SEGMENT_BYTES as u64;

/// Maximum bytes of entries that one leader has sent and that are not written yet; beyond it nothing more is read from
/// the leader. The library alone would accept 64 requests of any size.
const APPEND_WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// Handles the requests to one node.
#[derive(Clone)]
pub struct ConsensusServer {
    pub(crate) id: NodeId,
    pub(crate) raft: RaftHandle,
    pub(crate) log: Log,
    /// Receives the reason why this coordinator must stop when a leader contradicts an entry of `log` that is applied.
    pub(crate) contradicted: watch::Sender<Option<String>>,
    pub(crate) disk: Arc<dyn Disk>,
    /// The directory of this node's data on `disk`.
    pub(crate) dir: PathBuf,
    pub(crate) archive: Archive,
    /// The connections by which records of the archive are fetched.
    pub(crate) peers: Arc<Peers>,
    /// Receives leaders' clock reports.
    pub(crate) clock: FleetClock,
    /// Seeds the random numbers of tasks that the library spawns in a caller's context.
    pub(crate) seed: u64,
    pub(crate) restraint: Restraint,
}

fn malformed(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this coordinator's consensus has stopped: {error}"))
}

/// The unanswered requests of one stream. They are answered in order.
#[derive(Clone)]
struct Window {
    room: Arc<Semaphore>,
    unanswered: Arc<Mutex<VecDeque<OwnedSemaphorePermit>>>,
}

impl Default for Window {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(APPEND_WINDOW_BYTES)), unanswered: Arc::default() }
    }
}

impl Window {
    /// Passes the requests on, each as soon as the window has space for it.
    fn admit(
        self,
        requests: impl Stream<Item = wire::AppendRequest> + Send + 'static,
    ) -> impl Stream<Item = wire::AppendRequest> + Send + 'static {
        requests.then(move |request| {
            let Self { room, unanswered } = self.clone();
            async move {
                let bytes = wire::append_bytes(&request).min(APPEND_WINDOW_BYTES);
                // The semaphore is never closed.
                if let Ok(permit) = room.acquire_many_owned(bytes as u32).await {
                    unanswered.lock().unwrap_or_else(PoisonError::into_inner).push_back(permit);
                }
                request
            }
        })
    }

    fn answered(&self) {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    }
}

/// Responses of [`ConsensusServer::append`].
pub type AppendStream = BoxStream<'static, Result<internal::AppendResponse, Status>>;

impl ConsensusServer {
    /// Refuses a request that is meant for a node that had this address before.
    fn check_target(&self, target: u64) -> Result<(), Status> {
        if target == self.id {
            return Ok(());
        }
        Err(Status::failed_precondition(format!("this is coordinator {:016x}, not {target:016x}", self.id)))
    }

    /// Blocks a request that contradicts entries that are applied here, and reports why this coordinator must stop. The
    /// library would silently assume that the request's entries are the ones it has, and continue with a state that
    /// differs from the leader's.
    fn check_applied(&self, request: wire::AppendRequest) -> Result<wire::AppendRequest, ()> {
        match divergence::divergence(&self.log, &request) {
            None => Ok(request),
            Some(divergence) => {
                self.contradicted.send_replace(Some(divergence.to_string()));
                Err(())
            }
        }
    }

    /// Records a leader's clock report, unless a newer leader is known.
    fn hear(&self, request: &wire::AppendRequest, word: Option<Stamp>) {
        let replaced = self.log.vote().is_some_and(|vote| request.vote.leader_id < vote.leader_id);
        if let Some(word) = word.filter(|_| !replaced) {
            self.clock.heard(wire::leadership(request), word);
        }
    }

    /// Handles a replication stream.
    pub async fn append(
        &self,
        requests: impl Stream<Item = Result<internal::AppendRequest, Status>> + Send + 'static,
    ) -> Result<AppendStream, Status> {
        let this = self.clone();
        // A request that can't be decoded ends the stream; the sender opens another one and resumes after the confirmed
        // entries.
        let requests = requests
            .map_err(|_| ())
            .and_then(move |request| {
                let word = wire::word_from_wire(&request);
                let checked = this.check_target(request.target).map_err(|_| ());
                let read = checked.and_then(|()| wire::append_from_wire(request).map_err(|_| ()));
                let read = read.and_then(|request| this.check_applied(request));
                if let Ok(request) = &read {
                    this.hear(request, word);
                }
                futures::future::ready(read)
            })
            .take_while(|request| futures::future::ready(request.is_ok()))
            .filter_map(|request| futures::future::ready(request.ok()));
        let window = Window::default();
        let requests = window.clone().admit(requests);
        let raft = self.raft.raft().clone();
        let (seed, clock) = (self.seed, self.clock.clone());
        let answers = async_stream::stream! {
            let mut answers = std::pin::pin!(Runtime::scope(seed, async { raft.stream_append(requests) }).await);
            while let Some(answer) = answers.next().await {
                window.answered();
                yield answer.map(|answer| wire::result_to_wire(answer, clock.own_wall())).map_err(stopped);
            }
        };
        Ok(answers.boxed())
    }

    /// Returns the vote that this node currently holds.
    pub async fn contact(&self, request: internal::ContactRequest) -> Result<internal::ContactResponse, Status> {
        self.check_target(request.target)?;
        let core = self.raft.core_state().await.ok_or_else(|| stopped("its core has ended"))?;
        Ok(internal::ContactResponse { term: core.voted_for.term, node_id: core.voted_for.node_id })
    }

    /// Handles a vote request.
    pub async fn vote(&self, message: internal::VoteMessage) -> Result<internal::VoteMessage, Status> {
        self.check_target(message.target)?;
        let request: VoteRequest<TypeConfig> = wire::from_json("vote request", &message.json).map_err(malformed)?;
        let raft = self.raft.raft().clone();
        let response = self.restraint.vote(async move { raft.vote(request).await }).await;
        let response = response.ok_or_else(|| stopped("it is stopping"))?.map_err(stopped)?;
        if response.vote_granted {
            audit::tell_vote(VOTE_GIVEN, self.id, Some(response.vote));
        }
        Ok(internal::VoteMessage { target: self.id, json: wire::json(&response) })
    }

    /// Handles a pre-vote request: whether a vote would be granted.
    pub async fn pre_vote(&self, message: internal::VoteMessage) -> Result<internal::VoteMessage, Status> {
        self.check_target(message.target)?;
        let request: VoteRequest<TypeConfig> = wire::from_json("vote request", &message.json).map_err(malformed)?;
        let response = self.raft.raft().pre_vote(request).await.map_err(stopped)?;
        Ok(internal::VoteMessage { target: self.id, json: wire::json(&response) })
    }

    /// Handles a leadership transfer: the leader wants this node, or another one, to lead.
    pub async fn transfer_leader(&self, message: internal::VoteMessage) -> Result<internal::VoteMessage, Status> {
        self.check_target(message.target)?;
        let request: TransferLeaderRequest<TypeConfig> =
            wire::from_json("transfer request", &message.json).map_err(malformed)?;
        let response = self.raft.raft().handle_transfer_leader(request).await.map_err(stopped)?;
        Ok(internal::VoteMessage { target: self.id, json: wire::json(&response) })
    }

    /// Refuses a snapshot that is too large or that the disk has no space for. Once consensus has received a snapshot
    /// it must write it, and a full disk would then stop this coordinator.
    async fn check_room(&self, bytes: u64) -> Result<(), Status> {
        if bytes > MAX_SNAPSHOT_BYTES {
            return Err(Status::invalid_argument(format!(
                "a snapshot of {bytes} bytes; a fleet's settings allow at most {MAX_SNAPSHOT_BYTES}"
            )));
        }
        match self.disk.free(&self.dir).await {
            Ok(free) if free < bytes.saturating_add(ROOM_BESIDE_SNAPSHOT) => {
                warn!(bytes, free, "the leader's snapshot was refused: not enough space on the disk");
                Err(Status::resource_exhausted(format!(
                    "the disk of coordinator {:016x} has {free} bytes free, too few for a snapshot of {bytes}",
                    self.id
                )))
            }
            // If the free space is unknown, only the write shows whether it suffices.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Fetches the records of the archived tasks in a leader's snapshot that are not here, and waits until all are
    /// durable. Once consensus has the snapshot, it may purge the log before it. `sender` is the leader's address as it
    /// says itself: it may have become a member after the snapshot.
    async fn fetch_records(&self, vote: &Vote, meta: &SnapshotMeta, sender: &str, data: &[u8]) -> Result<(), Status> {
        let (mut rows, records) = match compute(|| archived_in(data)) {
            Ok(found) => found,
            // Consensus can't read it, either, and stops this coordinator, which says why.
            Err(CodecError::Version { .. }) => return Ok(()),
            Err(error) => {
                warn!(%error, "the leader's snapshot was refused");
                return Err(Status::invalid_argument(error.to_string()));
            }
        };
        let next = self.archive.next();
        rows.retain(|row| row.record >= next);
        rows.sort_unstable_by_key(|row| row.record);
        if !rows.is_empty() {
            let leader = vote.leader_id.node_id;
            let membership = meta.last_membership.membership();
            let address = membership.get_node(&leader).map_or(sender, |peer| peer.address.as_str());
            let channel = self.peers.channel(address).ok_or_else(|| {
                Status::failed_precondition(format!(
                    "the leader {leader:016x} is reached at {address:?}, which is no address"
                ))
            })?;
            let others = membership.nodes().filter(|(id, _)| ![leader, self.id].contains(id));
            let others = Others::new(&self.peers, others.map(|(_, peer)| peer.address.clone()).collect());
            info!(records = rows.len(), "fetching the archived results that the leader's snapshot refers to");
            archive::fetch(limited!(RaftClient::new(channel)), others, &self.archive, &rows).await?;
        }
        self.archive.skip_to(records);
        self.archive.flush(records).await.map_err(|error| match is_full(&error) {
            true => Status::resource_exhausted(format!("coordinator {:016x}: {error}", self.id)),
            false => stopped(error),
        })
    }

    /// Receives and installs a whole snapshot.
    pub async fn install_snapshot(
        &self,
        mut chunks: impl Stream<Item = Result<internal::SnapshotChunk, Status>> + Send + Unpin + 'static,
    ) -> Result<internal::VoteMessage, Status> {
        let first = chunks.next().await.ok_or_else(|| Status::invalid_argument("an empty snapshot stream"))??;
        self.check_target(first.target)?;
        let vote: Vote = wire::from_json("vote", &first.vote_json).map_err(malformed)?;
        let meta: SnapshotMeta = wire::from_json("snapshot meta", &first.meta_json).map_err(malformed)?;
        self.check_room(first.total_bytes).await?;
        // Allocated at once, so that nothing is copied as it grows.
        let mut data = Vec::new();
        data.try_reserve_exact(usize::try_from(first.total_bytes).unwrap_or(usize::MAX)).map_err(|_| {
            Status::resource_exhausted(format!("no memory for a snapshot of {} bytes", first.total_bytes))
        })?;
        data.extend_from_slice(&first.data);
        while let Some(chunk) = chunks.next().await {
            data.extend_from_slice(&chunk?.data);
            if data.len() as u64 > first.total_bytes {
                return Err(Status::invalid_argument(format!(
                    "a snapshot announced with {} bytes has more",
                    first.total_bytes
                )));
            }
        }
        if (data.len() as u64) < first.total_bytes {
            return Err(Status::invalid_argument(format!(
                "a snapshot announced with {} bytes ended after {}",
                first.total_bytes,
                data.len()
            )));
        }
        self.fetch_records(&vote, &meta, &first.sender_address, &data).await?;
        let snapshot = Snapshot { meta, snapshot: Bytes::from(data) };
        let raft = self.raft.raft().clone();
        let install = async move { raft.install_full_snapshot(vote, snapshot).await };
        let response = Runtime::scope(self.seed, install).await.map_err(stopped)?;
        Ok(internal::VoteMessage { target: self.id, json: wire::json(&response) })
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, stream};
    use openraft::{
        EntryPayload,
        vote::{RaftLeaderId, leader_id_adv::LeaderId},
    };

    use super::*;
    use crate::raft::{Batch, Entry, LogId};

    fn request(bytes: usize) -> wire::AppendRequest {
        let log_id = LogId::new(LeaderId::new(1, 1).to_committed(), 1);
        let entry = Entry { log_id, payload: EntryPayload::Normal(Batch(vec![0; bytes].into())) };
        wire::AppendRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            leader_commit: None,
            entries: vec![entry],
        }
    }

    #[test]
    fn no_more_is_read_from_a_leader_than_may_wait_to_be_written() {
        let window = Window::default();
        let sizes = [APPEND_WINDOW_BYTES / 2, APPEND_WINDOW_BYTES / 2, 0, 1, APPEND_WINDOW_BYTES * 2, 1];
        let mut admitted = Box::pin(window.clone().admit(stream::iter(sizes.map(request))));
        let mut admitted_now = || {
            let next = std::iter::from_fn(|| admitted.next().now_or_never().flatten());
            next.map(|request| wire::append_bytes(&request)).collect::<Vec<_>>()
        };
        assert_eq!(admitted_now(), sizes[..3], "up to the window, and heartbeats");
        window.answered();
        assert_eq!(admitted_now(), [1]);
        window.answered();
        window.answered();
        assert!(admitted_now().is_empty(), "a larger request than the window waits until it is alone");
        window.answered();
        assert_eq!(admitted_now(), [APPEND_WINDOW_BYTES * 2]);
        window.answered();
        assert_eq!(admitted_now(), [1]);
    }
}
