//! Recoveries of unhealthy and lost agents: their steps, and how the agents come back.

use robeing_fleet::{
    AgentJoin, AgentState, Effect, LossReason, Outcome, Reply, SubmitTask, TaskState,
    limits::{MAX_FLEET_RECOVERY_STEPS, MAX_REASON_BYTES, MAX_RECOVERY_STEPS},
};

use crate::fixture::{OpenSession, Trial, failure, pooled, retry, success, task, worker};

fn state(trial: &Trial, stay: OpenSession) -> AgentState {
    trial.fleet.agent(stay.agent).expect("it is known").state
}

fn with_slots(name: &str, slots: u32) -> AgentJoin {
    AgentJoin { slots, ..worker(name) }
}

#[test]
fn an_unhealthy_agent_gets_nothing_new_keeps_its_session_and_hands_back_at_no_cost() {
    let mut trial = Trial::new();
    let unwell = trial.join(with_slots("a", 2));
    let ids = [trial.submit(SubmitTask { retry: retry(1), ..task(1) }), trial.submit(task(2))];
    trial.unhealthy(unwell, "503");
    assert_eq!(state(&trial, unwell), AgentState::Unhealthy);
    assert_eq!(trial.fleet.agent(unwell.agent).and_then(|a| a.unhealthy.as_deref()), Some("503"));
    assert_eq!(ids.map(|id| trial.holder(id)), [Some(unwell.agent); 2], "it stops them before others begin");
    let other = trial.join(with_slots("b", 2));
    let third = trial.submit(task(3));
    assert_eq!(trial.holder(third), Some(other.agent));
    for id in ids {
        assert_eq!(trial.complete(unwell, id, 1, Outcome::HandedBack), Reply::Completed);
    }
    assert_eq!(trial.holder(ids[0]), Some(other.agent));
    assert_eq!(trial.task(ids[0]).attempts_used, 1, "the attempt that was handed back does not count");
    assert_eq!(trial.state(ids[1]), TaskState::Queued, "the other has no free slot, and this one gets nothing");
    assert_eq!(trial.fleet.totals().redistributed, 0, "only losses count");
    assert_eq!(trial.fleet.agent_counts().unhealthy, 1);
}

#[test]
fn tasks_are_redistributed_when_the_last_of_them_was_given_to_an_agent_or_has_ended() {
    let mut trial = Trial::new();
    let lost = trial.join(with_slots("a", 3));
    let ids = [1, 2, 3].map(|n| trial.submit(task(n)));
    let other = trial.join(worker("b"));
    trial.after(1_000).lose(lost);
    assert_eq!(trial.recovery(lost.agent), ["lost (Silent) 0", "removed 0"]);
    trial.after(20).complete(other, ids[0], 2, success());
    assert_eq!(trial.holder(ids[1]), Some(other.agent));
    trial.after(5).cancel(ids[2]);
    assert_eq!(trial.recovery(lost.agent), ["lost (Silent) 0", "removed 0", "redistributed 3 25"]);
    // Another loss is counted separately.
    trial.after(1).lose(other);
    assert_eq!(trial.recovery(other.agent), ["lost (Silent) 0", "removed 0"]);
    let third = trial.join(worker("c"));
    assert_eq!(trial.holder(ids[1]), Some(third.agent));
    assert_eq!(trial.recovery(other.agent)[2..], ["redistributed 1 0"]);
}

#[test]
fn the_whole_sequence_is_kept_in_order_with_times() {
    let mut trial = Trial::new();
    let failing = trial.join(pooled("a", Some(1), 1));
    trial.join(pooled("b", Some(1), 1));
    trial.submit(task(1));
    trial.lose(failing);
    trial.after(30_000).join(pooled("a", Some(1), 1));
    let expected = [
        "lost (Silent) 0",
        "activated b 0",
        "redistributed 1 0",
        "removed 0",
        "attempted 30000",
        "readmitted as standby 30000",
    ];
    assert_eq!(trial.recovery(failing.agent), expected);
    let of_all: Vec<u64> = trial.fleet.recovery_steps().map(|step| step.number).collect();
    assert_eq!(of_all, [1, 2, 3, 4, 5, 6]);
    assert!(
        trial.fleet.recovery_steps().all(|step| step.agent.as_ref() == "a" && step.pool.as_deref() == Some("data"))
    );
}

#[test]
fn a_standby_works_in_place_of_an_unhealthy_agent_which_waits_when_it_is_healthy_again() {
    let mut trial = Trial::new();
    let unwell = trial.join(pooled("a", Some(1), 1));
    let standby = trial.join(pooled("b", Some(1), 1));
    let id = trial.submit(task(1));
    trial.unhealthy(unwell, "503");
    assert!(trial.effects.contains(&Effect::StandbyActivated { agent: standby.agent }));
    trial.after(10).complete(unwell, id, 1, Outcome::HandedBack);
    assert_eq!(trial.holder(id), Some(standby.agent));
    trial.after(20_000).healthy(unwell, false);
    assert_eq!(state(&trial, unwell), AgentState::Unhealthy, "one passed health check is not enough");
    trial.healthy(unwell, false);
    trial.after(10_000).healthy(unwell, true);
    assert_eq!(state(&trial, unwell), AgentState::Standby);
    let expected =
        ["unhealthy (503) 0", "activated b 0", "redistributed 1 10", "attempted 20010", "readmitted as standby 30010"];
    assert_eq!(trial.recovery(unwell.agent), expected);
    assert_eq!(trial.healthy(unwell, true), Reply::Done);
    assert_eq!(trial.recovery(unwell.agent).len(), expected.len(), "repeating it changes nothing");
}

