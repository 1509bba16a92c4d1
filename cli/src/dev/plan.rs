//! Computes the processes of a cluster's fleet, and their command lines. Pure.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use robeing_blobs::directory_url;
use robeing_crds::{Executor, Gateway, Messages, Pool, RobeingClusterSpec, SecretKey};
use robeing_settings::{
    AgentConfig, AuthorityConfig, CommandLine, Contribute, CoordinatorConfig, DEFAULT_WORKER_LISTEN, Enrolment,
    EnrolmentConfig, JoinProof, LogFormat, Process as Settings, ProcessRole, Said, Setting, Startup, TlsMode,
    settings::{
        ANOMALY_WARM_UP, DISCONNECT_GRACE, ELECTION_TIMEOUT, LOG_FORMAT, ON_ANOMALY, SNAPSHOT_AFTER, WORKER_LISTEN,
    },
};

use super::{DRAIN_TIMEOUT, Secrets, identity, messengers};

/// Settings that a manifest does not contain. They are omitted from command lines, so that the environment can set
/// them.
const LEFT_OPEN: [Setting; 6] = [
    ANOMALY_WARM_UP.setting,
    DISCONNECT_GRACE.setting,
    ELECTION_TIMEOUT,
    LOG_FORMAT,
    ON_ANOMALY,
    SNAPSHOT_AFTER.setting,
];

/// Directory of the agents' own directories. It has a name that no coordinator has.
const AGENTS: &str = "agents";
/// Directory of the inputs and outputs that are too large for the log, in the data directory. It has to exist before the
/// processes start.
pub const OBJECTS: &str = "objects";

/// Returns the URL of the object store of the fleet with this data directory; `None` if that is not absolute.
pub(crate) fn object_store(data: &Path) -> Option<String> {
    directory_url(&data.join(OBJECTS))
}

/// What kind of process it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessKind {
    /// A coordinator.
    Coordinator,
    /// An agent of a pool.
    Agent {
        /// The pool's name.
        pool: String,
        /// Its role, as it is written in settings.
        role: &'static str,
    },
}

/// An environment variable of a process. Its value may be secret, so `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    /// The name.
    pub name: String,
    /// The value.
    pub value: OsString,
}

impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.name)
    }
}

/// A process of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Name of the coordinator or agent, the same after a restart.
    pub name: String,
    /// Whether it is a coordinator or an agent.
    pub kind: ProcessKind,
    /// Its command-line arguments.
    pub arguments: Vec<String>,
    /// Additional environment variables.
    pub environment: Vec<Variable>,
    /// The variables whose values come from Secrets.
    secrets: Vec<(String, SecretKey)>,
}

/// The processes of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The fleet's name.
    pub name: String,
    /// Whether the processes use TLS.
    pub tls: TlsMode,
    /// The coordinators' addresses (host:port), in the order of their names.
    pub coordinators: Vec<String>,
    /// The number of working agents and of standby agents that the manifest asks for.
    pub agents: (u32, u32),
    /// The agents that user processes attach to, with the address (host:port) to attach at.
    pub attachable: Vec<(String, String)>,
    /// The messengers that serve a gateway, with its URL.
    pub gateways: Vec<(String, String)>,
    /// Whether the manifest sets `suspend`; then there are no agents.
    pub suspended: bool,
    /// All processes, coordinators first.
    pub processes: Vec<Process>,
}

impl Plan {
    /// Computes the processes of a cluster. The coordinators listen on `ports` of the loopback address. In `agents` are
    /// the ports at which user processes attach to agents, of which there must be [`attachable_agents`], followed by
    /// those of [`gateways`]; messengers without one serve none.
    pub fn of(spec: &RobeingClusterSpec, name: &str, ports: &[u16], agents: &[u16], data: &Path, tls: TlsMode) -> Self {
        let address = |port: &u16| format!("127.0.0.1:{port}");
        let coordinators: Vec<String> = ports.iter().map(address).collect();
        let fleet = Members { name, coordinators: &coordinators, gateway: &spec.gateway, data, tls };
        let mut processes: Vec<Process> = (0..ports.len()).map(|index| coordinator(spec, index, fleet)).collect();
        let pools = running_pools(spec);
        let (attach, listen) = agents.split_at(attachable_agents(spec).min(agents.len()));
        let (mut attach, mut listen) = (attach.iter().map(address), listen.iter().map(address));
        let (mut attachable, mut gateways) = (Vec::new(), Vec::new());
        for pool in pools {
            for index in 0..replicas(pool) + pool.standby {
                let at = if is_attachable(pool) { attach.next() } else { None };
                let gateway = if messengers::serves(pool) { listen.next() } else { None };
                let agent = agent(pool, index, fleet, at.as_deref(), gateway.as_deref());
                attachable.extend(at.map(|at| (agent.name.clone(), at)));
                gateways.extend(gateway.map(|at| (agent.name.clone(), format!("{}://{at}", scheme(tls)))));
                processes.push(agent);
            }
        }
        let agents =
            pools.iter().fold((0, 0), |(working, standby), pool| (working + replicas(pool), standby + pool.standby));
        Self { name: name.into(), tls, coordinators, agents, attachable, gateways, suspended: spec.suspend, processes }
    }

