//! The table of all settings: each has a flag, the environment names it is also read from, and the processes it is for.
//! Flags win over the environment; an empty environment variable counts as unset.

use std::{ffi::OsString, path::PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, builder::ValueParser};

use super::ConfigError;

/// The one setting whose value need not be text.
const DATA: &str = "data";

/// The processes a setting is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    Both,
    Coordinators,
    Agents,
}

/// One setting.
pub(super) struct Setting {
    /// The long flag.
    pub flag: &'static str,
    /// Environment names, the first that is set counts.
    pub env: &'static [&'static str],
    pub of: For,
    value: &'static str,
    help: &'static str,
}

const fn setting(
    of: For,
    flag: &'static str,
    env: &'static [&'static str],
    value: &'static str,
    help: &'static str,
) -> Setting {
    Setting { flag, env, of, value, help }
}

/// All settings that have a value, in the order of the help.
pub(super) const SETTINGS: &[Setting] = &[
    setting(
        For::Both,
        "role",
        &["AGENT_ROLE", "ROLE"],
        "ROLE",
        "What the process is: coordinator, worker, specialist, messenger or guardian",
    ),
    setting(For::Both, "name", &["ROBEING_NAME", "AGENT_ID", "HOSTNAME"], "NAME", "Its name, the same after a restart"),
    setting(For::Both, "cluster-id", &["CLUSTER_ID"], "NAME", "The cluster it belongs to (default)"),
    setting(
        For::Both,
        "listen",
        &["ROBEING_LISTEN"],
        "HOST:PORT",
        "Where to listen; port 0 takes a free one (0.0.0.0:8080)",
    ),
    setting(
        For::Both,
        "advertise",
        &["ROBEING_ADVERTISE"],
        "HOST:PORT",
        "Where others reach it (the listening address; for 0.0.0.0 the host in POD_IP or HOSTNAME, of which an agent says the \
         address)",
    ),
    setting(
        For::Both,
        "metrics-listen",
        &["ROBEING_METRICS_LISTEN"],
        "HOST:PORT",
        "Where to serve /metrics, /healthz and /readyz over HTTP (nowhere)",
    ),
    setting(For::Both, "log-format", &["ROBEING_LOG_FORMAT"], "FORMAT", "text or json (text); RUST_LOG says how much"),
    setting(For::Coordinators, DATA, &["ROBEING_DATA"], "DIR", "Directory of the log and snapshots (/var/lib/robeing)"),
    setting(
        For::Coordinators,
        "initial-coordinators",
        &["ROBEING_INITIAL_COORDINATORS"],
        "NAME=HOST:PORT,...",
        "All members of the fleet's first membership, used when the data directory is new (itself alone)",
    ),
    setting(
        For::Coordinators,
        "heartbeat-interval",
        &["ROBEING_HEARTBEAT_INTERVAL"],
        "DURATION",
        "How often agents renew their sessions (500ms)",
    ),
    setting(
        For::Coordinators,
        "session-timeout",
        &["ROBEING_SESSION_TIMEOUT"],
        "DURATION",
        "After how long without a heartbeat an agent is lost (2s)",
    ),
    setting(
        For::Coordinators,
        "health-check-interval",
        &["ROBEING_HEALTH_CHECK_INTERVAL"],
        "DURATION",
        "How often agents, and through them what they run tasks with, are asked how they are (10s)",
    ),
    setting(
        For::Coordinators,
        "disconnect-grace",
        &["ROBEING_DISCONNECT_GRACE"],
        "DURATION",
        "How long an agent whose connection broke has for coming back (50ms)",
    ),
    setting(
        For::Coordinators,
        "election-timeout",
        &["ROBEING_ELECTION_TIMEOUT"],
        "MIN..MAX",
        "Time without word from the leader after which an election begins (150ms..300ms)",
    ),
    setting(
        For::Coordinators,
        "max-attempts",
        &["ROBEING_MAX_ATTEMPTS"],
        "N",
        "Attempts of a task that does not say how many (5)",
    ),
    setting(
        For::Coordinators,
        "weights",
        &["ROBEING_WEIGHTS"],
        "TERM=POINTS,...",
        "Weights of an agent's score for a task (specialization=50,load=-10,performance=20)",
    ),
    setting(For::Coordinators, "max-queued", &["ROBEING_MAX_QUEUED"], "N", "Unfinished tasks at most (100000)"),
    setting(
        For::Coordinators,
        "max-tasks",
        &["ROBEING_MAX_TASKS"],
        "N",
        "Tasks kept at most, finished ones included (1000000)",
    ),
    setting(
        For::Coordinators,
        "max-bytes",
        &["ROBEING_MAX_BYTES"],
        "BYTES",
        "Bytes of inputs and outputs held at most (1073741824)",
    ),
    setting(
        For::Coordinators,
        "result-ttl",
        &["ROBEING_RESULT_TTL"],
        "DURATION",
        "How long a finished task is kept (1h)",
    ),
    setting(
        For::Coordinators,
        "snapshot-after",
        &["ROBEING_SNAPSHOT_AFTER"],
        "ENTRIES",
        "Entries of the log after which a snapshot is written (50000)",
    ),
    setting(
        For::Agents,
        "coordinators",
        &["ROBEING_COORDINATORS", "COORDINATOR_URL"],
        "HOST:PORT,...",
        "Coordinators, any of which leads to the leader; http://HOST:PORT will do, port 8080 may be left out (port 8080 of the \
         Service called like the cluster)",
    ),
    setting(For::Agents, "pool", &["ROBEING_POOL"], "NAME", "The pool it is of (none)"),
    setting(
        For::Agents,
        "pool-replicas",
        &["ROBEING_POOL_REPLICAS"],
        "N",
        "Agents of the pool that work; further ones wait as standby (not fixed)",
    ),
    setting(For::Agents, "pool-standby", &["ROBEING_POOL_STANDBY"], "N", "Agents of the pool that wait as standby (0)"),
    setting(
        For::Agents,
        "specializations",
        &["ROBEING_SPECIALIZATIONS", "SPECIALIZATION"],
        "NAME,...",
        "Its skills; a specialist has at least one",
    ),
    setting(For::Agents, "slots", &["ROBEING_SLOTS"], "N", "Tasks it runs at once (1)"),
    setting(
        For::Agents,
        "executor",
        &["ROBEING_EXECUTOR"],
        "JSON",
        r#"What running a task means, as in a manifest: {"command":{"argv":["wc","-w"]}}, {"http":{"url":"http://...","healthPath":"/healthz"}}, {"worker":{}} or {"echo":{}} ({"worker":{}})"#,
    ),
    setting(
        For::Agents,
        "worker-listen",
        &["ROBEING_WORKER_LISTEN"],
        "HOST:PORT",
        "Where processes attach that run tasks, with the executor worker: an address of this machine alone (127.0.0.1:8081)",
    ),
    setting(
        For::Agents,
        "drain-timeout",
        &["ROBEING_DRAIN_TIMEOUT"],
        "DURATION",
        "How long running tasks may go on after SIGTERM before they are handed back (30s)",
    ),
    setting(
        For::Both,
        "agent-count",
        &["AGENT_COUNT"],
        "N",
        "How many agents the whole fleet is meant to have; for showing only, every process is one agent (unknown)",
    ),
];

