//! The programs under test, as cargo built them.

use std::{env, path::PathBuf};

/// The program of agents and coordinators.
pub const AGENT: &str = "robeing-agent";
/// The command line tool.
pub const CLI: &str = "robeing";

/// Returns the path of a program of the workspace, built with the same profile as this test.
///
/// # Panics
/// If it was not built.
pub fn program(name: &str) -> PathBuf {
    let test = env::current_exe().expect("a test knows its own path");
    // target/<profile>/deps/<test>, target/<profile>/examples/<example>, or target/<profile>/<binary>
    let found = test.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("there is no program {name} near {}; build it first: cargo build --workspace --bins", test.display())
    })
}
