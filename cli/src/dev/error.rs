//! Why a fleet of local processes could not be started.

use std::{io, path::PathBuf};

use robeing_crds::ManifestError;

/// Why a fleet of local processes could not be started.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The manifest can't be read as a file.
    #[error("can't read the manifest {file}: {error}")]
    Read {
        /// Which file.
        file: String,
        /// Why not.
        error: io::Error,
    },
    /// The manifest is wrong.
    #[error("the manifest {file} can't be used:\n{error}")]
    Manifest {
        /// Which file.
        file: String,
        /// What is wrong with it.
        error: Box<ManifestError>,
    },
    /// The name can't be one of a fleet.
    #[error(
        "{name:?} can't be the name of a fleet: it has 1 to 63 lower-case letters, digits and dashes, no dash at an end"
    )]
    Name {
        /// What was asked for.
        name: String,
    },
    /// There is no agent program where it was said to be.
    #[error("{} is no program that can be run ({problem}); --agent-bin or ROBEING_AGENT_BIN names it", .path.display())]
    AgentProgram {
        /// What was named.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The program is not an agent.
    #[error("{} is not robeing-agent ({problem}); name robeing-agent with --agent-bin or ROBEING_AGENT_BIN", .path.display())]
    NoAgent {
        /// Which program.
        path: PathBuf,
        /// How that was seen.
        problem: String,
    },
    /// There is no agent program anywhere.
    #[error(
        "robeing-agent is neither beside this program{} nor in PATH; build it with `cargo build -p robeing-agent`, or \
         name it with --agent-bin or ROBEING_AGENT_BIN",
        .beside.as_ref().map(|path| format!(" in {}", path.display())).unwrap_or_default()
    )]
    NoAgentProgram {
        /// The directory of this program.
        beside: Option<PathBuf>,
    },
    /// Another process listens there.
    #[error("port {port} of 127.0.0.1 is busy; {remedy}")]
    PortBusy {
        /// Which.
        port: u16,
        /// What to do.
        remedy: String,
    },
    /// The ports after the base are not there.
    #[error("--port {base} leaves no room for {count} coordinators; the last port is 65535")]
    NoSuchPorts {
        /// The first one.
        base: u16,
        /// How many are needed.
        count: usize,
    },
    /// The system gives no port.
    #[error("can't listen on 127.0.0.1: {0}")]
    Listen(io::Error),
    /// Another `robeing dev` uses the directory.
    #[error("{} is in use by another `robeing dev`{}; stop that one or take another directory", .dir.display(), by(.pid))]
    DataInUse {
        /// Which directory.
        dir: PathBuf,
        /// The process that uses it.
        pid: Option<u32>,
    },
    /// The directory holds something else than a fleet.
    #[error(
        "{} is not empty and was not made by `robeing dev --data` (it has {found}); take a new or an empty directory",
        .dir.display()
    )]
    ForeignData {
        /// Which directory.
        dir: PathBuf,
        /// A file in it.
        found: String,
    },
    /// The directory holds another fleet.
    #[error("{} holds {held}, but {wanted} is asked for; take another --data directory", .dir.display())]
    OtherFleet {
        /// Which directory.
        dir: PathBuf,
        /// What is in it.
        held: String,
        /// What was asked for.
        wanted: String,
    },
    /// The directory can't be used.
    #[error("can't use the data directory {}: {error}{}", .dir.display(), room(.error))]
    Data {
        /// Which directory.
        dir: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Signals can't be received.
    #[error("can't receive signals: {0}")]
    Signals(io::Error),
}

/// What to do where there is no room.
fn room(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room there, or name a directory on another disk with --data, or with TMPDIR for one that is removed at the end"
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
        assert!(sentence.contains("; make room there, or name a directory on another disk with --data"), "{sentence}");
        let other = full(io::ErrorKind::PermissionDenied.into());
        assert!(!other.contains("make room"), "{other}");
    }
}
