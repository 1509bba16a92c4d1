//! Whether a certificate is of the process that has enrolled last under its name.

use std::sync::Arc;

use robeing_fleet::Enrolment;
use robeing_net::security::PeerIdentity;
use tonic::Status;

use crate::read::StateReader;

/// Returns the enrolment of the agent whose certificate this is, if it is remembered.
///
/// # Errors
/// `PERMISSION_DENIED` if another process has enrolled under the name since.
pub async fn check(state: &StateReader, peer: &PeerIdentity) -> Result<Option<Arc<Enrolment>>, Status> {
    let name = peer.id.name();
    let enrolled = || state.look(|fleet| fleet.enrolment_of(name).cloned());
    let mut enrolment = enrolled();
    if enrolment.as_ref().is_some_and(|enrolment| enrolment.key != peer.key) {
        // The agent may have enrolled with this key a moment ago, which may not be applied here yet.
        state.ready_to_read(0).await?;
        enrolment = enrolled();
    }
    match enrolment {
        Some(enrolment) if enrolment.key != peer.key => Err(Status::permission_denied(format!(
            "another process has enrolled as the agent {name} since this one did; a name belongs to one process at a time"
        ))),
        enrolment => Ok(enrolment),
    }
}
