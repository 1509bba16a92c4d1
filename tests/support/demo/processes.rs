//! The demo on this machine: a fleet of processes, some of which are killed.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use nix::sys::signal::Signal;
use robeing_proto::v1::{Agent, FleetStatus};
use tokio::time::timeout;

use super::{
    TIME_LIMIT, leak_check,
    narrator::Narrator,
    play::{self, Stage},
    work::Exercise,
};
use crate::local_fleet::{LocalFleet, Location, signal};

/// The time within which the fleet must be ready.
const READY: Duration = Duration::from_secs(30);

impl Stage for LocalFleet {
    const STRUCK: &'static str = "killed";
    const SUDDEN: bool = true;

    async fn strike_agent(&self, agent: &Agent) -> Result<String> {
        signal(agent.pid, Signal::SIGKILL)?;
        Ok(format!("SIGKILL {} (process {})", agent.name, agent.pid))
    }

    async fn strike_leader(&self, status: &FleetStatus) -> Result<String> {
        let pid = self.leader_pid(status)?;
        signal(pid, Signal::SIGKILL)?;
        Ok(format!("SIGKILL the leader {} (process {pid})", status.leader))
    }
}

/// Runs the demo. `stop` ends it early, with cleanup.
///
/// # Errors
/// If any check fails, the time is up, or the demo was stopped.
pub(super) async fn run(
    manifest: &str,
    place: &Location,
    exercises: &[Exercise],
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let mut narrator = Narrator::new();
    leak_check::adopt_orphans()?;
    let mut fleet = LocalFleet::start(manifest, place).await?;
    let (played, was_stopped) = tokio::select! {
        played = timeout(TIME_LIMIT, perform(&fleet, exercises, &mut narrator)) => {
            (played.unwrap_or_else(|_| bail!("not done after {TIME_LIMIT:?}")), false)
        }
        () = stop => (Err(anyhow!("stopped by a signal before the demo was done")), true),
    };
    narrator.say("stopping the fleet");
    let pids = fleet.stop().await;
    if played.is_err() && !was_stopped {
        let kept = fleet.keep_directory().join("logs");
        narrator.plain(&format!("the logs of all processes are kept in {}", kept.display()));
    }
    drop(fleet);
    let left = leak_check::nothing_left(&pids).await;
    let summary = played?;
    left?;
    narrator.say(&format!("all {} processes and everything they started are gone", pids.len()));
    narrator.summary(&summary);
    Ok(())
}

async fn perform(fleet: &LocalFleet, exercises: &[Exercise], narrator: &mut Narrator) -> Result<Vec<String>> {
    let plan = fleet.processes().plan();
    narrator.say(&format!(
        "starting {} processes: {} coordinators, {} agents and {} standbys",
        plan.processes.len(),
        plan.coordinators.len(),
        plan.agents.0,
        plan.agents.1
    ));
    let client = fleet.client()?;
    let status = fleet.whole(&client, READY).await?;
    narrator.say(&format!("the fleet is complete; {} leads in term {}", status.leader, status.term));
    play::play(fleet, client, exercises, narrator).await
}
