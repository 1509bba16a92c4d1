//! The events between two observations.

use super::*;

#[test]
fn what_happens_between_two_looks_is_told() {
    let seen = scene();
    let before = seen.status(None);
    let mut now = scene();
    now.observation.objects[1] = deployment("fleet-data", 6);
    let answer = now.answer();
    answer.status.leader = names::coordinator("fleet", 2);
    answer.status.term = 5;
    answer.status.recovery_steps = vec![
        recovery_step(
            1,
            "a",
            v1::RecoveryStep { action: v1::RecoveryAction::Lost.into(), ..v1::RecoveryStep::default() },
        ),
        recovery_step(
            2,
            "a",
            v1::RecoveryStep { action: v1::RecoveryAction::Redistribute.into(), tasks: 3, ..after_ms(12) },
        ),
        recovery_step(
            3,
            "a",
            v1::RecoveryStep {
                action: v1::RecoveryAction::ActivateStandby.into(),
                standby: "c".into(),
                ..v1::RecoveryStep::default()
            },
        ),
        recovery_step(
            4,
            "a",
            v1::RecoveryStep { action: v1::RecoveryAction::Remove.into(), ..v1::RecoveryStep::default() },
        ),
    ];
    answer.status.coordinators.remove(0);
    answer.agents[0].state = v1::AgentState::Lost.into();
    answer.agents[0].lost_reason = "its process is gone".into();
    answer.agents[2].state = v1::AgentState::Live.into();
    let events: Vec<String> = now.events(&seen, Some(&before));
    insta::assert_snapshot!(events.join("\n"));
}

#[test]
fn an_agent_that_is_unhealthy_and_recovers_is_told_step_by_step_and_once() {
    use v1::RecoveryAction::{AttemptRecovery, Readmit, Redistribute};
    let (seen, mut now) = (scene(), scene());
    let before = seen.status(None);
    let step = |action: v1::RecoveryAction, ms| v1::RecoveryStep { action: action.into(), ..after_ms(ms) };
    now.answer().status.recovery_steps = vec![
        unhealthy(1, "a", 0),
        recovery_step(2, "a", v1::RecoveryStep { tasks: 1, ..step(Redistribute, 3) }),
        recovery_step(3, "a", step(AttemptRecovery, 20_000)),
        recovery_step(4, "a", v1::RecoveryStep { waits: true, ..step(Readmit, 30_000) }),
        recovery_step(5, "b", step(Readmit, 0)),
    ];
    insta::assert_snapshot!(now.events(&seen, Some(&before)).join("\n"));
    assert!(now.events(&now, Some(&before)).is_empty(), "nothing is published twice");
    // Events are named by their step's number, so another operator does not publish them again either.
    let status = now.status(None);
    let snapshot = Snapshot::of(&seen.observation, None);
    let events = happened(&now.observation, &now.outcome, snapshot.as_ref(), Some(&status), &status);
    let numbers: Vec<_> = events.iter().map(|event| event.once.as_deref().expect("a number")).collect();
    assert_eq!(numbers, ["1", "2", "3", "4", "5"]);
}

#[test]
fn unhealthy_agents_degrade_the_fleet_and_are_named_up_to_a_limit() {
    let mut scene = scene();
    for agent in &mut scene.answer().agents {
        agent.state = v1::AgentState::Unhealthy.into();
        agent.unhealthy_reason = "503".into();
    }
    let status = scene.status(None);
    let told = ("True", "AgentsUnhealthy", "4 agents are unhealthy and given no tasks: a (503), b (503), c (503), ….");
    assert_eq!(says(&status, "Degraded"), told);
    assert_eq!((status.agents.ready, status.phase), (0, Some(Phase::Degraded)));
    scene.answer().agents.truncate(1);
    let message = "1 agent is unhealthy and given no tasks: a (503).";
    assert_eq!(says(&scene.status(None), "Degraded").2, message);
}

