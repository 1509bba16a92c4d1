//! `robeing dev`: runs the fleet of a manifest as processes on this machine. [`plan`] computes the processes and is
//! pure; the other modules run them: the data directory, the ports, a supervisor for each process, and the console that
//! shows them.

mod agent_binary;
mod backoff;
mod console;
mod data;
mod error;
mod event;
mod identity;
mod kinds;
mod logs;
mod manifest;
mod messengers;
pub mod plan;
mod policies;
mod ports;
pub mod registry;
mod runnable;
mod schedules;
mod screen;
mod secrets;
mod stale_dirs;
mod supervisor;
mod text;

use std::{path::PathBuf, sync::Arc, time::Duration};

use agent_binary::{ensure_is_agent, find_agent_binary};
use backoff::Backoff;
pub use console::run;
use data::DataDir;
pub use error::DevError;
pub use event::DevEvent;
pub use identity::DevIdentity;
use kinds::KindSetter;
use plan::{Plan, ProcessKind, attachable_agents, gateways};
use policies::PolicySetter;
use registry::Registration;
use robeing_client::{CredentialsError, Security};
use robeing_crds::RobeingCluster;
use robeing_proto::v1::SetPoliciesRequest;
use robeing_settings::TlsMode;
use schedules::ScheduleSetter;
pub use secrets::{SecretProblem, Secrets};
use supervisor::Supervisor;
use tokio::{sync::broadcast, time::timeout};

/// How long agents have to hand back their tasks and leave when the fleet stops; coordinators then have the same time
/// to exit.
pub const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long agents have to finish running tasks, within [`STOP_GRACE`], so that some time is left to hand back the
/// rest.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(4);
/// How many events a slow receiver can lag behind; it misses older ones.
const EVENTS: usize = 1_024;
/// Maximum number of characters in a fleet's name.
const MAX_NAME: usize = 63;

/// Options of a [`DevFleet`].
#[derive(Clone, Debug, Default)]
pub struct DevOptions {
    /// The data directory. If unset, a temporary directory that is removed at the end.
    pub data: Option<PathBuf>,
    /// The name of the fleet, which overrides the manifest's.
    pub name: Option<String>,
    /// The port of the first coordinator. The other coordinators use the ports after it, followed by the agents that
    /// processes attach to, and by the messengers' gateways. If unset, free ports; coordinators reuse the ports that
    /// the data directory remembers.
    pub port: Option<u16>,
    /// The `robeing-agent` program. If unset, the one beside this program, or the one in `PATH`.
    pub agent_bin: Option<PathBuf>,
    /// The longest pause before a process that died is restarted. At most 10 s, which is also the default.
    pub longest_restart_pause: Option<Duration>,
    /// Whether the fleet runs without TLS.
    pub plaintext: bool,
    /// The Secrets that headers of `http` executors and webhooks can refer to. Webhooks without one are not called.
    pub secrets: Secrets,
}

/// The current status of a process of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessStatus {
    /// Name of the coordinator or agent.
    pub name: String,
    /// Whether it is a coordinator or an agent.
    pub kind: ProcessKind,
    /// The process id, while the process runs.
    pub pid: Option<u32>,
    /// The log file of its output.
    pub log: PathBuf,
}

/// A fleet of local processes. [`DevFleet::stop`] shuts it down gracefully; dropping it kills its processes.
#[derive(Debug)]
pub struct DevFleet {
    plan: Plan,
    // The order of the fields is the drop order: agents before coordinators, and the directory last.
    agents: Vec<Supervisor>,
    coordinators: Vec<Supervisor>,
    policies: Option<PolicySetter>,
    kinds: Option<KindSetter>,
    schedules: Option<ScheduleSetter>,
    events: broadcast::Sender<DevEvent>,
    registration: Result<Registration, String>,
    identity: Option<Arc<DevIdentity>>,
    data: DataDir,
}

