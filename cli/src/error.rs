//! Why a command had no success: one sentence for the user, and the exit code.

use std::{io, path::PathBuf, time::Duration};

use robeing_client::ClientError;

use crate::{
    dev::DevError,
    exit::Exit,
    inputs::InputError,
    kubernetes::KubernetesError,
    render::{plural, short_duration},
};

/// A command that had no success.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The fleet was not reached, or refused.
    #[error("{error}{}", hint(.error))]
    Client {
        /// What happened.
        #[from]
        error: ClientError,
    },
    /// The fleet on Kubernetes was not reached.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// The inputs of tasks can't be used.
    #[error(transparent)]
    Input(#[from] InputError),
    /// `robeing dev` could not start its fleet.
    #[error(transparent)]
    Dev(#[from] DevError),
    /// `dev` was asked of kubectl's plugin, which means Kubernetes.
    #[error(
        "`dev` runs a fleet on this machine and not on Kubernetes: call it as `robeing dev`, or have Kubernetes run the \
         manifest by `kubectl apply -f {}`", .manifest.display()
    )]
    DevOnKubernetes {
        /// What was to be run.
        manifest: PathBuf,
    },
    /// An argument that can't be used, beyond what the parser finds.
    #[error("{0}")]
    Usage(String),
    /// A task or an agent that does not exist, in words.
    #[error("{0}")]
    NotFound(String),
    /// No running `robeing dev` that is found has the name that was asked for.
    #[error(
        "no running fleet of `robeing dev` named {name:?} is found in {}{}; --endpoint reaches any",
        .searched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or "),
        found(.others)
    )]
    NoDevFleet {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
        /// Those that were found.
        others: Vec<String>,
    },
    /// Several running `robeing dev` have the name that was asked for.
    #[error(
        "{} fleets of `robeing dev` named {name:?} run; choose one by --endpoint:{}",
        .fleets.len(),
        .fleets.iter().map(|fleet| format!("\n  --endpoint {fleet}")).collect::<String>()
    )]
    SeveralDevFleets {
        /// What was asked for.
        name: String,
        /// Each with its endpoints, the newest first.
        fleets: Vec<String>,
    },
    /// Results did not come in time. The tasks go on.
    #[error("{unfinished} of {} had not finished after {}; {standing}", plural(*.total, "task"), short_duration(*.waited))]
    WaitTimedOut {
        /// Tasks without a result.
        unfinished: usize,
        /// Tasks in all.
        total: usize,
        /// How long was waited.
        waited: Duration,
        /// What is known of them.
        standing: String,
    },
    /// A file could not be read.
    #[error("can't read {}: {error}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The output could not be written.
    #[error("can't write the output: {0}")]
    Output(#[from] io::Error),
    /// A message could not be put into the form that was asked for.
    #[error("can't write the answer as {form}: {problem}")]
    Render {
        /// json or yaml.
        form: &'static str,
        /// Why not.
        problem: String,
    },
}

fn hint(error: &ClientError) -> &'static str {
    match error {
        ClientError::Unreachable { .. } => {
            "; start one with `robeing dev -f MANIFEST`, or name a coordinator with --endpoint or ROBEING_ENDPOINT"
        }
        ClientError::Unavailable { .. } => {
            "; a majority of its coordinators must run: see `robeing status --local`, or wait longer with --request-timeout"
        }
        ClientError::NotAFleet { .. } => "; name one with --endpoint or ROBEING_ENDPOINT",
        ClientError::BadEndpoint { .. } | ClientError::NotFound { .. } | ClientError::Refused { .. } => "",
    }
}

fn found(others: &[String]) -> String {
    match others {
        [] => ", and no other".into(),
        others => format!(", but {}", others.join(", ")),
    }
}

impl CliError {
    /// The exit code that says so.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Client { error } => match error {
                ClientError::BadEndpoint { .. } => Exit::Usage,
                ClientError::Unreachable { .. } | ClientError::Unavailable { .. } | ClientError::NotAFleet { .. } => {
                    Exit::Unreachable
                }
                ClientError::NotFound { .. } => Exit::NotFound,
                ClientError::Refused { .. } => Exit::Refused,
            },
            Self::Kubernetes(error) => error.exit(),
            Self::DevOnKubernetes { .. } => Exit::Usage,
            Self::Input(InputError::TooLarge { .. } | InputError::LongLine { .. } | InputError::TooMany { .. }) => {
                Exit::Refused
            }
            Self::Dev(
                DevError::Read { .. }
                | DevError::Manifest { .. }
                | DevError::Name { .. }
                | DevError::NoSuchPorts { .. },
            ) => Exit::Usage,
            Self::Input(_) | Self::Usage(_) | Self::SeveralDevFleets { .. } => Exit::Usage,
            Self::NotFound(_) | Self::NoDevFleet { .. } => Exit::NotFound,
            Self::WaitTimedOut { .. } => Exit::TimedOut,
            Self::Dev(_) | Self::Read { .. } | Self::Output(_) | Self::Render { .. } => Exit::Local,
        }
    }

    /// An outcome that is known although its output was perhaps not read: the reader may leave, as `head` does.
    ///
    /// # Errors
    /// When the output could not be written for another reason.
    pub(crate) fn if_read(written: Result<(), Self>, outcome: Exit) -> Result<Exit, Self> {
        match written {
            Err(error) if !error.is_broken_pipe() => Err(error),
            _ => Ok(outcome),
        }
    }

    /// The reader of the output has gone, as `head` does: nothing to complain about.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
