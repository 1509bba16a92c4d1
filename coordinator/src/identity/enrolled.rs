//! Whether a certificate is of the process that has enrolled last under its name.

use std::sync::Arc;

use robeing_fleet::{Enrolment, Feature};
use robeing_net::security::PeerIdentity;
use tonic::Status;

use crate::read::StateReader;

/// Returns the enrolment of the agent whose certificate this is; `None` if the fleet does not keep enrolments yet.
///
/// # Errors
/// `PERMISSION_DENIED` if another process has enrolled under the name since. `UNAUTHENTICATED` if the agent has to enrol
/// again, because it was removed since, or there was no room for its enrolment.
pub async fn check(state: &StateReader, peer: &PeerIdentity) -> Result<Option<Arc<Enrolment>>, Status> {
    if let Ok(Some(enrolment)) = applied(state, peer) {
        return Ok(Some(enrolment));
    }
    // The agent may have enrolled with this key a moment ago, which may not be applied here yet.
    state.ready_to_read(0).await?;
    applied(state, peer)
}

/// Refuses an agent whose certificate is not of its enrolment. Asks the leader only if it would be refused by what is
/// applied here, so that agents can call while none leads, and also in a fleet that does not keep enrolments yet.
///
/// # Errors
/// See [`check`]; `UNAVAILABLE` if no leader can say whether what is applied here is up to date.
pub async fn check_call(state: &StateReader, peer: &PeerIdentity) -> Result<(), Status> {
    if applied(state, peer).is_ok() {
        return Ok(());
    }
    state.ready_to_read(0).await?;
    applied(state, peer).map(drop)
}

/// Same as [`check`], by what is applied here.
///
/// # Errors
/// See [`check`].
pub fn applied(state: &StateReader, peer: &PeerIdentity) -> Result<Option<Arc<Enrolment>>, Status> {
    let name = peer.id.name();
    let (enrolment, are_kept) = state.look(|fleet| (fleet.enrolment_of(name).cloned(), fleet.has(Feature::Identity)));
    match enrolment {
        Some(enrolment) if enrolment.key == peer.key => Ok(Some(enrolment)),
        Some(_) => Err(Status::permission_denied(format!(
            "another process has enrolled as the agent {name} since this one did; a name belongs to one process at a time"
        ))),
        None if are_kept => Err(Status::unauthenticated(format!(
            "the enrolment of the agent {name} is not known any more: it was removed, or there was no room for it; it has to \
             enrol again, with a proof"
        ))),
        None => Ok(None),
    }
}
