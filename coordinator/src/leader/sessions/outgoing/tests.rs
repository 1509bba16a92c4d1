//! What an agent is sent, in which order, and how much at once.

use std::sync::LazyLock;

use bytes::Bytes;
use robeing_fleet::{
    AgentId, Amounts, AskedLinks, Command, Completion, ControlCommand, Dependency, Effect, Fleet, FleetConfig, Join,
    OnFailure, Outcome, PartOf, Passing, ResourceCommand, SessionId, Split, Stamp, SubmitTask, Suspension, TaskCommand,
    TaskId, TaskResources, Verify, known_version,
    limits::{CHILD_OVERHEAD, MAX_INPUT_BYTES, MAX_PASSED_BYTES},
};
use robeing_proto::budget::{MAX_ITEM_BYTES, MESSAGE_BUDGET_BYTES};

use super::*;
use crate::fixture::{fleet_with_agent, task};

#[test]
fn what_waits_for_a_slow_agent_comes_in_messages_that_fit() {
    let (mut fleet, ..) = fleet_with_agent();
    let mut outbox = Outbox::default();
    for n in 1..=2_000 {
        let input = Bytes::from(vec![0; if n % 100 == 0 { 1024 * 1024 } else { 1_000 }]);
        let mut effects: Vec<Effect> = Vec::new();
        fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(task(n, input))), &mut effects);
        outbox.assignments.push((TaskId(n), 1));
        outbox.stops.push((TaskId(n), 1));
        let (task_id, reason) = (TaskId(n).to_string(), "r".repeat(1_000));
        outbox.acks.push(internal::CompletionAck { task_id, reason, ..Default::default() });
    }
    let fleet = SharedFleet::new(fleet);
    let mut outgoing = Outgoing::default();
    outgoing.add(outbox);
    let (mut assigned, mut acknowledged, mut stopped) = (0, 0, 0);
    while let Some(told) = outgoing.next(&fleet, 1) {
        let told = internal::CoordinatorMessage { message: Some(told) };
        let bytes = told.encoded_len();
        let (count, sum) = match told.message {
            Some(ToAgent::Assignments(of)) => (of.assignments.len(), &mut assigned),
            Some(ToAgent::CompletionAcks(of)) => (of.acks.len(), &mut acknowledged),
            Some(ToAgent::Cancels(of)) => (of.attempts.len(), &mut stopped),
            other => panic!("{other:?}"),
        };
        *sum += count;
        let limit = if count > 1 { MESSAGE_BUDGET_BYTES + 16 * 1024 } else { MAX_ITEM_BYTES };
        assert!(bytes <= limit, "{count} things in {bytes} bytes");
    }
    assert!(outgoing.is_empty());
    assert_eq!((assigned, acknowledged, stopped), (2_000, 2_000, 2_000));
}

#[test]
fn a_run_of_a_verified_task_has_the_deadline_of_the_task() {
    let (mut fleet, ..) = fleet_with_agent();
    let raise = Command::Control(ControlCommand::RaiseVersion(known_version()));
    fleet.apply(Stamp::at(1), raise, &mut Vec::new());
    let verify = Some(Box::new(Verify { agents: 2, agree: 2, pointer: None, compare: None }));
    let submission = SubmitTask { verify, deadline_in: Some(500), ..task(1, Bytes::from_static(b"in")) };
    let mut effects = Vec::new();
    fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(submission)), &mut effects);
    let assigned = effects.iter().find_map(|effect| match effect {
        Effect::Assign { task, attempt, .. } => Some((*task, *attempt)),
        _ => None,
    });
    let mut outgoing = Outgoing::default();
    outgoing.add(Outbox { assignments: vec![assigned.expect("it runs")], ..Outbox::default() });
    let Some(ToAgent::Assignments(given)) = outgoing.next(&SharedFleet::new(fleet), 101) else {
        panic!("it is sent");
    };
    let given = &given.assignments[0];
    assert_eq!((given.deadline_in_ms, &*given.input), (400, &b"in"[..]));
}

