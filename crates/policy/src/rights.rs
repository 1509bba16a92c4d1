//! The rights of the members of a fleet, as policies see them.

/// Returns the rights that a role brings along (`request.rights`). Those of clients are given to each of them; of
/// messages, which agents receive without knowing that, a client has the right to send them.
pub fn rights_of_role(role: &str) -> &'static [&'static str] {
    match role {
        "coordinator" | "operator" => &["submit", "read", "vote", "message", "admin"],
        "messenger" => &["submit", "read", "message"],
        "guardian" => &["read", "message"],
        "worker" | "specialist" | "client" => &["message"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_agent_is_an_administrator_and_strangers_have_no_rights() {
        for role in ["worker", "specialist", "messenger", "guardian", "client"] {
            assert!(rights_of_role(role).contains(&"message") && !rights_of_role(role).contains(&"admin"), "{role}");
        }
        assert!(rights_of_role("operator").contains(&"admin"));
        assert!(rights_of_role("").is_empty() && rights_of_role("Guardian").is_empty());
    }
}
