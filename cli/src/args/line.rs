//! Parses a command line, including the environment variables that set arguments. Help and errors show the name that
//! the program is called by.

use std::{env, ffi::OsString};

use clap::{CommandFactory, FromArgMatches, builder::Resettable, error::ErrorKind, parser::ValueSource};

use super::Cli;
use crate::exit::Exit;

/// The program's own name.
const PROGRAM: &str = "robeing";

/// Returns the name that the user calls the program by: `kubectl robeing` if it runs as kubectl's plugin.
pub fn called_as(program: &str) -> &'static str {
    let file = program.rsplit(['/', '\\']).next().unwrap_or(program);
    if file == "kubectl-robeing" || file == "kubectl-robeing.exe" { "kubectl robeing" } else { PROGRAM }
}

/// Returns the grammar of the command line, whose help and errors show this name of the program.
pub fn grammar(name: &'static str) -> clap::Command {
    Cli::command().bin_name(name).display_name(name).after_help(Exit::table())
}

/// Arguments that can be set in the environment: their subcommand (`None` for global arguments), their id, and the
/// variable.
const FROM_ENVIRONMENT: [(Option<&str>, &str, &str); 8] = [
    (None, "endpoint", "ROBEING_ENDPOINT"),
    (None, "trust", "ROBEING_TRUST"),
    (None, "certificate", "ROBEING_CERTIFICATE"),
    (None, "private_key", "ROBEING_PRIVATE_KEY"),
    (None, "token_file", "ROBEING_TOKEN_FILE"),
    (None, "ca", "ROBEING_CA"),
    (Some("dev"), "agent_bin", "ROBEING_AGENT_BIN"),
    (Some("submit"), "submitter", "ROBEING_SUBMITTER"),
];

/// Removes variables that are empty from the grammar, because they count as unset.
fn without_empty_variables(mut grammar: clap::Command) -> clap::Command {
    for (command, id, variable) in FROM_ENVIRONMENT {
        if env::var_os(variable).is_none_or(|value| !value.is_empty()) {
            continue;
        }
        let forget = |argument: clap::Arg| argument.env(Resettable::Reset);
        grammar = match command {
            None => grammar.mut_arg(id, forget),
            Some(name) => grammar.mut_subcommand(name, |command| command.mut_arg(id, forget)),
        };
    }
    grammar
}

/// Parses a command line, whose first word is the name of the program.
///
/// # Errors
/// Clap's error, which is also returned if help or the version was requested.
pub fn parse(line: &[OsString]) -> Result<Cli, clap::Error> {
    let program = line.first().cloned().unwrap_or_default();
    let name = called_as(&program.to_string_lossy());
    let mut grammar = without_empty_variables(grammar(name));
    let matches = grammar.try_get_matches_from_mut(line)?;
    // The command line takes precedence over the environment.
    let is_given = |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    if is_given(&"endpoint") && is_given(&"fleet") {
        let sentence = "the argument '--endpoint' cannot be used with '--fleet': they name different fleets";
        return Err(grammar.error(ErrorKind::ArgumentConflict, sentence));
    }
    let elsewhere = ["endpoint", "fleet"].into_iter().find(is_given);
    let on_kubernetes = ["cluster", "namespace", "context", "kubeconfig", "service_account"].into_iter().find(is_given);
    if let (Some(one), Some(other)) = (elsewhere, on_kubernetes) {
        let other = other.replace('_', "-");
        let sentence = format!("the argument '--{one}' cannot be used with '--{other}': they name different fleets");
        return Err(grammar.error(ErrorKind::ArgumentConflict, sentence));
    }
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.connection.is_plugin = name != PROGRAM;
    Ok(cli)
}
