//! Follows an attempt at the leader: what is kept of it, and what its agent sends.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use robeing_fleet::{AgentId, Fleet, Kept};
use robeing_proto::{budget::MESSAGE_BUDGET_BYTES, internal::v1 as internal};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::Status;

use crate::{
    api::convert,
    apply::observer::ApplyObserver,
    leader::{role::until_not_leading, sessions::AttemptKey, standing::Standing},
    lifetime::Leaving,
    logs::kept::Read,
    read::StateReader,
};

/// How long an agent has to send what it has of an attempt that is only looked at, and not followed.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Follows attempts while this coordinator leads. Cheap to clone.
#[derive(Clone)]
pub struct LeaderLogs {
    pub standing: Standing,
    pub state: StateReader,
    pub observer: Arc<ApplyObserver>,
    pub leaving: Leaving,
}

/// One who follows an attempt, until dropped.
struct Follower {
    observer: Arc<ApplyObserver>,
    agent: AgentId,
    key: AttemptKey,
    news: watch::Receiver<u64>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.observer.logs.end(self.key, Instant::now(), |stop| {
            self.observer.sessions.follow(self.agent, self.key, stop);
        });
    }
}

/// What was sent to one follower.
struct Sent {
    next: u64,
    progressed: u64,
    is_caught_up: bool,
}

impl Sent {
    /// Returns the message about what was read, if anything of it is new.
    fn message(&mut self, key: AttemptKey, read: Read) -> Option<internal::AttemptLog> {
        let Read { first, lines, progress, is_caught_up, has_ended, missing } = read;
        let is_new = is_caught_up && !self.is_caught_up;
        if lines.is_empty() && progress.is_none() && missing.is_empty() && !is_new && !has_ended {
            return None;
        }
        self.next = self.next.max(first + lines.len() as u64);
        self.is_caught_up = is_caught_up;
        let progress = progress.map(|(progress, times)| {
            self.progressed = times;
            progress
        });
        Some(internal::AttemptLog {
            task_id: key.0.to_string(),
            attempt: key.1,
            first,
            lines,
            progress,
            caught_up: is_caught_up,
            ended: has_ended,
            missing,
        })
    }
}

/// Returns whether nothing comes after this message.
pub fn is_last(log: &internal::AttemptLog, follow: bool) -> bool {
    log.ended || !log.missing.is_empty() || (log.caught_up && !follow)
}

/// The agent that has or had an attempt, and its name.
fn holder(fleet: &Fleet, (task, attempt): AttemptKey) -> Option<(AgentId, Arc<str>)> {
    named(fleet, fleet.holder_of(task, attempt)?)
}

fn named(fleet: &Fleet, agent: AgentId) -> Option<(AgentId, Arc<str>)> {
    Some((agent, Arc::clone(&fleet.agent(agent)?.name)))
}

/// The same for an attempt at an archived task.
async fn archived_holder(state: &StateReader, (id, attempt): AttemptKey) -> Option<(AgentId, Arc<str>)> {
    let row = state.look(|fleet| fleet.archived(id))?;
    let task = state.read(Kept::Archived(row)).await.ok()??;
    let of = task.attempts.iter().find(|of| of.number == attempt)?;
    state.look(|fleet| named(fleet, of.agent))
}

fn not_leading() -> Status {
    Status::unavailable("this coordinator does not lead, or not any more")
}

impl LeaderLogs {
    /// Follows an attempt, or returns what there is of it now.
    ///
    /// # Errors
    /// UNAVAILABLE if this coordinator does not lead; NOT_FOUND if it does not know the attempt, or not any more;
    /// RESOURCE_EXHAUSTED if too many are followed.
    pub async fn follow(
        &self,
        request: internal::FollowHereRequest,
    ) -> Result<BoxStream<'static, Result<internal::AttemptLog, Status>>, Status> {
        let internal::FollowHereRequest { task_id, attempt, from, follow } = request;
        let key = (convert::task_id(&task_id)?, attempt);
        let term = self.standing.leading().ok_or_else(not_leading)?;
        self.state.ready_to_read(0).await?;
        let unknown = || Status::not_found("the coordinators do not know this attempt, or its agent, any more");
        let holder = match self.state.look(|fleet| holder(fleet, key)) {
            None => archived_holder(&self.state, key).await,
            found => found,
        };
        let (agent, name) = holder.ok_or_else(unknown)?;
        let full = || Status::resource_exhausted("too many attempts are followed now; try again later");
        let ask = |order| self.observer.sessions.follow(agent, key, order);
        let (news, is_asked) = self.observer.logs.begin(key, agent, Instant::now(), ask).ok_or_else(full)?;
        let observer = Arc::clone(&self.observer);
        let mut follower = Follower { observer, agent, key, news };
        let within = if is_asked { ANSWER_WITHIN } else { Duration::ZERO };
        let (until, problem) = (Instant::now() + within, no_answer(&name, is_asked));
        let (mut roles, leaving) = (self.standing.roles(), self.leaving.clone());
        let stream = async_stream::stream! {
            let mut sent = Sent { next: from, progressed: 0, is_caught_up: false };
            loop {
                follower.news.mark_unchanged();
                let logs = &follower.observer.logs;
                let read = logs.read(key, sent.next, sent.progressed, MESSAGE_BUDGET_BYTES);
                if let Some(message) = sent.message(key, read) {
                    let is_last = is_last(&message, follow);
                    yield Ok(message);
                    if is_last {
                        return;
                    }
                    continue;
                }
                tokio::select! {
                    () = until_not_leading(&mut roles, term) => {
                        yield Err(not_leading());
                        return;
                    }
                    () = leaving.begins() => {
                        yield Err(Status::unavailable("this coordinator is leaving; use another"));
                        return;
                    }
                    changed = follower.news.changed() => if changed.is_err() { return },
                    () = sleep_until(until), if !follow => {
                        let (task_id, attempt) = (key.0.to_string(), key.1);
                        let missing = problem.clone();
                        yield Ok(internal::AttemptLog { task_id, attempt, first: sent.next, missing, ..Default::default() });
                        return;
                    }
                }
            }
        };
        Ok(stream.boxed())
    }
}

/// Returns why an agent has sent nothing.
fn no_answer(agent: &str, is_asked: bool) -> String {
    match is_asked {
        true => format!(
            "the agent {agent} did not send the lines within {ANSWER_WITHIN:?}; it may be of an earlier version"
        ),
        false => format!("the agent {agent} is not connected"),
    }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::TaskId;

    use super::*;

    #[test]
    fn only_what_is_new_is_sent() {
        let key = (TaskId(1), 1);
        let mut sent = Sent { next: 0, progressed: 0, is_caught_up: false };
        assert_eq!(sent.message(key, Read::default()), None);
        let progress = Some((internal::Progress::default(), 3));
        let told = sent.message(key, Read { progress, is_caught_up: true, ..Read::default() }).expect("it is new");
        assert!(told.caught_up && told.progress.is_some() && is_last(&told, false) && !is_last(&told, true));
        assert_eq!(sent.progressed, 3);
        assert_eq!(sent.message(key, Read { is_caught_up: true, ..Read::default() }), None);
        let ended = sent.message(key, Read { has_ended: true, is_caught_up: true, ..Read::default() });
        assert!(is_last(&ended.expect("it is new"), true));
    }
}
