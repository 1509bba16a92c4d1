//! While a session is being opened: the agent hears that it is, and says that it still waits.
//!
//! Opening a session may take long: a leader that was just elected has to commit the first entry of its term, and the joining
//! of an agent has to be committed, each of which takes as long as the disks take. An agent cannot tell a leader that is slow
//! from one that is frozen or was replaced, and must look elsewhere soon in the latter case. So the leader says from time to time
//! that it is at it, and only while a majority confirms that it leads.

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

/// Pause before the first Opening, and between two.
const OPENING_EVERY: Duration = Duration::from_millis(100);
/// How long a session may take to be opened; the agent asks again then.
pub const OPEN_WITHIN: Duration = Duration::from_secs(25);

/// The newest Opening that an agent has answered.
#[derive(Default)]
pub struct Waited(AtomicU64);

impl Waited {
    /// Its number; 0 if none was.
    pub fn seq(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Runs `opening` while the agent is told of it. `None` when the agent goes away, or it takes longer than [`OPEN_WITHIN`].
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
                // Nothing else may be said before Welcome.
                _ => return None,
            },
            () = &mut telling => return None,
        }
    }
}

/// Tells an agent that its session is being opened, as long as a majority confirms that this coordinator leads. Returns when
/// nobody listens.
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
