//! Errors because of which a fleet of local processes does not run.

use std::{io, path::PathBuf};

use robeing_client::CredentialsError;
use robeing_crds::ManifestError;

use crate::commands::policies::PolicyFileError;

/// Why a fleet of local processes could not be started, or is stopped.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The manifest file could not be read.
    #[error("can't read the manifest {file}: {error}")]
    Read {
        /// The file.
        file: String,
        /// The error.
        error: io::Error,
    },
    /// The manifest is invalid.
    #[error("the manifest {file} can't be used:\n{error}")]
    Manifest {
        /// The file.
        file: String,
        /// What is wrong with it.
        error: Box<ManifestError>,
    },
    /// The policies of the manifest are wrong.
    #[error("the policies of the manifest can't be used:\n{0}")]
    Policies(PolicyFileError),
    /// The certificates of the fleet's authority can't be used.
    #[error(transparent)]
    Credentials(CredentialsError),
    /// The name is not valid for a fleet.
    #[error(
        "{name:?} can't be the name of a fleet: it must be 1 to 63 lower-case letters, digits and dashes, without a \
         dash at either end"
    )]
    Name {
        /// The requested name.
        name: String,
    },
    /// The given agent program can't be executed.
    #[error(
        "{} is not an executable program ({problem}); point --agent-bin or ROBEING_AGENT_BIN to robeing-agent",
        .path.display()
    )]
    AgentProgram {
        /// The path that was given.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The program is not an agent.
    #[error(
        "{} is not robeing-agent ({problem}); point --agent-bin or ROBEING_AGENT_BIN to robeing-agent",
        .path.display()
    )]
    NoAgent {
        /// The program.
        path: PathBuf,
        /// What shows that.
        problem: String,
    },
    /// No agent program was found.
    #[error(
        "robeing-agent is neither beside this program{} nor in PATH; build it with `cargo build -p robeing-agent`, or \
         point --agent-bin or ROBEING_AGENT_BIN to it",
        .beside.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default()
    )]
    NoAgentProgram {
        /// The directory of this program.
        beside: Option<PathBuf>,
    },
    /// Another process listens on the port.
    #[error("port {port} of 127.0.0.1 is busy; {remedy}")]
    PortBusy {
        /// The port.
        port: u16,
        /// What to do.
        remedy: String,
    },
    /// There are not enough ports after the base.
    #[error("--port {base} leaves no room for {count} coordinators; the last port is 65535")]
    NoSuchPorts {
        /// The first port.
        base: u16,
        /// How many ports are needed.
        count: usize,
    },
    /// The system could not provide a port.
    #[error("can't listen on 127.0.0.1: {0}")]
    Listen(io::Error),
    /// Another `robeing dev` uses the directory.
    #[error("{} is in use by another `robeing dev`{}; stop it or use another directory", .dir.display(), by(.pid))]
    DataInUse {
        /// The directory.
        dir: PathBuf,
        /// The process that uses it.
        pid: Option<u32>,
    },
    /// The directory contains something other than a fleet.
    #[error(
        "{} is not empty and was not made by `robeing dev --data` (it has {found}); use a new or an empty directory",
        .dir.display()
    )]
    ForeignData {
        /// The directory.
        dir: PathBuf,
        /// A file in it.
        found: String,
    },
    /// The directory contains another fleet.
    #[error("{} holds {held}, but {wanted} was requested; use another --data directory", .dir.display())]
    OtherFleet {
        /// The directory.
        dir: PathBuf,
        /// What it contains.
        held: String,
        /// What was requested.
        wanted: String,
    },
    /// The directory can't be used.
    #[error("can't use the data directory {}: {error}{}", .dir.display(), room(.error))]
    Data {
        /// The directory.
        dir: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// A coordinator refuses its settings.
    #[error("{name} refuses its settings, so the fleet is stopped: {problem}")]
    Refused {
        /// The coordinator.
        name: String,
        /// What it says is wrong.
        problem: String,
    },
    /// Signal handlers can't be installed.
    #[error("can't receive signals: {0}")]
    Signals(io::Error),
}

/// Returns advice if the disk is full.
fn room(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free space there, or use another disk: set --data, or TMPDIR for a directory that is removed at the end"
        }
        _ => "",
    }
}

fn by(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_with_advice() {
        let full = |error: io::Error| DevError::Data { dir: "/d".into(), error }.to_string();
        let sentence = full(io::Error::from_raw_os_error(nix::libc::ENOSPC));
        assert!(sentence.starts_with("can't use the data directory /d: No space left on device"), "{sentence}");
        assert!(sentence.contains("; free space there, or use another disk: set --data"), "{sentence}");
        let other = full(io::ErrorKind::PermissionDenied.into());
        assert!(!other.contains("free space"), "{other}");
    }
}
