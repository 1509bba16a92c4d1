//! The time that libraries read from the operating system. During a run it is the simulated time: an HTTP library
//! forgets cancelled streams after a second and writes the time into headers, and neither may differ when a seed is run
//! again.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use nix::libc::{SYS_clock_gettime, c_int, clockid_t, syscall, timespec};

/// Nanoseconds since the Unix epoch; 0 if time is not simulated.
static SIMULATED: AtomicU64 = AtomicU64::new(0);

/// Sets the time that every clock of this process shows until it is set again.
pub fn set(since_epoch: Duration) {
    SIMULATED.store(since_epoch.as_nanos() as u64, Ordering::Relaxed);
}

/// Returns the simulated time since the Unix epoch.
pub fn now() -> Duration {
    Duration::from_nanos(SIMULATED.load(Ordering::Relaxed))
}

/// Replaces the C library's function of this name in the whole program.
///
/// # Safety
/// As for the C library's function: `time` must point to a writable `timespec`.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    const NANOS: u64 = 1_000_000_000;
    match SIMULATED.load(Ordering::Relaxed) {
        // SAFETY: the system call has the same arguments as the C function, and the caller guarantees that they are
        // valid.
        0 => unsafe { syscall(SYS_clock_gettime, clock, time) as c_int },
        now => {
            let simulated = timespec { tv_sec: (now / NANOS) as i64, tv_nsec: (now % NANOS) as i64 };
            // SAFETY: the caller guarantees that the pointer is valid.
            unsafe { time.write(simulated) };
            0
        }
    }
}
