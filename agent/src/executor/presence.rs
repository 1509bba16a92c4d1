//! Whether an executor can start attempts now. Once it finds that it can't, through no fault of a task, the agent stays
//! out of the fleet until a check succeeds. This module knows only timers and results, not what is checked.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

/// The pauses between retries of starting an attempt, in order; after the last one the attempt is handed back. Most
/// shortages last less than their sum.
pub(super) const TRY_AGAIN: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
];
/// The shortest and the longest absence. It doubles each time the executor fails again soon after it recovered.
const AWAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// The longest pause between two checks of whether attempts can start again.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// An executor that could start attempts for this long counts as healthy again.
const SOUND_AFTER: Duration = Duration::from_secs(120);

/// Checks whether attempts can start; the error gives the reason.
pub(super) type Look = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The presence of one executor, as described in the module.
pub(super) struct Presence {
    shared: Arc<Shared>,
    looking: Mutex<Option<AbortOnDropHandle<()>>>,
}

struct Shared {
    present: watch::Sender<bool>,
    absence: Mutex<Absence>,
    look: Look,
}

/// The history of absences.
struct Absence {
    lasts: Duration,
    ended: Option<Instant>,
}

impl Presence {
    /// Creates a presence that is present until [`Presence::lost`].
    pub(super) fn new(look: Look) -> Self {
        let absence = Mutex::new(Absence { lasts: AWAY.0, ended: None });
        let shared = Shared { present: watch::Sender::new(true), absence, look };
        Self { shared: Arc::new(shared), looking: Mutex::default() }
    }

    /// Creates a presence that is absent until the first check succeeds. It checks at once.
    pub(super) fn awaited(look: Look) -> Self {
        let presence = Self::new(look);
        presence.shared.present.send_replace(false);
        let looking = tokio::spawn(Arc::clone(&presence.shared).begin_when_sound());
        *presence.looking.lock().unwrap_or_else(PoisonError::into_inner) = Some(AbortOnDropHandle::new(looking));
        presence
    }

    /// Watches whether attempts can start.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.shared.present.subscribe()
    }

    /// Records that no attempt can start, for the reason `why`. Yields before it returns, so that the agent is already
    /// leaving the fleet when it hands the attempt back.
    pub(super) async fn lost(&self, why: &str) {
        if self.shared.present.send_if_modified(|present| std::mem::replace(present, false)) {
            tracing::warn!(why, "no task can start here: the agent leaves the fleet until one can");
            let lasts = self.shared.absence().begin(Instant::now());
            let looking = tokio::spawn(Arc::clone(&self.shared).return_when_sound(lasts, why.to_owned()));
            *self.looking.lock().unwrap_or_else(PoisonError::into_inner) = Some(AbortOnDropHandle::new(looking));
        }
        tokio::task::yield_now().await;
    }
}

impl Shared {
    async fn begin_when_sound(self: Arc<Self>) {
        match (self.look)().await {
            Ok(()) => {
                self.present.send_replace(true);
            }
            Err(why) => {
                tracing::warn!(why, "no task can start here yet: the agent joins the fleet once one can");
                self.return_when_sound(Duration::ZERO, why).await;
            }
        }
    }

    async fn return_when_sound(self: Arc<Self>, lasts: Duration, mut why: String) {
        let until = Instant::now() + lasts;
        let mut pause = AWAY.0;
        loop {
            sleep(pause).await;
            match (self.look)().await {
                Ok(()) if Instant::now() >= until => break,
                Ok(()) => pause = until - Instant::now(),
                Err(other) => {
                    if other != why {
                        tracing::warn!(why = other, "still no task can start here");
                        why = other;
                    }
                    pause = (pause * 2).min(LOOK_EVERY);
                }
            }
        }
        tracing::info!("tasks can start here again");
        self.absence().ended = Some(Instant::now());
        self.present.send_replace(true);
    }

    fn absence(&self) -> MutexGuard<'_, Absence> {
        // Two values that are each set in one step, so a panic leaves them consistent.
        self.absence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Absence {
    /// Begins an absence and returns its minimum duration.
    fn begin(&mut self, now: Instant) -> Duration {
        let was_sound = self.ended.is_none_or(|ended| now - ended >= SOUND_AFTER);
        self.lasts = if was_sound { AWAY.0 } else { (self.lasts * 2).min(AWAY.1) };
        self.lasts
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    struct Trial {
        presence: Presence,
        watch: watch::Receiver<bool>,
        is_sound: Arc<AtomicBool>,
    }

    impl Trial {
        fn new() -> Self {
            let is_sound = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&is_sound);
            let presence = Presence::new(Arc::new(move || {
                let sound = seen.load(Ordering::Relaxed);
                Box::pin(async move { if sound { Ok(()) } else { Err("still short".to_owned()) } })
            }));
            let watch = presence.watch();
            Self { presence, watch, is_sound }
        }

        /// Returns how long it is absent if every check succeeds from the start.
        async fn away(&mut self) -> Duration {
            self.is_sound.store(true, Ordering::Relaxed);
            let began = Instant::now();
            self.presence.lost("short").await;
            assert!(!*self.watch.borrow());
            self.watch.wait_for(|present| *present).await.expect("it looks");
            began.elapsed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_away_until_a_look_says_that_all_is_well() {
        let mut trial = Trial::new();
        assert!(*trial.watch.borrow());
        trial.presence.lost("short").await;
        trial.presence.lost("short").await;
        sleep(Duration::from_secs(3600)).await;
        assert!(!*trial.watch.borrow(), "nothing is well yet");
        trial.is_sound.store(true, Ordering::Relaxed);
        let began = Instant::now();
        trial.watch.wait_for(|present| *present).await.expect("it looks");
        assert!(began.elapsed() <= LOOK_EVERY);
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_again_and_again_stays_away_longer_and_longer() {
        let mut trial = Trial::new();
        let mut last = Duration::ZERO;
        for _ in 0..7 {
            let away = trial.away().await;
            assert!(away > last.mul_f32(1.5), "{away:?} after {last:?}");
            last = away;
        }
        for _ in 0..3 {
            let away = trial.away().await;
            assert!(away >= AWAY.1 && away < AWAY.1 * 2, "{away:?}");
        }
        sleep(SOUND_AFTER).await;
        assert!(trial.away().await < AWAY.0 * 2, "it was sound meanwhile");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_looked_at_for_an_executor_that_is_gone() {
        let Trial { presence, mut watch, is_sound } = Trial::new();
        presence.lost("short").await;
        drop(presence);
        is_sound.store(true, Ordering::Relaxed);
        assert!(watch.wait_for(|present| *present).await.is_err(), "nobody says anything any more");
    }
}
