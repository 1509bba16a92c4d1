//! Locks with a scheduling point before them, at which other threads may run first. For debug builds.

use std::{
    cell::Cell,
    sync::{
        LockResult, MutexGuard, OnceLock, RwLockReadGuard, RwLockWriteGuard, TryLockError, TryLockResult,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// A disturbed thread pauses at one in this many points.
const PAUSE_PART: u64 = 64;
/// A disturbed thread yields at one in this many points.
const YIELD_PART: u64 = 4;
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(3);

thread_local! {
    /// The function that a model check calls at the points of this thread.
    static MODEL: Cell<Option<fn()>> = const { Cell::new(None) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

static SEED: OnceLock<u64> = OnceLock::new();
static THREADS: AtomicU64 = AtomicU64::new(1);

/// Marks a point at which other threads may run first.
pub fn point() {
    if let Some(switch) = MODEL.get() {
        switch();
    } else if let Some(seed) = SEED.get() {
        pause(*seed);
    }
}

/// Makes every thread of this process pause at some points, so that it holds some locks for a long time. This cannot be
/// undone.
pub fn disturb(seed: u64) {
    let _ = SEED.set(seed);
}

fn pause(seed: u64) {
    let random = next_random(seed);
    if random.is_multiple_of(PAUSE_PART) {
        let longest = LONGEST_PAUSE.as_micros() as u64;
        std::thread::sleep(Duration::from_micros((random >> 32) % longest));
    } else if random.is_multiple_of(YIELD_PART) {
        std::thread::yield_now();
    }
}

/// Returns this thread's next random number (xorshift64*). Each thread has its own sequence.
fn next_random(seed: u64) -> u64 {
    let mut state = RANDOM.get();
    if state == 0 {
        state = (seed ^ THREADS.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1;
    }
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    RANDOM.set(state);
    state.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

/// Calls `switch` at every point that this thread reaches while `run` runs: those of a model, whose threads all run on
/// this thread.
#[cfg(feature = "simulated")]
pub fn modelled<T>(switch: fn(), run: impl FnOnce() -> T) -> T {
    struct Unset;
    impl Drop for Unset {
        fn drop(&mut self) {
            MODEL.set(None);
        }
    }
    MODEL.set(Some(switch));
    let _unset = Unset;
    run()
}

/// Takes a lock. The threads of a model all run on one operating system thread, which must not block.
fn take<G>(attempt: impl Fn() -> TryLockResult<G>, wait: impl FnOnce() -> LockResult<G>) -> LockResult<G> {
    point();
    if MODEL.get().is_none() {
        return wait();
    }
    loop {
        match attempt() {
            Ok(guard) => return Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Err(poisoned),
            Err(TryLockError::WouldBlock) => point(),
        }
    }
}

/// Like [`std::sync::Mutex`], with a [`point`] before each lock.
#[derive(Default, Debug)]
pub struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// Creates a mutex.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Like the standard library's `lock`.
    ///
    /// # Errors
    /// If another thread panicked while holding the lock.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        take(|| self.0.try_lock(), || self.0.lock())
    }
}

/// Like [`std::sync::RwLock`], with a [`point`] before each lock.
#[derive(Default, Debug)]
pub struct RwLock<T>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// Creates a lock.
    pub const fn new(value: T) -> Self {
        Self(std::sync::RwLock::new(value))
    }

    /// Like the standard library's `read`.
    ///
    /// # Errors
    /// If another thread panicked while holding the lock for writing.
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        take(|| self.0.try_read(), || self.0.read())
    }

    /// Like the standard library's `write`, with another point once the lock is held, as if the writer were slow.
    ///
    /// # Errors
    /// See [`RwLock::read`].
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        let guard = take(|| self.0.try_write(), || self.0.write());
        point();
        guard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_are_disturbed_pause_at_some_points_and_each_at_others() {
        let numbers = || std::thread::spawn(|| (0..1_000).map(|_| next_random(7)).collect::<Vec<_>>());
        let (one, other) = (numbers().join().unwrap(), numbers().join().unwrap());
        assert_ne!(one, other);
        for numbers in [one, other] {
            let pauses = numbers.iter().filter(|random| random.is_multiple_of(PAUSE_PART)).count();
            assert!((1..100).contains(&pauses), "{pauses} pauses in 1,000 points");
        }
    }
}
