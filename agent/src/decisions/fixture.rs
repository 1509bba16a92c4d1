//! Notices for tests.

use robeing_votes::BallotContent;
use serde_json::{Value, json};
use uuid::Uuid;

/// The fleet of the tests.
pub const FLEET: &str = "spiffe://robeing.local/ns/default/cluster/one";

/// Returns the notice of a ballot in this fleet, whose member is the agent `b`.
pub fn notice(fleet: &str, ballot: u128, options: &[&str]) -> Value {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    let content = BallotContent {
        fleet,
        id: ballot,
        question: "deploy?",
        options: &options,
        electorate: vec![("b", 2), ("client:ada", 1)],
        threshold: (2, 3),
        ttl: 30_000,
    };
    json!({
        "ballot": Uuid::from_u128(ballot).to_string(),
        "fleet": fleet,
        "question": "deploy?",
        "options": &options,
        "electorate": [{"name": "b", "weight": 2}, {"name": "client:ada", "weight": 1}],
        "threshold": "2/3",
        "ttlMs": 30_000,
        "digest": robeing_votes::hex(&content.digest()),
        "openedBy": "client:ada",
    })
}
