//! Sends a message by way of a messenger if its receiver can't be reached.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    pin,
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{
    relay::{ask_messenger, deliver, left, target},
    replies::ForMessengers,
    shared::Shared,
    state::{FAILURES, Settled, Unreachable},
};
use crate::messaging::{inbox::is_handled, outcome::Outcome, packet::Packet, routing::Entry};

/// How often it is looked whether the receiver of a message can be reached.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Maximum number of messengers that are asked, one after another.
pub const MAX_DETOURS: usize = 3;

/// A packet that is being sent. It is small, because many wait at once.
pub(super) enum Begun {
    /// It is given to the link to its receiver.
    Posted(oneshot::Receiver<Settled>),
    /// It takes the direct way, and no other.
    Direct(Box<Packet>),
    /// It can't be sent.
    Ended(Outcome),
}

impl Begun {
    /// Begins to send a packet, which is within the limits, to an agent.
    pub fn begin(shared: &Arc<Shared>, to: &Entry, packet: Packet) -> Self {
        // Without an acknowledgement nobody would know whether the direct way was taken.
        if to.name == shared.me || !packet.requires_ack {
            return Self::Direct(Box::new(packet));
        }
        match shared.post(to, packet, true) {
            Ok(settled) => Self::Posted(settled),
            Err(outcome) => Self::Ended(outcome),
        }
    }

    /// Waits for the outcome. If no stream to the agent can be opened, messengers are asked to pass the packet on, while
    /// the attempts to open one continue. The receiver handles it once, whichever way it comes.
    pub async fn outcome(self, shared: &Arc<Shared>, to: &Entry) -> Outcome {
        let settled = match self {
            Self::Posted(settled) => settled.await,
            Self::Direct(packet) => return Box::pin(deliver(shared, to, *packet)).await,
            Self::Ended(outcome) => return outcome,
        };
        match settled {
            Ok(Settled::Outcome(outcome)) => outcome,
            Ok(Settled::Unreachable(unreachable)) => Box::pin(deliver_both_ways(shared, to, *unreachable)).await,
            Err(_) => leaving(),
        }
    }
}

fn leaving() -> Outcome {
    Outcome::away("this agent is shutting down")
}

/// Asks messengers to pass a packet on for as long as its receiver can't be reached.
async fn deliver_both_ways(shared: &Arc<Shared>, to: &Entry, unreachable: Unreachable) -> Outcome {
    let Unreachable { packet, deadline, outcome } = unreachable;
    let deadline = shared.instant(deadline);
    let direct = async {
        match outcome.await {
            Ok(Settled::Outcome(outcome)) => outcome,
            // It is told once.
            Ok(Settled::Unreachable(_)) | Err(_) => leaving(),
        }
    };
    pin!(direct);
    tokio::select! {
        biased;
        outcome = &mut direct => return outcome,
        () = remains_unreachable(shared, to) => {}
    }
    // From now on each copy may be a second one.
    if let Some(link) = shared.existing_link(&to.name) {
        link.lock().outbox.goes_another_way(packet.id);
    }
    let packet = Packet { resent: true, ..packet };
    let may_have_arrived = AtomicBool::new(false);
    tokio::select! {
        biased;
        outcome = &mut direct => match !is_handled(&outcome) && may_have_arrived.load(Ordering::Relaxed) {
            true => Outcome::DeadlinePassed { maybe_handled: true },
            false => outcome,
        },
        Some(outcome) = by_messenger(shared, to, &packet, deadline, &may_have_arrived) => {
            // The direct copy would take up room until its deadline, and may come to a receiver that has forgotten this one.
            shared.withdraw(&to.name, packet.id, &outcome);
            outcome
        }
        else => Outcome::DeadlinePassed { maybe_handled: true },
    }
}

/// Waits until an agent to which no stream could be opened still can't be reached a moment later.
async fn remains_unreachable(shared: &Shared, to: &Entry) {
    loop {
        sleep(LOOK_EVERY).await;
        let failures = shared.existing_link(&to.name).map_or(0, |link| link.lock().failures);
        if failures >= FAILURES {
            return;
        }
    }
}

/// Asks messengers to pass a packet on. Returns what the receiver decided; waits for ever if none could find out.
/// `may_have_arrived` is set while, and once, a messenger may have passed it on.
async fn by_messenger(
    shared: &Arc<Shared>,
    to: &Entry,
    packet: &Packet,
    deadline: Instant,
    may_have_arrived: &AtomicBool,
) -> Option<Outcome> {
    let snapshot = shared.directory.snapshot();
    let messengers = snapshot.messengers().map(|entry| &entry.name);
    let mut messengers: Vec<_> = messengers.filter(|name| **name != shared.me && **name != to.name).collect();
    // Not all agents ask the same one first.
    if !messengers.is_empty() {
        let first = shared.random.next_u64() as usize % messengers.len();
        messengers.rotate_left(first);
    }
    // Sealed once, so that whichever copy is handled, its reply is sealed for this secret.
    let sealed = ForMessengers::new(shared, to, packet)?;
    for messenger in messengers.into_iter().take(MAX_DETOURS) {
        let Some(left) = left(deadline) else { break };
        let message = Packet { deadline_in_ms: left, ..sealed.packet.clone() };
        let before = may_have_arrived.swap(true, Ordering::Relaxed);
        let report = ask_messenger(shared, messenger, &message, vec![target(&to.name, packet.id)]).await;
        let outcome = match report {
            Ok(report) => report.into_iter().find(|(id, _)| *id == packet.id).map(|(_, outcome)| outcome),
            // Then the messenger has passed nothing on.
            Err(outcome) => Some(outcome).filter(|outcome| !is_handled(outcome)),
        };
        match outcome {
            Some(outcome) if is_decided(&outcome) => {
                shared.metrics.detours.inc();
                return Some(sealed.opened(&shared.keys, outcome));
            }
            Some(outcome) if !is_handled(&outcome) => may_have_arrived.store(before, Ordering::Relaxed),
            _ => {}
        }
    }
    std::future::pending().await
}

/// Returns whether the receiver itself has decided.
fn is_decided(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Accepted { .. } | Outcome::Refused { .. })
}
