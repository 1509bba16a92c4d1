//! Writes settings as flags and environment variables: the inverse of [`parse`](super::parse).

use std::{ffi::OsString, fmt, path::Path};

use super::{
    AgentConfig, BallotDefaults, Contribute, CoordinatorConfig, EnrolmentConfig, ExecutorSpec, FleetLimits, JoinProof,
    Process, ProcessRole, Startup,
    command::EXIT_WITH_PARENT,
    definition::{Number, Setting, Span},
    settings::{self, HOSTNAME},
    text,
};

/// A setting with its value. The value may be secret, so `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Said {
    /// The setting.
    pub setting: Setting,
    /// The value.
    pub value: OsString,
    /// The environment variable that carries it.
    pub variable: &'static str,
    /// Whether it may be passed as a flag. Secrets may not, because every user of a machine can see command lines.
    pub by_flag: bool,
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=…", self.variable)
    }
}

/// A command line, without the program, and the environment variables for the settings that can't be flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// The flags, each as one argument with its value.
    pub arguments: Vec<String>,
    /// The remaining settings.
    pub environment: Vec<Said>,
}

impl CommandLine {
    /// Returns the command line that carries all these settings. A value that is not UTF-8 goes into the environment.
    pub fn of(said: impl IntoIterator<Item = Said>, exit_with_parent: bool) -> Self {
        let mut line = Self::default();
        for said in said {
            match said.value.to_str().filter(|_| said.by_flag) {
                Some(value) => line.arguments.push(said.setting.argument(value)),
                None => line.environment.push(said),
            }
        }
        if exit_with_parent {
            line.arguments.push(format!("--{EXIT_WITH_PARENT}"));
        }
        line
    }
}

impl Startup {
    /// Returns the environment from which [`parse`](super::parse) reads the same settings, except that the process
    /// exits with its parent: only a flag can set that.
    pub fn to_env(&self) -> Vec<(&'static str, OsString)> {
        self.said().into_iter().map(|said| (said.variable, said.value)).collect()
    }

    /// Returns the command line from which [`parse`](super::parse) reads the same settings.
    pub fn to_args(&self) -> CommandLine {
        CommandLine::of(self.said(), self.exit_with_parent)
    }

    /// Returns all settings that have a value.
    pub fn said(&self) -> Vec<Said> {
        let mut list = List::default();
        match &self.process {
            Process::Coordinator(config) => coordinator(config, &mut list),
            Process::Agent(config, executor) => agent(config, executor, &mut list),
        }
        list.text(&settings::LOG_FORMAT, self.log_format.as_str());
        list.0
    }
}

fn coordinator(config: &CoordinatorConfig, list: &mut List) {
    list.text(&settings::ROLE, ProcessRole::Coordinator.as_flag());
    list.text(&settings::NAME, &config.name);
    list.text(&settings::CLUSTER_ID, &config.cluster_id);
    list.text(&settings::LISTEN, &config.listen);
    list.some(&settings::ADVERTISE, config.advertise.as_deref());
    list.path(&settings::DATA, Some(&config.data));
    if !config.initial_coordinators.is_empty() {
        let members = config.initial_coordinators.iter().map(|(name, at)| (name.as_str(), at.as_str()));
        list.text(&settings::INITIAL_COORDINATORS, text::members(members));
    }
    list.some(&settings::METRICS_LISTEN, config.metrics_listen.as_deref());
    list.span(&settings::HEARTBEAT_INTERVAL, Some(config.heartbeat_interval));
    list.span(&settings::SESSION_TIMEOUT, Some(config.session_timeout));
    list.span(&settings::HEALTH_CHECK_INTERVAL, Some(config.health_check_interval));
    list.number(&settings::MAX_ATTEMPTS, Some(config.max_attempts));
    list.text(&settings::WEIGHTS, text::weights(config.weights));
    let election = text::duration_range(config.election_timeout_min, config.election_timeout_max);
    list.text(&settings::ELECTION_TIMEOUT, election);
    list.span(&settings::DISCONNECT_GRACE, Some(config.disconnect_grace));
    let FleetLimits { max_queued, max_tasks, max_bytes, result_ttl, idempotency_window, recent_results } =
        config.limits;
    list.number(&settings::MAX_QUEUED, max_queued);
    list.number(&settings::MAX_TASKS, max_tasks);
    list.number(&settings::MAX_BYTES, max_bytes);
    list.span(&settings::RESULT_TTL, result_ttl);
    list.span(&settings::IDEMPOTENCY_WINDOW, idempotency_window);
    list.number(&settings::RECENT_RESULTS, recent_results);
    list.number(&settings::SNAPSHOT_AFTER, Some(config.snapshot_after));
    // Said only where they are set, so that the processes of fleets that do not set them are told what they were.
    let (ballots, unset) = (config.ballots, BallotDefaults::default());
    let threshold = (ballots.threshold != unset.threshold).then(|| ballots.threshold.to_string());
    list.some(&settings::BALLOT_THRESHOLD, threshold.as_deref());
    list.span(&settings::BALLOT_DEADLINE, (ballots.deadline != unset.deadline).then_some(ballots.deadline));
    list.number(&settings::AGENT_COUNT, config.expected_agents);
    list.text(&settings::TLS, config.tls.as_str());
    let authority = &config.authority;
    list.path(&settings::CA, authority.directory.as_deref());
    list.some(&settings::ENROLMENT, authority.enrolment.map(|enrolment| enrolment.as_str()));
    list.text(&settings::TRUST_DOMAIN, &authority.trust_domain);
    list.text(&settings::NAMESPACE, &authority.namespace);
    list.path(&settings::RIGHTS, authority.rights.as_deref());
    list.path(&settings::JOIN, authority.join.as_deref());
}

