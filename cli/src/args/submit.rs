//! The arguments of `submit`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use jiff::Timestamp;

use super::{ApprovalArgs, LinkArgs, Output, QueueingArgs, RequirementArgs, TimingArgs, timing::time};

/// The object store for large inputs and outputs.
#[derive(Args, Clone, Debug, Default)]
pub struct StoreArgs {
    /// Where inputs and outputs of more than 1 MiB are, the same as for the agents: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or
    /// file:///DIRECTORY. A fleet of `robeing dev` has a directory of its own
    #[arg(long, env = "ROBEING_OBJECT_STORE", hide_env_values = true, value_name = "URL")]
    pub object_store: Option<String>,
}

/// Arguments of `submit`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
--inputs reads one JSON value per line, and each line is a task. A string is the task's input; any other value is \
passed as the input exactly as written, with all its digits, fields and spaces. For example:

    \"some text\"
    {\"file\": \"a.csv\", \"size\": 18446744073709551616}

--tasks reads one JSON object per line, with the options of its task: input (a value as above; empty if omitted), \
kind, key, priority, deadline, delay, timeout, maxAttempts, ttl, role, specialization, queue and limitKey, all optional \
and with the same values as the flags. The flags apply to all lines that do not set the option. For example:

    {\"input\": {\"file\": \"a.csv\"}, \"key\": \"a.csv\", \"priority\": 9, \"deadline\": \"10m\"}

All lines are read before anything is submitted.

With --split, the lines are the parts of one task, which ends by --join, and with it all parts that have not ended. \
`robeing task ID --tree` shows them. With --agents, the input of each task is divided into its parts, and no agent runs \
two of them at once; the task itself then has no input.

-f reads a workflow: a YAML file of steps, each of which is a task. They are the parts of one task, which ends when all \
of them have. A step starts when those have succeeded that dependsOn names. For example:

    steps:
    - {name: fetch, kind: fetch, input: {url: https://example.com}}
    - {name: parse, kind: parse, dependsOn: [fetch], resultsAsInput: true}
    - {name: clean, kind: clean, dependsOn: [{step: parse, onFailure: run}]}

With strategy: pipeline, each step depends on the one before it and has its output as input. The options of a step are \
those of a line of --tasks but key, and inputs, join and partKind, by which it is split. The flags apply to all steps \
that do not set the option.

Without --wait, the ids of the tasks are printed, one per line. With --wait, the output of a single task is written \
unmodified, and many tasks are printed as a list. The client generates the task ids, so a submission that is retried, \
perhaps with another coordinator, does not create a second task.

With -o json or yaml, the task of --input is one object, and the tasks of --inputs and --tasks are a list even if \
there is only one. The fields are those of `robeing task`; without --wait they are id and, where applicable, existing \
(the key was already known) and refusal.

The exit code is 3 if a task is refused. With --wait, it is 1 if a task failed, was cancelled or dead-lettered, or its \
result has expired, and 6 if --wait-timeout has passed.

An input can have at most 1 MiB, or 64 MiB by --input with an object store; a file of many inputs or tasks at most \
1,000,000 lines and 1 GiB.")]
pub struct SubmitArgs {
    /// The kind of the task. Agents with a specialization of this name are preferred, but others can run it, too. To
    /// require one, use --specialization
    #[arg(long, required_unless_present_any = ["tasks", "workflow"])]
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

    /// A workflow: a file of steps that depend on each other; - reads standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE.yaml", conflicts_with_all = ["input", "inputs", "tasks", "split", "agents", "depends_on"])]
    pub workflow: Option<PathBuf>,

    /// How the task is linked with others.
    #[command(flatten)]
    pub links: LinkArgs,

    /// 1 (last) to 10 (first); defaults to 5
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10))]
    pub priority: Option<u32>,

    /// Fail the task if it has not finished this long after it was accepted
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,

    /// Do not start the task until this long after it was accepted
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub delay: Option<Duration>,

    /// How long one attempt may take
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,

    /// Number of attempts after the first one; defaults to the fleet's setting
    #[arg(long, value_name = "N", conflicts_with = "max_attempts", value_parser = clap::value_parser!(u32).range(..u32::MAX as i64))]
    pub retries: Option<u32>,

    /// Total number of attempts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_attempts: Option<u32>,

    /// Do not start the task before this time, such as 2030-01-31T08:00:00Z, by the fleet's clock
    #[arg(long, value_name = "TIME", conflicts_with = "delay", value_parser = time)]
    pub not_before: Option<Timestamp>,

    /// How long the task may wait, and when it is tried again.
    #[command(flatten)]
    pub timing: TimingArgs,

    /// How long the task and its result are kept after it has finished
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub ttl: Option<Duration>,

    /// Which agents may run the task.
    #[command(flatten)]
    pub requirements: RequirementArgs,

    /// Submit the task in the name of the team's leader in this term: it is refused if another leader was elected since
    #[arg(long, value_name = "N", requires = "team", value_parser = clap::value_parser!(u64).range(1..))]
    pub team_term: Option<u64>,

    /// What the task takes of the resource pool, and the queue that it waits in.
    #[command(flatten)]
    pub queueing: QueueingArgs,

    /// Who must approve the task, and how its result is verified.
    #[command(flatten)]
    pub approval: ApprovalArgs,

    /// Idempotency key. A second submission with the same key, kind and input returns the first one's task, with its
    /// options; with another kind, input or team, or with other parts or none, it is refused
    #[arg(long, value_name = "KEY", conflicts_with_all = ["inputs", "tasks"])]
    pub key: Option<String>,

    /// The name of the submitter, for listing, and for fair sharing unless the fleet knows who you are. Without it: $USER,
    /// else the user's name on this machine, else "anonymous"
    #[arg(long, env = "ROBEING_SUBMITTER", hide_env_values = true, value_name = "NAME")]
    pub submitter: Option<String>,

    /// Where inputs and outputs of more than 1 MiB are.
    #[command(flatten)]
    pub store: StoreArgs,

    /// Wait for the result
    #[arg(long)]
    pub wait: bool,

    /// Wait no longer than this; the tasks continue
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = humantime::parse_duration)]
    pub wait_timeout: Option<Duration>,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}
