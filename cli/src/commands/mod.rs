//! The commands, each in a module of its own: they ask the fleet and print.

mod connect;
mod submit;
mod tasks;
mod view;

use std::io::{self, ErrorKind, Write};

use clap_complete::generate;

use crate::{
    args::{Cli, Command, Connection, CrdArgs, Format, grammar},
    dev,
    error::CliError,
    exit::Exit,
    render::{note, write_document},
};

/// Runs a command to its end, or until Ctrl-C.
///
/// # Errors
/// Why it had no success; [`CliError::exit`] tells the exit code.
pub async fn run(cli: Cli) -> Result<Exit, CliError> {
    let command = match cli.command {
        // These two have an orderly end of their own.
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

/// What is to be said where a command is interrupted, as the end of "interrupted".
fn what_is_left(command: &Command) -> &'static str {
    match command {
        Command::Task(args) if args.watch => "; the task goes on",
        Command::Cancel(_) => "; whether anything was cancelled is not known",
        _ => "",
    }
}

/// The end of a command whose output is written, to the last part of a line.
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
        Command::Agents(args) => view::agents(args, fleet).await,
        Command::Status(args) => view::status(args, fleet).await,
        Command::Crd(args) => crd(&args),
        Command::Completions(args) => {
            // Written to memory first: the generator panics on a reader that has gone.
            let mut script = Vec::new();
            generate(args.shell, &mut grammar("robeing"), "robeing", &mut script);
            io::stdout().lock().write_all(&script)?;
            Ok(Exit::Success)
        }
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