const AFTER_HELP: &str = "\
Durations are written like 500ms, 2s or 1m30s. What is in parentheses is the default.

OTEL_EXPORTER_OTLP_ENDPOINT turns tracing to an OpenTelemetry collector on (gRPC).

SIGTERM or Ctrl-C: a coordinator that leads hands over, an agent finishes or hands back its tasks. A second one ends it
at once.

Exit codes: 0 ended as asked; 1 could not start or go on, or left tasks behind unacknowledged; 2 wrong settings;
130 or 143 ended at once by a second signal.";

/// The command line of a process, without subcommands.
pub fn command() -> Command {
    let mut command = Command::new("robeing-agent")
        .version(env!("CARGO_PKG_VERSION"))
        .about("One process of a Robeing fleet: a coordinator, or an agent that runs tasks")
        .after_help(AFTER_HELP)
        .max_term_width(120)
        .arg(Arg::new("exit-with-parent").long("exit-with-parent").action(ArgAction::SetTrue).help(
            "End when the process that started it is gone, or closes its standard input; to be started from a \
                     thread that stays, since the end of that thread counts, too",
        ));
    for setting in SETTINGS {
        let heading = match setting.of {
            For::Both => "Settings",
            For::Coordinators => "Settings of coordinators",
            For::Agents => "Settings of agents",
        };
        let arg = Arg::new(setting.flag)
            .long(setting.flag)
            .value_name(setting.value)
            .allow_hyphen_values(true)
            .value_parser(if setting.flag == DATA { ValueParser::os_string() } else { ValueParser::string() })
            .help_heading(heading)
            .help(format!("{} [env: {}]", setting.help, setting.env.join(", ")));
        command = command.arg(arg);
    }
    command
}

