//! The end of an epoch: its members approve the next one if their own state has a ballot that does.

use robeing_bft::{certificate::Endorsement, epoch::Membership};
use robeing_groups::is_approved;

use super::{Host, later};

/// Size of the result of a change of the epoch: the digest of the next members.
const DIGEST: usize = 32;

impl Host {
    /// Returns the number of the decision that ended the epoch, if this is its result.
    pub(super) fn end_of(&self, result: &[u8]) -> Option<u64> {
        (result.len() == DIGEST && self.replica.has_ended()).then(|| self.replica.executed().0)
    }

    /// Answers those who wait for what is not decided any more, as the epoch has ended.
    pub(super) fn end_waiting(&mut self) {
        if !self.replica.has_ended() {
            return;
        }
        for done in std::mem::take(&mut self.waiting).into_values() {
            let _ = done.send(later("the epoch has ended; propose it in the next one".to_owned()));
        }
    }

    /// Approves the next epoch, if a quorum of the members has by a ballot.
    pub(super) fn approve(&self, next: &Membership) -> Result<Endorsement, String> {
        let epoch = self.group.epoch();
        next.check_follows(epoch).map_err(|error| error.to_string())?;
        let quorum = epoch.quorums().quorum();
        if !is_approved(self.replica.application(), next, quorum) {
            let ballot = "have approved the members of the next epoch by a ballot";
            return Err(format!("this member does not know that {quorum} members {ballot}"));
        }
        Ok(next.approve(epoch.scope(), self.replica.id(), &self.signer))
    }
}
