//! Which agent gets a task, and which task an agent gets.

use robeing_fleet::{AgentJoin, Command, ControlCommand, FleetConfig, Role, ScoreTerms, SubmitTask, Weights};

use crate::fixture::{Trial, failure, specialist, success, task, worker};

fn of(role: Role, join: AgentJoin) -> AgentJoin {
    AgentJoin { role, ..join }
}

fn kind(n: u128, kind: &str) -> SubmitTask {
    SubmitTask { kind: kind.to_owned(), ..task(n) }
}

#[test]
fn the_specialist_of_the_kind_is_preferred_and_its_score_is_kept_with_the_attempt() {
    let mut trial = Trial::new();
    trial.join(worker("w"));
    let expert = trial.join(AgentJoin { slots: 4, ..specialist("s", "sum") });
    let first = trial.submit(kind(1, "sum"));
    let second = trial.submit(kind(2, "sum"));
    assert_eq!(trial.holder(first), Some(expert.agent));
    assert_eq!(trial.holder(second), Some(expert.agent));
    let attempt = &trial.task(second).attempts[0];
    let terms = ScoreTerms { specialization: 50_000, load: -2_500, performance: 17_000, total: 64_500 };
    assert_eq!(attempt.score, terms);
    assert_eq!(attempt.candidates, 2);
}

#[test]
fn of_equal_agents_a_worker_is_preferred_then_the_lowest_number() {
    let mut trial = Trial::new();
    trial.join(specialist("s", "parse"));
    let first = trial.join(worker("w1"));
    let second = trial.join(worker("w2"));
    let tasks = [trial.submit(task(1)), trial.submit(task(2))];
    assert_eq!(trial.holder(tasks[0]), Some(first.agent));
    assert_eq!(trial.holder(tasks[1]), Some(second.agent));
}

#[test]
fn the_less_loaded_agent_is_preferred() {
    let mut trial = Trial::new();
    let wide = |name| AgentJoin { slots: 2, ..worker(name) };
    let (a, b) = (trial.join(wide("a")), trial.join(wide("b")));
    let ids: Vec<_> = (1..=4).map(|n| trial.submit(task(n))).collect();
    let holders: Vec<_> = ids.into_iter().map(|id| trial.holder(id)).collect();
    let expected = [a, b, a, b].map(|stay| Some(stay.agent));
    assert_eq!(holders, expected);
}

#[test]
fn an_agent_that_failed_is_passed_over_for_one_that_did_not() {
    let mut trial = Trial::new();
    let a = trial.join(worker("a"));
    let b = trial.join(worker("b"));
    let failed = trial.submit(task(1));
    trial.complete(a, failed, 1, failure(false));
    let next = trial.submit(task(2));
    assert_eq!(trial.holder(next), Some(b.agent));
}

#[test]
fn a_faster_agent_is_preferred() {
    let mut trial = Trial::new();
    let (a, b) = (trial.join(worker("a")), trial.join(worker("b")));
    for (n, ran) in [(1, 1000), (3, 4000)] {
        let (one, two) = (trial.submit(task(n)), trial.submit(task(n + 1)));
        let (one, two) = match trial.holder(one) == Some(a.agent) {
            true => (one, two),
            false => (two, one),
        };
        trial.complete_after(a, one, 1, success(), ran);
        trial.complete_after(b, two, 1, success(), 500);
    }
    let next = trial.submit(task(9));
    assert_eq!(trial.holder(next), Some(b.agent));
}

#[test]
fn a_newcomer_starts_with_the_mean_record_of_the_fleet() {
    let mut trial = Trial::new();
    let a = trial.join(worker("a"));
    let failed = trial.submit(task(1));
    trial.complete(a, failed, 1, failure(false));
    trial.join(worker("b"));
    let success = |name| trial.fleet.agent_by_name(name).map(|a| a.record.success);
    assert_eq!(success("a"), Some(875_000));
    assert_eq!(success("b"), Some(875_000));
}

#[test]
fn a_required_role_or_specialization_is_waited_for() {
    let mut trial = Trial::new();
    trial.join(worker("w"));
    let guarded = trial.submit(SubmitTask { required_role: Some(Role::Guardian), ..task(1) });
    let skilled = trial.submit(SubmitTask { required_specialization: Some("parse".to_owned()), ..task(2) });
    assert_eq!(trial.fleet.waiting_for(guarded, trial.now).as_deref(), Some("an agent: no live one has role Guardian"));
    assert_eq!(
        trial.fleet.waiting_for(skilled, trial.now).as_deref(),
        Some("an agent: no live one has specialization \"parse\"")
    );
    let guardian = trial.join(of(Role::Guardian, worker("g")));
    let expert = trial.join(AgentJoin { specializations: vec!["parse".to_owned()], ..worker("p") });
    assert_eq!(trial.holder(guarded), Some(guardian.agent));
    assert_eq!(trial.holder(skilled), Some(expert.agent));
}

#[test]
fn messengers_and_guardians_take_only_their_own_kind_unless_their_role_is_required() {
    for role in [Role::Messenger, Role::Guardian] {
        let mut trial = Trial::new();
        let stay = trial.join(AgentJoin { slots: 2, ..of(role, specialist("m", "mail")) });
        let other = trial.submit(task(1));
        let own = trial.submit(kind(2, "mail"));
        let required = trial.submit(SubmitTask { required_role: Some(role), ..task(3) });
        assert_eq!(trial.holder(other), None, "{role:?}");
        assert_eq!(trial.holder(own), Some(stay.agent), "{role:?}");
        assert_eq!(trial.holder(required), Some(stay.agent), "{role:?}");
    }
}

#[test]
fn a_freed_worker_takes_by_priority_then_by_acceptance() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("w"));
    let running = trial.submit(task(1));
    let ids = [5, 5, 9].map(|priority| {
        let n = u128::from(trial.fleet.counts().queued) + 2;
        trial.submit(SubmitTask { priority, ..task(n) })
    });
    let mut last = running;
    let mut order = Vec::new();
    for _ in ids {
        trial.complete(stay, last, 1, success());
        last = trial.assigned()[0].0;
        order.push(last);
    }
    assert_eq!(order, [ids[2], ids[0], ids[1]]);
}

#[test]
fn a_freed_specialist_takes_its_own_kind_before_more_urgent_others() {
    let mut trial = Trial::new();
    let stay = trial.join(specialist("s", "parse"));
    let running = trial.submit(task(1));
    let urgent = trial.submit(SubmitTask { priority: 10, ..task(2) });
    let own = trial.submit(SubmitTask { priority: 1, ..kind(3, "parse") });
    trial.complete(stay, running, 1, success());
    assert_eq!(trial.assigned(), [(own, 1)]);
    trial.complete(stay, own, 1, success());
    assert_eq!(trial.assigned(), [(urgent, 1)]);
}

#[test]
fn new_weights_hold_for_the_next_choice() {
    let mut trial = Trial::new();
    let wide = |name| AgentJoin { slots: 2, ..worker(name) };
    let (a, _) = (trial.join(wide("a")), trial.join(wide("b")));
    trial.submit(task(1));
    trial.apply(Command::Control(ControlCommand::Configure(FleetConfig {
        weights: Weights { load: 10, ..Weights::default() },
        ..FleetConfig::default()
    })));
    let packed = trial.submit(task(2));
    assert_eq!(trial.holder(packed), Some(a.agent));
}
