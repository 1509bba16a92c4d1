//! The arguments that are about schedules.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::{AgentRole, AmountArgs, Output, TimingArgs, VerifyResultArgs};

/// The subcommands of `schedule`.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// List schedules by name, with their next and last runs
    List(ListSchedulesArgs),
    /// Show a schedule: its task, when it is due, and what became of its runs
    Show(ScheduleArgs),
    /// Make a schedule, or change the one of this name
    Set(Box<SetScheduleArgs>),
    /// Remove a schedule; runs that have started go on
    Remove(ScheduleArgs),
    /// Start a run now, also if the schedule is suspended
    Run(RunScheduleArgs),
    /// Start no more runs until the schedule is resumed
    Suspend(ScheduleArgs),
    /// Start runs again; what was due meanwhile is not missed
    Resume(ScheduleArgs),
}

/// Arguments of `schedule list`.
#[derive(Args, Debug)]
pub struct ListSchedulesArgs {
    /// Only those that the RobeingCluster sets
    #[arg(long)]
    pub managed: bool,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments that name a schedule.
#[derive(Args, Debug)]
pub struct ScheduleArgs {
    /// The name of the schedule
    pub name: String,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `schedule run`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The id of the run's task is printed; `robeing task ID --watch` follows it. When the schedule is due next does not change.

The exit code is 3 if the concurrency policy of the schedule lets no run start now, and 4 if there is no such schedule.")]
pub struct RunScheduleArgs {
    /// The name of the schedule
    pub name: String,

    /// The id of the run's task, a UUID; a run that is started again with its id is started once
    #[arg(long, value_name = "UUID")]
    pub id: Option<String>,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Which runs start late that could not start when they were due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum MissedWord {
    /// The newest one, and only within --start-within, one minute unless it is set
    #[default]
    Skip,
    /// The newest one
    Latest,
    /// All of them, oldest first, at most --missed-limit
    All,
}

/// What becomes of a run that is due while an earlier one is not finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ConcurrencyWord {
    /// It starts
    #[default]
    Allow,
    /// It is skipped
    Forbid,
    /// It starts, and the earlier ones are cancelled
    Replace,
}

/// Arguments of `schedule set`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
EXPRESSION is that of a CronJob of Kubernetes: minute, hour, day of the month, month and day of the week, such as \
\"30 4 * * mon-fri\" or \"*/5 * * * *\"; or @hourly, @daily, @weekly, @monthly or @yearly. A time that the zone's clock \
skips is due when the clock is turned. A time that is repeated is due once, unless the expression is for every hour.

What is not given has its default, also if the schedule has something else: a schedule is set as a whole. Only who has \
set it, and administrators, can change it; one that the RobeingCluster sets is changed there.

The policies of the fleet decide about its task when it is set, and again whenever a run is due.

The exit code is 3 if it is refused.")]
pub struct SetScheduleArgs {
    /// The name of the schedule: 1 to 63 lower-case letters, digits and '-'
    pub name: String,

    /// When it is due
    #[arg(long, value_name = "EXPRESSION")]
    pub cron: String,

    /// The time zone of the expression, by its name in the IANA database, such as Europe/Berlin; defaults to UTC
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,

    /// Which runs start late that could not start when they were due
    #[arg(long, value_enum, default_value_t)]
    pub missed: MissedWord,

    /// How long after it was due a run may start
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub start_within: Option<Duration>,

    /// Maximum number of runs that start late with --missed all; defaults to 10
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub missed_limit: Option<u32>,

    /// What becomes of a run that is due while an earlier one is not finished
    #[arg(long, value_enum, default_value_t)]
    pub concurrency: ConcurrencyWord,

    /// Start no runs until it is resumed
    #[arg(long)]
    pub suspended: bool,

    /// The kind of the task. Agents with a specialization of this name are preferred, but others can run it, too
    #[arg(long)]
    pub kind: String,

    /// A file with the task's input, at most 64 KiB; - reads standard input. Without it, the input is empty
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,

    /// 1 (last) to 10 (first); defaults to 5
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10))]
    pub priority: Option<u32>,

    /// Fail a run that has not finished this long after it was started
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,

    /// How long one attempt may take
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,

    /// Total number of attempts; defaults to the fleet's setting
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_attempts: Option<u32>,

    /// How long the task of a run may wait, and when it is tried again.
    #[command(flatten)]
    pub timing: TimingArgs,

    /// How long the task of a run and its result are kept after it has finished
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub ttl: Option<Duration>,

    /// Only agents of this role run the task
    #[arg(long, value_enum, ignore_case = true)]
    pub role: Option<AgentRole>,

    /// Only agents with this specialization run the task; while there is none, it waits. Given several times: only agents
    /// that have all of them
    #[arg(long, value_name = "NAME")]
    pub specialization: Vec<String>,

    /// How many slots of its agent the task takes while it runs; defaults to what is set for its kind, or to one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub slots: Option<u32>,

    /// Only members of this team run the task; see `robeing team`
    #[arg(long, value_name = "UUID")]
    pub team: Option<String>,

    /// What the task needs of the agent that runs it: it starts only on one that has this free in the resource pool.
    #[command(flatten)]
    pub amounts: AmountArgs,

    /// The queue that the task waits in, and for whose share of the resource pool it counts: "default", or one that was set
    /// by `robeing queues set`
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,

    /// The key that limits of the queue are about, such as the name of a customer
    #[arg(long, value_name = "KEY")]
    pub limit_key: Option<String>,

    /// How the result is verified.
    #[command(flatten)]
    pub verification: VerifyResultArgs,

    /// The name of the submitter of its tasks, for listing and fair sharing; as for `robeing submit` without it
    #[arg(long, value_name = "NAME")]
    pub submitter: Option<String>,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}
