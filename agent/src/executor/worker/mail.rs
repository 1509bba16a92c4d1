//! The messages between attached processes and other agents. This module knows the processes and their channels; who
//! sends and receives on the other side is passed in.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use async_trait::async_trait;
use robeing_proto::worker::v1::{
    Message, MessageOutcome, MessageRefused, SendCode, SendMessage, SendOutcome, ToProcess, message_outcome::Outcome,
    to_process,
};
use tokio::sync::{mpsc, oneshot, watch};

/// Maximum number of messages that a process sends and that are not answered.
pub const MAX_SENDING: usize = 64;

/// Sends the messages of attached processes to other agents.
#[async_trait]
pub trait Post: Send + Sync + 'static {
    /// Sends a message, and returns what became of it.
    async fn send(&self, message: SendMessage) -> SendOutcome;
}

/// The messages between attached processes and other agents.
pub struct WorkerMail {
    readers: Mutex<BTreeMap<u64, Reader>>,
    /// The number of processes that handle messages.
    present: watch::Sender<usize>,
    post: OnceLock<Arc<dyn Post>>,
}

/// A process that handles messages.
struct Reader {
    outgoing: mpsc::Sender<ToProcess>,
    /// Messages that it has not answered.
    waiting: BTreeMap<String, oneshot::Sender<Option<Outcome>>>,
}

/// Who gets a message.
enum Assigned {
    /// This process, which answers here.
    To(u64, mpsc::Sender<ToProcess>, oneshot::Receiver<Option<Outcome>>),
    /// There is no process.
    Nobody,
    /// Each process has a message of another sender with the same id, by which alone it would answer.
    SameId,
}

/// A message that a process has, until dropped.
struct Held<'a> {
    mail: &'a WorkerMail,
    process: u64,
    id: &'a str,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(reader) = self.mail.lock().get_mut(&self.process) {
            reader.waiting.remove(self.id);
        }
    }
}

impl WorkerMail {
    pub(super) fn new() -> Self {
        Self { readers: Mutex::default(), present: watch::Sender::new(0), post: OnceLock::new() }
    }

    /// Sets what sends the messages of processes; until then they are `AWAY`. A second call changes nothing.
    pub fn set_post(&self, post: Arc<dyn Post>) {
        let _ = self.post.set(post);
    }

    /// Watches how many attached processes handle messages.
    pub fn readers(&self) -> watch::Receiver<usize> {
        self.present.subscribe()
    }

    /// Passes a message to the process that has the fewest, and waits for its answer; `None`: it answered without an
    /// outcome. Waits while there is no process; if one is gone before it answers, another gets the message, as
    /// `resent`. If the future is dropped, a later answer is ignored. Refuses a message with an id that each process has
    /// from another sender already.
    pub async fn deliver(&self, mut message: Message) -> Option<Outcome> {
        let mut present = self.readers();
        let id = message.id.clone();
        loop {
            // The sender lives as long as this value.
            let _ = present.wait_for(|readers| *readers > 0).await;
            let (process, outgoing, answer) = match self.assign(&id) {
                Assigned::To(process, outgoing, answer) => (process, outgoing, answer),
                Assigned::Nobody => continue,
                Assigned::SameId => {
                    let reason = format!("a message with the id {id} is being handled; give each message its own id");
                    return Some(Outcome::Refused(MessageRefused { reason }));
                }
            };
            let _held = Held { mail: self, process, id: &id };
            let passed = ToProcess { message: Some(to_process::Message::Incoming(message.clone())) };
            if outgoing.send(passed).await.is_err() {
                // The process reads nothing any more, so it must not be chosen again.
                self.leave(process);
                continue;
            }
            if let Ok(outcome) = answer.await {
                return outcome;
            }
            message.resent = true;
        }
    }

    /// Chooses a process for a message.
    fn assign(&self, id: &str) -> Assigned {
        let mut readers = self.lock();
        if readers.is_empty() {
            return Assigned::Nobody;
        }
        let without = readers.iter_mut().filter(|(_, reader)| !reader.waiting.contains_key(id));
        let Some((process, reader)) = without.min_by_key(|(_, reader)| reader.waiting.len()) else {
            return Assigned::SameId;
        };
        let (answered, answer) = oneshot::channel();
        reader.waiting.insert(id.to_owned(), answered);
        Assigned::To(*process, reader.outgoing.clone(), answer)
    }

    /// Adds a process that handles messages.
    pub(super) fn join(&self, process: u64, outgoing: mpsc::Sender<ToProcess>) {
        let mut readers = self.lock();
        readers.insert(process, Reader { outgoing, waiting: BTreeMap::new() });
        self.present.send_replace(readers.len());
    }

    /// Removes a process. The messages that it has not answered go to another.
    pub(super) fn leave(&self, process: u64) {
        let mut readers = self.lock();
        if readers.remove(&process).is_some() {
            self.present.send_replace(readers.len());
        }
    }

    /// Records a process's answer. One to a message that it does not have is ignored.
    pub(super) fn answered(&self, process: u64, MessageOutcome { id, outcome }: MessageOutcome) {
        let waiting = self.lock().get_mut(&process).and_then(|reader| reader.waiting.remove(&id));
        if let Some(waiting) = waiting {
            // The delivery may have been given up.
            let _ = waiting.send(outcome);
        }
    }

