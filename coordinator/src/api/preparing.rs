//! What is done with submissions before they are proposed: they are read, policies decide about them, and those that need
//! an approval get a ballot.

use std::collections::BTreeMap;

use robeing_fleet::{Feature, Fleet, Reply, SubmitTask, TaskId, TaskState, limits::DEFAULT_QUEUE};
use robeing_net::gate::Caller;
use robeing_platform::uuid_v7;
use robeing_proto::v1;

use crate::{
    api::{
        answers::Outcome,
        convert::{self, BadField},
        errors,
        splitting::Preparing,
        submissions::Submissions,
    },
    ballots::opening::Draft,
    mail::sender_name,
    policies::Held,
    read::StateReader,
};

/// A task as it was submitted.
pub struct Prepared {
    pub task: SubmitTask,
    /// The ballot that it asks for.
    pub approval: Option<Draft>,
    /// The parts that are submitted with it.
    pub parts: Vec<SubmitTask>,
    /// The reply to it, if it is known with all its parts: it is not proposed without them, because by the time it were,
    /// it could have expired, and be a new task that waits for parts in vain.
    pub known: Option<Reply>,
}

/// Notes who submits, if that is known: of those who do, each has a share of a queue.
pub fn identify(state: &StateReader, by: &Caller, submissions: &mut [SubmitTask]) {
    if matches!(by, Caller::Plaintext | Caller::Anonymous) || !state.look(|fleet| fleet.has(Feature::Queues)) {
        return;
    }
    let identity = sender_name(by);
    for submission in submissions {
        submission.lane.get_or_insert_default().identity.clone_from(&identity);
    }
}

/// Returns whether a task is known with all its parts, or gets no others because it has ended.
pub(super) fn has_its_parts(fleet: &Fleet, task: TaskId) -> bool {
    if fleet.state_of(task).is_some_and(TaskState::is_final) {
        return true;
    }
    let children = fleet.task(task).and_then(|task| task.children());
    children.is_some_and(|children| children.accepted >= children.parts)
}

/// Returns the reply to a submission of a task that is known with all its parts, or gets no others.
fn submitted_with_parts(fleet: &Fleet, task: &SubmitTask) -> Option<Reply> {
    if has_its_parts(fleet, task.id) { fleet.submitted_before(task) } else { None }
}

impl Submissions {
    /// Returns the submission of a task of a request; an error if it is refused whatever the state. A retry policy that is
    /// set in part gets the other parts of its kind, as far as this coordinator knows it now, and a task that is split among
    /// agents is divided as its kind says.
    pub fn prepare(&self, mut spec: v1::TaskSpec, preparing: &mut Preparing) -> Result<Prepared, v1::SubmitResult> {
        let id = std::mem::take(&mut spec.id);
        let refused = |refusal| {
            let task_id = convert::excerpt(&id).to_owned();
            v1::SubmitResult { task_id, refusal: Some(refusal), ..v1::SubmitResult::default() }
        };
        let prepared = self.read(&id, spec, preparing).map_err(|error| refused(convert::bad_field(&error)))?;
        let checked = prepared.task.check();
        match checked.and_then(|()| prepared.parts.iter().try_for_each(SubmitTask::check)) {
            Ok(()) => Ok(prepared),
            Err(refusal) => Err(refused(convert::refusal(&refusal))),
        }
    }

