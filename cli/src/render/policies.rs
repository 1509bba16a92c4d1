//! Policies for people.

use serde_json::Value;

use super::table::table;

/// Formats policies, as the fleet keeps them, as a table.
pub fn policy_table(policies: &[Value]) -> String {
    if policies.is_empty() {
        return "no policies\n".into();
    }
    let text = |policy: &Value, field: &str| policy[field].as_str().unwrap_or_default().to_owned();
    let row = |policy: &Value| {
        let on = policy["events"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let on = on.collect::<Vec<_>>().join(",");
        [text(policy, "name"), on, text(policy, "action"), text(policy, "failurePolicy"), text(policy, "rule")]
    };
    table(["NAME", "ON", "ACTION", "FAILS", "RULE"], policies.iter().map(row))
}
