//! Follows an attempt at whichever coordinator leads. When that changes, it goes on at the next leader, from the line
//! after the last one.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream::BoxStream};
use robeing_fleet::TaskRun;
use robeing_net::limited;
use robeing_proto::internal::v1::{self as internal, logs_client::LogsClient};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use crate::{
    leader::role::RaftRole,
    logs::here::{ANSWER_WITHIN, LeaderLogs, is_last},
    peers::Peers,
};

/// How long a leader has to begin its answer.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// How long the lines of an attempt that is only looked at, and not followed, are tried to be had.
const FOUND_WITHIN: Duration = Duration::from_secs(6);
/// Pause before a leader is asked again.
const AGAIN: Duration = Duration::from_millis(200);

type Logs = BoxStream<'static, Result<internal::AttemptLog, Status>>;

/// Follows attempts at the leader. Cheap to clone.
#[derive(Clone)]
pub struct Source {
    /// The leader's part, if this coordinator leads.
    pub here: LeaderLogs,
    pub peers: Arc<Peers>,
}

impl Source {
    /// Streams what is new of an attempt from a line on. The stream ends after a message that [`is_last`].
    pub fn stream(
        &self,
        run: TaskRun,
        mut from: u64,
        follow: bool,
    ) -> impl Stream<Item = internal::AttemptLog> + Send + use<> {
        let source = self.clone();
        async_stream::stream! {
            let until = Instant::now() + FOUND_WITHIN;
            loop {
                let mut roles = source.here.standing.roles();
                roles.mark_unchanged();
                let mut logs = match source.open(&run, from, follow).await {
                    Ok(logs) => logs,
                    Err(status) => futures::stream::iter([Err(status)]).boxed(),
                };
                loop {
                    let next = tokio::select! {
                        next = logs.next() => next,
                        // Another coordinator may lead.
                        _ = roles.changed() => None,
                    };
                    let log = match next {
                        Some(Ok(log)) => log,
                        Some(Err(status)) if is_final(&status) => {
                            yield missing(&run, from, &status);
                            return;
                        }
                        Some(Err(_)) | None => break,
                    };
                    if follow && !log.missing.is_empty() && source.is_current(&run) {
                        // The agent may not have got the attempt yet.
                        break;
                    }
                    from = from.max(log.first + log.lines.len() as u64);
                    let is_last = is_last(&log, follow);
                    yield log;
                    if is_last {
                        return;
                    }
                }
                if !follow && Instant::now() >= until {
                    yield missing(&run, from, &Status::unavailable("no coordinator leads that could ask the agent"));
                    return;
                }
                sleep(AGAIN).await;
            }
        }
    }

    async fn open(&self, run: &TaskRun, from: u64, follow: bool) -> Result<Logs, Status> {
        let (task_id, attempt) = (run.task.to_string(), run.attempt);
        let request = internal::FollowHereRequest { task_id, attempt, from, follow };
        match self.here.standing.role() {
            RaftRole::Leading { .. } => self.here.follow(request).await,
            RaftRole::Following { peer, .. } => {
                let unreachable = || Status::unavailable(format!("the leader's address {} is none", peer.address));
                let channel = self.peers.channel(&peer.address).ok_or_else(unreachable)?;
                let mut client = limited!(LogsClient::new(channel));
                let opened = timeout(OPEN_WITHIN, client.follow_here(request)).await;
                let opened = opened.map_err(|_| Status::unavailable("the leader does not answer"))?;
                Ok(opened?.into_inner().boxed())
            }
            RaftRole::Leaderless => Err(Status::unavailable("no coordinator leads")),
        }
    }

    /// Returns whether an attempt has not ended, as far as is known here.
    fn is_current(&self, run: &TaskRun) -> bool {
        self.here.state.look(|fleet| {
            let current = fleet.task(run.task).and_then(|task| task.current());
            current.is_some_and(|attempt| attempt.number == run.attempt)
        })
    }
}

/// Returns whether it does not help to ask again.
fn is_final(status: &Status) -> bool {
    use Code::{InvalidArgument, NotFound, ResourceExhausted, Unimplemented};
    matches!(status.code(), NotFound | ResourceExhausted | InvalidArgument | Unimplemented)
}

fn missing(run: &TaskRun, first: u64, status: &Status) -> internal::AttemptLog {
    let (task_id, attempt) = (run.task.to_string(), run.attempt);
    let missing = match status.code() {
        Code::Unimplemented => "the leader runs an earlier version, which has no lines".to_owned(),
        _ => status.message().to_owned(),
    };
    internal::AttemptLog { task_id, attempt, first, missing, ..Default::default() }
}

const _: () = assert!(FOUND_WITHIN.as_secs() > OPEN_WITHIN.as_secs() + ANSWER_WITHIN.as_secs());
