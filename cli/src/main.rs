//! The `robeing` program: reads the command line, runs the command, and turns its end into an exit code.

use std::process::ExitCode;

use robeing::{args, commands, exit::Exit, render};

fn main() -> ExitCode {
    let line: Vec<_> = std::env::args_os().collect();
    let cli = match args::parse(&line) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output, and a reader that has gone is no failure.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.code().into() } else { ExitCode::SUCCESS };
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
    // A blocked read of standard input must not keep the program.
    runtime.shutdown_background();
    match ended {
        Ok(exit) => exit.code().into(),
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            render::note(&format!("error: {error}"));
            error.exit().code().into()
        }
    }
}
