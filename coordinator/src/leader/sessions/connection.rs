//! The messages that wait to be sent over one connection of an agent.

use std::collections::BTreeMap;

use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use robeing_proto::internal::v1::{CompletionAck, FollowAttempt, HealthCheck};
use tokio::sync::Notify;

use crate::leader::sessions::AttemptKey;

/// What waits to be sent to one agent. Bounded by the agent's slots, by the completions that it has sent, and by the
/// number of attempts that are followed.
#[derive(Default)]
pub struct Outbox {
    /// Attempts to run. Their contents are read from the state when they are sent.
    pub assignments: Vec<AttemptKey>,
    /// Attempts to stop.
    pub stops: Vec<AttemptKey>,
    /// Attempts of which the lines are wanted, or not any more.
    pub follows: BTreeMap<AttemptKey, FollowAttempt>,
    /// Acknowledgements of completions.
    pub acks: Vec<CompletionAck>,
    /// The newest heartbeat to answer.
    pub heartbeat: Option<u64>,
    /// The newest health check to send.
    pub health_check: Option<HealthCheck>,
    /// Whether the agent has to hand back its attempts, because it is unhealthy.
    pub hand_back: bool,
    /// Whether the agent's drain was recorded.
    pub drained: bool,
    /// Why the session is over, if it is.
    pub ended: Option<String>,
}

impl Outbox {
    fn is_empty(&self) -> bool {
        self.assignments.is_empty()
            && self.stops.is_empty()
            && self.follows.is_empty()
            && self.acks.is_empty()
            && self.heartbeat.is_none()
            && self.health_check.is_none()
            && !self.hand_back
            && !self.drained
            && self.ended.is_none()
    }
}

/// One connection of an agent.
#[derive(Default)]
pub struct SessionConnection {
    outbox: Mutex<Outbox>,
    news: Notify,
}

impl SessionConnection {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what waits to be sent.
    pub fn put(&self, change: impl FnOnce(&mut Outbox)) {
        change(&mut self.outbox());
        self.news.notify_one();
    }

    /// Takes everything that waits, without waiting if that is nothing.
    pub fn take_now(&self) -> Outbox {
        std::mem::take(&mut *self.outbox())
    }

    /// Waits until there is something to send, and takes all of it. Cancellation-safe.
    pub async fn take(&self) -> Outbox {
        loop {
            let content = self.take_now();
            if !content.is_empty() {
                return content;
            }
            self.news.notified().await;
        }
    }

    pub(super) fn end(&self, why: &str) {
        self.put(|outbox| outbox.ended = Some(why.to_owned()));
    }
}
