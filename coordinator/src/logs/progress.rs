//! Adds the progress of tasks to a watch of them.

use futures::{
    Stream, StreamExt,
    stream::{BoxStream, SelectAll},
};
use robeing_fleet::{Fleet, TaskId};
use robeing_proto::v1;
use tonic::Status;

use crate::{
    api::{convert, errors},
    logs::task::{TaskLogs, Wanted},
};

/// Maximum number of tasks whose progress one watch tells.
pub const MAX_PROGRESS: usize = 16;

impl TaskLogs {
    /// Adds the progress of the tasks that a watch is of to its changes, until it ends.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the watch is of no certain tasks, or of too many.
    pub fn with_progress(
        &self,
        mut changes: BoxStream<'static, Result<v1::WatchTasksResponse, Status>>,
        ids: &[String],
        from_revision: u64,
    ) -> Result<impl Stream<Item = Result<v1::WatchTasksResponse, Status>> + Send + use<>, Status> {
        if ids.is_empty() {
            return Err(Status::invalid_argument("include_progress: name the tasks by ids"));
        }
        if ids.len() > MAX_PROGRESS {
            return Err(errors::too_many("ids with include_progress", ids.len(), MAX_PROGRESS));
        }
        let ids = ids.iter().map(|id| convert::task_id(id)).collect::<Result<Vec<_>, _>>()?;
        let mut told: SelectAll<_> = ids.into_iter().filter_map(|id| self.progress_of(id)).collect();
        Ok(async_stream::stream! {
            let mut revision = from_revision;
            loop {
                tokio::select! {
                    biased;
                    changed = changes.next() => match changed {
                        Some(Ok(changed)) => {
                            revision = changed.revision;
                            yield Ok(changed);
                        }
                        Some(Err(status)) => {
                            yield Err(status);
                            return;
                        }
                        None => return,
                    },
                    Some(progress) = told.next() => {
                        let progress = vec![progress];
                        yield Ok(v1::WatchTasksResponse { revision, progress, ..Default::default() });
                    }
                }
            }
        })
    }

    /// Streams the progress of a task until it ends; `None` if it has ended, is not known, or can't be followed now.
    fn progress_of(&self, id: TaskId) -> Option<BoxStream<'static, v1::TaskProgress>> {
        let runs = |fleet: &Fleet| fleet.task(id).is_some_and(|task| !task.state.is_final());
        if !self.source.here.state.look(runs) {
            return None;
        }
        let followed = self.open(Wanted::all_of(id)).ok()?;
        let progress = followed.filter_map(move |told| {
            let told = told.ok().and_then(|told| {
                let (task_id, attempt, agent) = (id.to_string(), told.attempt, told.agent);
                Some(v1::TaskProgress { task_id, attempt, agent, progress: Some(told.progress?) })
            });
            std::future::ready(told)
        });
        Some(progress.boxed())
    }
}
