//! The events about teams.

use robeing_crds::{TeamState, TeamStatus};

use super::*;

fn team(id: &str, state: TeamState, term: u64) -> TeamStatus {
    let leader = (state != TeamState::NotFormed).then(|| format!("a{term}"));
    let message = (state == TeamState::NotFormed).then(|| "too few".to_owned());
    let (name, id, spec_digest) = ("review".to_owned(), id.to_owned(), String::new());
    TeamStatus { name, id, spec_digest, state, members: 2, size: 3, leader, term, message }
}

/// The reasons of the events between two lists of teams.
fn reasons(before: Option<Vec<TeamStatus>>, after: Vec<TeamStatus>) -> Vec<String> {
    let of = |teams| RobeingClusterStatus { teams, ..RobeingClusterStatus::default() };
    let mut events = Vec::new();
    crate::controller::report::teams::happened(before.map(of).as_ref(), &of(after), &mut events);
    events.into_iter().map(|event| event.reason).collect()
}

#[test]
fn what_becomes_of_a_team_is_told_once() {
    use TeamState::{Active, Degraded, Disbanded, Forming, NotFormed};
    let one = |id, state, term| vec![team(id, state, term)];
    let free = |why: &str| vec![TeamStatus { message: Some(why.to_owned()), ..team("i", NotFormed, 0) }];
    let refused = vec![TeamStatus { message: Some("no".to_owned()), ..team("i", Active, 1) }];
    let steps = [
        (None, one("i", NotFormed, 0), vec!["TeamNotFormed"]),
        (Some(one("i", NotFormed, 0)), one("i", NotFormed, 0), vec![]),
        (Some(free("2 are free")), free("10 are free"), vec![]),
        (Some(free("2 are free")), free("none is known"), vec!["TeamNotFormed"]),
        (Some(one("i", NotFormed, 0)), one("i", Forming, 1), vec!["TeamFormed"]),
        (None, one("i", Active, 1), vec!["TeamFormed", "TeamActive"]),
        (Some(one("i", Forming, 1)), one("i", Active, 1), vec!["TeamActive"]),
        (Some(one("i", Active, 1)), one("i", Active, 1), vec![]),
        (Some(one("i", Active, 1)), one("i", Degraded, 2), vec!["TeamLeaderChanged", "TeamDegraded"]),
        (Some(one("i", Active, 1)), one("i", Disbanded, 1), vec!["TeamDisbanded"]),
        (Some(one("i", Disbanded, 1)), one("j", Forming, 1), vec!["TeamFormed"]),
        (Some(one("i", Active, 1)), vec![], vec!["TeamDisbanded"]),
        (Some(one("i", Active, 1)), one("j", Forming, 1), vec!["TeamDisbanded", "TeamFormed"]),
        (Some(one("i", Degraded, 1)), one("j", NotFormed, 0), vec!["TeamDisbanded", "TeamNotFormed"]),
        (Some(one("i", NotFormed, 0)), one("j", Forming, 1), vec!["TeamFormed"]),
        (Some(one("i", Active, 1)), refused.clone(), vec!["TeamRefused"]),
        (Some(refused.clone()), refused.clone(), vec![]),
        (Some(refused), one("i", Active, 1), vec![]),
    ];
    for (before, after, expected) in steps {
        assert_eq!(reasons(before.clone(), after.clone()), expected, "{before:?} {after:?}");
    }
}

#[test]
fn the_status_has_the_teams_and_keeps_them_while_nothing_is_known() {
    let mut scene = scene();
    scene.outcome.teams = Some(vec![team("i", TeamState::Active, 1)]);
    let status = scene.status(None);
    assert_eq!(status.teams, [team("i", TeamState::Active, 1)]);
    scene.outcome.teams = None;
    assert_eq!(scene.status(Some(&status)).teams, status.teams);
    assert!(scene.status(None).teams.is_empty());
}
