//! The mailboxes that agents have opened at one coordinator.

use std::{collections::BTreeMap, sync::Arc};

use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use robeing_proto::v1;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Maximum number of mailboxes that are open at one coordinator.
pub const MAX_MAILBOXES: usize = 20_000;
/// Maximum number of calls that read the inbox of one agent at once.
pub const MAX_INBOX_CALLS: usize = 16;

/// An agent's answer to a call that reads its inbox: a page, or why there is none.
pub type InboxAnswer = Result<v1::ReadInboxResponse, String>;

/// A call that reads an inbox.
pub struct InboxCall {
    /// What is to be read.
    pub request: v1::ReadInboxRequest,
    /// Gets the answer; dropped if the mailbox is closed before.
    pub answer: oneshot::Sender<InboxAnswer>,
}

/// A mailbox that is open.
pub struct OpenMailbox {
    /// The name of the agent.
    pub agent: Arc<str>,
    /// Wakes the task that serves it: a letter was posted or settled, or the agent has enrolled or was barred.
    pub news: Notify,
    /// Cancelled when the agent has opened its mailbox anew.
    pub replaced: CancellationToken,
    /// Calls that read the agent's inbox.
    pub calls: mpsc::Sender<InboxCall>,
}

/// The mailboxes that agents have opened at one coordinator. An agent has one: that which was opened last.
#[derive(Default)]
pub struct Mailboxes {
    open: Arc<Mutex<Open>>,
}

type Open = BTreeMap<Arc<str>, Arc<OpenMailbox>>;

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mailbox that is closed when this is dropped.
pub struct Attended {
    /// The mailbox.
    pub mailbox: Arc<OpenMailbox>,
    /// The calls that read the agent's inbox.
    pub calls: mpsc::Receiver<InboxCall>,
    open: Arc<Mutex<Open>>,
}

impl Drop for Attended {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        if open.get(&self.mailbox.agent).is_some_and(|other| Arc::ptr_eq(other, &self.mailbox)) {
            open.remove(&self.mailbox.agent);
        }
    }
}

impl Mailboxes {
    /// Opens the mailbox of an agent. An earlier one of it is replaced. `None`: too many are open ([`MAX_MAILBOXES`]).
    pub fn open(&self, agent: &str) -> Option<Attended> {
        let agent: Arc<str> = agent.into();
        let (calls, receiver) = mpsc::channel(MAX_INBOX_CALLS);
        let mailbox =
            OpenMailbox { agent: Arc::clone(&agent), news: Notify::new(), replaced: CancellationToken::new(), calls };
        let mailbox = Arc::new(mailbox);
        let mut open = lock(&self.open);
        if open.len() >= MAX_MAILBOXES && !open.contains_key(&agent) {
            return None;
        }
        let earlier = open.insert(agent, Arc::clone(&mailbox));
        drop(open);
        if let Some(earlier) = earlier {
            earlier.replaced.cancel();
        }
        Some(Attended { mailbox, calls: receiver, open: Arc::clone(&self.open) })
    }

    /// Returns the mailbox of an agent, if it is open here.
    pub fn get(&self, agent: &str) -> Option<Arc<OpenMailbox>> {
        lock(&self.open).get(agent).cloned()
    }

    /// Returns the number of mailboxes that are open here.
    pub fn len(&self) -> usize {
        lock(&self.open).len()
    }

    /// Wakes the task that serves the mailbox of an agent, if it is open here.
    pub fn wake(&self, agent: &str) {
        if let Some(mailbox) = lock(&self.open).get(agent) {
            mailbox.news.notify_one();
        }
    }

    /// Wakes the tasks of all mailboxes: the whole state was replaced.
    pub fn wake_all(&self) {
        lock(&self.open).values().for_each(|mailbox| mailbox.news.notify_one());
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_mailbox_that_was_opened_last_is_the_agents() {
        let mailboxes = Mailboxes::default();
        let first = mailboxes.open("a").expect("there is room");
        let second = mailboxes.open("a").expect("there is room");
        assert!(first.mailbox.replaced.is_cancelled() && !second.mailbox.replaced.is_cancelled());
        drop(first);
        mailboxes.wake("a");
        assert!(second.mailbox.news.notified().now_or_never().is_some(), "the earlier one takes nothing with it");
        drop(second);
        assert!(mailboxes.get("a").is_none());
    }

    #[test]
    fn so_many_mailboxes_are_open_and_one_more_is_refused_unless_it_replaces_another() {
        let mailboxes = Mailboxes::default();
        let open: Vec<Attended> = (0..MAX_MAILBOXES).filter_map(|n| mailboxes.open(&n.to_string())).collect();
        assert_eq!(open.len(), MAX_MAILBOXES);
        assert!(mailboxes.open("another").is_none());
        assert!(mailboxes.open("7").is_some());
    }
}
