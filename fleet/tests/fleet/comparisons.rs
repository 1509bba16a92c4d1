//! Tasks whose results are verified by comparisons of outputs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use robeing_fleet::{
    AgentJoin, Attempt, AttemptEnd, Command, Comparison, Completion, ControlCommand, Effect, FailureKind, Fleet,
    FleetConfig, Outcome, Refusal, Reply, Role, SubmitTask, Task, TaskCommand, TaskId, TaskState, Verification, Verify,
    known_version, limits::*,
};

use crate::{
    codec::{hex, stable},
    fixture::{OpenSession, Trial, answered, failure, retry, specialist, task, to_compare, worker},
    naive,
};

/// Returns the task whose result this one verifies.
pub fn parent_of(fleet: &Fleet, task: TaskId) -> Option<&Arc<Task>> {
    let parent = fleet.task(task)?.member_of?;
    fleet.changed_tasks_since(0).find(|task| task.seq == parent)
}

/// Returns whether a task compares outputs.
pub fn is_comparison(fleet: &Fleet, task: TaskId) -> bool {
    let seq = fleet.task(task).map(|task| task.seq);
    let verification = parent_of(fleet, task).and_then(|parent| parent.verification.as_ref());
    verification.is_some_and(|verification| verification.comparing == seq)
}

/// Returns what a comparison says that a history has end with this output: sometimes neither true nor false.
pub fn saying(output: Bytes) -> Bytes {
    match output.first().copied().unwrap_or(1) % 8 {
        0 => output,
        odd if odd % 2 == 1 => Bytes::from_static(b"true"),
        _ => Bytes::from_static(b"false\n"),
    }
}

/// Returns whether a completion that succeeded does so for the fleet: a comparison has to say true or false.
pub fn says_something(fleet: &Fleet, completion: &Completion) -> bool {
    let words = [&b"true"[..], b"false\n"];
    !is_comparison(fleet, completion.task)
        || matches!(&completion.outcome, Outcome::Succeeded(output) if words.contains(&output.as_ref()))
}

/// Returns the names of agents by the numbers of their attempts.
fn names(task: &Task) -> BTreeMap<u32, &str> {
    task.attempts.iter().map(|attempt| (attempt.number, &*attempt.agent_name)).collect()
}

/// Checks that outputs are compared exactly if they have to be, each two once, and by no agent that gave one of them.
pub fn check(fleet: &Fleet, was: Option<&Task>, task: &Task, verification: &Verification) {
    let Verification { asked, comparisons, comparing, .. } = verification;
    let names = names(task);
    let pairs: BTreeSet<_> = comparisons.iter().map(|found| (found.one, found.other)).collect();
    assert!(
        pairs.len() == comparisons.len() && pairs.len() as u32 <= asked.agents * (asked.agents - 1) / 2,
        "{task:?}"
    );
    for Comparison { one, other, by, .. } in comparisons {
        let gave = |number: &u32| names.get(number) == Some(&&**by);
        assert!(one < other && names.contains_key(one) && names.contains_key(other), "{task:?}");
        assert!(!gave(one) && !gave(other), "{by} has compared its own output: {task:?}");
    }
    // A dead letter that is tried again has everything compared again.
    let was = was.filter(|was| was.epoch() == task.epoch());
    let before = was.and_then(|was| was.verification.as_ref()).map(|was| was.comparisons.as_slice());
    assert!(comparisons.starts_with(before.unwrap_or_default()), "what was found stays so: {task:?}");
    let next = naive::next_pair(verification);
    assert_eq!(comparing.is_some(), next.is_some(), "{task:?}");
    assert_eq!(verification.compared().map(|[one, other]| (one, other)), next, "{task:?}");
    let is_kept = |seq: u64| fleet.changed_tasks_since(0).any(|task| task.seq == seq && !task.state.is_final());
    assert!(comparing.is_none_or(is_kept), "{task:?}");
}

