//! What clients may do: as a file says it, as RBAC of Kubernetes says it, or everything with a certificate.

use std::sync::Arc;

use tonic::Status;

use super::{
    kubernetes::{Decision, Kubernetes, User},
    rights::{Client, Right},
    rights_file::CurrentRights,
};

/// The prefix of the name that a client with a certificate has as a user of Kubernetes.
pub const USER_PREFIX: &str = "robeing:";

/// A client whose identity is proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proven {
    /// By a certificate of this name.
    Certificate(String),
    /// By a token of this user.
    Token(Arc<User>),
}

impl Proven {
    /// Returns the client's name, for records and messages.
    pub fn name(&self) -> &str {
        match self {
            Self::Certificate(name) => name,
            Self::Token(user) => &user.name,
        }
    }
}

/// Knows what clients may do.
#[derive(Clone)]
pub enum ClientRights {
    /// With a certificate or a token, everything.
    ProvenMayAll,
    /// What a file says.
    File(CurrentRights),
    /// What RBAC says: of the user of a token, or the user `robeing:NAME` for a certificate.
    Kubernetes(Kubernetes),
}

impl ClientRights {
    /// Returns whether a client has a right.
    ///
    /// # Errors
    /// If that can't be found out now.
    pub async fn has(&self, client: &Proven, right: Right) -> Result<bool, Status> {
        match self {
            Self::ProvenMayAll => Ok(true),
            Self::File(rights) => Ok(rights.allow(Client::Named(client.name()), right)),
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
            Self::ProvenMayAll | Self::Kubernetes(_) => false,
        }
    }

    /// Returns the user of a token, as the API server says it, if it can be asked.
    pub async fn review(&self, token: &str) -> Option<Arc<User>> {
        let Self::Kubernetes(kubernetes) = self else { return None };
        match kubernetes.authenticate(token).await {
            Ok(Decision::Allowed(user)) => Some(user),
            Ok(Decision::Denied(_)) | Err(_) => None,
        }
    }
}
