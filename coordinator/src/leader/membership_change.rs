//! Membership changes, as leader: one at a time, each in steps that a failure may interrupt anywhere and that the next
//! attempt resumes. A newcomer catches up before it gets its vote; a vote is removed only if a majority of the
//! remaining voters works. A request states the desired membership, so it may be repeated.
//!
//! A change of voters goes through a joint configuration. If the leader dies in between, the coordinators continue
//! under both majorities, and the next change, whatever it is, completes the interrupted one first.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use robeing_net::{earlier::earlier_version, limited};
use robeing_proto::internal::v1::{self as internal, raft_client::RaftClient};
use tokio::time::timeout;
use tonic::{Status, transport::Channel};
use tracing::info;

use crate::{
    leader::{
        describe::{CAUGHT_UP, Descriptions, is_caught_up},
        standing::Standing,
        transfer::Transfer,
    },
    lifetime::Lifetime,
    member::Member,
    members::Members,
    outside::Outside,
    raft::{NodeId, Peer, RaftError, RaftHandle, Runtime},
    read::StateReader,
};

/// How long a newcomer may take to catch up.
pub const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a new membership may take to be committed.
pub const COMMIT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a coordinator that is to be added may take to describe itself.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a leader may take to confirm its majority before anything is changed.
const QUORUM_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before the majority is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// A member that answered within this time is not replaced.
const ALIVE: Duration = Duration::from_secs(2);
/// Number of times that the remaining voters are asked.
const ROUNDS: u32 = 3;

/// Why the membership or the leadership was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This coordinator does not lead (any more).
    #[error("this coordinator does not lead; ask the one that does")]
    NotLeader,
    /// Another change is in progress.
    #[error("another membership change is in progress; try again when it is done")]
    Busy,
    /// A part of the request is invalid.
    #[error("{0}")]
    Invalid(String),
    /// No coordinator answers at the address.
    #[error("no coordinator answers at {address}; check that it runs there and try again")]
    NoAnswer {
        /// The address.
        address: String,
    },
    /// What answers at the address runs an earlier version.
    #[error("the coordinator at {address} can't be a member: {problem}")]
    Earlier {
        /// The address.
        address: String,
        /// The description of the problem.
        problem: &'static str,
    },
    /// A coordinator other than the requested one answers.
    #[error("at {address} is coordinator {name:?} of cluster {cluster:?}, not {wanted:?} of {own_cluster:?}")]
    Another {
        /// The address.
        address: String,
        /// The name of the coordinator that answers.
        name: String,
        /// The cluster of the coordinator that answers.
        cluster: String,
        /// The name of the requested coordinator.
        wanted: String,
        /// This cluster.
        own_cluster: String,
    },
    /// The name belongs to a living member.
    #[error("coordinator {id:016x} has the name {name:?} and answered within the last {ALIVE:?}; it is not replaced")]
    NameInUse {
        /// The node id of the member.
        id: NodeId,
        /// The name.
        name: String,
    },
    /// The coordinator is a voter at another address.
    #[error("coordinator {name:?} is a voter at {address}; remove it before it is added elsewhere")]
    Elsewhere {
        /// Its name.
        name: String,
        /// The address at which it is a voter.
        address: String,
    },
    /// The coordinator's binary is too old for the fleet version in force.
    #[error(
        "coordinator {name:?} supports fleet versions up to {known}, and this fleet is at {current}; run a newer version"
    )]
    TooOld {
        /// Its name.
        name: String,
        /// The newest fleet version that it supports.
        known: u32,
        /// The fleet's version.
        current: u32,
    },
    /// The newcomer did not catch up in time.
    #[error("it did not catch up within {CATCH_UP_TIMEOUT:?}; it keeps catching up as a learner; repeat the call")]
    Behind,
    /// No majority answers this leader.
    #[error("no majority of the coordinators answers; nothing was changed")]
    NoQuorum,
    /// No voter would remain.
    #[error("{name:?} is the last voter and can't be removed")]
    LastVoter {
        /// Its name.
        name: String,
    },
    /// Too few working voters would remain.
    #[error(
        "of the {remaining} voters that would remain, {fit} answer and are caught up, but {needed} are needed: bring the \
         others back first"
    )]
    TooFew {
        /// Number of voters that would remain.
        remaining: usize,
        /// How many of these answer and are caught up.
        fit: usize,
        /// How many make a majority of them.
        needed: usize,
    },
    /// The change was not committed in time, and may be committed later.
    #[error(
        "the new membership was not committed within {COMMIT_TIMEOUT:?}; it may still be committed; repeat the call"
    )]
    NotCommitted,
    /// No voter that answers and is caught up can take over.
    #[error("{0}")]
    NoSuccessor(String),
    /// The successor did not take over.
    #[error("no other coordinator took over in time; try again")]
    NotTakenOver,
    /// Consensus rejected the change, or has stopped.
    #[error("consensus rejected the change: {0}")]
    Failed(String),
    /// This node is stopping.
    #[error("this coordinator is stopping; ask another")]
    Stopping,
}