/// Checks that a result is the first of enough outputs that are equal to it, and that who is outvoted was found to differ.
pub fn check_result(task: &Task, verification: &Verification, digest: impl Fn(&Verify, &[u8]) -> [u8; 32]) {
    let ended = |end: AttemptEnd| task.attempts.iter().filter(move |attempt| attempt.end == Some(end));
    let right: Vec<&Attempt> = ended(AttemptEnd::Succeeded).collect();
    assert!(right.len() >= verification.asked.agree as usize, "{task:?}");
    let output = task.output.as_ref().expect("it has one");
    assert_eq!(right[0].digest, Some(digest(&verification.asked, output)), "{task:?}");
    // The first attempts with outputs that were found equal to that of this one, by their digests.
    let digest_of = |number: u32| task.attempts.iter().find(|attempt| attempt.number == number)?.digest;
    let like = |number: u32| {
        let equal = verification.comparisons.iter().filter(move |found| found.equal && found.one == number);
        equal.filter_map(move |found| digest_of(found.other)).chain(digest_of(number)).collect::<BTreeSet<_>>()
    };
    let agreed = like(right[0].number);
    assert!(right.iter().all(|attempt| attempt.digest.is_some_and(|digest| agreed.contains(&digest))), "{task:?}");
    for attempt in ended(AttemptEnd::Outvoted) {
        let differs = |found: &Comparison| {
            let (mine, theirs) = (like(found.one), like(found.other));
            let is_mine = |digests: &BTreeSet<_>| attempt.digest.is_some_and(|digest| digests.contains(&digest));
            let of_agreed = |number: u32| number == right[0].number;
            !found.equal && (is_mine(&mine) && of_agreed(found.other) || is_mine(&theirs) && of_agreed(found.one))
        };
        assert!(verification.comparisons.iter().any(differs), "{task:?}");
    }
}

/// A fleet with three workers and an agent that compares, which have a slot each.
fn with_judge() -> (Trial, [OpenSession; 3], OpenSession) {
    let mut trial = Trial::newest();
    let stays = ["w0", "w1", "w2"].map(|name| trial.join(worker(name)));
    let judge = trial.join(specialist("judge", "near"));
    (trial, stays, judge)
}

/// Has an agent answer what it runs.
fn says(trial: &mut Trial, stay: OpenSession, output: &'static str) -> Reply {
    let (member, attempt) = trial.held_by(stay);
    trial.complete(stay, member, attempt, answered(output))
}

/// Has an agent end the comparison that it runs.
fn judges(trial: &mut Trial, stay: OpenSession, said: &'static str) -> Reply {
    let (comparison, attempt) = trial.held_by(stay);
    trial.complete(stay, comparison, attempt, Outcome::Succeeded(Bytes::from_static(said.as_bytes())))
}

fn ends_of(trial: &Trial, id: TaskId) -> Vec<(String, Option<AttemptEnd>)> {
    trial.task(id).attempts.iter().map(|attempt| (attempt.agent_name.to_string(), attempt.end)).collect()
}

fn found(trial: &Trial, id: TaskId) -> Vec<(u32, u32, bool, String)> {
    let verification = trial.task(id).verification.as_ref().expect("it is verified");
    let found = verification.comparisons.iter();
    found.map(|found| (found.one, found.other, found.equal, found.by.to_string())).collect()
}

fn is_free(trial: &Trial, stay: OpenSession) -> bool {
    trial.fleet.agent(stay.agent).is_some_and(|agent| agent.used_slots() == 0)
}

