//! The score of an agent for a task. The scheduler compares scores, and the attempt's score explains the choice to
//! readers. Scores are integers, so that every coordinator computes the same.

use bilrost::Message;

use crate::{Agent, Weights};

/// The terms of a score, in thousandths of a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct ScoreTerms {
    /// `weights.specialization` if the task's domain is one of the agent's specializations.
    #[bilrost(1)]
    pub specialization: i64,
    /// `weights.load` × taken slots / slots.
    #[bilrost(2)]
    pub load: i64,
    /// `weights.performance` × performance for the task's kind.
    #[bilrost(3)]
    pub performance: i64,
    /// The sum of the terms.
    #[bilrost(4)]
    pub total: i64,
}

/// Returns what a matching specialization adds, in thousandths of a point.
pub(crate) fn match_bonus(weights: &Weights) -> i64 {
    i64::from(weights.specialization) * 1000
}

/// Returns the score of `agent` in its current state for a task of this kind. `matched` states whether the task's domain is
/// one of the agent's specializations.
pub(crate) fn score(weights: &Weights, agent: &Agent, kind: &str, matched: bool) -> ScoreTerms {
    score_by(weights, agent, agent.performance_of(kind), matched)
}

/// Returns the score of `agent` in its current state if this is its performance, 0 to 1000.
pub(crate) fn score_by(weights: &Weights, agent: &Agent, performance: u32, matched: bool) -> ScoreTerms {
    let specialization = if matched { match_bonus(weights) } else { 0 };
    let load = i64::from(weights.load) * i64::from(agent.load());
    let performance = i64::from(weights.performance) * i64::from(performance);
    ScoreTerms { specialization, load, performance, total: specialization + load + performance }
}
