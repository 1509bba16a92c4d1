//! Explains what a queued task waits for. This requires a scan of all agents, so the agents are counted one by one and
//! the caller can read them in slices.

use std::sync::Arc;

use crate::{
    Agent, AgentState, Fleet, FleetMillis, Task, TaskId, TaskState, Verification, schedule::free_agents::Needs,
    words::count,
};

/// What a queued task waits for.
pub struct Waiting<'a> {
    task: &'a Task,
    /// Number of fitting agents by state.
    fitting: [usize; 5],
    /// The names of the agents that gave what is to be compared.
    givers: Vec<&'a Arc<str>>,
    /// Number of live agents that may compare its outputs.
    comparers: usize,
    /// Number of live agents that could, and gave what is to be compared.
    biased: usize,
    /// An agent contributes what it needs.
    is_offered: bool,
}

impl<'a> Waiting<'a> {
    /// Returns what `task` waits for, before any agent is counted; `None` if the task is not queued.
    pub fn of(task: &'a Task) -> Option<Self> {
        let (waits, fitting) = (task.state == TaskState::Queued, [0; 5]);
        waits.then(|| Self { task, fitting, givers: task.givers(), comparers: 0, biased: 0, is_offered: true })
    }

    /// Notes whether any agent contributes what the task needs: one may wait for an agent that is expected to.
    pub fn note_offers(&mut self, fleet: &Fleet) {
        self.is_offered = fleet.is_offered(self.task);
    }

    /// Returns what the task needs besides a free slot.
    fn and_resources(&self) -> String {
        let Some(claim) = &self.task.resources else { return String::new() };
        let how = if self.is_offered { "" } else { "; no agent contributes as much" };
        format!(" and the resources that it needs ({}{how})", claim.asked)
    }

    /// Returns whether the task waits for an agent. If so, [`Waiting::words`] is right only once every agent is
    /// counted.
    pub fn needs_agents(&self) -> bool {
        self.task.is_due() && (self.task.team.is_none() || self.compares().is_some())
    }

    /// Returns the kind of the tasks that compare its outputs, if there are such.
    fn compares(&self) -> Option<&'a String> {
        self.task.verification.as_ref()?.asked.compare.as_ref()
    }

    /// Counts an agent.
    pub fn count(&mut self, agent: &Agent) {
        let needs: Needs<'_> = self.task.needs();
        if needs.fit(agent.role, agent.has_specialization(needs.domain)) {
            self.fitting[agent.state as usize] += 1;
        }
        let compares = self.compares().is_some_and(|kind| agent.has_specialization(kind));
        if compares && agent.state == AgentState::Live {
            let is_biased = self.givers.contains(&&agent.name);
            self.biased += usize::from(is_biased);
            self.comparers += usize::from(!is_biased);
        }
    }

    /// Returns what a verified task waits for, as text.
    fn verified(&self, verification: &Verification) -> String {
        let task = self.task;
        let mut words = verification.waiting_for();
        let (live, asked) = (self.fitting[AgentState::Live as usize], verification.asked.agents as usize);
        if task.team.is_none() && live < asked {
            let fit = if live == 1 { "fits" } else { "fit" };
            words.push_str(&format!("; only {} {fit} it", count(live, "live agent")));
        }
        if let Some(what) = verification.comparison_words() {
            let have = if self.comparers == 1 { "has" } else { "have" };
            words.push_str(&format!("; and for {what}, which {} {have}", count(self.comparers, "live agent")));
            if self.biased > 0 {
                words.push_str(&format!(" besides {} that gave one of them", self.biased));
            }
        }
        words
    }

    /// Returns what the task waits for at the time `now`, as text.
    pub fn words(&self, now: FleetMillis) -> String {
        let task = self.task;
        if let Some(ballot) = task.awaited_ballot() {
            return format!("approval by ballot {ballot}");
        }
        if let Some(due) = task.not_before {
            let what = match task.attempts_used {
                0 => "delay",
                _ => "backoff",
            };
            return match due.saturating_sub(now) {
                0 => format!("the end of its {what}, which is due"),
                left @ 1..1_000 => format!("the end of its {what}, {left} ms from now"),
                left => format!("the end of its {what}, {} s from now", left.div_ceil(1_000)),
            };
        }
        if let Some(verification) = &task.verification {
            return self.verified(verification);
        }
        if let Some(team) = task.team {
            return format!("a member of team {team} that fits it and has a free slot{}", self.and_resources());
        }
        let fitting = |state: AgentState| self.fitting[state as usize];
        let live = fitting(AgentState::Live);
        if live > 0 {
            return match (&task.resources, live) {
                (None, 1) => "a free slot: the one fitting agent is busy".to_owned(),
                (None, _) => format!("a free slot: all {live} fitting agents are busy"),
                (Some(_), 1) => format!("a free slot{} at the one fitting agent", self.and_resources()),
                (Some(_), _) => format!("a free slot{} at one of {live} fitting agents", self.and_resources()),
            };
        }
        let role = task.required_role.map(|role| format!("role {role:?}"));
        let skill = task.required_specialization.as_ref();
        let skill = skill.map(|name| format!("specialization {name:?}"));
        let wanted: Vec<String> = role.into_iter().chain(skill).collect();
        let missing = match wanted.is_empty() {
            true => "takes its kind".to_owned(),
            false => format!("has {}", wanted.join(" and ")),
        };
        let mut others = Vec::new();
        for (state, word) in [
            (AgentState::Standby, "on standby"),
            (AgentState::Unhealthy, "unhealthy"),
            (AgentState::Draining, "draining"),
            (AgentState::Lost, "lost"),
        ] {
            if fitting(state) > 0 {
                others.push(format!("{} {word}", fitting(state)));
            }
        }
        let others = match others.is_empty() {
            true => String::new(),
            false => format!(" ({})", others.join(", ")),
        };
        format!("an agent: no live one {missing}{others}")
    }
}

impl Fleet {
    /// Returns what a queued task waits for at the time `now`, as text; `None` if the task is not queued. Scans all
    /// agents; use [`Waiting`] to do so in slices.
    pub fn waiting_for(&self, id: TaskId, now: FleetMillis) -> Option<String> {
        let mut waiting = Waiting::of(self.task(id)?)?;
        waiting.note_offers(self);
        self.agents().for_each(|agent| waiting.count(agent));
        Some(waiting.words(now))
    }
}
