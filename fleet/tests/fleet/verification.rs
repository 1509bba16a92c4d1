//! Tasks that run on several agents, and whose results are verified.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use robeing_fleet::{
    AgentId, AgentJoin, Attempt, AttemptEnd, AuditOutcome, CancelCause, Choice, Command, ControlCommand, Effect,
    Failure, FailureKind, Fleet, FleetConfig, Outcome, Refusal, Reply, SubmitTask, Task, TaskCommand, TaskFilter,
    TaskId, TaskState, Verify, known_version, limits::*,
};

use crate::{
    comparisons, dead,
    fixture::{OpenSession, Trial, answered, ballot, failure, retry, success, task, to_verify, vote, worker},
    life::Before,
    naive,
    ops::KINDS,
};

/// What generated tasks ask for, which is sometimes out of bounds.
pub fn asked() -> impl Strategy<Value = Verify> {
    let compares = prop::bool::weighted(0.5);
    (2..5u32, 2..5u32, prop::bool::weighted(0.05), compares).prop_map(|(agents, agree, is_wrong, compares)| {
        let agree = if is_wrong { agents + 1 } else { agree.min(agents) };
        Verify { agents, agree, pointer: None, compare: compares.then(|| KINDS[2].to_owned()) }
    })
}

/// Returns the digest that a coordinator would compute of an output. Comparisons have more different ones to do with.
fn digest(asked: &Verify, output: &[u8]) -> [u8; 32] {
    [output.first().copied().unwrap_or(0) % if asked.compare.is_some() { 4 } else { 2 }; 32]
}

/// Returns the outcome as a coordinator would propose it: outputs of members have a digest. Comparisons mostly say what they
/// should.
pub fn compared(fleet: &Fleet, task: TaskId, outcome: Outcome) -> Outcome {
    let parent = comparisons::parent_of(fleet, task).and_then(|parent| parent.verification.as_ref());
    match (parent, outcome) {
        (Some(_), Outcome::Succeeded(output)) if comparisons::is_comparison(fleet, task) => {
            Outcome::Succeeded(comparisons::saying(output))
        }
        (Some(verification), Outcome::Succeeded(output)) => {
            let digest = digest(&verification.asked, &output);
            Outcome::Answered { output, digest }
        }
        (_, outcome) => outcome,
    }
}

/// Returns the attempts of a verified task whose ends counted for their agents in this step: failures at once, and answers
/// when it is known which are right.
pub fn ends<'a>(was: Option<&Task>, task: &'a Task) -> Vec<&'a Attempt> {
    let is_new = |attempt: &Attempt| was.is_none_or(|was| was.attempts.iter().all(|of| of.number != attempt.number));
    let settled = task.state == TaskState::Succeeded && was.is_none_or(|was| !was.state.is_final());
    let counts = |attempt: &&Attempt| match attempt.end {
        Some(AttemptEnd::Succeeded | AttemptEnd::Outvoted) => settled,
        _ => is_new(attempt),
    };
    task.attempts.iter().filter(counts).collect()
}

/// Checks that what became of each verified task follows from what its agents said.
pub fn check(fleet: &Fleet, before: &Before) {
    for task in fleet.changed_tasks_since(0) {
        if task.member_of.is_some() {
            let turns = naive::had_turns(fleet, task);
            assert!(task.current().is_none_or(|attempt| !turns.contains(&attempt.agent_name)), "{task:?}");
        }
        let Some(verification) = &task.verification else { continue };
        let said = |end: AttemptEnd| task.attempts.iter().filter(move |attempt| attempt.end == Some(end));
        let Verify { agents, agree, .. } = verification.asked;
        let turns: BTreeSet<_> = task.attempts.iter().map(|attempt| &attempt.agent_name).collect();
        assert!(turns.len() == task.attempts.len() && turns.len() <= agents as usize, "each has one turn: {task:?}");
        comparisons::check(fleet, before.tasks.get(&task.seq), task, verification);
        match task.state {
            TaskState::Succeeded if verification.asked.compare.is_some() => {
                comparisons::check_result(task, verification, digest);
            }
            TaskState::Succeeded => {
                let digests: BTreeSet<_> = said(AttemptEnd::Succeeded).map(|attempt| attempt.digest).collect();
                assert_eq!((digests.len(), said(AttemptEnd::Succeeded).count()), (1, agree as usize), "{task:?}");
                assert!(said(AttemptEnd::Outvoted).all(|attempt| !digests.contains(&attempt.digest)), "{task:?}");
                let digest = task.output.as_ref().map(|output| digest(&verification.asked, output));
                assert_eq!(digests.first(), Some(&digest), "{task:?}");
            }
            _ => assert_eq!(said(AttemptEnd::Outvoted).count(), 0, "{task:?}"),
        }
        if let Some(was) = before.tasks.get(&task.seq).filter(|was| was.state.is_final()) {
            dead::check_final(was, task, fleet.now().fleet);
        }
    }
}

