//! How ballots are decided whose openers do not set it.

use kube::KubeSchema;
use robeing_settings::{BallotDefaults, Fraction, settings::BALLOT_DEADLINE};
use serde::{Deserialize, Serialize};

use crate::{
    Duration, Threshold,
    limits::{MAX_DEADLINE, MIN_DEADLINE},
    rules,
};

/// Defaults of ballots. The coordinator at which a ballot is opened fills in what its opener does not set; the ballots
/// of groups, which coordinators do not see, do not have them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Consensus {
    /// The share of the electorate's weight that must approve a ballot that sets no threshold, as a fraction such as
    /// `2/3` or a percentage such as `66%`. It counts as it is written: `66%` is 66 hundredths, less than `2/3`.
    #[serde(default = "default_threshold")]
    pub threshold: Threshold,

    /// How long a ballot that sets no deadline stays open.
    #[serde(default = "default_deadline")]
    #[x_kube(validation = rules::duration_between("deadline", MIN_DEADLINE, MAX_DEADLINE))]
    pub deadline: Duration,
}

impl Default for Consensus {
    fn default() -> Self {
        Self { threshold: default_threshold(), deadline: default_deadline() }
    }
}

impl From<&Consensus> for BallotDefaults {
    fn from(consensus: &Consensus) -> Self {
        let threshold = consensus.threshold;
        let threshold = Fraction { numerator: threshold.numerator(), denominator: threshold.denominator() };
        Self { threshold, deadline: consensus.deadline.get() }
    }
}

fn default_threshold() -> Threshold {
    Threshold::TWO_THIRDS
}

fn default_deadline() -> Duration {
    Duration::default_of(&BALLOT_DEADLINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_coordinators() {
        assert_eq!(BallotDefaults::from(&Consensus::default()), BallotDefaults::default());
    }

    #[test]
    fn a_percentage_is_hundredths() {
        let threshold = "66%".parse().expect("a percentage");
        let of = BallotDefaults::from(&Consensus { threshold, ..Consensus::default() });
        assert_eq!(of.threshold, Fraction { numerator: 66, denominator: 100 });
    }
}
