//! The resource pool: requests, leases and queues, through any coordinator.
//!
//! The pool is in the fleet's state, which grants requests and ends leases. Here is what the state machine can't do:
//! tell who asks, and wait.

mod owners;
mod reading;
mod requesting;

use std::sync::Arc;

use robeing_fleet::{Allocation, AllocationId, Command, Refusal, Reply, ResourceCommand};
use robeing_platform::Platform;
use robeing_proto::v1;

pub use self::reading::Seen;
use crate::{
    api::convert::BadField,
    apply::observer::ApplyObserver,
    disk_space::Rooms,
    policies::CallerRights,
    propose::{ProposeError, Proposer},
    read::StateReader,
};

/// Maximum number of calls that wait for allocations at one coordinator.
pub const MAX_WAITING: usize = 1_024;

/// Why a call about resources has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// A field of the request is invalid.
    #[error(transparent)]
    BadField(#[from] BadField),
    /// The state machine refuses it.
    #[error("{0}")]
    Refused(Refusal),
    /// It was not confirmed to be in the log.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The state can't be read now.
    #[error("{0}")]
    NotReadable(String),
    /// Too many callers wait here.
    #[error("{most} calls wait here for resources, the most; ask again later, or at another coordinator")]
    TooManyWaiting {
        /// The limit.
        most: usize,
    },
    /// The caller would act for someone else.
    #[error(
        "{caller} can't do this for {other}: whoever asked for an allocation and whoever holds it can, and who has the \
         right admin"
    )]
    NotYours {
        /// The caller.
        caller: String,
        /// For whom it would act.
        other: String,
    },
}

/// Asks for, releases and reads resources. Cheap to clone.
#[derive(Clone)]
pub struct ResourcePool {
    pub state: StateReader,
    pub proposer: Proposer,
    pub observer: Arc<ApplyObserver>,
    pub rooms: Arc<Rooms>,
    /// What callers may do.
    pub rights: CallerRights,
    /// The source of ids.
    pub platform: Platform,
}

impl ResourcePool {
    /// Waits until everything that was accepted before the call is applied here.
    async fn catch_up(&self) -> Result<(), ResourceError> {
        let ready = self.state.ready_to_read(v1::Consistency::Linearizable.into()).await;
        ready.map_err(|status| ResourceError::NotReadable(status.message().to_owned()))
    }

    /// Returns an allocation as it is now.
    async fn current(&self, id: AllocationId) -> Result<Arc<Allocation>, ResourceError> {
        self.catch_up().await?;
        let known = self.state.look(|fleet| fleet.allocation(id).cloned());
        known.ok_or(ResourceError::Refused(Refusal::UnknownAllocation { allocation: id }))
    }

    async fn propose(&self, command: ResourceCommand) -> Result<Option<Reply>, ResourceError> {
        let command = Command::Resource(command);
        Ok(self.proposer.propose(self.proposer.sender(), [&command]).await?.pop())
    }
}

/// Returns the error for a reply that does not belong to the command.
fn unexpected(reply: Option<Reply>) -> ResourceError {
    match reply {
        Some(Reply::Refused(refusal)) => ResourceError::Refused(refusal),
        Some(Reply::Unreadable { problem }) => ResourceError::NotReadable(format!(
            "this was done, but the coordinator can't decode the outcome ({problem}); get the allocation to see it"
        )),
        other => ResourceError::NotReadable(format!("unexpected reply {other:?}")),
    }
}
