//! Agents that are barred from the fleet, and what becomes of those that are in it.

use robeing_fleet::{
    AgentCommand, AgentState, BarKind, Command, Effect, IdentityCommand, LossReason, Refusal, Reply, SubmitTask,
    TaskState, limits::*,
};

use crate::{
    fixture::{Trial, enrolment, pooled, retry, success, task, worker},
    identity::{refused, text, trust_changed, try_enrol},
};

#[test]
fn a_barred_agent_loses_its_session_and_others_take_its_tasks() {
    let mut trial = Trial::newest();
    trial.enrol(enrolment("a", 1, 1));
    let stay = trial.join(pooled("a", Some(1), 1));
    let standby = trial.join(pooled("b", Some(1), 1));
    let id = trial.submit(SubmitTask { retry: retry(5), ..task(1) });
    let record = trial.fleet.agent(stay.agent).expect("it joined").record;
    let revision = trial.fleet.revision();
    assert_eq!(trial.bar("a", BarKind::Quarantined), Reply::Done);
    assert!(trust_changed(&trial) && trial.fleet.revision() > revision);
    assert!(trial.effects.contains(&Effect::SessionEnded { agent: stay.agent, session: stay.session }));
    let agent = trial.fleet.agent(stay.agent).expect("it is remembered");
    assert_eq!((agent.state, agent.lost.map(|loss| loss.reason)), (AgentState::Lost, Some(LossReason::Barred)));
    assert_eq!(agent.record, record, "a bar is no evidence of how it works");
    assert_eq!(trial.holder(id), Some(standby.agent));
    assert_eq!(trial.task(id).attempts_used, 2, "as after a loss");
    let failure = trial.task(id).attempts[0].failure.clone().expect("it was lost");
    assert_eq!(failure.message, "agent a was lost: it was barred from the fleet");
    assert!(trial.fleet.enrolment_of("a").is_some(), "its key is all that it may have after a release");
    assert!(matches!(refused(try_enrol(&mut trial, enrolment("a", 1, 1))), Refusal::Barred { .. }), "also repeated");
    let steps = ["lost (Barred) 0", "redistributed 1 0", "activated b 0", "removed 0"];
    let found = trial.recovery(stay.agent);
    assert!(steps.iter().all(|step| found.contains(&(*step).to_owned())), "{found:?}");
    assert!(matches!(trial.complete(stay, id, 1, success()), Reply::Stale(_)));
    assert_eq!(trial.complete(standby, id, 2, success()), Reply::Completed);
    assert_eq!(trial.state(id), TaskState::Succeeded);
    trial.release("a");
    assert_eq!(try_enrol(&mut trial, enrolment("a", 1, 1)), Reply::Enrolled { epoch: 1 }, "with the key from before");
    trial.bar("a", BarKind::Removed);
    assert_eq!(trial.fleet.enrolment_of("a"), None, "a removed agent is forgotten");
}

#[test]
fn a_barred_agent_can_neither_join_nor_enrol_until_it_is_released() {
    let mut trial = Trial::newest();
    trial.bar("a", BarKind::Quarantined);
    let barred = Refusal::Barred {
        agent: "a".to_owned(),
        kind: BarKind::Quarantined,
        since: trial.stamp().wall,
        reason: "it lied".to_owned(),
        by: "carol".to_owned(),
    };
    let words = "agent a was quarantined at 1970-01-01T00:16:40Z by carol (it lied); release it to let it in again";
    assert_eq!(barred.to_string(), words);
    assert_eq!(refused(trial.apply(Command::Agent(AgentCommand::Joined(worker("a"))))), barred);
    assert_eq!(refused(try_enrol(&mut trial, enrolment("a", 1, 1))), barred);
    assert_eq!(trial.fleet.spent_proofs(), 0, "a refused enrolment uses no proof");
    let revision = trial.fleet.revision();
    assert_eq!(trial.release("a"), Reply::Done);
    assert!(trust_changed(&trial));
    assert_eq!((trial.fleet.revision(), trial.fleet.bar_of("a")), (revision + 1, None));
    let before = trial.fleet.encode();
    assert_eq!(trial.release("a"), Reply::Done);
    assert!(!trust_changed(&trial));
    assert_eq!(trial.fleet.encode(), before);
    trial.enrol(enrolment("a", 1, 1));
    trial.join(worker("a"));
}

