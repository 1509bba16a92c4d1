//! A coordinator that is killed and restarted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use robeing::dev::DevEvent;
use robeing_client::FleetClient;
use robeing_proto::v1::{Consistency, FleetStatus};
use robeing_tests::local_fleet::{LocalFleet, signal};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::{Instant, sleep, timeout},
};

use crate::{bed::Started, load::within};

/// How long the process may take to be started again.
const RESTART: Duration = Duration::from_secs(30);
/// How long it may take to have caught up.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// How long a coordinator took from the start of its process.
pub struct Restart {
    /// Until it answered with its own state.
    pub serving: Duration,
    /// Until it had applied everything that the fleet had accepted before it was killed.
    pub caught_up: Duration,
    /// Until it answered with the state of the fleet, for which it has to know a leader.
    pub ready: Duration,
}

/// Kills a coordinator, and waits until it has caught up.
///
/// # Errors
/// If it has not in time.
pub async fn restart(started: &Started, name: &str) -> Result<Restart> {
    let fleet = &started.fleet;
    let status = started.status().await?;
    let address = status.coordinators.iter().find(|one| one.name == name).map(|one| one.address.clone());
    let endpoint = format!("http://{}", address.with_context(|| format!("the fleet has no {name}"))?);
    let pid = fleet.pid_of(name).with_context(|| format!("{name} has no process"))?;
    let mut events = fleet.processes().events();
    signal(pid, Signal::SIGKILL)?;
    let began = within(RESTART, &format!("the restart of {name}"), next_start(&mut events, name)).await?;

    let deadline = began + PATIENCE;
    let (mut serving, mut caught_up) = (None, None);
    while caught_up.is_none() {
        if let Some(own) = ask(fleet, &endpoint, Consistency::Local).await? {
            let now = began.elapsed();
            serving = serving.or(Some(now));
            caught_up = (own.log_applied_index >= status.log_applied_index).then_some(now);
        }
        pause(deadline, name, "has not caught up").await?;
    }
    while ask(fleet, &endpoint, Consistency::Linearizable).await?.is_none() {
        pause(deadline, name, "does not know the state of the fleet").await?;
    }
    let ready = began.elapsed();
    let (serving, caught_up) = (serving.unwrap_or(ready), caught_up.unwrap_or(ready));
    Ok(Restart { serving, caught_up, ready })
}

/// Waits until a process is started again, and returns when that was.
async fn next_start(events: &mut broadcast::Receiver<DevEvent>, name: &str) -> Result<Instant> {
    loop {
        match events.recv().await {
            Ok(DevEvent::Started { name: started, .. }) if started == name => return Ok(Instant::now()),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None.context("the fleet has ended"),
        }
    }
}

/// Asks one coordinator for its status; `None` if it does not answer now. A new client fails at once while nobody listens.
async fn ask(fleet: &LocalFleet, endpoint: &str, consistency: Consistency) -> Result<Option<FleetStatus>> {
    let client: FleetClient = fleet.client_of(&[endpoint.to_owned()])?;
    Ok(timeout(QUESTION, client.status(consistency)).await.ok().and_then(Result::ok))
}

async fn pause(deadline: Instant, name: &str, problem: &str) -> Result<()> {
    ensure!(Instant::now() < deadline, "{name} {problem} {PATIENCE:?} after its restart");
    sleep(POLL).await;
    Ok(())
}
