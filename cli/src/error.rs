//! Errors of commands: one sentence for the user, and the exit code.

use std::{io, path::PathBuf, time::Duration};

use robeing_blobs::BlobError;
use robeing_client::ClientError;
use tonic::Code;

use crate::{
    commands::{
        clients::ClientFileError, credentials::CredentialError, pbft::PbftError, policies::PolicyFileError,
        votes::BallotFileError,
    },
    dev::DevError,
    exit::Exit,
    inputs::InputError,
    kubernetes::KubernetesError,
    render::{plural, short_duration},
};

/// The error of a command.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The fleet was not reached, or it refused the request.
    #[error("{error}{}", hint(.error))]
    Client {
        /// The error of the client.
        #[from]
        error: ClientError,
    },
    /// The fleet on Kubernetes was not reached.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// The credentials can't be used.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The files of a client can't be written.
    #[error(transparent)]
    ClientFiles(#[from] ClientFileError),
    /// The policies of a file can't be used.
    #[error(transparent)]
    Policies(#[from] PolicyFileError),
    /// The file of a ballot can't be written or read.
    #[error(transparent)]
    BallotFile(#[from] BallotFileError),
    /// Something about a group of agents is wrong, or a file of it can't be written or read.
    #[error(transparent)]
    Pbft(#[from] PbftError),
    /// The inputs of the tasks are invalid.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The fleet does not know references to inputs in an object store.
    #[error(
        "an input of more than 1 MiB needs fleet version {since}, and the fleet has version {current}; upgrade all of its \
         coordinators. If they have just been started, repeat this in some seconds"
    )]
    NoReferences {
        /// The fleet's version.
        current: u32,
        /// The version that is needed.
        since: u32,
    },
    /// The object store can't be used.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// `robeing dev` could not start its fleet.
    #[error(transparent)]
    Dev(#[from] DevError),
    /// `dev` was called through the kubectl plugin, which is for Kubernetes.
    #[error(
        "`dev` runs a fleet on this machine and not on Kubernetes: call it as `robeing dev`, or have Kubernetes run the \
         manifest by `kubectl apply -f {}`", .manifest.display()
    )]
    DevOnKubernetes {
        /// The manifest that was to be run.
        manifest: PathBuf,
    },
    /// An argument is invalid, beyond what the parser checks.
    #[error("{0}")]
    Usage(String),
    /// A task or an agent does not exist; the string is the message.
    #[error("{0}")]
    NotFound(String),
    /// No running `robeing dev` fleet with the requested name was found.
    #[error(
        "no running `robeing dev` fleet is named {name:?} (searched {}){}; --endpoint reaches any fleet",
        .searched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and "),
        found(.others)
    )]
    NoDevFleet {
        /// The requested name.
        name: String,
        /// The directories that were searched.
        searched: Vec<PathBuf>,
        /// The names of the fleets that were found.
        others: Vec<String>,
    },
    /// Several running `robeing dev` fleets have the requested name.
    #[error(
        "{} running `robeing dev` fleets are named {name:?}; choose one with --endpoint:{}",
        .fleets.len(),
        .fleets.iter().map(|fleet| format!("\n  --endpoint {fleet}")).collect::<String>()
    )]
    SeveralDevFleets {
        /// The requested name.
        name: String,
        /// The endpoints of each fleet, newest first.
        fleets: Vec<String>,
    },
    /// Results did not arrive in time. The tasks continue.
    #[error("{unfinished} of {} had not finished after {}; {standing}", plural(*.total, "task"), short_duration(*.waited))]
    WaitTimedOut {
        /// Number of tasks without a result.
        unfinished: usize,
        /// Total number of tasks.
        total: usize,
        /// How long the command waited.
        waited: Duration,
        /// What is known about the tasks.
        standing: String,
    },
    /// The output could not be written.
    #[error("can't write the output: {0}")]
    Output(#[from] io::Error),
    /// A message could not be converted to the requested format.
    #[error("can't write the answer as {form}: {problem}")]
    Render {
        /// The format: json or yaml.
        form: &'static str,
        /// What went wrong.
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
        ClientError::Untrusted { .. } => {
            "; name a coordinator of your fleet with --endpoint, or give the certificates of its authorities with --trust"
        }
        ClientError::CertificateRefused { .. } => {
            "; make another certificate with `robeing client create`, and give it with --certificate and --private-key"
        }
        ClientError::NoTls { .. } => "; a fleet without TLS is called without --trust, --certificate and --ca",
        ClientError::Refused { code: Code::Unauthenticated, .. } => {
            "; give --trust with --certificate and --private-key (`robeing client create` makes them) or with \
             --token-file, or --ca with the directory of the fleet's authority"
        }
        // What is not refused for want of a right says itself what to do.
        ClientError::Refused { code: Code::PermissionDenied, message }
            if message.contains(" may not call ") || message.contains(" have the right ") =>
        {
            "; an administrator of the fleet can give you the right, or use other credentials"
        }
        ClientError::BadEndpoint { .. }
        | ClientError::NotSigned { .. }
        | ClientError::WrongBallot { .. }
        | ClientError::NotProposed { .. }
        | ClientError::NotFound { .. }
        | ClientError::Refused { .. } => "",
    }
}

fn found(others: &[String]) -> String {
    match others {
        [] => "; no other fleet is running".into(),
        others => format!("; running: {}", others.join(", ")),
    }
}

