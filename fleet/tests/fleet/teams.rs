//! Teams: forming, leaders, losses, paths, tasks, disbanding, and their limits.

use robeing_fleet::{
    AgentJoin, Choice, Command, Effect, Fleet, FormTeam, MemberWork, PostLetter, Refusal, Reply, Role, SubmitTask,
    TaskCommand, TaskId, TaskState, Team, TeamCommand, TeamId, TeamNeeds, TeamState, Verify, limits::*,
};

use crate::fixture::{
    OpenSession, Trial, answered, failure, letter, retry, specialist, success, task, team, to_approve, vote, worker,
};

pub fn id(n: u128) -> TeamId {
    TeamId(n)
}

pub fn formed(members: u32) -> Reply {
    Reply::TeamFormed { existing: false, members }
}

fn of(trial: &Trial, n: u128) -> &Team {
    trial.fleet.team(id(n)).expect("it is kept")
}

fn names(team: &Team) -> Vec<&str> {
    team.members.iter().map(|member| &*member.name).collect()
}

fn leader(team: &Team) -> Option<&str> {
    Some(&*team.member(team.leader?)?.name)
}

/// A fleet with so many workers, `a0` and so on.
pub fn with_workers(count: usize) -> (Trial, Vec<OpenSession>) {
    let mut trial = Trial::newest();
    let stays = (0..count).map(|n| trial.join(worker(&format!("a{n}")))).collect();
    (trial, stays)
}

/// Lets every member report paths to all others.
pub fn connect(trial: &mut Trial, n: u128, stays: &[OpenSession]) {
    for stay in stays {
        let reaches = stays.iter().map(|stay| stay.agent).collect();
        let OpenSession { agent, session } = *stay;
        assert_eq!(trial.team(TeamCommand::Paths { team: id(n), agent, session, reaches }), Reply::Done);
    }
}

fn addressed(n: u128, to: u128) -> SubmitTask {
    SubmitTask { team: Some(id(to)), ..task(n) }
}

#[test]
fn a_team_is_formed_of_the_best_free_agents_and_once() {
    let (mut trial, stays) = with_workers(4);
    for n in 0..20 {
        let done = trial.submit(task(n));
        let holder = trial.holder(done);
        let stay = stays.iter().find(|stay| Some(stay.agent) == holder).expect("someone has it");
        let outcome = if stay.agent == stays[0].agent { failure(false) } else { success() };
        trial.complete(*stay, done, 1, outcome);
    }
    assert_eq!(trial.form(team(1, 2)), formed(2));
    assert_eq!(trial.effects[0], Effect::TeamChanged { id: id(1) });
    assert_eq!(trial.effects.len(), 3, "the directory shows the team of each member");
    assert!(!names(of(&trial, 1)).contains(&"a0"), "it fails: {:?}", names(of(&trial, 1)));
    assert_eq!(trial.form(team(1, 2)), Reply::TeamFormed { existing: true, members: 2 });
    assert_eq!(trial.form(team(1, 1)), Reply::Refused(Refusal::TeamConflict { team: id(1) }));
    assert_eq!(trial.form(team(2, 2)), formed(2));
    let in_both = names(of(&trial, 1)).iter().any(|name| names(of(&trial, 2)).contains(name));
    assert!(!in_both, "an agent is in one team");
}

#[test]
fn a_team_is_formed_as_a_whole_or_of_as_many_as_there_are_by_choice() {
    let (mut trial, _) = with_workers(2);
    let too_few = |free| Refusal::TooFewAgents { wanted: 3, free };
    assert_eq!(trial.fleet.refusal_of_team(&team(1, 3)), Some(too_few(2)));
    let before = trial.fleet.encode();
    assert_eq!(trial.form(team(1, 3)), Reply::Refused(too_few(2)));
    assert_eq!(trial.fleet.encode(), before);
    assert_eq!(trial.form(FormTeam { partial: true, ..team(1, 3) }), formed(2));
    assert_eq!((of(&trial, 1).size, of(&trial, 1).missing()), (2, 0), "it is whole");
    assert_eq!(trial.form(FormTeam { partial: true, ..team(2, 3) }), Reply::Refused(too_few(0)));
}

