//! `robeing dev`: the fleet of a manifest as processes on this machine. [`plan`] says which processes there should
//! be and is pure; the rest keeps them there: the data directory, the ports, a supervisor for each process, and the
//! console that shows them.

mod agent_binary;
mod backoff;
mod console;
mod data;
mod error;
mod event;
mod logs;
mod manifest;
pub mod plan;
mod ports;
pub mod registry;
mod runnable;
mod screen;
mod secrets;
mod stale_dirs;
mod supervisor;
mod text;

use std::{path::PathBuf, time::Duration};

use agent_binary::{ensure_is_agent, find_agent_binary};
use backoff::Backoff;
pub use console::run;
use data::DataDir;
pub use error::DevError;
pub use event::DevEvent;
use plan::{Plan, ProcessKind, attachable_agents};
use registry::Registration;
use robeing_crds::RobeingCluster;
pub use secrets::{SecretProblem, Secrets};
use supervisor::Supervisor;
use tokio::{sync::broadcast, time::timeout};

/// Time that agents have to hand back their tasks and leave when the fleet stops, and then the coordinators.
pub const STOP_GRACE: Duration = Duration::from_secs(5);
/// Time that agents have for the tasks they run, within [`STOP_GRACE`], so that there is some left to hand back the rest.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(4);
/// Events that a slow reader may be behind; older ones are lost to it.
const EVENTS: usize = 1_024;
/// Characters of a fleet's name, at most.
const MAX_NAME: usize = 63;

/// How a [`DevFleet`] is run.
#[derive(Clone, Debug, Default)]
pub struct DevOptions {
    /// Where to keep its data; without it, a temporary directory that is removed at the end.
    pub data: Option<PathBuf>,
    /// Its name, instead of the manifest's.
    pub name: Option<String>,
    /// The port of the first coordinator; the others take those after it, and then the agents to which processes attach.
    /// Without it, free ports, for the coordinators those of the data directory.
    pub port: Option<u16>,
    /// The `robeing-agent` program; without it, the one beside this program, or in `PATH`.
    pub agent_bin: Option<PathBuf>,
    /// The longest pause before a process that died is started again, 10 s at most; without it, 10 s.
    pub longest_restart_pause: Option<Duration>,
    /// What the headers of `http` executors may be taken from.
    pub secrets: Secrets,
}

/// A process of a fleet, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessStatus {
    /// Name of the coordinator or agent.
    pub name: String,
    /// What it is.
    pub kind: ProcessKind,
    /// Its process id, while it runs.
    pub pid: Option<u32>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A fleet of local processes. Ended in good order by [`DevFleet::stop`]; when it is dropped, its processes are
/// killed.
#[derive(Debug)]
pub struct DevFleet {
    plan: Plan,
    // Agents end before coordinators, and everything before the directory goes.
    agents: Vec<Supervisor>,
    coordinators: Vec<Supervisor>,
    events: broadcast::Sender<DevEvent>,
    registration: Result<Registration, String>,
    data: DataDir,
}

impl DevFleet {
    /// Starts the processes of a cluster. Answers when they were told to start, not when they are ready. The
    /// receiver tells everything that happens to them from the beginning.
    ///
    /// # Errors
    /// When the fleet can't be started at all: no agent program, no free port, a data directory in use or of somebody
    /// else. A process
    /// that fails later is an event.
    pub async fn start(
        cluster: &RobeingCluster,
        options: &DevOptions,
    ) -> Result<(Self, broadcast::Receiver<DevEvent>), DevError> {
        let name = options.name.clone().or_else(|| cluster.metadata.name.clone()).unwrap_or_default();
        check_name(&name)?;
        let spec = cluster.spec.with_sizes();
        let count = spec.coordinators.replicas as usize;
        let program = find_agent_binary(options.agent_bin.as_deref())?;
        ensure_is_agent(&program).await?;
        let data = DataDir::open(options.data.as_deref())?;
        let ports = data.agree_on(&name, count, options.port).await?;
        let attach = ports::for_attaching(attachable_agents(&spec), options.port, count).await?;
        let plan = Plan::of(&spec, &name, &ports, &attach, data.path()).with_secrets(&options.secrets);
        // A fleet that can't be registered runs as well; it only has to be named by its endpoints.
        let registration = Registration::write(&plan.name, &plan.endpoints(), data.path());
        let registration = registration.map_err(|error| error.to_string());
        let (events, receiver) = broadcast::channel(EVENTS);
        let mut coordinators = Vec::new();
        let mut agents = Vec::new();
        for process in &plan.processes {
            let backoff = options.longest_restart_pause.map_or_else(Backoff::default, Backoff::up_to);
            let log = data.log_file(&process.name);
            let supervisor = Supervisor::start(&program, process.clone(), log, events.clone(), backoff);
            match process.kind {
                ProcessKind::Coordinator => coordinators.push(supervisor),
                ProcessKind::Agent { .. } => agents.push(supervisor),
            }
        }
        Ok((Self { plan, agents, coordinators, events, registration, data }, receiver))
    }

    /// What the fleet is made of.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The endpoints of the coordinators, as URLs.
    pub fn endpoints(&self) -> Vec<String> {
        self.plan.endpoints()
    }

    /// Which commands find it by themselves, as the end of "other commands find it".
    ///
    /// # Errors
    /// Why none does.
    pub fn found_by(&self) -> Result<&str, &str> {
        self.registration.as_ref().map(Registration::found_by).map_err(String::as_str)
    }

    /// Where its data is.
    pub fn data_dir(&self) -> &std::path::Path {
        self.data.path()
    }

    /// Further receivers of what happens, from now on.
    pub fn events(&self) -> broadcast::Receiver<DevEvent> {
        self.events.subscribe()
    }

    /// The processes as they are now, coordinators first.
    pub fn processes(&self) -> Vec<ProcessStatus> {
        self.coordinators.iter().chain(&self.agents).map(Supervisor::status).collect()
    }

    /// Ends all processes: the agents, then the coordinators; each with SIGTERM, and with SIGKILL after
    /// [`STOP_GRACE`], or at once where [`DevFleet::kill`] is called meanwhile. Then removes a temporary directory.
    pub async fn stop(&mut self) {
        for group in [&mut self.agents, &mut self.coordinators] {
            for supervisor in group.iter() {
                supervisor.stop();
            }
            let ended = timeout(STOP_GRACE, futures::future::join_all(group.iter_mut().map(Supervisor::ended))).await;
            if ended.is_err() {
                for supervisor in group.iter() {
                    supervisor.kill();
                }
                futures::future::join_all(group.iter_mut().map(Supervisor::ended)).await;
            }
        }
    }

    /// Ends all processes with SIGKILL.
    pub async fn kill(&mut self) {
        for supervisor in self.agents.iter().chain(&self.coordinators) {
            supervisor.kill();
        }
        futures::future::join_all(self.agents.iter_mut().chain(&mut self.coordinators).map(Supervisor::ended)).await;
    }
}

/// A name goes into file names and addresses, so it is a DNS label.
fn check_name(name: &str) -> Result<(), DevError> {
    let is_label = (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if is_label { Ok(()) } else { Err(DevError::Name { name: name.into() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_label() {
        for name in ["a", "fleet-01", &"x".repeat(MAX_NAME)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a/b", "..", "a b", &"x".repeat(MAX_NAME + 1)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
