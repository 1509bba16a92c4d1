//! The client side of the protocol between coordinators.

use std::{collections::VecDeque, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, future::BoxFuture, stream::BoxStream};
use openraft::{
    OptionalSend, RaftNetworkFactory,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption},
    raft::{SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse},
};
use robeing_net::{Transport, earlier::earlier_version, limited};
use robeing_platform::sync::{Mutex, PoisonError};
use robeing_proto::internal::v1::{self as internal, raft_client::RaftClient};
use tokio::time::Instant;
use tonic::{Code, Status, transport::Channel};

use super::{
    NodeId, Peer, TypeConfig, Vote,
    wire::{self, AppendRequest, AppendResult, Malformed},
};
use crate::clock::FleetClock;

/// Bytes of a snapshot in one message.
const SNAPSHOT_CHUNK: usize = 1024 * 1024;
/// Shortest pause before an unreachable coordinator is retried.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// How long the response to entries may take before the stream is reopened. It is unrelated to elections, whose
/// heartbeats are sent separately: a large batch on a slow disk or a busy machine takes longer than a heartbeat may,
/// and after a timeout it would only be sent again. The time suffices for several syncs of a disk that takes a second
/// for each.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a coordinator had no space for a snapshot.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause before an unreachable coordinator is retried.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

type RpcError = RPCError<TypeConfig>;
/// The library's snapshot type with this crate's data.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Bytes>;

/// Creates clients for the other coordinators.
#[derive(Clone)]
pub struct PeerNetwork {
    transport: Transport,
    clock: FleetClock,
    own_address: Arc<str>,
}

impl PeerNetwork {
    /// Creates clients over `transport`. Requests carry reports of `clock`, which records the wall clocks in the
    /// responses. `own_address` is where the receivers of snapshots reach this coordinator.
    pub fn new(transport: Transport, clock: FleetClock, own_address: Arc<str>) -> Self {
        Self { transport, clock, own_address }
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerNetwork {
    type Network = PeerClient;

    async fn new_client(&mut self, target: NodeId, node: &Peer) -> PeerClient {
        let channel = self.transport.channel(&node.address).map_err(|e| e.to_string());
        let (clock, own_address) = (self.clock.clone(), Arc::clone(&self.own_address));
        PeerClient { target, channel, backoff: Some(StreamBackoff::default()), clock, own_address }
    }

    /// Heartbeats have their own interval, and each one times out after one interval. A pause would outlast that
    /// timeout, so that no heartbeat would ever be sent again after a few had failed.
    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Peer) -> PeerClient {
        PeerClient { backoff: None, ..self.new_client(target, node).await }
    }
}

/// A client for one other coordinator.
pub struct PeerClient {
    target: NodeId,
    channel: Result<Channel, String>,
    /// `None` if the caller paces itself.
    backoff: Option<StreamBackoff>,
    clock: FleetClock,
    own_address: Arc<str>,
}

/// The pause before a replication stream is opened: none at first and after any response, then longer with each stream
/// that got no response. The library's own pauses don't cover a stream that can't be opened: without this one it would
/// retry immediately.
#[derive(Clone, Default)]
struct StreamBackoff(Arc<Mutex<Duration>>);

impl StreamBackoff {
    /// Returns the current pause and lengthens the next one.
    fn next(&self) -> Duration {
        let mut pause = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = *pause;
        *pause = (now * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        now
    }

    fn answered(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Duration::ZERO;
    }
}

fn unreachable(error: impl ToString) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(error))
}

/// Converts the status of a call that the other coordinator refused.
fn refused(status: Status) -> RpcError {
    earlier_version(&status).map_or_else(|| unreachable(&status), unreachable)
}

impl PeerClient {
    fn client(&self) -> Result<RaftClient<Channel>, RpcError> {
        let channel = self.channel.clone().map_err(unreachable)?;
        Ok(limited!(RaftClient::new(channel)))
    }

    fn message(&self, body: &impl serde::Serialize) -> internal::VoteMessage {
        internal::VoteMessage { target: self.target, json: wire::json(body) }
    }
}