impl CliError {
    /// Returns the exit code for the error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Client { error } => match error {
                ClientError::BadEndpoint { .. } => Exit::Usage,
                ClientError::Unreachable { .. }
                | ClientError::Unavailable { .. }
                | ClientError::NotAFleet { .. }
                | ClientError::Untrusted { .. }
                | ClientError::NoTls { .. } => Exit::Unreachable,
                ClientError::NotFound { .. } => Exit::NotFound,
                ClientError::Refused { .. }
                | ClientError::CertificateRefused { .. }
                | ClientError::NotSigned { .. }
                | ClientError::WrongBallot { .. }
                | ClientError::NotProposed { .. } => Exit::Refused,
            },
            Self::Kubernetes(error) => error.exit(),
            Self::Store(BlobError::Url { .. } | BlobError::Unusable { .. } | BlobError::Directory { .. }) => {
                Exit::Usage
            }
            Self::Store(BlobError::TooLarge { .. }) | Self::NoReferences { .. } => Exit::Refused,
            // The fleet refused nothing: it was not asked yet, or its task has succeeded.
            Self::Store(_) => Exit::TaskFailed,
            Self::DevOnKubernetes { .. } => Exit::Usage,
            Self::Input(
                InputError::TooLarge { .. }
                | InputError::LineTooLarge { .. }
                | InputError::ScheduledTooLarge { .. }
                | InputError::ObjectTooLarge { .. }
                | InputError::MessageTooLarge { .. }
                | InputError::LongLine { .. }
                | InputError::TooMany { .. },
            ) => Exit::Refused,
            Self::Dev(
                DevError::Read { .. }
                | DevError::Manifest { .. }
                | DevError::Policies(_)
                | DevError::Name { .. }
                | DevError::NoSuchPorts { .. }
                | DevError::Refused { .. },
            ) => Exit::Usage,
            Self::ClientFiles(ClientFileError::Exists { .. }) | Self::Policies(_) => Exit::Usage,
            Self::BallotFile(BallotFileError::Read { .. } | BallotFileError::Form { .. }) => Exit::Usage,
            Self::Pbft(error) => error.exit(),
            Self::BallotFile(BallotFileError::Write { .. } | BallotFileError::Unknown(_)) => Exit::Local,
            Self::Credentials(_) | Self::Input(_) | Self::Usage(_) | Self::SeveralDevFleets { .. } => Exit::Usage,
            Self::NotFound(_) | Self::NoDevFleet { .. } => Exit::NotFound,
            Self::WaitTimedOut { .. } => Exit::TimedOut,
            Self::ClientFiles(ClientFileError::Write { .. }) | Self::Dev(_) | Self::Output(_) | Self::Render { .. } => {
                Exit::Local
            }
        }
    }

    /// Returns the outcome even if the output was not read: the reader may have closed the pipe, as `head` does.
    ///
    /// # Errors
    /// If the output could not be written for another reason.
    pub(crate) fn if_read(written: Result<(), Self>, outcome: Exit) -> Result<Exit, Self> {
        match written {
            Err(error) if !error.is_broken_pipe() => Err(error),
            _ => Ok(outcome),
        }
    }

    /// Returns whether the reader of the output closed the pipe, as `head` does. That is not reported as an error.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_is_told_what_to_do() {
        let refused = |code: Code, message: &str| ClientError::Refused { code, message: message.into() };
        let (endpoint, problem) = ("http://c:8080".to_owned(), "it is a stranger".to_owned());
        for (error, exit, sentence) in [
            (
                refused(Code::Unauthenticated, "who are you"),
                Exit::Refused,
                "the fleet refused (UNAUTHENTICATED): who are you; give --trust with --certificate",
            ),
            (
                refused(Code::PermissionDenied, "client/ada may not call this"),
                Exit::Refused,
                "client/ada may not call this; an administrator of the fleet can give you the right",
            ),
            (
                refused(Code::PermissionDenied, "client:ada is no member of the ballot"),
                Exit::Refused,
                "the fleet refused (PERMISSION_DENIED): client:ada is no member of the ballot",
            ),
            (
                ClientError::Untrusted { endpoint: endpoint.clone(), problem },
                Exit::Unreachable,
                "the coordinator at http://c:8080 is not trusted: it is a stranger; name a coordinator of your fleet",
            ),
            (
                ClientError::CertificateRefused { endpoint: endpoint.clone(), problem: "it has expired" },
                Exit::Refused,
                "refused the client's certificate: it has expired; make another certificate with `robeing client create`",
            ),
            (
                ClientError::NoTls { endpoint },
                Exit::Unreachable,
                "does not speak TLS, so it can't prove who it is; a fleet without TLS is called without --trust",
            ),
        ] {
            let error = CliError::from(error);
            assert_eq!(error.exit(), exit, "{error}");
            assert!(error.to_string().contains(sentence), "{error}");
            let is_told_of_rights = error.to_string().contains("give you the right");
            assert_eq!(is_told_of_rights, sentence.contains("give you the right"), "{error}");
        }
    }

    #[test]
    fn a_store_that_cannot_be_used_as_it_is_set_is_told_from_one_that_has_failed() {
        let (store, reason) = ("file:///d".to_owned(), "why".to_owned());
        let absent = BlobError::Directory { path: "/d".into(), source: io::ErrorKind::NotFound.into() };
        for (error, exit) in [
            (absent, Exit::Usage),
            (BlobError::Unusable { store: store.clone(), reason: reason.clone() }, Exit::Usage),
            (BlobError::Store { store, reason }, Exit::TaskFailed),
        ] {
            let error = CliError::Store(error);
            assert_eq!(error.exit(), exit, "{error}");
        }
    }
}
