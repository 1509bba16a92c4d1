//! Restraint in elections while disks are slow.
//!
//! A voter whose disk takes longer for a vote than the candidate waits answers too late, and its own election timeout has passed
//! as well when it is done: it would stand for election at once, ask the others for votes that take as long, and so on in turns.
//! So after a late vote it gives the candidate time to ask again, which costs no sync then (see the log's promises of votes).

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

/// Votes that are being written, and that were written late and are restrained for, at once; further ones are not asked for.
const MAX_VOTES: usize = 64;

/// Keeps this node from standing for election while it votes, and for a while after a late vote.
#[derive(Clone)]
pub struct Restraint {
    raft: Raft,
    timing: Timing,
    votes: Arc<AtomicUsize>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// While one is held, this node does not stand for election.
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
    /// For this node's consensus. Its tasks end at `stop`.
    pub fn new(raft: &RaftHandle, timing: Timing, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { raft: raft.raft().clone(), timing, votes: Arc::default(), tasks, stop }
    }

    /// Whether this node is not to stand for election now.
    pub fn is_held(&self) -> bool {
        self.votes.load(Ordering::SeqCst) > 0
    }

    /// Gives a vote: what comes of it, also when the candidate waits no longer. `None` when this node stops, or too many votes
    /// are being given.
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

    /// How long to stand back after a vote that took so long.
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
