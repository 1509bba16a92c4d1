//! The service by which coordinators follow attempts at the leader.

use futures::stream::BoxStream;
use robeing_proto::internal::v1 as internal;
use tonic::{Request, Response, Status};

use crate::logs::LeaderLogs;

/// The Logs service.
pub struct LogsService(pub LeaderLogs);

#[tonic::async_trait]
impl internal::logs_server::Logs for LogsService {
    type FollowHereStream = BoxStream<'static, Result<internal::AttemptLog, Status>>;

    async fn follow_here(
        &self,
        request: Request<internal::FollowHereRequest>,
    ) -> Result<Response<Self::FollowHereStream>, Status> {
        Ok(Response::new(self.0.follow(request.into_inner()).await?))
    }
}
