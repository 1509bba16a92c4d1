//! Measures what watchers of the directory cost: commands applied per second by a coordinator without watchers and with
//! many, in turns, while agents join and leave. Coordinator and watchers are in this process and connected through
//! memory, so the watchers' own work counts against the coordinator.
//!
//! ```text
//! cargo run --release -p robeing-coordinator --example directory_watchers [WATCHERS] [ROUNDS] [AGENTS]
//! ```

use std::{
    error::Error,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use robeing_net::{Transport, limited};
use robeing_platform::{
    Platform,
    simulated::{HostNetwork, MemoryNetwork, SimulatedDisk},
};
use robeing_proto::{
    internal::v1::{
        self as internal, AgentMessage, agent_message::Message as FromAgent, coordinator_message::Message as ToAgent,
        session_client::SessionClient,
    },
    v1::{self, directory_client::DirectoryClient, fleet_client::FleetClient},
};
use robeing_settings::{AuthorityConfig, BallotDefaults, CoordinatorConfig, FleetLimits, TlsMode, Weights, settings};
use robeing_telemetry::Metrics;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};

type Failed = Box<dyn Error + Send + Sync>;

const COORDINATOR: &str = "10.0.0.1:7000";
const CLUSTER: &str = "bench";
/// How long each measurement takes.
const MEASURED: Duration = Duration::from_secs(5);
/// How long the coordinator works with new watchers before it is measured.
const WARM_UP: Duration = Duration::from_secs(2);
/// Tasks that are submitted, and then cancelled, by one call.
const BATCH: usize = 200;
/// Calls in flight.
const CLIENTS: usize = 8;
/// Time between two agents that join or leave.
const CHURN: Duration = Duration::from_millis(50);
/// Watchers that connect at once: more would time out on a machine that is busy with everything else, too.
const STARTING: usize = 256;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let watchers = arguments.next().transpose()?.unwrap_or(10_000);
    let rounds = arguments.next().transpose()?.unwrap_or(5);
    let agents = arguments.next().transpose()?.unwrap_or(1_000);
    let network = MemoryNetwork::default();
    let (running, stop) = (network.clone(), CancellationToken::new());
    let stopped = stop.clone();
    let coordinator = tokio::spawn(async move { run(running, stopped).await });
    let fleet = FleetClient::new(channel(&network, 1)?);
    timeout(PATIENCE, ready(fleet.clone())).await?;
    let mut work = JoinSet::new();
    let members = timeout(PATIENCE, join_all((0..agents).map(|n| join(&network, n)))).await?;
    let _members: Vec<_> = members.into_iter().collect::<Result<_, _>>()?;
    work.spawn(churn(network.clone()));
    let applied = Arc::new(AtomicU64::new(0));
    for client in 0..CLIENTS {
        work.spawn(submit(limited!(fleet.clone()), client as u64, Arc::clone(&applied)));
    }
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        sleep(WARM_UP).await;
        without.push(measure(&applied).await);
        let (watching, told) = watch_all(&network, watchers).await?;
        sleep(WARM_UP).await;
        let before = told.load(Ordering::Relaxed);
        with.push(measure(&applied).await);
        let messages = (told.load(Ordering::Relaxed) - before) as f64 / MEASURED.as_secs_f64();
        let (quiet, watched) = (without[round - 1], with[round - 1]);
        println!(
            "round {round}: {quiet:.0}/s without, {watched:.0}/s with {watchers} watchers, {messages:.0} messages/s"
        );
        drop(watching);
    }
    let (quiet, watched) = (median(without), median(with));
    println!("commands applied, medians: {quiet:.0}/s without, {watched:.0}/s with; ratio {:.3}", watched / quiet);
    drop(work);
    stop.cancel();
    coordinator.await?
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}

async fn measure(applied: &AtomicU64) -> f64 {
    let (before, begun) = (applied.load(Ordering::Relaxed), Instant::now());
    sleep(MEASURED).await;
    (applied.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64()
}

/// Runs the coordinator.
async fn run(network: MemoryNetwork, stop: CancellationToken) -> Result<(), Failed> {
    let config = CoordinatorConfig {
        tls: TlsMode::Off,
        authority: AuthorityConfig::default(),
        listen: COORDINATOR.to_owned(),
        name: "c-0".to_owned(),
        cluster_id: CLUSTER.to_owned(),
        advertise: None,
        data: "/data".into(),
        initial_coordinators: Vec::new(),
        heartbeat_interval: Duration::from_millis(500),
        session_timeout: Duration::from_secs(20),
        health_check_interval: settings::HEALTH_CHECK_INTERVAL.default,
        max_attempts: 5,
        weights: Weights::default(),
        election_timeout_min: Duration::from_millis(500),
        election_timeout_max: Duration::from_millis(1_000),
        disconnect_grace: Duration::from_millis(50),
        limits: FleetLimits { result_ttl: Some(Duration::from_secs(1)), ..FleetLimits::default() },
        snapshot_after: 10_000,
        ballots: BallotDefaults::default(),
        expected_agents: None,
        metrics_listen: None,
    };
    let platform = Platform {
        network: Arc::new(HostNetwork::new(network, stop.clone())),
        disk: Arc::new(SimulatedDisk::new(1)),
        ..Platform::real()
    };
    Ok(robeing_coordinator::run(config, platform, Metrics::default(), stop).await?)
}

/// Returns a channel from the host with this number.
fn channel(network: &MemoryNetwork, host: usize) -> Result<Channel, Failed> {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 0, 0)) + host as u32);
    let host = HostNetwork::new(network.clone(), CancellationToken::new()).at(address);
    Ok(Transport::new(Arc::new(host)).channel(COORDINATOR)?)
}

