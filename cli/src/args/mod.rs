//! The command line: what may be written, and its help.

mod line;
mod reading;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
pub use line::{called_as, grammar, parse};

use crate::kubernetes::Location;

/// Work with a fleet of agents: submit tasks, follow them, and see how the fleet is.
#[derive(Debug, Parser)]
#[command(name = "robeing", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Which fleet to talk to.
    #[command(flatten)]
    pub connection: Connection,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the fleet of a RobeingCluster manifest as processes on this machine
    Dev(DevArgs),
    /// Submit one task, or many
    Submit(Box<SubmitArgs>),
    /// List tasks, oldest first
    Tasks(TasksArgs),
    /// Show one task
    Task(TaskArgs),
    /// Cancel tasks
    Cancel(CancelArgs),
    /// List the agents, with their process ids
    Agents(AgentsArgs),
    /// Show how the fleet is: leader, coordinators, pools and tasks
    Status(StatusArgs),
    /// Print the CustomResourceDefinition of RobeingCluster, for kubectl apply -f -
    Crd(CrdArgs),
    /// Print the completions of a shell, to be sourced by it
    Completions(CompletionsArgs),
}

/// Which fleet to talk to.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Fleet")]
pub struct Connection {
    /// Where a coordinator listens, host:port or http://host:port. Repeat it, or separate several by commas: any
    /// coordinator will do, and the next is asked when one does not answer. Without it (an empty ROBEING_ENDPOINT counts
    /// as unset) and --cluster: the newest fleet that `robeing dev` runs for this user, else http://127.0.0.1:8080; as
    /// `kubectl robeing`, the RobeingCluster of the current namespace
    #[arg(
        long,
        global = true,
        env = "ROBEING_ENDPOINT",
        hide_env_values = true,
        value_name = "URL",
        value_delimiter = ','
    )]
    pub endpoint: Vec<String>,

    /// Talk to the fleet of this name that `robeing dev` runs for this user, whatever ROBEING_ENDPOINT says
    #[arg(long, global = true, value_name = "NAME")]
    pub fleet: Option<String>,

    /// Talk to the fleet of the RobeingCluster of this name on Kubernetes, through the API server, whatever
    /// ROBEING_ENDPOINT says. May be left out where the namespace has one alone and --namespace is given
    #[arg(long, global = true, value_name = "NAME", value_parser = object_name)]
    pub cluster: Option<String>,

    /// The namespace of the RobeingCluster; the kubeconfig's current one unless given
    #[arg(short, long, global = true, value_name = "NAMESPACE", value_parser = object_name)]
    pub namespace: Option<String>,

    /// The context of the kubeconfig; its current one unless given
    #[arg(long, global = true, value_name = "CONTEXT")]
    pub context: Option<String>,

    /// The kubeconfig, which says how to reach Kubernetes. Without it: those of KUBECONFIG, else ~/.kube/config, else the
    /// service account of the pod this runs in
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// For how long a call is tried while the fleet does not answer, as when it elects a leader
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        default_value = "10s",
        value_parser = humantime::parse_duration
    )]
    pub request_timeout: Duration,

    /// Called as kubectl's plugin, whose fleets are on Kubernetes.
    #[arg(skip)]
    pub is_plugin: bool,
}

/// Where the fleet is that the arguments mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// At these endpoints.
    Endpoints(Vec<String>),
    /// On this machine, run by `robeing dev` under this name.
    Dev(String),
    /// On Kubernetes.
    Kubernetes(Location),
    /// Nothing was said.
    Unsaid,
}

impl Connection {
    /// Where the fleet is that these arguments mean; what is named by a flag goes before the environment.
    pub fn target(&self) -> Target {
        if let Some(name) = &self.fleet {
            return Target::Dev(name.clone());
        }
        let place = Location {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            namespace: self.namespace.clone(),
            cluster: self.cluster.clone(),
        };
        if place != Location::default() {
            return Target::Kubernetes(place);
        }
        match (self.endpoint.is_empty(), self.is_plugin) {
            (false, _) => Target::Endpoints(self.endpoint.clone()),
            (true, true) => Target::Kubernetes(place),
            (true, false) => Target::Unsaid,
        }
    }
}

/// Longest name of an object of Kubernetes.
const MAX_OBJECT_NAME: usize = 253;

