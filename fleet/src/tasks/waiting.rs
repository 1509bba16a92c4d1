//! Explains what a queued task waits for. This requires a scan of all agents, so the agents are counted one by one and
//! the caller can read them in slices.

use std::sync::Arc;

use crate::{
    Agent, AgentState, Fleet, FleetMillis, Task, TaskId, TaskState, Verification,
    schedule::{free_agents::Needs, unschedulable::required},
    words::{count, left, listed},
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
    /// Which limit of its queue holds it back.
    limit: Option<String>,
    /// Number of fitting live agents that have as many slots as the task takes, free or not.
    large: usize,
    /// When the first of them is expected to have so many free, as far as that is known.
    expected: Option<FleetMillis>,
    /// Number of fitting live agents that run another part of the same task, if they are kept apart.
    siblings: usize,
}

impl<'a> Waiting<'a> {
    /// Returns what `task` waits for, before any agent is counted; `None` if the task is not queued.
    pub fn of(task: &'a Task) -> Option<Self> {
        let is_queued = task.state == TaskState::Queued;
        is_queued.then(|| Self {
            task,
            fitting: [0; 5],
            givers: task.givers(),
            comparers: 0,
            biased: 0,
            is_offered: true,
            limit: None,
            large: 0,
            expected: None,
            siblings: 0,
        })
    }

    /// Notes whether a limit holds the task back, and whether any agent contributes what it needs: one may wait for an
    /// agent that is expected to.
    pub fn note_offers(&mut self, fleet: &Fleet) {
        self.is_offered = fleet.is_offered(self.task);
        self.limit = fleet.limit_words(self.task);
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
        self.limit.is_none() && self.task.is_due() && (self.task.team.is_none() || self.compares().is_some())
    }

    /// Returns the kind of the tasks that compare its outputs, if there are such.
    fn compares(&self) -> Option<&'a String> {
        self.task.verification.as_ref()?.asked.compare.as_ref()
    }

    /// Counts an agent of this fleet at the time `now`.
    pub fn count(&mut self, fleet: &Fleet, agent: &Agent, now: FleetMillis) {
        let needs: Needs<'_> = self.task.needs();
        if needs.suit(agent) && needs.can_fetch(agent) {
            self.fitting[agent.state as usize] += 1;
            if agent.state == AgentState::Live && agent.slots >= needs.slots {
                self.large += 1;
                let is_apart = fleet.runs_sibling(self.task, agent.id);
                self.siblings += usize::from(is_apart);
                let expected = if is_apart { None } else { fleet.expected_free(agent, needs.slots, now) };
                self.expected = self.expected.into_iter().chain(expected).min();
            }
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
        if let Some(limit) = &self.limit {
            return limit.clone();
        }
        let for_others = self.task.links.as_ref().and_then(|links| links.waiting_for());
        for_others.unwrap_or_else(|| self.own_words(now))
    }

    /// Returns what a task waits for that waits for no other one.
    fn own_words(&self, now: FleetMillis) -> String {
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
            return self.busy_words(live, now);
        }
        let wanted = required(task);
        let missing = match wanted.is_empty() {
            true => "takes its kind".to_owned(),
            false => format!("has {}", listed(&wanted)),
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

    /// Returns what the task waits for while so many live agents fit.
    fn busy_words(&self, live: usize, now: FleetMillis) -> String {
        let task = self.task;
        let slots = match task.slots() {
            1 => "a free slot".to_owned(),
            slots => format!("{slots} free slots"),
        };
        if self.large == 0 {
            let have = if live == 1 {
                "the one fitting agent has".to_owned()
            } else {
                format!("all {live} fitting agents have")
            };
            return format!("an agent with {} slots: {have} fewer", task.slots());
        }
        if task.resources.is_some() {
            let at =
                if live == 1 { "the one fitting agent".to_owned() } else { format!("one of {live} fitting agents") };
            return format!("{slots}{} at {at}", self.and_resources());
        }
        let expected = self.expected.map(|at| format!("; the first is expected in {}", left(at.saturating_sub(now))));
        let expected = expected.unwrap_or_default();
        if self.siblings > 0 {
            let run = if self.siblings == 1 { "runs" } else { "run" };
            let rest = match live.saturating_sub(self.siblings) {
                0 => String::new(),
                1 => format!(", and one more is busy{expected}"),
                busy => format!(", and {busy} more are busy{expected}"),
            };
            return format!(
                "{slots}: {} {run} other parts of the same task{rest}",
                count(self.siblings, "fitting agent")
            );
        }
        match live {
            1 => format!("{slots}: the one fitting agent is busy{expected}"),
            _ => format!("{slots}: all {live} fitting agents are busy{expected}"),
        }
    }
}

impl Fleet {
    /// Returns what a queued task waits for at the time `now`, as text; `None` if the task is not queued. Scans all
    /// agents; use [`Waiting`] to do so in slices.
    pub fn waiting_for(&self, id: TaskId, now: FleetMillis) -> Option<String> {
        let mut waiting = Waiting::of(self.task(id)?)?;
        waiting.note_offers(self);
        self.agents().for_each(|agent| waiting.count(self, agent, now));
        Some(waiting.words(now))
    }
}
