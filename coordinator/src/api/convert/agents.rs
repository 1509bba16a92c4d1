//! Conversion of agents and their roles.

use bytes::Bytes;
use robeing_fleet::{Agent, AgentState, Bar, BarKind, KindRecord, Role, RoleTraits, TeamId};
use robeing_identity::PeerRole;
use robeing_proto::v1;

use super::{
    fields::{BadField, bad},
    happened,
    recoveries::loss_reason,
    same_variants, timestamp,
};

same_variants! {
    /// Converts a role to its API form.
    role,
    /// Converts a role from its API form; `None` for one that no agent has.
    known_role,
    Role { Worker, Specialist, Messenger, Guardian }
}

/// Returns the role of an agent; an error for one that no agent has.
pub fn agent_role(role: v1::Role) -> Result<Role, BadField> {
    known_role(role).ok_or_else(|| bad("role", "an agent is a worker, specialist, messenger or guardian"))
}

/// Returns the role of an agent in its SPIFFE id.
pub fn peer_role(role: Role) -> PeerRole {
    match role {
        Role::Worker => PeerRole::Worker,
        Role::Specialist => PeerRole::Specialist,
        Role::Messenger => PeerRole::Messenger,
        Role::Guardian => PeerRole::Guardian,
    }
}

/// Converts an agent's state to its API form.
pub fn state(state: AgentState) -> v1::AgentState {
    match state {
        AgentState::Live => v1::AgentState::Live,
        AgentState::Standby => v1::AgentState::Standby,
        AgentState::Draining => v1::AgentState::Draining,
        AgentState::Lost => v1::AgentState::Lost,
        AgentState::Unhealthy => v1::AgentState::Unhealthy,
    }
}

/// Converts what the directory shows of an agent to its API form.
pub fn directory_entry(agent: &Agent, spiffe_id: String, team: Option<TeamId>) -> v1::DirectoryEntry {
    v1::DirectoryEntry {
        name: agent.name.to_string(),
        role: role(agent.role).into(),
        state: state(agent.state).into(),
        pool: agent.pool.clone().unwrap_or_default(),
        skills: agent.specializations.iter().map(ToString::to_string).collect(),
        address: agent.address.clone(),
        performance: agent.record.twentieths(),
        spiffe_id,
        sealing_key: agent.sealing_key.map(|key| Bytes::copy_from_slice(&key)).unwrap_or_default(),
        team: team.map(|team| team.to_string()).unwrap_or_default(),
    }
}

/// Converts a bar to its API form; `None` for that of an agent that was removed.
fn quarantine(bar: &Bar) -> Option<v1::Quarantine> {
    (bar.kind == BarKind::Quarantined).then(|| v1::Quarantine {
        since: Some(happened(bar.at)),
        by: bar.by.clone(),
        reason: bar.reason.clone(),
    })
}

/// Converts a share in millionths.
fn share(millionths: u32) -> f64 {
    f64::from(millionths) / 1e6
}

fn kind_performance(record: &KindRecord) -> v1::KindPerformance {
    v1::KindPerformance {
        kind: record.kind.to_string(),
        performance: f64::from(record.performance()) / 1000.0,
        success_rate: share(record.success),
        relative_speed: share(record.speed),
    }
}

/// Converts an agent to its API form, with what keeps it out of the fleet.
pub fn agent(agent: &Agent, bar: Option<&Bar>) -> v1::Agent {
    let RoleTraits { responsibilities, capabilities, priority } = agent.role.traits();
    let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    v1::Agent {
        name: agent.name.to_string(),
        role: role(agent.role).into(),
        state: state(agent.state).into(),
        pool: agent.pool.clone().unwrap_or_default(),
        specializations: agent.specializations.iter().map(ToString::to_string).collect(),
        slots: agent.slots,
        used_slots: agent.used_slots(),
        address: agent.address.clone(),
        pid: agent.pid,
        version: agent.version.clone(),
        incarnation: format!("{:016x}", agent.incarnation),
        session: agent.session.0,
        joined_at: Some(happened(agent.joined_at)),
        lost_at: agent.lost.as_ref().map(|loss| happened(loss.at)),
        lost_reason: agent.lost.as_ref().map(|loss| loss_reason(loss.reason).to_owned()).unwrap_or_default(),
        succeeded: agent.record.succeeded,
        failed: agent.record.failed,
        performance: f64::from(agent.record.performance()) / 1000.0,
        success_rate: share(agent.record.success),
        relative_speed: share(agent.record.speed),
        responsibilities: owned(responsibilities),
        capabilities: owned(capabilities),
        role_priority: priority,
        revision: agent.revision,
        unhealthy_reason: agent.unhealthy.clone().unwrap_or_default(),
        unhealthy_since: agent.unhealthy.as_ref().map(|_| timestamp(agent.recovery.began().wall)),
        recovery: Vec::new(),
        quarantine: bar.and_then(quarantine),
        kinds: agent.kinds.iter().map(kind_performance).collect(),
    }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::COORDINATOR_TRAITS;

    use super::*;

    #[test]
    fn the_docs_say_what_each_role_is_for_and_the_order_is_the_same_for_connections() {
        let path = format!("{}/../docs/roles.md", env!("CARGO_MANIFEST_DIR"));
        let docs = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let agents = Role::ALL.map(|role| (peer_role(role), role.traits()));
        for (role, traits) in agents.into_iter().chain([(PeerRole::Coordinator, COORDINATOR_TRAITS)]) {
            let RoleTraits { responsibilities, capabilities, priority } = traits;
            let list = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
            let (name, duties, skills) = (role.as_str(), list(responsibilities), list(capabilities));
            let row = format!("| {name} | {duties} | {skills} | {priority} |");
            assert!(docs.contains(&row), "docs/roles.md should have this row:\n{row}");
            for word in responsibilities.iter().chain(capabilities) {
                assert!(docs.contains(&format!("\n| `{word}` | ")), "docs/roles.md should say what does {word}");
            }
            assert_eq!(role.priority(), priority, "{name}");
        }
    }

    #[test]
    fn every_role_of_an_agent_comes_back_as_it_was_and_no_other_is_one() {
        let roles: Vec<_> = (0..).map_while(|role| v1::Role::try_from(role).ok()).collect();
        let of_agents: Vec<_> = roles.iter().filter_map(|of| Some((*of, known_role(*of)?))).collect();
        assert!(of_agents.iter().all(|(told, heard)| role(*heard) == *told));
        assert_eq!(of_agents.len(), 4);
        for none in [v1::Role::Unspecified, v1::Role::Coordinator] {
            assert!(agent_role(none).is_err(), "{none:?}");
        }
    }
}
