//! The DeadLetters service. Any coordinator serves it.

use robeing_fleet::{Command, DeadCursor, DropDead, Reply, RetryDead, TaskCommand, TaskId, limits::MAX_PAGE};
use robeing_net::gate::Caller;
use robeing_platform::Platform;
use robeing_proto::v1::{
    self, DropDeadLetterResult, DropDeadLettersRequest, DropDeadLettersResponse, ListDeadLettersRequest,
    ListDeadLettersResponse, RetryDeadLetterResult, RetryDeadLettersRequest, RetryDeadLettersResponse,
};
use tonic::{Request, Response, Status};

use crate::{
    api::{
        convert::{self, Parts},
        errors,
        fleet::MAX_ITEMS,
        paging,
    },
    propose::Proposer,
    read::StateReader,
};

/// Default number of dead letters on a page.
const DEFAULT_PAGE: usize = 100;

/// The DeadLetters service. Cheap to clone.
#[derive(Clone)]
pub struct DeadLettersService {
    pub state: StateReader,
    pub proposer: Proposer,
    /// The source of the seeds of jitter.
    pub platform: Platform,
}

/// Reads the token of a page.
fn cursor(token: &str) -> Result<Option<DeadCursor>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let read = token.split_once('-').and_then(|(at, seq)| Some((at.parse().ok()?, seq.parse().ok()?)));
    read.map(Some).ok_or_else(|| paging::unknown_token(token))
}

fn token((at, seq): DeadCursor) -> String {
    format!("{at}-{seq}")
}

/// Returns what a call names: tasks, each in an epoch.
fn named(letters: Vec<v1::DeadLetterRef>) -> Result<Vec<(TaskId, Option<u32>)>, Status> {
    if letters.len() > MAX_ITEMS {
        return Err(errors::too_many("letters", letters.len(), MAX_ITEMS));
    }
    letters.into_iter().map(|of| Ok((convert::task_id(&of.task_id)?, of.epoch))).collect()
}

fn retried(id: TaskId, reply: &Reply) -> RetryDeadLetterResult {
    let task_id = id.to_string();
    match reply {
        Reply::DeadRetried { epoch, existing } => {
            RetryDeadLetterResult { task_id, epoch: *epoch, existing: *existing, refusal: None }
        }
        other => RetryDeadLetterResult { task_id, refusal: Some(refusal(other)), ..Default::default() },
    }
}

fn dropped(id: TaskId, reply: &Reply) -> DropDeadLetterResult {
    let task_id = id.to_string();
    match reply {
        Reply::DeadDropped { existing } => DropDeadLetterResult { task_id, existing: *existing, refusal: None },
        other => DropDeadLetterResult { task_id, refusal: Some(refusal(other)), ..Default::default() },
    }
}

fn refusal(reply: &Reply) -> v1::Refusal {
    match reply {
        Reply::Refused(refusal) => convert::refusal(refusal),
        other => errors::unexpected(other),
    }
}

impl DeadLettersService {
    async fn propose(&self, commands: Vec<TaskCommand>) -> Result<Vec<Reply>, Status> {
        let commands: Vec<Command> = commands.into_iter().map(Command::Task).collect();
        Ok(self.proposer.propose(self.proposer.sender(), &commands).await?)
    }
}

#[tonic::async_trait]
impl v1::dead_letters_server::DeadLetters for DeadLettersService {
    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let ListDeadLettersRequest { kind, page_size, page_token, consistency } = request.into_inner();
        let (kind, after) = (convert::filter_name("kind", kind)?, cursor(&page_token)?);
        let size = if page_size == 0 { DEFAULT_PAGE } else { (page_size as usize).min(MAX_PAGE) };
        self.state.ready_to_read(consistency).await?;
        let (found, next, total, now) = self.state.look(|fleet| {
            let (found, next) = fleet.dead_letters(kind.as_deref(), after, size);
            let found: Vec<_> = found.into_iter().cloned().collect();
            (found, next, fleet.dead_letter_count() as u64, fleet.now())
        });
        let parts = Parts { attempts: true, ..Parts::default() };
        let told = found.iter().map(|task| (task.dead_cursor(), convert::task(task, parts, now)));
        let (tasks, cut) = paging::fitting(told);
        let next_page_token = cut.or(next).map(token).unwrap_or_default();
        Ok(Response::new(ListDeadLettersResponse { tasks, next_page_token, total }))
    }

    async fn retry_dead_letters(
        &self,
        request: Request<RetryDeadLettersRequest>,
    ) -> Result<Response<RetryDeadLettersResponse>, Status> {
        let by = Caller::of(request.extensions()).name();
        let letters = named(request.into_inner().letters)?;
        let retry = |(task, epoch): &(TaskId, Option<u32>)| {
            let (task, epoch, seed) = (*task, *epoch, self.platform.random.next_u64());
            TaskCommand::RetryDead(RetryDead { task, epoch, seed, by: by.clone() })
        };
        let replies = self.propose(letters.iter().map(retry).collect()).await?;
        let results = letters.iter().zip(&replies).map(|((id, _), reply)| retried(*id, reply)).collect();
        Ok(Response::new(RetryDeadLettersResponse { results }))
    }

    async fn drop_dead_letters(
        &self,
        request: Request<DropDeadLettersRequest>,
    ) -> Result<Response<DropDeadLettersResponse>, Status> {
        let by = Caller::of(request.extensions()).name();
        let letters = named(request.into_inner().letters)?;
        let drop = |(task, epoch): &(TaskId, Option<u32>)| {
            TaskCommand::DropDead(DropDead { task: *task, epoch: *epoch, by: by.clone() })
        };
        let replies = self.propose(letters.iter().map(drop).collect()).await?;
        let results = letters.iter().zip(&replies).map(|((id, _), reply)| dropped(*id, reply)).collect();
        Ok(Response::new(DropDeadLettersResponse { results }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_of_a_page_is_read_as_it_was_written_and_others_are_refused() {
        assert_eq!(cursor(&token((7, u64::MAX))).expect("it is one"), Some((7, u64::MAX)));
        assert_eq!(cursor("").expect("it is the first page"), None);
        for other in ["7", "-", "7-", "x-7", "7-8-9"] {
            assert!(cursor(other).expect_err(other).message().contains("was not returned by a listing"), "{other}");
        }
    }

    #[test]
    fn a_call_names_as_many_as_it_may_and_no_more() {
        let letters = |count| vec![v1::DeadLetterRef { task_id: TaskId(1).to_string(), epoch: Some(0) }; count];
        assert_eq!(named(letters(MAX_ITEMS)).expect("as many as there may be").len(), MAX_ITEMS);
        assert_eq!(named(letters(MAX_ITEMS + 1)).expect_err("one more").code(), tonic::Code::InvalidArgument);
    }
}
