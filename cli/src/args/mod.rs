//! The arguments of the command line, and its help.

mod dead;
mod dev;
mod identity;
mod line;
mod links;
mod logs;
mod messages;
mod pbft;
mod placement;
mod queues;
mod reading;
mod resources;
mod schedules;
mod submit;
mod teams;
mod timing;
mod votes;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
pub use dead::{DeadCommand, DropDeadArgs, Letters, ListDeadArgs, RetryDeadArgs};
pub use dev::DevArgs;
pub use identity::{
    AuditArgs, BarArgs, ClientCommand, ClientFiles, CreateClientArgs, CreateTokenArgs, MAX_CLIENT_NAME,
    MAX_REASON_BYTES, PolicyCommand, PolicyFileArgs, ReleaseArgs, SetPoliciesArgs, ShowPoliciesArgs, TokenCommand,
};
pub use line::{called_as, grammar, parse};
pub use links::{DependsOn, JoinWord, LinkArgs, OnFailureWord, SplitByWord, join};
pub use logs::{CANCEL_WAIT, CancelArgs, LogsArgs};
pub use messages::{AskArgs, BroadcastArgs, Content, InboxArgs, MessageArgs, SendArgs};
pub use pbft::{EpochArgs, FormGroupArgs, GroupStatusArgs, LogArgs, LogFileArgs, PbftCommand, ProposeArgs};
pub use placement::{QueueingArgs, RequirementArgs};
pub use queues::{Aging, LimitSpec, ListQueuesArgs, QueuesCommand, RemoveQueuesArgs, SetQueuesArgs};
pub use resources::{
    AmountArgs, FreeArgs, ListResourcesArgs, QueueSpec, QueuesArgs, RenewArgs, RequestArgs, ResourcesCommand,
    ShowAllocationArgs,
};
pub use schedules::{
    ConcurrencyWord, ListSchedulesArgs, MissedWord, RunScheduleArgs, ScheduleArgs, ScheduleCommand, SetScheduleArgs,
};
pub use submit::{StoreArgs, SubmitArgs};
pub use teams::{DisbandArgs, FormArgs, ListTeamsArgs, ShowTeamArgs, TeamCommand};
pub use timing::TimingArgs;
pub use votes::{
    Agreement, ApprovalArgs, BallotMode, CastArgs, Electors, ListArgs, OpenArgs, ShowArgs, VerifyArgs,
    VerifyResultArgs, VoteCommand, VoteWord,
};

use crate::kubernetes::Location;

/// Work with a fleet of agents: submit tasks, follow them, and show the status of the fleet.
#[derive(Debug, Parser)]
#[command(name = "robeing", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,

    /// Selects the fleet.
    #[command(flatten)]
    pub connection: Connection,
}

