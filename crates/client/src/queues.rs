//! Calls of the Queues service. Calls are retried like all others. What is set is set through one coordinator at a time.

use std::time::Duration;

use robeing_proto::v1::{ListQueuesRequest, ListQueuesResponse, UpdateQueuesRequest, queues_client::QueuesClient};
use tonic::{Response, Status};

use super::{
    ClientError, FleetClient, Wire,
    calls::{Repeat, too_old},
    limited,
};

impl FleetClient {
    /// Returns a page of the queues of tasks, by name.
    pub async fn list_queues(&self, request: ListQueuesRequest) -> Result<ListQueuesResponse, ClientError> {
        self.call_queues(Repeat::AtOnce, |mut rpc| {
            let request = request.clone();
            async move { rpc.list_queues(request).await }
        })
        .await
    }

    /// Sets some queues of tasks, and removes others.
    pub async fn update_queues(&self, request: UpdateQueuesRequest) -> Result<(), ClientError> {
        let updated = self.call_queues(Repeat::InTurn, |mut rpc| {
            let request = request.clone();
            async move { rpc.update_queues(request).await }
        });
        updated.await.map(drop)
    }

    /// Makes a call of the Queues service, as [`FleetClient::call`] does.
    async fn call_queues<T, F, A>(&self, repeat: Repeat, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(QueuesClient<Wire>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_for(repeat, Duration::ZERO, |target| {
            let call = attempt(limited!(QueuesClient::new(self.wire(target))));
            async move { call.await.map_err(|status| too_old(status, "has no queues of tasks")) }
        })
        .await
    }
}