#[test]
fn an_attempt_is_sent_with_what_its_task_was_granted() {
    let (mut fleet, agent, session) = fleet_with_agent();
    let amounts = Amounts { cpu: 500, ..Amounts::NONE };
    let resources = Some(Box::new(TaskResources { amounts, queue: "default".to_owned() }));
    for command in [
        Command::Control(ControlCommand::RaiseVersion(known_version())),
        Command::Resource(ResourceCommand::Contribute { agent, session, amounts }),
        Command::Task(TaskCommand::Submit(SubmitTask { resources, ..task(1, Bytes::new()) })),
    ] {
        fleet.apply(Stamp::at(1), command, &mut Vec::new());
    }
    let mut outgoing = Outgoing::default();
    outgoing.add(Outbox { assignments: vec![(TaskId(1), 1)], ..Outbox::default() });
    let Some(ToAgent::Assignments(given)) = outgoing.next(&SharedFleet::new(fleet), 1) else {
        panic!("it is sent");
    };
    assert_eq!(given.assignments[0].resources.map(|granted| granted.cpu_millis), Some(500));
}

/// Submits a task, and completes its first attempt with this output.
fn end(fleet: &mut Fleet, (agent, session): (AgentId, SessionId), task: SubmitTask, output: &'static str) {
    let id = task.id;
    let outcome = Outcome::Succeeded(Bytes::from_static(output.as_bytes()));
    let completion = Completion { agent, session, task: id, attempt: 1, ran_us: 1, outcome };
    for command in [TaskCommand::Submit(task), TaskCommand::Complete(completion)] {
        fleet.apply(Stamp::at(1), Command::Task(command), &mut Vec::new());
    }
}

fn after(id: u128, others: &[u128], passing: Passing) -> SubmitTask {
    let dependency = |id: &u128| Dependency { task: TaskId(*id), on_failure: OnFailure::Run };
    let links = AskedLinks { depends_on: others.iter().map(dependency).collect(), passing, ..AskedLinks::default() };
    SubmitTask { links: Some(Box::new(links)), ..task(id, Bytes::from_static(b"own,")) }
}

#[test]
fn an_attempt_is_sent_with_the_results_that_its_task_depends_on_and_by_itself() {
    let (mut fleet, agent, session) = fleet_with_agent();
    let raise = Command::Control(ControlCommand::RaiseVersion(known_version()));
    fleet.apply(Stamp::at(1), raise, &mut Vec::new());
    for (id, output) in [(1, "one,"), (2, "two,")] {
        end(&mut fleet, (agent, session), task(id, Bytes::new()), output);
    }
    let tasks = [
        task(3, Bytes::new()),
        after(4, &[1, 2], Passing::Separately),
        after(5, &[2, 1], Passing::AsInput),
        task(6, Bytes::new()),
    ];
    let mut outbox = Outbox::default();
    for task in tasks {
        outbox.assignments.push((task.id, 1));
        fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(task)), &mut Vec::new());
    }
    let fleet = SharedFleet::new(fleet);
    let mut outgoing = Outgoing::default();
    outgoing.add(outbox);
    let mut messages = Vec::new();
    while let Some(ToAgent::Assignments(given)) = outgoing.next(&fleet, 1) {
        messages.push(given.assignments);
    }
    let ids: Vec<Vec<&str>> =
        messages.iter().map(|of| of.iter().map(|given| given.task_id.as_str()).collect()).collect();
    let id = |id: u128| TaskId(id).to_string();
    assert_eq!(ids, [[id(3)], [id(4)], [id(5)], [id(6)]]);
    let results: Vec<_> = messages[1][0].results.iter().map(|of| (of.task_id.clone(), of.output.clone())).collect();
    assert_eq!(results, [(id(1), Bytes::from_static(b"one,")), (id(2), Bytes::from_static(b"two,"))]);
    assert_eq!(&*messages[1][0].input, b"own,");
    assert_eq!((&*messages[2][0].input, messages[2][0].results.len()), (&b"own,two,one,"[..], 0));
}