async fn ready(mut fleet: FleetClient<Channel>) {
    while fleet.get_status(v1::GetStatusRequest::default()).await.is_err() {
        sleep(Duration::from_millis(50)).await;
    }
}

/// Submits tasks that no agent can run and cancels them, as fast as they are accepted.
async fn submit(mut fleet: FleetClient<Channel>, client: u64, applied: Arc<AtomicU64>) -> Result<(), Failed> {
    for batch in 0u64.. {
        let id = |n: usize| format!("{client:08x}-{:04x}-4000-8000-{n:012x}", batch % 0xffff);
        let ids: Vec<String> = (0..BATCH).map(|n| id(n + ((batch / 0xffff) as usize) * BATCH)).collect();
        let task = |id: &String| v1::TaskSpec {
            id: id.clone(),
            kind: "bench".to_owned(),
            required_role: v1::Role::Guardian.into(),
            ..v1::TaskSpec::default()
        };
        let tasks = ids.iter().map(task).collect();
        let results = fleet.submit(v1::SubmitRequest { tasks }).await?.into_inner().results;
        let accepted = results.iter().filter(|result| result.refusal.is_none()).count();
        fleet.cancel_tasks(v1::CancelTasksRequest { ids, ..v1::CancelTasksRequest::default() }).await?;
        applied.fetch_add(2 * accepted as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// An agent with a session.
struct Member {
    messages: mpsc::Sender<AgentMessage>,
    told: Streaming<internal::CoordinatorMessage>,
}

async fn open(network: &MemoryNetwork, n: usize) -> Result<Member, Failed> {
    let (messages, receiver) = mpsc::channel(4);
    let hello = internal::Hello {
        cluster_id: CLUSTER.to_owned(),
        name: format!("agent-{n:05}"),
        incarnation: 1,
        role: v1::Role::Worker.into(),
        pool: "workers".to_owned(),
        specializations: vec!["reading".to_owned(), "writing".to_owned()],
        slots: 4,
        address: format!("agent-{n:05}.workers.default.svc:7000"),
        ..internal::Hello::default()
    };
    messages.send(AgentMessage { message: Some(FromAgent::Hello(hello)) }).await?;
    let mut client = limited!(SessionClient::new(channel(network, 100 + n)?));
    let mut told = client.open(ReceiverStream::new(receiver)).await?.into_inner();
    while let Some(message) = told.message().await? {
        if let Some(ToAgent::Welcome(_)) = message.message {
            return Ok(Member { messages, told });
        }
    }
    Err("the session was not opened".into())
}

/// Opens a session and keeps it.
async fn join(network: &MemoryNetwork, n: usize) -> Result<JoinSet<()>, Failed> {
    let Member { messages, mut told } = open(network, n).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { while let Ok(Some(_)) = told.message().await {} });
    tasks.spawn(async move {
        let mut beats = interval(Duration::from_secs(2));
        for seq in 1.. {
            beats.tick().await;
            let beat = FromAgent::Heartbeat(internal::Heartbeat { seq, ..internal::Heartbeat::default() });
            if messages.send(AgentMessage { message: Some(beat) }).await.is_err() {
                return;
            }
        }
    });
    Ok(tasks)
}

/// Lets agents join and leave.
async fn churn(network: MemoryNetwork) -> Result<(), Failed> {
    let mut times = interval(CHURN);
    loop {
        for n in 0..10 {
            times.tick().await;
            let mut member = open(&network, 90_000 + n).await?;
            times.tick().await;
            member.messages.send(AgentMessage { message: Some(FromAgent::Leave(internal::Leave {})) }).await?;
            while let Ok(Some(_)) = member.told.message().await {}
        }
    }
}

/// Starts watchers, each with a connection of its own, and waits until each has everything.
async fn watch_all(network: &MemoryNetwork, watchers: usize) -> Result<(JoinSet<()>, Arc<AtomicU64>), Failed> {
    let (mut tasks, told) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
    let (complete, mut completed) = watch::channel(0);
    let complete = Arc::new(complete);
    let starting = Arc::new(Semaphore::new(STARTING));
    for n in 0..watchers {
        let channel = channel(network, 200_000 + n)?;
        let (told, complete) = (Arc::clone(&told), Arc::clone(&complete));
        let starts = Arc::clone(&starting).acquire_owned().await?;
        tasks.spawn(async move {
            let mut starts = Some(starts);
            let mut client = limited!(DirectoryClient::new(channel));
            let stream = match client.watch_agents(v1::WatchAgentsRequest::default()).await {
                Ok(stream) => stream,
                Err(status) => return eprintln!("watcher {n} is refused: {status}"),
            };
            let (mut stream, mut is_complete) = (stream.into_inner(), false);
            while let Ok(Some(message)) = stream.message().await {
                told.fetch_add(1, Ordering::Relaxed);
                if message.revision > 0 && !std::mem::replace(&mut is_complete, true) {
                    complete.send_modify(|complete| *complete += 1);
                    drop(starts.take());
                }
            }
        });
    }
    timeout(PATIENCE, completed.wait_for(|complete| *complete == watchers)).await??;
    Ok((tasks, told))
}
