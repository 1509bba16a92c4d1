//! What can go wrong, each with what to do about it. Knows nothing of the rest of the crate but its names.

use std::{fmt, path::PathBuf, time::Duration};

/// A program that this machine lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its file name, as looked up in `PATH`.
    pub program: &'static str,
    /// How to get it: a Debian package, or a sentence where Debian's is too old.
    pub source: Source,
}

/// Where a missing program comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A Debian package of this name.
    Debian(&'static str),
    /// Something else, in a few words.
    Other(&'static str),
}

/// Why a cluster could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Programs are not installed.
    #[error("{}", missing(.0))]
    Missing(Vec<Missing>),

    /// Namespaces, mounts and cgroups need root.
    #[error("devkube makes network namespaces, mounts and cgroups, so it must run as root: run it with sudo")]
    NotRoot,

    /// The run folder or the cache would be hidden from the nodes.
    #[error(
        "{path} lies below {hidden}, which each node replaces by a folder of its own: choose another place with {setting}"
    )]
    Hidden {
        /// The folder asked for.
        path: PathBuf,
        /// The folder that a node replaces.
        hidden: &'static str,
        /// The option or variable that says where.
        setting: &'static str,
    },

    /// A number of nodes that the address plan has no room for.
    #[error("a cluster of {asked} nodes is not possible: ask for {most} at most")]
    Nodes {
        /// How many were asked for.
        asked: usize,
        /// How many are possible.
        most: usize,
    },

    /// No machine of this name.
    #[error("there is no machine {name:?}: this cluster has {}", .known.join(", "))]
    NoMachine {
        /// What was asked for.
        name: String,
        /// The machines there are.
        known: Vec<String>,
    },

    /// The machine has no power.
    #[error("machine {0} is off: `devkube heal {0}` switches it on")]
    Off(String),

    /// A command could not be started.
    #[error("{command} could not be started: {source}")]
    Start {
        /// The command, with its arguments.
        command: String,
        /// Why not.
        source: std::io::Error,
    },

    /// A command ended with an error.
    #[error("{command} ended with {status}: {stderr}")]
    Command {
        /// The command, with its arguments.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of what it said on stderr.
        stderr: String,
    },

    /// Something took too long.
    #[error("{what} did not happen within {after:?}{}", detail(.last))]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
        /// What was seen last; may be empty.
        last: String,
    },

    /// A program of the cluster ended by itself.
    #[error("{service} ended by itself; the end of its log, {log}:\n{tail}", log = .log.display())]
    ServiceEnded {
        /// Which one, as `machine/program`.
        service: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },

    /// A file or folder.
    #[error("{path} could not be {action}: {source}", path = .path.display())]
    File {
        /// Past participle of what was tried: `read`, `written`, ...
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },

    /// A cluster's own notes make no sense.
    #[error("{path} is not what devkube writes there ({problem}): the cluster can't be used; remove it with `devkube down --run`", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },

    /// The way into the cluster's network could not be opened.
    #[error("the way from 127.0.0.1 to the API server could not be opened: {source}")]
    Proxy {
        /// Why not.
        source: std::io::Error,
    },

    /// A certificate could not be made.
    #[error("the certificate of {subject} could not be made: {source}")]
    Certificate {
        /// Whose.
        subject: String,
        /// Why not.
        source: rcgen::Error,
    },

    /// An image can't hold this.
    #[error("the image can't hold {path:?}: {problem}")]
    Image {
        /// The path in the image.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },

    /// No cluster to work on.
    #[error("no devkube cluster is up: start one with `devkube up`, or name its run folder with --run")]
    NoCluster,

    /// More than one cluster.
    #[error("several devkube clusters are up: name one with --run: {}", list(.0))]
    SeveralClusters(Vec<PathBuf>),

    /// This kind of cluster has no such thing.
    #[error("{what} is not possible on {cluster}: {instead}")]
    NotPossible {
        /// What was asked.
        what: &'static str,
        /// On which cluster.
        cluster: String,
        /// What to do instead.
        instead: &'static str,
    },

    /// Teardown did its best, and something is still there.
    #[error("these are left of the cluster: {}; run `devkube down` again", .0.join(", "))]
    Left(Vec<String>),
}

/// What this crate's functions give.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn missing(programs: &[Missing]) -> String {
    use fmt::Write as _;
    let mut sentence = String::from("this machine lacks ");
    let mut packages = Vec::new();
    for (index, missing) in programs.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a String never fails.
        let _ = match missing.source {
            Source::Debian(_) => write!(sentence, "{comma}{}", missing.program),
            Source::Other(how) => write!(sentence, "{comma}{} ({how})", missing.program),
        };
        if let Source::Debian(package) = missing.source
            && !packages.contains(&package)
        {
            packages.push(package);
        }
    }
    sentence.push_str(": run `tests/setup kube`");
    if !packages.is_empty() {
        let _ = write!(sentence, ", or `apt-get install {}`", packages.join(" "));
    }
    sentence
}

fn detail(last: &str) -> String {
    if last.is_empty() { String::new() } else { format!("; last seen: {last}") }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_named_with_one_line_that_installs_them() {
        let error = Error::Missing(vec![
            Missing { program: "containerd", source: Source::Debian("containerd") },
            Missing { program: "ctr", source: Source::Debian("containerd") },
            Missing { program: "go", source: Source::Other("1.24 or later, from https://go.dev/dl") },
        ]);
        assert_eq!(
            error.to_string(),
            "this machine lacks containerd, ctr, go (1.24 or later, from https://go.dev/dl): \
             run `tests/setup kube`, or `apt-get install containerd`"
        );
    }
}
