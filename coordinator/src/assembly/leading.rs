//! What a coordinator does while it leads, and to lead.

use super::Parts;
use crate::leader::{
    failure_detector::FailureDetector, quorum_contact::ContactKeeper, score::ScoreKeeper, stalls::StallWatch,
    version::VersionRaiser,
};

impl Parts {
    pub(super) fn contact_keeper(&self) -> ContactKeeper {
        let Self { member, raft, standing, members, outside, .. } = self.clone();
        ContactKeeper { own: member.id(), raft, standing, members, peers: outside.peers }
    }

    pub(super) fn stall_watch(&self) -> StallWatch {
        let Self { member, members, standing, descriptions, raft, log, warnings, .. } = self.clone();
        StallWatch { member, members, standing, descriptions, raft, log, warnings }
    }

    pub(super) fn failure_detector(&self) -> FailureDetector {
        let Self { standing, state, proposer, observer, clock, outside, .. } = self.clone();
        FailureDetector { standing, state, proposer, observer, transport: outside.transport, clock }
    }

    pub(super) fn score_keeper(&self) -> ScoreKeeper {
        let Self { member, members, standing, descriptions, raft, scores, rooms, .. } = self.clone();
        ScoreKeeper { own: member.id(), members, standing, descriptions, raft, scores, rooms }
    }

    pub(super) fn version_raiser(&self) -> VersionRaiser {
        let Self { standing, members, descriptions, state, proposer, .. } = self.clone();
        VersionRaiser { standing, members, descriptions, state, proposer }
    }
}
