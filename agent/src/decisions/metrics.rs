//! The metrics of an agent's votes.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use robeing_telemetry::Metrics;

/// What became of the notice of a ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The vote is counted.
    Voted,
    /// This agent's vote had been counted before: of an earlier process of it.
    VotedBefore,
    /// The ballot was closed before the vote arrived.
    Late,
    /// The coordinators refuse the vote.
    Refused,
    /// The handler has accepted the notice without a vote, or has refused it.
    NoVote,
    /// The handler's reply is no vote.
    BadReply,
    /// The notice can't be used.
    BadNotice,
    /// The notice is not of a coordinator.
    Forged,
}

impl Ended {
    fn name(self) -> &'static str {
        match self {
            Self::Voted => "voted",
            Self::VotedBefore => "voted_before",
            Self::Late => "late",
            Self::Refused => "refused",
            Self::NoVote => "no_vote",
            Self::BadReply => "bad_reply",
            Self::BadNotice => "bad_notice",
            Self::Forged => "forged",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

/// Counts the notices of ballots. Cheap to clone.
#[derive(Clone)]
pub struct VotingMetrics(Family<Labels, Counter>);

impl VotingMetrics {
    /// Registers the counter.
    pub fn new(metrics: &Metrics) -> Self {
        let help = "Notices of ballots that this agent has got, by what became of its vote";
        Self(metrics.counters("agent_ballot_notices", help))
    }

    /// Counts a notice.
    pub(super) fn count(&self, ended: Ended) {
        self.0.get_or_create(&Labels { outcome: ended.name() }).inc();
    }
}