    /// Adds the values of Secrets to the environment of the agents whose executors need them. Variables without a value
    /// are omitted.
    pub fn with_secrets(mut self, secrets: &Secrets) -> Self {
        for process in &mut self.processes {
            let values = process.secrets.iter().filter_map(|(name, key)| {
                let value = secrets.get(key).ok()?.into();
                Some(Variable { name: name.clone(), value })
            });
            process.environment.extend(values);
        }
        self
    }

    /// Returns the coordinators' URLs.
    pub fn endpoints(&self) -> Vec<String> {
        self.coordinators.iter().map(|address| format!("{}://{address}", scheme(self.tls))).collect()
    }
}

/// Returns the scheme of URLs of the fleet.
fn scheme(tls: TlsMode) -> &'static str {
    if tls == TlsMode::Off { "http" } else { "https" }
}

/// What all processes of a fleet have in common.
#[derive(Clone, Copy)]
struct Members<'a> {
    name: &'a str,
    coordinators: &'a [String],
    gateway: &'a Gateway,
    data: &'a Path,
    tls: TlsMode,
}

fn running_pools(spec: &RobeingClusterSpec) -> &[Pool] {
    if spec.suspend { &[] } else { &spec.pools }
}

/// Returns how many agents of a cluster user processes attach to.
pub fn attachable_agents(spec: &RobeingClusterSpec) -> usize {
    let pools = running_pools(spec).iter().filter(|pool| is_attachable(pool));
    pools.map(|pool| (replicas(pool) + pool.standby) as usize).sum()
}

/// Returns how many agents of a cluster serve a gateway.
pub fn gateways(spec: &RobeingClusterSpec) -> usize {
    let pools = running_pools(spec).iter().filter(|pool| messengers::serves(pool));
    pools.map(|pool| (replicas(pool) + pool.standby) as usize).sum()
}

fn is_attachable(pool: &Pool) -> bool {
    matches!(pool.executor, Executor::Worker {})
}

/// Returns the size of a pool, which is one here for a pool whose size is left to an autoscaler.
fn replicas(pool: &Pool) -> u32 {
    pool.replicas.unwrap_or(1)
}

fn coordinator(spec: &RobeingClusterSpec, index: usize, fleet: Members<'_>) -> Process {
    let Members { name: cluster, coordinators, data, tls, .. } = fleet;
    let name = coordinator_name(index);
    let members = coordinators.iter().enumerate().map(|(index, address)| (coordinator_name(index), address.clone()));
    let config = CoordinatorConfig {
        data: data.join(&name),
        initial_coordinators: members.collect(),
        metrics_listen: Some("127.0.0.1:0".into()),
        heartbeat_interval: spec.recovery.heartbeat_interval.get(),
        session_timeout: spec.recovery.session_timeout.get(),
        health_check_interval: spec.recovery.health_check_interval.get(),
        max_attempts: spec.recovery.max_attempts,
        weights: (&spec.scheduling.weights).into(),
        ballots: (&spec.consensus).into(),
        tls,
        authority: authority(tls, data),
        ..CoordinatorConfig::new(name.clone(), cluster.into(), coordinators[index].clone())
    };
    process(name, ProcessKind::Coordinator, Settings::Coordinator(config), vec![], false)
}

fn coordinator_name(index: usize) -> String {
    format!("coordinator-{index}")
}

/// Returns the settings of the authority that all coordinators share.
fn authority(tls: TlsMode, data: &Path) -> AuthorityConfig {
    if tls == TlsMode::Off {
        return AuthorityConfig::default();
    }
    AuthorityConfig {
        directory: Some(identity::folder(data)),
        enrolment: Some(Enrolment::Proof),
        ..AuthorityConfig::default()
    }
}

