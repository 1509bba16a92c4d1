//! Why the API server can't be asked, or gave no answer.

use std::{path::PathBuf, time::Duration};

use http::StatusCode;
use robeing_net::https::HttpsError;

/// Why the API server did not tell whose a token is, or what a user may do. No message contains a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubernetesError {
    /// This process does not run in a pod with a service account.
    #[error("this process does not run on Kubernetes: {0} is not set")]
    NotInCluster(&'static str),
    /// The port of the API server is no port.
    #[error("KUBERNETES_SERVICE_PORT is {0:?}, which is no port")]
    Port(String),
    /// A file of the service account can't be used.
    #[error("the file {} of the service account can't be used: {problem}", .path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The API server can't be reached, does not answer in time, or its answer is too large.
    #[error("the API server of Kubernetes can't be asked: {0}")]
    Unreachable(#[from] HttpsError),
    /// The API server can't answer now.
    #[error("the API server of Kubernetes can't answer now: status {}", .0.as_u16())]
    Failing(StatusCode),
    /// The answer can't be understood.
    #[error("the answer of the API server of Kubernetes about {about} can't be used: {problem}")]
    Answer {
        /// What was asked.
        about: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// This coordinator may not ask.
    #[error(
        "the API server of Kubernetes does not let this coordinator ask for {about} (status {}): bind its service account \
         to a role that may create them, such as the ClusterRole system:auth-delegator", .status.as_u16()
    )]
    NotGranted {
        /// What was asked.
        about: &'static str,
        /// The status.
        status: StatusCode,
    },
    /// The API server does not take this question.
    #[error("the API server of Kubernetes refuses to answer about {about}: status {}", .status.as_u16())]
    Refused {
        /// What was asked.
        about: &'static str,
        /// The status.
        status: StatusCode,
    },
    /// Too many questions wait.
    #[error("too many questions wait for the API server of Kubernetes: try again in a moment")]
    Overloaded,
    /// There was no turn in time.
    #[error("the API server of Kubernetes is slow: the question had no turn within {} s; try again", .0.as_secs())]
    NoTurn(Duration),
}

impl KubernetesError {
    /// Returns whether the API server is away or too busy, rather than refusing the question: its last answer may be
    /// used meanwhile.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Failing(_) | Self::Answer { .. } | Self::Overloaded | Self::NoTurn(_) => true,
            Self::NotInCluster(_)
            | Self::Port(_)
            | Self::Credentials { .. }
            | Self::NotGranted { .. }
            | Self::Refused { .. } => false,
        }
    }
}