#[test]
fn different_outputs_that_a_comparison_finds_equal_agree() {
    let (mut trial, stays, judge) = with_judge();
    let id = trial.submit(SubmitTask { deadline_in: Some(1_000), ..to_compare(1) });
    says(&mut trial, stays[0], "1.00");
    assert!(is_free(&trial, judge), "there is nothing to compare yet");
    says(&mut trial, stays[1], "0.999");
    let (comparison, _) = trial.held_by(judge);
    let compares = trial.task(comparison);
    assert_eq!((&*compares.kind, compares.required_role), ("near", None));
    assert_eq!(trial.fleet.input_of(compares), &b"4 5\n1.000.999"[..]);
    assert_eq!(trial.fleet.known_id(compares), id);
    assert_eq!(trial.fleet.deadline_of(compares), trial.task(id).deadline);
    assert_eq!(trial.fleet.compared_of(comparison), None, "what it says is compared with nothing");
    let words = trial.fleet.waiting_for(id, trial.now).expect("it is queued");
    let compared = "the outputs of attempts 1 and 2 to be compared by an agent with the specialization \"near\"";
    assert!(words.contains(compared) && words.ends_with("which 1 live agent has"), "{words}");
    assert_eq!(judges(&mut trial, judge, "true\n"), Reply::Completed);
    let done = trial.task(id);
    assert_eq!((done.state, done.output.as_deref()), (TaskState::Succeeded, Some(&b"1.00"[..])), "the first one");
    let [right, stopped] = [AttemptEnd::Succeeded, AttemptEnd::Cancelled].map(Some);
    let ends = ["w0", "w1", "w2"].map(str::to_owned).into_iter().zip([right, right, stopped]);
    assert_eq!(ends_of(&trial, id), ends.collect::<Vec<_>>());
    assert_eq!(found(&trial, id), [(1, 2, true, "judge".to_owned())]);
    assert!(is_free(&trial, judge) && trial.fleet.task(comparison).is_none());
}

#[test]
fn an_output_is_compared_with_the_first_of_each_class_and_the_outvoted_are_those_that_differ() {
    let (mut trial, stays, judge) = with_judge();
    let id = trial.submit(to_compare(1));
    for (stay, output) in stays.into_iter().zip(["8", "1.0", "0.9"]) {
        says(&mut trial, stay, output);
    }
    judges(&mut trial, judge, "false");
    judges(&mut trial, judge, "false");
    assert_eq!(trial.state(id), TaskState::Queued);
    judges(&mut trial, judge, "true");
    assert_eq!(trial.task(id).output.as_deref(), Some(&b"1.0"[..]));
    let by = || "judge".to_owned();
    assert_eq!(found(&trial, id), [(1, 2, false, by()), (1, 3, false, by()), (2, 3, true, by())]);
    let ends: Vec<_> = ends_of(&trial, id).into_iter().map(|(_, end)| end).collect();
    let [outvoted, right] = [AttemptEnd::Outvoted, AttemptEnd::Succeeded].map(Some);
    assert_eq!(ends, [outvoted, right, right]);
    let told = trial.fleet.audit_records(0, MAX_PAGE).last().expect("it is recorded");
    assert_eq!((&*told.actor, &*told.action), ("worker/w0", "result.outvoted"));
}

#[test]
fn equal_bytes_are_not_compared_and_who_was_not_compared_in_time_is_neither_right_nor_outvoted() {
    let (mut trial, stays, judge) = with_judge();
    let id = trial.submit(to_compare(1));
    says(&mut trial, stays[0], "8");
    says(&mut trial, stays[1], "1");
    let record = |trial: &Trial| trial.fleet.agent(stays[0].agent).map(|agent| agent.record);
    let before = record(&trial);
    says(&mut trial, stays[2], "1");
    assert_eq!(trial.task(id).output.as_deref(), Some(&b"1"[..]));
    let stops = |effect: &Effect| matches!(effect, Effect::Stop { agent, .. } if *agent == judge.agent);
    assert!(trial.effects.iter().any(stops), "the comparison is not needed: {:?}", trial.effects);
    let ends: Vec<_> = ends_of(&trial, id).into_iter().map(|(_, end)| end).collect();
    let [unknown, right] = [AttemptEnd::Cancelled, AttemptEnd::Succeeded].map(Some);
    assert_eq!((ends, found(&trial, id)), (vec![unknown, right, right], Vec::new()));
    assert_eq!(record(&trial), before);
}