#[test]
fn members_have_the_role_and_all_the_skills_that_are_needed() {
    let mut trial = Trial::newest();
    let both = vec!["law".to_owned(), "ocr".to_owned()];
    trial.join(worker("a"));
    trial.join(specialist("b", "ocr"));
    trial.join(AgentJoin { specializations: both.clone(), ..specialist("c", "law") });
    trial.join(AgentJoin { role: Role::Guardian, ..specialist("d", "ocr") });
    let chosen = |trial: &mut Trial, role, skills: &[String]| -> Vec<String> {
        trial.form(FormTeam { partial: true, needs: TeamNeeds { role, skills: skills.to_vec() }, ..team(1, 9) });
        let chosen = trial.fleet.team(id(1)).map(|team| names(team).into_iter().map(str::to_owned).collect());
        trial.disband(1);
        trial.after(TEAM_TTL_MS);
        chosen.unwrap_or_default()
    };
    assert_eq!(chosen(&mut trial, None, &[]), ["a", "b", "c"]);
    assert_eq!(chosen(&mut trial, None, &both[1..]), ["b", "c", "d"]);
    assert_eq!(chosen(&mut trial, None, &both), ["c"]);
    assert_eq!(chosen(&mut trial, Some(Role::Guardian), &both[1..]), ["d"]);
    assert_eq!(chosen(&mut trial, Some(Role::Guardian), &both), [""; 0]);
}

#[test]
fn a_team_is_active_once_every_pair_has_a_path_that_both_report() {
    let (mut trial, stays) = with_workers(3);
    trial.form(team(1, 3));
    assert_eq!(of(&trial, 1).state, TeamState::Forming);
    connect(&mut trial, 1, &stays[..2]);
    assert_eq!(of(&trial, 1).state, TeamState::Forming);
    assert_eq!(trial.effects, []);
    let all = stays.iter().map(|stay| stay.agent).collect::<Vec<_>>();
    let paths = |stay: OpenSession, reaches: Vec<_>| TeamCommand::Paths {
        team: id(1),
        agent: stay.agent,
        session: stay.session,
        reaches,
    };
    connect(&mut trial, 1, &stays);
    assert_eq!((of(&trial, 1).state, trial.effects.len()), (TeamState::Active, 1));
    let team = of(&trial, 1);
    assert!(team.are_connected(&team.members[0], &team.members[1]));
    trial.team(paths(stays[1], vec![all[0]]));
    assert_eq!(of(&trial, 1).state, TeamState::Degraded, "it was active");
    let team = of(&trial, 1);
    assert!(!team.are_connected(&team.members[2], &team.members[1]), "only one of them reports it");
    trial.team(paths(stays[1], all));
    assert_eq!(of(&trial, 1).state, TeamState::Active);
    let mut alone = with_workers(1).0;
    alone.form(self::team(1, 1));
    assert_eq!(of(&alone, 1).state, TeamState::Active, "there is no pair");
}

#[test]
fn paths_count_for_members_in_their_sessions_alone() {
    let (mut trial, stays) = with_workers(3);
    trial.form(team(1, 2));
    let before = trial.fleet.encode();
    let OpenSession { agent, session } = stays[0];
    let stale = robeing_fleet::SessionId(session.0 + 9);
    let paths = |team, agent, session, count| TeamCommand::Paths {
        team: id(team),
        agent,
        session,
        reaches: vec![stays[2].agent; count],
    };
    assert_eq!(trial.team(paths(1, agent, stale, 1)), Reply::Refused(Refusal::StaleSession));
    assert_eq!(trial.team(paths(2, agent, session, 1)), Reply::Refused(Refusal::UnknownTeam { team: id(2) }));
    assert_eq!(trial.team(paths(1, stays[2].agent, stays[2].session, 1)), Reply::Done, "it is no member");
    assert_eq!(trial.team(paths(1, agent, session, MAX_TEAM_SIZE as usize)), Reply::Done, "those are no members");
    assert_eq!(trial.fleet.encode(), before);
    let many = trial.team(paths(1, agent, session, MAX_TEAM_SIZE as usize + 1));
    assert!(matches!(many, Reply::Refused(Refusal::Invalid { field, .. }) if field == "reaches"));
}

