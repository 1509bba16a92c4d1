//! Broadcasts, and what messengers pass on.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use prost::Message;
use robeing_proto::message::v1::{Packet as WirePacket, Relay, RelayReport, RelayTarget};
use tokio::time::{Instant, sleep, timeout_at};

use super::shared::Shared;
use crate::messaging::{
    broadcast::{Broadcast, BroadcastReport, DIRECT_AT_ONCE, MAX_TARGETS, Slice, Target, Work},
    outcome::Outcome,
    packet::{MAX_DEADLINE_MS, MAX_PAYLOAD, Packet, PacketId, RELAY_TYPE},
    routing::{Entry, Presence},
};

/// The part of a deadline that a messenger has for passing a message on, in percent, so that its report is in time for
/// another way.
const RELAY_SHARE: u64 = 60;

/// Returns the milliseconds until a deadline; `None` if it has passed.
pub(super) fn left(deadline: Instant) -> Option<u64> {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
    (left > 0).then_some(left.min(MAX_DEADLINE_MS))
}

/// Sends a packet to an agent, and waits for the outcome.
pub(super) async fn deliver(shared: &Arc<Shared>, to: &Entry, packet: Packet) -> Outcome {
    let leaving = || Outcome::away("this agent is shutting down");
    let within = Duration::from_millis(packet.deadline_in_ms);
    let outcome = match shared.post(to, packet) {
        Ok(outcome) => outcome,
        Err(outcome) => return outcome,
    };
    if to.name != shared.me {
        return outcome.await.unwrap_or_else(|_| leaving());
    }
    tokio::select! {
        biased;
        outcome = outcome => outcome.unwrap_or_else(|_| leaving()),
        // Nothing is handled any more, so nothing of this agent to itself is either.
        () = shared.stop.cancelled() => Outcome::DeadlinePassed { maybe_handled: true },
        // It may still wait for its turn, behind messages with later deadlines.
        () = sleep(within) => Outcome::DeadlinePassed { maybe_handled: true },
    }
}

/// Sends a packet to each target, by way of messengers if there are many.
pub(super) async fn broadcast(
    shared: &Arc<Shared>,
    message: &Packet,
    targets: Vec<Arc<Entry>>,
    deadline: Instant,
) -> BroadcastReport {
    let ids = |entry: &Arc<Entry>| Target { name: Arc::clone(&entry.name), id: new_id(shared) };
    let snapshot = shared.directory.snapshot();
    let messengers = snapshot.active().filter(|entry| entry.role == crate::messaging::Role::Messenger);
    let messengers = messengers.map(|entry| Arc::clone(&entry.name)).filter(|name| *name != shared.me).collect();
    let mut plan = Broadcast::new(targets.iter().map(ids).collect(), messengers);
    let mut under_way: FuturesUnordered<BoxFuture<'_, Ended>> = FuturesUnordered::new();
    loop {
        while under_way.len() < DIRECT_AT_ONCE
            && let Some(left) = left(deadline)
            && let Some(work) = plan.next_work()
        {
            let resent = plan.may_have_arrived(&work);
            under_way.push(Box::pin(perform(shared, message, work, left, resent)));
        }
        match under_way.next().await {
            Some(Ended::Sent(target, outcome)) => plan.sent(&target, outcome),
            Some(Ended::Relayed(slice, report)) => plan.relayed(slice, report),
            None => return plan.finish(&Outcome::DeadlinePassed { maybe_handled: true }),
        }
    }
}

enum Ended {
    Sent(Target, Outcome),
    Relayed(Slice, Result<Vec<(PacketId, Outcome)>, Outcome>),
}

async fn perform(shared: &Arc<Shared>, message: &Packet, work: Work, left: u64, resent: bool) -> Ended {
    match work {
        Work::Direct(target) => {
            let packet = Packet { id: target.id, deadline_in_ms: left, resent, ..message.clone() };
            let outcome = send_to(shared, &target.name, packet).await;
            Ended::Sent(target, outcome)
        }
        Work::Relay(slice) => {
            let share = (left * RELAY_SHARE / 100).max(1);
            let message = Packet { deadline_in_ms: share, resent, ..message.clone() };
            let report = ask_messenger(shared, &slice.messenger, &message, &slice.targets).await;
            Ended::Relayed(slice, report)
        }
    }
}

async fn send_to(shared: &Arc<Shared>, name: &str, packet: Packet) -> Outcome {
    match shared.directory.snapshot().get(name) {
        Some(entry) if entry.presence != Presence::Away => deliver(shared, entry, packet).await,
        Some(_) => Outcome::away(format!("the agent {name:?} is not in the fleet now")),
        None => Outcome::no_such_agent(format!("the fleet has no agent {name:?}")),
    }
}

