//! What could not be applied or deleted.

/// What could not be applied or deleted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object of the name belongs to somebody else.
    #[error(
        "{kind} {name} exists and does not belong to this RobeingCluster; rename the cluster or the pool, or delete the {kind}"
    )]
    Foreign {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The API server refused it.
    #[error("the API server refused to {verb} {kind} {name}: {message}")]
    Refused {
        /// What was asked.
        verb: &'static str,
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// The API server's words.
        message: String,
    },
    /// It was refused lately and is not asked again yet.
    #[error("{sentence}")]
    Again {
        /// What was said then.
        sentence: String,
        /// An object of the name belongs to somebody else.
        foreign: bool,
    },
    /// The API server did not answer.
    #[error("the API server did not answer when asked to {verb} {kind} {name}: {source}")]
    Unreachable {
        /// What was asked.
        verb: &'static str,
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

impl Error {
    /// Whether nothing else needs to be tried now.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether it was told before.
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

/// Whether the API server says that there is no such object, or another one of its name.
pub fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if is(status, 404) || is(status, 409))
}

pub(super) fn is(status: &kube::core::Status, code: u16) -> bool {
    status.code == code
}
