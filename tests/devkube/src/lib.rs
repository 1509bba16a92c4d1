//! A throwaway Kubernetes cluster of several nodes on one machine, for tests and demos: a real API server, etcd,
//! scheduler and controllers, and on every node a real kubelet, kube-proxy and containerd. It needs no Docker and no
//! registry. Nodes are kernel namespaces, which can be partitioned, crashed and healed; removing them removes
//! everything that runs in them.
//!
//! ```no_run
//! # async fn example() -> devkube::Result<()> {
//! let cluster = devkube::Cluster::for_tests().await?;
//! println!("{}", cluster.kubectl(&["get", "nodes"]).await?);
//! cluster.partition("n2").await?;
//! cluster.heal("n2").await?;
//! cluster.down().await
//! # }
//! ```

mod certificates;
mod cgroup;
mod clients;
mod cluster;
mod command;
mod config;
mod control_plane;
mod cri;
mod error;
mod machine;
mod network;
mod node;
pub mod oci;
mod plan;
mod proxy;
mod record;
mod requirements;
mod target;
mod teardown;
mod tools;

pub use clients::{CALL_DEADLINE, Clients};
pub use cluster::{Cluster, NODES, Options, Progress, VOLUMES_PER_NODE};
pub use error::{Error, Missing, Result, Source};
pub use plan::{CONTROL_PLANE, MAX_NODES};
pub use requirements::{BUSYBOX, busybox};
pub use target::{LOAD_VARIABLE, TestCluster};
pub use tools::{CACHE_VARIABLE, Tools, Wanted};
