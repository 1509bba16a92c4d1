//! Calls that wait for news of one thing each, such as the end of a ballot. The state machine waits for what is done
//! here, so it only passes the news on.

use std::{collections::BTreeMap, sync::Arc};

use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

struct Waited<K, T> {
    /// The newest news; `None` until there are any.
    news: BTreeMap<K, watch::Sender<Option<T>>>,
    /// The number of calls that wait.
    count: usize,
}

/// The calls at one coordinator that wait for news `T` of things that `K` names.
pub struct Waiters<K, T> {
    most: usize,
    waited: Mutex<Waited<K, T>>,
}

impl<K: Ord + Copy, T> Waiters<K, T> {
    /// Creates the waiters, of which there may be at most `most` at a time.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, waited: Mutex::new(Waited { news: BTreeMap::new(), count: 0 }) })
    }

    fn waited(&self) -> MutexGuard<'_, Waited<K, T>> {
        self.waited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait. Call it before reading the state, or news may be missed. `None`: too many wait.
    pub fn wait_for(self: &Arc<Self>, of: K) -> Option<Waiting<K, T>> {
        let mut waited = self.waited();
        if waited.count >= self.most {
            return None;
        }
        waited.count += 1;
        let news = waited.news.entry(of).or_insert_with(|| watch::Sender::new(None)).subscribe();
        drop(waited);
        Some(Waiting { waiters: Arc::clone(self), of, news: Some(news) })
    }

    /// Passes on news of one thing.
    pub fn tell(&self, of: K, news: T) {
        if let Some(waiting) = self.waited().news.get(&of) {
            waiting.send_replace(Some(news));
        }
    }

    fn forget(&self, of: K) {
        let mut waited = self.waited();
        waited.count = waited.count.saturating_sub(1);
        if waited.news.get(&of).is_some_and(|news| news.receiver_count() == 0) {
            waited.news.remove(&of);
        }
    }
}

impl<K: Ord + Copy, T: Clone> Waiters<K, T> {
    /// Passes on news of everything that is waited for.
    pub fn tell_all(&self, news: &T) {
        for waiting in self.waited().news.values() {
            waiting.send_replace(Some(news.clone()));
        }
    }
}

/// A call's wait, which ends when this is dropped.
pub struct Waiting<K: Ord + Copy, T> {
    waiters: Arc<Waiters<K, T>>,
    of: K,
    /// `None` only while this is dropped.
    news: Option<watch::Receiver<Option<T>>>,
}

impl<K: Ord + Copy, T: Clone> Waiting<K, T> {
    /// Returns the newest news since the last call, or since the wait began, once there are any. Cancellation-safe.
    pub async fn news(&mut self) -> T {
        if let Some(news) = &mut self.news
            && news.changed().await.is_ok()
        {
            let newest = news.borrow_and_update().clone();
            if let Some(newest) = newest {
                return newest;
            }
        }
        // The sender is kept while somebody waits, so this is never reached; callers have a deadline anyway.
        std::future::pending().await
    }
}

impl<K: Ord + Copy, T> Drop for Waiting<K, T> {
    fn drop(&mut self) {
        self.news = None;
        self.waiters.forget(self.of);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn all_who_wait_for_something_get_its_news_and_nothing_is_kept_of_them() {
        let waiters = Waiters::new(3);
        let [mut one, mut same, mut other] = [1, 1, 2].map(|of| waiters.wait_for(of).expect("there is room"));
        assert!(one.news().now_or_never().is_none());
        waiters.tell(1, "first");
        waiters.tell(3, "of something else");
        assert_eq!([one.news().now_or_never(), same.news().now_or_never()], [Some("first"); 2]);
        assert_eq!([one.news().now_or_never(), other.news().now_or_never()], [None; 2], "once");
        waiters.tell(1, "second");
        waiters.tell_all(&"third");
        let all = [&mut one, &mut same, &mut other].map(|waiting| waiting.news().now_or_never());
        assert_eq!(all, [Some("third"); 3], "the newest");
        let kept = || {
            let waited = waiters.waited();
            (waited.count, waited.news.len())
        };
        drop((one, other));
        assert_eq!(kept(), (1, 1));
        drop(same);
        assert_eq!(kept(), (0, 0));
    }

    #[test]
    fn so_many_wait_and_one_more_is_refused() {
        let waiters: Arc<Waiters<u32, ()>> = Waiters::new(3);
        let mut all: Vec<_> = [1, 1, 2].into_iter().map(|of| waiters.wait_for(of).expect("there is room")).collect();
        assert!(waiters.wait_for(1).is_none());
        all.pop();
        assert!(waiters.wait_for(3).is_some());
    }
}