/// A fleet with so many workers that have a slot each.
fn with_workers(count: usize) -> (Trial, Vec<OpenSession>) {
    let mut trial = Trial::newest();
    let stays = (0..count).map(|n| trial.join(worker(&format!("w{n}")))).collect();
    (trial, stays)
}

/// Has an agent answer what it runs.
fn says(trial: &mut Trial, stay: OpenSession, output: &'static str) -> Reply {
    let (member, attempt) = trial.held_by(stay);
    trial.complete(stay, member, attempt, answered(output))
}

fn ends_of(trial: &Trial, id: TaskId) -> Vec<(String, Option<AttemptEnd>)> {
    trial.task(id).attempts.iter().map(|attempt| (attempt.agent_name.to_string(), attempt.end)).collect()
}

#[test]
fn a_task_has_the_output_that_enough_agents_agree_on_and_the_others_are_outvoted() {
    let (mut trial, stays) = with_workers(3);
    let id = trial.submit(to_verify(1));
    let agents: BTreeSet<AgentId> = trial
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Assign { agent, .. } => Some(*agent),
            _ => None,
        })
        .collect();
    assert_eq!(agents.len(), 3, "all run at once: {:?}", trial.effects);
    let (member, _) = trial.held_by(stays[0]);
    assert_eq!(trial.fleet.input_of(trial.task(member)), trial.task(id).input);
    assert_eq!(trial.fleet.known_id(trial.task(member)), id);
    let shown = trial.fleet.with_runs(trial.fleet.task(id).expect("it is kept"));
    let runs: Vec<_> = shown.attempts.iter().map(|run| (run.number, &*run.agent_name, run.end)).collect();
    assert_eq!(runs, [(1, "w0", None), (2, "w1", None), (3, "w2", None)]);
    let before: Vec<u32> = stays.iter().map(|stay| record(&trial, *stay)).collect();
    assert_eq!(says(&mut trial, stays[0], "wrong"), Reply::Completed);
    assert_eq!(record(&trial, stays[0]), before[0], "nobody knows yet who is right");
    says(&mut trial, stays[1], "right");
    assert_eq!(trial.state(id), TaskState::Queued);
    assert_eq!(
        trial.fleet.waiting_for(id, trial.now).as_deref(),
        Some("2 of 3 agents to give the same output: 2 answered, of which 1 agree, and 0 failed")
    );
    says(&mut trial, stays[2], "right");
    let done = trial.task(id);
    assert_eq!((done.state, done.output.as_deref()), (TaskState::Succeeded, Some(&b"right"[..])));
    let [outvoted, right] = [AttemptEnd::Outvoted, AttemptEnd::Succeeded].map(Some);
    let names = ["w0", "w1", "w2"].map(str::to_owned);
    assert_eq!(ends_of(&trial, id), names.into_iter().zip([outvoted, right, right]).collect::<Vec<_>>());
    assert!(record(&trial, stays[0]) < before[0] && record(&trial, stays[1]) >= before[1]);
    let told = trial.fleet.audit_records(0, MAX_PAGE).last().expect("it is recorded");
    assert_eq!((&*told.actor, &*told.action, told.outcome), ("worker/w0", "result.outvoted", AuditOutcome::Denied));
    assert_eq!(told.subject, id.to_string());
    assert_eq!((trial.fleet.totals().succeeded, trial.fleet.counts().queued), (1, 0));
}

fn record(trial: &Trial, stay: OpenSession) -> u32 {
    trial.fleet.agent(stay.agent).expect("it is known").record.success
}

