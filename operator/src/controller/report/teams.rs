//! The events about teams, from the statuses of then and now.

use robeing_crds::{RobeingClusterStatus, TeamState, TeamStatus};

use super::events::{EventRecord, normal, warning, without_figures};

/// Adds the events between two statuses.
pub(super) fn happened(
    before: Option<&RobeingClusterStatus>,
    after: &RobeingClusterStatus,
    events: &mut Vec<EventRecord>,
) {
    let earlier: &[TeamStatus] = before.map_or(&[], |before| before.teams.as_slice());
    for team in &after.teams {
        changed(earlier.iter().find(|earlier| earlier.name == team.name), team, events);
    }
    for gone in earlier.iter().filter(|earlier| after.teams.iter().all(|team| team.name != earlier.name)) {
        events.push(normal("TeamDisbanded", "Disband", format!("Team {:?} ({}) was disbanded.", gone.name, gone.id)));
    }
}

fn is_formed(team: &TeamStatus) -> bool {
    !matches!(team.state, TeamState::NotFormed | TeamState::Disbanded)
}

fn changed(before: Option<&TeamStatus>, team: &TeamStatus, events: &mut Vec<EventRecord>) {
    let (name, id) = (&team.name, &team.id);
    if let Some(before) = before.filter(|before| before.id != team.id && is_formed(before)) {
        events.push(normal("TeamDisbanded", "Disband", format!("Team {name:?} ({}) was disbanded.", before.id)));
    }
    if let Some(why) = team.message.as_ref().filter(|_| team.state != TeamState::NotFormed)
        && before.is_none_or(|before| before.message.as_ref() != Some(why))
    {
        events.push(warning("TeamRefused", "Keep", format!("Nothing is done about the team {name:?} ({id}): {why}.")));
    }
    if team.state == TeamState::NotFormed {
        let message = without_figures(team.message.as_deref());
        let is_told = before
            .is_some_and(|before| before.state == team.state && without_figures(before.message.as_deref()) == message);
        if !is_told {
            let why = team.message.as_deref().unwrap_or("for an unknown reason");
            events.push(warning("TeamNotFormed", "Form", format!("Team {name:?} is not formed: {why}.")));
        }
        return;
    }
    let same = before.filter(|before| before.id == team.id && before.state != TeamState::NotFormed);
    let leader = team.leader.as_deref().unwrap_or("nobody");
    match same {
        None => {
            let note = format!("Team {name:?} was formed as {id}, with {} members; {leader} leads.", team.members);
            events.push(normal("TeamFormed", "Form", note));
        }
        Some(before) if before.term != team.term => {
            let note = format!("{leader} leads the team {name:?} in term {}.", team.term);
            events.push(normal("TeamLeaderChanged", "Elect", note));
        }
        Some(_) => {}
    }
    if same.map(|before| before.state) == Some(team.state) {
        return;
    }
    match team.state {
        TeamState::Active => {
            let note = format!("The {} members of the team {name:?} reach each other.", team.members);
            events.push(normal("TeamActive", "Form", note));
        }
        TeamState::Degraded => {
            let note = format!("Team {name:?} has {} of {} members, or not all paths.", team.members, team.size);
            events.push(warning("TeamDegraded", "Check", note));
        }
        TeamState::Disbanded => {
            let note = format!("Somebody has disbanded the team {name:?} ({id}); another one is formed.");
            events.push(warning("TeamDisbanded", "Disband", note));
        }
        TeamState::NotFormed | TeamState::Forming => {}
    }
}
