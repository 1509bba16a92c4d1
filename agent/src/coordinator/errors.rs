//! gRPC codes: which error is told with which. Refusals of single tasks within a call that succeeds are in `view`.

use tonic::Status;

use super::{proposer::ProposeError, view::BadField};

impl From<ProposeError> for Status {
    fn from(error: ProposeError) -> Self {
        let message = error.to_string();
        match error {
            ProposeError::NoLeader | ProposeError::NotLeader | ProposeError::Stopping => Self::unavailable(message),
            ProposeError::TooLarge { .. } => Self::resource_exhausted(message),
        }
    }
}

impl From<BadField> for Status {
    fn from(error: BadField) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// A task that is not there.
pub fn no_task(id: &str) -> Status {
    Status::not_found(format!("no task {id}: it never existed, or its result has expired"))
}

/// More of something than a request may have.
pub fn too_many(what: &str, count: usize, limit: usize) -> Status {
    Status::resource_exhausted(format!("{count} {what} in one request, {limit} at most; split it"))
}
