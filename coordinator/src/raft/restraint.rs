//! Election restraint while disks are slow.
//!
//! A voter whose disk takes longer to write a vote than the candidate waits responds too late. By then its own election
//! timeout has expired as well, so it would start an election immediately and request votes that take as long; the
//! coordinators would compete like this in turns. After a late vote, the voter therefore gives the candidate time to
//! ask again, which then costs no sync (see the log's promises of votes).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Raft, RaftHandle, Timing};

/// Maximum number of votes that restrain this node: those that are being written, and late ones for a while afterwards.
/// Further vote requests are refused.
const MAX_VOTES: usize = 64;

/// Keeps this node from starting elections while it votes, and for a while after a late vote.
#[derive(Clone)]
pub struct Restraint {
    raft: Raft,
    timing: Timing,
    votes: Arc<AtomicUsize>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A guard: while one exists, this node does not start elections.
struct Held(Restraint);

impl Held {
    fn take(restraint: &Restraint) -> Option<Self> {
        let votes = restraint
            .votes
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |votes| (votes < MAX_VOTES).then_some(votes + 1));
        votes.ok()?;
        restraint.raft.runtime_config().elect(false);
        Some(Self(restraint.clone()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.0.votes.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.raft.runtime_config().elect(true);
        }
    }
}

impl Restraint {
    /// Creates the restraint for this node's consensus. Its tasks end at `stop`.
    pub fn new(raft: &RaftHandle, timing: Timing, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { raft: raft.raft().clone(), timing, votes: Arc::default(), tasks, stop }
    }

    /// Whether this node must not start an election now.
    pub fn is_held(&self) -> bool {
        self.votes.load(Ordering::SeqCst) > 0
    }

    /// Runs `vote` and returns its result. The vote is completed even if the candidate no longer waits. Returns `None`
    /// when this node stops, or when too many votes are in progress.
    pub async fn vote<T: Send + 'static>(&self, vote: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let held = Held::take(self)?;
        let (answer, answered) = oneshot::channel();
        let (timing, stop) = (self.timing, self.stop.clone());
        self.tasks.spawn(async move {
            let _held = held;
            let asked = Instant::now();
            let voting = async {
                // The candidate may be gone.
                drop(answer.send(vote.await));
                tokio::time::sleep(Self::pause(timing, asked.elapsed())).await;
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = voting => {}
            }
        });
        answered.await.ok()
    }

    /// Returns how long to refrain from elections after a vote that took `took` to write.
    fn pause(timing: Timing, took: Duration) -> Duration {
        if took < timing.election_min / 2 { Duration::ZERO } else { timing.election_max * 3 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_vote_that_came_too_late_is_restrained_for() {
        let timing = Timing { election_min: Duration::from_millis(150), election_max: Duration::from_millis(300) };
        assert_eq!(Restraint::pause(timing, Duration::from_millis(5)), Duration::ZERO);
        assert_eq!(Restraint::pause(timing, Duration::from_secs(1)), Duration::from_millis(900));
    }
}
