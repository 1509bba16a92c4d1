//! Questions that are being asked: a caller with the same question waits for the same answer.

use std::collections::HashMap;

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};

use super::cache::Key;

/// Maximum number of different questions that are being asked or wait for their turn.
pub const MAX_FLIGHTS: usize = 1_024;

/// There are too many questions.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany;

/// Questions that are being asked, each with the future of its answer. A question of which nobody waits for the answer
/// any more is dropped.
pub struct Flights<T: Clone> {
    flights: Mutex<HashMap<Key, WeakShared<BoxFuture<'static, T>>>>,
}

impl<T: Clone> Default for Flights<T> {
    fn default() -> Self {
        Self { flights: Mutex::new(HashMap::new()) }
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    fn flights(&self) -> MutexGuard<'_, HashMap<Key, WeakShared<BoxFuture<'static, T>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the future answer of the question with this key, which `ask` asks if it is not being asked already.
    ///
    /// # Errors
    /// If too many are.
    pub fn join(
        &self,
        key: Key,
        ask: impl FnOnce() -> BoxFuture<'static, T>,
    ) -> Result<Shared<BoxFuture<'static, T>>, TooMany> {
        let mut flights = self.flights();
        // One that is answered must not be joined: a new caller needs an answer of now.
        let current = flights.get(&key).and_then(WeakShared::upgrade).filter(|flight| flight.peek().is_none());
        if let Some(flight) = current {
            return Ok(flight);
        }
        if flights.len() >= MAX_FLIGHTS {
            flights.retain(|_, flight| flight.upgrade().is_some_and(|flight| flight.peek().is_none()));
            if flights.len() >= MAX_FLIGHTS {
                return Err(TooMany);
            }
        }
        let flight = ask().shared();
        if let Some(weak) = flight.downgrade() {
            flights.insert(key, weak);
        }
        Ok(flight)
    }

    /// Forgets a question that is answered.
    pub fn landed(&self, key: &Key) {
        self.flights().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use futures::future::{pending, ready};

    use super::*;

    fn key(n: usize) -> Key {
        let mut key = Key::default();
        key[..8].copy_from_slice(&n.to_le_bytes());
        key
    }

    #[tokio::test]
    async fn who_asks_what_is_being_asked_waits_for_the_same_answer() {
        let flights = Flights::default();
        let (answer, answered) = tokio::sync::oneshot::channel();
        let first = flights.join(key(1), || async { answered.await.unwrap() }.boxed()).unwrap();
        let second = flights.join(key(1), || unreachable!("it is being asked")).unwrap();
        let other = flights.join(key(2), || ready(2).boxed()).unwrap();
        answer.send(1).unwrap();
        assert_eq!((first.await, second.await, other.await), (1, 1, 2));
        let next = flights.join(key(1), || ready(3).boxed()).unwrap();
        assert_eq!(next.await, 3, "an old answer is none");
    }

    #[test]
    fn questions_are_bounded_and_those_that_nobody_waits_for_do_not_count() {
        let flights = Flights::<u32>::default();
        let mut waiting: Vec<_> =
            (0..MAX_FLIGHTS).map(|n| flights.join(key(n), || pending().boxed()).unwrap()).collect();
        assert!(flights.join(key(MAX_FLIGHTS), || unreachable!("there is no room")).is_err());
        assert!(flights.join(key(0), || unreachable!("it is being asked")).is_ok());
        waiting.pop();
        waiting.push(flights.join(key(MAX_FLIGHTS), || pending().boxed()).unwrap());
        assert!(flights.join(key(MAX_FLIGHTS + 1), || unreachable!("there is no room")).is_err());
        flights.landed(&key(0));
        assert!(flights.join(key(MAX_FLIGHTS + 1), || pending().boxed()).is_ok());
    }
}
