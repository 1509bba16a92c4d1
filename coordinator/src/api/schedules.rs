//! The Schedules service. Any coordinator serves it.

use robeing_net::gate::Caller;
use robeing_proto::v1::{
    self, GetScheduleRequest, ListSchedulesRequest, ListSchedulesResponse, RemoveScheduleRequest,
    RemoveScheduleResponse, RunScheduleRequest, RunScheduleResponse, SetScheduleRequest, SetScheduleResponse,
    SuspendScheduleRequest, SuspendScheduleResponse,
};
use tonic::{Request, Response, Status};

use crate::{
    api::{convert, paging},
    schedules::{Page, Schedules},
};

/// The Schedules service. Cheap to clone.
#[derive(Clone)]
pub struct SchedulesService {
    pub schedules: Schedules,
}

/// Returns a page of schedules, as many as fit in one message. The next page begins after the last one in it.
fn page(Page { schedules: found, has_more }: Page, brief: bool) -> ListSchedulesResponse {
    let told = found.iter().map(|shown| (shown.schedule.name.clone(), convert::schedule(shown, brief)));
    let (schedules, cut) = paging::fitting(told);
    let next = cut.or_else(|| schedules.last().filter(|_| has_more).map(|schedule| schedule.name.clone()));
    ListSchedulesResponse { schedules, next_page_token: next.unwrap_or_default() }
}

#[tonic::async_trait]
impl v1::schedules_server::Schedules for SchedulesService {
    async fn set_schedule(
        &self,
        request: Request<SetScheduleRequest>,
    ) -> Result<Response<SetScheduleResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let shown = self.schedules.set(&caller, request.into_inner()).await?;
        Ok(Response::new(SetScheduleResponse { schedule: Some(convert::schedule(&shown, false)) }))
    }

    async fn remove_schedule(
        &self,
        request: Request<RemoveScheduleRequest>,
    ) -> Result<Response<RemoveScheduleResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let RemoveScheduleRequest { name, managed } = request.into_inner();
        let removed = self.schedules.remove(&caller, &name, managed).await?;
        Ok(Response::new(RemoveScheduleResponse { removed }))
    }

    async fn suspend_schedule(
        &self,
        request: Request<SuspendScheduleRequest>,
    ) -> Result<Response<SuspendScheduleResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let SuspendScheduleRequest { name, suspended } = request.into_inner();
        let shown = self.schedules.suspend(&caller, &name, suspended).await?;
        Ok(Response::new(SuspendScheduleResponse { schedule: Some(convert::schedule(&shown, false)) }))
    }

    async fn run_schedule(
        &self,
        request: Request<RunScheduleRequest>,
    ) -> Result<Response<RunScheduleResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let (task, existing) = self.schedules.run(&caller, request.into_inner()).await?;
        Ok(Response::new(RunScheduleResponse { task_id: task.to_string(), existing }))
    }

    async fn get_schedule(&self, request: Request<GetScheduleRequest>) -> Result<Response<v1::Schedule>, Status> {
        let shown = self.schedules.get(&request.into_inner().name).await?;
        Ok(Response::new(convert::schedule(&shown, false)))
    }

    async fn list_schedules(
        &self,
        request: Request<ListSchedulesRequest>,
    ) -> Result<Response<ListSchedulesResponse>, Status> {
        let ListSchedulesRequest { limit, page_token, managed, brief } = request.into_inner();
        let found = self.schedules.list(&page_token, limit as usize, managed).await?;
        Ok(Response::new(page(found, brief)))
    }
}
