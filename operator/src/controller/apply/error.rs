//! The errors of applying and deleting objects.

/// Why an object could not be applied or deleted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object of that name belongs to someone else.
    #[error(
        "{kind} {name} exists and does not belong to this RobeingCluster; rename the cluster or the pool, or delete the {kind}"
    )]
    Foreign {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
    },
    /// The API server refused the request.
    #[error("the API server refused to {verb} {kind} {name}: {message}")]
    Refused {
        /// The requested operation.
        verb: &'static str,
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// The API server's message.
        message: String,
    },
    /// The request was refused recently and is not retried yet.
    #[error("{sentence}")]
    Again {
        /// The message of the earlier refusal.
        sentence: String,
        /// Whether an object of that name belongs to someone else.
        foreign: bool,
    },
    /// What the object should contain can't be made.
    #[error("{what} can't be made: {source}")]
    Unmade {
        /// What it is.
        what: &'static str,
        /// The cause.
        source: Box<robeing_identity::IdentityError>,
    },
    /// The API server did not respond.
    #[error("the API server did not answer when asked to {verb} {kind} {name}: {source}")]
    Unreachable {
        /// The requested operation.
        verb: &'static str,
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// The cause.
        source: Box<kube::Error>,
    },
}

impl Error {
    /// Returns whether the API server did not respond, so that nothing else needs to be tried now.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Returns whether the error was already reported.
    pub fn is_known(&self) -> bool {
        matches!(self, Self::Again { .. })
    }

    pub(super) fn is_foreign(&self) -> bool {
        matches!(self, Self::Foreign { .. } | Self::Again { foreign: true, .. })
    }

    pub(crate) fn of(verb: &'static str, kind: &str, name: &str, error: kube::Error) -> Self {
        let (kind, name) = (kind.to_owned(), name.to_owned());
        match error {
            kube::Error::Api(status) => Self::Refused { verb, kind, name, message: status.message.clone() },
            source => Self::Unreachable { verb, kind, name, source: Box::new(source) },
        }
    }
}

/// Returns whether the error means that the object does not exist, or is no longer the same one.
pub fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if is(status, 404) || is(status, 409))
}

pub(super) fn is(status: &kube::core::Status, code: u16) -> bool {
    status.code == code
}
