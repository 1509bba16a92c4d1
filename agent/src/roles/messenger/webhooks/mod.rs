//! Webhooks: a messenger calls them when tasks end, with a [CloudEvent](https://cloudevents.io) that is signed as
//! [Standard Webhooks](https://www.standardwebhooks.com) says.
//!
//! ```text
//! list of webhooks ──► config ──► for each: follow ──► share (whose event is it?) ──► delivery ──► its URL
//!                                    │  ▲
//!                             place (on disk)
//! ```
//!
//! Invariants:
//!
//! 1. **At least once.** An event counts as delivered after a 2xx answer alone. With a data folder, what was not delivered
//!    is remembered across restarts. Events of one task have the task's id, by which receivers recognize repetitions.
//! 2. **One of several.** Of the messengers that have been active since a task ended, one sends its event ([`share`]),
//!    however late it reads of it. When one is gone, the others look again at what it may not have delivered.
//! 3. **None holds up another.** Each webhook has its own watch, place and queue.
//! 4. **Bounded.** Webhooks, undelivered events, their bytes, requests at once and the time for which an event is tried
//!    have named limits. What doesn't fit waits in the fleet.

pub mod config;
mod delivery;
mod event;
mod follow;
mod place;
mod reached;
mod share;

#[cfg(test)]
mod tests;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use prometheus_client::metrics::{counter::Counter, family::Family};
use robeing_platform::Platform;
use robeing_telemetry::Metrics;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use self::{
    config::{ConfigError, MAX_FILE},
    follow::Follower,
};
use crate::{messaging::Directory, upstream::SharedUpstream};

/// Maximum number of events of one webhook that are not delivered yet; beyond that, no more are read from the fleet.
pub const MAX_PENDING: usize = 1_000;
/// Maximum total size of these events, bytes; a single one may be larger.
pub const MAX_PENDING_BYTES: usize = 32 * 1024 * 1024;
/// Maximum number of requests to one webhook at once.
pub const MAX_AT_ONCE: usize = 8;
/// How long after the end of its task an event is tried.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// How long a webhook may take to answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// The first and the longest pause before an event is sent again, unless the answer asks for a longer one.
pub const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3_600));
/// How far back a messenger looks when another one is gone: longer than it takes to notice that. For as long after one
/// has come, the others still send what it gets: longer than it takes until it follows the tasks.
pub const HANDOVER: Duration = Duration::from_secs(60);

/// Why webhooks can't be called.
#[derive(Debug, thiserror::Error)]
pub enum WebhooksError {
    /// The list can't be read.
    #[error("the webhooks in {file} can't be read: {source}; see --webhooks")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The list is too large.
    #[error("the webhooks in {file} take more than {MAX_FILE} bytes; name fewer")]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// The list can't be used.
    #[error("the webhooks in {file} can't be used: {source}")]
    Config {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: ConfigError,
    },
    /// What was remembered can't be read.
    #[error("where the webhooks were can't be read in {dir}: {source}; see --data")]
    Place {
        /// The folder.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Looks up environment variables.
pub type Environment = dyn Fn(&str) -> Option<String> + Send + Sync;

/// What webhooks need.
pub struct WebhooksDeps {
    /// The file with the list of webhooks.
    pub file: PathBuf,
    /// The environment, for secrets.
    pub env: Arc<Environment>,
    /// The agent's data folder, if it has one.
    pub data: Option<PathBuf>,
    /// The cluster's id.
    pub cluster: String,
    /// The agent's name.
    pub name: String,
    /// The agent's way to the coordinators, with its certificate.
    pub upstream: SharedUpstream,
    /// Who else is a messenger.
    pub directory: Arc<dyn Directory>,
    /// The platform.
    pub platform: Platform,
    /// Where metrics are registered.
    pub metrics: Metrics,
}

/// What was counted, by webhook.
#[derive(Clone)]
struct WebhookMetrics {
    delivered: Family<Vec<(String, String)>, Counter>,
    failed: Family<Vec<(String, String)>, Counter>,
    given_up: Family<Vec<(String, String)>, Counter>,
}

impl WebhookMetrics {
    fn new(metrics: &Metrics) -> Self {
        Self {
            delivered: metrics.counters("agent_webhook_deliveries", "Events that a webhook has accepted"),
            failed: metrics.counters("agent_webhook_failures", "Requests to a webhook that failed"),
            given_up: metrics.counters("agent_webhook_losses", "Events that a webhook never accepted"),
        }
    }

    fn count(counters: &Family<Vec<(String, String)>, Counter>, webhook: &str) {
        counters.get_or_create(&vec![("webhook".to_owned(), webhook.to_owned())]).inc();
    }
}

/// Calls webhooks until it is dropped.
pub struct Webhooks {
    _following: Vec<AbortOnDropHandle<()>>,
}

impl Webhooks {
    /// Reads the list, and begins to follow the fleet's tasks.
    ///
    /// # Errors
    /// [`WebhooksError`] if the list or what was remembered can't be used.
    pub async fn start(deps: WebhooksDeps) -> Result<Self, WebhooksError> {
        let file = deps.file.clone();
        let unreadable = |source| WebhooksError::Unreadable { file: file.clone(), source };
        if deps.platform.disk.stamp(&file).await.map_err(unreadable)?.len > MAX_FILE {
            return Err(WebhooksError::TooLarge { file });
        }
        let text = deps.platform.disk.read(&file).await.map_err(unreadable)?;
        let wrong = |source| WebhooksError::Config { file: file.clone(), source };
        let webhooks = config::parse(&text, &*deps.env, &deps.platform.disk).await.map_err(wrong)?;
        info!(webhooks = webhooks.len(), "webhooks are called when tasks end; all messengers must have the same list");
        let (metrics, deps) = (WebhookMetrics::new(&deps.metrics), Arc::new(deps));
        let mut following = Vec::with_capacity(webhooks.len());
        for webhook in webhooks {
            let follower = Follower::open(webhook, Arc::clone(&deps), metrics.clone()).await?;
            following.push(AbortOnDropHandle::new(tokio::spawn(follower.run())));
        }
        Ok(Self { _following: following })
    }
}
