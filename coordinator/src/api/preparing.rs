//! What is done with submissions before they are proposed: they are read, policies decide about them, and those that need
//! an approval get a ballot.

use std::collections::BTreeMap;

use robeing_fleet::{RetryPolicy, SubmitTask};
use robeing_net::gate::Caller;
use robeing_platform::uuid_v7;
use robeing_proto::v1;

use crate::{
    api::{answers::Outcome, convert, errors, submissions::Submissions},
    ballots::opening::Draft,
    mail::sender_name,
    policies::Held,
};

/// A task as it was submitted.
pub struct Prepared {
    pub task: SubmitTask,
    /// The ballot that it asks for.
    pub approval: Option<Draft>,
}

impl Submissions {
    /// Returns the submission of a task; an error if it is refused whatever the state.
    pub fn prepare(&self, default_retry: RetryPolicy, mut spec: v1::TaskSpec) -> Result<Prepared, v1::SubmitResult> {
        let task_id = convert::excerpt(&spec.id).to_owned();
        let fresh = || uuid_v7(&*self.platform.clock, &*self.platform.random);
        let refused = |refusal| v1::SubmitResult { task_id, existing: false, refusal: Some(refusal) };
        let asked = spec.requires_approval.take();
        let prepared = convert::submission(spec, default_retry, fresh).and_then(|task| {
            let approval = asked.map(|asked| Draft::of_task(&task, asked)).transpose()?;
            Ok(Prepared { task, approval })
        });
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Err(refused(convert::bad_field(&error))),
        };
        match prepared.task.check() {
            Ok(()) => Ok(prepared),
            Err(refusal) => Err(refused(convert::refusal(&refusal))),
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