#[test]
fn those_who_still_run_when_it_is_decided_are_stopped_and_keep_their_slots_until_they_have() {
    let (mut trial, stays) = with_workers(3);
    let id = trial.submit(to_verify(1));
    says(&mut trial, stays[0], "right");
    let (member, attempt) = trial.held_by(stays[2]);
    says(&mut trial, stays[1], "right");
    assert_eq!(trial.state(id), TaskState::Succeeded);
    let stops = |effect: &Effect| matches!(effect, Effect::Stop { agent, .. } if *agent == stays[2].agent);
    assert!(trial.effects.iter().any(stops), "{:?}", trial.effects);
    let next = trial.submit(SubmitTask { required_role: None, ..task(9) });
    assert_ne!(trial.holder(next), Some(stays[2].agent), "it has one slot, which is taken");
    assert_eq!(trial.complete(stays[2], member, attempt, Outcome::Stopped), Reply::Done);
    assert_eq!(trial.fleet.agent(stays[2].agent).map(|agent| agent.used_slots()), Some(0));
    let last = ends_of(&trial, id).pop();
    assert_eq!(last, Some(("w2".to_owned(), Some(AttemptEnd::Cancelled))));
}

#[test]
fn a_task_fails_as_soon_as_enough_agents_can_not_agree_any_more() {
    let (mut trial, stays) = with_workers(3);
    let id = trial.submit(SubmitTask {
        verify: Some(Box::new(Verify { agents: 3, agree: 3, pointer: None, compare: None })),
        ..task(1)
    });
    says(&mut trial, stays[0], "a");
    says(&mut trial, stays[1], "b");
    let failed = trial.task(id);
    let failure = failed.failure.as_ref().expect("it failed");
    assert_eq!((failed.state, failure.kind), (TaskState::Failed, FailureKind::Disagreement));
    assert!(failure.message.contains("2 answered, with 2 different outputs"), "{failure:?}");
    assert!(trial.fleet.audit_records(0, MAX_PAGE).all(|told| told.action != "result.outvoted"), "who was right?");
    let id = trial.submit(SubmitTask { retry: retry(1), ..to_verify(10) });
    for stay in [stays[0], stays[1]] {
        let (member, attempt) = trial.held_by(stay);
        trial.complete(stay, member, attempt, failure_of_agent());
    }
    let failure = trial.task(id).failure.as_ref().expect("it failed");
    assert!(failure.message.contains("0 answered, with 0 different outputs, and 2 failed"), "{failure:?}");
}

fn failure_of_agent() -> Outcome {
    failure(false)
}

#[test]
fn agents_are_different_and_come_as_they_are_free() {
    let mut trial = Trial::newest();
    let wide = trial.join(AgentJoin { slots: 4, ..worker("wide") });
    let id = trial.submit(to_verify(1));
    assert_eq!(trial.fleet.agent(wide.agent).map(|agent| agent.used_slots()), Some(1), "it has one turn");
    says(&mut trial, wide, "x");
    assert_eq!(trial.fleet.agent(wide.agent).map(|agent| agent.used_slots()), Some(0), "it has had its turn");
    // What comes after the members in the queue is not held up by them.
    let other = trial.submit(task(50));
    assert_eq!(trial.holder(other), Some(wide.agent));
    let shortage = trial.fleet.waiting_for(id, trial.now).expect("it is queued");
    assert!(shortage.ends_with("and 0 failed; only 1 live agent fits it"), "{shortage}");
    let late = trial.join(worker("late"));
    says(&mut trial, late, "x");
    assert_eq!(trial.state(id), TaskState::Succeeded);
}

#[test]
fn a_lost_agent_is_replaced() {
    let (mut trial, stays) = with_workers(3);
    let id = trial.submit(to_verify(1));
    says(&mut trial, stays[0], "x");
    trial.lose(stays[1]);
    trial.lose(stays[2]);
    assert_eq!(trial.state(id), TaskState::Queued);
    let spare = trial.join(worker("spare"));
    says(&mut trial, spare, "x");
    assert_eq!((trial.state(id), trial.task(id).attempts.len()), (TaskState::Succeeded, 2));
}

