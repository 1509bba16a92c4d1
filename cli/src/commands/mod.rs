//! The commands, each in its own module: they call the fleet and print the answer.

mod audit;
mod bars;
pub(crate) mod clients;
mod connect;
pub(crate) mod credentials;
mod dead;
mod logs;
mod messages;
pub(crate) mod pbft;
pub(crate) mod policies;
mod queues;
mod resources;
mod schedules;
mod store;
mod submit;
mod tasks;
mod teams;
mod tokens;
mod tree;
mod view;
pub(crate) mod votes;

use std::{
    io::{self, ErrorKind, Write},
    time::Duration,
};

use clap_complete::generate;
use robeing_proto::v1::{BarKind, Role};
use uuid::Uuid;

use crate::{
    args::{
        AgentRole, Cli, ClientCommand, Command, Connection, CrdArgs, DeadCommand, Format, PbftCommand, PolicyCommand,
        QueuesCommand, ResourcesCommand, ScheduleCommand, TeamCommand, TokenCommand, VoteCommand, grammar,
    },
    dev,
    error::CliError,
    exit::Exit,
    render::{note, write_document},
};

/// Runs a command until it ends or is interrupted by Ctrl-C.
///
/// # Errors
/// The error of the command; [`CliError::exit`] returns its exit code.
pub async fn run(cli: Cli) -> Result<Exit, CliError> {
    let command = match cli.command {
        // `dev` and `submit` handle Ctrl-C themselves.
        Command::Dev(args) if cli.connection.is_plugin => {
            return Err(CliError::DevOnKubernetes { manifest: args.filename });
        }
        Command::Dev(args) => return dev::run(args).await,
        Command::Submit(args) => return written(submit::run(*args, &cli.connection).await?),
        command => command,
    };
    let what_is_left = what_is_left(&command);
    tokio::select! {
        ended = run_command(command, &cli.connection) => written(ended?),
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => {
                note(&format!("interrupted{what_is_left}"));
                Ok(Exit::Interrupted)
            }
            Err(error) => Err(CliError::Output(error)),
        },
    }
}

/// Returns what to add after "interrupted" when a command is interrupted.
fn what_is_left(command: &Command) -> &'static str {
    match command {
        Command::Task(args) if args.watch => "; the task continues",
        Command::Logs(args) if args.follow => "; the task continues",
        Command::Cancel(_) => "; whether anything was cancelled is not known",
        Command::Dead(DeadCommand::Retry(_)) => "; whether dead letters are tried again is not known",
        Command::Dead(DeadCommand::Drop(_)) => "; whether dead letters were dropped is not known",
        Command::Send(_) | Command::Ask(_) | Command::Broadcast(_) => "; whether the message was handled is not known",
        Command::Vote(VoteCommand::Open(_)) => "; whether the ballot was opened is not known, and one that was goes on",
        Command::Vote(VoteCommand::Cast(_)) => "; whether the vote is counted is not known",
        Command::Team(TeamCommand::Form(_)) => "; whether the team was formed is not known",
        Command::Team(TeamCommand::Disband(_)) => "; whether the team was disbanded is not known",
        Command::Schedule(ScheduleCommand::Run(_)) => "; whether a run was started is not known",
        Command::Schedule(ScheduleCommand::Set(_)) => "; whether the schedule was set is not known",
        Command::Schedule(ScheduleCommand::Remove(_)) => "; whether the schedule was removed is not known",
        Command::Schedule(ScheduleCommand::Suspend(_) | ScheduleCommand::Resume(_)) => {
            "; whether the schedule was changed is not known"
        }
        Command::Resources(ResourcesCommand::Request(_)) => {
            "; whether the resources were granted is not known, and a request that waits goes on"
        }
        Command::Resources(ResourcesCommand::Release(_)) => "; whether the allocation was released is not known",
        Command::Resources(ResourcesCommand::Renew(_)) => "; whether the lease was renewed is not known",
        Command::Resources(ResourcesCommand::Queues(_)) | Command::Queues(QueuesCommand::Set(_)) => {
            "; whether the queues were set is not known"
        }
        Command::Queues(QueuesCommand::Remove(_)) => "; whether the queues were removed is not known",
        Command::Pbft(PbftCommand::Form(_)) => "; some of the members may have started: run it again to be sure",
        Command::Pbft(PbftCommand::Epoch(_)) => "; call it again: it continues from there",
        Command::Pbft(PbftCommand::Propose(_)) => "; whether the proposal is decided is not known",
        Command::Quarantine(_) | Command::Remove(_) => "; whether the agent was barred is not known",
        Command::Policies(PolicyCommand::Set(_)) => "; whether the policies were set is not known",
        Command::Release(_) => "; whether the agent was released is not known",
        _ => "",
    }
}