/// Returns how agents enrol: their join tokens are made when they are started.
fn enrolment(tls: TlsMode, data: &Path) -> EnrolmentConfig {
    let trust = (tls != TlsMode::Off).then(|| identity::trust_file(data));
    EnrolmentConfig { trust, proof: JoinProof::None }
}

/// Returns the directory of an agent's journal of messages, which a process with the same name continues.
fn agent_folder(data: &Path, name: &str) -> PathBuf {
    data.join(AGENTS).join(name)
}

fn agent(pool: &Pool, index: u32, fleet: Members<'_>, attach: Option<&str>, listen: Option<&str>) -> Process {
    let Members { name: cluster, coordinators, gateway, data, tls } = fleet;
    let name = format!("{}-{index}", pool.name);
    let calls_webhooks = messengers::serves(pool);
    let config = AgentConfig {
        pool: pool.name.clone(),
        pool_replicas: replicas(pool),
        pool_standby: pool.standby,
        specializations: pool.specializations.clone(),
        slots: pool.slots,
        // The agents share this machine, so that none of them has all that limits it.
        contribute: pool.contribution().or(Contribute::NOTHING),
        drain_timeout: DRAIN_TIMEOUT,
        worker_listen: attach.unwrap_or(DEFAULT_WORKER_LISTEN).into(),
        messages: pool.messages.as_ref().map(Messages::for_agents),
        data: Some(agent_folder(data, &name)),
        gateway_listen: listen.map(str::to_owned),
        webhooks: messengers::webhooks_file(gateway, data).filter(|_| calls_webhooks),
        object_store: object_store(data),
        tls,
        enrolment: enrolment(tls, data),
        ..AgentConfig::new(name.clone(), cluster.into(), pool.role.into(), "127.0.0.1:0".into(), coordinators.to_vec())
    };
    let of_webhooks = gateway.secrets().filter(|_| calls_webhooks);
    let secrets = pool.executor.secrets().into_iter().chain(of_webhooks);
    let secrets = secrets.map(|(variable, key)| (variable, key.clone())).collect();
    let role = ProcessRole::Agent(pool.role.into()).as_flag();
    let kind = ProcessKind::Agent { pool: pool.name.clone(), role };
    let settings = Settings::Agent(config, pool.executor.for_agents());
    process(name, kind, settings, secrets, attach.is_some())
}

fn process(
    name: String,
    kind: ProcessKind,
    settings: Settings,
    secrets: Vec<(String, SecretKey)>,
    is_attachable: bool,
) -> Process {
    let startup = Startup { process: settings, log_format: LogFormat::default(), exit_with_parent: true };
    // Nothing attaches to agents with other executors, and they would all use the same default address.
    let unused = |said: &Said| said.setting == WORKER_LISTEN && !is_attachable;
    let said = startup.said().into_iter().filter(|said| !LEFT_OPEN.contains(&said.setting) && !unused(said));
    let CommandLine { arguments, environment } = CommandLine::of(said, startup.exit_with_parent);
    let environment = environment.into_iter().map(|said| Variable { name: said.variable.into(), value: said.value });
    Process { name, kind, arguments, environment: environment.collect(), secrets }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use proptest::prelude::*;
    use robeing_crds::{Role, arbitrary};
    use robeing_settings::parse;

    use super::*;

    const MANIFEST: &str = r#"
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: example}
spec:
  coordinators: {replicas: 3}
  pools:
  - name: data
    role: Specialist
    specializations: [data_processing, text]
    replicas: 2
    standby: 1
    slots: 4
    executor: {command: {argv: [/bin/sh, -c, "wc -w"]}}
  - name: free
    executor: {echo: {}}
  - name: mine
    standby: 1
    executor: {worker: {}}
  recovery: {heartbeatInterval: 250ms, sessionTimeout: 1s, maxAttempts: 3}
