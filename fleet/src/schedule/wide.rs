//! Tasks that take several slots or skills, and need no resources: which of them an agent takes. One that takes many slots
//! waits while smaller ones leave it too few: no agent keeps slots free for it.

use super::{needing::Needing, queue::Found, submitters::Turn};
use crate::{Agent, AgentId, Fleet, Role};

impl Fleet {
    /// Returns the first of these tasks that an agent can take, and whether it is no task of a specialist's domain.
    pub(crate) fn next_wide(&mut self, id: AgentId) -> Option<(bool, Found)> {
        if self.indexes.schedule.wide.ready == 0 {
            return None;
        }
        let mut wide = std::mem::take(&mut self.indexes.schedule.wide);
        let agent = self.state.agents.known.get(&id).filter(|agent| agent.free_slots() > 0);
        let found = agent.and_then(|agent| self.first_wide(&mut wide, agent));
        self.indexes.schedule.wide = wide;
        found
    }

    fn first_wide(&self, wide: &mut Needing, agent: &Agent) -> Option<(bool, Found)> {
        let team = self.team_of(agent.id).map(|team| team.id);
        let (skip, rules) = (|seq: u64| self.skipped(seq, agent), self.rules());
        let mut best = None;
        for (shape, ready) in wide.waiting() {
            let fits = shape.needs().can_go_to(agent) && shape.team.is_none_or(|of| team == Some(of));
            if !fits || rules.gate.holds(&shape.queue, &shape.limit_key) {
                continue;
            }
            let served = |submitter: &str| rules.shares.of_submitter(&shape.queue, submitter);
            let Some(turn) = ready.first(&served, &skip) else { continue };
            let is_own = agent.role == Role::Specialist && agent.has_specialization(&shape.domain);
            best = Found::preferred(best, (!is_own, Found::in_queue(&shape.queue, turn, rules)));
        }
        best
    }

    /// Returns the first of these tasks of a queue that some agent can take.
    pub(crate) fn first_wide_of(&mut self, queue: &str) -> Option<Found> {
        if self.indexes.schedule.wide.ready == 0 {
            return None;
        }
        let mut wide = std::mem::take(&mut self.indexes.schedule.wide);
        let mut best = None;
        for (shape, ready) in wide.waiting_in(queue) {
            let rules = self.rules();
            if rules.gate.holds(queue, &shape.limit_key) {
                continue;
            }
            let served = |submitter: &str| rules.shares.of_submitter(queue, submitter);
            let turn = ready.first(&served, &|seq: u64| self.unplaced(seq));
            let can_go = |turn: &Turn| self.state.tasks.kept.get(&turn.rank.1).and_then(|task| self.best_for(task));
            if let Some(turn) = turn.filter(|turn| can_go(turn).is_some()) {
                best = Found::better(best, Found::in_queue(queue, turn, rules));
            }
        }
        self.indexes.schedule.wide = wide;
        best
    }
}
