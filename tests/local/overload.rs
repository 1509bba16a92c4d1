//! A fleet with more load than it can handle: a few bulk submitters neither fill its memory nor delay the tasks of
//! others or the messages that keep the fleet working.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use prost_types::Duration as WireDuration;
use robeing_proto::{
    MAX_MESSAGE_BYTES,
    v1::{
        AgentState, GetTaskRequest, StreamedTask, SubmitStreamRequest, TaskSpec, TaskState, WatchTasksRequest,
        fleet_client::FleetClient, streamed_answer::Answer,
    },
};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    script::{answer, task},
    scripted_agent::{HandAgent, hello},
    wait::{check, eventually},
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_stream::StreamExt;

const MIB: u64 = 1024 * 1024;
/// The limit on what a fleet keeps, in bytes (`max-bytes`).
const MAX_BYTES: u64 = 128 * MIB;
/// The memory that a coordinator may use in addition to twice that limit, in bytes.
const BESIDES: u64 = 300 * MIB;
/// The number of bulk submitters, each with one stream.
const STREAMS: usize = 4;
/// The size of each of their inputs, in bytes.
const INPUT: usize = 1_000_000;
/// The number of the bulk submitters' tasks that must be accepted before other tasks are timed, and again afterwards.
const UNDER_WAY: u64 = 40;
/// The number of other tasks that are timed.
const OTHERS: usize = 20;

/// The results of the bulk submitters' submissions.
#[derive(Debug, Default)]
struct Bulk {
    sent: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
}

fn millis(millis: u64) -> Option<WireDuration> {
    Some(WireDuration::try_from(Duration::from_millis(millis)).expect("it is short"))
}

/// Creates a large task that no agent can run and that is removed after a second, so that there is always room for
/// other tasks.
fn bulk_task(input: &Bytes) -> TaskSpec {
    TaskSpec {
        id: robeing_client::new_task_id(),
        kind: "bulk".into(),
        input: input.clone(),
        required_specialization: "nobody has it".into(),
        deadline_in: millis(1_000),
        result_ttl: millis(1),
        ..TaskSpec::default()
    }
}