"#;

    fn plan(manifest: &str) -> Plan {
        let cluster = robeing_crds::parse_manifest(manifest).unwrap_or_else(|error| panic!("{error}"));
        let attach: Vec<u16> = (5001..).take(attachable_agents(&cluster.spec)).collect();
        Plan::of(&cluster.spec, "example", &[4001, 4002, 4003], &attach, Path::new("/data"), TlsMode::Strict)
    }

    #[test]
    fn every_process_has_its_command_line() {
        let plan = plan(MANIFEST);
        assert_eq!(plan.agents, (4, 2));
        let at = |name: &str, port: u16| (name.to_owned(), format!("127.0.0.1:{port}"));
        assert_eq!(plan.attachable, [at("mine-0", 5001), at("mine-1", 5002)]);
        let lines: Vec<_> = plan.processes.iter().map(|process| process.arguments.join("\n  ")).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_directory_that_is_no_text_is_not_changed_into_another_one() {
        let cluster = robeing_crds::parse_manifest(MANIFEST).unwrap_or_else(|error| panic!("{error}"));
        let dir = Path::new(OsStr::from_bytes(b"/d\xFFta"));
        let plan = Plan::of(&cluster.spec, "example", &[4001], &[1, 2], dir, TlsMode::Strict);
        let coordinator = &plan.processes[0];
        assert!(!coordinator.arguments.iter().any(|argument| argument.starts_with("--data")));
        let [data, ca] = &coordinator.environment[..] else { panic!("two variables: {coordinator:?}") };
        assert_eq!((&*data.name, &*data.value), ("ROBEING_DATA", OsStr::from_bytes(b"/d\xFFta/coordinator-0")));
        assert_eq!((&*ca.name, &*ca.value), ("ROBEING_CA", OsStr::from_bytes(b"/d\xFFta/identity")));
        let agent = &plan.processes[1];
        let journal = agent.environment.iter().find(|variable| variable.name == "ROBEING_DATA").expect("it is set");
        assert_eq!(journal.value, OsStr::from_bytes(b"/d\xFFta/agents/data-0"));
    }

    #[test]
    fn what_may_be_secret_is_in_the_environment_and_not_on_the_command_line() {
        let manifest = r#"
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: example}
spec:
  pools:
  - name: web
    executor:
      http:
        url: http://user:hunter2@127.0.0.1:9000/?token=hunter2
        headers:
        - {name: X-Api-Key, value: hunter2}
        - {name: Authorization, prefix: "Bearer ", valueFrom: {secretKeyRef: {name: api, key: token}}}
---
apiVersion: v1
kind: Secret
metadata: {name: api}
stringData: {token: s3cret}
"#;
        let secrets = Secrets::of_manifest(manifest);
        let manifest = robeing_crds::find_cluster(manifest).unwrap_or_else(|error| panic!("{error}"));
        let plan = Plan::of(&manifest.cluster.spec, "example", &[4001], &[], Path::new("/data"), TlsMode::Strict);
        let plan = plan.with_secrets(&secrets);
        let agent = &plan.processes[1];
        let shown = format!("{plan:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("hunter2"), "{shown}");
        let [executor, token] = &agent.environment[..] else { panic!("two variables: {agent:?}") };
        assert_eq!((&*token.name, &*token.value), ("ROBEING_HTTP_HEADER_1", OsStr::new("s3cret")));
        assert_eq!(executor.name, "ROBEING_EXECUTOR");
        let executor: serde_json::Value =
            serde_json::from_slice(executor.value.as_encoded_bytes()).expect("it is JSON");
        assert_eq!(executor["http"]["url"], "http://user:hunter2@127.0.0.1:9000/?token=hunter2");
        let header = serde_json::json!({"name": "Authorization", "prefix": "Bearer ", "valueFrom": {"env": "ROBEING_HTTP_HEADER_1"}});
        assert_eq!(executor["http"]["headers"][1], header);
    }

    /// Parses the command line and environment of a process.
    fn read(process: &Process) -> Startup {
        let arguments = std::iter::once("robeing-agent").chain(process.arguments.iter().map(String::as_str));
        let variable = |name: &str| process.environment.iter().find(|variable| variable.name == name);
        let read = parse(arguments.map(OsString::from), &|name| variable(name).map(|found| found.value.clone()));
        read.unwrap_or_else(|error| panic!("{error}: {:?}", process.arguments))
    }

    fn check_agent(process: &Process, pool: &Pool, spec: &RobeingClusterSpec, plan: &Plan, data: &Path) {
        let Settings::Agent(config, executor) = read(process).process else { panic!("it is an agent") };
        let attach = plan.attachable.iter().find(|(agent, _)| *agent == process.name).map(|(_, at)| at.clone());
        let gateway = plan.gateways.iter().find(|(agent, _)| *agent == process.name);
        let has_webhooks = pool.role == Role::Messenger && !spec.gateway.is_empty();
        let expected = AgentConfig {
            pool: pool.name.clone(),
            pool_replicas: replicas(pool),
            pool_standby: pool.standby,
            specializations: pool.specializations.clone(),
            slots: pool.slots,
            contribute: pool.contribution().or(Contribute::NOTHING),
            drain_timeout: DRAIN_TIMEOUT,
            worker_listen: attach.unwrap_or_else(|| DEFAULT_WORKER_LISTEN.into()),
            messages: pool.messages.as_ref().map(Messages::for_agents),
            data: Some(data.join("agents").join(&process.name)),
            gateway_listen: gateway.and_then(|(_, url)| Some(url.split_once("://")?.1.to_owned())),
            webhooks: has_webhooks.then(|| data.join("webhooks.json")),
            object_store: object_store(data),
            tls: plan.tls,
            enrolment: enrolment(plan.tls, data),
            ..AgentConfig::new(
                process.name.clone(),
                plan.name.clone(),
                pool.role.into(),
                "127.0.0.1:0".into(),
                plan.coordinators.clone(),
            )
        };
        assert_eq!(config, expected);
        assert_eq!(executor, pool.executor.for_agents());
    }

    fn check_coordinator(process: &Process, spec: &RobeingClusterSpec, plan: &Plan, data: &Path) {
        let Settings::Coordinator(config) = read(process).process else { panic!("it is a coordinator") };
        let members = plan.coordinators.iter().enumerate().map(|(index, at)| (coordinator_name(index), at.clone()));
        let own = members.clone().find(|(name, _)| *name == process.name).map(|(_, at)| at).expect("it is a member");
        let expected = CoordinatorConfig {
            advertise: Some(own.clone()),
            data: data.join(&process.name),
            initial_coordinators: members.collect(),
            metrics_listen: Some("127.0.0.1:0".into()),
            heartbeat_interval: spec.recovery.heartbeat_interval.get(),
            session_timeout: spec.recovery.session_timeout.get(),
            health_check_interval: spec.recovery.health_check_interval.get(),
            max_attempts: spec.recovery.max_attempts,
            weights: (&spec.scheduling.weights).into(),
            ballots: (&spec.consensus).into(),
            tls: plan.tls,
            authority: authority(plan.tls, data),
            ..CoordinatorConfig::new(process.name.clone(), plan.name.clone(), own)
        };
        assert_eq!(config, expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

        #[test]
        fn processes_read_what_any_manifest_says(
            cluster in arbitrary::clusters(2).prop_map(Box::new).boxed(),
            data in "/[^\0]{0,20}",
        ) {
            let tls = if data.len() % 2 == 0 { TlsMode::Off } else { TlsMode::Strict };
            let spec = cluster.spec.with_sizes();
            let ports: Vec<u16> = (4001..).take(spec.coordinators.replicas as usize).collect();
            let agents: Vec<u16> = (5001..=u16::MAX).take(attachable_agents(&spec) + gateways(&spec)).collect();
            let plan = Plan::of(&spec, "example", &ports, &agents, Path::new(&data), tls);
            // Those between the first and the last of a pool have nothing of their own but numbers.
            let pools = plan.processes.chunk_by(|one, next| one.kind == next.kind);
            for process in pools.flat_map(|pool| [&pool[0], &pool[pool.len() - 1]]) {
                match &process.kind {
                    ProcessKind::Coordinator => check_coordinator(process, &spec, &plan, Path::new(&data)),
                    ProcessKind::Agent { pool, .. } => {
                        let pool = spec.pools.iter().find(|other| other.name == *pool);
                        check_agent(process, pool.expect("it is in the manifest"), &spec, &plan, Path::new(&data));
                    }
                }
            }
        }
    }

    #[test]
    fn what_the_manifest_sets_for_ballots_is_told_to_every_coordinator() {
        let plan = plan(&format!("{MANIFEST}  consensus: {{threshold: 66%, deadline: 1m30s}}\n"));
        for process in plan.processes.iter().filter(|process| process.kind == ProcessKind::Coordinator) {
            for told in ["--ballot-threshold=66/100", "--ballot-deadline=1m30s"] {
                assert!(process.arguments.iter().any(|argument| argument == told), "{:?}", process.arguments);
            }
        }
    }

    #[test]
    fn a_suspended_cluster_has_coordinators_alone() {
        let plan = plan(&format!("{MANIFEST}  suspend: true\n"));
        assert!(plan.suspended);
        assert_eq!(plan.processes.len(), 3);
        assert!(plan.processes.iter().all(|process| process.kind == ProcessKind::Coordinator));
    }
}
