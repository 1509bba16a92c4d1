//! Calls of the Schedules service. Calls are retried like all others: the caller draws the id of the task of a run that it
//! starts. What is set is set through one coordinator at a time.

use std::time::Duration;

use robeing_proto::v1::{
    GetScheduleRequest, ListSchedulesRequest, ListSchedulesResponse, RemoveScheduleRequest, RunScheduleRequest,
    RunScheduleResponse, Schedule, SetScheduleRequest, SuspendScheduleRequest, schedules_client::SchedulesClient,
};
use tonic::{Response, Status};

use super::{
    ClientError, FleetClient, Wire,
    calls::{Repeat, too_old},
    limited,
};

impl FleetClient {
    /// Makes or changes a schedule, and returns it as it is then.
    pub async fn set_schedule(&self, request: SetScheduleRequest) -> Result<Schedule, ClientError> {
        let set = self.call_schedules(Repeat::InTurn, |mut rpc| {
            let request = request.clone();
            async move { rpc.set_schedule(request).await }
        });
        Ok(set.await?.schedule.unwrap_or_default())
    }

    /// Removes a schedule, and returns whether there was one.
    pub async fn remove_schedule(&self, request: RemoveScheduleRequest) -> Result<bool, ClientError> {
        let removed = self.call_schedules(Repeat::InTurn, |mut rpc| {
            let request = request.clone();
            async move { rpc.remove_schedule(request).await }
        });
        Ok(removed.await?.removed)
    }

    /// Suspends a schedule or lets it go on, and returns it as it is then.
    pub async fn suspend_schedule(&self, request: SuspendScheduleRequest) -> Result<Schedule, ClientError> {
        let suspended = self.call_schedules(Repeat::InTurn, |mut rpc| {
            let request = request.clone();
            async move { rpc.suspend_schedule(request).await }
        });
        Ok(suspended.await?.schedule.unwrap_or_default())
    }

    /// Starts a run of a schedule. `request.task_id` must be set, so that a retry is the same run; see
    /// [`new_task_id`](super::new_task_id).
    pub async fn run_schedule(&self, request: RunScheduleRequest) -> Result<RunScheduleResponse, ClientError> {
        self.call_schedules(Repeat::AtOnce, |mut rpc| {
            let request = request.clone();
            async move { rpc.run_schedule(request).await }
        })
        .await
    }

    /// Returns a schedule. [`ClientError::NotFound`] if there is none of this name.
    pub async fn get_schedule(&self, request: GetScheduleRequest) -> Result<Schedule, ClientError> {
        self.call_schedules(Repeat::AtOnce, |mut rpc| {
            let request = request.clone();
            async move { rpc.get_schedule(request).await }
        })
        .await
    }

    /// Returns a page of the schedules, by name.
    pub async fn list_schedules(&self, request: ListSchedulesRequest) -> Result<ListSchedulesResponse, ClientError> {
        self.call_schedules(Repeat::AtOnce, |mut rpc| {
            let request = request.clone();
            async move { rpc.list_schedules(request).await }
        })
        .await
    }

    /// Returns the schedules of all pages from the one that is asked for, by name.
    pub async fn all_schedules(&self, mut request: ListSchedulesRequest) -> Result<Vec<Schedule>, ClientError> {
        let mut schedules = Vec::new();
        loop {
            let page = self.list_schedules(request.clone()).await?;
            schedules.extend(page.schedules);
            // The pages are in order of the names, so the token only grows and the loop ends.
            if page.next_page_token <= request.page_token {
                return Ok(schedules);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Makes a call of the Schedules service, as [`FleetClient::call`] does.
    async fn call_schedules<T, F, A>(&self, repeat: Repeat, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(SchedulesClient<Wire>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_for(repeat, Duration::ZERO, |target| {
            let call = attempt(limited!(SchedulesClient::new(self.wire(target))));
            async move { call.await.map_err(|status| too_old(status, "has no schedules")) }
        })
        .await
    }
}
