//! The queue of answers for one stream of submissions.

use std::{collections::VecDeque, sync::Arc};

use ahash::HashMap;
use robeing_fleet::{Stamp, Task, TaskId};
use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use robeing_proto::v1::SubmitResult;
use tokio::sync::Notify;

use crate::apply::give_back_room;

/// Maximum bytes of results kept for one stream whose client does not read them. Beyond that, only the task id is
/// queued; the result is read from the state when it is sent, unless it has expired by then.
pub const MAX_KEPT_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that a result counts for besides its input, output and failure texts.
const RESULT_BYTES: usize = 1024;

/// An answer for a stream of submissions. The stream converts it into a message when it sends it.
#[derive(Clone, Debug)]
pub enum Letter {
    /// The outcome of a submission.
    Submitted(Box<SubmitResult>),
    /// The task has finished and was in this state at that time.
    Finished(Arc<Task>, Stamp),
    /// The task has ended; its result is to be read from the state.
    Ended(TaskId),
    /// The task has ended and its result has expired.
    Expired(TaskId),
}

impl From<SubmitResult> for Letter {
    fn from(result: SubmitResult) -> Self {
        Self::Submitted(Box::new(result))
    }
}

impl Letter {
    /// Whether it reports the result of a task, not the outcome of a submission.
    pub fn is_result(&self) -> bool {
        !matches!(self, Self::Submitted(_))
    }
}

/// The letters queued for one stream of submissions.
///
/// Invariant: for a tag that was [expected](ResultStream::expect), the outcome of the submission is taken before any
/// result. A result may be known first, for example when a proposal that was repeated after a change of leaders is
/// answered after its task has run. Two tokio tasks put them concurrently, so only this type can order them.
#[derive(Default)]
pub struct ResultStream {
    letters: Mutex<Letters>,
    news: Notify,
}

#[derive(Default)]
struct Letters {
    /// The letters that are ready to be taken, oldest first.
    ready: VecDeque<(u64, Letter)>,
    /// Bytes of the ready results.
    bytes: usize,
    /// For each tag whose submission is not answered yet, the results that arrived before the answer.
    early: HashMap<u64, Vec<Letter>>,
}

impl Letters {
    fn add(&mut self, tag: u64, mut letter: Letter) {
        if let Letter::Finished(task, _) = &letter {
            let bytes = self.bytes.saturating_add(result_bytes(task));
            if bytes > MAX_KEPT_BYTES {
                letter = Letter::Ended(task.id);
            } else {
                self.bytes = bytes;
            }
        }
        self.ready.push_back((tag, letter));
    }
}

/// Returns the approximate bytes that a finished task occupies while it is kept.
fn result_bytes(task: &Task) -> usize {
    let failure = task.failure.as_ref().map_or(0, |failure| failure.message.len() + failure.stderr_tail.len());
    RESULT_BYTES + task.input.len() + task.output.as_ref().map_or(0, |output| output.len()) + failure
}

impl ResultStream {
    fn letters(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds back results for this tag until its submission is answered.
    pub fn expect(&self, tag: u64) {
        self.letters().early.entry(tag).or_default();
    }

    /// Adds a letter.
    pub fn put(&self, tag: u64, letter: impl Into<Letter>) {
        let letter = letter.into();
        let mut letters = self.letters();
        if letter.is_result()
            && let Some(held_back) = letters.early.get_mut(&tag)
        {
            held_back.push(letter);
            return;
        }
        let held_back = if letter.is_result() { None } else { letters.early.remove(&tag) };
        give_back_room(&mut letters.early);
        letters.add(tag, letter);
        for letter in held_back.unwrap_or_default() {
            letters.add(tag, letter);
        }
        drop(letters);
        self.news.notify_one();
    }

    /// Returns the number of letters that are ready.
    pub fn len(&self) -> usize {
        self.letters().ready.len()
    }

    /// Takes all letters that are ready, oldest first, each with its tag.
    pub fn take(&self) -> VecDeque<(u64, Letter)> {
        let mut letters = self.letters();
        letters.bytes = 0;
        std::mem::take(&mut letters.ready)
    }

    /// Waits until there may be something to take. Cancellation-safe.
    pub async fn news(&self) {
        self.news.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_fleet::{Fleet, Outcome};

    use super::*;
    use crate::fixture::fleet_with_ended;

    fn result(fleet: &Fleet, id: TaskId) -> Letter {
        let task = fleet.task(id).cloned().expect("it has ended");
        Letter::Finished(task, fleet.now())
    }

    fn submitted() -> SubmitResult {
        SubmitResult::default()
    }

    fn finished() -> Letter {
        result(&fleet_with_ended(1, &Outcome::Succeeded(Bytes::new())), TaskId(1))
    }

    fn taken(mailbox: &ResultStream) -> Vec<(u64, &'static str)> {
        let name = |(tag, letter): (u64, Letter)| match letter {
            Letter::Submitted(_) => (tag, "submitted"),
            Letter::Finished(..) => (tag, "finished"),
            Letter::Ended(_) => (tag, "ended"),
            Letter::Expired(_) => (tag, "expired"),
        };
        mailbox.take().into_iter().map(name).collect()
    }

    #[test]
    fn a_result_is_told_after_the_acceptance_whichever_comes_first() {
        for is_taken_between in [false, true] {
            let mailbox = ResultStream::default();
            mailbox.expect(1);
            mailbox.expect(2);
            mailbox.put(1, finished());
            mailbox.put(2, Letter::Expired(TaskId(2)));
            if is_taken_between {
                assert_eq!(taken(&mailbox), []);
            }
            mailbox.put(1, submitted());
            mailbox.put(2, submitted());
            mailbox.put(1, finished());
            let all = [(1, "submitted"), (1, "finished"), (2, "submitted"), (2, "expired"), (1, "finished")];
            assert_eq!(taken(&mailbox), all);
        }
    }

    #[test]
    fn a_tag_that_nobody_waits_for_holds_nothing_back() {
        let mailbox = ResultStream::default();
        mailbox.put(1, submitted());
        mailbox.expect(1);
        mailbox.put(2, finished());
        assert_eq!(taken(&mailbox), [(1, "submitted"), (2, "finished")]);
    }

    #[test]
    fn results_that_nobody_reads_are_kept_up_to_a_limit_and_then_only_noted() {
        let mailbox = ResultStream::default();
        let fleet = fleet_with_ended(6, &Outcome::Succeeded(Bytes::from(vec![0; MAX_KEPT_BYTES / 4])));
        let result = |tag: u64| result(&fleet, TaskId(u128::from(tag) + 1));
        for tag in 0..6 {
            mailbox.put(tag, result(tag));
            mailbox.put(tag, submitted());
        }
        let told = mailbox.take();
        let results: Vec<_> = told.iter().filter(|(_, told)| told.is_result()).collect();
        assert_eq!(results.iter().map(|(tag, _)| *tag).collect::<Vec<u64>>(), [0, 1, 2, 3, 4, 5], "none is lost");
        for (tag, told) in results {
            match told {
                Letter::Ended(id) => assert!(*tag >= 3 && *id == TaskId(u128::from(*tag) + 1), "{told:?}"),
                Letter::Submitted(_) | Letter::Expired(_) => panic!("{told:?}"),
                Letter::Finished(..) => assert!(*tag < 3, "three and what comes with them fit"),
            }
        }
        mailbox.put(9, result(0));
        assert_eq!(taken(&mailbox), [(9, "finished")], "there is room again");
    }
}
