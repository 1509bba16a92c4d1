//! Votes of this agent in ballots. Its part in groups that decide by Byzantine agreement is in [`group`].
//!
//! A coordinator sends the agents among a ballot's members its notice, a letter of the type [`NOTICE_KIND`]. The agent's
//! own handler of messages gets it, and replies with a vote, as JSON:
//!
//! ```json
//! {"vote": "approve", "option": "blue", "reason": "it is the calmest"}
//! ```
//!
//! The agent signs the vote and casts it at a coordinator, together with other votes that are due.
//!
//! Invariants:
//!
//! 1. **What is signed is what was asked.** A vote names the digest of the ballot's content, which the agent computes
//!    from the notice that its handler got. A coordinator that shows another question gets a vote that counts for none.
//! 2. **Decided once.** The handler of a running process is asked once, however often the notice comes: its decision is
//!    kept until it is counted. After a restart it may be asked again, and the fleet counts the first vote.
//! 3. **Answered when counted.** The notice is answered only after the vote is counted, or refused for good; before
//!    that it comes again, until the ballot's deadline.
//! 4. **Silence is no vote.** A handler that refuses, or accepts without a reply, as the built-in inbox does, has not
//!    voted. Nothing votes in its place.

mod casting;
mod decision;
#[cfg(test)]
mod fixture;
pub mod group;
mod metrics;
mod notice;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use robeing_fleet::{NOTICE_KIND, NOTICE_SENDER};
use tracing::{info, warn};

use self::casting::{Decided, NotCounted};
pub use self::{
    casting::{MAX_DECISIONS, Voter},
    decision::{Decision, DecisionError, MAX_DECISION_BYTES},
    metrics::{Ended, VotingMetrics},
    notice::{MAX_NOTICE_BYTES, Notice, NoticeError},
};
use crate::messaging::handlers::{Delivery, Handler, HandlerOutcome};

/// Has the handler of messages decide ballots, and casts its votes. Every other message is passed on.
pub struct VotingHandler {
    inner: Arc<dyn Handler>,
    voter: Voter,
    metrics: VotingMetrics,
}

impl VotingHandler {
    /// Creates a handler whose votes `inner` decides.
    pub fn new(inner: Arc<dyn Handler>, voter: Voter, metrics: VotingMetrics) -> Self {
        Self { inner, voter, metrics }
    }

    /// Handles a notice: decides, unless that is done, and casts the vote.
    async fn vote(&self, delivery: Delivery) -> HandlerOutcome {
        // No agent and no client can have this name: theirs have no colon, or begin with `client:`. A coordinator named
        // `ballots` has it, and coordinators are trusted with more than that.
        if &*delivery.packet.sender != NOTICE_SENDER {
            warn!(sender = &*delivery.packet.sender, "a notice of a ballot that no coordinator has sent is refused");
            return self.refuse(Ended::Forged, "coordinators alone send notices of ballots".to_owned());
        }
        let credentials = self.voter.credentials().await;
        let fleet = credentials.and_then(|credentials| Some(credentials.id()?.realm().to_string()));
        let notice = match Notice::read(&delivery.packet.payload, &delivery.packet.agent, fleet.as_deref()) {
            Ok(notice) => notice,
            Err(error) => {
                warn!(%error, "the notice of a ballot is refused");
                return self.refuse(Ended::BadNotice, error.to_string());
            }
        };
        let decided = match self.voter.decided(notice.ballot) {
            Some(decided) => decided,
            None => match self.decide(notice, delivery).await {
                Ok(decided) => decided,
                Err(outcome) => return outcome,
            },
        };
        self.cast(&decided).await
    }

    /// Asks the handler for its decision. Returns what the notice is answered with if there is none.
    async fn decide(&self, notice: Notice, delivery: Delivery) -> Result<Arc<Decided>, HandlerOutcome> {
        let ballot = notice.ballot;
        let reply = match self.inner.deliver(delivery).await {
            HandlerOutcome::Accepted { reply: Some(reply) } => reply,
            HandlerOutcome::Accepted { reply: None } => {
                info!(%ballot, handler = self.inner.name(), "the handler of messages has not voted: it gave no reply");
                self.metrics.count(Ended::NoVote);
                return Err(HandlerOutcome::Accepted { reply: None });
            }
            HandlerOutcome::Refused { reason } => {
                warn!(%ballot, reason, "the handler of messages has not voted: it refused the notice");
                return Err(self.refuse(Ended::NoVote, reason));
            }
        };
        match Decision::read(&reply, &notice.options) {
            Ok(decision) => Ok(self.voter.decide(notice, decision)),
            Err(error) => {
                warn!(%ballot, %error, "the handler of messages has not voted: its reply is no vote");
                Err(self.refuse(Ended::BadReply, format!("the handler's reply is no vote: {error}")))
            }
        }
    }

    /// Casts a vote, and returns what the notice is answered with.
    async fn cast(&self, decided: &Arc<Decided>) -> HandlerOutcome {
        let Decided { notice: Notice { ballot, .. }, decision } = &**decided;
        let accepted = HandlerOutcome::Accepted { reply: None };
        match self.voter.cast(decided).await {
            Ok(()) => {
                info!(%ballot, choice = decision.choice.as_str(), option = decision.option, "voted");
                self.metrics.count(Ended::Voted);
                accepted
            }
            Err(NotCounted::VotedBefore(reason)) => {
                info!(%ballot, reason, "an earlier vote of this agent is counted, and this one is not");
                self.metrics.count(Ended::VotedBefore);
                accepted
            }
            Err(NotCounted::Closed(reason)) => {
                info!(%ballot, reason, "the vote came too late");
                self.metrics.count(Ended::Late);
                accepted
            }
            Err(NotCounted::Refused(reason)) => {
                warn!(%ballot, reason, "the coordinators refuse the vote");
                self.refuse(Ended::Refused, format!("the coordinators refuse the vote: {reason}"))
            }
        }
    }

    fn refuse(&self, ended: Ended, reason: String) -> HandlerOutcome {
        self.metrics.count(ended);
        HandlerOutcome::Refused { reason }
    }
}

#[async_trait]
impl Handler for VotingHandler {
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome {
        if &*delivery.packet.kind != NOTICE_KIND {
            return self.inner.deliver(delivery).await;
        }
        self.vote(delivery).await
    }

    fn at_once(&self) -> usize {
        self.inner.at_once()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }
}
