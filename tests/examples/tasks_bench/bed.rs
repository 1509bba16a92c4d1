//! The fleets that are measured.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use robeing::dev::plan::ProcessKind;
use robeing_client::FleetClient;
use robeing_proto::v1::{Consistency, FleetStatus};
use robeing_tests::{
    local_fleet::{LocalFleet, Location},
    processes::memory,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// The most tasks for which a fleet can be given room: a snapshot of more could be too large.
pub const MOST_TASKS: usize = 2_000_000;
/// How long a fleet may take to start, or to be complete again.
pub const READY: Duration = Duration::from_secs(60);
/// The version of a fleet that has all that is measured; a new one has it soon after it was started.
const FLEET_VERSION: u32 = 4;
/// Slots of all agents together.
const SLOTS: u32 = 1_024;
/// The longest pause before a process that died is restarted.
const RESTART_WITHIN: Duration = Duration::from_millis(500);
/// Bytes that a fleet may hold of inputs and outputs.
const MAX_BYTES: u64 = 8 << 30;
const POLL: Duration = Duration::from_millis(50);

/// What all fleets have in common.
pub struct Bed {
    /// The directory of their directories, as an absolute path.
    pub data: PathBuf,
    /// The agent program, as an absolute path.
    pub agent: PathBuf,
    /// The number of agents.
    pub agents: u32,
    /// Whether they run without TLS.
    pub plaintext: bool,
}

/// A fleet that is complete.
pub struct Started {
    /// The fleet.
    pub fleet: LocalFleet,
    /// A client of all coordinators.
    pub all: FleetClient,
    /// A client of the one that led when the fleet was complete.
    pub leader: FleetClient,
    /// Has the program that the processes were started with.
    _folder: TempDir,
}

impl Bed {
    /// Starts a fleet whose agents return the inputs of tasks, with room for so many tasks, and waits until it is complete.
    ///
    /// # Errors
    /// If it is not soon.
    pub async fn echo(&self, tasks: usize) -> Result<Started> {
        self.start("{echo: {}}", SLOTS, tasks).await
    }

    /// Starts a fleet with this executor, so many slots of all agents together, and room for so many tasks, and waits until
    /// it is complete.
    ///
    /// # Errors
    /// If it is not soon.
    pub async fn start(&self, executor: &str, slots: u32, tasks: usize) -> Result<Started> {
        let folder = tempfile::Builder::new().prefix("tasks-bench-").tempdir_in(&self.data)?;
        let program = self.with_room(folder.path(), tasks)?;
        let place = Location {
            agent_bin: Some(program),
            parent: Some(self.data.clone()),
            plaintext: self.plaintext,
            longest_restart_pause: Some(RESTART_WITHIN),
        };
        let mut fleet = LocalFleet::start(&self.manifest(executor, slots), &place).await?;
        match clients(&fleet).await {
            Ok((all, leader)) => Ok(Started { fleet, all, leader, _folder: folder }),
            Err(error) => {
                fleet.stop().await;
                Err(error)
            }
        }
    }

    fn manifest(&self, executor: &str, slots: u32) -> String {
        let (agents, slots) = (self.agents, slots.div_ceil(self.agents));
        format!(
            "apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {{name: bench}}
spec:
  coordinators: {{replicas: 3}}
  pools:
  - name: workers
    role: Worker
    replicas: {agents}
    slots: {slots}
    executor: {executor}
"
        )
    }

    /// Writes a program that becomes the agent program, with room for so many tasks. Manifests don't have these limits:
    /// coordinators take them from their environment.
    fn with_room(&self, folder: &Path, tasks: usize) -> Result<PathBuf> {
        // Workers' tasks may take no more than 99 of 100 places.
        let (queued, kept) = (tasks + tasks / 4 + 10_000, 2 * tasks + 100_000);
        let agent = self.agent.to_str().context("the path of the agent program is not text")?.replace('\'', r"'\''");
        let script = format!(
            "#!/bin/sh
export ROBEING_MAX_QUEUED={queued} ROBEING_MAX_TASKS={kept} ROBEING_MAX_BYTES={MAX_BYTES}
exec '{agent}' \"$@\"
"
        );
        let program = folder.join("robeing-agent");
        fs::write(&program, script).with_context(|| format!("can't write {}", program.display()))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(program)
    }
}

/// Waits until a fleet is complete and of its newest version, and returns clients of all coordinators and of the leader.
async fn clients(fleet: &LocalFleet) -> Result<(FleetClient, FleetClient)> {
    let all = fleet.client()?;
    fleet.whole(&all, READY).await?;
    let deadline = Instant::now() + READY;
    let status = loop {
        let status = all.status(Consistency::Linearizable).await?;
        if status.fleet_version >= FLEET_VERSION && !status.leader_address.is_empty() {
            break status;
        }
        let version = status.fleet_version;
        ensure!(Instant::now() < deadline, "the fleet is of version {version} after {READY:?}, not {FLEET_VERSION}");
        sleep(POLL).await;
    };
    let leader = fleet.client_of(&[format!("http://{}", status.leader_address)])?;
    Ok((all, leader))
}

impl Started {
    /// Stops the fleet, and returns what was measured of it. If that is an error, the logs are kept.
    ///
    /// # Errors
    /// If that is one.
    pub async fn end<T>(mut self, measured: Result<T>) -> Result<T> {
        if measured.is_err() {
            eprintln!("logs are kept in {}", self.fleet.keep_directory().display());
        }
        self.fleet.stop().await;
        measured
    }

    /// Returns the status of the fleet.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status(&self) -> Result<FleetStatus> {
        Ok(self.all.status(Consistency::Linearizable).await?)
    }

    /// Returns the process ids of the agents that run.
    pub fn agents(&self) -> Vec<u32> {
        let processes = self.fleet.processes().processes().into_iter();
        processes.filter(|one| one.kind != ProcessKind::Coordinator).filter_map(|one| one.pid).collect()
    }

    /// Returns the names of the coordinators, with their resident memory in bytes.
    pub fn coordinators(&self) -> Vec<(String, u64)> {
        let processes = self.fleet.processes().processes().into_iter();
        let coordinators = processes.filter(|one| one.kind == ProcessKind::Coordinator);
        coordinators.map(|one| (one.name, one.pid.map_or(0, memory))).collect()
    }
}
