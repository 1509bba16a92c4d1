//! A fleet of real processes on this machine, for the demo and the benchmark: starts it from a manifest, waits until it
//! is complete, finds the process ids of its leader and agents, and stops it and removes its directory. It knows the
//! fleet's API and processes, and nothing about what they are used for.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use robeing::dev::{DevEvent, DevFleet, DevOptions};
use robeing_client::{FleetClient, Settings};
use robeing_crds::RobeingCluster;
use robeing_proto::v1::{Agent, AgentState, Consistency, Coordinator, CoordinatorState, FleetStatus};
use tempfile::TempDir;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    task::JoinHandle,
    time::{Instant, sleep},
};

/// The interval at which the fleet's state is polled while waiting.
const POLL: Duration = Duration::from_millis(20);
/// The timeout of a client's call, retries included.
const PATIENCE: Duration = Duration::from_secs(20);

/// The place in which a fleet is started.
#[derive(Clone, Debug, Default)]
pub struct Location {
    /// The agent program; by default the one in the directory of this program.
    pub agent_bin: Option<PathBuf>,
    /// The directory in which the fleet's own directory is created; by default the one for temporary files.
    pub parent: Option<PathBuf>,
    /// Whether the fleet runs without TLS.
    pub plaintext: bool,
    /// The longest pause before a process that died is restarted; by default that of `robeing dev`.
    pub longest_restart_pause: Option<Duration>,
}

/// A running fleet of local processes. Dropping it kills the processes and removes the directory.
pub struct LocalFleet {
    fleet: DevFleet,
    cluster: RobeingCluster,
    pids: Arc<Mutex<BTreeSet<u32>>>,
    watcher: JoinHandle<()>,
    directory: TempDir,
}

impl LocalFleet {
    /// Starts the fleet of a manifest, without waiting until it is ready; see [`LocalFleet::whole`].
    ///
    /// # Errors
    /// If the manifest is invalid or the processes can't be started.
    pub async fn start(manifest: &str, place: &Location) -> Result<Self> {
        let cluster = robeing_crds::parse_manifest(manifest)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix("robeing-");
        let directory = match &place.parent {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        }
        .context("could not create a directory for the fleet's data")?;
        let options = DevOptions {
            data: Some(directory.path().to_owned()),
            agent_bin: place.agent_bin.clone(),
            longest_restart_pause: place.longest_restart_pause,
            plaintext: place.plaintext,
            ..DevOptions::default()
        };
        let (fleet, events) = DevFleet::start(&cluster, &options).await?;
        let pids = Arc::new(Mutex::new(BTreeSet::new()));
        let watcher = tokio::spawn(note_pids(events, Arc::clone(&pids)));
        Ok(Self { fleet, cluster, pids, watcher, directory })
    }

    /// Returns the processes.
    pub fn processes(&self) -> &DevFleet {
        &self.fleet
    }

    /// Creates a client of all coordinators.
    ///
    /// # Errors
    /// Never if the fleet's own endpoints are well formed.
    pub fn client(&self) -> Result<FleetClient> {
        Ok(FleetClient::new(&self.fleet.endpoints(), self.settings()?)?)
    }

    /// Creates a client of these coordinators.
    ///
    /// # Errors
    /// If an endpoint can't be parsed.
    pub fn client_of(&self, endpoints: &[String]) -> Result<FleetClient> {
        Ok(FleetClient::new(endpoints, self.settings()?)?)
    }

    fn settings(&self) -> Result<Settings> {
        Ok(Settings { security: self.fleet.security()?, ..settings() })
    }

    /// Returns the directory with logs and data.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns every process id that the fleet's processes have had so far.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner);
        pids.extend(self.fleet.processes().iter().filter_map(|process| process.pid));
        pids.iter().copied().collect()
    }

    /// Waits until there is a leader, every coordinator is a voter that the leader can reach, and every pool has all
    /// its agents and standbys.
    ///
    /// # Errors
    /// If that is not the case within `patience`; the error states what is missing.
    pub async fn whole(&self, client: &FleetClient, patience: Duration) -> Result<FleetStatus> {
        let deadline = Instant::now() + patience;
        loop {
            let missing = match client.status(Consistency::Linearizable).await {
                Ok(status) => match self.missing(&status) {
                    None => return Ok(status),
                    Some(missing) => missing,
                },
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                bail!("the fleet is not complete after {patience:?}: {missing}");
            }
            sleep(POLL).await;
        }
    }

    fn missing(&self, status: &FleetStatus) -> Option<String> {
        if status.leader.is_empty() {
            return Some("there is no leader".into());
        }
        let wanted = self.cluster.spec.coordinators.replicas as usize;
        let voting =
            |c: &&Coordinator| c.voter && matches!(c.state(), CoordinatorState::Leader | CoordinatorState::Follower);
        let voters = status.coordinators.iter().filter(voting).count();
        if voters < wanted {
            return Some(format!("{voters} of {wanted} coordinators are reachable voters"));
        }
        let (live, standby) = self.fleet.plan().agents;
        let agents = status.agents.unwrap_or_default();
        if agents.live < live || agents.standby < standby {
            return Some(format!("{} of {live} agents live and {} of {standby} standby", agents.live, agents.standby));
        }
        None
    }

    /// Returns the process id of the leader that a status names.
    ///
    /// # Errors
    /// If there is no leader, or its process is unknown.
    pub fn leader_pid(&self, status: &FleetStatus) -> Result<u32> {
        self.pid_of(&status.leader)
            .with_context(|| format!("the leader {:?} has no process in this fleet", status.leader))
    }

    /// Returns the process id of a coordinator or agent, if it runs.
    pub fn pid_of(&self, name: &str) -> Option<u32> {
        self.fleet.processes().into_iter().find(|process| process.name == name).and_then(|process| process.pid)
    }

    /// Shuts all processes down gracefully and returns all process ids that there were.
    pub async fn stop(&mut self) -> Vec<u32> {
        let pids = self.pids();
        self.fleet.stop().await;
        pids
    }

    /// Keeps the directory, so that the logs can be read after a failure.
    pub fn keep_directory(&mut self) -> &Path {
        self.directory.disable_cleanup(true);
        self.directory.path()
    }
}

impl Drop for LocalFleet {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

fn settings() -> Settings {
    Settings { request_timeout: PATIENCE, ..Settings::default() }
}

async fn note_pids(mut events: broadcast::Receiver<DevEvent>, pids: Arc<Mutex<BTreeSet<u32>>>) {
    loop {
        match events.recv().await {
            Ok(DevEvent::Started { pid, .. }) => {
                pids.lock().unwrap_or_else(PoisonError::into_inner).insert(pid);
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Returns the live agents that have tasks, the busiest first.
///
/// # Errors
/// If the fleet does not answer.
pub async fn busy_agents(client: &FleetClient) -> Result<Vec<Agent>> {
    let mut agents = client.list_agents(false, Consistency::Linearizable).await?;
    agents.retain(|agent| agent.state() == AgentState::Live && agent.used_slots > 0);
    agents.sort_by_key(|agent| std::cmp::Reverse(agent.used_slots));
    Ok(agents)
}

/// Sends a signal to a process.
///
/// # Errors
/// If there is no such process.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).with_context(|| format!("{pid} is not a process id"))?;
    kill(Pid::from_raw(pid), signal).with_context(|| format!("could not send {signal} to process {pid}"))
}