#[test]
fn the_results_of_subtasks_are_told_one_by_one_although_those_of_others_are_the_input() {
    let (mut fleet, agent, session) = fleet_with_agent();
    let raise = Command::Control(ControlCommand::RaiseVersion(known_version()));
    fleet.apply(Stamp::at(1), raise, &mut Vec::new());
    end(&mut fleet, (agent, session), task(1, Bytes::new()), "one,");
    let asked = Suspension { subtasks: vec![task(0, Bytes::new())], carried: Bytes::from_static(b"state") };
    let complete = |fleet: &mut Fleet, id, outcome| {
        let completion = Completion { agent, session, task: id, attempt: 1, ran_us: 1, outcome };
        fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Complete(completion)), &mut Vec::new());
    };
    let asking = Command::Task(TaskCommand::Submit(after(2, &[1], Passing::AsInput)));
    fleet.apply(Stamp::at(1), asking, &mut Vec::new());
    complete(&mut fleet, TaskId(2), Outcome::Suspended(asked));
    let subtask = fleet.children_of(TaskId(2), 0, 1)[0].1.id();
    complete(&mut fleet, subtask, Outcome::Succeeded(Bytes::from_static(b"sub")));
    let mut outgoing = Outgoing::default();
    outgoing.add(Outbox { assignments: vec![(TaskId(2), 2)], ..Outbox::default() });
    let Some(ToAgent::Assignments(given)) = outgoing.next(&SharedFleet::new(fleet), 1) else {
        panic!("it is sent");
    };
    let internal::Assignment { input, results, carried, .. } = &given.assignments[0];
    assert_eq!((&input[..], &carried[..]), (&b"own,one,"[..], &b"state"[..]));
    assert_eq!(results.iter().map(|of| &of.output[..]).collect::<Vec<_>>(), [b"sub"]);
}

#[test]
fn as_many_results_as_a_task_may_be_given_fit_in_a_message_and_are_told_without_ids_of_parts() {
    const PARTS: u32 = 20_000;
    let (mut fleet, agent, session) = fleet_with_agent();
    let raise = Command::Control(ControlCommand::RaiseVersion(known_version()));
    fleet.apply(Stamp::at(1), raise, &mut Vec::new());
    let split = Some(Split { parts: PARTS, join: Join::Reduce, ..Split::default() });
    let links = |links| Some(Box::new(links));
    let reduce = SubmitTask {
        links: links(AskedLinks { split, ..AskedLinks::default() }),
        ..task(1, Bytes::from(vec![7; MAX_INPUT_BYTES]))
    };
    fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(reduce)), &mut Vec::new());
    let size = (MAX_PASSED_BYTES / u64::from(PARTS) - CHILD_OVERHEAD) as usize;
    for index in 0..PARTS {
        let part_of = Some(PartOf { task: TaskId(1), index });
        let links = links(AskedLinks { part_of, ..AskedLinks::default() });
        let part = SubmitTask { links, ..task(10 + u128::from(index), Bytes::new()) };
        end(&mut fleet, (agent, session), part, &LONG[..size]);
    }
    let mut outgoing = Outgoing::default();
    outgoing.add(Outbox { assignments: vec![(TaskId(1), 1)], ..Outbox::default() });
    let message = outgoing.next(&SharedFleet::new(fleet), 1);
    let Some(ToAgent::Assignments(given)) = &message else { panic!("it is sent: {message:?}") };
    assert_eq!(given.assignments[0].results.len(), PARTS as usize);
    assert!(given.assignments[0].results.iter().all(|of| of.task_id.is_empty() && of.output.len() == size));
    let bytes = internal::CoordinatorMessage { message }.encoded_len();
    assert!(bytes <= MAX_ITEM_BYTES, "{bytes} bytes");
}

static LONG: LazyLock<String> = LazyLock::new(|| "x".repeat(1_000));

#[test]
fn an_attempt_is_assigned_before_it_is_followed_and_the_newest_order_counts() {
    let (mut fleet, ..) = fleet_with_agent();
    fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(task(1, Bytes::new()))), &mut Vec::new());
    let fleet = SharedFleet::new(fleet);
    let order = |stop| internal::FollowAttempt { attempt: 1, stop, ..Default::default() };
    let mut outgoing = Outgoing::default();
    for stop in [false, true] {
        let follows = [((TaskId(1), 1), order(stop))].into();
        outgoing.add(Outbox { follows, assignments: vec![(TaskId(1), 1)], ..Outbox::default() });
    }
    assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::Assignments(_))));
    assert_eq!(outgoing.next(&fleet, 1), Some(ToAgent::FollowAttempt(order(true))));
    assert!(outgoing.is_empty());
    let follows = [((TaskId(1), 1), order(false))].into();
    outgoing.add(Outbox { follows, ended: Some("over".to_owned()), ..Outbox::default() });
    assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::SessionEnded(_))));
}