#[test]
fn nobody_compares_its_own_output_and_whoever_has_no_part_in_the_task_comes_first() {
    let near = |name: &str| AgentJoin { specializations: vec!["near".to_owned()], ..worker(name) };
    let mut trial = Trial::newest();
    let stays = ["w0", "w1", "w2"].map(|name| trial.join(near(name)));
    let id = trial.submit(to_compare(1));
    says(&mut trial, stays[0], "a");
    says(&mut trial, stays[1], "b");
    assert!(is_free(&trial, stays[0]) && is_free(&trial, stays[1]), "it waits for another one");
    says(&mut trial, stays[2], "c");
    judges(&mut trial, stays[2], "true");
    assert_eq!(found(&trial, id), [(1, 2, true, "w2".to_owned())]);
    let mut trial = Trial::newest();
    let stays = ["w0", "w1"].map(|name| trial.join(near(name)));
    let wide = trial.join(AgentJoin { slots: 3, ..near("wide") });
    let id = trial.submit(to_compare(1));
    let stranger = trial.join(specialist("stranger", "near"));
    says(&mut trial, stays[0], "a");
    says(&mut trial, stays[1], "b");
    assert!(!is_free(&trial, stranger), "it has no part in the task, although the other one has more free slots");
    // One that comes back under its name is still the one whose output it is.
    trial.leave(stays[0]);
    let again = trial.join(near("w0"));
    trial.lose(stranger);
    assert!(is_free(&trial, again));
    let used = trial.fleet.agent(wide.agent).map(|agent| agent.used_slots());
    assert_eq!((trial.state(id), used), (TaskState::Queued, Some(2)), "it runs the task and compares");
}

#[test]
fn a_comparison_outlives_the_agent_that_runs_it() {
    let (mut trial, stays, judge) = with_judge();
    let id = trial.submit(to_compare(1));
    says(&mut trial, stays[0], "a");
    says(&mut trial, stays[1], "b");
    trial.lose(judge);
    assert_eq!(trial.state(id), TaskState::Queued);
    let mut restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!(restored.audit(), Ok(()));
    std::mem::swap(&mut trial.fleet, &mut restored);
    let other = trial.join(specialist("other", "near"));
    judges(&mut trial, other, "true");
    assert_eq!((trial.state(id), found(&trial, id)), (TaskState::Succeeded, vec![(1, 2, true, "other".to_owned())]));
}

/// A fleet with two workers, and one that can compare as well and has a slot left for another task.
fn with_wide() -> (Trial, [OpenSession; 2], OpenSession) {
    let mut trial = Trial::newest();
    let stays = ["w0", "w1"].map(|name| trial.join(worker(name)));
    let wide = trial.join(AgentJoin { slots: 3, specializations: vec!["near".to_owned()], ..worker("wide") });
    (trial, stays, wide)
}

/// Returns the comparison that an agent runs.
fn compared_by(trial: &Trial, stay: OpenSession) -> (TaskId, u32) {
    let mut held = trial.fleet.held(stay.agent);
    let held = held.find(|held| is_comparison(&trial.fleet, held.task)).expect("it compares");
    (held.task, held.attempt)
}

#[test]
fn a_task_that_ends_with_a_run_of_a_lost_agent_leaves_nothing_of_its_comparison_there() {
    let (mut trial, stays, wide) = with_wide();
    let submission = to_compare(1);
    let verify = submission.verify.clone().map(|of| Box::new(Verify { agree: 3, ..*of }));
    let id = trial.submit(SubmitTask { verify, retry: retry(1), ..submission });
    says(&mut trial, stays[0], "a");
    says(&mut trial, stays[1], "b");
    compared_by(&trial, wide);
    trial.lose(wide);
    assert_eq!(trial.state(id), TaskState::Failed, "three can't agree any more");
    assert!(trial.remains_of(id).is_nothing());
    let again = trial.join(worker("wide"));
    assert!(is_free(&trial, again));
}

