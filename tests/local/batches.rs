//! Batches: thousands of small tasks in one message of a stream, or in one call, share what they cost, and each has an
//! outcome of its own.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use robeing_client::new_task_id;
use robeing_fleet::limits::MAX_SLOTS;
use robeing_proto::{
    MAX_MESSAGE_BYTES,
    budget::MESSAGE_BUDGET_BYTES,
    internal::v1::{
        Assignment, Completion, CompletionAck, Completions, Hello, agent_message::Message as Said,
        coordinator_message::Message as Told,
    },
    v1::{
        Role, StreamedAnswer, StreamedTask, SubmitRequest, SubmitResult, SubmitStreamRequest, SubmitStreamResponse,
        Task, TaskSpec, TaskState, fleet_client::FleetClient as Rpc, streamed_answer::Answer,
    },
};
use robeing_tests::{
    counter::Counter,
    fleet::{Fleet, FleetSpec},
    script::task,
    scripted_agent::{HandAgent, completion, hello},
    wait::in_time,
};
use tonic::{Streaming, transport::Channel};

/// The tasks of a batch that are accepted: as many as one agent runs at once.
const TASKS: usize = 4_000;
const _: () = assert!(TASKS <= MAX_SLOTS as usize);
/// The size of an input, and of an output besides the id of its task.
const SMALL: usize = 512;
/// The completions in one message of the worker, besides one that is refused.
const AT_ONCE: usize = 1_000;
/// The most messages in which a batch comes, and the most syncs of the log that it costs: far fewer than tasks. An
/// assignment or an acknowledgement in a message of its own, or a write for each task, exceeds this twenty times.
const SHARED: usize = TASKS / 20;