#[test]
fn an_agent_that_leaves_and_joins_again_has_no_second_turn_and_keeps_its_record() {
    let (mut trial, stays) = with_workers(1);
    let id = trial.submit(to_verify(1));
    says(&mut trial, stays[0], "wrong");
    trial.leave(stays[0]);
    let again = trial.join(worker("w0"));
    assert_ne!(again.agent, stays[0].agent, "the fleet had forgotten it");
    assert_eq!(trial.fleet.agent(again.agent).map(|agent| agent.used_slots()), Some(0), "it has had its turn");
    // It is passed by when it looks for work, too.
    let other = trial.submit(task(50));
    trial.complete(again, other, 1, success());
    assert_eq!(trial.fleet.agent(again.agent).map(|agent| agent.used_slots()), Some(0));
    let before = record(&trial, again);
    let honest = ["w1", "w2"].map(|name| trial.join(worker(name)));
    for stay in honest {
        says(&mut trial, stay, "right");
    }
    assert_eq!(trial.task(id).output.as_deref(), Some(&b"right"[..]));
    assert!(record(&trial, again) < before, "it was outvoted, whatever its number is now");
    let told = trial.fleet.audit_records(0, MAX_PAGE).last().expect("it is recorded");
    assert_eq!((&*told.actor, &*told.action), ("worker/w0", "result.outvoted"));
}

#[test]
fn an_agent_that_is_gone_when_it_is_outvoted_is_recorded_by_its_name() {
    let (mut trial, stays) = with_workers(3);
    trial.submit(to_verify(1));
    says(&mut trial, stays[0], "wrong");
    trial.leave(stays[0]);
    says(&mut trial, stays[1], "right");
    says(&mut trial, stays[2], "right");
    let told = trial.fleet.audit_records(0, MAX_PAGE).last().expect("it is recorded");
    assert_eq!((&*told.actor, &*told.action), ("agent/w0", "result.outvoted"));
}

#[test]
fn an_agent_that_is_outvoted_often_is_recorded_once_in_ten_seconds_with_how_often() {
    let (mut trial, stays) = with_workers(3);
    let outvote = |trial: &mut Trial, n: u128| {
        trial.submit(to_verify(n));
        for (stay, output) in stays.iter().zip(["wrong", "right", "right"]) {
            says(trial, *stay, output);
        }
        let told = trial.fleet.audit_records(0, MAX_PAGE).filter(|told| told.action == "result.outvoted");
        told.map(|told| told.detail.clone()).collect::<Vec<_>>()
    };
    let detail = |times: &str| format!("on Result, {times}: other agents agree on another output");
    assert_eq!(outvote(&mut trial, 1), [detail("once")]);
    assert_eq!(outvote(&mut trial, 2).len(), 1);
    trial.after(OUTVOTED_RECORD_MS - 1);
    assert_eq!(outvote(&mut trial, 3).len(), 1);
    trial.after(1);
    assert_eq!(outvote(&mut trial, 4), [detail("once"), detail("3 times")]);
}

#[test]
fn a_member_that_fails_is_tried_again_as_its_task_would_be() {
    let (mut trial, stays) = with_workers(2);
    let verify = Some(Box::new(Verify { agents: 2, agree: 2, pointer: None, compare: None }));
    let id = trial.submit(SubmitTask { verify, retry: retry(2), ..task(1) });
    let (member, attempt) = trial.held_by(stays[0]);
    trial.complete(stays[0], member, attempt, failure(true));
    assert_eq!(trial.state(id), TaskState::Queued);
    trial.after(DEFAULT_INITIAL_BACKOFF_MS);
    for stay in stays {
        says(&mut trial, stay, "x");
    }
    assert_eq!(trial.state(id), TaskState::Succeeded);
}

#[test]
fn the_ids_of_members_are_none_that_submitters_count_up_or_draw() {
    let (mut trial, stays) = with_workers(3);
    trial.submit(to_verify(1));
    // The ids that follow are free, also for tasks of which each has members.
    for n in 2..50 {
        assert_eq!(trial.submit(to_verify(n)), TaskId(n));
    }
    let members: BTreeSet<TaskId> = stays.iter().map(|stay| trial.held_by(*stay).0).collect();
    assert_eq!(members.len(), 3);
    for TaskId(id) in members {
        assert_eq!(((id >> 76) & 0xf, (id >> 62) & 3), (8, 2), "a UUID of version 8");
    }
}

