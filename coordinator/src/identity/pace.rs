//! How fast agents from one address may enrol. Every enrolment with a valid proof is an entry of the fleet's log and a
//! record of its audit log, so whoever has one, or where enrolment is open anyone, could fill both.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use robeing_net::security::network_of;
use robeing_platform::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// How many agents may enrol from one address at once, such as those of one machine that start together. Of IPv6, all
/// addresses of a network of 64 bits count as one.
pub const AT_ONCE: u32 = 4_096;
/// How many more may enrol from the address in each second after that. Renewals don't count.
pub const PER_SECOND: u32 = 32;
/// Maximum number of addresses that are remembered; at this limit, the one that may soonest enrol as many as ever is
/// forgotten.
pub const MAX_ADDRESSES: usize = 4_096;
/// How long one enrolment counts.
const COUNTS_FOR: Duration = Duration::from_nanos(1_000_000_000 / PER_SECOND as u64);

/// The enrolments from each address at one coordinator.
#[derive(Debug, Default)]
pub struct Pace {
    /// When all enrolments from an address have ceased to count.
    forgiven: Mutex<HashMap<IpAddr, Instant>>,
}

impl Pace {
    /// Counts an enrolment from this address, unless there were too many. Those from unknown addresses are not limited.
    pub fn take(&self, peer: Option<IpAddr>, now: Instant) -> bool {
        let Some(address) = peer.map(network_of) else { return true };
        let mut forgiven = self.forgiven.lock().unwrap_or_else(PoisonError::into_inner);
        let until = forgiven.get(&address).copied().unwrap_or(now).max(now) + COUNTS_FOR;
        if until - now > COUNTS_FOR * AT_ONCE {
            return false;
        }
        if forgiven.len() >= MAX_ADDRESSES && !forgiven.contains_key(&address) {
            forgiven.retain(|_, until| *until > now);
            if forgiven.len() >= MAX_ADDRESSES
                && let Some(soonest) = forgiven.iter().min_by_key(|(_, until)| **until).map(|(address, _)| *address)
            {
                forgiven.remove(&soonest);
            }
        }
        forgiven.insert(address, until);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> Option<IpAddr> {
        Some(Ipv4Addr::from_bits(number).into())
    }

    #[test]
    fn so_many_agents_enrol_from_one_address_and_then_some_in_each_second() {
        let (pace, now) = (Pace::default(), Instant::now());
        let taken = |address, now| (0..2 * AT_ONCE).filter(|_| pace.take(address, now)).count();
        assert_eq!(taken(address(1), now), AT_ONCE as usize);
        assert_eq!(taken(address(2), now), AT_ONCE as usize, "others are not affected");
        assert_eq!(taken(address(1), now + Duration::from_secs(1)), PER_SECOND as usize);
        assert!((0..2 * AT_ONCE).all(|_| pace.take(None, now)));
    }

    #[test]
    fn so_many_addresses_are_remembered_and_the_one_that_counts_least_is_forgotten_first() {
        let (pace, now) = (Pace::default(), Instant::now());
        while pace.take(address(0), now) {}
        for number in 1..2 * MAX_ADDRESSES as u32 {
            assert!(pace.take(address(number), now));
        }
        assert_eq!(pace.forgiven.lock().expect("nobody panicked").len(), MAX_ADDRESSES);
        assert!(!pace.take(address(0), now), "it has enrolled the most");
    }
}
