//! Answers the leader's health checks by asking the executor, within the time the leader allows and without blocking
//! anything else.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use robeing_proto::internal::v1 as internal;
use tracing::{info, warn};

use crate::executor::{Executor, Health};

/// The maximum time to wait for an executor, whatever the leader allows.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The newest health check; only that one is answered.
#[derive(Default)]
pub(super) struct HealthChecks {
    asked: Option<(u64, BoxFuture<'static, Health>)>,
    report: Option<internal::HealthReport>,
    /// The reason given by the last unhealthy answer; empty if the last answer was healthy.
    complaint: String,
}

impl HealthChecks {
    /// Forwards a health check to the executor.
    pub fn ask(&mut self, check: &internal::HealthCheck, executor: Arc<dyn Executor>) {
        let within = Duration::from_millis(u64::from(check.within_ms.max(1))).min(ANSWER_WITHIN);
        let asked = async move {
            // Executors enforce the time limit themselves and report more detail; one that does not must not block
            // anything.
            let late = || format!("the executor did not answer within {}", humantime::format_duration(within));
            let answer = tokio::time::timeout(within, executor.health(within * 3 / 4)).await;
            answer.unwrap_or_else(|_| Health::Silent(late()))
        };
        self.asked = Some((check.seq, asked.boxed()));
        self.report = None;
    }

    /// Waits for the executor's answer, which is then ready to be reported. Cancellation-safe; without a check it never
    /// completes.
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
                info!("the executor is healthy again");
            } else {
                warn!(reason, "the executor is unhealthy");
            }
            self.complaint.clone_from(&reason);
        }
        self.report = Some(internal::HealthReport { seq: *seq, state: state.into(), reason });
        self.asked = None;
        health
    }

    /// Whether there is an answer to report.
    pub fn has_report(&self) -> bool {
        self.report.is_some()
    }

    /// Takes the answer to report, once.
    pub fn take_report(&mut self) -> Option<internal::HealthReport> {
        self.report.take()
    }

    /// Discards a pending check, because no coordinator waits for its answer on another stream.
    pub fn reset(&mut self) {
        *self = Self { complaint: std::mem::take(&mut self.complaint), ..Self::default() };
    }
}
