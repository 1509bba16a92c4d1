//! Counts votes and ballots for the metrics, so that a sum over all coordinators counts each once: a vote counts at the
//! coordinator that it was cast at, and a ballot that closes, which every coordinator sees, at the leader.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use robeing_fleet::{Ballot, BallotOutcome, Choice};
use robeing_telemetry::Metrics;

use crate::{
    apply::observer::ApplyObserver,
    leader::{
        role::{until_leading, until_not_leading},
        standing::Standing,
    },
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Closed {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Cast {
    choice: &'static str,
}

/// The counters of one coordinator.
#[derive(Default)]
pub struct BallotCounters {
    leads: AtomicBool,
    closed: Family<Closed, Counter>,
    votes: Family<Cast, Counter>,
}

impl BallotCounters {
    /// Registers the counters with a process's metrics.
    pub fn register(&self, metrics: &Metrics) {
        let help = "Ballots that closed while this coordinator led, by outcome";
        metrics.register("ballots_closed", help, self.closed.clone());
        let help = "Votes that were cast at this coordinator and counted, by choice";
        metrics.register("votes", help, self.votes.clone());
    }

    /// Records that a ballot has closed.
    pub fn closed(&self, ballot: &Ballot) {
        let Some(outcome) = ballot.outcome() else { return };
        if self.leads.load(Ordering::Relaxed) {
            self.closed.get_or_create(&Closed { outcome: outcome_word(&outcome) }).inc();
        }
    }

    /// Records that a vote was counted.
    pub fn cast(&self, choice: Choice) {
        self.votes.get_or_create(&Cast { choice: choice_word(choice) }).inc();
    }
}

fn outcome_word(outcome: &BallotOutcome) -> &'static str {
    match outcome {
        BallotOutcome::Approved { .. } => "approved",
        BallotOutcome::Rejected => "rejected",
        BallotOutcome::Expired => "expired",
    }
}

fn choice_word(choice: Choice) -> &'static str {
    match choice {
        Choice::Approve => "approve",
        Choice::Reject => "reject",
        Choice::Abstain => "abstain",
    }
}

/// Counts what closes while this coordinator leads. Runs until it stops.
pub async fn run(standing: Standing, observer: Arc<ApplyObserver>) {
    let mut raft_role = standing.roles();
    while let Some(term) = until_leading(&mut raft_role).await {
        observer.ballot_counters.leads.store(true, Ordering::Relaxed);
        until_not_leading(&mut raft_role, term).await;
        observer.ballot_counters.leads.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::closed_ballot;

    #[test]
    fn a_ballot_that_closes_counts_at_the_leader_and_a_vote_where_it_was_cast() {
        let (metrics, counters) = (Metrics::default(), BallotCounters::default());
        counters.register(&metrics);
        counters.closed(&closed_ballot(1));
        counters.cast(Choice::Approve);
        counters.leads.store(true, Ordering::Relaxed);
        counters.closed(&closed_ballot(2));
        let text = metrics.encode();
        for counted in ["ballots_closed_total{outcome=\"approved\"} 1", "votes_total{choice=\"approve\"} 1"] {
            assert!(text.contains(&format!("robeing_{counted}")), "{text}");
        }
    }
}
