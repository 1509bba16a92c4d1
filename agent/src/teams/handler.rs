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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::messaging::tests::fixture::packet;

    /// Refuses every message.
    struct Refusing;

    #[async_trait]
    impl Handler for Refusing {
        async fn deliver(&self, _: Delivery) -> HandlerOutcome {
            HandlerOutcome::Refused { reason: "no".to_owned() }
        }

        fn at_once(&self) -> usize {
            3
        }

        fn name(&self) -> &'static str {
            "command"
        }
    }

    #[tokio::test]
    async fn probes_are_accepted_and_other_messages_are_passed_on() {
        let handler = PathHandler::new(Arc::new(Refusing));
        let of_kind = async |kind: &str| {
            let mut packet = packet(1);
            packet.kind = kind.into();
            handler.deliver(Delivery { packet, deadline: Instant::now() }).await
        };
        assert_eq!(of_kind(PROBE_KIND).await, HandlerOutcome::Accepted { reply: None });
        assert_eq!(of_kind("text").await, HandlerOutcome::Refused { reason: "no".to_owned() });
        assert_eq!((handler.at_once(), handler.name()), (3, "command"));
    }
}