#[test]
fn an_agent_hears_of_all_it_has_before_it_is_to_hand_that_back() {
    let (mut fleet, ..) = fleet_with_agent();
    fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(task(1, Bytes::new()))), &mut Vec::new());
    let fleet = SharedFleet::new(fleet);
    let mut outgoing = Outgoing::default();
    let health_check = Some(internal::HealthCheck { seq: 1, within_ms: 1 });
    outgoing.add(Outbox { hand_back: true, health_check, ..Outbox::default() });
    outgoing.add(Outbox { assignments: vec![(TaskId(1), 1)], ..Outbox::default() });
    assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::HealthCheck(_))));
    assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::Assignments(_))));
    assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::HandBack(_))));
    assert!(outgoing.is_empty());
}

/// Returns a fleet with an attempt at task 3 that is given an archived result, with the record and the task of that.
fn with_archived_result() -> (SharedFleet, u64, Arc<Task>) {
    let (mut fleet, agent, session) = fleet_with_agent();
    let config = FleetConfig { recent_results: 1, ..FleetConfig::default() };
    for command in [ControlCommand::RaiseVersion(known_version()), ControlCommand::Configure(config)] {
        fleet.apply(Stamp::at(1), Command::Control(command), &mut Vec::new());
    }
    let mut effects = Vec::new();
    for (id, output) in [(1, "one,"), (2, "two,")] {
        let outcome = Outcome::Succeeded(Bytes::from_static(output.as_bytes()));
        let completion = Completion { agent, session, task: TaskId(id), attempt: 1, ran_us: 1, outcome };
        for command in [TaskCommand::Submit(task(id, Bytes::new())), TaskCommand::Complete(completion)] {
            fleet.apply(Stamp::at(1), Command::Task(command), &mut effects);
        }
    }
    let submit = TaskCommand::Submit(after(3, &[1, 2], Passing::AsInput));
    fleet.apply(Stamp::at(1), Command::Task(submit), &mut effects);
    let archived = effects.into_iter().find_map(|effect| match effect {
        Effect::Archived { record, task } => Some((record, task)),
        _ => None,
    });
    let (record, one) = archived.expect("the first one is archived");
    (SharedFleet::new(fleet), record, one)
}

#[test]
fn the_results_of_archived_tasks_are_read_before_the_attempt_that_is_given_them_is_sent() {
    let (fleet, record, one) = with_archived_result();
    let sent = |outgoing: &mut Outgoing| match outgoing.next(&fleet, 1) {
        Some(ToAgent::Assignments(given)) => Some(given.assignments[0].input.clone()),
        _ => None,
    };
    for (read, input) in [(Some(one), Some(Bytes::from_static(b"own,one,two,"))), (None, None)] {
        let mut outgoing = Outgoing::default();
        outgoing.add(Outbox { assignments: vec![(TaskId(3), 1)], ..Outbox::default() });
        assert_eq!(sent(&mut outgoing), None);
        let lacking: Vec<u64> = outgoing.take_lacking().iter().map(|row| row.record).collect();
        assert_eq!((lacking, outgoing.is_empty()), (vec![record], true), "it waits");
        outgoing.add_results(ReadResults { found: vec![(record, read)], lost: None });
        assert!(!outgoing.is_empty());
        assert_eq!(sent(&mut outgoing), input, "one that can't be read is not left out of what the attempt is given");
        assert!(outgoing.is_empty() && outgoing.archived.is_empty());
        // What could not be read is read again later.
        outgoing.add(Outbox { heartbeat: Some(1), ..Outbox::default() });
        assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::HeartbeatAck(_))));
        assert_eq!((sent(&mut outgoing), outgoing.lacking.len()), (None, usize::from(input.is_none())));
    }
}