/// The subcommands.
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
    /// List tasks that failed for good, try them again, or drop them
    #[command(subcommand, disable_help_subcommand = true)]
    Dead(DeadCommand),
    /// Print the recent lines of a task, and follow it
    Logs(LogsArgs),
    /// List the agents, with their process ids
    Agents(AgentsArgs),
    /// Show the status of the fleet: leader, coordinators, pools and tasks
    Status(StatusArgs),
    /// Send a message to an agent
    Send(SendArgs),
    /// Send a message to an agent and print its reply
    Ask(AskArgs),
    /// Send a message to all agents, or to a group of them
    Broadcast(BroadcastArgs),
    /// Show what became of a message
    Message(MessageArgs),
    /// Read the messages in an agent's inbox
    Inbox(InboxArgs),
    /// Have agents and people vote on a question, and verify how they did
    #[command(subcommand, disable_help_subcommand = true)]
    Vote(VoteCommand),
    /// Form teams of agents, and show what they do
    #[command(subcommand, disable_help_subcommand = true)]
    Team(TeamCommand),
    /// Set schedules, by which tasks are submitted again and again, and show their runs
    #[command(subcommand, disable_help_subcommand = true)]
    Schedule(ScheduleCommand),
    /// Show the resource pool, ask for resources and release them
    #[command(subcommand, disable_help_subcommand = true)]
    Resources(ResourcesCommand),
    /// List the queues of tasks, and set their shares and limits
    #[command(subcommand, disable_help_subcommand = true)]
    Queues(QueuesCommand),
    /// Form groups of agents that decide by Byzantine agreement, and verify what they decide
    #[command(subcommand, disable_help_subcommand = true)]
    Pbft(PbftCommand),
    /// Bar an agent from the fleet: its tasks run elsewhere, and what the fleet knows of it is kept for inspection
    Quarantine(BarArgs),
    /// Bar an agent from the fleet and forget it: its tasks run elsewhere
    Remove(BarArgs),
    /// Let an agent in again that was quarantined or removed
    Release(ReleaseArgs),
    /// Make tokens with which agents enrol
    #[command(subcommand, disable_help_subcommand = true)]
    Token(TokenCommand),
    /// Certify people and programs that use the fleet
    #[command(subcommand, disable_help_subcommand = true)]
    Client(ClientCommand),
    /// Set, show or check the policies on submissions, results and messages
    #[command(subcommand, disable_help_subcommand = true)]
    Policies(PolicyCommand),
    /// List what was done in the fleet and by whom, and what was refused
    Audit(AuditArgs),
    /// Print the CustomResourceDefinition of RobeingCluster, for kubectl apply -f -
    Crd(CrdArgs),
    /// Print the completion script of a shell, to be sourced
    Completions(CompletionsArgs),
}

/// Arguments that select the fleet.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Fleet")]
pub struct Connection {
    /// The address of a coordinator, host:port or http://host:port. Repeat it, or separate several by commas: any
    /// coordinator will do, and the next is tried when one does not answer. If no option and no variable selects a
    /// fleet, the default is the newest fleet that `robeing dev` runs for this user, else http://127.0.0.1:8080; as
    /// `kubectl robeing`, the RobeingCluster of the current namespace. An empty ROBEING_ENDPOINT counts as unset
    #[arg(
        long,
        global = true,
        env = "ROBEING_ENDPOINT",
        hide_env_values = true,
        value_name = "URL",
        value_delimiter = ','
    )]
    pub endpoint: Vec<String>,

    /// Use the fleet of this name that `robeing dev` runs for this user, regardless of ROBEING_ENDPOINT
    #[arg(long, global = true, value_name = "NAME")]
    pub fleet: Option<String>,

    /// Use the fleet of the RobeingCluster of this name on Kubernetes, through the API server, regardless of
    /// ROBEING_ENDPOINT. Can be omitted if --namespace is given and the namespace has only one
    #[arg(long, global = true, value_name = "NAME", value_parser = object_name)]
    pub cluster: Option<String>,

    /// The namespace of the RobeingCluster; defaults to the kubeconfig's current one
    #[arg(short, long, global = true, value_name = "NAMESPACE", value_parser = object_name)]
    pub namespace: Option<String>,

    /// The context of the kubeconfig; defaults to its current one
    #[arg(long, global = true, value_name = "CONTEXT")]
    pub context: Option<String>,

    /// The kubeconfig file. Without it: the files in KUBECONFIG, else ~/.kube/config, else the service account of the
    /// pod that this runs in
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The ServiceAccount whose token shows the fleet on Kubernetes who you are; you must have the right to create
    /// serviceaccounts/token for it. Without it, NAME.user of the RobeingCluster NAME, or NAME.admin for commands that
    /// administer the fleet
    #[arg(long, global = true, value_name = "NAME", value_parser = object_name)]
    pub service_account: Option<String>,

    /// How long a call is retried while the fleet does not answer, for example during a leader election. If no
    /// coordinator can be connected to at first, for example because nothing listens there, the command fails at once
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        default_value = "10s",
        value_parser = humantime::parse_duration
    )]
    pub request_timeout: Duration,

    /// How to connect to endpoints.
    #[command(flatten)]
    pub credentials: ClientFiles,

    /// Whether the program runs as kubectl's plugin, which selects a fleet on Kubernetes by default.
    #[arg(skip)]
    pub is_plugin: bool,
}

