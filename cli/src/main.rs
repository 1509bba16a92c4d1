//! The `robeing` program: parses the command line, runs the command, and converts its result into an exit code.

use std::process::ExitCode;

use robeing::{args, commands, error::CliError, exit::Exit, render};

fn main() -> ExitCode {
    let line: Vec<_> = std::env::args_os().collect();
    let cli = match args::parse(&line) {
        Ok(cli) => cli,
        Err(error) => {
            let printed = error.print();
            if error.use_stderr() {
                return Exit::Usage.code().into();
            }
            // Help or the version was requested.
            return code_of(printed.map_err(CliError::from).map(|()| Exit::Success));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            render::note(&format!("error: can't start: {error}"));
            return Exit::Local.code().into();
        }
    };
    let ended = runtime.block_on(commands::run(cli));
    // A blocked read of standard input must not keep the program alive.
    runtime.shutdown_background();
    code_of(ended)
}

/// Converts the result of the program into an exit code, and prints the error if there is one.
fn code_of(ended: Result<Exit, CliError>) -> ExitCode {
    match ended {
        Ok(exit) => exit.code().into(),
        // A closed reader (a broken pipe) is not a failure.
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            render::note(&format!("error: {error}"));
            error.exit().code().into()
        }
    }
}
