//! Queries about teams.

use std::sync::Arc;

use super::{Team, TeamState};
use crate::{AgentId, Fleet, TeamId, limits::MAX_PAGE};

/// Numbers of teams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TeamCounts {
    /// Teams that have their members, but not yet a path between every two of them.
    pub forming: u32,
    /// Teams that have their members, and a path between every two of them.
    pub active: u32,
    /// Teams that lack members or paths.
    pub degraded: u32,
    /// Teams that are disbanded and still kept.
    pub disbanded: u32,
    /// Agents that are in a team.
    pub members: u32,
}

impl Fleet {
    /// Returns a team, or `None` if it never existed or was forgotten. A clone of the `Arc` keeps it as it is now.
    pub fn team(&self, id: TeamId) -> Option<&Arc<Team>> {
        self.state.teams.kept.get(*self.indexes.teams.ids.get(&id)?)
    }

    /// Returns the team that an agent is in.
    pub fn team_of(&self, agent: AgentId) -> Option<&Arc<Team>> {
        self.state.teams.kept.get(*self.indexes.teams.of_agent.get(&agent)?)
    }

    /// Returns at most `limit` (clamped to 1 to [`MAX_PAGE`]) teams with numbers below `before`, the newest first; only
    /// those that are not disbanded, or all.
    pub fn teams(&self, before: Option<u64>, limit: usize, only_open: bool) -> Vec<&Arc<Team>> {
        let (end, limit) = (before.unwrap_or(u64::MAX), limit.clamp(1, MAX_PAGE));
        let kept = &self.state.teams.kept;
        if only_open {
            let open = self.indexes.teams.open.range(..end).rev();
            return open.filter_map(|seq| kept.get(*seq)).take(limit).collect();
        }
        kept.kept().range(..end).rev().map(|(_, team)| team).take(limit).collect()
    }

    /// Returns the numbers of teams.
    pub fn team_counts(&self) -> TeamCounts {
        let teams = &self.indexes.teams;
        TeamCounts {
            forming: teams.count(TeamState::Forming),
            active: teams.count(TeamState::Active),
            degraded: teams.count(TeamState::Degraded),
            disbanded: teams.count(TeamState::Disbanded),
            members: teams.of_agent.len() as u32,
        }
    }

    /// Returns how many unfinished tasks are addressed to a team.
    pub fn unfinished_tasks_of(&self, team: TeamId) -> u32 {
        self.indexes.teams.tasks.get(&team).map_or(0, |tasks| tasks.len() as u32)
    }
}