#[test]
fn an_output_that_is_kept_already_needs_no_room() {
    let mut trial = Trial::with(FleetConfig { max_bytes: MAX_INPUT_BYTES as u64, ..FleetConfig::default() });
    trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    let stays = ["w0", "w1"].map(|name| trial.join(worker(name)));
    let verify = Some(Box::new(Verify { agents: 2, agree: 2, pointer: None, compare: None }));
    let id = trial.submit(SubmitTask { verify, ..task(1) });
    let output = Bytes::from(vec![7; MAX_INPUT_BYTES]);
    let answer = |trial: &mut Trial, stay| {
        let (member, attempt) = trial.held_by(stay);
        trial.complete(stay, member, attempt, Outcome::Answered { output: output.clone(), digest: [7; 32] });
    };
    let wide = trial.join(AgentJoin { slots: MAX_SLOTS, ..worker("wide") });
    let most = trial.fleet.config().most_stored();
    let fillers: Vec<TaskId> =
        (100..101 + u128::from(most) / MAX_INPUT_BYTES as u128).map(|n| trial.submit(task(n))).collect();
    answer(&mut trial, stays[0]);
    for filler in fillers {
        trial.complete(wide, filler, 1, Outcome::Succeeded(output.clone()));
    }
    assert!(trial.fleet.stored_bytes() + MAX_INPUT_BYTES as u64 > most, "there is no room for another one");
    answer(&mut trial, stays[1]);
    assert_eq!(trial.state(id), TaskState::Succeeded);
}

#[test]
fn a_task_is_refused_without_room_for_all_its_runs() {
    let submitted = |config: FleetConfig| {
        let mut trial = Trial::with(config);
        trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
        trial.apply(Command::Task(TaskCommand::Submit(to_verify(1))))
    };
    let room = |max_queued, max_tasks| FleetConfig { max_queued, max_tasks, ..FleetConfig::default() };
    assert!(matches!(submitted(room(3, 100)), Reply::Refused(Refusal::QueueFull { .. })));
    assert!(matches!(submitted(room(100, 3)), Reply::Refused(Refusal::TooManyTasks { .. })));
    assert!(matches!(submitted(room(4, 4)), Reply::Submitted { .. }));
}

#[test]
fn members_end_with_their_task_and_are_nobodys_tasks() {
    let (mut trial, stays) = with_workers(1);
    let id = trial.submit(SubmitTask { deadline_in: Some(100), ..to_verify(1) });
    let (member, attempt) = trial.held_by(stays[0]);
    assert_eq!(trial.fleet.tasks(&TaskFilter::default(), None, MAX_PAGE).tasks.len(), 1, "members are not listed");
    let unknown = Reply::Refused(Refusal::UnknownTask { task: member });
    assert_eq!(trial.cancel(member), unknown);
    let taken = trial.apply(Command::Task(TaskCommand::Submit(SubmitTask { id: member, ..to_verify(7) })));
    assert!(matches!(taken, Reply::Refused(Refusal::Conflict { .. })), "{taken:?}");
    trial.after(100);
    assert_eq!(trial.state(id), TaskState::Failed);
    assert!(trial.fleet.task(member).is_none());
    trial.complete(stays[0], member, attempt, Outcome::Stopped);
    let id = trial.submit(to_verify(20));
    trial.cancel(id);
    assert_eq!(trial.state(id), TaskState::Cancelled);
    assert_eq!(trial.fleet.tasks(&TaskFilter::default(), None, MAX_PAGE).tasks.len(), 2);
    assert_eq!(trial.fleet.counts().queued, 0);
}

#[test]
fn the_deadline_of_a_task_is_that_of_its_runs() {
    let (mut trial, stays) = with_workers(2);
    let verify = Some(Box::new(Verify { agents: 2, agree: 2, pointer: None, compare: None }));
    let id = trial.submit(SubmitTask { deadline_in: Some(100), verify, ..task(1) });
    let (member, _) = trial.held_by(stays[0]);
    assert_eq!(trial.fleet.deadline_of(trial.task(member)), trial.task(id).deadline);
    let before = record(&trial, stays[0]);
    let held: Vec<_> = stays.iter().map(|stay| (*stay, trial.held_by(*stay))).collect();
    trial.after(100);
    let late = |effect: &&Effect| matches!(effect, Effect::Stop { cause: CancelCause::Deadline, .. });
    assert_eq!(trial.effects.iter().filter(late).count(), 2, "{:?}", trial.effects);
    let ends: Vec<_> = ends_of(&trial, id).into_iter().map(|(_, end)| end).collect();
    assert_eq!(ends, [Some(AttemptEnd::TimedOut); 2]);
    assert_eq!(record(&trial, stays[0]), before, "a deadline is nobody's fault");
    // Agents that see it first say so, and the task fails for the same reason.
    for (stay, (member, attempt)) in held {
        trial.complete(stay, member, attempt, Outcome::Stopped);
    }
    let verify = Some(Box::new(Verify { agents: 2, agree: 2, pointer: None, compare: None }));
    let id = trial.submit(SubmitTask { deadline_in: Some(100), verify, ..task(2) });
    let (member, attempt) = trial.held_by(stays[0]);
    let Outcome::Failed(failure) = failure(false) else { panic!("a failure") };
    let late = Outcome::Failed(Failure { kind: FailureKind::Deadline, ..failure });
    trial.complete(stays[0], member, attempt, late);
    let kind = trial.task(id).failure.as_ref().map(|failure| failure.kind);
    assert_eq!(kind, Some(FailureKind::Deadline));
}

