//! What happens when a timer is due: deadlines, queue expiries, timeouts of attempts, the ends of delays and backoffs,
//! the removal of finished tasks and lost agents, the expiry and removal of letters, ballots and allocations, the
//! removal of disbanded teams, the end of the wait for the parts of a task, idempotency keys whose windows end, and tokens
//! that come in.

use crate::{
    AttemptEnd, CancelCause, Effect, FailureKind, Fleet, TaskState, tasks::attempts::own_failure, timers::Timer,
};

impl Fleet {
    pub(crate) fn fire(&mut self, timer: Timer, effects: &mut Vec<Effect>) {
        match timer {
            Timer::Deadline(seq) => self.deadline_passed(seq, effects),
            Timer::Attempt(seq) => self.attempt_ran_out(seq, effects),
            Timer::Ready(seq) => {
                self.change_task(seq, |task| task.not_before = None);
                self.place(seq, effects);
            }
            Timer::Expiry(seq) => {
                if let Some(task) = self.state.tasks.kept.remove(&seq) {
                    self.snapshots.save_task(&task);
                    self.indexes.drop_task(&task);
                    self.keep_spent_key(&task);
                    self.next_revision();
                } else {
                    self.forget_archived(seq, effects);
                }
            }
            Timer::Forget(agent) => self.forget(agent),
            Timer::Letter(seq) => self.letter_due(seq, effects),
            Timer::Ballot(seq) => self.ballot_due(seq, effects),
            Timer::Team(seq) => self.forget_team(seq),
            Timer::Queue(seq) => self.queue_expired(seq, effects),
            Timer::Allocation(seq) => self.allocation_due(seq, effects),
            Timer::Assembly(seq) => self.assembly_ran_out(seq, effects),
            Timer::Keys => self.keys_due(),
            Timer::Buckets => self.bucket_due(),
        }
    }

    fn deadline_passed(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        self.stop_current(seq, CancelCause::Deadline, effects);
        let failure = own_failure(FailureKind::Deadline, &self.late_words(seq), false);
        self.members_are_late(seq, &failure, effects);
        self.finish(seq, TaskState::Failed, effects, |task, now| {
            task.end_attempt(now, AttemptEnd::TimedOut, Some(failure.clone()));
            task.finish(now, TaskState::Failed, Some(failure));
        });
    }

    fn attempt_ran_out(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        self.stop_current(seq, CancelCause::TimedOut, effects);
        let message = "the attempt took longer than it may, and its agent did not end it";
        let failure = own_failure(FailureKind::TimedOut, message, true);
        self.fail_attempt(seq, AttemptEnd::TimedOut, failure, effects);
        self.place(seq, effects);
    }
}
