//! Answering the leader's health checks: the executor is asked in turn, within the time the leader allows, while everything
//! else goes on.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use robeing_proto::internal::v1 as internal;
use tracing::{info, warn};

use crate::executor::{Executor, Health};

/// The longest an executor is waited for, whatever the leader allows.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The newest check, which is the only one that is answered.
#[derive(Default)]
pub(super) struct HealthChecks {
    asked: Option<(u64, BoxFuture<'static, Health>)>,
    report: Option<internal::HealthReport>,
    /// What the last answer complained of; empty if it did not.
    complaint: String,
}

impl HealthChecks {
    /// Asks the executor for the leader.
    pub fn ask(&mut self, check: &internal::HealthCheck, executor: Arc<dyn Executor>) {
        let within = Duration::from_millis(u64::from(check.within_ms.max(1))).min(ANSWER_WITHIN);
        let asked = async move {
            // An executor sees to the time by itself, and says more; one that does not holds up nothing.
            let late = || format!("the executor did not answer within {}", humantime::format_duration(within));
            let answer = tokio::time::timeout(within, executor.health(within * 3 / 4)).await;
            answer.unwrap_or_else(|_| Health::Silent(late()))
        };
        self.asked = Some((check.seq, asked.boxed()));
        self.report = None;
    }

    /// Waits for the executor's answer, which is then to be reported. Cancellation-safe; without a check it never ends.
    pub async fn answered(&mut self) -> Health {
        let Some((seq, asked)) = &mut self.asked else { return std::future::pending().await };
        let health = asked.await;
        let (state, reason) = match health.clone() {
            Health::Healthy => (internal::HealthState::Healthy, String::new()),
            Health::Unhealthy(reason) => (internal::HealthState::Unhealthy, reason),
            Health::Silent(reason) => (internal::HealthState::Silent, reason),
            Health::Failed(reason) => (internal::HealthState::Failed, reason),
        };
        if self.complaint != reason {
            if reason.is_empty() {
                info!("what runs tasks is well again");
            } else {
                warn!(reason, "what runs tasks is not well");
            }
            self.complaint.clone_from(&reason);
        }
        self.report = Some(internal::HealthReport { seq: *seq, state: state.into(), reason });
        self.asked = None;
        health
    }

    /// Whether there is something to report.
    pub fn has_report(&self) -> bool {
        self.report.is_some()
    }

    /// What to report, once.
    pub fn take_report(&mut self) -> Option<internal::HealthReport> {
        self.report.take()
    }

    /// Forgets a check, which nobody waits for on another stream.
    pub fn reset(&mut self) {
        *self = Self { complaint: std::mem::take(&mut self.complaint), ..Self::default() };
    }
}