    /// Sends a process's message, unless [`MAX_SENDING`] of its messages are not answered (`is_full`).
    pub(super) async fn send(&self, message: SendMessage, is_full: bool) -> SendOutcome {
        let refused =
            |code: SendCode, reason: String| SendOutcome { seq: message.seq, code: code.into(), reason, reply: None };
        if is_full {
            let reason = format!("{MAX_SENDING} messages of this process are being sent; wait for their outcomes");
            return refused(SendCode::Overloaded, reason);
        }
        match self.post.get() {
            Some(post) => post.send(message).await,
            None => refused(SendCode::Away, "this agent sends no messages; it may be starting".to_owned()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Reader>> {
        // No operation under the lock leaves the state inconsistent.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use robeing_fleet::NOTICE_KIND;
    use robeing_proto::worker::v1::MessageAccepted;
    use tokio::time::Instant;

    use super::*;
    use crate::messaging::{
        Packet,
        handlers::{Delivery, HandlerOutcome, start},
        tests::fixture::packet,
    };

    fn message(id: &str) -> Message {
        Message { id: id.into(), ..Message::default() }
    }

    fn accepted() -> Outcome {
        Outcome::Accepted(MessageAccepted::default())
    }

    async fn next(messages: &mut mpsc::Receiver<ToProcess>) -> Message {
        match messages.recv().await.and_then(|message| message.message) {
            Some(to_process::Message::Incoming(message)) => message,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_whose_process_is_gone_goes_to_another_as_resent() {
        let mail = WorkerMail::new();
        let one = message("1");
        let deliver = mail.deliver(one);
        let processes = async {
            let (first, mut messages) = mpsc::channel(1);
            mail.join(1, first);
            assert!(!next(&mut messages).await.resent);
            mail.leave(1);
            let (second, mut messages) = mpsc::channel(1);
            mail.join(2, second);
            assert!(next(&mut messages).await.resent);
            mail.answered(1, MessageOutcome { id: "1".into(), outcome: None });
            let refused = Outcome::Refused(MessageRefused { reason: "no".into() });
            mail.answered(2, MessageOutcome { id: "1".into(), outcome: Some(refused) });
        };
        let (outcome, ()) = tokio::join!(deliver, processes);
        assert!(matches!(outcome, Some(Outcome::Refused(_))));
        assert!(mail.lock()[&2].waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_notice_of_a_ballot_waits_for_a_process_if_one_was_attached_before() {
        let mail = Arc::new(WorkerMail::new());
        let started = start(None, Some(Arc::clone(&mail))).expect("it starts");
        let delivery = |id, kind: &str| {
            let deadline = Instant::now() + Duration::from_secs(60);
            Delivery { packet: Packet { kind: kind.into(), ..packet(id) }, deadline }
        };
        let in_inbox = HandlerOutcome::Accepted { reply: None };
        // One that handles no messages is none.
        mail.leave(7);
        assert_eq!(started.handler.deliver(delivery(1, NOTICE_KIND)).await, in_inbox, "nobody was ever attached");
        let (outgoing, _messages) = mpsc::channel(1);
        mail.join(1, outgoing);
        mail.leave(1);
        assert_eq!(started.handler.deliver(delivery(2, "note")).await, in_inbox, "it is no notice");
        let mut waiting = started.handler.deliver(delivery(3, NOTICE_KIND));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        let (outgoing, mut messages) = mpsc::channel(1);
        mail.join(2, outgoing);
        let reply = Some(Bytes::from_static(b"{}"));
        let answering = async {
            let id = next(&mut messages).await.id;
            let accepted = Outcome::Accepted(MessageAccepted { reply: reply.clone() });
            mail.answered(2, MessageOutcome { id, outcome: Some(accepted) });
        };
        let (outcome, ()) = tokio::join!(waiting, answering);
        assert_eq!(outcome, HandlerOutcome::Accepted { reply });
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_spread_and_a_given_up_one_is_forgotten() {
        let mail = WorkerMail::new();
        let ((first, _one), (second, _two)) = (mpsc::channel(8), mpsc::channel(8));
        mail.join(1, first);
        mail.join(2, second);
        let mut deliveries: Vec<_> = ["a", "b"].map(|id| Box::pin(mail.deliver(message(id)))).into();
        for delivery in &mut deliveries {
            assert!(futures::poll!(delivery.as_mut()).is_pending());
        }
        assert!(mail.lock().values().all(|reader| reader.waiting.len() == 1));
        drop(deliveries);
        assert!(mail.lock().values().all(|reader| reader.waiting.is_empty()));
        mail.answered(1, MessageOutcome { id: "a".into(), outcome: Some(accepted()) });
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_takes_no_answer_of_another_with_the_same_id() {
        let mail = WorkerMail::new();
        let ((first, mut one), (second, _two)) = (mpsc::channel(8), mpsc::channel(8));
        mail.join(1, first);
        let mut deliver = Box::pin(mail.deliver(message("a")));
        assert!(futures::poll!(deliver.as_mut()).is_pending());
        assert!(matches!(mail.deliver(message("a")).await, Some(Outcome::Refused(_))));
        mail.join(2, second);
        let mut other = Box::pin(mail.deliver(message("a")));
        assert!(futures::poll!(other.as_mut()).is_pending(), "another process has none with this id");
        assert!(!next(&mut one).await.resent && one.try_recv().is_err(), "the first one is sent once");
        mail.answered(1, MessageOutcome { id: "a".into(), outcome: Some(accepted()) });
        assert!(matches!(deliver.await, Some(Outcome::Accepted(_))));
    }

    #[tokio::test]
    async fn a_process_sends_only_so_many_messages_at_once() {
        let mail = WorkerMail::new();
        let send = |is_full| mail.send(SendMessage { seq: 3, ..SendMessage::default() }, is_full);
        assert_eq!(send(false).await.code(), SendCode::Away, "nothing sends messages yet");
        let refused = send(true).await;
        assert_eq!((refused.seq, refused.code()), (3, SendCode::Overloaded));
    }
}
