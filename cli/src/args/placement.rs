//! The options of `submit` and `schedule set` that are about the agents and the queue of a task.

use clap::Args;

use super::{AgentRole, AmountArgs};

/// Which agents may run a task.
#[derive(Args, Clone, Debug, Default)]
pub struct RequirementArgs {
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
}

/// What a task takes of the resource pool, and the queue that it waits in.
#[derive(Args, Clone, Debug, Default)]
pub struct QueueingArgs {
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
}
