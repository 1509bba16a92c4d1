//! How ballots among agents are decided.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Duration, Threshold,
    limits::{MAX_DEADLINE, MIN_DEADLINE},
    rules,
};

/// Defaults for how ballots among agents are decided.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Consensus {
    /// The share of the electorate that must approve, as a fraction such as `2/3` or a percentage such as `66%`.
    #[serde(default = "default_threshold")]
    pub threshold: Threshold,

    /// How long a ballot stays open.
    #[serde(default = "default_deadline")]
    #[x_kube(validation = rules::duration_between("deadline", MIN_DEADLINE, MAX_DEADLINE))]
    pub deadline: Duration,
}

impl Default for Consensus {
    fn default() -> Self {
        Self { threshold: default_threshold(), deadline: default_deadline() }
    }
}

fn default_threshold() -> Threshold {
    Threshold::TWO_THIRDS
}

fn default_deadline() -> Duration {
    Duration::from_secs(30)
}