/// Runs a call with the timeout from its options.
async fn within<T>(option: &RPCOption, call: impl Future<Output = Result<T, RpcError>>) -> Result<T, RpcError> {
    match tokio::time::timeout(option.soft_ttl(), call).await {
        Ok(result) => result,
        Err(_) => Err(no_answer(option.soft_ttl())),
    }
}

fn no_answer(within: Duration) -> RpcError {
    unreachable(format!("no answer within {within:?}"))
}

fn malformed(error: Malformed) -> RpcError {
    unreachable(error)
}

/// The send times of the unanswered requests.
#[derive(Clone, Default)]
struct Outstanding(Arc<Mutex<VecDeque<Instant>>>);

impl Outstanding {
    fn sent(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(Instant::now());
    }

    fn answered(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    }

    fn oldest(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).front().copied()
    }
}

/// Returns the next response, or an error once the oldest request has waited too long.
async fn next_answer(
    answers: &mut (impl Stream<Item = Result<internal::AppendResponse, Status>> + Unpin),
    outstanding: &Outstanding,
    read: impl Fn(u64),
) -> Option<Result<AppendResult, RpcError>> {
    loop {
        let look_again = outstanding.oldest().unwrap_or_else(Instant::now) + APPEND_TIMEOUT;
        match tokio::time::timeout_at(look_again, answers.next()).await {
            Ok(None) => return None,
            Ok(Some(Err(status))) => return Some(Err(refused(status))),
            Ok(Some(Ok(response))) => {
                outstanding.answered();
                if response.unix_ms > 0 {
                    read(response.unix_ms);
                }
                return Some(wire::result_from_wire(response).map_err(malformed));
            }
            Err(_) if outstanding.oldest().is_some_and(|sent| sent.elapsed() >= APPEND_TIMEOUT) => {
                return Some(Err(no_answer(APPEND_TIMEOUT)));
            }
            Err(_) => {}
        }
    }
}

type AppendAnswers<'s> = BoxStream<'s, Result<AppendResult, RpcError>>;

impl NetStreamAppend<TypeConfig> for PeerClient {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendAnswers<'s>, RpcError>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        let target = self.target;
        let client = self.client();
        let backoff = self.backoff.clone();
        let clock = self.clock.clone();
        Box::pin(async move {
            let pause = backoff.as_ref().map_or(Duration::ZERO, StreamBackoff::next);
            // A sleep of zero still waits for the timer's next tick.
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let outstanding = Outstanding::default();
            let sent = outstanding.clone();
            let words = clock.clone();
            let requests = input.map(move |request| {
                sent.sent();
                let word = words.word(wire::leadership(&request));
                wire::append_to_wire(target, request, word)
            });
            let mut client = client?;
            let opened = async { client.append(requests).await.map_err(refused) };
            let opened = tokio::time::timeout(APPEND_TIMEOUT, opened).await;
            let answers = opened.map_err(|_| no_answer(APPEND_TIMEOUT))??.into_inner();
            let state = Some((answers, outstanding, backoff, clock));
            let stream = futures::stream::unfold(state, move |state| async move {
                let (mut answers, outstanding, backoff, clock) = state?;
                let answer = next_answer(&mut answers, &outstanding, |wall| clock.read(target, wall)).await?;
                if let (Ok(_), Some(backoff)) = (&answer, &backoff) {
                    backoff.answered();
                }
                let go_on = matches!(answer, Ok(Ok(_)));
                Some((answer, go_on.then_some((answers, outstanding, backoff, clock))))
            });
            Ok(Box::pin(stream) as AppendAnswers<'s>)
        })
    }
}

impl NetVote<TypeConfig> for PeerClient {
    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let (mut client, message) = (self.client()?, self.message(&rpc));
        let call = async { client.vote(message).await.map_err(refused) };
        let answer = within(&option, call).await?.into_inner();
        wire::from_json("vote response", &answer.json).map_err(malformed)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let (mut client, message) = (self.client()?, self.message(&rpc));
        let call = async { client.pre_vote(message).await.map_err(refused) };
        let answer = within(&option, call).await?.into_inner();
        wire::from_json("vote response", &answer.json).map_err(malformed)
    }
}

