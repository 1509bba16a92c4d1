//! How many connections one peer may have, so that no single peer can use up those of a listener.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use robeing_identity::SpiffeId;

/// Maximum number of connections without a certificate from one IP address, including those whose handshake is not
/// finished. For IPv6, all addresses of one network count together; see [`NETWORK_BITS`].
pub const MAX_ANONYMOUS_PER_ADDRESS: usize = 256;
/// The number of leading bits of an IPv6 address that count: a single machine has all addresses of such a network to
/// choose from (RFC 4291, section 2.5.1).
pub const NETWORK_BITS: u32 = 64;
/// Maximum number of connections of one member.
pub const MAX_PER_IDENTITY: usize = 64;

/// Whom a connection counts for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Peer {
    Address(IpAddr),
    Member(SpiffeId),
}

/// The numbers of connections of each peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerLimits(Arc<Mutex<HashMap<Peer, usize>>>);

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    limits: PeerLimits,
    peer: Peer,
}

impl PeerLimits {
    fn counts(&self) -> MutexGuard<'_, HashMap<Peer, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, peer: Peer, most: usize) -> Option<Counted> {
        let mut counts = self.counts();
        let count = counts.entry(peer.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted { limits: self.clone(), peer })
    }

    /// Counts a connection without a certificate, unless there are too many.
    pub(crate) fn anonymous(&self, address: IpAddr) -> Option<Counted> {
        let address = match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - NETWORK_BITS))).into(),
            address => address,
        };
        self.count(Peer::Address(address), MAX_ANONYMOUS_PER_ADDRESS)
    }

    /// Counts a connection of a member, unless there are too many.
    pub(crate) fn member(&self, id: &SpiffeId) -> Option<Counted> {
        self.count(Peer::Member(id.clone()), MAX_PER_IDENTITY)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.limits.counts();
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use robeing_identity::{PeerRole, Realm};

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
        assert!(limits.counts().is_empty(), "nothing is kept of peers that are gone");
    }
}
