//! How many connections one peer may have, so that no single peer can use up those of a listener.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use robeing_identity::{LOWEST_PRIORITY, PeerRole, SpiffeId};

use crate::MAX_CONNECTIONS;

/// Maximum number of connections without a certificate from one IP address, including those whose handshake is not
/// finished. For IPv6, all addresses of one network count together; see [`NETWORK_BITS`].
pub const MAX_ANONYMOUS_PER_ADDRESS: usize = 256;
/// The number of leading bits of an IPv6 address that count: a single machine has all addresses of such a network to
/// choose from (RFC 4291, section 2.5.1).
pub const NETWORK_BITS: u32 = 64;
/// Maximum number of connections of one member.
pub const MAX_PER_IDENTITY: usize = 64;
/// How many connections of a listener are kept from each priority for the priorities above it.
pub const KEPT_CONNECTIONS: usize = 1_000;

/// Returns how many connections a listener may have when one more is accepted from a peer of this role: all for those
/// without which the fleet can't be served, and [`KEPT_CONNECTIONS`] fewer for each lower priority. Clients, and peers
/// without a certificate, come last.
pub fn open_connections(role: Option<PeerRole>) -> usize {
    MAX_CONNECTIONS - (role.map_or(LOWEST_PRIORITY, PeerRole::priority) as usize - 1) * KEPT_CONNECTIONS
}
const _: () = assert!(MAX_CONNECTIONS > LOWEST_PRIORITY as usize * KEPT_CONNECTIONS);

/// Returns the address for which a peer without a certificate counts: for IPv6, that of its network.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - NETWORK_BITS))).into(),
        address => address,
    }
}

/// Whom a connection counts for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Peer {
    Address(IpAddr),
    Member(SpiffeId),
}

/// The connections of a listener.
#[derive(Debug, Default)]
struct Counts {
    of_peers: HashMap<Peer, usize>,
    /// Those that are ready for calls.
    open: usize,
}

/// The numbers of connections of a listener and of each peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerLimits(Arc<Mutex<Counts>>);

/// A connection that is ready for calls, and is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Open(PeerLimits);

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    limits: PeerLimits,
    peer: Peer,
}

impl PeerLimits {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, peer: Peer, most: usize) -> Option<Counted> {
        let mut counts = self.counts();
        let count = counts.of_peers.entry(peer.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted { limits: self.clone(), peer })
    }

    /// Counts a connection that is ready for calls, unless the remaining ones are kept for roles of higher priority.
    pub(crate) fn open(&self, role: Option<PeerRole>) -> Option<Open> {
        let mut counts = self.counts();
        if counts.open >= open_connections(role) {
            return None;
        }
        counts.open += 1;
        Some(Open(self.clone()))
    }

    /// Counts a connection without a certificate, unless there are too many.
    pub(crate) fn anonymous(&self, address: IpAddr) -> Option<Counted> {
        self.count(Peer::Address(network_of(address)), MAX_ANONYMOUS_PER_ADDRESS)
    }

    /// Counts a connection of a member, unless there are too many.
    pub(crate) fn member(&self, id: &SpiffeId) -> Option<Counted> {
        self.count(Peer::Member(id.clone()), MAX_PER_IDENTITY)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.limits.counts();
        if let Some(count) = counts.of_peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.of_peers.remove(&self.peer);
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts().open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use robeing_identity::Realm;

    use super::*;

    #[test]
    fn a_peer_has_so_many_connections_and_no_more() {
        let limits = PeerLimits::default();
        let [one, other]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        let mut held: Vec<Counted> =
            (0..MAX_ANONYMOUS_PER_ADDRESS).map(|_| limits.anonymous(one).expect("there is room")).collect();
        assert!(limits.anonymous(one).is_none());
        assert!(limits.anonymous("::ffff:10.0.0.1".parse().unwrap()).is_none(), "the same address");
        assert!(limits.anonymous(other).is_some());
        held.pop();
        assert!(limits.anonymous(one).is_some());
        let id = Realm::new("a", "b", "c").unwrap().member(PeerRole::Worker, "d").unwrap();
        held.extend((0..MAX_PER_IDENTITY).map(|_| limits.member(&id).expect("there is room")));
        assert!(limits.member(&id).is_none());
        for host in 0..MAX_ANONYMOUS_PER_ADDRESS as u128 {
            let address = Ipv6Addr::from_bits((0x2001_0db8 << 96) + (host << 32));
            held.push(limits.anonymous(address.into()).expect("there is room"));
        }
        assert!(limits.anonymous("2001:db8::ffff".parse().unwrap()).is_none(), "a machine has many such addresses");
        assert!(limits.anonymous("2001:db8:0:1::".parse().unwrap()).is_some(), "another network");
        held.clear();
        assert!(limits.counts().of_peers.is_empty(), "nothing is kept of peers that are gone");
    }

    #[test]
    fn the_last_connections_are_for_members_of_higher_priority() {
        let limits = PeerLimits::default();
        let mut held = Vec::new();
        let mut fill = |role| {
            while let Some(open) = limits.open(role) {
                held.push(open);
            }
            held.len()
        };
        for (role, most) in [
            (None, 20_000),
            (Some(PeerRole::Client), 20_000),
            (Some(PeerRole::Messenger), 21_000),
            (Some(PeerRole::Worker), 22_000),
            (Some(PeerRole::Guardian), 23_000),
            (Some(PeerRole::Specialist), 23_000),
            (Some(PeerRole::Operator), MAX_CONNECTIONS),
            (Some(PeerRole::Coordinator), MAX_CONNECTIONS),
        ] {
            assert_eq!(fill(role), most, "{role:?}");
        }
        held.truncate(22_000);
        assert!(limits.open(Some(PeerRole::Worker)).is_none());
        held.pop();
        assert!(limits.open(Some(PeerRole::Worker)).is_some());
        held.clear();
        assert_eq!(limits.counts().open, 0);
    }
}