#[test]
fn a_lost_member_is_replaced_and_a_lost_leader_by_another_member_under_the_next_term() {
    let (mut trial, stays) = with_workers(4);
    trial.form(team(1, 3));
    connect(&mut trial, 1, &stays[..3]);
    assert_eq!((leader(of(&trial, 1)), of(&trial, 1).term), (Some("a0"), 1), "of equals the first");
    trial.lose(stays[1]);
    assert!(trial.effects.contains(&Effect::TeamChanged { id: id(1) }));
    let team = of(&trial, 1);
    assert_eq!((names(team), leader(team), team.term), (vec!["a0", "a2", "a3"], Some("a0"), 1));
    assert_eq!((team.state, team.totals.replaced), (TeamState::Degraded, 1), "the new member has no paths yet");
    trial.lose(stays[0]);
    let team = of(&trial, 1);
    assert_eq!((names(team), leader(team), team.term), (vec!["a2", "a3"], Some("a2"), 2));
    assert_eq!((team.state, team.missing()), (TeamState::Degraded, 1));
    let again = trial.join(AgentJoin { incarnation: 2, ..worker("a0") });
    let team = of(&trial, 1);
    assert_eq!((names(team), leader(team), team.term), (vec!["a0", "a2", "a3"], Some("a2"), 2));
    connect(&mut trial, 1, &[again, stays[2], stays[3]]);
    assert_eq!(of(&trial, 1).state, TeamState::Active);
}

#[test]
fn a_member_that_is_not_live_leaves_its_team_and_a_team_without_members_waits_for_some() {
    let (mut trial, stays) = with_workers(2);
    trial.form(team(1, 2));
    trial.drain(stays[0]);
    trial.unhealthy(stays[1], "503");
    let team = of(&trial, 1);
    assert_eq!((names(team), team.leader, team.state), (vec![], None, TeamState::Degraded));
    trial.healthy(stays[1], true);
    let team = of(&trial, 1);
    assert_eq!((names(team), leader(team)), (vec!["a1"], Some("a1")));
    assert!(team.term > 1);
    trial.leave(stays[1]);
    assert_eq!(names(of(&trial, 1)), [""; 0]);
}

#[test]
fn a_member_that_does_not_fit_any_more_leaves_its_team_and_finishes_what_it_runs() {
    let mut trial = Trial::newest();
    let b = trial.join(specialist("b", "ocr"));
    trial.join(specialist("c", "ocr"));
    let of_skill = |n, skill: &str| {
        let needs = TeamNeeds { role: None, skills: vec![skill.to_owned()] };
        FormTeam { needs, ..team(n, 1) }
    };
    trial.form(of_skill(1, "ocr"));
    let runs = trial.submit(addressed(1, 1));
    assert_eq!((names(of(&trial, 1)), trial.holder(runs)), (vec!["b"], Some(b.agent)));
    trial.join(specialist("b", "law"));
    assert_eq!((names(of(&trial, 1)), leader(of(&trial, 1)), of(&trial, 1).term), (vec!["c"], Some("c"), 2));
    assert_eq!(trial.holder(runs), Some(b.agent));
    trial.complete(b, runs, 1, success());
    assert_eq!(trial.state(runs), TaskState::Succeeded);
    assert_eq!(trial.form(of_skill(2, "law")), formed(1));
    trial.join(specialist("b", "ocr"));
    assert_eq!((names(of(&trial, 2)), of(&trial, 2).missing()), (vec![], 1));
    trial.join(specialist("b", "law"));
    assert_eq!(names(of(&trial, 2)), ["b"]);
}

#[test]
fn the_leader_is_the_member_with_the_highest_score() {
    let (mut trial, stays) = with_workers(2);
    let done = trial.submit(SubmitTask { required_role: None, ..task(1) });
    assert_eq!(trial.holder(done), Some(stays[0].agent));
    let other = trial.submit(task(2));
    trial.complete(stays[0], done, 1, failure(false));
    trial.complete(stays[1], other, 1, success());
    trial.form(team(1, 2));
    let team = of(&trial, 1);
    assert_eq!(leader(team), Some("a1"));
    assert_eq!((team.leader_score.reliability, team.leader_score.resources), (1_000_000, 1_000_000));
    assert_eq!(team.leader_score.experience, 1_000_000 / 33);
}

#[test]
fn a_task_of_a_team_is_run_by_its_members_alone() {
    let (mut trial, stays) = with_workers(3);
    trial.form(team(1, 1));
    let [first, second] = [addressed(1, 1), addressed(2, 1)].map(|task| trial.submit(task));
    assert_eq!((trial.holder(first), trial.state(second)), (Some(stays[0].agent), TaskState::Queued));
    let waits = trial.fleet.waiting_for(second, trial.now);
    assert!(waits.is_some_and(|words| words.contains("a member of team")));
    let other = trial.submit(task(3));
    assert_ne!(trial.holder(other), Some(stays[0].agent), "it has no free slot");
    trial.after(10);
    trial.complete(stays[0], first, 1, success());
    assert_eq!(trial.holder(second), Some(stays[0].agent));
    trial.lose(stays[0]);
    let member = of(&trial, 1).members[0].agent;
    assert_eq!(trial.fleet.unfinished_tasks_of(id(1)), 1);
    let stay = *stays.iter().find(|stay| stay.agent == member).expect("it is one of them");
    if trial.holder(second) != Some(member) {
        trial.complete(stay, other, 1, success());
    }
    assert_eq!(trial.holder(second), Some(member), "the next member takes it");
    let totals = of(&trial, 1).totals;
    assert_eq!((totals.tasks, totals.succeeded, totals.failed, totals.latency_ms), (2, 1, 0, 10));
}