#[test]
fn steps_that_the_fleet_did_not_keep_are_counted_and_a_fleet_made_again_begins_again() {
    let (mut seen, mut now) = (scene(), scene());
    let before = seen.status(None);
    let at = now.observation.now.as_second();
    seen.answer().status.recovery_steps = vec![unhealthy(10, "a", 0)];
    now.answer().status.recovery_steps = vec![unhealthy(14, "b", 0)];
    let events = now.events(&seen, Some(&before));
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events[1].starts_with("Normal RecoveryStepsOmitted: 3 further steps"), "{events:?}");
    now.answer().status.recovery_steps = vec![unhealthy(1, "b", at - 301), unhealthy(2, "b", at)];
    assert_eq!(now.events(&seen, Some(&before)).len(), 1, "old steps are not reported");
}

#[test]
fn many_events_of_a_kind_are_told_in_one() {
    let (seen, mut now) = (scene(), scene());
    let before = seen.status(None);
    now.answer().status.recovery_steps = (1..=100).map(|n| unhealthy(n, &format!("agent-{n}"), 0)).collect();
    let events = now.events(&seen, Some(&before));
    assert_eq!(events.len(), 9, "{events:?}");
    assert!(events[8].contains("AgentUnhealthy: 92 more at once, the last of them: Agent agent-100 "), "{events:?}");
    now.answer().status.recovery_steps.truncate(9);
    assert_eq!(now.events(&seen, Some(&before)).len(), 9, "a single further event is published as it is");
}

#[test]
fn what_is_told_in_one_event_is_told_once_and_again_only_with_others() {
    let last = |agents: u64| {
        let mut scene = scene();
        let at = scene.observation.now.as_second();
        scene.answer().status.recovery_steps = (1..=agents).map(|n| unhealthy(n, &format!("agent-{n}"), at)).collect();
        let status = scene.status(None);
        // A process that has not seen the fleet before, as after a restart.
        let events = happened(&scene.observation, &scene.outcome, None, Some(&status), &status);
        events.last().and_then(|event| event.once.clone()).expect("it is published once")
    };
    assert_eq!(last(100), last(100));
    assert_ne!(last(100), last(99));
    assert_eq!(last(9), "9", "a single further event keeps its own name");
}

#[test]
fn a_coordinator_with_a_new_disk_is_told_once_it_has_the_vote_of_the_old_one() {
    let (seen, mut both, mut after) = (scene(), scene(), scene());
    let mut new = both.answer().status.coordinators[2].clone();
    new.node_id = "new".into();
    both.answer().status.coordinators.push(new);
    after.answer().status.coordinators[2].node_id = "new".into();
    let status = seen.status(None);
    assert!(both.events(&seen, Some(&status)).is_empty(), "the old one still has a vote, too");
    let told = [
        "Normal CoordinatorReplaced: fleet-coordinators-2 is a new coordinator with an empty disk; it has the vote of \
                 the old one.",
    ];
    assert_eq!(after.events(&both, Some(&status)), told);
    assert_eq!(after.events(&seen, Some(&status)), told);
    assert!(after.events(&after, Some(&status)).is_empty());
}

#[test]
fn a_first_look_tells_no_old_news() {
    let scene = scene();
    let status = scene.status(None);
    let events = happened(&scene.observation, &scene.outcome, None, Some(&status), &status);
    assert!(events.is_empty(), "{events:?}");
}

#[test]
fn an_agent_that_was_lost_and_is_back_between_two_looks_is_told() {
    let (seen, mut now) = (scene(), scene());
    let before = seen.status(None);
    now.answer().agents[0].session = 2;
    let events = now.events(&seen, Some(&before));
    assert_eq!(events, [r#"Warning AgentLost: Agent a of pool "data" was lost briefly and is back."#]);
}

#[test]
fn an_operator_that_just_began_tells_of_agents_that_were_lost_lately() {
    for (seconds, told) in [(300, true), (301, false)] {
        let mut scene = scene();
        let now = scene.observation.now.as_second();
        let agent = &mut scene.answer().agents[0];
        agent.state = v1::AgentState::Lost.into();
        agent.lost_at.get_or_insert_default().seconds = now - seconds;
        let status = scene.status(None);
        let events = happened(&scene.observation, &scene.outcome, None, Some(&status), &status);
        assert_eq!(events.iter().any(|event| event.reason == "AgentLost"), told, "{seconds} s ago: {events:?}");
        assert!(events.iter().all(|event| event.once.as_deref() == Some("a 1")), "{events:?}");
    }
}