async fn rpc(fleet: &Fleet) -> Rpc<Channel> {
    let address = format!("http://{}", fleet.address("coordinator-0"));
    Rpc::connect(address).await.expect("it listens").max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// Joins with room for a whole batch.
async fn join(fleet: &Fleet, name: &str, role: Role) -> HandAgent {
    let said = Hello { role: role.into(), slots: MAX_SLOTS, ..hello(name) };
    HandAgent::open(&fleet.address("coordinator-0"), said).await.expect("a valid Hello")
}

/// Returns a batch, and the places in it of the tasks that are refused. The last task is the first one once more.
fn batch() -> (Vec<TaskSpec>, BTreeSet<usize>) {
    let mut tasks: Vec<TaskSpec> = (0..TASKS).map(|_| task(&"x".repeat(SMALL))).collect();
    tasks.push(tasks[0].clone());
    let no_id = TaskSpec { id: "no id".into(), ..task("") };
    let no_kind = TaskSpec { kind: "k".repeat(254), ..task("") };
    let wrong = [(7, no_id), (TASKS / 2, no_kind)];
    let places = wrong.iter().map(|(place, _)| *place).collect();
    for (place, task) in wrong {
        tasks.insert(place, task);
    }
    (tasks, places)
}

/// Returns all assignments of a batch, and the number of messages in which they came.
async fn assignments(worker: &mut HandAgent) -> (Vec<Assignment>, usize) {
    let (mut assignments, mut messages) = (Vec::new(), 0);
    while assignments.len() < TASKS {
        match worker.next().await {
            Ok(Some(Told::Assignments(given))) => {
                let bytes = given.encoded_len();
                assert!(bytes <= MESSAGE_BUDGET_BYTES, "{} assignments in {bytes} bytes", given.assignments.len());
                assignments.extend(given.assignments);
                messages += 1;
            }
            Ok(Some(_)) => {}
            ended => panic!("the session ended: {ended:?}"),
        }
    }
    (assignments, messages)
}

/// Returns so many acknowledgements, and the number of messages in which they came.
async fn acknowledgements(worker: &mut HandAgent, count: usize) -> (Vec<CompletionAck>, usize) {
    let (mut acks, mut messages) = (Vec::new(), 0);
    while acks.len() < count {
        match worker.next().await {
            Ok(Some(Told::CompletionAcks(told))) => {
                acks.extend(told.acks);
                messages += 1;
            }
            Ok(Some(_)) => {}
            ended => panic!("the session ended: {ended:?}"),
        }
    }
    (acks, messages)
}

/// Returns the output of a task.
fn output(id: &str) -> String {
    format!("{id} {}", "y".repeat(SMALL))
}

/// Returns the completions of all assignments in messages, each with one in its middle that is to be refused; and what
/// those are of.
fn completions(given: &[Assignment]) -> (Vec<Completions>, BTreeSet<(String, u32)>) {
    let of_task = |id: &str| Assignment { task_id: id.into(), ..Assignment::default() };
    // Of a task that does not exist, of none at all, of an attempt that nobody was given at a task that is not finished
    // yet, and of an attempt that has just been completed.
    let wrong = [
        completion(&of_task(&new_task_id()), 1, "unknown"),
        completion(&of_task("no id"), 1, "none"),
        completion(&given[3 * AT_ONCE - 1], 9, "another attempt"),
        completion(&given[3 * AT_ONCE], given[3 * AT_ONCE].attempt, "once more"),
    ];
    assert_eq!(given.len(), wrong.len() * AT_ONCE);
    let keys = wrong.iter().map(|of| (of.task_id.clone(), of.attempt)).collect();
    let messages = given.chunks(AT_ONCE).zip(wrong).map(|(given, wrong)| {
        let right = given.iter().map(|of| completion(of, of.attempt, &output(&of.task_id)));
        let mut completions: Vec<Completion> = right.collect();
        completions.insert(AT_ONCE / 2, wrong);
        Completions { completions }
    });
    (messages.collect(), keys)
}

/// What a stream has answered, by tag.
#[derive(Default)]
struct Answers {
    submitted: BTreeMap<usize, SubmitResult>,
    finished: BTreeMap<usize, Task>,
}

/// Reads a stream to its end. No task may be answered or be reported as finished twice, and each is answered first.
async fn answers(mut stream: Streaming<SubmitStreamResponse>) -> Answers {
    let mut all = Answers::default();
    while let Some(told) = in_time("an answer", stream.message()).await.expect("the stream is in order") {
        assert!(told.encoded_len() <= 2 * MESSAGE_BUDGET_BYTES, "{} answers", told.answers.len());
        for StreamedAnswer { tag, answer } in told.answers {
            let tag = usize::try_from(tag).expect("a tag of the batch");
            let is_first = match answer {
                Some(Answer::Submitted(result)) => all.submitted.insert(tag, result).is_none(),
                Some(Answer::Finished(task)) => {
                    assert!(all.submitted.contains_key(&tag), "{tag} is finished before it is accepted");
                    all.finished.insert(tag, task).is_none()
                }
                other => panic!("{tag}: {other:?}"),
            };
            assert!(is_first, "{tag} is told twice");
        }
    }
    all
}

/// Checks that each task of a batch was accepted once and has succeeded with its own output, except for `wrong` ones.
fn assert_own_outcomes(tasks: &[TaskSpec], wrong: &BTreeSet<usize>, all: &Answers) {
    assert_eq!(all.submitted.len(), tasks.len());
    for (place, task) in tasks.iter().enumerate() {
        let (result, finished) = (&all.submitted[&place], all.finished.get(&place));
        assert_eq!(result.task_id, task.id, "the answer to {place}");
        let refusal = result.refusal.as_ref().map(|refusal| refusal.code.as_str());
        if wrong.contains(&place) {
            assert_eq!((refusal, finished), (Some("INVALID_ARGUMENT"), None), "{place}");
            continue;
        }
        assert_eq!((refusal, result.existing), (None, place == tasks.len() - 1), "{place}: {result:?}");
        let finished = finished.unwrap_or_else(|| panic!("{place} has no outcome"));
        assert_eq!((finished.state(), finished.attempts.len()), (TaskState::Succeeded, 1), "{place}: {finished:?}");
        assert_eq!(finished.output, output(&task.id), "the output of {place}");
    }
}

#[tokio::test]
async fn thousands_of_tasks_share_messages_and_writes_and_each_has_its_own_outcome() {
    // Long, because scripted agents send no heartbeats.
    let fleet = Fleet::start(FleetSpec::new(1).session_timeout("60s")).await;
    let metrics = fleet.metrics_address("coordinator-0");
    // It has as much room, and its role takes no task that does not require it.
    let _messenger = join(&fleet, "relay", Role::Messenger).await;
    let mut worker = join(&fleet, "batcher", Role::Worker).await;
    let succeeded = Counter::of(&metrics, "robeing_tasks_succeeded").await;
    let syncs = Counter::of(&metrics, "robeing_log_syncs").await;

    let (tasks, wrong) = batch();
    let streamed = (0..).zip(&tasks).map(|(tag, task)| StreamedTask { tag, task: Some(task.clone()), wait: true });
    let request = SubmitStreamRequest { tasks: streamed.collect() };
    let mut rpc = rpc(&fleet).await;
    let stream = rpc.submit_stream(tokio_stream::iter([request])).await.expect("a stream").into_inner();
    let (given, messages) = assignments(&mut worker).await;
    assert!(messages <= SHARED, "{TASKS} assignments in {messages} messages");
    let expected = tasks.iter().enumerate().filter(|(place, _)| !wrong.contains(place));
    let expected: BTreeSet<(String, u32)> = expected.map(|(_, task)| (task.id.clone(), 1)).collect();
    let got: BTreeSet<_> = given.iter().map(|of| (of.task_id.clone(), of.attempt)).collect();
    assert!(given.len() == TASKS && got == expected, "the worker gets each task of the batch, and each once");

    let (said, refused) = completions(&given);
    let count = TASKS + refused.len();
    for completions in said {
        worker.say(Said::Completions(completions)).await;
    }
    let (acks, messages) = acknowledgements(&mut worker, count).await;
    assert!(messages <= SHARED, "{count} acknowledgements in {messages} messages");
    let of = |accepted: bool| acks.iter().filter(move |ack| ack.accepted == accepted);
    let keys = |accepted| of(accepted).map(|ack| (ack.task_id.clone(), ack.attempt)).collect::<BTreeSet<_>>();
    assert_eq!((of(true).count(), of(false).count()), (TASKS, refused.len()));
    assert!(keys(true) == expected, "each attempt is accepted, and once");
    assert_eq!(keys(false), refused);
    assert!(of(false).all(|ack| !ack.reason.is_empty()), "each refusal has a reason");

    assert_own_outcomes(&tasks, &wrong, &answers(stream).await);
    succeeded.rises_by(TASKS as u64).await;
    let syncs = syncs.now().await;
    assert!(syncs <= SHARED as u64, "{TASKS} tasks cost {syncs} syncs of the log");
}

#[tokio::test]
async fn each_task_of_a_call_has_its_own_result_in_the_order_of_the_request() {
    const CALLED: usize = 1_000;
    let fleet = Fleet::start(FleetSpec::new(1).session_timeout("60s")).await;
    let wrong = [0, CALLED / 2, CALLED - 1];
    let mut tasks: Vec<TaskSpec> = (0..CALLED).map(|_| task("nobody runs it")).collect();
    for place in wrong {
        tasks[place].kind = "k".repeat(254);
    }
    let mut rpc = rpc(&fleet).await;
    // Whoever does not know whether it was accepted submits it again.
    for is_again in [false, true] {
        let told = rpc.submit(SubmitRequest { tasks: tasks.clone() }).await.expect("each task has its own result");
        let results = told.into_inner().results;
        assert_eq!(results.len(), CALLED);
        for (place, (task, result)) in tasks.iter().zip(&results).enumerate() {
            let is_wrong = wrong.contains(&place);
            let code = result.refusal.as_ref().map(|refusal| refusal.code.as_str());
            assert_eq!(result.task_id, task.id, "the result of {place}");
            assert_eq!(code, is_wrong.then_some("INVALID_ARGUMENT"), "{place}: {result:?}");
            assert_eq!(result.existing, is_again && !is_wrong, "{place}: {result:?}");
        }
        let queued = fleet.status().await.tasks.unwrap_or_default().queued;
        assert_eq!(queued, (CALLED - wrong.len()) as u64, "each is accepted once");
    }
}
