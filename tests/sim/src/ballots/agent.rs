//! How the handlers of simulated agents decide ballots. The shipped code asks them, and casts their votes.

use robeing_agent::{decisions::Notice, messaging::handlers::HandlerOutcome};
use tokio::time::sleep;

use super::rule::{Decided, decide};
use crate::{checks::Check, record::Record};

/// Decides a ballot for an agent, in this run of it. Some agents are silent: they accept the notice without a vote.
pub async fn answer(record: &Record, agent: &str, run: u64, notice: &[u8]) -> HandlerOutcome {
    let notice = match Notice::read(notice, agent, None) {
        Ok(notice) => notice,
        Err(error) => {
            record.violation(Check::Opened, format!("{agent} got a notice of a ballot that is none: {error}"));
            return HandlerOutcome::Accepted { reply: None };
        }
    };
    let ballot = notice.ballot.to_string();
    let Decided { cast, after } = decide(&ballot, agent, notice.options.len());
    if !after.is_zero() {
        sleep(after).await;
    }
    tracing::debug!(target: "robeing_sim", ballot, agent, ?cast, "decided");
    // Nothing is awaited after it, so it is recorded exactly if the agent gets the decision.
    record.ballot(|ledger, _| ledger.decides(&ballot, &notice.options, agent, run));
    HandlerOutcome::Accepted { reply: cast.map(|cast| cast.reply().into_bytes().into()) }
}