impl NetTransferLeader<TypeConfig> for PeerClient {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let (mut client, message) = (self.client()?, self.message(&request));
        let call = async { client.transfer_leader(message).await.map_err(refused) };
        let answer = within(&option, call).await?.into_inner();
        wire::from_json("transfer response", &answer.json).map_err(malformed)
    }
}

impl NetSnapshot<TypeConfig> for PeerClient {
    type SnapshotData = Bytes;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let first = internal::SnapshotChunk {
            target: self.target,
            vote_json: wire::json(&vote),
            meta_json: wire::json(&snapshot.meta),
            data: Bytes::new(),
            total_bytes: snapshot.snapshot.len() as u64,
            sender_address: self.own_address.to_string(),
        };
        let data = snapshot.snapshot;
        let chunks = (0..data.len()).step_by(SNAPSHOT_CHUNK).map(move |start| {
            let end = data.len().min(start + SNAPSHOT_CHUNK);
            internal::SnapshotChunk { data: data.slice(start..end), ..Default::default() }
        });
        let chunks = futures::stream::iter(std::iter::once(first).chain(chunks));
        let mut client = self.client()?;
        let call = async {
            let answer = client.install_snapshot(chunks).await;
            // Without this pause the library would read the snapshot and retry at once.
            if answer.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted) {
                tokio::time::sleep(NO_ROOM_PAUSE).await;
            }
            answer.map_err(refused)
        };
        let answer = tokio::select! {
            answer = within(&option, call) => answer?.into_inner(),
            closed = cancel => return Err(closed.into()),
        };
        Ok(wire::from_json("snapshot response", &answer.json).map_err(malformed)?)
    }
}

impl NetBackoff<TypeConfig> for PeerClient {
    fn backoff(&self) -> Option<Backoff> {
        let pauses = std::iter::successors(Some(BACKOFF_MIN), |pause| Some((*pause * 2).min(BACKOFF_MAX)));
        Some(Backoff::new(pauses))
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use robeing_net::earlier::EARLIER_VERSION;

    use super::*;

    fn success() -> internal::AppendResponse {
        let result: AppendResult = Ok(None);
        wire::result_to_wire(result, 7)
    }

    /// Returns the response to a request that was just sent, from a coordinator that takes `delay` for it.
    async fn answer_after(delay: Duration) -> Option<Result<AppendResult, RpcError>> {
        let outstanding = Outstanding::default();
        outstanding.sent();
        let answer = async move {
            tokio::time::sleep(delay).await;
            Ok(success())
        };
        next_answer(&mut Box::pin(stream::once(answer)), &outstanding, |_| {}).await
    }

    /// Writing a large batch takes many heartbeat intervals; it must not be abandoned and sent again because of that.
    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_is_waited_for_and_a_missing_one_is_not() {
        let slow = answer_after(APPEND_TIMEOUT - Duration::from_millis(1)).await;
        assert!(matches!(slow, Some(Ok(_))), "{slow:?}");
        let missing = answer_after(APPEND_TIMEOUT + Duration::from_millis(1)).await;
        assert!(matches!(missing, Some(Err(RPCError::Unreachable(_)))), "{missing:?}");
    }

    #[test]
    fn a_coordinator_of_an_earlier_version_is_unreachable_with_the_reason() {
        let told = refused(Status::unimplemented("")).to_string();
        assert!(told.contains(EARLIER_VERSION), "{told}");
        let told = refused(Status::unavailable("it stops")).to_string();
        assert!(told.contains("it stops"), "{told}");
    }

    #[test]
    fn streams_that_bring_no_answer_are_opened_ever_more_rarely() {
        let backoff = StreamBackoff::default();
        let pauses: Vec<_> = (0..8).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses, [0, 20, 40, 80, 160, 320, 500, 500]);
        backoff.answered();
        assert_eq!(backoff.next(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_without_a_question_is_left_open() {
        let outstanding = Outstanding::default();
        let mut silent = stream::pending::<Result<internal::AppendResponse, Status>>();
        let waiting = tokio::time::timeout(APPEND_TIMEOUT * 10, next_answer(&mut silent, &outstanding, |_| {})).await;
        assert!(waiting.is_err(), "given up though nothing was asked");
    }
}
