//! The Queues service. Any coordinator serves it.

use robeing_fleet::{Command, QueueCommand, Reply, TaskQueue, TaskQueueView};
use robeing_proto::v1::{
    ListQueuesRequest, ListQueuesResponse, UpdateQueuesRequest, UpdateQueuesResponse, queues_server::Queues,
};
use tonic::{Request, Response, Status};

use crate::{
    api::{convert, errors, paging},
    propose::Proposer,
    read::StateReader,
};

/// Maximum number of queues on a page.
const MAX_PAGE: usize = 1_000;
/// Default number of queues on a page.
const DEFAULT_PAGE: usize = 100;

/// The Queues service. Cheap to clone.
#[derive(Clone)]
pub struct QueuesService {
    pub state: StateReader,
    pub proposer: Proposer,
}

/// Returns a page of queues, as many as fit in one message. The next page begins after the last one in it.
fn page(found: Vec<TaskQueueView>, has_more: bool) -> ListQueuesResponse {
    let told = found.into_iter().map(|view| (view.name.clone(), convert::told_task_queue(view)));
    let (queues, cut) = paging::fitting(told);
    let next = cut.or_else(|| queues.last().filter(|_| has_more).map(|queue| queue.name.clone()));
    ListQueuesResponse { queues, next_page_token: next.unwrap_or_default() }
}

#[tonic::async_trait]
impl Queues for QueuesService {
    async fn list_queues(&self, request: Request<ListQueuesRequest>) -> Result<Response<ListQueuesResponse>, Status> {
        let ListQueuesRequest { limit, page_token, consistency } = request.into_inner();
        let limit = if limit == 0 { DEFAULT_PAGE } else { MAX_PAGE.min(limit as usize) };
        let after = Some(page_token.as_str()).filter(|token| !token.is_empty());
        self.state.ready_to_read(consistency).await?;
        let (found, has_more) = self.state.look(|fleet| fleet.task_queues(after, limit));
        Ok(Response::new(page(found, has_more)))
    }

    async fn update_queues(
        &self,
        request: Request<UpdateQueuesRequest>,
    ) -> Result<Response<UpdateQueuesResponse>, Status> {
        let UpdateQueuesRequest { set, remove } = request.into_inner();
        let set = set.into_iter().map(convert::task_queue).collect::<Result<Vec<TaskQueue>, _>>()?;
        TaskQueue::check_all(&set, &remove).map_err(|refusal| errors::refused(&refusal))?;
        let command = Command::Queue(QueueCommand::Update { set, remove });
        match self.proposer.propose(self.proposer.sender(), [&command]).await?.pop() {
            Some(Reply::Done) => Ok(Response::new(UpdateQueuesResponse {})),
            Some(Reply::Refused(refusal)) => Err(errors::refused(&refusal)),
            other => Err(Status::unavailable(format!("unexpected reply {other:?}; list the queues to see them"))),
        }
    }
}
