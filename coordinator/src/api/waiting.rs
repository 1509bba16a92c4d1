//! Keep-alive while a session is being opened: the leader reports that it is opening the session, and the agent reports
//! that it is still waiting.
//!
//! Opening a session may take long: a leader that was just elected has to commit the first entry of its term, and the
//! agent's join has to be committed; each takes as long as the disks take. An agent can't distinguish a slow leader
//! from one that is frozen or was replaced, although in that case it should soon try another. So the leader reports
//! periodically that it is opening the session, but only while a majority confirms that it leads.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures::StreamExt;
use robeing_proto::internal::v1::{
    self as internal, AgentMessage, agent_message::Message as FromAgent, coordinator_message::Message as ToAgent,
};
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use crate::{
    api::session::{Replies, message},
    leader::standing::Standing,
};

/// Pause before the first Opening, and between two of them.
const OPENING_EVERY: Duration = Duration::from_millis(100);
/// How long the opening of a session may take; the agent tries again then.
pub const OPEN_WITHIN: Duration = Duration::from_secs(25);

/// The newest Opening that an agent has answered.
#[derive(Default)]
pub struct Waited(AtomicU64);

impl Waited {
    /// Returns its sequence number; 0 if there is none.
    pub fn seq(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Runs `opening` and sends Openings to the agent meanwhile. Returns `None` if the agent disconnects or sends anything
/// but Waiting, or if `opening` takes longer than [`OPEN_WITHIN`].
pub async fn while_opening<T>(
    standing: &Standing,
    inbound: &mut Streaming<AgentMessage>,
    sender: &Replies,
    waited: &Waited,
    opening: impl Future<Output = T>,
) -> Option<T> {
    let mut opening = std::pin::pin!(opening);
    let mut telling = std::pin::pin!(tell(standing, sender));
    let until = Instant::now() + OPEN_WITHIN;
    loop {
        tokio::select! {
            biased;
            opened = &mut opening => return Some(opened),
            () = tokio::time::sleep_until(until) => return None,
            next = inbound.next() => match next {
                Some(Ok(AgentMessage { message: Some(FromAgent::Waiting(waiting)) })) => {
                    waited.0.fetch_max(waiting.seq, Ordering::SeqCst);
                }
                // No other message is allowed before Welcome.
                _ => return None,
            },
            () = &mut telling => return None,
        }
    }
}

/// Sends Openings to an agent while a majority confirms that this coordinator leads. Returns when the agent no longer
/// receives them.
async fn tell(standing: &Standing, sender: &Replies) {
    let mut seq = 0;
    loop {
        tokio::time::sleep(OPENING_EVERY).await;
        let Some(term) = standing.term() else { continue };
        if timeout(OPENING_EVERY, standing.contact().since(term, Instant::now())).await.is_err() {
            continue;
        }
        seq += 1;
        if sender.send(Ok(message(ToAgent::Opening(internal::Opening { seq })))).await.is_err() {
            return;
        }
    }
}