#[test]
fn a_task_that_several_agents_run_is_run_by_as_many_members_of_its_team_and_counts_once() {
    let (mut trial, stays) = with_workers(4);
    trial.form(team(1, 3));
    let of_team = |n, agents| {
        let verify = Some(Box::new(Verify { agents, agree: 2, pointer: None, compare: None }));
        SubmitTask { verify, ..addressed(n, 1) }
    };
    let refused = trial.apply(Command::Task(TaskCommand::Submit(of_team(9, 4))));
    let is_refused = matches!(&refused, Reply::Refused(Refusal::Invalid { field, .. }) if field == "verify.agents");
    assert!(is_refused, "the team is too small: {refused:?}");
    let done = trial.submit(of_team(10, 3));
    let used = |trial: &Trial, stay: &OpenSession| trial.fleet.agent(stay.agent).map(|agent| agent.used_slots());
    let slots: Vec<_> = stays.iter().map(|stay| used(&trial, stay)).collect();
    assert_eq!(slots, [Some(1), Some(1), Some(1), Some(0)]);
    assert_eq!(trial.fleet.unfinished_tasks_of(id(1)), 1, "its runs are nobody's tasks");
    for (stay, output) in stays.iter().zip(["x", "y", "x"]) {
        let (run, attempt) = trial.held_by(*stay);
        trial.complete(*stay, run, attempt, answered(output));
    }
    assert_eq!(trial.state(done), TaskState::Succeeded);
    let totals = of(&trial, 1).totals;
    assert_eq!((totals.tasks, totals.succeeded, totals.failed), (1, 1, 0));
    let work = of(&trial, 1).members.iter().map(|member| (member.work.succeeded, member.work.failed));
    assert_eq!(work.collect::<Vec<_>>(), [(1, 0), (0, 1), (1, 0)], "one was outvoted");
    let runs = trial.submit(of_team(30, 2));
    trial.disband(1);
    assert_eq!((trial.state(runs), trial.fleet.unfinished_tasks_of(id(1))), (TaskState::Cancelled, 0));
}

#[test]
fn a_task_of_a_team_that_waited_for_its_approval_goes_to_a_member() {
    let (mut trial, stays) = with_workers(2);
    trial.form(team(1, 1));
    let waits = trial.submit(SubmitTask { team: Some(id(1)), ..to_approve(5) });
    assert_eq!(trial.holder(waits), None);
    trial.cast(vote(5, "a", Choice::Approve));
    trial.cast(vote(5, "b", Choice::Approve));
    assert_eq!(trial.holder(waits), Some(stays[0].agent));
    let waits = trial.submit(SubmitTask { team: Some(id(1)), ..to_approve(6) });
    trial.disband(1);
    assert_eq!(trial.state(waits), TaskState::Cancelled);
}

#[test]
fn tasks_are_addressed_to_teams_that_there_are_and_in_the_name_of_their_leader_in_its_term() {
    let (mut trial, stays) = with_workers(2);
    let refused = |trial: &mut Trial, task: SubmitTask| trial.fleet.refusal_of(&task);
    assert_eq!(refused(&mut trial, addressed(1, 1)), Some(Refusal::UnknownTeam { team: id(1) }));
    trial.form(team(1, 1));
    let in_term = |n, term| SubmitTask { team_term: Some(term), ..addressed(n, 1) };
    trial.submit(in_term(1, 1));
    trial.lose(stays[0]);
    let stale = Refusal::StaleTerm { team: id(1), term: 1, current: 2 };
    assert_eq!(refused(&mut trial, in_term(2, 1)), Some(stale.clone()));
    assert_eq!(refused(&mut trial, in_term(1, 1)), None, "it is known");
    trial.submit(in_term(2, 2));
    let disband = |term| TeamCommand::Disband { team: id(1), term: Some(term), by: "a0".to_owned() };
    assert_eq!(trial.team(disband(1)), Reply::Refused(stale));
    assert_eq!(trial.team(disband(2)), Reply::TeamDisbanded { existing: false });
    assert_eq!(refused(&mut trial, addressed(3, 1)), Some(Refusal::TeamDisbanded { team: id(1) }));
}

