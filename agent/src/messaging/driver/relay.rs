//! Broadcasts, and what messengers pass on.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use prost::Message;
use robeing_platform::compute;
use robeing_proto::message::v1::{Packet as WirePacket, Relay, RelayReport, RelayTarget};
use tokio::{
    task::{coop::consume_budget, yield_now},
    time::{Instant, sleep, timeout_at},
};

use super::{
    replies::Report,
    shared::Shared,
    state::{SEALS_IN_A_ROW, Settled, reply_len},
};
use crate::messaging::{
    broadcast::{Broadcast, BroadcastReport, DIRECT_AT_ONCE, DIRECT_FANOUT, MAX_TARGETS, Slice, Target, Way, Work},
    outcome::Outcome,
    packet::{MAX_DEADLINE_MS, MAX_PAYLOAD, Packet, PacketId, RELAY_TYPE},
    routing::{Entry, Presence},
    sealing::{self, CARRIER, Content, SealingKey, WRAP_BYTES},
};

/// The part of a deadline that a messenger has for passing a message on, in percent, so that its report is in time for
/// another way.
const RELAY_SHARE: u64 = 60;
/// How often a task can use up a part of its budget before others have their turn, as tokio has it.
const BUDGET: usize = 128;

/// Returns the milliseconds until a deadline; `None` if it has passed.
pub(super) fn left(deadline: Instant) -> Option<u64> {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
    (left > 0).then_some(left.min(MAX_DEADLINE_MS))
}

/// Sends a packet to an agent, and waits for the outcome.
pub(super) async fn deliver(shared: &Arc<Shared>, to: &Entry, packet: Packet) -> Outcome {
    let packet = Packet { agent: Arc::clone(&to.name), ..packet };
    if let Err(error) = packet.validate() {
        return Outcome::refused(error);
    }
    if to.name == shared.me {
        return deliver_to_self(shared, packet).await;
    }
    let settled = match shared.post(to, packet, false) {
        Ok(settled) => settled,
        Err(outcome) => return outcome,
    };
    match settled.await {
        Ok(Settled::Outcome(outcome)) => outcome,
        // Nobody is told that an agent can't be reached who has not asked for it.
        Ok(Settled::Unreachable(_)) | Err(_) => leaving(),
    }
}

fn leaving() -> Outcome {
    Outcome::away("this agent is shutting down")
}

/// Gives a packet, which is within the limits, to this agent itself, and waits for the outcome. The reply to one of another
/// agent, which this one passes on as a messenger, is sealed: the peer that has asked for that may not be its
/// sender.
async fn deliver_to_self(shared: &Shared, packet: Packet) -> Outcome {
    let within = Duration::from_millis(packet.deadline_in_ms);
    let report = match shared.post_to_self(packet) {
        Err(report) => report,
        Ok(awaited) => tokio::select! {
            biased;
            report = awaited => report.unwrap_or_else(|_| Report::from(leaving())),
            // Nothing is handled any more, so nothing of this agent to itself is either.
            () = shared.stop.cancelled() => Report::from(Outcome::DeadlinePassed { maybe_handled: true }),
            // It may still wait for its turn, behind messages with later deadlines.
            () = sleep(within) => Report::from(Outcome::DeadlinePassed { maybe_handled: true }),
        },
    };
    let Report { outcome, seal } = report;
    let Some(seal) = seal else { return outcome };
    let outcome = compute(|| shared.sealed(outcome, &seal));
    // One task passes on to many targets, and each of them may be this agent.
    for _ in 0..BUDGET / SEALS_IN_A_ROW {
        consume_budget().await;
    }
    outcome
}

