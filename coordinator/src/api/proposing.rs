//! How submissions are proposed: only those that policies allow and for which there may be room.

use std::collections::BTreeMap;

use bytes::Bytes;
use robeing_fleet::{Command, Fleet, Refusal, Reply, SubmitTask, TaskCommand};
use robeing_net::gate::Caller;
use robeing_proto::{budget::in_messages, v1};
use tokio::time::Instant;

use crate::{
    api::{answers::Outcome, batches::Batch, convert, preparing::Prepared, submissions::Submissions},
    propose::{self, Lane, ProposeError, Sender},
};

/// Maximum number of tasks read at once, so that commands do not wait long to be applied.
const MAX_LOOKED_AT: usize = 1_000;
/// The same, if some of them open ballots, of which each may have hundreds of members.
const MAX_BALLOTS_LOOKED_AT: usize = 16;

impl Submissions {
    /// Returns the submissions that need not be proposed, because they are certain to be refused: there is no room in
    /// the state, or on the coordinators' disks. The keys are indexes into `submissions`.
    ///
    /// The state is read again once it is up to date, because only then does it show which tasks are new: a repeated
    /// submission is not refused, but answered with the task that was accepted.
    async fn without_room(&self, submissions: &[SubmitTask]) -> BTreeMap<usize, Refusal> {
        let disks = self.rooms.refusal(Instant::now());
        let refusal = |fleet: &Fleet, submission: &SubmitTask| {
            let of_disks =
                || disks.clone().filter(|_| !fleet.knows(submission)).map(|reason| Refusal::NoRoom { reason });
            fleet.refusal_of(submission).or_else(of_disks)
        };
        let opens = submissions.iter().any(|submission| submission.approval.is_some());
        let at_once = if opens { MAX_BALLOTS_LOOKED_AT } else { MAX_LOOKED_AT };
        let look = || {
            let mut refused = BTreeMap::new();
            for (group, start) in submissions.chunks(at_once).zip((0..).step_by(at_once)) {
                self.state.look(|fleet| {
                    let found = group.iter().enumerate().filter_map(|(n, of)| Some((start + n, refusal(fleet, of)?)));
                    refused.extend(found);
                });
            }
            refused
        };
        let refused = look();
        if refused.is_empty() || self.state.ready_to_read(v1::Consistency::Linearizable.into()).await.is_err() {
            return BTreeMap::new();
        }
        look()
    }

    /// Proposes the submissions of a caller that policies allow, and returns the outcomes of all, in order.
    pub(super) async fn propose(
        &self,
        sender: Sender,
        by: &Caller,
        prepared: Vec<Prepared>,
    ) -> Result<Vec<Outcome>, ProposeError> {
        let mut batch = Batch::of(prepared);
        let approvals = std::mem::take(&mut batch.approvals);
        let mut refused = self.checked(by, &mut batch.submissions, approvals).await;
        let without_room = self.without_room(&batch.submissions).await;
        for (n, refusal) in self.observer.shortages.counted(&batch.submissions, without_room) {
            refused.entry(n).or_insert(Ok(Reply::Refused(refusal)));
        }
        for (n, known) in std::mem::take(&mut batch.known) {
            refused.entry(n).or_insert(known);
        }
        let count = batch.submissions.len();
        let mut sent = batch.send(&mut refused);
        let mut outcomes = self.propose_all(sender, std::mem::take(&mut sent.commands)).await?;
        self.complete_known(sender, std::mem::take(&mut sent.keyed), &mut outcomes).await?;
        let (told, cancelled) = batch.outcomes(count, refused, sent, outcomes);
        let cancel = |task| {
            let reason = "one of its parts was refused".to_owned();
            propose::encoded(&Command::Task(TaskCommand::Cancel { task, reason }))
        };
        if !cancelled.is_empty() {
            self.propose_all(sender, cancelled.into_iter().map(cancel).collect()).await?;
        }
        Ok(told)
    }

    /// Proposes commands, and returns their outcomes, in order.
    pub(super) async fn propose_all(&self, sender: Sender, commands: Vec<Bytes>) -> Result<Vec<Outcome>, ProposeError> {
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(commands.len());
        let mut groups = in_messages(commands, Bytes::len).into_iter();
        while let Some(group) = groups.next() {
            let size = group.len();
            match self.proposer.propose_encoded(Lane::Users, sender, group).await {
                Ok(replies) => outcomes.extend(replies.into_iter().map(Ok)),
                // Nothing of this group was accepted, and the next groups are not tried: all of them get this refusal.
                Err(busy @ ProposeError::Busy) => {
                    let left = size + groups.by_ref().map(|group| group.len()).sum::<usize>();
                    outcomes.extend(std::iter::repeat_n(Err(convert::exhausted(&busy)), left));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(outcomes)
    }
}
