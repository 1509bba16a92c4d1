//! Locks with a point before them where other threads may go first, for debug builds.

use std::{
    cell::Cell,
    sync::{
        LockResult, MutexGuard, OnceLock, RwLockReadGuard, RwLockWriteGuard, TryLockError, TryLockResult,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Of so many points a disturbed thread pauses at one.
const PAUSE_PART: u64 = 64;
/// Of so many points it lets other threads go first at one.
const YIELD_PART: u64 = 4;
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(3);

thread_local! {
    /// What a model does at a point of this thread.
    static MODEL: Cell<Option<fn()>> = const { Cell::new(None) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

static SEED: OnceLock<u64> = OnceLock::new();
static THREADS: AtomicU64 = AtomicU64::new(1);

/// Other threads may go first here.
pub fn point() {
    if let Some(switch) = MODEL.get() {
        switch();
    } else if let Some(seed) = SEED.get() {
        pause(*seed);
    }
}

/// Has every thread of this process pause at some points, and so hold some locks for long. It can't be undone.
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

/// This thread's next number (xorshift64*): each has a sequence of its own.
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

/// Has the points of this thread call `switch` while `run` runs: those of a model, whose threads are all on this one.
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

/// Takes a lock. The threads of a model are on one thread of the machine, which must not wait.
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

/// [`std::sync::Mutex`].
#[derive(Default, Debug)]
pub struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// As the standard library's.
    pub const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// As the standard library's.
    ///
    /// # Errors
    /// Another thread panicked while it held the lock.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        take(|| self.0.try_lock(), || self.0.lock())
    }
}

/// [`std::sync::RwLock`].
#[derive(Default, Debug)]
pub struct RwLock<T>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// As the standard library's.
    pub const fn new(value: T) -> Self {
        Self(std::sync::RwLock::new(value))
    }

    /// As the standard library's.
    ///
    /// # Errors
    /// Another thread panicked while it held the lock for writing.
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        take(|| self.0.try_read(), || self.0.read())
    }

    /// As the standard library's, with another point once the lock is held: whoever writes may be slow.
    ///
    /// # Errors
    /// As [`RwLock::read`].
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
