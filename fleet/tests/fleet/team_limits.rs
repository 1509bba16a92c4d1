//! The limits of teams.

use robeing_fleet::{
    AgentCommand, AgentJoin, Command, Fleet, FormTeam, Refusal, Reply, TeamCommand, TeamNeeds, limits::*,
};

use crate::{
    fixture::{Trial, team, worker},
    teams::{connect, formed, id, with_workers},
};

#[test]
fn teams_are_held_to_their_limits() {
    type Change = fn(&mut FormTeam, usize);
    let skills: Change = |team, n| team.needs.skills = (0..n).map(|n| format!("{n:03}")).collect();
    let cases: [(&str, Change, usize, usize); 8] = [
        ("formed_by", |t, n| t.formed_by = "x".repeat(n), MAX_SENDER_BYTES, MAX_SENDER_BYTES + 1),
        ("formed_by", |t, n| t.formed_by = "x".repeat(n), 1, 0),
        ("purpose", |t, n| t.purpose = "x".repeat(n), MAX_PURPOSE_BYTES, MAX_PURPOSE_BYTES + 1),
        ("purpose", |t, n| t.purpose = "x".repeat(n), 1, 0),
        ("size", |t, n| t.size = n as u32, 1, 0),
        ("size", |t, n| t.size = n as u32, MAX_TEAM_SIZE as usize, MAX_TEAM_SIZE as usize + 1),
        ("needs.skills", skills, MAX_TEAM_SKILLS, MAX_TEAM_SKILLS + 1),
        ("needs.skills", |t, n| t.needs.skills = vec!["x".repeat(n)], MAX_NAME_BYTES, MAX_NAME_BYTES + 1),
    ];
    for (field, change, good, bad) in cases {
        let of = |value| {
            let mut team = team(1, 1);
            change(&mut team, value);
            team.check()
        };
        assert_eq!(of(good), Ok(()), "{field}");
        assert!(matches!(of(bad), Err(Refusal::Invalid { field: named, .. }) if named == field), "{field}");
    }
    let twice = TeamNeeds { role: None, skills: vec!["a".to_owned(), "a".to_owned()] };
    assert!(FormTeam { needs: twice, ..team(1, 1) }.check().is_err());
}

#[test]
fn there_are_so_many_teams_and_the_ones_disbanded_first_make_room() {
    let mut trial = Trial::newest();
    let apply = |trial: &mut Trial, command| trial.fleet.apply(trial.stamp(), Command::Team(command), &mut Vec::new());
    for n in 0..=MAX_TEAMS {
        let join = AgentCommand::Joined(worker(&format!("a{n}")));
        trial.fleet.apply(trial.stamp(), Command::Agent(join), &mut Vec::new());
    }
    let by = |n: u128| format!("client:{}", n / MAX_TEAMS_OF_ONE as u128);
    for n in 0..MAX_TEAMS as u128 {
        assert_eq!(apply(&mut trial, TeamCommand::Form(FormTeam { formed_by: by(n), ..team(n, 1) })), formed(1));
    }
    let one_more = team(u128::MAX, 1);
    let full = apply(&mut trial, TeamCommand::Form(one_more.clone()));
    assert!(matches!(full, Reply::Refused(Refusal::Full { limit, .. }) if limit == MAX_TEAMS as u64));
    trial.disband(7);
    assert_eq!(trial.form(one_more), formed(1));
    assert!(trial.fleet.team(id(7)).is_none());
    assert_eq!(trial.fleet.team_counts().forming + trial.fleet.team_counts().active, MAX_TEAMS as u32);
}

#[test]
fn one_caller_forms_so_many_teams_and_others_form_more() {
    let (mut trial, _) = with_workers(MAX_TEAMS_OF_ONE + 2);
    for n in 0..MAX_TEAMS_OF_ONE as u128 {
        assert_eq!(trial.form(team(n, 1)), formed(1));
    }
    let one_more = team(u128::MAX, 1);
    let refused = trial.fleet.refusal_of_team(&one_more);
    assert!(matches!(&refused, Some(Refusal::Full { limit, .. }) if *limit == MAX_TEAMS_OF_ONE as u64), "{refused:?}");
    assert_eq!(trial.form(one_more.clone()), Reply::Refused(refused.expect("it is refused")));
    let restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert!(restored.refusal_of_team(&one_more).is_some());
    assert_eq!(trial.form(FormTeam { formed_by: "client:d".to_owned(), ..team(1 << 100, 1) }), formed(1));
    assert_eq!(trial.form(team(0, 1)), Reply::TeamFormed { existing: true, members: 1 });
    trial.disband(0);
    assert_eq!(trial.form(one_more), formed(1));
}

#[test]
fn a_team_that_no_coordinator_may_keep_yet_is_refused_for_that() {
    let mut trial = Trial::new();
    assert_eq!(trial.fleet.refusal_of_team(&team(1, 1)), None, "that there are too few agents is not the reason");
    assert!(matches!(trial.form(team(1, 1)), Reply::Refused(Refusal::NotInForce { .. })));
}

#[test]
fn the_largest_team_fits_what_a_snapshot_may_take() {
    let mut trial = Trial::newest();
    let mut stays = Vec::new();
    for n in 0..MAX_TEAM_SIZE {
        let skills = (0..MAX_TEAM_SKILLS).map(|skill| format!("{skill:0>MAX_NAME_BYTES$}")).collect();
        let name = format!("{n:0>MAX_NAME_BYTES$}");
        stays.push(trial.join(AgentJoin { specializations: skills, ..worker(&name) }));
    }
    let before = trial.fleet.encode().len() as u64;
    let skills = (0..MAX_TEAM_SKILLS).map(|skill| format!("{skill:0>MAX_NAME_BYTES$}")).collect();
    trial.form(FormTeam {
        formed_by: "x".repeat(MAX_SENDER_BYTES),
        purpose: "x".repeat(MAX_PURPOSE_BYTES),
        needs: TeamNeeds { role: None, skills },
        ..team(u128::MAX, MAX_TEAM_SIZE)
    });
    connect(&mut trial, u128::MAX, &stays);
    let size = trial.fleet.encode().len() as u64 - before;
    // The counts are small here, and each may take ten bytes.
    assert!(size + u64::from(MAX_TEAM_SIZE) * 5 * 10 <= MAX_TEAM_OVERHEAD, "{size}");
}
