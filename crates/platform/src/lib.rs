//! The external dependencies of coordinators and agents: network, clock, randomness, disk and host. All other code
//! reaches them only through these traits (and `tokio::time`, whose clock the simulator drives), so that the simulator
//! can run the shipped code on a network that loses messages and a disk that loses unsynced writes.

mod atomic_file;
mod cgroup;
mod clock;
mod compute;
pub mod disk;
mod ending;
mod host;
mod names;
mod network;
mod random;
#[cfg(any(test, feature = "simulated"))]
pub mod simulated;
pub mod sync;
mod watched_file;

use std::sync::Arc;

pub use atomic_file::AtomicFile;
pub use cgroup::HostLimits;
pub use clock::{Clock, SystemClock};
pub use compute::compute;
pub use disk::{Disk, DiskFile, DiskLock, FileStamp, FileSystem, is_full};
pub use ending::Ending;
pub use host::{Host, LinuxHost};
pub use network::{ConnectInfo, Connection, Io, Listener, Network, TcpNetwork};
pub use random::{OsRandom, Random, jittered, uuid_v7};
pub use watched_file::WatchedFile;

/// All external dependencies as one value to pass around. Cheap to clone.
#[derive(Clone)]
pub struct Platform {
    /// Sockets.
    pub network: Arc<dyn Network>,
    /// Wall-clock time. Durations are measured with `tokio::time::Instant`, which is monotonic.
    pub clock: Arc<dyn Clock>,
    /// Random numbers.
    pub random: Arc<dyn Random>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// The machine this process runs on.
    pub host: Arc<dyn Host>,
}

impl Platform {
    /// The real implementations.
    pub fn real() -> Self {
        Self {
            network: Arc::new(TcpNetwork),
            clock: Arc::new(SystemClock),
            random: Arc::new(OsRandom),
            disk: Arc::new(FileSystem),
            host: Arc::new(LinuxHost),
        }
    }
}