#[test]
fn a_run_of_a_lost_agent_that_ends_with_the_comparison_of_the_same_agent_is_redistributed() {
    let (mut trial, stays, wide) = with_wide();
    let id = trial.submit(SubmitTask { retry: retry(2), ..to_compare(1) });
    let other = trial.submit(SubmitTask { required_specialization: Some("near".to_owned()), ..task(2) });
    says(&mut trial, stays[0], "a");
    says(&mut trial, stays[1], "b");
    let (comparison, attempt) = compared_by(&trial, wide);
    trial.complete(wide, comparison, attempt, Outcome::Succeeded(Bytes::from_static(b"maybe")));
    trial.after(DEFAULT_MAX_BACKOFF_MS);
    assert_eq!(compared_by(&trial, wide), (comparison, attempt + 1), "it is the last attempt");
    trial.lose(wide);
    assert_eq!((trial.state(id), trial.state(other)), (TaskState::Failed, TaskState::Queued));
    assert_eq!(trial.recovery(wide.agent), ["lost (Silent) 0", "redistributed 1 0", "removed 0"]);
    trial.join(specialist("late", "near"));
    assert_eq!(trial.recovery(wide.agent).last().map(String::as_str), Some("redistributed 1 0"), "the other one");
}

#[test]
fn a_task_remembers_all_runs_and_comparisons_that_agents_have_not_stopped() {
    const LIMIT: u64 = 600_000;
    let mut trial = Trial::newest();
    let stays = ["w0", "w1", "w2"].map(|name| trial.join(AgentJoin { slots: 2, ..worker(name) }));
    let judge = trial.join(AgentJoin { slots: 6, ..specialist("judge", "near") });
    let id = trial.submit(SubmitTask { attempt_timeout: Some(LIMIT), retry: retry(2), ..to_compare(1) });
    // Each first attempt takes too long, and its agent never says that it has stopped it.
    let again = |trial: &mut Trial| {
        trial.after(LIMIT + ATTEMPT_GRACE_MS + 1);
        trial.after(DEFAULT_MAX_BACKOFF_MS);
    };
    again(&mut trial);
    for (stay, output) in stays.into_iter().zip(["a", "b", "c"]) {
        says(&mut trial, stay, output);
    }
    for _ in 0..3 {
        again(&mut trial);
        judges(&mut trial, judge, "false");
    }
    let verification = trial.task(id).verification.as_ref().expect("it is verified");
    assert_eq!((trial.state(id), verification.stopping.len()), (TaskState::Failed, 6));
    assert_eq!(trial.remains_of(id).agents.len(), 4);
    Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
}

#[test]
fn whoever_gave_the_bytes_of_a_compared_output_does_not_compare_it_either() {
    let near = |name: &str| AgentJoin { specializations: vec!["near".to_owned()], ..worker(name) };
    let mut trial = Trial::newest();
    let stays = ["w0", "w1", "w2", "w3"].map(|name| trial.join(near(name)));
    let submission = to_compare(1);
    let verify = submission.verify.clone().map(|of| Box::new(Verify { agents: 4, agree: 3, ..*of }));
    let id = trial.submit(SubmitTask { verify, ..submission });
    for (stay, output) in stays.into_iter().zip(["a", "a", "b"]) {
        says(&mut trial, stay, output);
    }
    assert!(stays[..3].iter().all(|stay| is_free(&trial, *stay)), "one of them gave the other output, too");
    let words = trial.fleet.waiting_for(id, trial.now).expect("it is queued");
    assert!(words.ends_with("which 1 live agent has besides 3 that gave one of them"), "{words}");
    says(&mut trial, stays[3], "c");
    judges(&mut trial, stays[3], "true");
    assert_eq!((trial.state(id), found(&trial, id)), (TaskState::Succeeded, vec![(1, 3, true, "w3".to_owned())]));
}

