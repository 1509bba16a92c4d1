//! The Directory service: who is in the fleet, and where. Coordinators that follow serve it as the leader does.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use prost::Message;
use robeing_proto::{encoded::directory::directory_server, v1};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use crate::{
    apply::observer::ApplyObserver,
    directory::{Directory, MAX_WATCHERS, Next, Position, Seat},
    lifetime::Leaving,
    policies::PolicyBook,
    read::StateReader,
};

/// How long a new watch waits for this coordinator to know its fleet, and to have applied what the watcher has seen at
/// another one.
const START_WITHIN: Duration = Duration::from_secs(10);

/// What watchers are told when the coordinator leaves.
const LEAVES: &str = "this coordinator is leaving; resume at another from the last revision";

/// The Directory service. Cheap to clone.
#[derive(Clone)]
pub struct DirectoryService {
    pub directory: Directory,
    pub observer: Arc<ApplyObserver>,
    /// The policies that agents evaluate.
    pub policies: PolicyBook,
    pub state: StateReader,
    pub leaving: Leaving,
}

#[tonic::async_trait]
impl directory_server::Directory for DirectoryService {
    type WatchAgentsStream = BoxStream<'static, Result<Bytes, Status>>;

    async fn watch_agents(
        &self,
        request: Request<v1::WatchAgentsRequest>,
    ) -> Result<Response<Self::WatchAgentsStream>, Status> {
        Ok(Response::new(self.watch(request.into_inner().from_revision)?.boxed()))
    }
}

/// Encodes a message with the policies alone.
fn of_policies(policies: &v1::Policies) -> Bytes {
    v1::WatchAgentsResponse { policies: Some(policies.clone()), ..Default::default() }.encode_to_vec().into()
}

impl DirectoryService {
    /// Streams what has changed after the revision `from`, or everything and then changes; each message is an encoded
    /// `WatchAgentsResponse`.
    pub fn watch(&self, from: u64) -> Result<impl Stream<Item = Result<Bytes, Status>> + Send + use<>, Status> {
        let full = || {
            Status::resource_exhausted(format!(
                "this coordinator has {MAX_WATCHERS} watchers of the directory; try another one, or again later"
            ))
        };
        let Seat { mut news, permit } = self.directory.seat().ok_or_else(full)?;
        let service = self.clone();
        Ok(async_stream::stream! {
            let _permit = permit;
            let started = tokio::select! {
                () = service.leaving.begins() => Err(Status::unavailable(LEAVES)),
                started = service.start(from) => started,
            };
            let mut position = match started {
                Ok(position) => position,
                Err(status) => {
                    yield Err(status);
                    return;
                }
            };
            let mut changes = service.policies.changes();
            changes.mark_changed();
            let mut told = None;
            loop {
                // Looked up only when they have changed: there may be many watchers.
                if changes.has_changed().unwrap_or_default() {
                    changes.mark_unchanged();
                    let policies = service.policies.current();
                    if told.replace(policies.revision) != Some(policies.revision) {
                        yield Ok(of_policies(&policies));
                    }
                }
                news.mark_unchanged();
                match service.directory.next(position) {
                    Next::Message(message, then) => {
                        yield Ok(message);
                        position = then;
                    }
                    Next::Behind => position = service.directory.everything(),
                    Next::Nothing => tokio::select! {
                        status = service.ends() => {
                            yield Err(status);
                            return;
                        }
                        changed = news.changed() => if changed.is_err() { return },
                        changed = changes.changed() => match changed {
                            Ok(()) => changes.mark_changed(),
                            Err(_) => return,
                        },
                    },
                }
            }
        })
    }

    /// Waits until this coordinator no longer serves watches that wait for news, and returns why.
    async fn ends(&self) -> Status {
        tokio::select! {
            () = self.leaving.begins() => Status::unavailable(LEAVES),
            // One that is out of touch has no news, so this waits from the last of them on.
            () = self.state.until_out_of_touch() => {
                Status::unavailable("this coordinator has no contact to the others; resume at another")
            }
        }
    }

    /// Returns where a watcher begins that knows everything up to the revision `from`.
    async fn start(&self, from: u64) -> Result<Position, Status> {
        let mut complete = self.directory.complete();
        let known = async {
            loop {
                complete.mark_unchanged();
                if let Some(position) = self.directory.start(from) {
                    return position;
                }
                // Tasks raise the revision, too. The keeper finds out that they have changed nothing here.
                let mut applied = self.observer.revisions();
                // The sender lives in the observer, which `self` holds, so an error is impossible.
                let _ = applied.wait_for(|applied| *applied >= from.max(1)).await;
                self.observer.directory.wake();
                let _ = complete.changed().await;
            }
        };
        match timeout(START_WITHIN, known).await {
            Ok(position) => Ok(position),
            Err(_) if *self.directory.complete().borrow() > 0 => Ok(self.directory.everything()),
            Err(_) => Err(Status::unavailable(format!(
                "this coordinator has not learned anything of its fleet for {START_WITHIN:?}; try another one"
            ))),
        }
    }
}
