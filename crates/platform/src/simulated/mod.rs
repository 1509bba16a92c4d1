//! An in-memory disk and network, a wall clock that can be wrong, and a seeded random number generator, for tests and
//! the simulator. The disk fails like a real one: a crash keeps synced data, and of unsynced data any subset of
//! sectors, as its seed determines. The same seeds and the same calls give the same disk.

mod clock;
mod disk;
mod file;
mod host;
mod memory;
mod state;

use std::sync::Mutex;

pub use self::{clock::WrongClock, disk::SimulatedDisk, host::HostNetwork, memory::MemoryNetwork, state::Latency};
use super::Random;

/// Size of a sector, in bytes: a torn write keeps or loses whole sectors.
pub const SECTOR: usize = 512;

/// SplitMix64: a small generator of good quality whose whole state is its seed.
#[derive(Clone, Debug)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number uniformly distributed below `bound`, which must not be 0. The bias is far below what a test
    /// could detect.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn coin(&mut self) -> bool {
        self.next() >> 63 == 0
    }
}

/// Random numbers determined by a seed. Not for secrets.
pub struct SeededRandom(Mutex<SplitMix>);

impl SeededRandom {
    /// Creates the generator for this seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(SplitMix(seed)))
    }
}

impl Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next()
    }
}

#[cfg(test)]
mod tests;
