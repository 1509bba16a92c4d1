//! The programs under test, as cargo built them.

use std::{env, path::PathBuf};

/// The agent's and coordinator's program.
pub const AGENT: &str = "robeing-agent";
/// The command line.
pub const CLI: &str = "robeing";

/// A program of the workspace, of the same profile as this test.
///
/// # Panics
/// When it was not built.
pub fn program(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    // target/<profile>/deps/<test>, or target/<profile>/<binary>
    let found = test.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("the program {name} is not beside {}; build it first: cargo build --workspace --bins", test.display())
    })
}
