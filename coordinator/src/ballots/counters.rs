//! Counts votes and ballots for the metrics. Every coordinator sees all of them, and the leader counts them, so that a
//! sum over all coordinators counts each once.

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
        let help = "Votes that were counted while this coordinator led, by choice";
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
        if self.leads.load(Ordering::Relaxed) {
            self.votes.get_or_create(&Cast { choice: choice_word(choice) }).inc();
        }
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

/// Counts what is cast and closes while this coordinator leads. Runs until it stops.
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
    fn a_ballot_that_closes_and_a_vote_that_counts_are_counted_at_the_leader() {
        let (metrics, counters) = (Metrics::default(), BallotCounters::default());
        counters.register(&metrics);
        counters.closed(&closed_ballot(1));
        counters.cast(Choice::Approve);
        counters.leads.store(true, Ordering::Relaxed);
        counters.closed(&closed_ballot(2));
        counters.cast(Choice::Approve);
        let text = metrics.encode();
        for counted in ["ballots_closed_total{outcome=\"approved\"} 1", "votes_total{choice=\"approve\"} 1"] {
            assert!(text.contains(&format!("robeing_{counted}")), "{text}");
        }
    }
}