#[test]
fn while_results_are_read_an_agent_is_answered_and_what_comes_after_its_attempts_waits() {
    let (fleet, record, one) = with_archived_result();
    let mut outgoing = Outgoing::default();
    outgoing.add(Outbox { assignments: vec![(TaskId(3), 1)], hand_back: true, ..Outbox::default() });
    assert_eq!((outgoing.next(&fleet, 1), outgoing.take_lacking().len()), (None, 1));
    outgoing.add(Outbox { heartbeat: Some(7), drained: true, ..Outbox::default() });
    assert_eq!(outgoing.next(&fleet, 1), Some(ToAgent::HeartbeatAck(internal::HeartbeatAck { seq: 7 })));
    assert_eq!((outgoing.next(&fleet, 1), outgoing.is_empty()), (None, true));
    outgoing.add_results(ReadResults { found: vec![(record, Some(one))], lost: None });
    assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::Assignments(_))));
    assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::HandBack(_))));
    assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::Drained(_))));
    assert_eq!((outgoing.take_handed_back(), outgoing.is_empty()), (Vec::new(), true));
    // The end of the session waits for nothing.
    outgoing.add(Outbox { assignments: vec![(TaskId(3), 1)], ..Outbox::default() });
    assert_eq!((outgoing.next(&fleet, 1), outgoing.take_lacking().len()), (None, 1));
    outgoing.add(Outbox { ended: Some("over".to_owned()), ..Outbox::default() });
    assert!(!outgoing.is_empty() && matches!(outgoing.next(&fleet, 1), Some(ToAgent::SessionEnded(_))));
}

#[test]
fn an_attempt_whose_results_can_not_be_read_is_handed_back_with_all_others() {
    let (fleet, record, _) = with_archived_result();
    let mut outgoing = Outgoing::default();
    outgoing.add(Outbox { assignments: vec![(TaskId(3), 1)], ..Outbox::default() });
    assert_eq!((outgoing.next(&fleet, 1), outgoing.take_lacking().len()), (None, 1));
    outgoing.add_results(ReadResults { found: vec![(record, None)], lost: None });
    assert_eq!((outgoing.next(&fleet, 1), outgoing.take_handed_back()), (None, Vec::new()), "it is read again later");
    outgoing.add(Outbox { hand_back: true, ..Outbox::default() });
    assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::HandBack(_))));
    assert_eq!(outgoing.take_handed_back(), [(TaskId(3), 1)]);
    outgoing.add(Outbox { heartbeat: Some(1), ..Outbox::default() });
    assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::HeartbeatAck(_))));
    assert_eq!((outgoing.next(&fleet, 1), outgoing.is_empty()), (None, true), "it is not sent any more");
}

#[test]
fn an_attempt_whose_results_no_coordinator_can_read_any_more_is_ended_and_does_not_wait() {
    let (fleet, record, _) = with_archived_result();
    let mut outgoing = Outgoing::default();
    outgoing.add(Outbox { assignments: vec![(TaskId(3), 1)], ..Outbox::default() });
    assert_eq!((outgoing.next(&fleet, 1), outgoing.take_lacking().len()), (None, 1));
    outgoing.add_results(ReadResults { found: vec![(record, None)], lost: Some(TaskId(9)) });
    assert_eq!(
        (outgoing.next(&fleet, 1), outgoing.take_lacking_results()),
        (None, Vec::new()),
        "it is given another one"
    );
    outgoing.add(Outbox { heartbeat: Some(0), ..Outbox::default() });
    assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::HeartbeatAck(_))));
    assert_eq!((outgoing.next(&fleet, 1), outgoing.take_lacking().len()), (None, 1));
    outgoing.add_results(ReadResults { found: vec![(record, None)], lost: Some(TaskId(1)) });
    assert_eq!((outgoing.next(&fleet, 1), outgoing.is_empty()), (None, true));
    assert_eq!(outgoing.take_lacking_results(), [((TaskId(3), 1), TaskId(1))]);
    outgoing.add(Outbox { heartbeat: Some(1), ..Outbox::default() });
    assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::HeartbeatAck(_))));
    assert_eq!((outgoing.next(&fleet, 1), outgoing.is_empty()), (None, true), "it is not tried again");
}