/// A name that an object of Kubernetes may have. It becomes part of a URL.
fn object_name(text: &str) -> Result<String, String> {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let is_outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if text.len() > MAX_OBJECT_NAME {
        return Err(format!("a name has at most {MAX_OBJECT_NAME} characters"));
    }
    if !text.chars().all(is_inner) || !is_outer(text.chars().next()) || !is_outer(text.chars().last()) {
        return Err(
            "a name is of lower-case letters, digits, '-' and '.', and begins and ends with one of the first two"
                .into(),
        );
    }
    Ok(text.into())
}

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// The proto3 JSON form of the API's messages; lists as arrays
    Json,
    /// The same as YAML
    Yaml,
}

/// How to print.
#[derive(Args, Clone, Debug)]
pub struct Output {
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Arguments of `dev`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The fleet's endpoints are written to a file for this user alone, in $XDG_RUNTIME_DIR/robeing or /run/user/UID/robeing or, \
where the user has no such directory, in $TMPDIR/robeing-UID or /tmp/robeing-UID. So other commands that have these \
variables as this one has them find the newest running fleet by themselves; --fleet NAME chooses among several, and \
--endpoint reaches any.

Commands run on this machine as they are: a pool's `container` is for Kubernetes.

Ctrl-C and SIGTERM stop the fleet in order: agents get some seconds to finish what they run and hand back the rest, \
then the coordinators end. Ctrl-C again ends all of them at once. Either way, and even when this process is killed with \
SIGKILL, the coordinators, the agents and the process groups of the commands they run end. A process that left its group \
with setsid goes on. A temporary directory that was left by SIGKILL is removed by the next `robeing dev`.

The values of an http executor's headers come from the Secrets in the manifest, beside its one RobeingCluster. Other \
resources in it are ignored.")]
pub struct DevArgs {
    /// The manifest of a RobeingCluster; - reads standard input
    #[arg(short, long = "filename", value_name = "MANIFEST")]
    pub filename: PathBuf,

    /// Where to keep the fleet's data, so that it goes on where it was when it is started again: a directory that is
    /// new, empty, or made so before. Without it, a temporary directory that is removed at the end
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// The name of the fleet, instead of the manifest's
    #[arg(long)]
    pub name: Option<String>,

    /// The port of the first coordinator; the others take the ports after it, and then the agents to which processes of
    /// yours attach. Without it, free ports
    #[arg(long, value_name = "BASE", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,

    /// The robeing-agent program. Without it, the one beside this program, else the one in PATH
    #[arg(long, env = "ROBEING_AGENT_BIN", hide_env_values = true, value_name = "PATH")]
    pub agent_bin: Option<PathBuf>,

    /// Print events as lines, also at a terminal
    #[arg(long)]
    pub plain: bool,
}

/// Arguments of `submit`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
--inputs reads one JSON value per line, and each line is a task. A string is the task's input; any other value is \
the input as it is written, with all its digits, fields and spaces. For example:

    \"some text\"
    {\"file\": \"a.csv\", \"size\": 18446744073709551616}

--tasks reads one JSON object per line, with the options of its task: input (a value as above; none is an empty input), \
kind, key, priority, deadline, delay, timeout, maxAttempts, ttl, role and specialization, each where wanted and as the \
flag of its name has it. What a line does not say, the flags say for all. For example:

    {\"input\": {\"file\": \"a.csv\"}, \"key\": \"a.csv\", \"priority\": 9, \"deadline\": \"10m\"}

All lines are read before anything is submitted.

Without --wait, the ids of the tasks are printed, one per line. With --wait, the output of a single task is written as \
it is, and many tasks are printed as a list. The ids of tasks are drawn here, so a submission that had to be repeated, to \
another coordinator perhaps, is one task all the same.

With -o json or yaml, the task of --input is one object and the tasks of --inputs and --tasks are a list, also when there \
is one. The \
fields are those of `robeing task`, and without --wait there are id and, where it applies, existing (its key was known) \
and refusal.

An input has at most 1 MiB; a file of many has at most 1,000,000 lines and 1 GiB.")]
pub struct SubmitArgs {
    /// What is to be done. Agents with a specialization of this name are preferred; the others take the task, too. To
    /// require one, use --specialization
    #[arg(long, required_unless_present = "tasks")]
    pub kind: Option<String>,

    /// A file with the task's input; - reads standard input. Without it, the input is empty
    #[arg(long, value_name = "FILE", conflicts_with_all = ["inputs", "tasks"])]
    pub input: Option<PathBuf>,

    /// A file of many inputs, one JSON value per line; - reads standard input
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "tasks")]
    pub inputs: Option<PathBuf>,

    /// A file of many tasks with options of their own, one JSON object per line; - reads standard input
    #[arg(long, value_name = "FILE.jsonl")]
    pub tasks: Option<PathBuf>,

    /// 1 (last) to 10 (first); 5 unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10))]
    pub priority: Option<u32>,

    /// Fail the task when it has not finished so long after it was accepted
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,

    /// Do not start the task before so long after it was accepted
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub delay: Option<Duration>,

    /// How long one attempt may take
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,

    /// Attempts after the first one; the fleet's default unless given
    #[arg(long, value_name = "N", conflicts_with = "max_attempts", value_parser = clap::value_parser!(u32).range(..u32::MAX as i64))]
    pub retries: Option<u32>,

    /// Attempts in all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_attempts: Option<u32>,

    /// How long the finished task is kept for reading
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub ttl: Option<Duration>,

    /// Only agents of this role take the task
    #[arg(long, value_enum, ignore_case = true)]
    pub role: Option<AgentRole>,

    /// Only agents with this specialization take the task; while there is none, it waits
    #[arg(long, value_name = "NAME")]
    pub specialization: Option<String>,

    /// Idempotency key: a second submission with this key, of the same kind and input, is the first one's task, with its
    /// options; of another kind or input it is refused
    #[arg(long, value_name = "IDEMPOTENCY", conflicts_with_all = ["inputs", "tasks"])]
    pub key: Option<String>,

    /// Who submits, for listing and fair sharing. Without it: $USER, else the user's name on this machine, else
    /// "anonymous"
    #[arg(long, env = "ROBEING_SUBMITTER", hide_env_values = true, value_name = "NAME")]
    pub submitter: Option<String>,

    /// Wait for the result
    #[arg(long)]
    pub wait: bool,

    /// Wait no longer than this; the tasks go on
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = humantime::parse_duration)]
    pub wait_timeout: Option<Duration>,

    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// The roles that take tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum AgentRole {
    Worker,
    Specialist,
    Messenger,
    Guardian,
}