/// Returns the result of a command after flushing its output, including an unfinished line.
fn written(exit: Exit) -> Result<Exit, CliError> {
    match io::stdout().flush() {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(exit),
    }
}

async fn run_command(command: Command, fleet: &Connection) -> Result<Exit, CliError> {
    match command {
        Command::Dev(args) => dev::run(args).await,
        Command::Submit(args) => submit::run(*args, fleet).await,
        Command::Tasks(args) => tasks::list(args, fleet).await,
        Command::Task(args) => tasks::show(args, fleet).await,
        Command::Cancel(args) => tasks::cancel(args, fleet).await,
        Command::Dead(command) => dead::run(command, fleet).await,
        Command::Logs(args) => logs::show(args, fleet).await,
        Command::Agents(args) => view::agents(args, fleet).await,
        Command::Status(args) => view::status(args, fleet).await,
        Command::Send(args) => messages::send(args, fleet).await,
        Command::Ask(args) => messages::ask(args, fleet).await,
        Command::Broadcast(args) => messages::broadcast(args, fleet).await,
        Command::Message(args) => messages::show(args, fleet).await,
        Command::Inbox(args) => messages::inbox(args, fleet).await,
        Command::Vote(command) => votes::run(command, fleet).await,
        Command::Team(command) => teams::run(command, fleet).await,
        Command::Schedule(command) => schedules::run(command, fleet).await,
        Command::Resources(command) => resources::run(command, fleet).await,
        Command::Queues(command) => queues::run(command, fleet).await,
        Command::Pbft(command) => pbft::run(command, fleet).await,
        Command::Quarantine(args) => bars::bar(args, BarKind::Quarantined, fleet).await,
        Command::Remove(args) => bars::bar(args, BarKind::Removed, fleet).await,
        Command::Release(args) => bars::release(args, fleet).await,
        Command::Token(TokenCommand::Create(args)) => tokens::create(args, fleet).await,
        Command::Client(ClientCommand::Create(args)) => clients::create(args, fleet).await,
        Command::Policies(PolicyCommand::Set(args)) => policies::set(args, fleet).await,
        Command::Policies(PolicyCommand::Show(args)) => policies::show(args, fleet).await,
        Command::Policies(PolicyCommand::Check(args)) => policies::check(&args),
        Command::Audit(args) => audit::list(args, fleet).await,
        Command::Crd(args) => crd(&args),
        Command::Completions(args) => {
            // Generate into memory first, because the generator panics on a broken pipe.
            let mut script = Vec::new();
            generate(args.shell, &mut grammar("robeing"), "robeing", &mut script);
            io::stdout().lock().write_all(&script)?;
            Ok(Exit::Success)
        }
    }
}

impl From<AgentRole> for Role {
    fn from(role: AgentRole) -> Self {
        match role {
            AgentRole::Worker => Self::Worker,
            AgentRole::Specialist => Self::Specialist,
            AgentRole::Messenger => Self::Messenger,
            AgentRole::Guardian => Self::Guardian,
        }
    }
}

/// Checks that something can have this id. Other ids are not sent, because the fleet would refuse them as it refuses what
/// may not be done. `printed_by` are the commands that print such ids.
///
/// # Errors
/// [`CliError::NotFound`] if it is no UUID.
fn ensure_id(what: &str, id: &str, printed_by: &str) -> Result<(), CliError> {
    match Uuid::parse_str(id) {
        Ok(_) => Ok(()),
        Err(_) => {
            Err(CliError::NotFound(format!("there is no {what} {id:?}: its id is a UUID, as {printed_by} print it")))
        }
    }
}

/// Converts a duration for a request.
fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        // Saturate: more seconds than fit are longer than any limit of a fleet.
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: span.subsec_nanos().cast_signed(),
    }
}

fn crd(args: &CrdArgs) -> Result<Exit, CliError> {
    let mut out = io::stdout().lock();
    match args.output {
        Format::Json => write_document(&mut out, Format::Json, &robeing_crds::crd())?,
        Format::Yaml | Format::Table => out.write_all(robeing_crds::crd_yaml().as_bytes())?,
    }
    Ok(Exit::Success)
}
