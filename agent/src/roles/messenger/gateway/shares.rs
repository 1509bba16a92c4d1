//! How much of a gateway's room one client may take, so that nobody can use up all of it, least of all somebody who has
//! not even said who it is: the rights of a client are known only after its request has been read.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use robeing_net::{
    ConnectInfo,
    security::{PeerIdentity, network_of},
};
use robeing_platform::sync::{Mutex, PoisonError};

/// One client may take one of so many parts of the room.
pub const PARTS: usize = 2;

/// Whom a request counts for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Peer {
    /// A client with a certificate of this name.
    Client(String),
    /// All clients without a certificate that have connected from this address, or network.
    Address(IpAddr),
    /// Clients whose address is not known.
    Unknown,
}

impl Peer {
    fn of(connection: &ConnectInfo) -> Self {
        let client = |peer: &Arc<PeerIdentity>| Self::Client(peer.id.name().to_owned());
        let address = || connection.peer.map(|peer| Self::Address(network_of(peer.ip())));
        connection.identity.as_ref().map(client).or_else(address).unwrap_or(Self::Unknown)
    }
}

/// What clients have taken of one kind of room. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shares {
    taken: Arc<Mutex<HashMap<Peer, usize>>>,
    most: usize,
}

/// A part of the room, until this is dropped.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    peer: Peer,
    count: usize,
}

impl Shares {
    /// Creates the shares of a room of this size, of which one client may take one of so many parts.
    pub fn new(room: usize, parts: usize) -> Self {
        Self { taken: Arc::default(), most: room.div_ceil(parts.max(1)) }
    }

    /// Takes room for the client of a connection; `None` if that would be more than its share.
    pub fn take(&self, connection: &ConnectInfo, count: usize) -> Option<Share> {
        let peer = Peer::of(connection);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let now = taken.get(&peer).copied().unwrap_or_default().saturating_add(count);
        if now > self.most {
            return None;
        }
        taken.insert(peer.clone(), now);
        Some(Share { shares: self.clone(), peer, count })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let left = taken.get(&self.peer).map_or(0, |taken| taken.saturating_sub(self.count));
        match left {
            0 => taken.remove(&self.peer),
            left => taken.insert(self.peer.clone(), left),
        };
    }
}

#[cfg(test)]
mod tests {
    use robeing_identity::{PeerRole, Realm};

    use super::*;

    fn from(address: &str, client: Option<&str>) -> ConnectInfo {
        let realm = Realm::new("a", "b", "c").expect("a realm");
        let id = |name| realm.member(PeerRole::Client, name).expect("a name");
        let identity = client.map(|name| Arc::new(PeerIdentity { id: id(name), key: [0; 32] }));
        ConnectInfo { peer: Some(address.parse().expect("an address")), identity, ..ConnectInfo::default() }
    }

    #[test]
    fn a_client_takes_its_share_and_leaves_the_rest_to_others() {
        let shares = Shares::new(8, PARTS);
        let one = from("10.0.0.1:1", None);
        let held = [shares.take(&one, 3).expect("it is in its share"), shares.take(&one, 1).expect("the last of it")];
        assert!(shares.take(&one, 1).is_none());
        assert!(shares.take(&from("10.0.0.1:2", None), 1).is_none(), "another port is the same client");
        assert!(shares.take(&from("10.0.0.2:1", None), 4).is_some());
        assert!(shares.take(&from("10.0.0.1:1", Some("ann")), 4).is_some(), "she is known by her name");
        assert!(shares.take(&from("10.0.0.2:1", None), 5).is_none(), "more than a share");
        drop(held);
        assert!(shares.taken.lock().expect("nobody panicked").is_empty(), "nothing is kept of clients that are gone");
        assert!(shares.take(&one, 4).is_some());
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let shares = Shares::new(2, PARTS);
        let _held = shares.take(&from("[2001:db8::1]:1", None), 1).expect("it is in its share");
        assert!(shares.take(&from("[2001:db8::2]:1", None), 1).is_none());
        assert!(shares.take(&from("[2001:db8:0:1::2]:1", None), 1).is_some());
    }
}
