//! Gives memory that is free back to the system. The allocator does so only while more is allocated and freed, and each
//! thread for itself; so what a coordinator needed for a snapshot, or under load, would stay with it while it is idle.

use std::time::{Duration, Instant};

use robeing_platform::compute;

/// How often memory is given back.
const EVERY: Duration = Duration::from_secs(2);
/// For how many times as long as it took nothing is given back, because it takes a look at all pages of a thread.
const PAUSE: u32 = 200;

#[allow(unsafe_code)]
// SAFETY: this is how the allocator, which is linked statically, declares it: `void mi_collect(bool force)`.
unsafe extern "C" {
    /// Gives back what is free of this thread's memory, and of that of no thread.
    safe fn mi_collect(force: bool);
}

/// Periodically gives back memory that is free, on whichever thread this runs. Runs until dropped.
pub async fn keep_giving_back() {
    let mut took = Duration::ZERO;
    loop {
        tokio::time::sleep(EVERY.max(took * PAUSE)).await;
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