#[test]
fn a_delay_and_an_approval_come_before_the_members() {
    let (mut trial, _) = with_workers(3);
    let id = trial.submit(SubmitTask { delay: Some(50), approval: Some(Box::new(ballot(1))), ..to_verify(1) });
    trial.after(50);
    assert_eq!(trial.fleet.counts().assigned, 0);
    trial.cast(vote(1, "a", Choice::Approve));
    trial.cast(vote(1, "b", Choice::Approve));
    assert_eq!((trial.fleet.counts().assigned, trial.state(id)), (3, TaskState::Queued));
}

#[test]
fn a_verified_task_is_in_snapshots() {
    let (mut trial, stays) = with_workers(3);
    let id = trial.submit(to_verify(1));
    says(&mut trial, stays[0], "x");
    let mut restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!((restored.audit(), restored.stored_bytes()), (Ok(()), trial.fleet.stored_bytes()));
    std::mem::swap(&mut trial.fleet, &mut restored);
    says(&mut trial, stays[1], "x");
    assert_eq!(trial.state(id), TaskState::Succeeded);
}

#[test]
fn an_output_that_nobody_compared_is_no_answer_and_one_that_need_not_be_counts() {
    let (mut trial, stays) = with_workers(3);
    let id = trial.submit(SubmitTask { retry: retry(1), ..to_verify(1) });
    let (member, attempt) = trial.held_by(stays[0]);
    trial.complete(stays[0], member, attempt, success());
    let kind = trial.task(id).attempts[0].failure.as_ref().map(|failure| failure.kind);
    assert_eq!(kind, Some(FailureKind::Internal));
    let mut trial = Trial::newest();
    let stay = trial.join(worker("w"));
    let id = trial.submit(task(1));
    trial.complete(stay, id, 1, answered("x"));
    assert_eq!(trial.task(id).output, Some(Bytes::from_static(b"x")));
}

#[test]
fn the_limits_of_verification_hold_at_their_edges() {
    let mut trial = Trial::newest();
    let with = |agents, agree, pointer: Option<String>| {
        SubmitTask { verify: Some(Box::new(Verify { agents, agree, pointer, compare: None })), ..task(1) }
            .check()
            .is_ok()
    };
    let pointer = |bytes: usize| Some(format!("/{}", "a".repeat(bytes - 1)));
    assert!(with(MAX_VERIFYING_AGENTS, MAX_VERIFYING_AGENTS, pointer(MAX_POINTER_BYTES)) && with(2, 2, None));
    assert!(!with(MAX_VERIFYING_AGENTS + 1, 2, None) && !with(1, 1, None) && !with(3, 4, None) && !with(3, 1, None));
    assert!(!with(3, 2, pointer(MAX_POINTER_BYTES + 1)) && !with(3, 2, Some("a".to_owned())));
    for n in 0..u128::from(MAX_VERIFIED_TASKS) {
        let command = Command::Task(TaskCommand::Submit(to_verify(n * 10)));
        let reply = trial.fleet.apply(trial.stamp(), command, &mut Vec::new());
        assert!(matches!(reply, Reply::Submitted { .. }), "{reply:?}");
    }
    let full = trial.apply(Command::Task(TaskCommand::Submit(to_verify(99_999))));
    let limit = u64::from(MAX_VERIFIED_TASKS);
    assert!(matches!(full, Reply::Refused(Refusal::Full { limit: found, .. }) if found == limit), "{full:?}");
    trial.cancel(TaskId(0));
    trial.submit(to_verify(99_999));
}
