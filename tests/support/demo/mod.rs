//! The demo: the example fleet runs [`work::TASKS`] tasks over a text while an agent and then the leader are killed,
//! and every result is checked. It fails unless every result is right and nothing is left running.

mod kubernetes;
mod leak_check;
mod ledger;
mod narrator;
mod play;
mod processes;
pub mod work;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::local_fleet::Location;

/// The demo on this machine ends within this time, whether it passes or not.
pub const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Where the demo's fleet runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Where {
    /// As processes on this machine.
    #[default]
    Processes,
    /// On Kubernetes.
    Kubernetes,
}

/// The options of the demo.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The manifest of the fleet.
    pub manifest: PathBuf,
    /// The text that the tasks process.
    pub text: PathBuf,
    /// Where the fleet runs.
    pub on: Where,
    /// The agent program for [`Where::Processes`]; by default the one in the directory of this program.
    pub agent_bin: Option<PathBuf>,
}

/// Runs the demo and writes its progress to standard output. `stop` ends it early, with cleanup.
///
/// # Errors
/// If any check fails, the time is up, or the demo was stopped.
pub async fn run(options: &DemoOptions, stop: impl Future<Output = ()>) -> Result<()> {
    let exercises = work::exercises(&read(&options.text)?);
    let manifest = read(&options.manifest)?;
    match options.on {
        Where::Processes => {
            let place = Location { agent_bin: options.agent_bin.clone(), ..Location::default() };
            processes::run(&manifest, &place, &exercises, stop).await
        }
        Where::Kubernetes => kubernetes::run(&manifest, &exercises, stop).await,
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))
}
