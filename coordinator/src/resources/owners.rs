//! Whose an allocation is: for whom a caller may ask for resources, and which allocations it may release and renew.

use robeing_fleet::{Allocation, Fleet, Holder};
use robeing_net::gate::Caller;

use crate::mail::sender_name;

/// Returns the holder that the caller itself is. Callers without TLS are all the same client.
pub(super) fn own_holder(caller: &Caller) -> Holder {
    let name = sender_name(caller);
    match agent(caller) {
        Some(_) => Holder::Agent(name),
        None => Holder::Client(name.strip_prefix("client:").unwrap_or(&name).to_owned()),
    }
}

/// Returns whether a caller may ask for resources for a holder: for itself; an agent for a task that it runs; others
/// for any task, because nobody knows who has submitted it; and a team's members, and who has formed it, for the team.
/// Without TLS, for anyone but an agent that has enrolled.
pub(super) fn may_ask_for(fleet: &Fleet, caller: &Caller, holder: &Holder) -> bool {
    if *caller == Caller::Plaintext {
        return !is_proved(fleet, holder);
    }
    let is_any_task = matches!(holder, Holder::Task(_)) && agent(caller).is_none();
    is_any_task || is_on_behalf(fleet, caller, holder)
}

/// Returns whether an allocation is the caller's: it has asked for it or holds it, by itself, with the task that it
/// runs or with its team. Without TLS, unless an agent that has enrolled holds it.
pub(super) fn is_owner(fleet: &Fleet, caller: &Caller, allocation: &Allocation) -> bool {
    if *caller == Caller::Plaintext {
        return !is_proved(fleet, &allocation.holder);
    }
    allocation.requested_by == sender_name(caller) || is_on_behalf(fleet, caller, &allocation.holder)
}

fn is_on_behalf(fleet: &Fleet, caller: &Caller, holder: &Holder) -> bool {
    match holder {
        Holder::Task(id) => {
            let current = fleet.task(*id).and_then(|task| task.current());
            current.is_some_and(|attempt| agent(caller) == Some(&*attempt.agent_name))
        }
        Holder::Team(id) => fleet.team(*id).is_some_and(|team| {
            let is_member = agent(caller).is_some_and(|agent| team.member_named(agent).is_some());
            is_member || team.formed_by == sender_name(caller)
        }),
        Holder::Agent(_) | Holder::Client(_) => own_holder(caller) == *holder,
        Holder::Nobody => false,
    }
}

/// Returns whether the holder is an agent that has proved who it is.
fn is_proved(fleet: &Fleet, holder: &Holder) -> bool {
    matches!(holder, Holder::Agent(name) if fleet.enrolment_of(name).is_some())
}

/// Returns the caller's name if it is an agent.
fn agent(caller: &Caller) -> Option<&str> {
    caller.member().filter(|id| id.role().is_agent()).map(|id| id.name())
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{
        AgentCommand, AllocationId, Amounts, Command, ControlCommand, Feature, FleetConfig, FormTeam, Reply,
        RequestResources, ResourceCommand, Stamp, TaskId, TeamCommand, TeamId, TeamNeeds,
    };
    use robeing_identity::PeerRole;

    use super::*;
    use crate::{fixture, identity::fixture::member};

    /// A fleet with the agents a and b, of which one is in the team 5, which ann has formed.
    fn fleet() -> (Fleet, String, String) {
        let mut fleet = Fleet::new(FleetConfig::default());
        let mut apply = |command| fleet.apply(Stamp::at(1), command, &mut Vec::new());
        apply(Command::Control(ControlCommand::RaiseVersion(Feature::Resources.since())));
        for name in ["a", "b"] {
            apply(Command::Agent(AgentCommand::Joined(fixture::join(name, 1))));
        }
        let team = FormTeam {
            id: TeamId(5),
            formed_by: "client:ann".to_owned(),
            purpose: "review".to_owned(),
            size: 1,
            partial: false,
            needs: TeamNeeds::default(),
        };
        assert!(matches!(apply(Command::Team(TeamCommand::Form(team))), Reply::TeamFormed { .. }));
        let is_member = |name: &str| fleet.team(TeamId(5)).is_some_and(|team| team.member_named(name).is_some());
        let (inside, outside) = if is_member("a") { ("a", "b") } else { ("b", "a") };
        (fleet, inside.to_owned(), outside.to_owned())
    }

    #[test]
    fn nobody_asks_for_another_client_or_agent_or_for_a_team_that_is_not_its_own() {
        let (fleet, inside, outside) = fleet();
        let may = |caller: &Caller, holder: Holder| may_ask_for(&fleet, caller, &holder);
        let (ann, bob) = (Caller::user("ann"), member(PeerRole::Client, "bob"));
        let [inside_calls, outside_calls] = [&inside, &outside].map(|name| member(PeerRole::Worker, name));
        assert!(may(&ann, Holder::Client("ann".to_owned())) && may(&inside_calls, Holder::Agent(inside.clone())));
        for other in [Holder::Client("ann".to_owned()), Holder::Agent(inside), Holder::Team(TeamId(5))] {
            assert!(!may(&bob, other.clone()) && !may(&outside_calls, other.clone()), "{other}");
            assert!(may(&Caller::Plaintext, other.clone()), "{other}");
        }
        assert!(may(&ann, Holder::Team(TeamId(5))) && may(&inside_calls, Holder::Team(TeamId(5))));
        assert!(!may(&ann, Holder::Team(TeamId(6))), "there is none");
        assert!(may(&ann, Holder::Task(TaskId(1))));
        assert!(!may(&inside_calls, Holder::Task(TaskId(1))), "it does not run it");
    }

    #[test]
    fn only_who_asked_for_an_allocation_or_holds_it_is_its_owner() {
        let (mut fleet, inside, outside) = fleet();
        let request = RequestResources {
            id: AllocationId(1),
            holder: Holder::Team(TeamId(5)),
            queue: "default".to_owned(),
            parts: vec![Amounts { cpu: 1, ..Amounts::NONE }],
            spread: false,
            ttl: 60_000,
            wait: 60_000,
            requested_by: "client:ann".to_owned(),
        };
        fleet.apply(Stamp::at(1), Command::Resource(ResourceCommand::Request(request)), &mut Vec::new());
        let allocation = fleet.allocation(AllocationId(1)).expect("it waits");
        let owns = |caller: &Caller| is_owner(&fleet, caller, allocation);
        assert!(owns(&Caller::user("ann")) && owns(&member(PeerRole::Worker, &inside)) && owns(&Caller::Plaintext));
        assert!(!owns(&Caller::user("bob")) && !owns(&member(PeerRole::Worker, &outside)) && !owns(&Caller::Anonymous));
    }
}
