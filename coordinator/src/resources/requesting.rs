//! Asks for resources, renews leases, releases, and sets queues.

use std::{sync::Arc, time::Duration};

use robeing_fleet::{
    Allocation, AllocationId, QueueShape, Refusal, Reply, RequestResources, ResourceCommand, limits::DEFAULT_QUEUE,
};
use robeing_net::gate::Caller;
use robeing_platform::uuid_v7;
use robeing_proto::v1;
use tokio::time::Instant;

use super::{
    ResourceError, ResourcePool,
    owners::{is_owner, may_ask_for, own_holder},
    unexpected,
};
use crate::{api::convert, identity::rights::Right, mail::sender_name};

/// How long a lease lasts if the request does not say it, ms.
const DEFAULT_LEASE_MS: u64 = 60_000;

/// Reads a request of a caller. `fresh` draws an id.
fn request_of(
    caller: &Caller,
    request: v1::RequestResourcesRequest,
    fresh: impl FnOnce() -> u128,
) -> Result<RequestResources, ResourceError> {
    let v1::RequestResourcesRequest { id, holder, queue, parts, spread, lease, wait } = request;
    let requested_by = sender_name(caller);
    let id = if id.is_empty() { AllocationId(fresh()) } else { convert::allocation_id(&id)? };
    let holder = if holder.is_empty() { own_holder(caller) } else { convert::holder(&holder)? };
    Ok(RequestResources {
        id,
        holder,
        queue: if queue.is_empty() { DEFAULT_QUEUE.to_owned() } else { queue },
        parts: parts.iter().map(convert::amounts).collect(),
        spread,
        ttl: convert::millis("lease", lease)?.unwrap_or(DEFAULT_LEASE_MS),
        wait: convert::millis("wait", wait)?.unwrap_or(0),
        requested_by,
    })
}

impl ResourcePool {
    /// Asks for resources, and returns the allocation as it is then: granted or waiting. If the future is dropped, they
    /// may be granted nevertheless.
    ///
    /// # Errors
    /// [`ResourceError`] if they were refused, or are not known to be granted or waited for.
    pub async fn request(
        &self,
        caller: &Caller,
        request: v1::RequestResourcesRequest,
    ) -> Result<Arc<Allocation>, ResourceError> {
        let request = request_of(caller, request, || uuid_v7(&*self.platform.clock, &*self.platform.random))?;
        let id = request.id;
        // What is refused is not replicated; what was released a moment ago may not be applied here yet.
        self.catch_up().await?;
        let is_theirs = self.state.look(|fleet| may_ask_for(fleet, caller, &request.holder));
        // That nobody else is named who has proved who it is holds of administrators whom nobody knows, too.
        if !is_theirs && (matches!(caller, Caller::Plaintext) || !self.is_administrator(caller).await?) {
            return Err(ResourceError::NotYours { caller: request.requested_by, other: request.holder.to_string() });
        }
        if let Some(refusal) = self.certain_refusal(&request) {
            return Err(ResourceError::Refused(refusal));
        }
        match self.propose(ResourceCommand::Request(request)).await? {
            Some(Reply::Allocated { .. }) => self.current(id).await,
            reply => Err(unexpected(reply)),
        }
    }

    /// Returns why a request need not be proposed: it is certain to be refused, or there is no room for it on the
    /// coordinators' disks.
    fn certain_refusal(&self, request: &RequestResources) -> Option<Refusal> {
        let of_state = self.state.look(|fleet| fleet.refusal_of_request(request));
        of_state.or_else(|| self.rooms.refusal(Instant::now()).map(|reason| Refusal::NoRoom { reason }))
    }

    /// Releases an allocation.
    ///
    /// # Errors
    /// [`ResourceError`] if it was not released, or is not known to be.
    pub async fn release(&self, caller: &Caller, id: AllocationId, token: u64) -> Result<(), ResourceError> {
        let token = (token != 0).then_some(token);
        self.check_owner(caller, id).await?;
        match self.propose(ResourceCommand::Release { id, token }).await? {
            Some(Reply::Done) => Ok(()),
            reply => Err(unexpected(reply)),
        }
    }

    /// Refuses a caller whose allocation it is not. A token is no secret: who may read sees it.
    async fn check_owner(&self, caller: &Caller, id: AllocationId) -> Result<(), ResourceError> {
        // Whose it is never changes, so it does not matter if this coordinator is behind.
        let known = match self.state.look(|fleet| fleet.allocation(id).cloned()) {
            Some(known) => known,
            None => self.current(id).await?,
        };
        if self.state.look(|fleet| is_owner(fleet, caller, &known)) || self.is_administrator(caller).await? {
            return Ok(());
        }
        Err(ResourceError::NotYours { caller: sender_name(caller), other: known.holder.to_string() })
    }

    async fn is_administrator(&self, caller: &Caller) -> Result<bool, ResourceError> {
        let has = self.rights.has(caller, Right::Admin, &self.state).await;
        has.map_err(|status| ResourceError::NotReadable(status.message().to_owned()))
    }

    /// Renews a lease. Returns how long it lasts.
    ///
    /// # Errors
    /// [`ResourceError`] if it was not renewed, or is not known to be.
    pub async fn renew(&self, caller: &Caller, id: AllocationId, token: u64) -> Result<Duration, ResourceError> {
        self.check_owner(caller, id).await?;
        match self.propose(ResourceCommand::Renew { id, token }).await? {
            Some(Reply::LeaseRenewed { ttl }) => Ok(Duration::from_millis(ttl)),
            reply => Err(unexpected(reply)),
        }
    }

    /// Sets the queues.
    ///
    /// # Errors
    /// [`ResourceError`] if they were not set, or are not known to be.
    pub async fn set_queues(&self, queues: Vec<QueueShape>) -> Result<(), ResourceError> {
        QueueShape::check_all(&queues).map_err(ResourceError::Refused)?;
        match self.propose(ResourceCommand::SetQueues(queues)).await? {
            Some(Reply::Done) => Ok(()),
            reply => Err(unexpected(reply)),
        }
    }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::Holder;

    use super::*;

    fn request(holder: &str) -> v1::RequestResourcesRequest {
        v1::RequestResourcesRequest { holder: holder.to_owned(), ..v1::RequestResourcesRequest::default() }
    }

    #[test]
    fn what_is_left_out_has_defaults() {
        let read = request_of(&Caller::user("ann"), request(""), || 9).expect("it is right");
        assert_eq!((read.id, read.queue.as_str(), read.ttl, read.wait), (AllocationId(9), "default", 60_000, 0));
        assert_eq!((read.holder, read.requested_by.as_str()), (Holder::Client("ann".to_owned()), "client:ann"));
    }

    #[test]
    fn a_holder_that_is_none_is_refused() {
        for wrong in ["bob", "task:7", "team:t", "nobody:x"] {
            let read = request_of(&Caller::user("ann"), request(wrong), || 9);
            assert!(matches!(read, Err(ResourceError::BadField(_))), "{wrong}");
        }
    }
}
