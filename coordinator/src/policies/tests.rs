//! Policies as they are stored, and the names of those who ask.

use std::sync::Arc;

use robeing_fleet::StoredPolicy;
use robeing_identity::PeerRole;
use robeing_net::{gate::Caller, security::PeerIdentity};

use super::{asker::user, compiled::stored};
use crate::identity::fixture::realm;

fn policy(name: &str, more: &str) -> String {
    format!(r#"{{"name": "{name}", "events": ["Submission"], {more}}}"#)
}

#[test]
fn policies_are_stored_in_one_form_however_they_are_written() {
    let text = policy("a", r#""rule": "true", "action": "deny", "failurePolicy": "Closed", "fields": []"#);
    let short = policy("a", r#""action": "deny", "rule": "true""#);
    let both = [text, short].map(|text| stored(&[text]).unwrap());
    assert_eq!(both[0], both[1]);
    let json = r#"{"name":"a","events":["Submission"],"rule":"true","action":"deny","failurePolicy":"Closed"}"#;
    assert_eq!(both[0], [StoredPolicy { name: "a".to_owned(), json: json.to_owned() }]);
}

#[test]
fn everything_that_is_wrong_is_named() {
    let wrong =
        [policy("a", r#""rule": "nothing", "action": "deny""#), policy("-", r#""rule": "1 +", "action": "deny""#)];
    let problem = stored(&wrong).unwrap_err();
    for part in
        [r#"policy "a", rule: there is no variable "nothing""#, r#"policy "-", name:"#, "the expression is no CEL"]
    {
        assert!(problem.contains(part), "{part} is not in {problem}");
    }
    let unknown = stored(&[policy("a", r#""rule": "true", "action": "deny", "later": 1"#)]).unwrap_err();
    assert!(unknown.starts_with("policy 1 of the list can't be read: unknown field `later`"), "{unknown}");
}

#[test]
fn no_agent_has_the_name_of_a_client() {
    let of = |role, name: &str| {
        let id = realm().member(role, name).unwrap();
        user(&Caller::Member(Arc::new(PeerIdentity { id, key: [0; 32] })))
    };
    assert_eq!(of(PeerRole::Client, "ann"), "ann");
    assert_eq!(of(PeerRole::Worker, "ann"), "worker/ann");
    assert_eq!(user(&Caller::user("ann")), "ann");
    assert_eq!(user(&Caller::user("worker/ann")), "client/worker/ann");
    assert_eq!((user(&Caller::Anonymous), user(&Caller::Plaintext)), (String::new(), String::new()));
}