impl DevFleet {
    /// Starts the processes of a cluster. Returns when they have been launched, not when they are ready. The receiver
    /// gets all of their events from the beginning.
    ///
    /// # Errors
    /// If the fleet can't be started at all: no agent program, no free port, or a data directory that is in use or not
    /// a fleet's. A process that fails later is an event.
    pub async fn start(
        cluster: &RobeingCluster,
        options: &DevOptions,
    ) -> Result<(Self, broadcast::Receiver<DevEvent>), DevError> {
        let name = options.name.clone().or_else(|| cluster.metadata.name.clone()).unwrap_or_default();
        check_name(&name)?;
        let policies = crate::commands::policies::request(&cluster.spec.policies).map_err(DevError::Policies)?;
        let mut spec = cluster.spec.with_sizes();
        spec.gateway = messengers::callable(&spec.gateway, &options.secrets);
        let count = spec.coordinators.replicas as usize;
        let program = find_agent_binary(options.agent_bin.as_deref())?;
        ensure_is_agent(&program).await?;
        let data = DataDir::open(options.data.as_deref())?;
        let ports = data.agree_on(&name, count, options.port).await?;
        data.make_objects()?;
        let agents = attachable_agents(&spec) + gateways(&spec);
        let agents = ports::for_agents(agents, options.port, count).await?;
        messengers::write_webhooks(&spec.gateway, data.path())?;
        let tls = if options.plaintext { TlsMode::Off } else { TlsMode::Strict };
        let plan = Plan::of(&spec, &name, &ports, &agents, data.path(), tls).with_secrets(&options.secrets);
        let identity = match options.plaintext {
            true => None,
            false => Some(Arc::new(DevIdentity::open(data.path(), &name)?)),
        };
        // A fleet that can't be registered still runs; other commands then have to name its endpoints.
        let registration = Registration::write(
            &plan.name,
            &plan.endpoints(),
            data.path(),
            identity.as_ref().map(|identity| identity.client().clone()),
            &plan.attachable,
        );
        let registration = registration.map_err(|error| error.to_string());
        let (events, receiver) = broadcast::channel(EVENTS);
        let mut coordinators = Vec::new();
        let mut agents = Vec::new();
        for process in &plan.processes {
            let backoff = options.longest_restart_pause.map_or_else(Backoff::default, Backoff::up_to);
            let log = data.log_file(&process.name);
            let supervisor =
                Supervisor::start(&program, process.clone(), log, events.clone(), backoff, identity.clone());
            match process.kind {
                ProcessKind::Coordinator => coordinators.push(supervisor),
                ProcessKind::Agent { .. } => agents.push(supervisor),
            }
        }
        let mut fleet = Self {
            plan,
            agents,
            coordinators,
            policies: None,
            kinds: None,
            schedules: None,
            events,
            registration,
            identity,
            data,
        };
        fleet.start_setters(cluster, policies)?;
        Ok((fleet, receiver))
    }

    /// Starts to set what the coordinators keep of the manifest.
    fn start_setters(&mut self, cluster: &RobeingCluster, policies: SetPoliciesRequest) -> Result<(), DevError> {
        let security = self.security().map_err(DevError::Credentials)?;
        let (endpoints, events) = (self.endpoints(), self.events.clone());
        self.policies = Some(PolicySetter::start(endpoints.clone(), security.clone(), policies, events.clone()));
        let kinds = kinds::request(&cluster.spec.task_kinds);
        self.kinds = Some(KindSetter::start(endpoints.clone(), security.clone(), kinds, events.clone()));
        let schedules = schedules::requests(&cluster.spec);
        self.schedules = Some(ScheduleSetter::start(endpoints, security, schedules, events));
        Ok(())
    }

    /// Returns the processes that the fleet consists of.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the endpoints of the coordinators, as URLs.
    pub fn endpoints(&self) -> Vec<String> {
        self.plan.endpoints()
    }

    /// Returns how clients of this user connect to the fleet.
    ///
    /// # Errors
    /// If the fleet's own certificates can't be used, which should not happen.
    pub fn security(&self) -> Result<Security, CredentialsError> {
        self.identity
            .as_ref()
            .map_or_else(|| Ok(Security::plain()), |identity| Security::with_identity(identity.client()))
    }

    /// Returns the directory of the fleet's certificate authority, as an absolute path; `None` if it runs without TLS.
    pub fn identity_dir(&self) -> Option<PathBuf> {
        self.identity.as_ref()?;
        let dir = identity::folder(self.data_dir());
        Some(std::path::absolute(&dir).unwrap_or(dir))
    }

    /// Returns which commands find the fleet automatically, as the end of "other commands find it".
    ///
    /// # Errors
    /// Why none of them does.
    pub fn found_by(&self) -> Result<&str, &str> {
        self.registration.as_ref().map(Registration::found_by).map_err(String::as_str)
    }

    /// Lets other commands not find the fleet any more, because it is about to be stopped. Those that know an endpoint
    /// still reach it.
    pub fn withdraw(&mut self) {
        self.registration = Err("it is being stopped".to_owned());
    }

    /// Returns the data directory.
    pub fn data_dir(&self) -> &std::path::Path {
        self.data.path()
    }

    /// Returns another receiver of the events from now on.
    pub fn events(&self) -> broadcast::Receiver<DevEvent> {
        self.events.subscribe()
    }

    /// Returns the current status of the processes, coordinators first.
    pub fn processes(&self) -> Vec<ProcessStatus> {
        self.coordinators.iter().chain(&self.agents).map(Supervisor::status).collect()
    }

    /// Stops all processes: the agents, then the coordinators, each group with SIGTERM, and with SIGKILL after
    /// [`STOP_GRACE`]. To kill them sooner, drop this future and call [`DevFleet::kill`].
    pub async fn stop(&mut self) {
        (self.policies, self.kinds, self.schedules) = (None, None, None);
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

    /// Kills all processes with SIGKILL.
    pub async fn kill(&mut self) {
        for supervisor in self.agents.iter().chain(&self.coordinators) {
            supervisor.kill();
        }
        futures::future::join_all(self.agents.iter_mut().chain(&mut self.coordinators).map(Supervisor::ended)).await;
    }
}

/// Checks that a name is a DNS label, because it becomes part of file names and addresses.
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
