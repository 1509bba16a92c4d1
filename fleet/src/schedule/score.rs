//! The score of an agent for a task: what the scheduler compares, and what `why this agent` shows. Integers only.

use bilrost::Message;

use crate::{Agent, Weights};

/// The terms of a score, in thousandths of a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct ScoreTerms {
    /// `weights.specialization` if the task is of the agent's domain.
    #[bilrost(1)]
    pub specialization: i64,
    /// `weights.load` × taken slots / slots.
    #[bilrost(2)]
    pub load: i64,
    /// `weights.performance` × track record.
    #[bilrost(3)]
    pub performance: i64,
    /// Their sum.
    #[bilrost(4)]
    pub total: i64,
}

/// What a match of specialization adds, in thousandths of a point.
pub(crate) fn match_bonus(weights: &Weights) -> i64 {
    i64::from(weights.specialization) * 1000
}

/// The score of `agent` as it is, `matched` if the task is of its domain.
pub(crate) fn score(weights: &Weights, agent: &Agent, matched: bool) -> ScoreTerms {
    let specialization = if matched { match_bonus(weights) } else { 0 };
    let load = i64::from(weights.load) * i64::from(agent.load());
    let performance = i64::from(weights.performance) * i64::from(agent.record.performance());
    ScoreTerms { specialization, load, performance, total: specialization + load + performance }
}