    /// Reads a task of a request with this id, which is drawn if it is empty.
    fn read(&self, id: &str, mut spec: v1::TaskSpec, preparing: &mut Preparing) -> Result<Prepared, BadField> {
        let divided = preparing.divide(&mut spec)?;
        let asked = spec.requires_approval.take();
        let sets_retry = spec.retry.is_some();
        let default_retry = sets_retry.then(|| self.state.look(|fleet| fleet.default_retry(&spec.kind)));
        let default_retry = default_retry.unwrap_or_default();
        let kind = spec.split.as_ref().map(|split| split.part_kind.clone()).unwrap_or_default();
        let names_default = spec.queue == DEFAULT_QUEUE;
        // They are counted when the task is read, and not needed for that.
        let inputs = spec.inputs.clone();
        convert::start_after(&mut spec, || self.clock.estimate())?;
        let id = if id.is_empty() { self.fresh_id() } else { convert::task_id(id)? };
        let mut task = convert::submission(spec, default_retry, || id.0)?;
        task.draw_jitter(|| self.platform.random.next_u64());
        if names_default {
            self.keep_default(&mut task);
        }
        let approval = asked.map(|asked| Draft::of_task(&task, asked)).transpose()?;
        let mut parts = if inputs.is_empty() { Vec::new() } else { convert::parts(&task, &kind, inputs) };
        let mut known = None;
        if let Some(mut divided) = divided {
            if let Some(divider) = divided.divider.take() {
                task.links.get_or_insert_default().divider = Some(divider);
            }
            // Since it was divided first, its kind may be split otherwise.
            known = self.state.look(|fleet| submitted_with_parts(fleet, &task));
            if known.is_some() {
                parts.clear();
            }
            divided.limit(&task, &mut parts);
        }
        Ok(Prepared { task, approval, parts, known })
    }

    fn fresh_id(&self) -> TaskId {
        TaskId(uuid_v7(&*self.platform.clock, &*self.platform.random))
    }

    /// Has a task wait in [`DEFAULT_QUEUE`], which it names, also if its kind names another queue.
    fn keep_default(&self, task: &mut SubmitTask) {
        if task.resources.is_none() && self.state.look(|fleet| fleet.task_kind(&task.kind).is_some()) {
            DEFAULT_QUEUE.clone_into(&mut task.lane.get_or_insert_default().queue);
        }
    }

    /// Lets the policies decide about submissions of a caller, and gives those a ballot that need an approval. Returns the
    /// outcomes of those that are not to be proposed, by their indexes.
    pub(super) async fn checked(
        &self,
        by: &Caller,
        submissions: &mut [SubmitTask],
        mut approvals: BTreeMap<usize, Draft>,
    ) -> BTreeMap<usize, Outcome> {
        identify(&self.state, by, submissions);
        let mut answered: BTreeMap<usize, Outcome> = BTreeMap::new();
        for (n, held) in self.policies.check_submissions(submissions, by).await {
            match (held, submissions.get(n)) {
                // Whom the submitter has asked for does not matter then.
                (Held::Approval(demand, reason), Some(task)) => match Draft::of_policy(task, &demand.by, &reason) {
                    Ok(draft) => drop(approvals.insert(n, draft)),
                    Err(error) => drop(answered.insert(n, Err(convert::bad_field(&error)))),
                },
                (Held::Answered(outcome), _) => drop(answered.insert(n, outcome)),
                (Held::Approval(..), None) => {}
            }
        }
        let mut to_open = BTreeMap::new();
        for (n, draft) in approvals.into_iter().filter(|(n, _)| !answered.contains_key(n)).collect::<Vec<_>>() {
            // A task that was accepted before is answered here: by the time it were proposed, it could have expired, and
            // be a new task that nobody has approved.
            let Some(task) = submissions.get(n) else { continue };
            match self.state.look(|fleet| fleet.submitted_before(task)) {
                Some(known) => drop(answered.insert(n, Ok(known))),
                None => drop(to_open.insert(n, draft.asked_about(task))),
            }
        }
        for (n, found) in self.ballots.approvals(&sender_name(by), to_open).await {
            match (found, submissions.get_mut(n)) {
                (Ok(ballot), Some(task)) => task.approval = Some(Box::new(ballot)),
                (Err(error), _) => drop(answered.insert(n, Err(errors::not_opened(&error)))),
                (Ok(_), None) => {}
            }
        }
        answered
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_fleet::Outcome;

    use super::*;
    use crate::fixture::{fleet_with_ended, task};

    #[test]
    fn a_task_that_has_ended_is_answered_and_one_that_is_not_known_is_proposed_with_its_parts() {
        let fleet = fleet_with_ended(1, &Outcome::Succeeded(Bytes::new()));
        let reply = submitted_with_parts(&fleet, &task(1, Bytes::new()));
        assert_eq!(reply, Some(Reply::Submitted { task: TaskId(1), existing: true }));
        assert_eq!(submitted_with_parts(&fleet, &task(2, Bytes::new())), None);
    }
}
