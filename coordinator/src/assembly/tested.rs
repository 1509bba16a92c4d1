//! The handles of a coordinator that unit tests use.

use super::Parts;
use crate::{
    api::{
        ballots::BallotsService, cancels::Cancels, dead_letters::DeadLettersService, directory::DirectoryService,
        messages::MessagesService, queues::QueuesService, resources::ResourcesService, schedules::SchedulesService,
        submissions::Submissions, teams::TeamsService, watches::Watches,
    },
    identity::security::Security,
    leader::{membership_change::MembershipChange, standing::Standing},
    logs::TaskLogs,
    member::Member,
    members::Members,
    policies::Policies,
    propose::Proposer,
    read::StateReader,
};

/// The handles of a coordinator that unit tests use.
#[derive(Clone)]
pub struct Tested {
    pub member: Member,
    pub members: Members,
    pub standing: Standing,
    pub state: StateReader,
    pub proposer: Proposer,
    pub change: MembershipChange,
    pub submissions: Submissions,
    pub dead_letters: DeadLettersService,
    pub watches: Watches,
    pub cancels: Cancels,
    pub logs: TaskLogs,
    pub directory: DirectoryService,
    pub messages: MessagesService,
    pub ballots: BallotsService,
    pub teams: TeamsService,
    pub resources: ResourcesService,
    pub queues: QueuesService,
    pub schedules: SchedulesService,
    pub policies: Policies,
}

impl Parts {
    pub(super) fn tested(&self, directory: DirectoryService, security: Option<&Security>) -> Tested {
        let Self { member, members, standing, state, proposer, change, policies, .. } = self.clone();
        let (submissions, watches, messages) = (self.submissions(security), self.watches(), self.messages_service());
        let (ballots, teams) = (self.ballots_service(security), self.teams_service());
        let (resources, dead_letters) = (self.resources_service(), self.dead_letters_service());
        let (cancels, logs, queues) = (self.cancels(), self.task_logs(), self.queues_service());
        let schedules = self.schedules_service();
        Tested {
            member,
            members,
            standing,
            state,
            proposer,
            change,
            submissions,
            dead_letters,
            watches,
            cancels,
            logs,
            directory,
            messages,
            ballots,
            teams,
            resources,
            queues,
            schedules,
            policies,
        }
    }
}
