//! Random numbers, and what is derived from them: ids and jitter.

use std::time::Duration;

use super::Clock;

/// A source of random numbers.
pub trait Random: Send + Sync + 'static {
    /// Returns the next number, uniformly distributed over all values.
    fn next_u64(&self) -> u64;
}

/// A cryptographically strong, thread-local generator, seeded by the operating system.
pub struct OsRandom;

impl Random for OsRandom {
    fn next_u64(&self) -> u64 {
        rand::random()
    }
}

/// Returns a duration between half of `full` and `full`, so that clients that failed together do not retry at the same
/// time.
pub fn jittered(random: &dyn Random, full: Duration) -> Duration {
    let share = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    full.mul_f64(0.5 + share / 2.0)
}

/// Returns a version-7 UUID (RFC 9562, section 5.7): ordered by time, unique by its 74 random bits.
pub fn uuid_v7(clock: &dyn Clock, random: &dyn Random) -> u128 {
    let millis = u128::from(clock.unix_millis() & 0xffff_ffff_ffff);
    let noise = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
    let rand_a = (noise >> 64) & 0xfff;
    let rand_b = noise & 0x3fff_ffff_ffff_ffff;
    (millis << 80) | (0x7 << 76) | (rand_a << 64) | (0b10 << 62) | rand_b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemClock;

    #[test]
    fn a_uuid_v7_carries_its_version_and_variant() {
        let id = uuid::Uuid::from_u128(uuid_v7(&SystemClock, &OsRandom));
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
    }

    #[test]
    fn jitter_stays_between_half_and_all() {
        for _ in 0..1_000 {
            let d = jittered(&OsRandom, Duration::from_millis(100));
            assert!(d >= Duration::from_millis(50) && d <= Duration::from_millis(100), "{d:?}");
        }
    }
}