fn agent(config: &AgentConfig, executor: &ExecutorSpec, list: &mut List) {
    list.text(&settings::ROLE, ProcessRole::Agent(config.role).as_flag());
    list.text(&settings::NAME, &config.name);
    list.text(&settings::CLUSTER_ID, &config.cluster_id);
    list.text(&settings::COORDINATORS, text::list(&config.coordinators));
    list.text(&settings::LISTEN, &config.listen);
    match config.advertise.as_deref() {
        // The variable, HOSTNAME, carries the fact that the address is the machine's own name.
        Some(address) if config.advertises_host_name => {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            list.0.push(Said { setting: settings::ADVERTISE, value: host.into(), variable: HOSTNAME, by_flag: false });
        }
        address => list.some(&settings::ADVERTISE, address),
    }
    list.some(&settings::METRICS_LISTEN, config.metrics_listen.as_deref());
    if !config.pool.is_empty() {
        list.text(&settings::POOL, &config.pool);
    }
    list.number(&settings::POOL_REPLICAS, Some(config.pool_replicas));
    list.number(&settings::POOL_STANDBY, Some(config.pool_standby));
    list.number(&settings::SLOTS, Some(config.slots));
    // Said only where it is set, so that the pods of fleets that do not set it stay as they are.
    if config.contribute != Contribute::default() {
        list.text(&settings::CONTRIBUTE, config.contribute.to_text());
    }
    list.0.push(Said {
        setting: settings::EXECUTOR,
        value: executor.to_json().into(),
        variable: settings::EXECUTOR.variable(),
        by_flag: !executor.may_hold_credentials(),
    });
    list.span(&settings::DRAIN_TIMEOUT, Some(config.drain_timeout));
    if !config.specializations.is_empty() {
        list.text(&settings::SPECIALIZATIONS, text::list(&config.specializations));
    }
    list.text(&settings::WORKER_LISTEN, &config.worker_listen);
    if let Some(messages) = &config.messages {
        list.0.push(Said {
            setting: settings::MESSAGES,
            value: messages.to_json().into(),
            variable: settings::MESSAGES.variable(),
            by_flag: !messages.may_hold_credentials(),
        });
    }
    list.text(&settings::ON_ANOMALY, config.on_anomaly.as_str());
    list.span(&settings::ANOMALY_WARM_UP, Some(config.anomaly_warm_up));
    list.path(&settings::DATA, config.data.as_deref());
    list.some(&settings::GATEWAY_LISTEN, config.gateway_listen.as_deref());
    list.path(&settings::WEBHOOKS, config.webhooks.as_deref());
    list.some(&settings::OBJECT_STORE, config.object_store.as_deref());
    list.text(&settings::TLS, config.tls.as_str());
    enrolment(&config.enrolment, list);
}

fn enrolment(config: &EnrolmentConfig, list: &mut List) {
    list.path(&settings::TRUST, config.trust.as_deref());
    match &config.proof {
        JoinProof::None => {}
        JoinProof::Token(token) => list.0.push(Said {
            setting: settings::JOIN_TOKEN,
            value: token.into(),
            variable: settings::JOIN_TOKEN.variable(),
            by_flag: false,
        }),
        JoinProof::Secret(file) => list.path(&settings::JOIN_SECRET, Some(file)),
        JoinProof::ServiceAccount(file) => list.path(&settings::SERVICE_ACCOUNT_TOKEN, Some(file)),
    }
}

/// The settings collected so far.
#[derive(Default)]
struct List(Vec<Said>);

impl List {
    fn text(&mut self, setting: &Setting, value: impl Into<String>) {
        let value = OsString::from(value.into());
        self.0.push(Said { setting: *setting, value, variable: setting.variable(), by_flag: true });
    }

    fn path(&mut self, setting: &Setting, value: Option<&Path>) {
        if let Some(path) = value {
            let variable = setting.variable();
            self.0.push(Said { setting: *setting, value: path.into(), variable, by_flag: true });
        }
    }

    fn some(&mut self, setting: &Setting, value: Option<&str>) {
        if let Some(value) = value {
            self.text(setting, value);
        }
    }

    fn span(&mut self, defined: &Span, value: Option<std::time::Duration>) {
        if let Some(value) = value {
            self.text(&defined.setting, text::duration(value));
        }
    }

    fn number<T: fmt::Display>(&mut self, defined: &Number<T>, value: Option<T>) {
        if let Some(value) = value {
            self.text(&defined.setting, value.to_string());
        }
    }
}