#[test]
fn a_team_that_is_disbanded_frees_its_members_and_its_tasks_are_cancelled() {
    let (mut trial, stays) = with_workers(2);
    trial.form(team(1, 2));
    assert!(matches!(trial.form(team(2, 1)), Reply::Refused(Refusal::TooFewAgents { .. })));
    let tasks: Vec<TaskId> = (1..4).map(|n| trial.submit(addressed(n, 1))).collect();
    assert_eq!(trial.disband(1), Reply::TeamDisbanded { existing: false });
    for task in tasks {
        assert_eq!(trial.state(task), TaskState::Cancelled);
        assert!(trial.task(task).cancel_reason.as_ref().is_some_and(|reason| reason.contains("was disbanded by")));
    }
    let team = of(&trial, 1);
    assert_eq!((team.state, team.leader, names(team)), (TeamState::Disbanded, None, vec![]));
    assert_eq!((team.totals.tasks, team.totals.failed), (3, 3));
    assert_eq!(trial.disband(1), Reply::TeamDisbanded { existing: true });
    assert_eq!(trial.disband(7), Reply::Refused(Refusal::UnknownTeam { team: id(7) }));
    trial.complete(stays[0], TaskId(1), 1, success());
    assert_eq!(trial.form(self::team(2, 2)), formed(2));
    trial.after(TEAM_TTL_MS - 1);
    assert!(trial.fleet.team(id(1)).is_some());
    trial.after(1);
    assert!(trial.fleet.team(id(1)).is_none());
}

#[test]
fn the_members_of_a_disbanded_team_go_to_teams_that_lack_members() {
    let (mut trial, stays) = with_workers(2);
    trial.form(team(1, 1));
    trial.form(team(2, 1));
    trial.lose(stays[1]);
    assert_eq!(of(&trial, 2).missing(), 1);
    trial.disband(1);
    assert_eq!((names(of(&trial, 2)), of(&trial, 2).missing()), (vec!["a0"], 0));
}

#[test]
fn what_members_do_is_counted() {
    let (mut trial, stays) = with_workers(2);
    trial.form(team(1, 1));
    let one = trial.submit(addressed(1, 1));
    trial.after(5);
    trial.complete(stays[0], one, 1, success());
    let other = trial.submit(SubmitTask { retry: retry(1), ..addressed(2, 1) });
    trial.after(7);
    trial.complete(stays[0], other, 1, failure(true));
    let to_team = |n, receiver: &str, to: String| PostLetter { receiver: receiver.to_owned(), to, ..letter(n) };
    trial.post(to_team(1, "a0", format!("team:{}", id(1))));
    trial.post(to_team(2, "a1", format!("team:{}", id(1))));
    trial.post(to_team(3, "a0", format!("team:{}", id(2))));
    trial.post(to_team(4, "a0", "agent:a0".to_owned()));
    let team = of(&trial, 1);
    assert_eq!(team.members[0].work, MemberWork { succeeded: 1, failed: 1, busy_ms: 12, messages: 1 });
    let totals = team.totals;
    assert_eq!((totals.tasks, totals.succeeded, totals.failed, totals.messages), (2, 1, 1, 1));
}

#[test]
fn teams_are_listed_and_in_snapshots() {
    let (mut trial, stays) = with_workers(4);
    for n in 1..4 {
        trial.form(team(n, 1));
    }
    trial.submit(addressed(1, 3));
    trial.submit(addressed(2, 3));
    trial.disband(2);
    let listed = |before, only_open| -> Vec<u128> {
        trial.fleet.teams(before, 10, only_open).iter().map(|team| team.id.0).collect()
    };
    assert_eq!((listed(None, false), listed(None, true)), (vec![3, 2, 1], vec![3, 1]));
    assert_eq!(listed(Some(3), false), [2, 1]);
    let mut restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!(restored.team(id(3)), trial.fleet.team(id(3)));
    assert_eq!(restored.team_counts(), trial.fleet.team_counts());
    assert_eq!((restored.audit(), restored.next_due()), (Ok(()), trial.fleet.next_due()));
    let lost = robeing_fleet::AgentCommand::Lost {
        agent: stays[2].agent,
        session: stays[2].session,
        reason: robeing_fleet::LossReason::Silent,
    };
    restored.apply(trial.stamp(), robeing_fleet::Command::Agent(lost.clone()), &mut Vec::new());
    trial.apply(robeing_fleet::Command::Agent(lost));
    assert_eq!(restored.encode(), trial.fleet.encode());
}