#[test]
fn a_task_fails_if_two_outputs_can_not_be_compared() {
    let failed = |attempts, said: Outcome| {
        let (mut trial, stays, judge) = with_judge();
        let id = trial.submit(SubmitTask { retry: retry(attempts), ..to_compare(1) });
        says(&mut trial, stays[0], "a");
        says(&mut trial, stays[1], "b");
        for attempt in 1..=attempts {
            assert_eq!(trial.state(id), TaskState::Queued, "{attempt}");
            let (comparison, number) = trial.held_by(judge);
            trial.complete(judge, comparison, number, said.clone());
            trial.after(DEFAULT_MAX_BACKOFF_MS);
        }
        assert_eq!(trial.fleet.counts().queued + trial.fleet.counts().assigned, 0);
        let failure = trial.task(id).failure.clone().expect("it failed");
        (trial.state(id), failure.kind, failure.message)
    };
    let (state, kind, message) = failed(1, failure(false));
    assert_eq!((state, kind), (TaskState::Failed, FailureKind::Disagreement));
    assert_eq!(message, "the outputs of attempts 1 and 2 could not be compared: exit code 1");
    let (_, kind, message) = failed(2, Outcome::Succeeded(Bytes::from_static(b"maybe")));
    assert_eq!(kind, FailureKind::Disagreement);
    assert!(message.ends_with("must say true or false, and said something else"), "{message}");
}

#[test]
fn without_an_agent_that_compares_a_task_waits_until_its_deadline_and_says_for_what() {
    let mut trial = Trial::newest();
    let stays = ["w0", "w1", "w2"].map(|name| trial.join(worker(name)));
    let id = trial.submit(SubmitTask { deadline_in: Some(1_000), ..to_compare(1) });
    for (stay, output) in stays.into_iter().zip(["a", "b", "c"]) {
        says(&mut trial, stay, output);
    }
    let words = trial.fleet.waiting_for(id, trial.now).expect("it is queued");
    assert!(words.ends_with("which 0 live agents have"), "{words}");
    trial.after(1_000);
    let failure = trial.task(id).failure.clone().expect("it failed");
    assert_eq!((trial.state(id), failure.kind), (TaskState::Failed, FailureKind::Deadline));
    assert!(failure.message.contains("to be compared by an agent with the specialization \"near\""), "{failure:?}");
    assert_eq!(trial.fleet.counts().queued, 0, "the comparison is gone");
}

#[test]
fn a_comparison_ends_with_its_task() {
    let (mut trial, stays, judge) = with_judge();
    let id = trial.submit(to_compare(1));
    says(&mut trial, stays[0], "a");
    says(&mut trial, stays[1], "b");
    let (comparison, attempt) = trial.held_by(judge);
    assert_eq!(trial.cancel(comparison), Reply::Refused(Refusal::UnknownTask { task: comparison }));
    trial.cancel(id);
    assert!(trial.fleet.task(comparison).is_none());
    let stale = trial.complete(judge, comparison, attempt, Outcome::Stopped);
    assert_eq!((stale, is_free(&trial, judge)), (Reply::Done, true));
}

#[test]
fn each_two_of_the_most_outputs_are_compared_once() {
    let mut trial = Trial::newest();
    let stays: Vec<OpenSession> = (0..MAX_VERIFYING_AGENTS).map(|n| trial.join(worker(&format!("w{n}")))).collect();
    let judge = trial.join(specialist("judge", "near"));
    let submission = to_compare(1);
    let verify = submission.verify.clone().map(|of| Box::new(Verify { agents: MAX_VERIFYING_AGENTS, ..*of }));
    let id = trial.submit(SubmitTask { verify, ..submission });
    for (n, stay) in (0u8..).zip(stays) {
        let (member, attempt) = trial.held_by(stay);
        let output = Bytes::from(vec![n]);
        trial.complete(stay, member, attempt, Outcome::Answered { output, digest: [n; 32] });
    }
    let pairs = MAX_VERIFYING_AGENTS * (MAX_VERIFYING_AGENTS - 1) / 2;
    for _ in 0..pairs {
        assert_eq!(trial.state(id), TaskState::Queued);
        judges(&mut trial, judge, "false");
    }
    assert_eq!((trial.state(id), found(&trial, id).len() as u32), (TaskState::Failed, pairs));
    let failure = trial.task(id).failure.clone().expect("it failed");
    assert!(failure.message.contains("with 8 different outputs"), "{failure:?}");
}