/// A coordinator that is to be a voter.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// Its node id.
    pub id: NodeId,
    /// Its name and address.
    pub peer: Peer,
}

/// Changes the membership. Cheap to clone.
#[derive(Clone)]
pub struct MembershipChange {
    pub member: Member,
    pub members: Members,
    pub standing: Standing,
    pub state: StateReader,
    pub descriptions: Descriptions,
    pub transfer: Transfer,
    pub raft: RaftHandle,
    pub outside: Outside,
    pub lifetime: Lifetime,
}

impl MembershipChange {
    /// Performs one change, while no other is in progress. It continues to its end even if the caller goes away.
    pub async fn exclusively<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, ChangeError>> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let alone = self.members.hold().ok_or(ChangeError::Busy)?;
        let (seed, stop) = (self.outside.platform.random.next_u64(), self.lifetime.stop().clone());
        let task = self.lifetime.tasks().spawn(async move {
            let _alone = alone;
            tokio::select! {
                () = stop.cancelled() => Err(ChangeError::Stopping),
                done = Runtime::scope(seed, change) => done,
            }
        });
        task.await.unwrap_or(Err(ChangeError::Stopping))
    }

    /// Returns the other members with the newcomer's name, which it may replace.
    ///
    /// # Errors
    /// One of them is alive.
    pub fn replaced_by(&self, newcomer: &Newcomer) -> Result<Vec<NodeId>, ChangeError> {
        let members = self.members.all().into_iter();
        let others = members.filter(|(id, peer, _)| peer.name == newcomer.peer.name && *id != newcomer.id);
        let others: Vec<NodeId> = others.map(|member| member.0).collect();
        match others.iter().find(|id| self.answered_lately(**id)) {
            Some(id) => Err(ChangeError::NameInUse { id: *id, name: newcomer.peer.name.clone() }),
            None => Ok(others),
        }
    }

    fn answered_lately(&self, id: NodeId) -> bool {
        id == self.member.id() || self.raft.heard_ago(id).is_some_and(|ago| ago < ALIVE)
    }

    /// Makes a newcomer a voter in place of the members that it replaces, after it has caught up with the log.
    pub async fn admit_voter(&self, newcomer: Newcomer, replaced: Vec<NodeId>) -> Result<(), ChangeError> {
        self.quorum().await?;
        let Newcomer { id, peer } = newcomer;
        self.ensure_current(&peer).await?;
        info!(name = peer.name, address = peer.address, node_id = format!("{id:016x}"), "adding a coordinator");
        let learns_elsewhere =
            self.members.all().into_iter().any(|(of, known, voter)| of == id && !voter && known != peer);
        if learns_elsewhere {
            committed(self.raft.remove_learners([id].into())).await?;
        }
        committed(self.raft.add_learner(id, peer.clone())).await?;
        self.caught_up(id).await?;
        // Another leader may have raised the version meanwhile, without asking a learner.
        self.ensure_current(&peer).await?;
        let mut voters = self.voters();
        voters.retain(|voter| !replaced.contains(voter));
        voters.insert(id);
        committed(self.raft.set_voters(voters)).await?;
        self.forget_learners(&replaced).await
    }

    /// Makes the coordinator at an address a voter and returns its node id.
    pub async fn add(self, peer: Peer) -> Result<NodeId, ChangeError> {
        ensure_leader(&self.standing)?;
        let said = self.describe(&peer.address).await?;
        if said.cluster_id != self.member.cluster_id() || said.name != peer.name {
            return Err(ChangeError::Another {
                address: peer.address,
                name: said.name,
                cluster: said.cluster_id,
                wanted: peer.name,
                own_cluster: self.member.cluster_id().to_owned(),
            });
        }
        let id = said.node_id;
        if let Some((_, known)) = self.members.voters().find(|(of, _)| *of == id) {
            if known.address != peer.address {
                return Err(ChangeError::Elsewhere { name: known.name, address: known.address });
            }
            if !self.is_joint() {
                return Ok(id);
            }
        }
        let newcomer = Newcomer { id, peer };
        let replaced = self.replaced_by(&newcomer)?;
        self.admit_voter(newcomer, replaced).await?;
        Ok(id)
    }

    /// Removes the vote and the membership of the coordinator with this name. Returns whether it was a member. A leader
    /// that is to be removed transfers leadership first, and then returns [`ChangeError::NotLeader`].
    pub async fn remove(self, name: String) -> Result<bool, ChangeError> {
        self.quorum().await?;
        let members = self.members.all();
        let gone: Vec<NodeId> = members.iter().filter(|member| member.1.name == name).map(|member| member.0).collect();
        let before = self.voters();
        let mut left = before.clone();
        left.retain(|id| !gone.contains(id));
        if left.is_empty() {
            return Err(ChangeError::LastVoter { name });
        }
        if left != before {
            self.ensure_quorum_without(&left).await?;
        }
        if gone.contains(&self.member.id()) {
            self.transfer.hand_over(None).await?;
            return Err(ChangeError::NotLeader);
        }
        if left != before || self.is_joint() {
            info!(name, voters = left.len(), "removing a coordinator's vote");
            committed(self.raft.set_voters(left)).await?;
        }
        self.forget_learners(&gone).await?;
        Ok(!gone.is_empty())
    }

    async fn forget_learners(&self, gone: &[NodeId]) -> Result<(), ChangeError> {
        let left = self.members.all().into_iter().filter(|(id, _, voter)| gone.contains(id) && !*voter);
        let left: BTreeSet<NodeId> = left.map(|member| member.0).collect();
        if left.is_empty() {
            return Ok(());
        }
        committed(self.raft.remove_learners(left)).await
    }

    /// Ensures that a majority answers this leader now. A new membership takes effect as soon as it is in the leader's
    /// log, even if no majority accepts it, so no change begins without a majority.
    async fn quorum(&self) -> Result<(), ChangeError> {
        let asking = async {
            loop {
                ensure_leader(&self.standing)?;
                if self.standing.read_index().await.is_some() {
                    return Ok(());
                }
                // One late answer does not mean that the majority is gone.
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        timeout(QUORUM_TIMEOUT, asking).await.unwrap_or(Err(ChangeError::NoQuorum))
    }

    async fn describe(&self, address: &str) -> Result<internal::DescribeResponse, ChangeError> {
        let no_answer = || ChangeError::NoAnswer { address: address.to_owned() };
        let channel = self.outside.transport.channel(address);
        let channel = channel.map_err(|bad| ChangeError::Invalid(bad.to_string()))?;
        let mut client: RaftClient<Channel> = limited!(RaftClient::new(channel));
        let said = timeout(DESCRIBE_TIMEOUT, client.describe(internal::DescribeRequest::default())).await;
        let refused = |status: Status| match earlier_version(&status) {
            Some(problem) => ChangeError::Earlier { address: address.to_owned(), problem },
            None => no_answer(),
        };
        Ok(said.map_err(|_| no_answer())?.map_err(refused)?.into_inner())
    }

    /// Ensures that a coordinator's binary supports the fleet version in force. No version comes into force while the
    /// membership changes.
    async fn ensure_current(&self, peer: &Peer) -> Result<(), ChangeError> {
        let known = self.describe(&peer.address).await?.max_fleet_version;
        let current = self.state.look(|fleet| fleet.version());
        if known < current {
            return Err(ChangeError::TooOld { name: peer.name.clone(), known, current });
        }
        Ok(())
    }

    /// Returns the voters, or those that will be once an interrupted change is completed.
    fn voters(&self) -> BTreeSet<NodeId> {
        self.raft.configurations().pop().unwrap_or_default()
    }

    fn is_joint(&self) -> bool {
        self.raft.configurations().len() > 1
    }

    /// Ensures that a majority of the remaining voters answers and is caught up.
    async fn ensure_quorum_without(&self, remaining: &BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let needed = remaining.len() / 2 + 1;
        let mut fit = 0;
        // A voter that is busy for a moment is not gone.
        for _ in 0..ROUNDS {
            let members = self.members.all().into_iter().filter(|member| remaining.contains(&member.0));
            let answers = members.map(|(id, peer, _)| async move { self.descriptions.ask(id, &peer.address).await });
            let answers = join_all(answers).await;
            let least = self.descriptions.caught_up_from();
            fit = answers.iter().flatten().filter(|said| is_caught_up(said, least)).count();
            if fit >= needed {
                return Ok(());
            }
        }
        Err(ChangeError::TooFew { remaining: remaining.len(), fit, needed })
    }

    /// Waits until a learner has nearly everything that this leader has: a majority may need its vote.
    async fn caught_up(&self, id: NodeId) -> Result<(), ChangeError> {
        let waiting = self.raft.until_replicated(id, CAUGHT_UP);
        timeout(CATCH_UP_TIMEOUT, waiting).await.map_err(|_| ChangeError::Behind)?.map_err(Into::into)
    }
}

/// Ensures that this coordinator leads.
pub fn ensure_leader(standing: &Standing) -> Result<(), ChangeError> {
    standing.leading().map(drop).ok_or(ChangeError::NotLeader)
}

impl From<RaftError> for ChangeError {
    fn from(error: RaftError) -> Self {
        match error {
            RaftError::NotLeader => Self::NotLeader,
            RaftError::Stopped => Self::Stopping,
            RaftError::Failed(message) => Self::Failed(message),
        }
    }
}

async fn committed(change: impl Future<Output = Result<(), RaftError>>) -> Result<(), ChangeError> {
    timeout(COMMIT_TIMEOUT, change).await.map_err(|_| ChangeError::NotCommitted)?.map_err(Into::into)
}
