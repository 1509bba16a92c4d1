//! What is known about the coordinators, their pods and votes, and which of them the fleet can spare. Pure; `rollout`
//! and `scale` base their decisions on it.

use std::collections::BTreeMap;

/// How many log entries a voter may lag behind and still count as caught up.
pub const CAUGHT_UP_WITHIN: u64 = 1_000;

/// A member of the coordinators' Raft group, as the leader sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The member's name, which is its pod's name.
    pub name: String,
    /// Whether it has a vote.
    pub voter: bool,
    /// Whether it responds to the leader.
    pub reachable: bool,
    /// Index of the newest log entry on its disk.
    pub matched: u64,
    /// The leader score, 0..=1; a higher one is preferred.
    pub score: f64,
}

/// The members, as seen by a leader that a majority has just confirmed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Membership {
    /// All members, in no order; after the loss of a disk, two may have the same name for a while.
    pub members: Vec<Member>,
    /// Name of the leader.
    pub leader: String,
    /// Index of the newest entry that the leader applied.
    pub applied: u64,
}

impl Membership {
    /// Returns the members with a vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.voter)
    }

    /// Returns the number of voters.
    pub fn voter_count(&self) -> usize {
        self.voters().count()
    }

    /// Returns how many voters must agree.
    pub fn majority(&self) -> usize {
        self.voter_count() / 2 + 1
    }

    /// Returns whether a member is the leader, or responds to it and lags at most [`CAUGHT_UP_WITHIN`] entries behind
    /// it.
    pub fn caught_up(&self, member: &Member) -> bool {
        member.name == self.leader
            || member.reachable && member.matched.saturating_add(CAUGHT_UP_WITHIN) >= self.applied
    }

    /// Returns whether a voter of this name responds and is caught up.
    pub fn healthy(&self, name: &str) -> bool {
        self.voters().any(|member| member.name == name && self.caught_up(member))
    }

    /// Returns how many voters are healthy.
    pub fn healthy_count(&self) -> usize {
        self.voters().filter(|member| self.caught_up(member)).count()
    }

    /// Returns whether a member has this name, with or without a vote.
    pub fn has(&self, name: &str) -> bool {
        self.members.iter().any(|member| member.name == name)
    }

    /// Returns whether a member with a vote has this name.
    pub fn votes(&self, name: &str) -> bool {
        self.voters().any(|member| member.name == name)
    }

    /// Returns whether a majority of the voters would still be healthy while this one is down.
    pub fn can_spare(&self, name: &str) -> bool {
        let others = self.voters().filter(|member| member.name != name && self.caught_up(member)).count();
        others >= self.majority()
    }

    /// Returns whether a majority of the voters that remain once this one has lost its vote is healthy.
    pub fn can_remove(&self, name: &str) -> bool {
        let (mut remaining, mut healthy) = (0, 0);
        for member in self.voters().filter(|member| member.name != name) {
            remaining += 1;
            healthy += usize::from(self.caught_up(member));
        }
        remaining > 0 && healthy > remaining / 2
    }
}

/// A coordinator's pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoordinatorPod {
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// Whether it was created from the newest template.
    pub updated: bool,
    /// Whether its readiness probe succeeds.
    pub ready: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// What keeps it from running, as a clause of a sentence. Waiting to start is no failure.
    pub failure: Option<String>,
    /// Whether its container has run in this pod, so that the pod may contain data.
    pub has_run: bool,
}

/// The coordinators' pods, by ordinal.
pub type Pods = BTreeMap<u32, CoordinatorPod>;
