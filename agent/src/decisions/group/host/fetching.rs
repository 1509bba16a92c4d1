//! Gets decisions that are missing on the disk from other members.

use std::{future, sync::Arc};

use robeing_bft::{certificate::Decision, crypto::Ed25519, wire::Wire};
use robeing_groups::{
    Group,
    exchange::{self, Ask, MAX_PAGE, Page},
};
use robeing_votes::Base64;
use tokio::{task::spawn_blocking, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::Host;
use crate::decisions::group::{limits::FETCH_PAUSE, post::Post};

impl Host {
    /// Skips decisions that no other member has any more.
    pub(super) fn pass_over(&mut self, decisions: &[Decision]) {
        let (wanted, executed) = (self.complete + 1, self.replica.executed().0);
        let got = decisions.iter().map(|decision| decision.seq().0).filter(|number| *number <= executed);
        let others = self.group.names().count().saturating_sub(1);
        if let Some(next) = self.missing.answered(wanted, got, others) {
            warn!(group = self.group.name(), from = wanted, to = next - 1, "no other member has decisions any more");
            self.complete = next - 1;
        }
    }

    /// Begins to get decisions that are missing on the disk, from one member after another.
    pub(super) fn fetch_missing(&mut self) {
        if self.fetching.is_some() || Instant::now() < self.next_fetch {
            return;
        }
        let executed = self.replica.executed().0;
        if self.complete >= executed {
            return;
        }
        let Some(from) = self.store.first_missing(self.complete + 1, executed) else {
            self.complete = executed;
            return;
        };
        self.complete = from - 1;
        self.next_fetch = Instant::now() + FETCH_PAUSE;
        let me = usize::from(self.replica.id().0);
        let others: Vec<&str> =
            self.group.names().enumerate().filter(|(index, _)| *index != me).map(|(_, name)| name).collect();
        let Some(other) = others.get(self.fetched_from % others.len().max(1)) else { return };
        self.fetched_from = self.fetched_from.wrapping_add(1);
        let task = fetch(Arc::clone(&self.group), Arc::clone(&self.post), (*other).to_owned(), from);
        self.fetching = Some(AbortOnDropHandle::new(tokio::spawn(task)));
    }
}

/// Waits for decisions that are being fetched.
pub(super) async fn fetched(fetching: &mut Option<AbortOnDropHandle<Vec<Decision>>>) -> Vec<Decision> {
    let Some(task) = fetching else { return future::pending().await };
    let decisions = task.await.unwrap_or_default();
    *fetching = None;
    decisions
}

/// Asks a member for decisions, and returns those that are proved.
async fn fetch(group: Arc<Group>, post: Arc<dyn Post>, from_member: String, from: u64) -> Vec<Decision> {
    let ask = Ask::Log { group: group.name().to_owned(), from, limit: MAX_PAGE };
    let reply = match post.ask(&from_member, ask.to_bytes()).await {
        Ok(reply) => reply,
        Err(error) => {
            warn!(group = group.name(), error, "missing decisions of a group can't be got from a member");
            return Vec::new();
        }
    };
    // Hundreds of signatures take long to verify.
    spawn_blocking(move || proved(&group, &reply)).await.unwrap_or_default()
}

/// Returns the decisions of a page that are proved.
fn proved(group: &Group, page: &[u8]) -> Vec<Decision> {
    let Ok(page) = exchange::read::<Page>("page of decisions", page) else { return Vec::new() };
    let proved = |Base64(bytes): &Base64| {
        let decision = Decision::decoded(bytes).ok()?;
        decision.verify_in(group.epoch_of(decision.seq().0).scope(), &Ed25519).ok()?;
        Some(decision)
    };
    page.decisions.iter().take(MAX_PAGE as usize).filter_map(proved).collect()
}