#[test]
fn barring_in_the_same_way_again_changes_nothing_and_in_another_way_replaces_the_bar() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    trial.bar("a", BarKind::Quarantined);
    let before = trial.fleet.encode();
    assert_eq!(trial.bar("a", BarKind::Quarantined), Reply::Done);
    assert!(!trust_changed(&trial));
    assert_eq!(trial.fleet.encode(), before);
    assert!(trial.fleet.agent(stay.agent).is_some(), "a quarantined agent is remembered");
    trial.bar("a", BarKind::Removed);
    assert_eq!(trial.fleet.bar_of("a").map(|bar| bar.kind), Some(BarKind::Removed));
    assert!(trial.fleet.agent(stay.agent).is_none(), "a removed one is not");
    trial.bar("b", BarKind::Removed);
    let all: Vec<_> = trial.fleet.bars().map(|bar| (bar.number, &*bar.agent)).collect();
    assert_eq!(all, [(2, "a"), (3, "b")]);
}

#[test]
fn a_removed_agent_is_forgotten_once_its_tasks_are_given_away() {
    let mut trial = Trial::newest();
    let stay = trial.join(pooled("a", None, 0));
    let id = trial.submit(task(1));
    trial.bar("a", BarKind::Removed);
    assert!(trial.fleet.agent(stay.agent).is_none());
    assert_eq!(trial.fleet.pools(), [], "with its pool");
    assert_eq!(trial.state(id), TaskState::Queued);
    let other = trial.join(worker("b"));
    assert_eq!(trial.holder(id), Some(other.agent));
    trial.release("a");
    assert_ne!(trial.join(worker("a")).agent, stay.agent, "numbers are not reused");
}

#[test]
fn a_standby_takes_the_place_of_a_quarantined_agent_and_a_pool_without_a_fixed_size_shrinks_by_a_removed_one() {
    for (kind, activated) in [(BarKind::Quarantined, true), (BarKind::Removed, false)] {
        let mut trial = Trial::newest();
        let names = ["a", "b", "c"];
        let [_, _, waits] = names.map(|name| trial.join(pooled(name, None, 1)));
        assert_eq!(trial.fleet.agent(waits.agent).map(|agent| agent.state), Some(AgentState::Live));
        let standby = trial.fleet.agents().find(|agent| agent.state == AgentState::Standby).map(|agent| agent.id);
        let standby = standby.expect("one is too many");
        trial.bar("c", kind);
        let told = trial.effects.contains(&Effect::StandbyActivated { agent: standby });
        assert_eq!(told, activated, "{kind:?}");
    }
}

#[test]
fn so_many_agents_are_barred_and_one_more_is_refused() {
    let mut trial = Trial::newest();
    let mut effects = Vec::new();
    let bar = |n: usize, kind| {
        let (agent, reason, by) = (format!("w{n}"), text(MAX_REASON_BYTES + 1), text(MAX_ACTOR_BYTES + 1));
        IdentityCommand::Bar { agent, kind, reason, by }
    };
    for n in 0..MAX_BARS {
        let command = Command::Identity(bar(n, BarKind::Quarantined));
        assert_eq!(trial.fleet.apply(trial.stamp(), command, &mut effects), Reply::Done);
    }
    let refusal = refused(trial.identity(bar(MAX_BARS, BarKind::Quarantined)));
    assert!(matches!(refusal, Refusal::Full { limit, .. } if limit == MAX_BARS as u64), "{refusal}");
    assert_eq!(trial.identity(bar(7, BarKind::Removed)), Reply::Done, "a barred one needs no more room");
    let kept = trial.fleet.bar_of("w8").expect("it is barred");
    assert_eq!((kept.reason.len(), kept.by.len()), (MAX_REASON_BYTES, MAX_ACTOR_BYTES), "texts are cut");
    trial.release("w7");
    assert_eq!(trial.identity(bar(MAX_BARS, BarKind::Quarantined)), Reply::Done);
}
