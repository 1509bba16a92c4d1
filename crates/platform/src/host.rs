//! The machine this process runs on, as far as it matters for choosing a leader and for the resource pool.

use std::{fs, path::Path};

use crate::HostLimits;

/// Reports how much of the machine is free.
pub trait Host: Send + Sync + 'static {
    /// Returns the free share of the machine's scarcest resource, 0 to 1.
    fn free_share(&self) -> f64;

    /// Returns what limits this process; no limits if they are not known.
    fn limits(&self) -> HostLimits {
        HostLimits::default()
    }

    /// Returns the process id.
    fn pid(&self) -> u32 {
        std::process::id()
    }
}

/// The real machine, read from Linux's `/proc`. A resource that cannot be read counts as half free.
pub struct LinuxHost;

/// The free share assumed for a resource that cannot be read.
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

    fn limits(&self) -> HostLimits {
        HostLimits::read(Path::new("/"))
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
