//! The room that queues have for more tasks.

use crate::{
    AskedLane, Feature, Fleet, Lane, Refusal, SubmitTask, Task, TeamId,
    limits::{DEFAULT_QUEUE, DEFAULT_QUEUE_WEIGHT, MAX_BUCKETS, MAX_LIMITED_DOMAINS, QUEUE_RETRY_MS},
};

impl Fleet {
    /// Returns the weight of a queue among those that have tasks for the same agents.
    pub(crate) fn weight_of(&self, queue: &str) -> u32 {
        let set = self.state.queues.set.get(queue).map(|rules| rules.weight);
        let of_resources = || self.state.resources.queues.get(queue).map(|queue| queue.weight);
        set.or_else(of_resources).unwrap_or(DEFAULT_QUEUE_WEIGHT)
    }

    /// Has a task age as its queue says, which is accepted now.
    pub(crate) fn set_lane(&self, task: &mut Task) {
        let aging = self.aging_of(task.queue());
        if aging > 0 {
            task.set_aging(aging);
        } else if task.lane.as_ref().is_some_and(|lane| **lane == Lane::default()) {
            task.lane = None;
        }
    }

    /// Has a subtask wait where its task does, unless it says where, and count for the one who submitted that.
    pub(crate) fn inherit_lane(&self, task: &Task, subtask: &mut SubmitTask) {
        if task.lane.is_none() && task.resources.is_none() {
            return;
        }
        let mut asked = match subtask.lane.take() {
            Some(asked) => *asked,
            None => AskedLane { limit_key: task.limit_key().to_owned(), ..AskedLane::default() },
        };
        let queue = task.queue();
        // That of its resources counts; and one that was removed can't be asked for any more.
        let inherits = asked.queue.is_empty() && subtask.resources.is_none() && *queue != *DEFAULT_QUEUE;
        if inherits && self.knows_queue(queue) {
            queue.clone_into(&mut asked.queue);
        }
        if let Some(lane) = &task.lane {
            asked.identity.clone_from(&lane.asked.identity);
        }
        subtask.lane = (asked != AskedLane::default()).then(|| Box::new(asked));
    }

    /// Refuses a task, and so many that come with it, of a queue that nobody has set or that has no room. `None`: places
    /// are kept for them.
    pub(crate) fn check_lane_room(&self, submission: &SubmitTask, more: Option<u64>) -> Result<(), Refusal> {
        // A fleet without the feature says so when the command is applied.
        if !self.has(Feature::Queues) {
            return Ok(());
        }
        if submission.lane.is_some() {
            self.check_queue(submission.queue())?;
        }
        let domain = submission.required_specialization.as_deref().unwrap_or(&submission.kind);
        self.check_group_room((submission.queue(), submission.limit_key()), (domain, submission.team), more)
    }

    /// Refuses a task of a queue and a key, with this domain, and for this team if any, and so many that come with it, if the
    /// queue has no room.
    pub(crate) fn check_group_room(
        &self,
        (queue, key): (&str, &str),
        (domain, team): (&str, Option<TeamId>),
        more: Option<u64>,
    ) -> Result<(), Refusal> {
        let Some(rules) = self.state.queues.set.get(queue) else { return Ok(()) };
        if let Some(more) = more {
            self.check_unfinished(queue, more)?;
        }
        if rules.limits.is_empty() {
            return Ok(());
        }
        let schedule = &self.indexes.schedule;
        let waiting = team.map_or(Some(&schedule.queue), |team| schedule.teams.get(&team));
        if waiting.is_some_and(|tasks| tasks.other_domains(queue, domain) >= MAX_LIMITED_DOMAINS) {
            return Err(Refusal::Full {
                what: format!("different kinds of tasks that wait in queue {queue:?}, which has limits"),
                limit: MAX_LIMITED_DOMAINS as u64,
                remedy: "submit this one when some have started".to_owned(),
            });
        }
        let has_rate = self.indexes.schedule.gate.rate_of(queue, key).is_some();
        if !has_rate || self.has_bucket_room(queue, key) {
            return Ok(());
        }
        Err(Refusal::Full {
            what: "keys with rates of which tasks have started".to_owned(),
            limit: MAX_BUCKETS as u64,
            remedy: "submit this one in a while, or use fewer keys".to_owned(),
        })
    }

    /// Refuses another unfinished task of a queue, and so many that come with it, if there may not be as many.
    pub(crate) fn check_unfinished(&self, queue: &str, more: u64) -> Result<(), Refusal> {
        let limit = self.state.queues.set.get(queue).and_then(|rules| rules.max_unfinished);
        let Some(limit) = limit else { return Ok(()) };
        let unfinished = u64::from(self.indexes.schedule.gate.counts_of(queue).unfinished);
        if unfinished.saturating_add(more) < u64::from(limit) {
            return Ok(());
        }
        let retry_after_ms = self.retry_after(queue);
        Err(Refusal::TaskQueueFull { queue: queue.to_owned(), limit, retry_after_ms })
    }

    /// Returns when there may be room in a queue, ms from now: when the next one of its tasks may start, if its rate is
    /// limited.
    fn retry_after(&self, queue: &str) -> u64 {
        let rate = self.indexes.schedule.gate.rate_of(queue, "");
        rate.map_or(QUEUE_RETRY_MS, |rate| rate.time_for(rate.per).max(QUEUE_RETRY_MS))
    }

    /// Returns whether the bucket of a key of a queue can be kept.
    pub(crate) fn has_bucket_room(&self, queue: &str, key: &str) -> bool {
        let has_one = self.state.queues.bucket(queue, key).is_some();
        has_one || self.indexes.schedule.gate.buckets() < MAX_BUCKETS
    }
}
