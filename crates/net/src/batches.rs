//! Calls that carry several items. An item is sent at once if no call is under way; what is due meanwhile goes together in
//! the next one. So nothing waits for others, and the more is due, the fewer calls it takes for each item.

use std::collections::VecDeque;

use robeing_platform::sync::{Mutex, PoisonError};
use tokio::sync::{Mutex as Turns, oneshot};

/// Maximum number of items that wait for the call that is under way.
pub const MAX_WAITING: usize = 4_096;

/// Why there is no result for an item. It may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// Too many wait.
    #[error("{MAX_WAITING} items wait to be sent, the most; send this one later")]
    Full,
    /// The call that it was in was given up, or had no result for it.
    #[error("the call that this was sent with has ended without a result for it")]
    Lost,
}

/// An item, and where its result goes.
type Item<T, R> = (T, oneshot::Sender<R>);

/// Sends items in calls of several, one call after the other. A sender whose turn it is makes the call for all that wait.
pub struct Batches<T, R> {
    /// Maximum number of items in one call.
    most: usize,
    waiting: Mutex<VecDeque<Item<T, R>>>,
    /// Held while a call is under way.
    turns: Turns<()>,
}

impl<T, R> Batches<T, R> {
    /// Creates what sends at most `most` items in one call, at least 1.
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), waiting: Mutex::default(), turns: Turns::default() }
    }

    /// Sends an item with those that wait, and returns its result. `call` makes one call for several items, and returns
    /// their results in the same order. If the future is dropped while it makes a call, all items of that call are lost.
    ///
    /// # Errors
    /// [`NotSent`] if there is no result.
    pub async fn send<A>(&self, item: T, call: impl Fn(Vec<T>) -> A) -> Result<R, NotSent>
    where
        A: Future<Output = Vec<R>>,
    {
        let (result, mut settled) = oneshot::channel();
        self.add((item, result))?;
        loop {
            let turn = tokio::select! {
                biased;
                settled = &mut settled => return settled.map_err(|_| NotSent::Lost),
                turn = self.turns.lock() => turn,
            };
            let (items, results): (Vec<T>, Vec<oneshot::Sender<R>>) = self.next().into_iter().unzip();
            if items.is_empty() {
                // This one was in the call that has ended just now.
                return settled.await.map_err(|_| NotSent::Lost);
            }
            for (to, result) in results.into_iter().zip(call(items).await) {
                // Its sender may have given up.
                drop(to.send(result));
            }
            drop(turn);
        }
    }

    fn add(&self, item: Item<T, R>) -> Result<(), NotSent> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            waiting.retain(|(_, result)| !result.is_closed());
        }
        if waiting.len() >= MAX_WAITING {
            return Err(NotSent::Full);
        }
        waiting.push_back(item);
        Ok(())
    }

    /// Returns the items of the next call, without those whose senders have given up.
    fn next(&self) -> Vec<Item<T, R>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(_, result)| !result.is_closed());
        let count = waiting.len().min(self.most);
        waiting.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex as Shared},
        time::Duration,
    };

    use futures::future::join_all;
    use tokio::time::{sleep, timeout};

    use super::*;

    /// How long a call takes.
    const CALL: Duration = Duration::from_secs(1);

    /// What sends numbers, with the calls that were made.
    struct Scene {
        batches: Batches<u32, u32>,
        calls: Shared<Vec<Vec<u32>>>,
    }

    impl Scene {
        fn new(most: usize) -> Arc<Self> {
            Arc::new(Self { batches: Batches::new(most), calls: Shared::default() })
        }

        /// Sends a number, whose result is the next one.
        async fn send(&self, number: u32) -> Result<u32, NotSent> {
            let call = |numbers: Vec<u32>| async move {
                self.calls.lock().unwrap().push(numbers.clone());
                sleep(CALL).await;
                numbers.into_iter().map(|number| number + 1).collect::<Vec<u32>>()
            };
            self.batches.send(number, call).await
        }

        fn calls(&self) -> Vec<Vec<u32>> {
            self.calls.lock().unwrap().clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_sent_at_once_and_what_is_due_meanwhile_in_the_next_call() {
        let scene = Scene::new(3);
        let results = join_all((1..=6).map(|number| scene.send(number))).await;
        assert_eq!(results, (2..=7).map(Ok).collect::<Vec<_>>());
        assert_eq!(scene.calls(), [vec![1], vec![2, 3, 4], vec![5, 6]]);
        assert_eq!(scene.send(9).await, Ok(10));
        assert_eq!(scene.calls().last(), Some(&vec![9]), "nothing is left");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_any_more_is_not_sent_and_a_call_that_is_given_up_loses_its_items() {
        let scene = Scene::new(3);
        let half = CALL / 2;
        let (first, second, third) =
            tokio::join!(timeout(CALL + half, scene.send(1)), timeout(half, scene.send(2)), scene.send(3));
        assert_eq!((first.unwrap(), second.is_err(), third), (Ok(2), true, Ok(4)));
        assert_eq!(scene.calls(), [[1], [3]]);

        let scene = Scene::new(3);
        let (first, second, third) = tokio::join!(scene.send(1), timeout(CALL + half, scene.send(2)), scene.send(3));
        assert_eq!((first, second.is_err(), third), (Ok(2), true, Err(NotSent::Lost)), "the second has made the call");
        assert_eq!(scene.send(3).await, Ok(4), "the next one makes a call again");
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_without_a_result_is_lost() {
        let batches = Batches::<u32, u32>::new(3);
        assert_eq!(batches.send(1, |_| async { Vec::new() }).await, Err(NotSent::Lost));
        assert_eq!(batches.send(1, |items| async { items }).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_items_wait() {
        let scene = Scene::new(MAX_WAITING);
        let sent = join_all((0..=MAX_WAITING as u32 + 1).map(|number| scene.send(number))).await;
        let full = sent.iter().filter(|result| **result == Err(NotSent::Full)).count();
        assert_eq!((full, sent.last()), (1, Some(&Err(NotSent::Full))), "the first is under way and does not wait");
        assert_eq!(scene.calls().len(), 2);
    }
}
