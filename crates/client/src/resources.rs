//! Calls of the Resources service. Calls are retried like all others: the caller draws the ids of allocations. What is
//! set, such as the end of a lease, is set through one coordinator at a time.

use std::time::Duration;

use robeing_proto::v1::{
    Allocation, GetAllocationRequest, ListAllocationsRequest, ListAllocationsResponse, ListResourcesRequest,
    ListResourcesResponse, ReleaseResourcesRequest, RenewLeaseRequest, RenewLeaseResponse, RequestResourcesRequest,
    SetQueuesRequest, resources_client::ResourcesClient,
};
use tonic::{Response, Status};
use uuid::Uuid;

use super::{
    ClientError, FleetClient, Wire,
    calls::{Repeat, too_old},
    limited,
    messages::{AFTER_WAIT, wait},
};

/// Generates an id for an allocation.
pub fn new_allocation_id() -> String {
    Uuid::now_v7().to_string()
}

impl FleetClient {
    /// Asks for resources, and returns the allocation, which is granted or waits. `request.id` must be set, so that a
    /// retry is the same request; see [`new_allocation_id`]. [`ClientError::Refused`] if they are not free and the
    /// request does not wait.
    pub async fn request_resources(&self, request: RequestResourcesRequest) -> Result<Allocation, ClientError> {
        let asked = self.call_resources(Repeat::AtOnce, Duration::ZERO, |mut rpc| {
            let request = request.clone();
            async move { rpc.request_resources(request).await }
        });
        Ok(asked.await?.allocation.unwrap_or_default())
    }

    /// Releases an allocation. Does nothing if it has ended.
    pub async fn release_resources(&self, request: ReleaseResourcesRequest) -> Result<(), ClientError> {
        let released = self.call_resources(Repeat::AtOnce, Duration::ZERO, |mut rpc| {
            let request = request.clone();
            async move { rpc.release_resources(request).await }
        });
        released.await.map(drop)
    }

    /// Renews a lease. Whoever holds one repeats this in time.
    pub async fn renew_lease(&self, request: RenewLeaseRequest) -> Result<RenewLeaseResponse, ClientError> {
        self.call_resources(Repeat::InTurn, Duration::ZERO, |mut rpc| {
            let request = request.clone();
            async move { rpc.renew_lease(request).await }
        })
        .await
    }

    /// Returns an allocation. [`ClientError::NotFound`] if the fleet does not know it, or not any more.
    pub async fn get_allocation(&self, request: GetAllocationRequest) -> Result<Allocation, ClientError> {
        let extra = wait(request.wait);
        self.call_resources(Repeat::AtOnce, extra, |mut rpc| {
            let request = request.clone();
            async move { rpc.get_allocation(request).await }
        })
        .await
    }

    /// Returns a page of the allocations, newest first.
    pub async fn list_allocations(
        &self,
        request: ListAllocationsRequest,
    ) -> Result<ListAllocationsResponse, ClientError> {
        self.call_resources(Repeat::AtOnce, Duration::ZERO, |mut rpc| {
            let request = request.clone();
            async move { rpc.list_allocations(request).await }
        })
        .await
    }

    /// Returns a page of what agents contribute, with the queues and the sums.
    pub async fn list_resources(&self, request: ListResourcesRequest) -> Result<ListResourcesResponse, ClientError> {
        self.call_resources(Repeat::AtOnce, Duration::ZERO, |mut rpc| {
            let request = request.clone();
            async move { rpc.list_resources(request).await }
        })
        .await
    }

    /// Sets the queues that have a weight or a quota.
    pub async fn set_queues(&self, request: SetQueuesRequest) -> Result<(), ClientError> {
        let set = self.call_resources(Repeat::InTurn, Duration::ZERO, |mut rpc| {
            let request = request.clone();
            async move { rpc.set_queues(request).await }
        });
        set.await.map(drop)
    }

    /// Makes a call of the Resources service, as [`FleetClient::call`] does, that may take `extra` longer.
    async fn call_resources<T, F, A>(&self, repeat: Repeat, extra: Duration, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(ResourcesClient<Wire>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let extra = if extra.is_zero() { extra } else { extra + AFTER_WAIT };
        self.call_for(repeat, extra, |target| {
            let call = attempt(limited!(ResourcesClient::new(self.wire(target))));
            async move { call.await.map_err(|status| too_old(status, "has no resource pool")) }
        })
        .await
    }
}
