//! Every limit of the `RobeingCluster` schema. The schema, the rules' sentences and the tests take them from
//! here. Lists and strings are bounded because the API server multiplies the cost of a CEL rule by the greatest
//! size of what it runs over, and refuses a definition that could cost too much. What an agent or a coordinator is told is
//! bounded by its own settings, [`robeing_settings::settings`]; what Kubernetes bounds more tightly is checked to be within them.

use std::time::Duration;

use robeing_settings::settings;

/// Longest `metadata.name` of a cluster, in characters. The coordinators' StatefulSet is named
/// `<cluster>-coordinators`, and its pods carry that name with an eleven-character revision suffix in a label
/// of at most 63.
pub const MAX_CLUSTER_NAME: u32 = 36;
/// Longest name of a pool, in characters.
pub const MAX_POOL_NAME: u32 = 32;
/// Most characters in the cluster's name and a pool's name together. A pool's Deployment is named
/// `<cluster>-<pool>` and Kubernetes adds up to 17 characters for a pod's name, which is also its host name and
/// so must fit in a DNS label of 63: 63 − 17 − 1.
pub const MAX_CLUSTER_AND_POOL_NAME: u32 = 45;
/// Most coordinators in a cluster. More voters cost latency and buy no safety worth having.
pub const MAX_COORDINATORS: u32 = 7;
/// Most pools in a cluster.
pub const MAX_POOLS: u32 = 64;
/// Most specializations of one pool.
pub const MAX_SPECIALIZATIONS: u32 = settings::MAX_SPECIALIZATIONS as u32;
/// Longest name of a specialization, in characters, each of one byte.
pub const MAX_SPECIALIZATION_NAME: u32 = settings::MAX_NAME_BYTES as u32;
/// Most agents that `replicas` of one pool may ask for.
pub const MAX_POOL_REPLICAS: u32 = settings::POOL_REPLICAS.most;
/// Most standby agents of one pool.
pub const MAX_POOL_STANDBY: u32 = settings::POOL_STANDBY.most;
/// Most tasks that one agent may run at once.
pub const MAX_SLOTS: u32 = settings::SLOTS.most;
/// Longest that a pod may take to end, seconds: a day.
pub const MAX_GRACE_SECONDS: i64 = 86_400;
/// Highest number of a port.
pub const MAX_PORT: u32 = 65_535;
/// Most words in a command's `argv`.
pub const MAX_ARGV: u32 = 64;
/// Longest word of a command's `argv`, in characters.
pub const MAX_ARG: u32 = 8_192;
/// Most bytes of an executor as JSON. An agent is given it in one argument or environment variable, for which Linux has 128 KiB.
pub const MAX_EXECUTOR_BYTES: usize = 100 * 1024;
/// Longest URL of an `http` executor, in characters.
pub const MAX_URL: u32 = 2_048;
/// Most headers of an `http` executor.
pub const MAX_HEADERS: u32 = 32;
/// Longest name of a header, in characters.
pub const MAX_HEADER_NAME: u32 = 128;
/// Longest value of a header, in characters.
pub const MAX_HEADER_VALUE: u32 = 2_048;
/// Longest text before a header's value from a Secret, in characters.
pub const MAX_HEADER_PREFIX: u32 = 64;
/// Longest reference to an image, in characters.
pub const MAX_IMAGE: u32 = 512;
/// Longest name of another Kubernetes object that a cluster refers to, in characters: Kubernetes' own limit.
pub const MAX_OBJECT_NAME: u32 = 253;
/// Longest spelling of a quantity such as `1Gi`, in characters.
pub const MAX_QUANTITY: u32 = 32;
/// Most kinds of resource in one `requests` or `limits`.
pub const MAX_RESOURCE_KINDS: u32 = 32;
/// Longest spelling of a duration such as `1m30s`, in characters.
pub const MAX_DURATION: u32 = 20;
/// Shortest time that a ballot may stay open.
pub const MIN_DEADLINE: Duration = Duration::from_millis(100);
/// Longest time that a ballot may stay open.
pub const MAX_DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// Longest spelling of a threshold such as `2/3`, in characters.
pub const MAX_THRESHOLD: u32 = 16;
/// Most attempts at one task.
pub const MAX_ATTEMPTS: u32 = settings::MAX_ATTEMPTS.most;
/// Most environment variables, volumes, tolerations and the like that a pool may add to its pods, each.
pub const MAX_POD_LIST: u32 = 128;

/// Largest manifest that is read, in bytes (1 MiB); etcd would not take a larger object either.
pub const MAX_MANIFEST_BYTES: usize = 1024 * 1024;
/// Deepest nesting of maps and lists in a manifest. Kubernetes' deepest type here, a pod's affinity, needs 16.
pub const MAX_MANIFEST_DEPTH: usize = 48;
/// Most values that YAML aliases may expand to in one manifest.
pub const MAX_MANIFEST_ALIASED: usize = 10_000;
/// Most documents in one manifest.
pub const MAX_MANIFEST_DOCUMENTS: usize = 64;
/// Most problems reported for one manifest.
pub const MAX_PROBLEMS: usize = 50;

// An agent, or a coordinator, takes whatever the schema does.
const _: () = {
    assert!(MAX_CLUSTER_AND_POOL_NAME as usize <= settings::MAX_NAME_BYTES);
    assert!(MAX_COORDINATORS as usize <= robeing_settings::MAX_COORDINATORS);
    assert!(MAX_GRACE_SECONDS as u64 <= settings::DRAIN_TIMEOUT.most.as_secs());
};