/// The fleet that the arguments select.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The fleet with coordinators at these endpoints.
    Endpoints(Vec<String>),
    /// The fleet that `robeing dev` runs under this name on this machine.
    Dev(String),
    /// The fleet of a `RobeingCluster` on Kubernetes.
    Kubernetes(Location),
    /// No fleet was selected.
    Unsaid,
}

impl Connection {
    /// Returns the fleet that the arguments select. Flags take precedence over the environment.
    pub fn target(&self) -> Target {
        if let Some(name) = &self.fleet {
            return Target::Dev(name.clone());
        }
        let place = Location {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            namespace: self.namespace.clone(),
            cluster: self.cluster.clone(),
            service_account: self.service_account.clone(),
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

/// Maximum length of a name of a Kubernetes object.
const MAX_OBJECT_NAME: usize = 253;

/// Checks the name of a Kubernetes object, which becomes part of a URL.
fn object_name(text: &str) -> Result<String, String> {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let is_outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if text.len() > MAX_OBJECT_NAME {
        return Err(format!("a name has at most {MAX_OBJECT_NAME} characters"));
    }
    if !text.chars().all(is_inner) || !is_outer(text.chars().next()) || !is_outer(text.chars().last()) {
        return Err(
            "a name consists of lower-case letters, digits, '-' and '.', and starts and ends with a letter or digit"
                .into(),
        );
    }
    Ok(text.into())
}

/// The output format.
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

/// Selects the output format.
#[derive(Args, Clone, Debug)]
pub struct Output {
    /// The format of the output
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
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

/// Selects the consistency of reads.
#[derive(Args, Clone, Debug)]
pub struct Reading {
    /// Read the local state of one coordinator, which may be stale; works without a leader
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

    /// Maximum number of tasks to list; 0 lists all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,

    /// Continue a truncated list, with the token that was printed after it
    #[arg(long, value_name = "TOKEN")]
    pub page: Option<String>,

    /// Selects the consistency of reads.
    #[command(flatten)]
    pub reading: Reading,
    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `task`.
#[derive(Args, Debug)]
pub struct TaskArgs {
    /// The task's id
    pub id: String,

    /// Explain the scheduling: which agents were assigned its attempts, with the terms of their scores, or what it is
    /// waiting for
    #[arg(long)]
    pub why: bool,

    /// Follow the task and its progress until it has finished; exit code 1 if it did not succeed. With -o json, one line
    /// per change
    #[arg(long, conflicts_with = "why")]
    pub watch: bool,

    /// Write only the task's output, unmodified
    #[arg(long, conflicts_with_all = ["why", "watch", "output"])]
    pub result: bool,

    /// Show the task with its parts and subtasks, and theirs, at most 10,000 tasks
    #[arg(long, conflicts_with_all = ["why", "watch", "result"])]
    pub tree: bool,

    /// Where --result finds an output of more than 1 MiB.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Selects the consistency of reads.
    #[command(flatten)]
    pub reading: Reading,
    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `agents`.
#[derive(Args, Debug)]
pub struct AgentsArgs {
    /// Include lost agents
    #[arg(long)]
    pub all: bool,

    /// Show only this agent, lost or not, with its state, and the recovery steps when it was unhealthy or lost
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    pub why: Option<String>,

    /// Selects the consistency of reads.
    #[command(flatten)]
    pub reading: Reading,
    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Selects the consistency of reads.
    #[command(flatten)]
    pub reading: Reading,
    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `crd`.
#[derive(Args, Debug)]
pub struct CrdArgs {
    /// The format of the output; table means YAML
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
