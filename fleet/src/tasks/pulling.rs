//! An agent takes its next tasks.

use crate::{AgentId, Effect, Fleet};

/// Most tasks that have waited for too long and are ended in a row because they would be the next ones. Many may have
/// waited equally long, more than the timers that one command fires. The others are ended in further steps.
const MAX_EXPIRED_AT_ONCE: usize = 16;

/// What became of the task that was an agent's next one.
enum Pulled {
    /// There is none, or the agent has no free slot.
    Nothing,
    /// The agent has it.
    Started,
    /// It had waited for too long, and has ended.
    Expired,
}

impl Fleet {
    /// Gives `agent` queued tasks for as long as it has a free slot: now, or in further steps of the running command.
    pub(crate) fn pull(&mut self, agent: AgentId, effects: &mut Vec<Effect>) {
        let mut expired = 0;
        while expired < MAX_EXPIRED_AT_ONCE {
            match self.pull_next(agent, effects) {
                Pulled::Nothing => return,
                Pulled::Started => {}
                Pulled::Expired => expired += 1,
            }
        }
        self.pulls.push(agent);
    }

    /// Gives `agent` its next queued task, if it has a free slot, or ends the task if that has waited for too long. Returns
    /// whether there was one.
    pub(crate) fn pull_one(&mut self, agent: AgentId, effects: &mut Vec<Effect>) -> bool {
        !matches!(self.pull_next(agent, effects), Pulled::Nothing)
    }

    fn pull_next(&mut self, agent: AgentId, effects: &mut Vec<Effect>) -> Pulled {
        let Some(next) = self.next_for(agent) else { return Pulled::Nothing };
        let task = self.state.tasks.kept.get(&next.seq());
        if task.is_some_and(|task| task.has_expired(self.state.now.fleet)) {
            // Its timer is about to end it.
            self.queue_expired(next.seq(), effects);
            return Pulled::Expired;
        }
        self.count_start(&next);
        self.assign(next.seq(), agent, effects);
        self.forget_idle_shares();
        Pulled::Started
    }
}
