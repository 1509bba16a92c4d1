//! Those who wait for the outcomes of letters. The state machine waits for what is done here, so it only records
//! outcomes and wakes tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use robeing_fleet::{Letter, LetterId, LetterOutcome};
use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Maximum number of letters whose outcomes are waited for at one coordinator.
pub const MAX_WAITED: usize = 65_536;
/// Maximum bytes of replies that are kept for one caller, who waits for many; further ones are noted as dropped.
pub const MAX_REPLIES_OF_CALL: usize = 4 * 1024 * 1024;

#[derive(Default)]
struct Settled {
    outcomes: Vec<(LetterId, LetterOutcome)>,
    /// Bytes of the replies of this call so far.
    bytes: usize,
}

/// One caller that waits.
#[derive(Default)]
struct Waiter {
    settled: Mutex<Settled>,
    news: Notify,
}

impl Waiter {
    fn settled(&self) -> MutexGuard<'_, Settled> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, id: LetterId, outcome: &LetterOutcome) {
        let mut settled = self.settled();
        let outcome = match outcome {
            LetterOutcome::Replied { reply } if settled.bytes + reply.len() > MAX_REPLIES_OF_CALL => {
                LetterOutcome::ReplyDropped
            }
            LetterOutcome::Replied { reply } => {
                settled.bytes += reply.len();
                outcome.clone()
            }
            other => other.clone(),
        };
        settled.outcomes.push((id, outcome));
        drop(settled);
        self.news.notify_one();
    }
}

#[derive(Default)]
struct Waited {
    by_letter: BTreeMap<LetterId, Vec<Arc<Waiter>>>,
    count: usize,
}

/// Those who wait for the outcomes of letters at one coordinator.
#[derive(Default)]
pub struct LetterWaiters {
    waited: Mutex<Waited>,
}

impl LetterWaiters {
    fn waited(&self) -> MutexGuard<'_, Waited> {
        self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait for these letters. Call it before reading the state, or an outcome may be missed. `None`: there
    /// are too many ([`MAX_WAITED`]).
    pub fn wait_for(self: &Arc<Self>, letters: BTreeSet<LetterId>) -> Option<Waiting> {
        let waiter = Arc::new(Waiter::default());
        let mut waited = self.waited();
        if waited.count + letters.len() > MAX_WAITED {
            return None;
        }
        waited.count += letters.len();
        for id in &letters {
            waited.by_letter.entry(*id).or_default().push(Arc::clone(&waiter));
        }
        drop(waited);
        Some(Waiting { waiters: Arc::clone(self), waiter, letters })
    }

    /// Notes the outcome of a letter for those who wait for it.
    pub fn settled(&self, letter: &Letter) {
        let Some(outcome) = letter.outcome() else { return };
        // They stay registered until they have taken it.
        let waiting = self.waited().by_letter.get(&letter.id).cloned();
        for waiter in waiting.unwrap_or_default() {
            waiter.note(letter.id, outcome);
        }
    }

    fn forget(&self, waiter: &Arc<Waiter>, letters: &BTreeSet<LetterId>) {
        let mut waited = self.waited();
        waited.count -= letters.len();
        for id in letters {
            if let Some(of_letter) = waited.by_letter.get_mut(id) {
                of_letter.retain(|other| !Arc::ptr_eq(other, waiter));
                if of_letter.is_empty() {
                    waited.by_letter.remove(id);
                }
            }
        }
    }
}

/// A caller's wait for letters, which ends when this is dropped.
pub struct Waiting {
    waiters: Arc<LetterWaiters>,
    waiter: Arc<Waiter>,
    letters: BTreeSet<LetterId>,
}

impl Waiting {
    /// Returns the letters that are waited for.
    pub fn letters(&self) -> &BTreeSet<LetterId> {
        &self.letters
    }

    /// Notes an outcome that was read from the state.
    pub fn found(&self, id: LetterId, outcome: &LetterOutcome) {
        self.waiter.note(id, outcome);
    }

    /// Returns the outcomes that have come up since the last call, once there is one; one letter's may come twice.
    /// Cancellation-safe.
    pub async fn outcomes(&self) -> Vec<(LetterId, LetterOutcome)> {
        loop {
            let outcomes = std::mem::take(&mut self.waiter.settled().outcomes);
            if !outcomes.is_empty() {
                return outcomes;
            }
            self.waiter.news.notified().await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiters.forget(&self.waiter, &self.letters);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt;

    use super::*;
    use crate::fixture::letter;

    fn settled(id: u128, reply: usize) -> Letter {
        let reply = Bytes::from(vec![7; reply]);
        letter(id, Some(LetterOutcome::Replied { reply }))
    }

    fn ids(range: std::ops::Range<u128>) -> BTreeSet<LetterId> {
        range.map(LetterId).collect()
    }

    #[test]
    fn an_outcome_is_told_to_all_who_wait_for_it_until_they_do_not() {
        let waiters = Arc::new(LetterWaiters::default());
        let [one, two] = [ids(1..3), ids(2..4)].map(|ids| waiters.wait_for(ids).expect("there is room"));
        let told = |waiting: &Waiting| waiting.outcomes().now_or_never().map(|told| told.len());
        assert_eq!(told(&one), None);
        waiters.settled(&letter(2, None));
        assert_eq!(told(&one), None, "it waits still");
        waiters.settled(&settled(2, 1));
        waiters.settled(&settled(3, 1));
        waiters.settled(&settled(4, 1));
        assert_eq!((told(&one), told(&two)), (Some(1), Some(2)));
        assert_eq!((told(&one), told(&two)), (None, None));
        drop(two);
        drop(one);
        let waited = waiters.waited();
        assert_eq!((waited.count, waited.by_letter.len()), (0, 0));
    }

    #[test]
    fn so_many_letters_are_waited_for_and_one_more_is_not() {
        let waiters = Arc::new(LetterWaiters::default());
        let all = waiters.wait_for(ids(0..MAX_WAITED as u128)).expect("there is room");
        assert!(waiters.wait_for(ids(0..1)).is_none());
        drop(all);
        assert!(waiters.wait_for(ids(0..1)).is_some());
    }

    #[test]
    fn replies_for_one_caller_are_kept_up_to_a_limit() {
        let waiters = Arc::new(LetterWaiters::default());
        let waiting = waiters.wait_for(ids(0..5)).expect("there is room");
        for id in 0..5 {
            waiters.settled(&settled(id, MAX_REPLIES_OF_CALL / 4));
        }
        let outcomes = waiting.outcomes().now_or_never().expect("they are settled");
        let dropped: Vec<u128> =
            outcomes.iter().filter(|(_, of)| *of == LetterOutcome::ReplyDropped).map(|(id, _)| id.0).collect();
        assert_eq!((outcomes.len(), dropped), (5, vec![4]));
    }
}