/// Sends a packet to each target, by way of messengers if there are many.
pub(super) async fn broadcast(
    shared: &Arc<Shared>,
    message: &Packet,
    targets: Vec<Arc<Entry>>,
    deadline: Instant,
) -> BroadcastReport {
    let snapshot = shared.directory.snapshot();
    let messengers = snapshot.messengers().map(|entry| Arc::clone(&entry.name));
    let messengers: Vec<_> = messengers.filter(|name| *name != shared.me).collect();
    let is_relayed = targets.len() > DIRECT_FANOUT && !messengers.is_empty() && message.key_id.is_none();
    // It has the limits of a payload, so it can be encrypted; otherwise it takes no other than the direct way.
    let content = is_relayed.then(|| compute(|| Content::new(&message.payload, &*shared.random)).ok());
    let way = |entry: &Entry| match (&content, &entry.sealing_key) {
        (Some(Some(_)), Some(_)) => Way::Sealed,
        (Some(_), _) if shared.connect.must_seal() => Way::Direct,
        _ => Way::Plain,
    };
    let planned =
        targets.iter().map(|entry| Target { name: Arc::clone(&entry.name), id: new_id(shared), way: way(entry) });
    let mut plan = Broadcast::new(planned.collect(), messengers);
    let content = content.flatten();
    let keys = targets.iter().filter_map(|entry| Some((&*entry.name, entry.sealing_key.as_ref()?))).collect();
    let sealed = content.as_ref().map(|content| Sealed { content, keys });
    let mut under_way: FuturesUnordered<BoxFuture<'_, Ended>> = FuturesUnordered::new();
    loop {
        while under_way.len() < DIRECT_AT_ONCE
            && let Some(left) = left(deadline)
            && let Some(work) = plan.next_work()
        {
            let resent = plan.may_have_arrived(&work);
            under_way.push(Box::pin(perform(shared, message, sealed.as_ref(), work, left, resent)));
        }
        match under_way.next().await {
            Some(Ended::Sent(target, outcome)) => plan.sent(&target, outcome),
            Some(Ended::Relayed(slice, report)) => plan.relayed(slice, report),
            None => return plan.finish(&Outcome::DeadlinePassed { maybe_handled: true }),
        }
    }
}

/// A broadcast as messengers see it.
struct Sealed<'a> {
    content: &'a Content,
    /// The keys of the receivers that have one.
    keys: HashMap<&'a str, &'a SealingKey>,
}

impl Sealed<'_> {
    /// Returns the targets of a slice with the wraps for them, and the message as the messenger gets it. A target for
    /// which nothing can be sealed is left out, so that it gets no outcome there. Other tasks go on meanwhile.
    async fn relay(&self, shared: &Shared, message: &Packet, targets: &[Target]) -> (Packet, Vec<RelayTarget>) {
        let mut relayed = Vec::with_capacity(targets.len());
        for group in targets.chunks(SEALS_IN_A_ROW) {
            compute(|| relayed.extend(group.iter().filter_map(|target| self.wrap(shared, message, target))));
            yield_now().await;
        }
        let payload = self.content.ciphertext().clone();
        (Packet { payload, key_id: Some(CARRIER.into()), ..message.clone() }, relayed)
    }

    fn wrap(&self, shared: &Shared, message: &Packet, to: &Target) -> Option<RelayTarget> {
        let key = self.keys.get(&*to.name)?;
        let about = sealing::About { id: to.id.0, agent: &to.name, ..sealing::about(message) };
        // Nobody reads the replies to a broadcast. They are sealed, so that no messenger does either.
        let (wrap, _unused) = self.content.wrap(&about, key, &*shared.random).ok()?;
        Some(RelayTarget { wrap, key_id: Content::key_id(key), ..target(&to.name, to.id) })
    }
}

enum Ended {
    Sent(Target, Outcome),
    Relayed(Slice, Result<Vec<(PacketId, Outcome)>, Outcome>),
}

