//! The command line: what may be written, and its help.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::{exit::Exit, inputs};

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
    /// coordinator will do, and the next is asked when one does not answer. Without it: the newest fleet that
    /// `robeing dev` runs for this user, else http://127.0.0.1:8080
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

    /// For how long a call is tried while the fleet does not answer, as when it elects a leader
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        default_value = "10s",
        value_parser = humantime::parse_duration
    )]
    pub request_timeout: Duration,
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
The fleet's endpoints are written to a file for this user alone, in $XDG_RUNTIME_DIR/robeing or, without that, in \
robeing-UID in the directory for temporary files. So the other commands find the newest running fleet by themselves; \
--fleet NAME chooses among several, and --endpoint reaches any.

Ctrl-C, SIGTERM, and even SIGKILL of this process end all processes of the fleet. Ctrl-C twice kills them.")]
pub struct DevArgs {
    /// The manifest of a RobeingCluster; - reads standard input
    #[arg(short, long = "filename", value_name = "MANIFEST")]
    pub filename: PathBuf,

    /// Where to keep the fleet's data, so that it goes on where it was when it is started again. Without it, a
    /// temporary directory that is removed at the end
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// The name of the fleet, instead of the manifest's
    #[arg(long)]
    pub name: Option<String>,

    /// The port of the first coordinator; the others take the ports after it. Without it, free ports
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
--inputs reads one JSON value per line, and each line is a task. A string is the task's input. An object has the \
fields input (a string, or any JSON value, which is then passed as JSON) and, where wanted, key and priority. Any other \
value is passed as JSON. For example:

    \"some text\"
    {\"input\": {\"file\": \"a.csv\"}, \"key\": \"a.csv\", \"priority\": 9}

All lines are read before anything is submitted.

Without --wait, the ids of the tasks are printed, one per line. With --wait, the output of a single task is written as \
it is, and many tasks are printed as a list. The ids of tasks are drawn here, so a submission that had to be repeated, to \
another coordinator perhaps, is one task all the same.")]
pub struct SubmitArgs {
    /// What is to be done; matched with the specializations of agents
    #[arg(long)]
    pub kind: String,

    /// A file with the task's input; - reads standard input. Without it, the input is empty
    #[arg(long, value_name = "FILE", conflicts_with = "inputs")]
    pub input: Option<PathBuf>,

    /// A file of many inputs, one JSON value per line; - reads standard input
    #[arg(long, value_name = "FILE.jsonl")]
    pub inputs: Option<PathBuf>,

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
    #[arg(long, value_enum)]
    pub role: Option<AgentRole>,

    /// Only agents with this specialization take the task
    #[arg(long, value_name = "NAME")]
    pub specialization: Option<String>,

    /// Idempotency key: a second submission with this key is the first one's task
    #[arg(long, value_name = "IDEMPOTENCY", conflicts_with = "inputs")]
    pub key: Option<String>,

    /// Who submits, for listing and fair sharing; the user's name unless given
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

/// The name a user calls the program by: `kubectl robeing` where it is kubectl's plugin.
pub fn called_as(program: &str) -> &'static str {
    let file = program.rsplit(['/', '\\']).next().unwrap_or(program);
    if file == "kubectl-robeing" || file == "kubectl-robeing.exe" { "kubectl robeing" } else { "robeing" }
}

/// The command line's grammar under the name it is called by.
pub fn grammar(name: &'static str) -> clap::Command {
    Cli::command().bin_name(name).display_name(name).after_help(Exit::table())
}

/// Reads a command line, the program's name first.
///
/// # Errors
/// Clap's: also where help or the version was asked for.
pub fn parse(line: &[OsString]) -> Result<Cli, clap::Error> {
    let program = line.first().cloned().unwrap_or_default();
    let name = called_as(&program.to_string_lossy());
    let matches = grammar(name).try_get_matches_from(line)?;
    Cli::from_arg_matches(&matches)
}

impl SubmitArgs {
    /// The inputs of the tasks, read.
    ///
    /// # Errors
    /// As of [`inputs::read_input`] and [`inputs::read_lines`].
    pub fn read_inputs(&self) -> Result<Vec<inputs::LineInput>, inputs::InputError> {
        match (&self.inputs, &self.input) {
            (Some(file), _) => inputs::read_lines(file),
            (None, Some(file)) => {
                Ok(vec![inputs::LineInput { input: inputs::read_input(file)?, ..Default::default() }])
            }
            (None, None) => Ok(vec![inputs::LineInput::default()]),
        }
    }
}

#[cfg(test)]
mod tests;
