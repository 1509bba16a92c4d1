//! The guardian policies of a fleet, as text. The state machine does not evaluate them: coordinators of several versions
//! may know different functions, and would come to different verdicts. It keeps them for all coordinators and agents.

pub(crate) mod audit;
pub(crate) mod command;

use std::sync::Arc;

use bilrost::Message;

use crate::Fleet;

/// A policy.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct StoredPolicy {
    /// The policy's name, unique in the fleet.
    #[bilrost(1)]
    pub name: String,
    /// The policy as canonical JSON; at most [`MAX_POLICY_BYTES`](crate::limits::MAX_POLICY_BYTES).
    #[bilrost(2)]
    pub json: String,
}

/// All policies, in the order in which they are evaluated.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct PolicyList {
    /// The fleet's revision when they were set.
    #[bilrost(1)]
    pub revision: u64,
    /// The policies; at most [`MAX_POLICIES`](crate::limits::MAX_POLICIES), and
    /// [`MAX_POLICIES_BYTES`](crate::limits::MAX_POLICIES_BYTES) in all.
    #[bilrost(2)]
    pub policies: Vec<StoredPolicy>,
}

/// The policies' part of the state: `None` until an administrator sets them.
pub(crate) type Policies = Option<Arc<PolicyList>>;

impl Fleet {
    /// Returns the policies; `None` if they were never set.
    pub fn policies(&self) -> Option<&Arc<PolicyList>> {
        self.state.policies.as_ref()
    }
}
