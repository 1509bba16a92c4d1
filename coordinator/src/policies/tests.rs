//! Policies as they are stored, and the names of those who ask.

use std::sync::Arc;

use robeing_fleet::{Command, ControlCommand, Fleet, FleetConfig, Refusal, Stamp, StoredPolicy, known_version};
use robeing_identity::PeerRole;
use robeing_net::{gate::Caller, security::PeerIdentity};

use super::{
    asker::user,
    compiled::{check_in_force, stored},
};
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
fn who_approves_is_no_part_of_a_policy_while_older_programs_may_have_to_read_it() {
    let older = Fleet::new(FleetConfig::default());
    let plain = stored(&[policy("a", r#""rule": "true", "action": "requireApproval""#)]).unwrap();
    assert_eq!(check_in_force(&older, &plain), Ok(()));
    let named = r#""rule": "true", "action": "requireApproval", "approval": {"electorate": ["client:ann"]}"#;
    let named = stored(&[policy("b", named)]).unwrap();
    let both = [&plain[..], &named[..]].concat();
    let refused = check_in_force(&older, &both);
    assert!(matches!(refused, Err(Refusal::NotInForce { .. })), "{refused:?}");
    let mut newer = older;
    let raise = Command::Control(ControlCommand::RaiseVersion(known_version()));
    newer.apply(Stamp::at(1), raise, &mut Vec::new());
    assert_eq!(check_in_force(&newer, &both), Ok(()));
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