/// Asks a messenger to pass a message on to these targets. Returns its report.
///
/// # Errors
/// The outcome of the request, if the messenger has not reported.
pub(super) async fn ask_messenger(
    shared: &Arc<Shared>,
    messenger: &str,
    message: &Packet,
    targets: &[Target],
) -> Result<Vec<(PacketId, Outcome)>, Outcome> {
    let target = |target: &Target| RelayTarget { agent: (*target.name).into(), id: target.id.to_bytes() };
    let wire =
        WirePacket { id: Default::default(), agent: String::new(), seq: 0, ..message.to_wire(message.deadline_in_ms) };
    let relay = Relay { message: Some(wire), targets: targets.iter().map(target).collect() };
    let packet = Packet {
        id: new_id(shared),
        kind: RELAY_TYPE.into(),
        payload: relay.encode_to_vec().into(),
        receiver: format!("agent:{messenger}").into(),
        agent: messenger.into(),
        requires_ack: true,
        reply_to: None,
        key_id: None,
        resent: false,
        ..message.clone()
    };
    let report = match send_to(shared, messenger, packet).await {
        Outcome::Accepted { reply: Some(reply), .. } => RelayReport::decode(reply).ok(),
        other => return Err(other),
    };
    // It has passed the message on, to whom is not known.
    let report = report.ok_or(Outcome::DeadlinePassed { maybe_handled: true })?;
    Ok(report.outcomes.into_iter().filter_map(|outcome| Outcome::from_wire(outcome).ok()).collect())
}

/// Passes on the message in a packet to this messenger, to all its targets. The reply is the report.
pub(super) async fn pass_on(shared: &Arc<Shared>, packet: &Packet, deadline: Instant) -> Outcome {
    let (message, targets) = match read(packet) {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    let mut waiting = targets.into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut outcomes = Vec::new();
    let mut replies = 0;
    loop {
        while under_way.len() < DIRECT_AT_ONCE
            && let Some(left) = left(deadline)
            && let Some((agent, id)) = waiting.next()
        {
            let message = Packet { id, deadline_in_ms: left, ..message.clone() };
            under_way.push(async move { (id, send_to(shared, &agent, message).await) });
        }
        match timeout_at(deadline, under_way.next()).await {
            Ok(Some((id, outcome))) => {
                let outcome = within(&mut replies, outcome);
                outcomes.push(outcome.to_wire(id));
            }
            // What is left gets no outcome: another way may be tried.
            Ok(None) | Err(_) => break,
        }
    }
    Outcome::accepted(Some(RelayReport { outcomes }.encode_to_vec().into()))
}

/// Drops a reply with which the report would become too large.
fn within(replies: &mut usize, outcome: Outcome) -> Outcome {
    let len = super::shared::reply_len(&outcome);
    if len == 0 || *replies + len > MAX_PAYLOAD {
        return match outcome {
            Outcome::Accepted { reply: Some(_), .. } => Outcome::Accepted { reply: None, reply_forgotten: len > 0 },
            outcome => outcome,
        };
    }
    *replies += len;
    outcome
}

pub(crate) type Targets = Vec<(Arc<str>, PacketId)>;

/// Reads what a messenger is asked to pass on. Only the sender's own messages are.
pub(crate) fn read(packet: &Packet) -> Result<(Packet, Targets), Outcome> {
    let relay = Relay::decode(packet.payload.clone()).map_err(Outcome::refused)?;
    if relay.targets.len() > MAX_TARGETS {
        return Err(Outcome::refused(format!(
            "a messenger passes a message on to at most {MAX_TARGETS} agents at once"
        )));
    }
    let wire = relay.message.ok_or_else(|| Outcome::refused("there is no message to pass on"))?;
    // The id and the agent are each target's.
    let wire = WirePacket { id: packet.id.to_bytes(), agent: (*packet.agent).into(), ..wire };
    let message = Packet::from_wire(wire).map_err(Outcome::refused)?;
    if message.sender != packet.sender || &*message.kind == RELAY_TYPE {
        return Err(Outcome::refused("a messenger passes on the sender's own messages alone"));
    }
    let targets = relay.targets.into_iter().map(|target| Ok((target.agent.into(), PacketId::from_bytes(&target.id)?)));
    let targets = targets.collect::<Result<Targets, _>>();
    Ok((message, targets.map_err(|error: crate::messaging::packet::PacketError| Outcome::refused(error))?))
}

/// Returns a new id for a packet.
pub(super) fn new_id(shared: &Shared) -> PacketId {
    PacketId(robeing_platform::uuid_v7(&*shared.clock, &*shared.random))
}
