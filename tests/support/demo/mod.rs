//! The demo: the example fleet computes [`work::TASKS`] tasks over a text while an agent and then the leader are struck
//! down, and every result is checked. It fails unless all is right and nothing is left running.

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

/// The demo on this machine ends within this time, well or not.
pub const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Where the demo's fleet runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Where {
    /// As processes of this machine.
    #[default]
    Processes,
    /// On Kubernetes.
    Kubernetes,
}

/// What the demo is run with.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The manifest of the fleet.
    pub manifest: PathBuf,
    /// The text that is worked on.
    pub text: PathBuf,
    /// Where the fleet runs.
    pub on: Where,
    /// The agent program of [`Where::Processes`]; without it, the one beside this program.
    pub agent_bin: Option<PathBuf>,
}

/// Runs the demo and tells it on standard output. `stop` ends it early, in order.
///
/// # Errors
/// When anything is not as it should be, when time is up, or when it was stopped.
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
    fs::read_to_string(path).with_context(|| format!("{} can't be read", path.display()))
}