#[test]
fn a_readmitted_agent_works_at_once_where_its_pool_lacks_one() {
    let mut trial = Trial::new();
    let unwell = trial.join(pooled("a", Some(1), 0));
    trial.unhealthy(unwell, "503");
    let id = trial.submit(task(1));
    assert_eq!(trial.state(id), TaskState::Queued);
    assert_eq!(
        trial.fleet.waiting_for(id, trial.now).as_deref(),
        Some("an agent: no live one takes its kind (1 unhealthy)")
    );
    trial.healthy(unwell, true);
    assert_eq!((state(&trial, unwell), trial.holder(id)), (AgentState::Live, Some(unwell.agent)));
    assert_eq!(trial.fleet.agent(unwell.agent).and_then(|agent| agent.unhealthy.clone()), None);
}

#[test]
fn an_unhealthy_standby_is_not_activated() {
    let mut trial = Trial::new();
    let live = trial.join(pooled("a", Some(1), 1));
    let standby = trial.join(pooled("b", Some(1), 1));
    trial.unhealthy(standby, "no process");
    trial.lose(live);
    assert_eq!(state(&trial, standby), AgentState::Unhealthy);
    trial.healthy(standby, true);
    assert_eq!(state(&trial, standby), AgentState::Live, "now the pool needs it");
}

#[test]
fn without_a_fixed_number_an_unhealthy_agent_is_replaced_as_a_lost_one_is() {
    let mut trial = Trial::new();
    let stays: Vec<OpenSession> = ["a", "b", "c"].map(|name| trial.join(pooled(name, None, 1))).into();
    assert_eq!(state(&trial, stays[1]), AgentState::Standby);
    trial.unhealthy(stays[0], "503");
    assert_eq!(state(&trial, stays[1]), AgentState::Live);
}

#[test]
fn only_the_current_session_of_an_agent_that_works_or_waits_becomes_unhealthy() {
    let mut trial = Trial::new();
    let old = trial.join(worker("a"));
    let new = trial.join(AgentJoin { incarnation: 2, ..worker("a") });
    trial.unhealthy(old, "503");
    assert_eq!(state(&trial, new), AgentState::Live);
    trial.drain(new);
    trial.unhealthy(new, "503");
    assert_eq!(state(&trial, new), AgentState::Draining, "a draining agent stays draining");
    trial.lose(new);
    trial.unhealthy(new, "503");
    assert_eq!(state(&trial, new), AgentState::Lost);
}

#[test]
fn an_unhealthy_agent_may_drain_be_lost_or_leave() {
    for end in 0..3 {
        let mut trial = Trial::new();
        let unwell = trial.join(with_slots("a", 2));
        let ids = [trial.submit(task(1)), trial.submit(task(2))];
        let other = trial.join(with_slots("b", 2));
        trial.unhealthy(unwell, "503");
        trial.complete(unwell, ids[0], 1, Outcome::HandedBack);
        match end {
            0 => trial.drain(unwell),
            1 => trial.apply(robeing_fleet::Command::Agent(robeing_fleet::AgentCommand::Lost {
                agent: unwell.agent,
                session: unwell.session,
                reason: LossReason::Failed,
            })),
            _ => trial.leave(unwell),
        };
        assert_eq!(trial.holder(ids[0]), Some(other.agent));
        match end {
            0 => {
                assert_eq!(trial.recovery(unwell.agent), ["unhealthy (503) 0", "redistributed 1 0"]);
                assert_eq!(trial.complete(unwell, ids[1], 1, success()), Reply::Completed);
            }
            1 => {
                let expected = ["unhealthy (503) 0", "lost (Failed) 0", "redistributed 2 0", "removed 0"];
                assert_eq!(trial.recovery(unwell.agent), expected);
            }
            _ => assert_eq!(trial.holder(ids[1]), Some(other.agent)),
        }
    }
}

#[test]
fn what_an_unhealthy_agent_still_finishes_counts() {
    let mut trial = Trial::new();
    let unwell = trial.join(with_slots("a", 2));
    let ids = [trial.submit(task(1)), trial.submit(task(2))];
    trial.unhealthy(unwell, "503");
    assert_eq!(trial.complete(unwell, ids[0], 1, success()), Reply::Completed);
    assert_eq!(trial.state(ids[0]), TaskState::Succeeded);
    trial.complete(unwell, ids[1], 1, failure(true));
    assert_eq!(trial.recovery(unwell.agent), ["unhealthy (503) 0"], "nothing was taken from it");
}

#[test]
fn reasons_and_steps_are_kept_up_to_their_limits() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    trial.unhealthy(stay, &"é".repeat(MAX_REASON_BYTES));
    let reason = trial.fleet.agent(stay.agent).and_then(|agent| agent.unhealthy.clone()).expect("it is unhealthy");
    assert_eq!(reason.len(), MAX_REASON_BYTES);
    let mut steps = 1;
    while steps < MAX_FLEET_RECOVERY_STEPS + 3 {
        trial.after(1).healthy(stay, true);
        trial.unhealthy(stay, "again");
        steps += 2;
    }
    assert_eq!(trial.recovery(stay.agent).len(), MAX_RECOVERY_STEPS);
    let numbers: Vec<u64> = trial.fleet.recovery_steps().map(|step| step.number).collect();
    let last = steps as u64;
    assert_eq!(numbers, (last - MAX_FLEET_RECOVERY_STEPS as u64 + 1..=last).collect::<Vec<u64>>());
}