/// A value and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub text: String,
    /// `--flag` or an environment name.
    pub from: String,
}

impl Value {
    /// An error about it. `expected` goes on after "give".
    pub fn wrong(&self, expected: &str) -> ConfigError {
        ConfigError::Wrong(format!("{} is {:?}: give {expected}", self.from, self.text))
    }

    /// The parts between commas, without those that are empty.
    pub fn list(&self) -> impl Iterator<Item = &str> {
        self.text.split(',').map(str::trim).filter(|part| !part.is_empty())
    }
}

/// Where values come from.
pub(super) struct Sources<'a> {
    matches: ArgMatches,
    env: &'a dyn Fn(&str) -> Option<OsString>,
}

impl<'a> Sources<'a> {
    pub fn read(matches: ArgMatches, env: &'a dyn Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let texts = SETTINGS.iter().filter(|setting| setting.flag != DATA).flat_map(|setting| setting.env);
        match texts.into_iter().find(|name| env(name).is_some_and(|value| value.to_str().is_none())) {
            Some(name) => Err(ConfigError::Wrong(format!("{name} is not UTF-8: give it in plain text"))),
            None => Ok(Self { matches, env }),
        }
    }

    /// Whether `--exit-with-parent` is given.
    pub fn exit_with_parent(&self) -> bool {
        self.matches.get_flag("exit-with-parent")
    }

    /// The data directory, if it is given: any bytes are a path.
    pub fn data(&self) -> Option<PathBuf> {
        let given = self.matches.get_one::<OsString>(DATA).cloned();
        let setting = SETTINGS.iter().find(|setting| setting.flag == DATA)?;
        let from_env = || setting.env.iter().find_map(|name| (self.env)(name).filter(|value| !value.is_empty()));
        given.or_else(from_env).map(PathBuf::from)
    }

    /// A setting's value, if it has one.
    pub fn get(&self, flag: &'static str) -> Option<Value> {
        if let Some(text) = self.matches.get_one::<String>(flag) {
            return Some(Value { text: text.clone(), from: format!("--{flag}") });
        }
        let setting = SETTINGS.iter().find(|setting| setting.flag == flag)?;
        setting.env.iter().find_map(|name| Some(Value { text: self.env(name)?, from: (*name).to_owned() }))
    }

    /// A setting that must have a value.
    pub fn require(&self, flag: &'static str, what: &str) -> Result<Value, ConfigError> {
        let missing = || {
            let env = SETTINGS.iter().find(|s| s.flag == flag).map_or("", |s| s.env.last().copied().unwrap_or(""));
            ConfigError::Wrong(format!("it is not said {what}: give --{flag} or set {env}"))
        };
        self.get(flag).filter(|value| !value.text.trim().is_empty()).ok_or_else(missing)
    }

    /// An environment variable that is set and not empty.
    pub fn env(&self, name: &str) -> Option<String> {
        let value = (self.env)(name)?.into_string().ok()?;
        Some(value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// Refuses flags that mean nothing to this kind of process. Environment variables may be shared between kinds.
    pub fn refuse(&self, others: For, this: &str) -> Result<(), ConfigError> {
        let misplaced = SETTINGS.iter().filter(|s| s.of == others).find(|s| self.matches.contains_id(s.flag));
        let Some(setting) = misplaced else { return Ok(()) };
        let whose = if others == For::Agents { "agents" } else { "coordinators" };
        Err(ConfigError::Wrong(format!(
            "--{} is for {whose}, and --role says {this}: remove one of the two",
            setting.flag
        )))
    }
}
