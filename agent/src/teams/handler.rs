//! Accepts the probes of other members.

use std::sync::Arc;

use async_trait::async_trait;

use crate::messaging::handlers::{Delivery, Handler, HandlerOutcome};

/// The type of the messages by which members of a team find out whether they reach each other.
pub const PROBE_KIND: &str = "robeing.path.v1";

/// Accepts probes, which the handler of messages does not get. Every other message is passed on.
pub struct PathHandler {
    inner: Arc<dyn Handler>,
}

impl PathHandler {
    /// Creates a handler that passes everything but probes to `inner`.
    pub fn new(inner: Arc<dyn Handler>) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl Handler for PathHandler {
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome {
        if &*delivery.packet.kind == PROBE_KIND {
            return HandlerOutcome::Accepted { reply: None };
        }
        self.inner.deliver(delivery).await
    }

    fn at_once(&self) -> usize {
        self.inner.at_once()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }
}
