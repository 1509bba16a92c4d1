//! The time that libraries read from the operating system. Within a run it is the simulated one: an HTTP library forgets
//! cancelled streams after a second of it, and writes it into headers, and neither may differ when a seed is run again.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use nix::libc::{SYS_clock_gettime, c_int, clockid_t, syscall, timespec};

/// Nanoseconds since the Unix epoch; 0: not simulated.
static SIMULATED: AtomicU64 = AtomicU64::new(0);

/// From now on, and until it is set again, every clock of this process says this.
pub fn set(since_epoch: Duration) {
    SIMULATED.store(since_epoch.as_nanos() as u64, Ordering::Relaxed);
}

/// The simulated time since the Unix epoch.
pub fn now() -> Duration {
    Duration::from_nanos(SIMULATED.load(Ordering::Relaxed))
}

/// Takes the place of the C library's function of this name in the whole program.
///
/// # Safety
/// As with the C library's: `time` points to a `timespec` that may be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    const NANOS: u64 = 1_000_000_000;
    match SIMULATED.load(Ordering::Relaxed) {
        // SAFETY: the system call has the C function's arguments, and the caller vouches for them.
        0 => unsafe { syscall(SYS_clock_gettime, clock, time) as c_int },
        now => {
            let simulated = timespec { tv_sec: (now / NANOS) as i64, tv_nsec: (now % NANOS) as i64 };
            // SAFETY: the caller vouches for the pointer.
            unsafe { time.write(simulated) };
            0
        }
    }
}
