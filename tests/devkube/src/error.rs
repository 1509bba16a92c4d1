//! The errors of this crate. Their messages state what to do. Independent of the rest of the crate.

use std::{fmt, path::PathBuf, time::Duration};

/// A program that is missing on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// File name, as looked up in `PATH`.
    pub program: &'static str,
    /// Where to get it.
    pub source: Source,
}

/// Where a missing program comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A Debian package of this name.
    Debian(&'static str),
    /// Another source, in a few words; for programs that Debian lacks, or has in too old a version.
    Other(&'static str),
}

/// Why an operation on a cluster failed.
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
        "{path} is below {hidden}, which each node replaces with its own folder: choose another path with {setting}"
    )]
    Hidden {
        /// The requested folder.
        path: PathBuf,
        /// The folder that a node replaces.
        hidden: &'static str,
        /// The option or environment variable that sets the folder.
        setting: &'static str,
    },

    /// More nodes than the address plan supports.
    #[error("a cluster of {asked} nodes is not possible: ask for {most} at most")]
    Nodes {
        /// The requested number.
        asked: usize,
        /// The maximum.
        most: usize,
    },

    /// There is no machine with this name.
    #[error("there is no machine {name:?}: this cluster has {}", .known.join(", "))]
    NoMachine {
        /// The requested name.
        name: String,
        /// The names of the existing machines.
        known: Vec<String>,
    },

    /// The machine is off.
    #[error("machine {0} is off: `devkube heal {0}` powers it on")]
    Off(String),

    /// A command could not be started.
    #[error("{command} could not be started: {source}")]
    Start {
        /// The command, with its arguments.
        command: String,
        /// The cause.
        source: std::io::Error,
    },

    /// A command failed.
    #[error("{command} ended with {status}: {stderr}")]
    Command {
        /// The command, with its arguments.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of its stderr.
        stderr: String,
    },

    /// Something took too long.
    #[error("{what} did not happen within {after:?}{}", detail(.last))]
    Deadline {
        /// The expected event.
        what: String,
        /// The deadline.
        after: Duration,
        /// What the last check found; may be empty.
        last: String,
    },

    /// A program of the cluster exited unexpectedly.
    #[error("{service} exited unexpectedly; the end of its log, {log}:\n{tail}", log = .log.display())]
    ServiceEnded {
        /// The program, as `machine/program`; or only the machine.
        service: String,
        /// Path of its log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },

    /// An operation on a file or folder failed.
    #[error("{path} could not be {action}: {source}", path = .path.display())]
    File {
        /// The attempted operation, as a past participle: `read`, `written`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },

    /// A record of the cluster, or the output of a program, can't be parsed.
    #[error("{path} is not what devkube writes there ({problem}): the cluster can't be used; remove it with `devkube down --run`", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why it can't be parsed.
        problem: String,
    },

    /// The proxy into the cluster's network could not be started.
    #[error("the proxy from 127.0.0.1 to the API server could not be started: {source}")]
    Proxy {
        /// The cause.
        source: std::io::Error,
    },

    /// A certificate could not be created.
    #[error("the certificate of {subject} could not be created: {source}")]
    Certificate {
        /// The subject of the certificate.
        subject: String,
        /// The cause.
        source: rcgen::Error,
    },

    /// An image can't contain this entry.
    #[error("the image can't contain {path:?}: {problem}")]
    Image {
        /// The path in the image.
        path: String,
        /// What is wrong with the path or its entry.
        problem: &'static str,
    },

    /// There is no cluster.
    #[error("no devkube cluster is up: start one with `devkube up`, or name its run folder with --run")]
    NoCluster,

    /// There are several clusters, and none was selected.
    #[error("several devkube clusters are up: name one with --run: {}", list(.0))]
    SeveralClusters(Vec<PathBuf>),

    /// This kind of cluster does not support the operation.
    #[error("{what} is not possible on {cluster}: {instead}")]
    NotPossible {
        /// The requested operation.
        what: &'static str,
        /// The cluster.
        cluster: String,
        /// What to do instead.
        instead: &'static str,
    },

    /// Teardown did not complete: something is left.
    #[error("parts of the cluster are left: {}; run `devkube down` again", .0.join(", "))]
    Left(Vec<String>),
}

/// The result type of this crate.
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
