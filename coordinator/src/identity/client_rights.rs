//! What clients may do: what a file or RBAC of Kubernetes permits, or everything with a certificate.

use std::sync::Arc;

use tonic::Status;
use tracing::debug;

use super::{
    kubernetes::{Decision, Kubernetes, User},
    rights::{Client, Right},
    rights_file::CurrentRights,
};

/// The prefix of the name that a client with a certificate has as a user of Kubernetes.
pub const USER_PREFIX: &str = "robeing:";

/// A client whose identity is proved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proven {
    /// By a certificate of this name.
    Certificate(String),
    /// By a token of this user.
    Token(Arc<User>),
}

/// Knows what clients may do.
#[derive(Clone)]
pub enum ClientRights {
    /// With a certificate, everything: only an administrator can give one away. With a token, nothing: it is not known
    /// which of an issuer's users are this fleet's clients.
    CertifiedMayAll,
    /// What a file permits.
    File(CurrentRights),
    /// What RBAC permits: to the user of a token, or the user `robeing:NAME` for a certificate.
    Kubernetes(Kubernetes),
}

impl ClientRights {
    /// Returns whether a client has a right.
    ///
    /// # Errors
    /// If that can't be found out now.
    pub async fn has(&self, client: &Proven, right: Right) -> Result<bool, Status> {
        match self {
            Self::CertifiedMayAll => Ok(matches!(client, Proven::Certificate(_))),
            Self::File(rights) => {
                let client = match client {
                    Proven::Certificate(name) => Client::Named(name),
                    // The names in the file are those of certificates; a user may have the same name.
                    Proven::Token(_) => Client::Token,
                };
                Ok(rights.allow(client, right))
            }
            Self::Kubernetes(kubernetes) => {
                let user = match client {
                    Proven::Token(user) => Arc::clone(user),
                    Proven::Certificate(name) => Arc::new(User {
                        name: format!("{USER_PREFIX}{name}"),
                        groups: vec!["system:authenticated".to_owned()],
                        ..User::default()
                    }),
                };
                match kubernetes.authorize(&user, right).await {
                    Ok(Decision::Allowed(())) => Ok(true),
                    Ok(Decision::Denied(_)) => Ok(false),
                    Err(error) => Err(Status::unavailable(error.to_string())),
                }
            }
        }
    }

    /// Returns whether clients without a certificate or token have a right, whether or not enrolment is open.
    pub fn anonymous_has(&self, right: Right) -> bool {
        match self {
            Self::File(rights) => rights.allow(Client::Anonymous, right),
            Self::CertifiedMayAll | Self::Kubernetes(_) => false,
        }
    }
}

/// Asks the API server of Kubernetes who a token is, where this coordinator runs on Kubernetes. Cheap to clone.
#[derive(Clone, Default)]
pub struct TokenReviewer(pub Option<Kubernetes>);

impl TokenReviewer {
    /// Returns the user of a token; `None` if the API server does not know the token, or can't be asked at all.
    ///
    /// # Errors
    /// If the API server does not answer now. The call may be tried again.
    pub async fn review(&self, token: &str) -> Result<Option<Arc<User>>, Status> {
        let Some(kubernetes) = &self.0 else { return Ok(None) };
        match kubernetes.authenticate(token).await {
            Ok(Decision::Allowed(user)) => Ok(Some(user)),
            Ok(Decision::Denied(_)) => Ok(None),
            Err(error) if error.is_outage() => Err(Status::unavailable(error.to_string())),
            Err(error) => {
                // It is not granted to ask, for instance, so a token is known by its keys alone.
                debug!(%error, "a token was not reviewed");
                Ok(None)
            }
        }
    }
}
