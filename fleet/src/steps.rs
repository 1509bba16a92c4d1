//! The work of a command after its first step, where it grows with the fleet: the attempts of a lost agent, the slots
//! of a joining agent, the standbys of a pool, the agents to be ranked again, the letters about a ballot, the tasks and
//! members of a team that is disbanded, what a lost agent held and gave of the resource pool, the tasks that depend on
//! one that has ended, and its children, tasks that limits hold back no more, tasks that age otherwise. It is divided into
//! steps of about the same small cost, so that readers of the state need not wait for all of it. Nothing else is applied in
//! between, so the result does not depend on the division.

use std::vec;

use crate::{
    AgentId, Effect, Fleet, FleetConfig, PostLetter, RecoveryEvent, Reply, TeamId, agents::lost::Requeue,
    resources::Holder, schedule::free_agents::FreeAgents,
};

/// The jobs left to do, as a stack: the next one is at the end.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Vec<Job>);

#[derive(Debug)]
pub(crate) enum Job {
    /// Queue again what an agent held, then place it.
    Requeue(Box<Requeue>),
    /// Give these queued tasks to agents.
    Place(vec::IntoIter<u64>),
    /// Give an agent queued tasks for as long as it has a free slot.
    Pull(AgentId),
    /// Activate standby agents of a pool for as long as it lacks live agents. If this is because an agent failed, each
    /// activation is recorded as a step of that agent's recovery.
    Fill(String, Option<AgentId>),
    /// Record a step of an agent's recovery.
    Record(AgentId, RecoveryEvent),
    /// Open a session for an agent that has none.
    Enter(Box<crate::agents::sessions::Entering>),
    /// Remove the pool that an agent left, if it is empty; then fill that pool and the agent's new one.
    Refill(Option<String>, Option<String>),
    /// Forget an agent that has no session.
    Forget(AgentId),
    /// Rank the agents by the weights of another configuration, which comes into force afterwards.
    Rerank(Box<Rerank>),
    /// Drop the entries of sets that are no longer needed, one by one.
    Discard(Box<FreeAgents>),
    /// Post these letters, for which there is room.
    Post(vec::IntoIter<PostLetter>),
    /// Cancel the unfinished tasks of a disbanded team, one by one, for this reason.
    EndTasks(TeamId, String),
    /// Give these agents to teams that lack members.
    Staff(vec::IntoIter<AgentId>),
    /// End what an agent whose session has ended holds and gives of the resource pool.
    Withdraw(AgentId, Holder),
    /// Give tasks to agents that limits hold back no more.
    Admit,
    /// Have the tasks after this number age as their queues say.
    Age(u64),
    /// Do what the ends of tasks mean for those that are linked to them.
    Settle,
}

#[derive(Debug)]
pub(crate) struct Rerank {
    pub config: FleetConfig,
    pub free: FreeAgents,
    pub after: Option<AgentId>,
}

impl Jobs {
    /// Returns whether no jobs are left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives an agent queued tasks once those wait as well that are about to be queued again, and before these are
    /// placed; last, if there are none.
    pub(crate) fn pull_afterwards(&mut self, agent: AgentId) {
        for job in &mut self.0 {
            if let Job::Requeue(requeue) = job {
                return requeue.pulls.push(agent);
            }
        }
        self.0.insert(0, Job::Pull(agent));
    }

    /// Gives the tasks to agents that limits hold back no more, next: but once those wait as well that are about to be
    /// queued again, and those wait no more that are about to be cancelled.
    pub(crate) fn admit_next(&mut self) {
        let comes_first = |job: &Job| matches!(job, Job::Admit | Job::Requeue(_) | Job::EndTasks(..));
        let is_settling = matches!(self.0.as_slice(), [Job::Settle]);
        if !is_settling && !self.0.iter().any(comes_first) {
            self.0.push(Job::Admit);
        }
    }

    /// Does what the ends of tasks mean for others, after everything else.
    pub(crate) fn settle_afterwards(&mut self) {
        if !matches!(self.0.first(), Some(Job::Settle)) {
            self.0.insert(0, Job::Settle);
        }
    }

