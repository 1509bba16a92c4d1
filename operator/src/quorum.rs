//! What is known of the coordinators, pods and voters together, and which of them the fleet can do without. Pure; the
//! decisions of `rollout` and `scale` rest on it.

use std::collections::BTreeMap;

/// How many entries of the log a voter may be behind and count as caught up.
pub const CAUGHT_UP_WITHIN: u64 = 1_000;

/// A member of the coordinators' group, as the leader sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name, which is its pod's.
    pub name: String,
    /// It has a vote.
    pub voter: bool,
    /// It answers the leader.
    pub reachable: bool,
    /// Newest log entry on its disk.
    pub matched: u64,
    /// The preference for it as leader, 0..=1.
    pub score: f64,
}

/// The members as a leader that was just confirmed by a majority sees them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Membership {
    /// All members, in no order; after a disk was lost two may have one name for a while.
    pub members: Vec<Member>,
    /// Name of the leader.
    pub leader: String,
    /// Newest entry the leader applied.
    pub applied: u64,
}

impl Membership {
    /// Members with a vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.voter)
    }

    /// How many votes there are.
    pub fn voter_count(&self) -> usize {
        self.voters().count()
    }

    /// How many voters must agree.
    pub fn majority(&self) -> usize {
        self.voter_count() / 2 + 1
    }

    /// Whether this member answers and has what the leader has, but for the last moments.
    pub fn caught_up(&self, member: &Member) -> bool {
        member.name == self.leader
            || member.reachable && member.matched.saturating_add(CAUGHT_UP_WITHIN) >= self.applied
    }

    /// Whether a voter of this name answers and is caught up.
    pub fn healthy(&self, name: &str) -> bool {
        self.voters().any(|member| member.name == name && self.caught_up(member))
    }

    /// How many voters are healthy.
    pub fn healthy_count(&self) -> usize {
        self.voters().filter(|member| self.caught_up(member)).count()
    }

    /// Whether a member has this name, with or without a vote.
    pub fn has(&self, name: &str) -> bool {
        self.members.iter().any(|member| member.name == name)
    }

    /// Whether a member with a vote has this name.
    pub fn votes(&self, name: &str) -> bool {
        self.voters().any(|member| member.name == name)
    }

    /// Whether a majority of the voters would still be healthy while this one is away.
    pub fn can_spare(&self, name: &str) -> bool {
        let others = self.voters().filter(|member| member.name != name && self.caught_up(member)).count();
        others >= self.majority()
    }

    /// Whether the voters that would remain without this one's vote have a healthy majority among them.
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
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// It was made from the newest template.
    pub updated: bool,
    /// Its readiness probe succeeds.
    pub ready: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// What keeps it from running, as a sentence's part. Waiting to start is none.
    pub failure: Option<String>,
    /// Its container has run in this pod, so that there may be data in it.
    pub has_run: bool,
}

/// The coordinators' pods by ordinal.
pub type Pods = BTreeMap<u32, CoordinatorPod>;
