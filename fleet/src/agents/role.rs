//! What each role is for, and which role is served first in a shortage.

use super::command::Role;

/// What a role is for, what it can do, and its priority.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoleTraits {
    /// What the fleet relies on the role for.
    pub responsibilities: &'static [&'static str],
    /// What the role can do.
    pub capabilities: &'static [&'static str],
    /// The priority in a shortage and in conflicts; 1 is served first.
    pub priority: u32,
}

/// The traits of coordinators, which are no agents.
pub const COORDINATOR_TRAITS: RoleTraits = RoleTraits {
    responsibilities: &["task_distribution", "conflict_resolution", "resource_management"],
    capabilities: &["overview", "planning", "monitoring"],
    priority: 1,
};

impl Role {
    /// All roles of agents.
    pub const ALL: [Self; 4] = [Self::Specialist, Self::Guardian, Self::Worker, Self::Messenger];
    /// The highest priority that an agent's role has.
    pub const HIGHEST_PRIORITY: u32 = 2;

    /// Returns what the role is for, what it can do, and its priority.
    pub const fn traits(self) -> RoleTraits {
        match self {
            Self::Specialist => RoleTraits {
                responsibilities: &["domain_expertise", "deep_analysis"],
                capabilities: &["specialized_processing", "expert_knowledge"],
                priority: 2,
            },
            Self::Guardian => RoleTraits {
                responsibilities: &["security", "monitoring", "validation"],
                capabilities: &["threat_detection", "access_control"],
                priority: 2,
            },
            Self::Worker => RoleTraits {
                responsibilities: &["task_execution", "data_processing"],
                capabilities: &["parallel_processing", "batch_operations"],
                priority: 3,
            },
            Self::Messenger => RoleTraits {
                responsibilities: &["communication", "data_transfer"],
                capabilities: &["protocol_handling", "format_conversion"],
                priority: 4,
            },
        }
    }
}

/// Places of which there may be too few, and how many of them are kept for higher priorities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Places {
    /// The number of places.
    pub most: u32,
    /// How many are kept from each priority for the priorities above it.
    pub kept: u32,
}

impl Places {
    /// Returns how many places may be taken when one more is taken for this role: all for the highest priority of
    /// agents, and [`Places::kept`] fewer for each step below.
    pub const fn of(self, role: Role) -> u32 {
        let steps = role.traits().priority.saturating_sub(Role::HIGHEST_PRIORITY);
        self.most.saturating_sub(self.kept.saturating_mul(steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_of_lower_priority_leaves_places_for_the_others() {
        let places = Places { most: 20, kept: 3 };
        let found = Role::ALL.map(|role| (role, places.of(role)));
        assert_eq!(found, [(Role::Specialist, 20), (Role::Guardian, 20), (Role::Worker, 17), (Role::Messenger, 14)]);
        assert_eq!(Places { most: 4, kept: 3 }.of(Role::Messenger), 0);
        assert_eq!(Places { most: 4, kept: 0 }.of(Role::Messenger), 4);
        assert_eq!(Places { most: u32::MAX, kept: u32::MAX }.of(Role::Messenger), 0);
        let highest = Role::ALL.map(|role| role.traits().priority).into_iter().min();
        assert_eq!(highest, Some(Role::HIGHEST_PRIORITY));
        const { assert!(COORDINATOR_TRAITS.priority < Role::HIGHEST_PRIORITY) };
    }
}
