//! The services about tasks.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::Parts;
use crate::{
    api::{
        cancels::{Cancels, MAX_WAITING_CALLS},
        dead_letters::DeadLettersService,
        fleet::{CallRoom, FleetService},
        submissions::Submissions,
        watches::Watches,
    },
    identity::security::Security,
    lifetime::Leaving,
    logs::{LeaderLogs, TaskLogs, source::Source, task::MAX_STREAMS},
};

impl Parts {
    pub(super) fn submissions(&self, security: Option<&Security>) -> Submissions {
        let Self { members, state, proposer, observer, clock, rooms, policies, outside, lifetime, .. } = self.clone();
        let leaving = Leaving::new(&lifetime, members);
        let (ballots, platform) = (self.ballots(security), outside.platform);
        Submissions { state, proposer, observer, clock, rooms, policies, ballots, platform, leaving, lifetime }
    }

    /// Returns the DeadLetters service.
    pub(super) fn dead_letters_service(&self) -> DeadLettersService {
        let Self { state, proposer, outside, .. } = self.clone();
        DeadLettersService { state, proposer, platform: outside.platform }
    }

    pub(super) fn watches(&self) -> Watches {
        let Self { members, standing, state, observer, lifetime, .. } = self.clone();
        Watches { state, observer, standing, leaving: Leaving::new(&lifetime, members) }
    }

    pub(super) fn cancels(&self) -> Cancels {
        let Self { members, state, proposer, observer, lifetime, .. } = self.clone();
        let (leaving, room) = (Leaving::new(&lifetime, members), Arc::new(Semaphore::new(MAX_WAITING_CALLS)));
        Cancels { state, proposer, observer, leaving, room }
    }

    pub(super) fn leader_logs(&self) -> LeaderLogs {
        let Self { members, standing, state, observer, lifetime, .. } = self.clone();
        LeaderLogs { standing, state, observer, leaving: Leaving::new(&lifetime, members) }
    }

    pub(super) fn task_logs(&self) -> TaskLogs {
        let source = Source { here: self.leader_logs(), peers: Arc::clone(&self.outside.peers) };
        TaskLogs { source, room: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }

    /// Returns the Fleet service.
    pub(super) fn fleet_service(&self, security: Option<&Security>) -> FleetService {
        let Self { member, members, standing, descriptions, state, clock, raft, .. } = self.clone();
        FleetService {
            member,
            members,
            standing,
            descriptions,
            state,
            clock,
            raft,
            submissions: self.submissions(security),
            watches: self.watches(),
            cancels: self.cancels(),
            logs: self.task_logs(),
            room: CallRoom::default(),
        }
    }
}
