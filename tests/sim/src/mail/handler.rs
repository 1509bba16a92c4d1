//! Handles the messages of an agent: records each, and accepts or refuses it. A notice of a ballot it answers with a
//! vote.

use async_trait::async_trait;
use robeing_agent::messaging::handlers::{Delivery, Handler, HandlerOutcome};
use robeing_fleet::NOTICE_KIND;
use tokio::time::{Duration, sleep};

use super::{BAD, Handled, Note};
use crate::{ballots, checks::Check, record::Record};

/// The handler of an agent's messages.
pub struct SimulatedHandler {
    /// The agent.
    pub agent: String,
    /// The number of the agent's run.
    pub run: u64,
    /// Whether the agent has a data folder.
    pub keeps: bool,
    /// The record of the run.
    pub record: Record,
}

#[async_trait]
impl Handler for SimulatedHandler {
    async fn deliver(&self, Delivery { packet, .. }: Delivery) -> HandlerOutcome {
        if &*packet.kind == NOTICE_KIND {
            return ballots::answer(&self.record, &self.agent, self.run, &packet.payload).await;
        }
        let Some(note) = Note::read(&packet.payload) else {
            let what = format!("message {} has another payload on {}: {:?}", packet.id, self.agent, packet.payload);
            self.record.violation(Check::Arrived, what);
            return HandlerOutcome::Accepted { reply: None };
        };
        if note.lasts > 0 {
            sleep(Duration::from_millis(note.lasts)).await;
        }
        // The effect: nothing is awaited after it, so it is there exactly if this returns.
        tracing::debug!(target: "robeing_sim", id = %packet.id, self.agent, packet.resent, "handled");
        let id = packet.id.to_string();
        let handled = Handled {
            id: &id,
            agent: &self.agent,
            run: self.run,
            keeps: self.keeps,
            resent: packet.resent,
            names: (&note.writer, note.number),
        };
        self.record.message(|ledger, _| ledger.handles(&handled));
        match &*packet.kind {
            BAD => HandlerOutcome::Refused { reason: "it is to be refused".to_owned() },
            _ => HandlerOutcome::Accepted { reply: None },
        }
    }

    fn name(&self) -> &'static str {
        "simulated"
    }
}