/// Submits as fast as the coordinator accepts, until it is aborted.
async fn submit_in_bulk(address: String, bulk: Arc<Bulk>) {
    let mut client = FleetClient::connect(format!("http://{address}")).await.expect("it listens");
    let input = Bytes::from(vec![b'x'; INPUT]);
    let sent = Arc::clone(&bulk);
    let requests = futures::stream::repeat_with(move || {
        let tag = sent.sent.fetch_add(1, Ordering::Relaxed);
        SubmitStreamRequest { tasks: vec![StreamedTask { tag, task: Some(bulk_task(&input)), wait: false }] }
    });
    let mut answers = client.submit_stream(requests).await.expect("the stream opens").into_inner();
    while let Some(told) = answers.next().await {
        let told = told.unwrap_or_else(|status| panic!("a bulk submitter's stream broke: {status}"));
        for of in told.answers {
            let Some(Answer::Submitted(result)) = of.answer else { continue };
            match result.refusal {
                None => bulk.accepted.fetch_add(1, Ordering::Relaxed),
                Some(refusal) => {
                    assert_eq!(refusal.code, "RESOURCE_EXHAUSTED", "{refusal:?}");
                    bulk.refused.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    }
}

async fn is_under_way(bulk: &Bulk) {
    let before = bulk.accepted.load(Ordering::Relaxed);
    eventually("the bulk submitters' tasks are accepted", async || {
        let accepted = bulk.accepted.load(Ordering::Relaxed);
        check(accepted >= before + UNDER_WAY, (), format!("{bulk:?}"))
    })
    .await;
}

struct Load {
    bulk: Arc<Bulk>,
    streams: Vec<JoinHandle<()>>,
}

impl Load {
    async fn begin(fleet: &Fleet) -> Self {
        let bulk = Arc::new(Bulk::default());
        let coordinators = fleet.coordinators();
        let at = |n: usize| fleet.address(&coordinators[n % coordinators.len()]);
        let streams = (0..STREAMS).map(|n| tokio::spawn(submit_in_bulk(at(n), Arc::clone(&bulk)))).collect();
        is_under_way(&bulk).await;
        Self { bulk, streams }
    }

    async fn goes_on(&self) {
        is_under_way(&self.bulk).await;
        assert!(self.streams.iter().all(|stream| !stream.is_finished()), "{:?}", self.bulk);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.streams.iter().for_each(JoinHandle::abort);
    }
}

/// Returns the times until other tasks are accepted, submitted one after the other, in increasing order.
async fn times_of_others(fleet: &Fleet) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..OTHERS {
        let began = Instant::now();
        fleet.submit_one(TaskSpec { deadline_in: millis(60_000), ..task(&answer("small")) }).await;
        times.push(began.elapsed());
    }
    times.sort();
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_submitters_fill_no_memory_and_delay_nobody() {
    let spec = FleetSpec::new(3)
        .pool(PoolSpec::new("work", 2).slots(2))
        .session_timeout("10s")
        .flag("max-bytes", &MAX_BYTES.to_string());
    let mut fleet = Fleet::start(spec).await;
    let gate = fleet.gate("all");
    let id = fleet.submit_one(task(&format!("{}\n{}", gate.wait(), answer("through")))).await;
    fleet.executing(&id, 1).await;
    let victim = fleet.task(&id).await.attempts[0].agent.clone();
    let term = fleet.status().await.term;

    let load = Load::begin(&fleet).await;
    let others = times_of_others(&fleet).await;

    let began = Instant::now();
    fleet.kill(&victim);
    fleet.executing(&id, 2).await;
    let takeover = began.elapsed();

    let leader = fleet.leader().await;
    let began = Instant::now();
    let joined = HandAgent::open(&fleet.address(&leader), hello("late")).await.expect("it joins");
    let join = began.elapsed();
    load.goes_on().await;
    fleet.agent_is(&victim, AgentState::Lost).await;
    drop(joined);

    let mut memory = BTreeMap::new();
    for name in fleet.coordinators() {
        memory.insert(name.clone(), fleet.process(&name).peak_memory() / MIB);
    }
    let (bulk, median, longest) = (&load.bulk, others[OTHERS / 2], others[OTHERS - 1]);
    // What CI measures depends on its machine, so it is only printed here.
    eprintln!("{bulk:?}: others' tasks {median:?} (longest {longest:?}), takeover {takeover:?}, join {join:?}");
    eprintln!("peak memory, MiB: {memory:?}");
    assert!(
        memory.values().all(|mib| *mib <= (2 * MAX_BYTES + BESIDES) / MIB),
        "a coordinator used more than twice its limit and 300 MiB: {memory:?} MiB"
    );
    drop(load);
    assert_eq!(fleet.status().await.term, term, "the leader has not changed");
    gate.open();
    fleet.finished(&id, TaskState::Succeeded).await;
}

/// The number of results of the largest allowed size; together they are larger than a message may be.
const RESULTS: usize = 60;

#[tokio::test]
async fn results_beyond_any_message_reach_a_reader_who_was_slow_and_a_watcher() {
    let echo = PoolSpec::new("echo", 1).slots(8).executor(serde_json::json!({"echo": {}}));
    let fleet = Fleet::start(FleetSpec::new(1).pool(echo).session_timeout("10s")).await;
    let address = format!("http://{}", fleet.address(&fleet.coordinators()[0]));
    let client = FleetClient::connect(address).await.expect("it listens");
    let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
    let input = Bytes::from(vec![b'x'; 1024 * 1024]);
    let spec = || TaskSpec { id: robeing_client::new_task_id(), kind: "echo".into(), ..TaskSpec::default() };
    let tasks: Vec<TaskSpec> = (0..RESULTS).map(|_| TaskSpec { input: input.clone(), ..spec() }).collect();
    let ids: Vec<String> = tasks.iter().map(|task| task.id.clone()).collect();
    let requests = (0..)
        .zip(tasks)
        .map(|(tag, task)| SubmitStreamRequest { tasks: vec![StreamedTask { tag, task: Some(task), wait: true }] });
    let mut answers =
        client.submit_stream(tokio_stream::iter(requests.collect::<Vec<_>>())).await.expect("a stream").into_inner();
    // Nothing is read before all of them have ended.
    for id in &ids {
        let request = GetTaskRequest { id: id.clone(), ..GetTaskRequest::default() };
        let client = fleet.client();
        eventually("the end of the task", async || {
            let task = client.get_task(request.clone()).await.map_err(|error| error.to_string())?;
            check(task.state() == TaskState::Succeeded, (), format!("{:?}", task.state()))
        })
        .await;
    }
    let mut finished = Vec::new();
    while finished.len() < RESULTS {
        let told =
            answers.next().await.expect("the stream ends after the last result").expect("no message is too large");
        for of in told.answers {
            match of.answer {
                Some(Answer::Finished(task)) => {
                    assert_eq!(task.output, input, "the complete result");
                    finished.push(of.tag);
                }
                Some(Answer::Submitted(result)) => assert_eq!(result.refusal, None),
                other => panic!("{other:?}"),
            }
        }
    }
    finished.sort_unstable();
    assert_eq!(finished, (0..RESULTS as u64).collect::<Vec<_>>(), "each result once");

    let request = WatchTasksRequest { include_output: true, ..WatchTasksRequest::default() };
    let mut watch = client.watch_tasks(request).await.expect("a watch").into_inner();
    let mut seen = Vec::new();
    while seen.len() < RESULTS {
        let told = watch.next().await.expect("a watch has no end").expect("no message is too large");
        seen.extend(told.tasks.into_iter().map(|task| task.id));
    }
    assert_eq!(seen.iter().collect::<std::collections::BTreeSet<_>>().len(), RESULTS, "each task once");
}
