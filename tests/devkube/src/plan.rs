//! Names and addresses of a cluster's parts. Pure.
//!
//! Every cluster has the same addresses: its network is a bridge in its own namespace, without a link to the host or to
//! another cluster, so addresses can't collide and no packet leaves the cluster. Only names that are visible on the
//! host contain the cluster's id.

use std::net::Ipv4Addr;

use crate::error::{Error, Result};

/// The maximum number of nodes of a cluster, for which the address plan has room.
pub const MAX_NODES: usize = 50;
/// The domain of the cluster's DNS.
pub const DOMAIN: &str = "cluster.local";

/// The name of the machine that runs the API server, etcd, the scheduler and the controllers. It is not a node.
pub const CONTROL_PLANE: &str = "cp";
/// The host number of the control plane on the LAN; node `i` has this number plus `i`.
const FIRST_HOST: u8 = 10;

/// The names and addresses of a cluster's machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    id: String,
    nodes: usize,
}

/// One machine of a cluster: the control plane, or a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `cp`, or `n1`, `n2`, ...
    pub name: String,
    /// Name of its network namespace for `ip netns`.
    pub namespace: String,
    /// Address on the cluster's LAN.
    pub address: Ipv4Addr,
    /// The /24 network of its pods; none for the control plane.
    pub pods: Option<Ipv4Addr>,
}

impl Plan {
    /// Plans a cluster with `nodes` nodes and the id `id` (lower-case letters and digits).
    ///
    /// # Errors
    /// [`Error::Nodes`] for more than [`MAX_NODES`] nodes.
    pub fn new(id: &str, nodes: usize) -> Result<Self> {
        if nodes <= MAX_NODES {
            Ok(Self { id: id.into(), nodes })
        } else {
            Err(Error::Nodes { asked: nodes, most: MAX_NODES })
        }
    }

    /// Returns the prefix of this cluster's names on the host.
    pub fn prefix(&self) -> String {
        format!("devkube-{}-", self.id)
    }

    /// Returns the network namespace of the bridge that connects the machines.
    pub fn lan(&self) -> String {
        format!("{}lan", self.prefix())
    }

    /// Returns the control plane's machine.
    pub fn control_plane(&self) -> Place {
        self.place(CONTROL_PLANE.into(), 0)
    }

    /// Returns whether the cluster consists only of a control plane, where pods are stored as objects and never run.
    pub fn is_bare(&self) -> bool {
        self.nodes == 0
    }

    /// Returns the nodes, in order.
    pub fn nodes(&self) -> Vec<Place> {
        (1..=self.nodes).map(|index| self.place(format!("n{index}"), index)).collect()
    }

    /// Returns all machines, the control plane first.
    pub fn places(&self) -> Vec<Place> {
        std::iter::once(self.control_plane()).chain(self.nodes()).collect()
    }

    /// Returns the machine with this name.
    ///
    /// # Errors
    /// [`Error::NoMachine`] if there is none.
    pub fn machine(&self, name: &str) -> Result<Place> {
        let places = self.places();
        places.iter().find(|place| place.name == name).cloned().ok_or_else(|| Error::NoMachine {
            name: name.into(),
            known: places.into_iter().map(|place| place.name).collect(),
        })
    }

    fn place(&self, name: String, index: usize) -> Place {
        // Does not truncate: `index` is at most MAX_NODES.
        let index = index as u8;
        Place {
            namespace: format!("{}{name}", self.prefix()),
            address: Ipv4Addr::new(10, 123, 0, FIRST_HOST + index),
            pods: (index > 0).then(|| Ipv4Addr::new(10, 244, index, 0)),
            name,
        }
    }

    /// The address range of Services.
    pub const SERVICES: &'static str = "10.96.0.0/16";
    /// The address range of pods.
    pub const PODS: &'static str = "10.244.0.0/16";
    /// The address of the Service `kubernetes`.
    pub const KUBERNETES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
    /// The address of the Service `kube-dns`.
    pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
    /// The API server's port on the control plane's machine.
    pub const API_PORT: u16 = 6443;
}

impl Place {
    /// Returns the name of this machine's port on the LAN's bridge.
    pub fn port(&self) -> String {
        format!("p-{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_has_an_address_of_its_own() {
        let plan = Plan::new("ab12", MAX_NODES).unwrap();
        let mut addresses: Vec<_> = plan.places().iter().map(|place| place.address).collect();
        addresses.dedup();
        assert_eq!(addresses.len(), MAX_NODES + 1);
        assert!(addresses.iter().all(|address| address.octets()[3] < 255));
    }

    #[test]
    fn names_carry_the_id_and_fit_where_they_go() {
        let plan = Plan::new("0123abcd", MAX_NODES).unwrap();
        let last = plan.machine("n50").unwrap();
        assert_eq!(last.namespace, "devkube-0123abcd-n50");
        assert_eq!(last.pods, Some(Ipv4Addr::new(10, 244, 50, 0)));
        // The kernel's limit for interface names.
        assert!(last.port().len() < 16);
        assert_eq!(plan.control_plane().pods, None);
    }

    #[test]
    fn sizes_at_the_edge() {
        assert!(Plan::new("a", 0).is_ok_and(|plan| plan.is_bare() && plan.places() == [plan.control_plane()]));
        assert!(Plan::new("a", 1).is_ok_and(|plan| !plan.is_bare()));
        assert!(Plan::new("a", MAX_NODES).is_ok());
        assert!(matches!(Plan::new("a", MAX_NODES + 1), Err(Error::Nodes { .. })));
    }

    #[test]
    fn an_unknown_machine_is_answered_with_the_known_ones() {
        let error = Plan::new("a", 2).unwrap().machine("n3").unwrap_err().to_string();
        assert_eq!(error, r#"there is no machine "n3": this cluster has cp, n1, n2"#);
    }
}
