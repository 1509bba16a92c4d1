//! What a submission gets from its kind: everything that it does not say itself.

use std::borrow::Cow;

use super::TaskKind;
use crate::{Demand, Fleet, RetryPolicy, SubmitTask, TaskResources};

impl TaskKind {
    /// Sets what a submission of this kind does not say. `retry` is the fleet's default.
    fn fill(&self, submission: &mut SubmitTask, retry: RetryPolicy) {
        submission.required_role = submission.required_role.or(self.role);
        submission.deadline_in = submission.deadline_in.or(self.deadline_in);
        submission.attempt_timeout = submission.attempt_timeout.or(self.attempt_timeout);
        submission.retry = submission.retry.or_else(|| Some(self.retry.over(retry)));
        if let Some(timing) = &self.timing {
            let own = submission.timing.take().map(|own| *own).unwrap_or_default();
            // Its id is as good as the random number that a coordinator draws: it has one of its own.
            submission.timing = Some(Box::new(own.or(timing, submission.id.0 as u64)));
        }
        if submission.resources.is_none() {
            submission.resources = self.resources_of(submission);
        }
        if submission.resources.is_none() && !self.queue.is_empty() {
            let lane = submission.lane.get_or_insert_default();
            if lane.queue.is_empty() {
                lane.queue.clone_from(&self.queue);
            }
        }
        let Demand { mut slots, mut skills, .. } = submission.demand.take().map(|demand| *demand).unwrap_or_default();
        if slots == 0 {
            slots = self.slots;
        }
        // The first skill is the one that is required, which decides about matching.
        if submission.required_specialization.is_none()
            && let Some((first, others)) = self.skills.split_first()
        {
            submission.required_specialization = Some(first.clone());
            skills = others.to_vec();
        }
        submission.demand = Demand::of(slots, skills);
    }

    /// Returns the resources that a submission of this kind needs: from the queue that it names, else from that of the kind.
    fn resources_of(&self, submission: &SubmitTask) -> Option<Box<TaskResources>> {
        let mut resources = self.resources.clone()?;
        if let Some(lane) = submission.lane.as_ref().filter(|lane| !lane.queue.is_empty()) {
            resources.queue.clone_from(&lane.queue);
        }
        Some(resources)
    }
}

impl Fleet {
    /// Returns the retry policy of a task of this kind that sets none.
    pub fn default_retry(&self, kind: &str) -> RetryPolicy {
        let fleets = self.state.config.retry;
        self.task_kind(kind).map_or(fleets, |kind| kind.retry.over(fleets))
    }

    /// Sets what a submission does not say and its kind does.
    pub(crate) fn fill_defaults(&self, submission: &mut SubmitTask) {
        if let Some(kind) = self.task_kind(&submission.kind) {
            kind.fill(submission, self.state.config.retry);
        }
    }

    /// Returns a submission with what it does not say and its kind does.
    pub(crate) fn with_defaults<'a>(&self, submission: &'a SubmitTask) -> Cow<'a, SubmitTask> {
        match self.task_kind(&submission.kind) {
            None => Cow::Borrowed(submission),
            Some(kind) => {
                let mut filled = submission.clone();
                kind.fill(&mut filled, self.state.config.retry);
                Cow::Owned(filled)
            }
        }
    }
}
