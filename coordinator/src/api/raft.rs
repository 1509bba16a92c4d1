//! The gRPC service for requests between coordinators.

use futures::{StreamExt, TryStreamExt};
use robeing_fleet::encode_reply;
use robeing_proto::internal::v1 as internal;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    archive::{self, MAX_RECORDS_ASKED, RecordStream},
    leader::{
        bootstrap, describe::Descriptions, leader_watch::LeaderConnections, membership_change::MembershipChange,
        standing::Standing,
    },
    lifetime::Lifetime,
    propose::{Forwarded, MAX_BATCH_COMMANDS, ProposeError, Proposer, Sender},
    raft::{AppendStream, ConsensusServer},
};

/// Maximum number of senders that a forwarding coordinator may stand for: one for each command of an entry.
const MAX_FORWARDED_SENDERS: u32 = MAX_BATCH_COMMANDS as u32;

/// The Raft service.
pub struct RaftService {
    pub consensus: ConsensusServer,
    pub connections: LeaderConnections,
    pub standing: Standing,
    pub proposer: Proposer,
    pub change: MembershipChange,
    pub descriptions: Descriptions,
    pub lifetime: Lifetime,
}

#[tonic::async_trait]
impl internal::raft_server::Raft for RaftService {
    type AppendStream = AppendStream;
    type ReadRecordsStream = RecordStream;

    async fn append(
        &self,
        request: Request<Streaming<internal::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        if let Some(connection) = request.extensions().get() {
            self.connections.watch(&self.lifetime, connection);
        }
        let answers = self.consensus.append(request.into_inner()).await?;
        let standing = self.standing.clone();
        let heard = answers.inspect_ok(move |answer| {
            if !matches!(answer.result, Some(internal::append_response::Result::HigherVoteJson(_))) {
                standing.note_heard();
            }
        });
        Ok(Response::new(heard.boxed()))
    }

    async fn vote(&self, request: Request<internal::VoteMessage>) -> Result<Response<internal::VoteMessage>, Status> {
        self.consensus.vote(request.into_inner()).await.map(Response::new)
    }

    async fn pre_vote(
        &self,
        request: Request<internal::VoteMessage>,
    ) -> Result<Response<internal::VoteMessage>, Status> {
        self.consensus.pre_vote(request.into_inner()).await.map(Response::new)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<internal::SnapshotChunk>>,
    ) -> Result<Response<internal::VoteMessage>, Status> {
        self.consensus.install_snapshot(request.into_inner()).await.map(Response::new)
    }

    async fn transfer_leader(
        &self,
        request: Request<internal::VoteMessage>,
    ) -> Result<Response<internal::VoteMessage>, Status> {
        self.consensus.transfer_leader(request.into_inner()).await.map(Response::new)
    }

    async fn propose(
        &self,
        request: Request<internal::ProposeRequest>,
    ) -> Result<Response<internal::ProposeResponse>, Status> {
        let internal::ProposeRequest { commands, lane, from, senders } = request.into_inner();
        // One request of a follower may exceed the target size of a batch, but not without limit.
        if commands.len() > MAX_BATCH_COMMANDS * 16 {
            return Err(crate::api::errors::too_many("commands", commands.len(), MAX_BATCH_COMMANDS * 16));
        }
        let lane = internal::Lane::try_from(lane).unwrap_or_default().into();
        let sender = Sender { id: from, weight: senders.clamp(1, MAX_FORWARDED_SENDERS) };
        match self.proposer.propose_forwarded(Forwarded { lane, sender, commands }).await {
            Ok(replies) => {
                let encode = |reply| {
                    let mut bytes = Vec::with_capacity(48);
                    encode_reply(reply, &mut bytes);
                    bytes.into()
                };
                let replies = replies.iter().map(encode).collect();
                Ok(Response::new(internal::ProposeResponse { replies, not_leader: false }))
            }
            Err(ProposeError::NotLeader) => {
                Ok(Response::new(internal::ProposeResponse { replies: Vec::new(), not_leader: true }))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn join(&self, request: Request<internal::JoinRequest>) -> Result<Response<internal::JoinResponse>, Status> {
        bootstrap::admit(&self.change, request.into_inner()).await.map(Response::new)
    }

    async fn read_index(
        &self,
        _: Request<internal::ReadIndexRequest>,
    ) -> Result<Response<internal::ReadIndexResponse>, Status> {
        let index = self.standing.read_index().await;
        let index = index.ok_or_else(|| Status::unavailable("this coordinator does not lead"))?;
        Ok(Response::new(internal::ReadIndexResponse { index: index.unwrap_or(0), has_index: index.is_some() }))
    }

    async fn contact(
        &self,
        request: Request<internal::ContactRequest>,
    ) -> Result<Response<internal::ContactResponse>, Status> {
        self.consensus.contact(request.into_inner()).await.map(Response::new)
    }

    async fn read_records(
        &self,
        request: Request<internal::ReadRecordsRequest>,
    ) -> Result<Response<Self::ReadRecordsStream>, Status> {
        let records = request.into_inner().records;
        if records.len() > MAX_RECORDS_ASKED {
            return Err(crate::api::errors::too_many("records", records.len(), MAX_RECORDS_ASKED));
        }
        Ok(Response::new(archive::send(self.consensus.archive.clone(), records)))
    }

    async fn describe(
        &self,
        request: Request<internal::DescribeRequest>,
    ) -> Result<Response<internal::DescribeResponse>, Status> {
        if let Some(said) = request.into_inner().from_leader {
            self.descriptions.hear(said);
        }
        Ok(Response::new(self.descriptions.own()))
    }
}