    /// Adds a job that is done next, before all others.
    pub(crate) fn push(&mut self, job: Job) {
        self.0.push(job);
    }

    /// Same as [`Jobs::push`], if there is more to do.
    pub(crate) fn push_if(&mut self, more: bool, job: Job) {
        if more {
            self.push(job);
        }
    }
}

impl Fleet {
    /// Takes at most `budget` steps. Returns whether everything is done.
    pub(crate) fn work(&mut self, jobs: &mut Jobs, budget: usize, effects: &mut Vec<Effect>) -> bool {
        for _ in 0..budget {
            let Some(job) = jobs.0.pop() else { return true };
            self.step(job, jobs, effects);
            self.end_step(jobs, effects);
        }
        jobs.is_empty()
    }

    fn step(&mut self, job: Job, jobs: &mut Jobs, effects: &mut Vec<Effect>) {
        match job {
            Job::Requeue(requeue) => self.requeue(requeue, jobs, effects),
            Job::Place(mut tasks) => {
                if let Some(seq) = tasks.next() {
                    self.place(seq, effects);
                    jobs.push(Job::Place(tasks));
                }
            }
            Job::Pull(agent) => jobs.push_if(self.pull_one(agent, effects), Job::Pull(agent)),
            Job::Fill(pool, failed) => {
                if let Some(activated) = self.activate_one(&pool, failed, effects) {
                    jobs.push(Job::Fill(pool, failed));
                    jobs.push(Job::Pull(activated));
                }
            }
            Job::Record(agent, event) => self.record_step(agent, event, effects),
            Job::Enter(entering) => self.enter(*entering, jobs, effects),
            Job::Refill(from, to) => {
                self.drop_empty_pool(from.as_deref());
                for pool in [to, from].into_iter().flatten() {
                    jobs.push(Job::Fill(pool, None));
                }
            }
            Job::Forget(agent) => self.forget(agent),
            Job::Rerank(rerank) => self.rerank(rerank, jobs),
            Job::Discard(mut free) => jobs.push_if(free.discard_one(), Job::Discard(free)),
            Job::Post(mut letters) => {
                if let Some(letter) = letters.next() {
                    self.post_new(letter, effects);
                    jobs.push(Job::Post(letters));
                }
            }
            Job::EndTasks(team, reason) => {
                let more = self.end_one_task(team, &reason, effects);
                jobs.push_if(more, Job::EndTasks(team, reason));
            }
            Job::Staff(mut agents) => {
                if let Some(agent) = agents.next() {
                    self.staff(agent, jobs, effects);
                    jobs.push(Job::Staff(agents));
                }
            }
            Job::Withdraw(agent, holder) => {
                let more = self.withdraw_one(agent, &holder, effects);
                jobs.push_if(more, Job::Withdraw(agent, holder));
            }
            Job::Admit => self.admit_one(effects),
            Job::Age(after) => {
                if let Some(last) = self.age_some(after) {
                    jobs.push(Job::Age(last));
                }
            }
            Job::Settle => self.settle_one(effects),
        }
    }

    pub(crate) fn configure(&mut self, config: FleetConfig, jobs: &mut Jobs) -> Reply {
        if let Err(refusal) = config.check() {
            return Reply::Refused(refusal);
        }
        if config.weights == self.state.config.weights {
            self.state.config = config;
        } else {
            // The order of the agents in the scheduler may change.
            jobs.push(Job::Rerank(Box::new(Rerank { config, free: FreeAgents::default(), after: None })));
        }
        Reply::Done
    }

    fn rerank(&mut self, mut rerank: Box<Rerank>, jobs: &mut Jobs) {
        let next = self.agents_after(rerank.after).next();
        if let Some(agent) = next {
            rerank.free.insert(agent, &rerank.config.weights);
            rerank.after = Some(agent.id);
            jobs.push(Job::Rerank(rerank));
        } else {
            let Rerank { config, free, .. } = *rerank;
            self.state.config = config;
            jobs.push(Job::Discard(Box::new(std::mem::replace(&mut self.indexes.schedule.free, free))));
        }
    }
}