async fn perform(
    shared: &Arc<Shared>,
    message: &Packet,
    sealed: Option<&Sealed<'_>>,
    work: Work,
    left: u64,
    resent: bool,
) -> Ended {
    match work {
        Work::Direct(target) => {
            let packet = Packet { id: target.id, deadline_in_ms: left, resent, ..message.clone() };
            let outcome = send_to(shared, &target.name, packet).await;
            Ended::Sent(target, outcome)
        }
        Work::Relay(slice) => {
            let share = (left * RELAY_SHARE / 100).max(1);
            let message = Packet { deadline_in_ms: share, resent, ..message.clone() };
            let is_sealed = slice.targets.first().is_some_and(|target| target.way == Way::Sealed);
            let (message, targets) = match sealed.filter(|_| is_sealed) {
                Some(sealed) => sealed.relay(shared, &message, &slice.targets).await,
                None => (message, slice.targets.iter().map(|to| target(&to.name, to.id)).collect()),
            };
            let report = ask_messenger(shared, &slice.messenger, &message, targets).await;
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

/// Returns a target of a relay that gets the message as it is.
pub(super) fn target(agent: &str, id: PacketId) -> RelayTarget {
    RelayTarget { agent: agent.to_owned(), id: id.to_bytes(), ..RelayTarget::default() }
}

/// Asks a messenger to pass a message on to these targets. Returns its report.
///
/// # Errors
/// The outcome of the request, if the messenger has not reported.
pub(super) async fn ask_messenger(
    shared: &Arc<Shared>,
    messenger: &str,
    message: &Packet,
    targets: Vec<RelayTarget>,
) -> Result<Vec<(PacketId, Outcome)>, Outcome> {
    let wire =
        WirePacket { id: Default::default(), agent: String::new(), seq: 0, ..message.to_wire(message.deadline_in_ms) };
    let relay = Relay { message: Some(wire), targets };
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

/// Passes on the message in a packet to this messenger, to all its targets. The reply is the report. Never ends if the
/// agent stops before all targets have decided: sends end then as well, with what nobody may rely on. The sender asks
/// again after the restart, and who has the message handles it once.
pub(super) async fn pass_on(shared: &Arc<Shared>, packet: &Packet, deadline: Instant) -> Outcome {
    let (message, targets) = match read(packet) {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    let mut waiting = targets.into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut outcomes = Vec::new();
    let (mut replies, mut is_decided) = (0, true);
    loop {
        while under_way.len() < DIRECT_AT_ONCE
            && let Some(left) = left(deadline)
            && let Some(target) = waiting.next()
        {
            let PassedTo { agent, id, .. } = target.clone();
            let message = Packet { deadline_in_ms: left, ..target.packet(&message) };
            under_way.push(async move { (id, send_to(shared, &agent, message).await) });
        }
        match timeout_at(deadline, under_way.next()).await {
            Ok(Some((id, outcome))) => {
                is_decided &= is_final(&outcome);
                let outcome = within(&mut replies, outcome);
                outcomes.push(outcome.to_wire(id));
            }
            // What is left gets no outcome: another way may be tried.
            Ok(None) | Err(_) => break,
        }
    }
    if shared.stop.is_cancelled() && !is_decided {
        return std::future::pending().await;
    }
    Outcome::accepted(Some(RelayReport { outcomes }.encode_to_vec().into()))
}

/// Returns whether a target's outcome is what it stays, also if the messenger that passes the message on stops.
fn is_final(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Accepted { .. } | Outcome::Refused { .. } | Outcome::Sent)
}

/// Drops a reply with which the report would become too large.
fn within(replies: &mut usize, outcome: Outcome) -> Outcome {
    let len = reply_len(&outcome);
    if len == 0 || *replies + len > MAX_PAYLOAD {
        return match outcome {
            Outcome::Accepted { reply: Some(_), .. } if len == 0 => Outcome::accepted(None),
            Outcome::Accepted { reply: Some(_), .. } => Outcome::reply_forgotten(),
            outcome => outcome,
        };
    }
    *replies += len;
    outcome
}

/// An agent to which a messenger passes a message on.
#[derive(Clone)]
pub(crate) struct PassedTo {
    agent: Arc<str>,
    id: PacketId,
    /// Of a content: the id of the agent's key, and the content's key, wrapped for it.
    wrapped: Option<(Arc<str>, Bytes)>,
}

impl PassedTo {
    /// Returns the agent's packet. It has its own wrap, and no other's.
    fn packet(&self, message: &Packet) -> Packet {
        let packet = Packet { id: self.id, ..message.clone() };
        match &self.wrapped {
            Some((key_id, wrap)) => {
                let payload = Content::payload(wrap, &message.payload);
                Packet { payload, key_id: Some(Arc::clone(key_id)), ..packet }
            }
            None => packet,
        }
    }

    fn read(target: RelayTarget, is_content: bool) -> Result<Self, Outcome> {
        let id = PacketId::from_bytes(&target.id).map_err(Outcome::refused)?;
        let RelayTarget { agent, wrap, key_id, .. } = target;
        if wrap.len() != if is_content { WRAP_BYTES } else { 0 } {
            return Err(Outcome::refused(format!(
                "a messenger passes on an encrypted content with a key of {WRAP_BYTES} bytes for each agent, and anything \
                 else without"
            )));
        }
        Ok(Self { agent: agent.into(), id, wrapped: is_content.then(|| (key_id.into(), wrap)) })
    }
}

pub(crate) type Targets = Vec<PassedTo>;

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
    let is_content = message.key_id.as_deref() == Some(CARRIER);
    let targets = relay.targets.into_iter().map(|target| PassedTo::read(target, is_content));
    Ok((message, targets.collect::<Result<Targets, _>>()?))
}

/// Returns a new id for a packet.
pub(super) fn new_id(shared: &Shared) -> PacketId {
    PacketId(robeing_platform::uuid_v7(&*shared.clock, &*shared.random))
}
