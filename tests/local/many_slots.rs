//! Agents with the maximum number of slots, all of them taken: the effect of a leader change on them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use robeing_proto::{
    v1::{AgentState, CancelTasksRequest, TaskSpec},
    worker::v1::{
        FromProcess, Hello, Stopped, TaskResult, from_process, task_result, to_process, worker_client::WorkerClient,
    },
};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    script::task,
    wait::{check, eventually},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

const AGENTS: u32 = 3;
const SLOTS: usize = 4_096;
/// The number of tasks in one submission.
const AT_ONCE: usize = 1_000;

/// What the attached processes have seen; they only hold their tasks.
#[derive(Default)]
struct Seen {
    runs: AtomicUsize,
    stops: AtomicUsize,
}

fn said(message: from_process::Message) -> FromProcess {
    FromProcess { message: Some(message) }
}

fn result(task_id: String, attempt: u32, outcome: task_result::Outcome) -> FromProcess {
    said(from_process::Message::Result(TaskResult { task_id, attempt, outcome: Some(outcome) }))
}

/// Attaches to an agent and holds the tasks that it gets, until all are to be finished.
async fn hold(mut client: WorkerClient<Channel>, seen: Arc<Seen>, mut finish: watch::Receiver<bool>) {
    let (say, outgoing) = mpsc::channel(64);
    let hello = Hello { name: "holder".into(), ..Hello::default() };
    say.send(said(from_process::Message::Hello(hello))).await.expect("the receiver exists");
    let mut incoming = client.attach(ReceiverStream::new(outgoing)).await.expect("it is attached").into_inner();
    let mut held = Vec::new();
    loop {
        let message = tokio::select! {
            message = incoming.message() => message.expect("the agent lives").and_then(|message| message.message),
            _ = finish.wait_for(|finish| *finish) => break,
        };
        match message {
            Some(to_process::Message::Task(task)) => {
                seen.runs.fetch_add(1, Ordering::SeqCst);
                held.push((task.task_id, task.attempt));
            }
            Some(to_process::Message::Stop(stop)) => {
                seen.stops.fetch_add(1, Ordering::SeqCst);
                held.retain(|(id, attempt)| (id, *attempt) != (&stop.task_id, stop.attempt));
                let stopped = task_result::Outcome::Stopped(Stopped {});
                say.send(result(stop.task_id, stop.attempt, stopped)).await.expect("the agent lives");
            }
            // Its Hello did not announce that it answers health checks, handles messages or takes batches.
            Some(to_process::Message::Welcome(_) | to_process::Message::HealthCheck(_)) => {}
            Some(to_process::Message::Incoming(_) | to_process::Message::SendOutcome(_)) => {}
            Some(to_process::Message::Batch(_)) => {}
            None => return,
        }
    }
    for (id, attempt) in held {
        let output = task_result::Outcome::Output("done".into());
        say.send(result(id, attempt, output)).await.expect("the agent lives");
    }
    // Stays attached until the test ends.
    while let Ok(Some(_)) = incoming.message().await {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_takes_nothing_from_agents_that_run_thousands_of_tasks() {
    let pool = PoolSpec::new("own", AGENTS).slots(1).flag("slots", &SLOTS.to_string()).executor(json!({"worker": {}}));
    let mut fleet = Fleet::prepare(FleetSpec::new(3).pool(pool).session_timeout("6s"));
    fleet.start_all();
    fleet.leader().await;
    let (seen, (finish, finished)) = (Arc::new(Seen::default()), watch::channel(false));
    let mut holders = JoinSet::new();
    for agent in fleet.agent_names() {
        let address = format!("http://{}", fleet.attach_address(&agent));
        let client = eventually("an agent to attach to", async || {
            WorkerClient::connect(address.clone()).await.map_err(|error| error.to_string())
        });
        holders.spawn(hold(client.await, Arc::clone(&seen), finished.clone()));
    }
    for agent in fleet.agent_names() {
        fleet.agent_is(&agent, AgentState::Live).await;
    }
    let all = AGENTS as usize * SLOTS;
    let mut ids = Vec::new();
    while ids.len() < all {
        let tasks: Vec<TaskSpec> = (0..AT_ONCE.min(all - ids.len())).map(|_| task("held")).collect();
        ids.extend(fleet.submit(tasks).await);
    }
    let runs = || seen.runs.load(Ordering::SeqCst);
    eventually("every slot is taken", async || check(runs() == all, (), runs())).await;

    let old = fleet.leader().await;
    fleet.kill(&old);
    fleet.leader_other_than(&old).await;
    // A stop reaches an agent over its session with the new leader.
    let cancelled: Vec<String> = ids.iter().step_by(all / 16).cloned().collect();
    let cancel = CancelTasksRequest { ids: cancelled.clone(), reason: "a test".into(), wait: None };
    fleet.client().cancel_tasks(cancel).await.expect("a leader cancels");
    let stops = || seen.stops.load(Ordering::SeqCst);
    eventually("cancelled tasks are stopped", async || check(stops() == cancelled.len(), (), stops())).await;
    finish.send_replace(true);
    let status = eventually("every task has ended", async || {
        let status = fleet.status().await;
        let ended = status.finished_total.unwrap_or_default();
        check((ended.succeeded + ended.cancelled) as usize == all, status.clone(), format!("{status:?}"))
    })
    .await;
    let ended = status.finished_total.unwrap_or_default();
    assert_eq!((ended.dead_lettered, ended.failed, status.redistributed_total), (0, 0, 0), "{status:?}");
    assert_eq!((runs(), stops()), (all, cancelled.len()), "each task ran once");
}