/// The states of a task, as arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum StateFilter {
    Queued,
    Assigned,
    Succeeded,
    Failed,
    Cancelled,
    DeadLettered,
}

/// Whether old answers will do.
#[derive(Args, Clone, Debug)]
pub struct Reading {
    /// Take what one coordinator has, perhaps a little old; works without a leader
    #[arg(long)]
    pub local: bool,
}

/// Arguments of `tasks`.
#[derive(Args, Debug)]
pub struct TasksArgs {
    /// Only tasks in these states
    #[arg(long, value_enum, value_delimiter = ',')]
    pub state: Vec<StateFilter>,

    /// Only tasks of this kind
    #[arg(long)]
    pub kind: Option<String>,

    /// Only tasks of this submitter
    #[arg(long, value_name = "NAME")]
    pub submitter: Option<String>,

    /// Only tasks that this agent has, or last had
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,

    /// How many to list at most; 0 lists all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,

    /// Go on where a list that was cut short ended; it told this token
    #[arg(long, value_name = "TOKEN")]
    pub page: Option<String>,

    /// Whether old answers will do.
    #[command(flatten)]
    pub reading: Reading,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `task`.
#[derive(Args, Debug)]
pub struct TaskArgs {
    /// The task's id
    pub id: String,

    /// Say why: which agents had its attempts, with the terms of their scores, or what it waits for
    #[arg(long)]
    pub why: bool,

    /// Follow the task until it has finished; exit code 1 when it did not succeed. With -o json, one line per change
    #[arg(long, conflicts_with = "why")]
    pub watch: bool,

    /// Write the task's output and nothing else, as it is
    #[arg(long, conflicts_with_all = ["why", "watch", "output"])]
    pub result: bool,

    /// Whether old answers will do.
    #[command(flatten)]
    pub reading: Reading,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `cancel`.
#[derive(Args, Debug)]
pub struct CancelArgs {
    /// The tasks' ids
    #[arg(required = true)]
    pub ids: Vec<String>,

    /// Why; kept with the tasks
    #[arg(long, default_value = "")]
    pub reason: String,

    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `agents`.
#[derive(Args, Debug)]
pub struct AgentsArgs {
    /// Also those that are lost
    #[arg(long)]
    pub all: bool,

    /// Show this agent alone, lost or not, with how it is, and what was done when it was unhealthy or lost
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    pub why: Option<String>,

    /// Whether old answers will do.
    #[command(flatten)]
    pub reading: Reading,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Whether old answers will do.
    #[command(flatten)]
    pub reading: Reading,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `crd`.
#[derive(Args, Debug)]
pub struct CrdArgs {
    /// The form of the output; table is YAML, too
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    pub output: Format,
}

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

#[cfg(test)]
mod tests;
