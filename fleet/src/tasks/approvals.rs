//! Approvals: a task that waits for a ballot. The ballot is opened by the command that accepts the task, so there is never
//! one without the other, and has the task's id, so that the task is found when the ballot is closed.

use bilrost::Message;

use crate::{
    BallotId, BallotOutcome, Effect, FailureKind, Fleet, OpenBallot, Refusal, Task, TaskId, TaskState,
    config::invalid,
    sabotage::{Mistake, planted},
    steps::Jobs,
    tasks::attempts::own_failure,
};

/// The approval that a task needs before it may start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Approval {
    /// The ballot. It may be forgotten once it is closed.
    #[bilrost(1)]
    pub ballot: BallotId,
    /// Whether the ballot has approved the task.
    #[bilrost(2)]
    pub approved: bool,
}

impl Task {
    /// Returns the ballot that the task waits for; `None` if it needs no approval, has it, or has ended.
    pub fn awaited_ballot(&self) -> Option<BallotId> {
        let approval = self.approval.filter(|approval| !approval.approved)?;
        (!self.state.is_final()).then_some(approval.ballot)
    }
}

/// Refuses a ballot that can't approve this task, whatever the fleet's state.
pub(super) fn check_approval(task: TaskId, ballot: &OpenBallot) -> Result<(), Refusal> {
    ballot.check()?;
    if ballot.id != task.ballot() {
        return Err(invalid("approval.id", format!("is {}, must be the id of the task, {task}", ballot.id)));
    }
    if !ballot.options.is_empty() {
        return Err(invalid("approval.options", "must be empty: a task is approved or not"));
    }
    Ok(())
}

impl Fleet {
    /// Refuses a ballot for a new task if there is no room for it, or if a ballot has its id: whatever that one decided,
    /// it was not asked about this task.
    pub(super) fn check_approval_room(&self, ballot: &OpenBallot) -> Result<(), Refusal> {
        if self.ballot(ballot.id).is_some() {
            return Err(Refusal::BallotTaken { ballot: ballot.id });
        }
        self.check_ballot_room(ballot).map(drop)
    }

    /// Opens the ballot of a task that was just accepted, for which there is room.
    pub(super) fn open_approval(&mut self, ballot: OpenBallot, jobs: &mut Jobs, effects: &mut Vec<Effect>) {
        let notices = ballot.notices(self.state.now.wall);
        self.open_new_ballot(ballot, notices, jobs, effects);
    }

    /// Does what the outcome of a ballot means for the task that waits for it, if one does: it may start, or fails.
    pub(crate) fn ballot_decided(&mut self, id: BallotId, outcome: BallotOutcome, effects: &mut Vec<Effect>) {
        let Some(seq) = self.indexes.tasks.ids.get(&TaskId(id.0)).copied() else { return };
        if self.state.tasks.kept.get(&seq).and_then(|task| task.awaited_ballot()) != Some(id) {
            return;
        }
        let outcome = match planted(Mistake::UnapprovedRuns) {
            true => BallotOutcome::Approved { option: 0 },
            false => outcome,
        };
        let how = match outcome {
            BallotOutcome::Approved { .. } => {
                self.change_task(seq, |task| task.approval = Some(Approval { ballot: id, approved: true }));
                return self.place(seq, effects);
            }
            BallotOutcome::Rejected => "was rejected",
            BallotOutcome::Expired => "expired before enough of its members had approved",
        };
        let message = format!("the task needs an approval, and ballot {id} {how}; the ballot has the votes");
        let failure = own_failure(FailureKind::NotApproved, &message, false);
        self.finish(seq, TaskState::Failed, effects, |task, now| {
            task.finish(now, TaskState::Failed, Some(failure));
        });
    }
}
