//! Who gets a name that two agents of different roles ask for at the same time. A number that is used once decides between
//! two processes of one role, of which the later one has the name; it says nothing about two roles, of which one may be a
//! mistake in a manifest, or an attempt to take the place of an agent that others rely on. The role of higher priority has
//! the name, and of two with the same priority the one that was first. Pure.

use robeing_fleet::{AgentState, Fleet, Role};

/// How long after an enrolment another one for its name counts as simultaneous, in milliseconds of the fleet's time, if no
/// agent of this name has a session.
pub const AT_THE_SAME_TIME_MS: u64 = 30_000;

/// What was decided about a name that another role holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The role that holds the name.
    pub holder: Role,
    /// Whether the one who asks for it gets it.
    pub is_granted: bool,
}

/// Returns what is decided about an agent of this role that asks for a name; `None` if no agent of another role holds it.
pub fn decide(fleet: &Fleet, name: &str, asks: Role) -> Option<Conflict> {
    let with_session =
        fleet.agent_by_name(name).filter(|agent| agent.state != AgentState::Lost).map(|agent| agent.role);
    let enrolled =
        fleet.enrolment_of(name).filter(|known| fleet.now().fleet.saturating_sub(known.at.fleet) < AT_THE_SAME_TIME_MS);
    let holder = with_session.or_else(|| enrolled.map(|known| known.role)).filter(|holder| *holder != asks)?;
    Some(Conflict { holder, is_granted: asks.traits().priority < holder.traits().priority })
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{
        AgentCommand, AgentJoin, Command, ControlCommand, Enrol, FleetConfig, IdentityCommand, ProofKind, Stamp,
        known_version,
    };

    use super::*;
    use crate::fixture;

    fn fleet() -> Fleet {
        let mut fleet = Fleet::new(FleetConfig::default());
        apply(&mut fleet, 1, Command::Control(ControlCommand::RaiseVersion(known_version())));
        fleet
    }

    fn apply(fleet: &mut Fleet, at: u64, command: Command) {
        fleet.apply(Stamp::at(at), command, &mut Vec::new());
    }

    fn enrol(fleet: &mut Fleet, at: u64, role: Role) {
        let enrol = Enrol {
            agent: "one".into(),
            role,
            pool: None,
            key: [7; 32],
            proof: ProofKind::PoolSecret,
            single_use: None,
            names_agent: false,
        };
        apply(fleet, at, Command::Identity(IdentityCommand::Enrol(enrol)));
    }

    #[test]
    fn the_role_of_higher_priority_has_the_name_and_of_equal_ones_the_first() {
        for (holder, asks, is_granted) in [
            (Role::Worker, Role::Guardian, true),
            (Role::Guardian, Role::Worker, false),
            (Role::Messenger, Role::Worker, true),
            (Role::Specialist, Role::Guardian, false),
            (Role::Guardian, Role::Specialist, false),
        ] {
            let mut fleet = fleet();
            let join = AgentJoin { role: holder, ..fixture::join("one", 1) };
            apply(&mut fleet, 2, Command::Agent(AgentCommand::Joined(join)));
            assert_eq!(decide(&fleet, "one", asks), Some(Conflict { holder, is_granted }), "{holder:?} {asks:?}");
            assert_eq!(decide(&fleet, "one", holder), None, "numbers decide between processes of one role");
            assert_eq!(decide(&fleet, "another", asks), None);
        }
    }

    #[test]
    fn an_enrolment_holds_a_name_for_as_long_as_another_one_counts_as_simultaneous() {
        let mut fleet = fleet();
        enrol(&mut fleet, 1_000, Role::Guardian);
        let refused = Some(Conflict { holder: Role::Guardian, is_granted: false });
        assert_eq!(decide(&fleet, "one", Role::Worker), refused);
        apply(
            &mut fleet,
            1_000 + AT_THE_SAME_TIME_MS - 1,
            Command::Control(ControlCommand::RaiseVersion(known_version())),
        );
        assert_eq!(decide(&fleet, "one", Role::Worker), refused);
        apply(&mut fleet, 1_000 + AT_THE_SAME_TIME_MS, Command::Control(ControlCommand::RaiseVersion(known_version())));
        assert_eq!(decide(&fleet, "one", Role::Worker), None, "the guardian never came");
    }
}
