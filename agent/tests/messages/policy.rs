//! Policies on messages, at the agent that receives them.

use std::sync::Arc;

use robeing_agent::messaging::{
    Outcome, PolicyHolder,
    handlers::{CommandHandler, InboxHandler},
};
use robeing_proto::v1::Policies;
use robeing_telemetry::Metrics;

use crate::fixture::{Agent, Known, accepted};

const NO_ORDERS: &str = r#"{"name": "no-orders", "events": ["Message"], "match": "request.user == 'worker/sender'",
    "rule": "object.type == 'order'", "action": "deny", "message": "ask somebody else"}"#;
const NO_TOKENS: &str = r#"{"name": "no-tokens", "events": ["Message"], "match": "type(json) == map",
    "rule": "has(json.token)", "action": "redact", "fields": ["/token"]}"#;

#[tokio::test]
async fn a_message_is_refused_or_redacted_before_its_handler_sees_it() {
    let known = Arc::new(Known::default());
    let sender = Agent::new(&known, "sender", Arc::new(InboxHandler::default())).await;
    let holder = Arc::new(PolicyHolder::new(&Metrics::default()));
    let argv = ["/bin/cat"].map(str::to_owned).into();
    let cat = CommandHandler::new(robeing_agent::executor::CommandConfig { argv, ..Default::default() });
    let policy = Arc::clone(&holder);
    let _receiver = Agent::with_policy(&known, "receiver", Arc::new(cat.expect("a command")), policy).await;
    let outcome = sender.send("receiver", "order", "x").await;
    assert!(
        matches!(&outcome, Outcome::Overloaded { reason } if reason.contains("does not know the fleet's policies"))
    );
    let policies = [NO_ORDERS, NO_TOKENS].map(str::to_owned).into();
    holder.update(&Policies { revision: 1, policies });
    assert_eq!(
        sender.send("receiver", "order", "x").await,
        Outcome::refused("policy no-orders denies this: ask somebody else")
    );
    let redacted = sender.send("receiver", "note", r#"{"token": "t", "n": 1}"#).await;
    assert_eq!(redacted, accepted(r#"{"token": "[redacted]", "n": 1}"#));
    assert_eq!(sender.send("receiver", "note", "hello").await, accepted("hello"));
}
