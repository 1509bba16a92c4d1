//! The tasks of a run that are addressed to teams, and the check that only members get them.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    checks::{Check, Wrong},
    record::Assigned,
};

/// The tasks that are addressed to teams.
#[derive(Default)]
pub struct Orders {
    /// The team of each task.
    teams: BTreeMap<String, String>,
    /// The tasks of which a client was told that they have ended.
    ended: BTreeSet<String>,
    /// The members of the teams that are not disbanded, after the newest log entry.
    members: BTreeMap<String, BTreeSet<String>>,
}

impl Orders {
    /// Records that a client addresses a task to a team.
    pub fn asks(&mut self, task: &str, team: &str) {
        self.teams.insert(task.to_owned(), team.to_owned());
    }

    /// Returns the team that a task is addressed to, if it is to one.
    pub fn team_of(&self, task: &str) -> Option<&str> {
        self.teams.get(task).map(String::as_str)
    }

    /// Records the attempts that a log entry has assigned, and the members of the teams after it.
    ///
    /// # Errors
    /// If an attempt at a task of a team is assigned to somebody else.
    pub fn applied(&mut self, assigned: &[Assigned], members: BTreeMap<String, BTreeSet<String>>) -> Result<(), Wrong> {
        let before = std::mem::replace(&mut self.members, members);
        for Assigned { agent, task, attempt, .. } in assigned {
            let Some(team) = self.teams.get(task) else { continue };
            let (was, is) = (before.get(team), self.members.get(team));
            // If they have changed, the agent may have joined the team and left it again with this very entry.
            if was == is && !is.is_some_and(|members| members.contains(agent)) {
                let what =
                    format!("attempt {attempt} of task {task} is assigned to {agent}, and team {team} is {is:?}");
                return Err((Check::Addressed, what));
            }
        }
        Ok(())
    }

    /// Records that a client was told that a task has ended.
    pub fn ends(&mut self, task: &str) {
        self.ended.insert(task.to_owned());
    }

    /// Returns the number of tasks that have ended.
    pub fn ended(&self) -> usize {
        self.ended.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(names: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
        BTreeMap::from([("team".to_owned(), names.iter().map(|name| (*name).to_owned()).collect())])
    }

    fn assigned(task: &str, agent: &str) -> [Assigned; 1] {
        [Assigned { agent: agent.to_owned(), slots: 1, task: task.to_owned(), attempt: 1 }]
    }

    #[test]
    fn a_task_of_a_team_goes_to_a_member() {
        let mut orders = Orders::default();
        orders.asks("t", "team");
        assert_eq!((orders.team_of("t"), orders.team_of("u")), (Some("team"), None));
        assert!(orders.applied(&assigned("t", "a"), members(&["a", "b"])).is_ok(), "it was formed just now");
        assert!(orders.applied(&assigned("t", "b"), members(&["a", "b"])).is_ok());
        assert!(orders.applied(&assigned("t", "c"), members(&["a", "b"])).is_err());
        assert!(orders.applied(&assigned("u", "c"), members(&["a", "b"])).is_ok(), "anybody's");
        assert!(orders.applied(&assigned("t", "b"), members(&["a", "c"])).is_ok(), "it has left just now");
        assert!(orders.applied(&assigned("t", "b"), members(&["a", "c"])).is_err());
        assert!(orders.applied(&[], BTreeMap::new()).is_ok());
        assert!(orders.applied(&assigned("t", "a"), BTreeMap::new()).is_err(), "it is disbanded");
        orders.ends("t");
        orders.ends("t");
        assert_eq!(orders.ended(), 1);
    }
}
