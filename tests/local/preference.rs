//! Leadership moves to a coordinator that is clearly better, and tasks are still accepted: three coordinators in this
//! process, with real sockets and disks. The machine of one of them is reported as fully used.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use robeing_client::{FleetClient, Settings, SubmitOptions};
use robeing_coordinator as coordinator;
use robeing_platform::{Host, Platform};
use robeing_proto::v1::{Consistency, FleetStatus, TaskSpec};
use robeing_settings::{AuthorityConfig, BallotDefaults, CoordinatorConfig, FleetLimits, TlsMode, Weights};
use robeing_telemetry::Metrics;
use robeing_tests::{
    ports::Ports,
    wait::{check, eventually, in_time},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// The time for a transfer: much more than the half minute for which another coordinator must have been better.
const TRANSFER: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A machine that has everything free, or nothing.
#[derive(Clone, Default)]
struct Machine(Arc<AtomicBool>);

impl Host for Machine {
    fn free_share(&self) -> f64 {
        if self.0.load(Ordering::Relaxed) { 0.0 } else { 1.0 }
    }
}

fn config(name: &str, data: &Path, members: &[(String, String)]) -> CoordinatorConfig {
    let (_, address) = members.iter().find(|(known, _)| known == name).expect("it is a member");
    CoordinatorConfig {
        listen: address.clone(),
        name: name.to_owned(),
        cluster_id: "preference".to_owned(),
        advertise: None,
        data: data.join(name),
        initial_coordinators: members.to_vec(),
        heartbeat_interval: Duration::from_millis(500),
        session_timeout: Duration::from_secs(2),
        health_check_interval: Duration::from_secs(10),
        max_attempts: 5,
        weights: Weights::default(),
        election_timeout_min: Duration::from_millis(500),
        election_timeout_max: Duration::from_millis(1000),
        disconnect_grace: Duration::from_millis(50),
        limits: FleetLimits::default(),
        snapshot_after: 10_000,
        ballots: BallotDefaults::default(),
        expected_agents: None,
        metrics_listen: None,
        tls: TlsMode::Off,
        authority: AuthorityConfig::default(),
    }
}

/// Returns the status, if there is a leader.
async fn leader(client: &FleetClient) -> Result<FleetStatus, String> {
    let status = client.status(Consistency::Linearizable).await.map_err(|error| error.to_string())?;
    let known = !status.leader.is_empty();
    check(known, status, "there is no leader".to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clearly_better_coordinator_is_given_the_lead() {
    let ports = Ports::take(3);
    let members: Vec<(String, String)> =
        ports.numbers().iter().enumerate().map(|(n, port)| (format!("c{n}"), format!("127.0.0.1:{port}"))).collect();
    let data = tempfile::tempdir().expect("a directory");
    let (stop, mut running, mut machines) = (CancellationToken::new(), JoinSet::new(), BTreeMap::new());
    for (name, _) in &members {
        let machine = Machine::default();
        let platform = Platform { host: Arc::new(machine.clone()), ..Platform::real() };
        running.spawn(coordinator::run(
            config(name, data.path(), &members),
            platform,
            Metrics::default(),
            stop.clone(),
        ));
        machines.insert(name.clone(), machine);
    }
    let endpoints: Vec<String> = members.iter().map(|(_, address)| address.clone()).collect();
    let client = FleetClient::new(&endpoints, Settings::default()).expect("the addresses are well formed");
    let before = eventually("a leader", async || leader(&client).await).await;

    machines[&before.leader].0.store(true, Ordering::Relaxed);
    let after = timeout(TRANSFER, async {
        loop {
            match leader(&client).await {
                Ok(status) if status.leader != before.leader => return status,
                _ => sleep(LOOK_EVERY).await,
            }
        }
    })
    .await
    .expect("leadership moves");
    let score = |status: &FleetStatus, name: &str| {
        let found = status.coordinators.iter().find(|coordinator| coordinator.name == name);
        found.and_then(|coordinator| coordinator.leader_score).map(|score| score.resources)
    };
    let seen = eventually("scores reported by the new leader", async || {
        let status = leader(&client).await?;
        let (new, old) = (score(&status, &after.leader), score(&status, &before.leader));
        check(new == Some(1.0) && old == Some(0.0), status, format!("{new:?}, {old:?}"))
    })
    .await;
    assert_ne!(seen.leader, before.leader, "the new leader remains");
    let task = TaskSpec { id: robeing_client::new_task_id(), kind: "any".into(), ..TaskSpec::default() };
    let taken = client.submit_many(vec![task], SubmitOptions::default(), |_| ()).await;
    taken.expect("the new leader accepts tasks");

    stop.cancel();
    in_time("all ended", async {
        while let Some(ended) = running.join_next().await {
            ended.expect("no panic").expect("a coordinator that is stopped ends without an error");
        }
    })
    .await;
}
