//! Who gets a name that two agents of different roles ask for at the same time. A number that is used once decides between
//! two processes of one role, of which the later one has the name; it says nothing about two roles, of which one may be a
//! mistake in a manifest, or an attempt to take the place of an agent that others rely on. The role of higher priority has
//! the name, and of two with the same priority the one that was first.
//!
//! A role that nothing but a secret of many, or nothing at all, has proved is no reason to keep a name from the agent that
//! it belongs to: a proof that names the agent, such as the token of a pod, gets the name from such a holder. Pure.

use robeing_fleet::{AgentState, Enrolment, Fleet, ProofKind, Role};

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

/// Returns what is decided about an agent of this role that asks for a name, with a proof that names it or another one;
/// `None` if no agent of another role holds it.
pub fn decide(fleet: &Fleet, name: &str, asks: Role, names_agent: bool) -> Option<Conflict> {
    let with_session =
        fleet.agent_by_name(name).filter(|agent| agent.state != AgentState::Lost).map(|agent| agent.role);
    let known = fleet.enrolment_of(name);
    let enrolled = known.filter(|known| fleet.now().fleet.saturating_sub(known.at.fleet) < AT_THE_SAME_TIME_MS);
    let holder = with_session.or_else(|| enrolled.map(|known| known.role)).filter(|holder| *holder != asks)?;
    // The enrolment of a holder whose name was given away already is no longer known.
    let is_named = known.is_some_and(|known| known.role == holder && may_name_agent(known));
    let is_higher = asks.traits().priority < holder.traits().priority;
    Some(Conflict { holder, is_granted: is_higher || (names_agent && !is_named) })
}

/// Returns whether an agent may have enrolled with a proof that names it. Of tokens it is not known whether they did; both
/// kinds are made by whom the fleet trusts, for an agent or two, and not for whoever has seen a secret.
fn may_name_agent(known: &Enrolment) -> bool {
    match known.proof {
        ProofKind::ServiceAccount | ProofKind::JoinToken => true,
        ProofKind::PoolSecret | ProofKind::Open => false,
    }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{
        AgentCommand, AgentJoin, Command, ControlCommand, Enrol, FleetConfig, IdentityCommand, SingleUse, Stamp,
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
        enrol_by(fleet, at, role, ProofKind::PoolSecret);
    }

    fn enrol_by(fleet: &mut Fleet, at: u64, role: Role, proof: ProofKind) {
        // A join token can be used once.
        let single_use = (proof == ProofKind::JoinToken).then_some(SingleUse { id: [1; 32], expires: u64::MAX });
        let enrol =
            Enrol { agent: "one".into(), role, pool: None, key: [7; 32], proof, single_use, names_agent: false };
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
            let decided = decide(&fleet, "one", asks, false);
            assert_eq!(decided, Some(Conflict { holder, is_granted }), "{holder:?} {asks:?}");
            assert_eq!(decide(&fleet, "one", holder, false), None, "numbers decide between processes of one role");
            assert_eq!(decide(&fleet, "another", asks, false), None);
        }
    }

    #[test]
    fn an_enrolment_holds_a_name_for_as_long_as_another_one_counts_as_simultaneous() {
        let mut fleet = fleet();
        enrol(&mut fleet, 1_000, Role::Guardian);
        let refused = Some(Conflict { holder: Role::Guardian, is_granted: false });
        assert_eq!(decide(&fleet, "one", Role::Worker, false), refused);
        apply(
            &mut fleet,
            1_000 + AT_THE_SAME_TIME_MS - 1,
            Command::Control(ControlCommand::RaiseVersion(known_version())),
        );
        assert_eq!(decide(&fleet, "one", Role::Worker, false), refused);
        apply(&mut fleet, 1_000 + AT_THE_SAME_TIME_MS, Command::Control(ControlCommand::RaiseVersion(known_version())));
        assert_eq!(decide(&fleet, "one", Role::Worker, false), None, "the guardian never came");
    }

    #[test]
    fn a_proof_that_names_the_agent_gets_the_name_from_a_holder_whose_own_proof_does_not() {
        for (proof, is_granted) in [
            (ProofKind::Open, true),
            (ProofKind::PoolSecret, true),
            (ProofKind::JoinToken, false),
            (ProofKind::ServiceAccount, false),
        ] {
            let mut fleet = fleet();
            enrol_by(&mut fleet, 1_000, Role::Specialist, proof);
            for is_in_session in [false, true] {
                let decided = |names_agent| decide(&fleet, "one", Role::Worker, names_agent);
                let conflict = |is_granted| Some(Conflict { holder: Role::Specialist, is_granted });
                assert_eq!(decided(true), conflict(is_granted), "{proof:?} {is_in_session}");
                assert_eq!(decided(false), conflict(false), "{proof:?} {is_in_session}");
                let join = AgentJoin { role: Role::Specialist, ..fixture::join("one", 1) };
                apply(&mut fleet, 1_000, Command::Agent(AgentCommand::Joined(join)));
            }
            // Once the name is given away, it is that of the new one, although the session lasts for a moment.
            enrol_by(&mut fleet, 1_001, Role::Worker, ProofKind::ServiceAccount);
            let again = decide(&fleet, "one", Role::Worker, true);
            assert_eq!(again.map(|again| again.is_granted), Some(true), "{proof:?}");
        }
    }
}
