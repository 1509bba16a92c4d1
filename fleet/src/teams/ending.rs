//! How teams are disbanded and forgotten.

use super::TeamState;
use crate::{
    AgentId, Effect, Fleet, Holder, Refusal, Reply, TeamId,
    config::check_length,
    limits::MAX_SENDER_BYTES,
    steps::{Job, Jobs},
};

impl Fleet {
    pub(super) fn disband_team(
        &mut self,
        id: TeamId,
        term: Option<u64>,
        by: &str,
        jobs: &mut Jobs,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let checked = check_length("by", by, MAX_SENDER_BYTES).and_then(|()| self.open_team(id));
        let seq = match checked.and_then(|seq| self.check_term(id, term).map(|()| seq)) {
            Ok(seq) => seq,
            Err(Refusal::TeamDisbanded { .. }) => return Reply::TeamDisbanded { existing: true },
            Err(refusal) => return Reply::Refused(refusal),
        };
        let now = self.state.now;
        let members = self.change_team(seq, |team| {
            team.disbanded_at = Some(now);
            team.leader = None;
            let members = std::mem::take(&mut team.members);
            team.settle();
            debug_assert!(team.state == TeamState::Disbanded);
            members
        });
        let members = members.unwrap_or_default();
        members.iter().for_each(|member| self.note_team_of(&member.name));
        let freed: Vec<AgentId> = members.into_iter().map(|member| member.agent).collect();
        for agent in freed.iter().filter_map(|id| self.state.agents.known.get(id)) {
            self.indexes.teams.free.insert(agent);
        }
        effects.push(Effect::TeamChanged { id });
        self.holder_is_gone(&Holder::Team(id), effects);
        // The tasks first, so that the agents are free of them when another team takes them.
        jobs.push(Job::Staff(freed.into_iter()));
        jobs.push(Job::EndTasks(id, format!("team {id} was disbanded by {by}")));
        Reply::TeamDisbanded { existing: false }
    }

    /// Cancels one unfinished task of a team. Returns whether there was one.
    pub(crate) fn end_one_task(&mut self, team: TeamId, reason: &str, effects: &mut Vec<Effect>) -> bool {
        let Some(seq) = self.indexes.teams.tasks.get(&team).and_then(|tasks| tasks.first().copied()) else {
            return false;
        };
        let Some(task) = self.state.tasks.kept.get(&seq).map(|task| task.id) else { return false };
        self.cancel(task, reason.to_owned(), effects);
        // Else it would be cancelled again and again.
        self.task(task).is_some_and(|task| task.state.is_final())
    }

    /// Forgets a disbanded team.
    pub(crate) fn forget_team(&mut self, seq: u64) {
        if let Some(team) = self.state.teams.kept.remove(seq, &self.snapshots) {
            self.indexes.leave_team(&team);
        }
    }
}
