//! Gives memory that is free back to the system. The allocator does so only while more is allocated and freed, and each
//! thread for itself; so what a coordinator needed for a snapshot, or under load, would stay with it while it is idle.

use std::time::{Duration, Instant};

use robeing_platform::compute;
use tokio::runtime::Handle;

/// How often memory is given back.
const EVERY: Duration = Duration::from_secs(2);
/// For how many times as long as it took nothing is given back, because it takes a look at all pages of a thread.
const PAUSE: u32 = 200;
/// A coordinator is idle if its threads were busy for at most this part of the time, all together. While it is not, what is
/// given back is soon taken again, and costs page faults.
const IDLE_PART: u32 = 10;

#[allow(unsafe_code)]
// SAFETY: this is how the allocator, which is linked statically, declares it: `void mi_collect(bool force)`.
unsafe extern "C" {
    /// Gives back what is free of this thread's memory, and of that of no thread.
    safe fn mi_collect(force: bool);
}

/// Returns for how long the threads of the runtime were busy so far, all together.
fn busy() -> Duration {
    let metrics = Handle::current().metrics();
    (0..metrics.num_workers()).map(|worker| metrics.worker_total_busy_duration(worker)).sum()
}

/// Returns whether threads were idle that were busy for so long of the time that passed.
fn is_idle(busy: Duration, passed: Duration) -> bool {
    busy <= passed / IDLE_PART
}

/// Gives back memory that is free whenever the runtime is idle, on whichever thread this runs. Runs until dropped.
pub async fn keep_giving_back() {
    let mut took = Duration::ZERO;
    loop {
        let (began, busy_before) = (Instant::now(), busy());
        tokio::time::sleep(EVERY.max(took * PAUSE)).await;
        if !is_idle(busy().saturating_sub(busy_before), began.elapsed()) {
            continue;
        }
        let started = Instant::now();
        compute(|| mi_collect(true));
        took = started.elapsed();
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, hint::black_box, thread};

    use super::*;

    /// Returns how much of this process is in memory, KiB.
    fn resident() -> u64 {
        let status = fs::read_to_string("/proc/self/status").expect("a process knows its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("and its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    #[test]
    fn threads_are_idle_up_to_a_part_of_the_time() {
        let second = Duration::from_secs(1);
        assert!(is_idle(Duration::ZERO, second) && is_idle(second / IDLE_PART, second));
        assert!(!is_idle(second / IDLE_PART + Duration::from_nanos(1), second) && !is_idle(2 * second, second));
    }

    #[test]
    fn what_a_snapshot_needed_is_given_back() {
        const KIB: u64 = 96 * 1024;
        let before = resident();
        let large = black_box(vec![1_u8; KIB as usize * 1024]);
        assert!(resident() > before + KIB / 2);
        drop(large);
        // The other tests of this process need far less.
        let deadline = Instant::now() + Duration::from_secs(30);
        while resident() > before + KIB / 2 {
            assert!(Instant::now() < deadline, "{} KiB of {KIB} are still there", resident() - before);
            mi_collect(true);
            thread::sleep(Duration::from_millis(10));
        }
    }
}
