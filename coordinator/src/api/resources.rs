//! The Resources service. Any coordinator serves it.

use std::time::Duration;

use robeing_fleet::AgentId;
use robeing_net::gate::Caller;
use robeing_proto::v1::{
    self, GetAllocationRequest, ListAllocationsRequest, ListAllocationsResponse, ListResourcesRequest,
    ListResourcesResponse, ReleaseResourcesRequest, ReleaseResourcesResponse, RenewLeaseRequest, RenewLeaseResponse,
    RequestResourcesRequest, RequestResourcesResponse, SetQueuesRequest, SetQueuesResponse,
};
use tonic::{Request, Response, Status};

use crate::{
    api::{
        convert,
        paging::{self, page_number},
    },
    resources::{ResourcePool, Seen},
};

/// The Resources service. Cheap to clone.
#[derive(Clone)]
pub struct ResourcesService {
    pub pool: ResourcePool,
}

/// Returns a page of allocations, as many as fit in one message. The next page begins after the last one in it.
fn page(found: Vec<Seen>, next: Option<u64>) -> ListAllocationsResponse {
    let told = found.into_iter().map(|seen| (seen.allocation.seq, convert::allocation(seen)));
    let (allocations, cut) = paging::fitting(told);
    let next_page_token = cut.or(next).map(|seq| seq.to_string()).unwrap_or_default();
    ListAllocationsResponse { allocations, next_page_token }
}

#[tonic::async_trait]
impl v1::resources_server::Resources for ResourcesService {
    async fn request_resources(
        &self,
        request: Request<RequestResourcesRequest>,
    ) -> Result<Response<RequestResourcesResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let allocation = self.pool.request(&caller, request.into_inner()).await?;
        let allocation = Some(convert::allocation(self.pool.seen(&allocation)));
        Ok(Response::new(RequestResourcesResponse { allocation }))
    }

    async fn release_resources(
        &self,
        request: Request<ReleaseResourcesRequest>,
    ) -> Result<Response<ReleaseResourcesResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let ReleaseResourcesRequest { id, token } = request.into_inner();
        self.pool.release(&caller, convert::allocation_id(&id)?, token).await?;
        Ok(Response::new(ReleaseResourcesResponse {}))
    }

    async fn renew_lease(&self, request: Request<RenewLeaseRequest>) -> Result<Response<RenewLeaseResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let RenewLeaseRequest { id, token } = request.into_inner();
        let lease = self.pool.renew(&caller, convert::allocation_id(&id)?, token).await?;
        // A lease has at most 366 days, which always fits.
        Ok(Response::new(RenewLeaseResponse { lease: prost_types::Duration::try_from(lease).ok() }))
    }

    async fn get_allocation(&self, request: Request<GetAllocationRequest>) -> Result<Response<v1::Allocation>, Status> {
        let GetAllocationRequest { id, wait } = request.into_inner();
        let id = convert::allocation_id(&id)?;
        let wait = Duration::from_millis(convert::millis("wait", wait)?.unwrap_or(0));
        let allocation = self.pool.get(id, wait).await?;
        Ok(Response::new(convert::allocation(self.pool.seen(&allocation))))
    }

    async fn list_allocations(
        &self,
        request: Request<ListAllocationsRequest>,
    ) -> Result<Response<ListAllocationsResponse>, Status> {
        let ListAllocationsRequest { live, limit, page_token } = request.into_inner();
        let (found, next) = self.pool.list(page_number(&page_token)?, limit as usize, live).await?;
        Ok(Response::new(page(found, next)))
    }

    async fn list_resources(
        &self,
        request: Request<ListResourcesRequest>,
    ) -> Result<Response<ListResourcesResponse>, Status> {
        let ListResourcesRequest { limit, page_token } = request.into_inner();
        let after = page_number(&page_token)?.map(AgentId);
        let found = self.pool.agents(after, limit as usize).await?;
        let last = found.agents.last().map(|(_, agent)| agent.agent.0.to_string()).filter(|_| found.has_more);
        Ok(Response::new(ListResourcesResponse {
            agents: found.agents.into_iter().map(convert::agent_resources).collect(),
            sums: Some(convert::pool_sums(found.sums)),
            queues: found.queues.into_iter().map(convert::queue).collect(),
            next_page_token: last.unwrap_or_default(),
        }))
    }

    async fn set_queues(&self, request: Request<SetQueuesRequest>) -> Result<Response<SetQueuesResponse>, Status> {
        let queues = request.into_inner().queues.into_iter().map(convert::queue_shape);
        self.pool.set_queues(queues.collect()).await?;
        Ok(Response::new(SetQueuesResponse {}))
    }
}