#[test]
fn an_output_that_is_too_large_to_be_compared_is_a_failure() {
    let (mut trial, stays, judge) = with_judge();
    let id = trial.submit(to_compare(1));
    let mut answer = |stay: OpenSession, bytes: usize, digest: u8| {
        let (member, attempt) = trial.held_by(stay);
        let output = Bytes::from(vec![digest; bytes]);
        trial.complete(stay, member, attempt, Outcome::Answered { output, digest: [digest; 32] });
    };
    answer(stays[0], MAX_COMPARED_BYTES + 1, 1);
    answer(stays[1], MAX_COMPARED_BYTES, 2);
    answer(stays[2], MAX_COMPARED_BYTES, 3);
    let kind = trial.task(id).attempts[0].failure.as_ref().map(|failure| failure.kind);
    assert_eq!(kind, Some(FailureKind::OutputTooLarge));
    let (comparison, _) = trial.held_by(judge);
    assert!(trial.fleet.input_of(trial.task(comparison)).len() <= MAX_INPUT_BYTES);
}

#[test]
fn what_a_comparison_finds_needs_no_room_and_the_name_of_its_agent_is_kept_if_there_is_some() {
    let mut trial = Trial::with(FleetConfig { max_bytes: 1_000, ..FleetConfig::default() });
    trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    let stays = ["w0", "w1", "w2"].map(|name| trial.join(worker(name)));
    let judge = trial.join(specialist("judge", "near"));
    let id = trial.submit(to_compare(1));
    let wide = trial.join(AgentJoin { slots: 32, ..worker("wide") });
    let filler = |n| SubmitTask { required_role: Some(Role::Worker), input: Bytes::new(), ..task(n) };
    let fillers: Vec<TaskId> = (100..120).map(|n| trial.submit(filler(n))).collect();
    says(&mut trial, stays[0], "a");
    says(&mut trial, stays[1], "b");
    let most = trial.fleet.config().most_stored();
    for filler in fillers {
        let left = most - trial.fleet.stored_bytes();
        let output = Bytes::from(vec![0; left.min(MAX_INPUT_BYTES as u64) as usize]);
        trial.complete(wide, filler, 1, Outcome::Succeeded(output));
    }
    assert_eq!(trial.fleet.stored_bytes(), most);
    judges(&mut trial, judge, "true");
    assert_eq!((trial.state(id), found(&trial, id)), (TaskState::Succeeded, vec![(1, 2, true, String::new())]));
}

#[test]
fn the_limits_of_comparisons_hold_at_their_edges() {
    let with = |pointer: Option<&str>, compare: &str| {
        let (pointer, compare) = (pointer.map(str::to_owned), Some(compare.to_owned()));
        let verify = Some(Box::new(Verify { agents: 3, agree: 2, pointer, compare }));
        SubmitTask { verify, ..task(1) }.check().is_ok()
    };
    assert!(with(None, &"k".repeat(MAX_NAME_BYTES)) && !with(None, &"k".repeat(MAX_NAME_BYTES + 1)));
    assert!(!with(None, "") && !with(None, "a\nb") && !with(Some("/a"), "near"));
    let submitted = |max_queued| {
        let mut trial = Trial::with(FleetConfig { max_queued, ..FleetConfig::default() });
        trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
        trial.apply(Command::Task(TaskCommand::Submit(to_compare(1))))
    };
    assert!(matches!(submitted(4), Reply::Refused(Refusal::QueueFull { .. })), "three runs and a comparison");
    assert!(matches!(submitted(5), Reply::Submitted { .. }));
}

#[test]
fn the_bytes_of_a_snapshot_with_comparisons_are_what_they_always_were() {
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(4)));
    let stays = ["a", "b", "c"].map(|name| trial.join(worker(name)));
    let judge = trial.join(specialist("judge", "near"));
    trial.submit(to_compare(401));
    for (stay, output) in stays.into_iter().zip(["x", "y", "z"]) {
        says(&mut trial, stay, output);
    }
    judges(&mut trial, judge, "false");
    insta::assert_snapshot!(hex(&stable(&trial.fleet)));
}
