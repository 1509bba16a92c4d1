//! The machine this runs on, as far as it matters for choosing a leader.

use std::fs;

/// Tells how much of the machine is free.
pub trait Host: Send + Sync + 'static {
    /// Free share of the machine's scarcest resource, 0 to 1.
    fn free_share(&self) -> f64;

    /// This process, as the machine numbers it.
    fn pid(&self) -> u32 {
        std::process::id()
    }
}

/// The real machine, as Linux tells of it. Where it can't be told, half is free.
pub struct LinuxHost;

/// What is assumed of a machine that tells nothing.
const UNKNOWN: f64 = 0.5;

fn free_cpu() -> Option<f64> {
    let load: f64 = fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()?;
    let cpus = std::thread::available_parallelism().ok()?.get() as f64;
    Some((1.0 - load / cpus).clamp(0.0, 1.0))
}

fn free_memory() -> Option<f64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().ok()
    };
    Some((kib("MemAvailable")? / kib("MemTotal")?).clamp(0.0, 1.0))
}

impl Host for LinuxHost {
    fn free_share(&self) -> f64 {
        let cpu = free_cpu().unwrap_or(UNKNOWN);
        let memory = free_memory().unwrap_or(UNKNOWN);
        cpu.min(memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_free_share_is_a_share() {
        let share = LinuxHost.free_share();
        assert!((0.0..=1.0).contains(&share), "{share}");
    }
}
