//! The commands of a fleet, by domain. The Raft log carries them; see `codec` for their encoding.

use bilrost::Oneof;

use crate::{
    AgentCommand, AuditCommand, BallotCommand, FleetConfig, IdentityCommand, KindCommand, MailCommand, PolicyCommand,
    PoolCommand, QueueCommand, ResourceCommand, ScheduleCommand, TaskCommand, TeamCommand,
};

/// One command of the batch in a log entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// A command for a task.
    Task(TaskCommand),
    /// A command for an agent.
    Agent(AgentCommand),
    /// A command for pools.
    Pool(PoolCommand),
    /// A command for the fleet itself.
    Control(ControlCommand),
    /// A command about who may be in the fleet.
    Identity(IdentityCommand),
    /// A command for the audit log.
    Audit(AuditCommand),
    /// A command for a durable message.
    Mail(MailCommand),
    /// A command for the policies.
    Policy(PolicyCommand),
    /// A command for a ballot.
    Ballot(BallotCommand),
    /// A command for a team.
    Team(TeamCommand),
    /// A command for the resource pool.
    Resource(ResourceCommand),
    /// A command for kinds of tasks.
    Kind(KindCommand),
    /// A command for the queues of tasks.
    Queue(QueueCommand),
    /// A command for a schedule.
    Schedule(ScheduleCommand),
}

/// A command for the fleet itself. All domains share one range of field numbers; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum ControlCommand {
    /// Lets time pass: fires what is due and does nothing else.
    #[bilrost(empty)]
    Tick,
    /// Replaces the configuration.
    #[bilrost(8)]
    Configure(FleetConfig),
    /// Raises the version of the behaviour of `apply`. Lower or unknown versions are refused.
    #[bilrost(9)]
    RaiseVersion(u32),
}
