//! Which submissions are accepted, which are the same task, and which are refused.

use bytes::Bytes;
use robeing_fleet::{
    AgentCommand, AgentJoin, Command, ControlCommand, Feature, FleetConfig, Refusal, Reply, Role, SubmitTask,
    TaskCommand, TaskId, TaskState,
};

use crate::fixture::{Trial, success, task, worker};

fn refusal(trial: &mut Trial, submission: SubmitTask) -> Refusal {
    match trial.apply(Command::Task(TaskCommand::Submit(submission))) {
        Reply::Refused(refusal) => refusal,
        other => panic!("accepted: {other:?}"),
    }
}

#[test]
fn a_task_is_assigned_in_the_same_command_if_an_agent_is_free_and_queued_otherwise() {
    let mut trial = Trial::new();
    trial.join(worker("a"));
    let first = trial.submit(task(1));
    assert_eq!(trial.assigned(), [(first, 1)]);
    let second = trial.submit(task(2));
    assert_eq!(trial.assigned(), []);
    assert_eq!(trial.state(first), TaskState::Assigned);
    assert_eq!(trial.state(second), TaskState::Queued);
}

#[test]
fn a_second_submission_with_the_same_id_is_the_same_task_even_when_it_is_finished() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(task(1));
    let again = Reply::Submitted { task: id, existing: true };
    assert_eq!(trial.apply(Command::Task(TaskCommand::Submit(task(1)))), again);
    trial.complete(stay, id, 1, success());
    assert_eq!(trial.apply(Command::Task(TaskCommand::Submit(task(1)))), again);
    assert_eq!(trial.fleet.totals().submitted, 1);
}

#[test]
fn the_same_id_with_another_kind_or_input_is_a_conflict() {
    let mut trial = Trial::new();
    let id = trial.submit(task(1));
    let conflict = Refusal::Conflict { what: "the id".to_owned(), task: id };
    let mut other = task(1);
    other.kind = "parse".to_owned();
    assert_eq!(refusal(&mut trial, other), conflict);
    let mut other = task(1);
    other.input = Bytes::from_static(b"2 3");
    assert_eq!(refusal(&mut trial, other), conflict);
}

#[test]
fn an_idempotency_key_finds_its_task_for_as_long_as_that_is_kept() {
    let mut trial = Trial::new();
    let keyed = |n| SubmitTask { idempotency_key: Some("order-7".to_owned()), result_ttl: Some(50), ..task(n) };
    let first = trial.submit(keyed(1));
    assert_eq!(trial.submit(keyed(2)), first);
    let mut other = keyed(3);
    other.input = Bytes::from_static(b"else");
    let refused = refusal(&mut trial, other);
    assert_eq!(
        refused.to_string(),
        "the idempotency key belongs to task 00000000-0000-0000-0000-000000000001, which was \
         submitted with another kind, input or team, or with other parts or none (a task that is split has its input in \
         its parts); use a new one, or submit it as it was"
    );
    trial.cancel(first);
    trial.after(50);
    assert_eq!(trial.submit(keyed(4)), TaskId(4));
}

#[test]
fn a_full_queue_refuses_and_takes_again_when_a_task_has_finished() {
    let mut trial = Trial::with(FleetConfig { max_queued: 2, ..FleetConfig::default() });
    trial.submit(task(1));
    let second = trial.submit(task(2));
    assert_eq!(refusal(&mut trial, task(3)), Refusal::QueueFull { limit: 2 });
    trial.cancel(second);
    trial.submit(task(3));
}

#[test]
fn the_last_places_of_the_queue_are_for_tasks_of_roles_of_higher_priority() {
    let config = FleetConfig { max_queued: 200, ..FleetConfig::default() };
    let requiring = |n: u128, role| SubmitTask { required_role: role, ..task(n) };
    let mut before = Trial::with(config.clone());
    before.apply(Command::Control(ControlCommand::RaiseVersion(Feature::RolePriority.since() - 1)));
    for n in 1..=200 {
        before.submit(requiring(n, Some(Role::Messenger)));
    }
    assert_eq!(refusal(&mut before, requiring(201, Some(Role::Guardian))), Refusal::QueueFull { limit: 200 });

    let mut trial = Trial::with(config);
    trial.apply(Command::Control(ControlCommand::RaiseVersion(Feature::RolePriority.since())));
    let mut n = 0;
    for (role, places) in [
        (Some(Role::Messenger), 196),
        (None, 198),
        (Some(Role::Worker), 198),
        (Some(Role::Specialist), 200),
        (Some(Role::Guardian), 200),
    ] {
        assert_eq!(trial.fleet.queue_places(role), places);
        while n < u128::from(places) {
            n += 1;
            trial.submit(requiring(n, role));
        }
        assert_eq!(refusal(&mut trial, requiring(n + 1, role)), Refusal::QueueFull { limit: places }, "{role:?}");
    }
    trial.cancel(TaskId(1));
    assert_eq!(refusal(&mut trial, requiring(n + 1, None)), Refusal::QueueFull { limit: 198 });
    trial.submit(requiring(n + 1, Some(Role::Guardian)));
}

#[test]
fn finished_tasks_count_against_the_number_of_tasks_until_they_expire() {
    let mut trial = Trial::with(FleetConfig { max_tasks: 1, result_ttl: 10, ..FleetConfig::default() });
    let id = trial.submit(task(1));
    trial.cancel(id);
    assert_eq!(refusal(&mut trial, task(2)), Refusal::TooManyTasks { limit: 1 });
    trial.after(10);
    trial.submit(task(2));
}

#[test]
fn inputs_and_outputs_fill_the_budget_and_an_output_is_taken_even_beyond_it() {
    let mut trial = Trial::with(FleetConfig { max_bytes: 3, ..FleetConfig::default() });
    let stay = trial.join(worker("a"));
    let id = trial.submit(task(1));
    assert_eq!(trial.fleet.stored_bytes(), 3);
    assert_eq!(refusal(&mut trial, task(2)), Refusal::StorageFull { limit: 3 });
    assert_eq!(trial.complete(stay, id, 1, success()), Reply::Completed);
    assert_eq!(trial.fleet.stored_bytes(), 4);
}

#[test]
fn a_name_that_no_header_and_no_environment_variable_can_carry_is_refused() {
    let mut trial = Trial::new();
    for name in ["a\0", "a\nb", "\u{7f}", "\u{85}"] {
        let refused = refusal(&mut trial, SubmitTask { kind: name.into(), ..task(1) }).to_string();
        assert!(refused.contains("kind: has the control character") && !refused.contains(name), "{refused}");
        let skilled = SubmitTask { required_specialization: Some(name.into()), ..task(1) };
        assert!(matches!(refusal(&mut trial, skilled), Refusal::Invalid { .. }), "{name:?}");
        for join in [worker(name), AgentJoin { specializations: vec![name.into()], ..worker("a") }] {
            assert!(matches!(trial.apply(Command::Agent(AgentCommand::Joined(join))), Reply::Refused(_)), "{name:?}");
        }
    }
    trial.submit(SubmitTask { kind: "zählen – é".into(), ..task(1) });
}

#[test]
fn a_refused_submission_changes_nothing() {
    let mut trial = Trial::new();
    trial.submit(task(1));
    let before = trial.fleet.encode();
    refusal(&mut trial, SubmitTask { priority: 11, ..task(2) });
    assert_eq!(trial.fleet.encode(), before);
}
