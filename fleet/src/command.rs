//! What can be asked of a fleet: commands, each of one domain. They are what the Raft log carries; see `codec` for their bytes.

use bilrost::Oneof;

use crate::{AgentCommand, FleetConfig, PoolCommand, TaskCommand};

/// One entry of the log's batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// About a task.
    Task(TaskCommand),
    /// About an agent.
    Agent(AgentCommand),
    /// About pools.
    Pool(PoolCommand),
    /// About the fleet itself.
    Control(ControlCommand),
}

/// A command that is about the fleet itself. The numbers are those of all domains' commands; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum ControlCommand {
    /// Nothing but the passing of time: fires what is due.
    #[bilrost(empty)]
    Tick,
    /// Replace the configuration.
    #[bilrost(8)]
    Configure(FleetConfig),
    /// Raise the version of what apply does. Lower or unknown versions are refused.
    #[bilrost(9)]
    RaiseVersion(u32),
}
