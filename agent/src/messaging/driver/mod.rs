//! Sends and receives messages: the tasks around the pure parts.
//!
//! Each other agent with which there is something to exchange has a link, whose task opens the stream and reads it
//! ([`link`]). What is written is taken from the link by gRPC itself ([`written`]). A dispatcher hands what arrives to the
//! handler ([`dispatch`]). All of them share the links ([`state`]), the inbox and who waits for what ([`shared`]). A lock is
//! held for the time of a look-up. Two are held at once only in these orders: links before link, link before inbox, own
//! messages before inbox, letters before inbox, and inbox before copies.

mod connect;
mod copies;
mod detour;
mod dispatch;
mod early;
mod firsts;
#[cfg(test)]
mod fixture;
mod letters;
mod link;
mod metrics;
pub(crate) mod relay;
mod replies;
mod service;
mod shared;
mod state;
mod written;

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use robeing_platform::Platform;
use robeing_proto::message::raw::messages_server::MessagesServer;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    connect::{Certified, Connect, HELLO_WITHIN, Peer, Plaintext},
    detour::MAX_DETOURS,
    letters::MAX_LETTERS,
    link::{IDLE_AFTER, LINGER},
    metrics::{MessagingMetrics, SentCount},
    service::{Authentication, Service},
    shared::{MAX_ASKS, MAX_LINKS, MAX_OUTGOING},
    state::{MAX_UNSENT, MAX_UNSENT_BYTES, SEALS_IN_A_ROW},
    written::OUTGOING_FRAMES,
};
use self::{
    detour::Begun,
    early::Turn,
    replies::ForMessengers,
    shared::{Parts, Shared},
};
use super::{
    broadcast::BroadcastReport,
    frame::MAX_FRAME_BYTES,
    handlers::Handler,
    inbox::Inbox,
    journal::{Journal, JournalError},
    memory::Memory,
    outcome::Outcome,
    packet::{DEFAULT_DEADLINE_MS, Packet, PacketError, PacketId, Priority, RELAY_TYPE},
    policy::MessagePolicy,
    routing::{Address, Directory, Entry, Role, Unresolved},
    sealing::{self, OpeningKey, SealingKey},
};

/// What a messenger of an agent is made of.
pub struct Deps {
    /// The agent's name.
    pub name: Arc<str>,
    /// Its role; one that is `Messenger` passes on messages of others.
    pub role: Role,
    /// Knows the other agents.
    pub directory: Arc<dyn Directory>,
    /// Opens connections to them.
    pub connect: Arc<dyn Connect>,
    /// Clock, disk and randomness.
    pub platform: Platform,
    /// Handles messages.
    pub handler: Arc<dyn Handler>,
    /// Decides about what arrives before it is handled.
    pub policy: Arc<dyn MessagePolicy>,
    /// Open sealed payloads before they are handled. Without any, the handler gets them as they are.
    pub keys: Vec<OpeningKey>,
    /// The agent's data folder, for what it must remember across restarts. `None`: in memory.
    pub data: Option<PathBuf>,
    /// The metrics.
    pub metrics: MessagingMetrics,
    /// Ends all streams. Messages without an outcome are `Away` then.
    pub stop: CancellationToken,
}

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its id; `None`: a new one. A message that is sent again with its id is handled once.
    pub id: Option<PacketId>,
    /// Whom it is for.
    pub to: Address,
    /// What kind of message it is, 1 to 128 bytes.
    pub kind: String,
    /// Its payload, at most 1 MiB.
    pub payload: Bytes,
    /// Its priority.
    pub priority: Priority,
    /// Whether to wait until the receiver's handler has decided.
    pub requires_ack: bool,
    /// How long it may take, 1 ms to 10 minutes.
    pub deadline: Duration,
    /// The message that it replies to.
    pub reply_to: Option<PacketId>,
    /// The id of the receiver's key, if the payload is sealed.
    pub key_id: Option<String>,
}

impl Outgoing {
    /// Returns a message with default priority and deadline that requires an acknowledgement.
    pub fn new(to: Address, kind: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            id: None,
            to,
            kind: kind.into(),
            payload: payload.into(),
            priority: Priority::default(),
            requires_ack: true,
            deadline: Duration::from_millis(DEFAULT_DEADLINE_MS),
            reply_to: None,
            key_id: None,
        }
    }
}

/// A reply to an ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The agent that replied.
    pub from: Arc<str>,
    /// The reply.
    pub payload: Bytes,
}

/// Why an ask has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoReply {
    /// The message was not accepted.
    #[error("the message was not accepted: {0}")]
    NotAccepted(Outcome),
    /// The message was accepted, with a reply that is not kept any more, or that is too large for the way of a messenger.
    #[error(
        "{0:?} has accepted the message, but its reply is not kept any more, or too large for a messenger to bring; \
         ask again with a new id, or for less"
    )]
    Forgotten(Arc<str>),
    /// The message was accepted, and the reply that a messenger brought is sealed, but not so that this agent can open it.
    #[error("{0:?} has replied, but what a messenger brought of that can't be opened; ask again with a new id")]
    Unopened(Arc<str>),
    /// The message was accepted, and no reply came before the deadline.
    #[error("{0:?} has accepted the message, but has not replied before the deadline")]
    Late(Arc<str>),
}

/// Sends and receives the messages of an agent. Cheap to clone; clones are one messenger.
#[derive(Clone)]
pub struct Messenger {
    shared: Arc<Shared>,
}

impl Messenger {
    /// Starts a messenger.
    ///
    /// # Errors
    /// [`JournalError`] if the journal in the data folder can't be opened.
    pub async fn start(deps: Deps) -> Result<Self, JournalError> {
        let started = Instant::now();
        let id = deps.platform.random.next_u64();
        let (journal, memory) = match &deps.data {
            Some(folder) => Journal::open(Arc::clone(&deps.platform.disk), folder, id, 0).await?,
            None => (Journal::in_memory(id), Memory::default()),
        };
        let shared = Arc::new(Shared::new(Parts {
            me: deps.name,
            role: deps.role,
            journal: journal.id(),
            directory: deps.directory,
            connect: deps.connect,
            clock: deps.platform.clock,
            random: deps.platform.random,
            metrics: deps.metrics,
            stop: deps.stop,
            started,
            policy: deps.policy,
            keys: deps.keys,
            inbox: Inbox::new(memory, deps.handler.at_once()),
        }));
        let recorder = deps.data.is_some().then(|| {
            let (recorder, queue) = dispatch::queue();
            shared.tasks.spawn(dispatch::record(Arc::clone(&shared), journal, queue));
            recorder
        });
        if let Some(changes) = shared.directory.changes() {
            shared.tasks.spawn(follow(Arc::clone(&shared), changes));
        }
        shared.tasks.spawn(dispatch::run(Arc::clone(&shared), deps.handler, recorder));
        Ok(Self { shared })
    }

    /// Returns the gRPC service for the agent's listener.
    pub fn service(&self, authentication: Authentication) -> MessagesServer<Service> {
        let service = Service { shared: Arc::clone(&self.shared), authentication };
        MessagesServer::new(service)
            .max_decoding_message_size(MAX_FRAME_BYTES)
            .max_encoding_message_size(MAX_FRAME_BYTES)
    }

    /// Waits until all tasks have ended, after `stop` was cancelled.
    pub async fn stopped(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Returns the name of this agent.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.me
    }

    /// Returns the number of other agents with which there is a stream, or to which messages wait.
    pub fn links(&self) -> usize {
        self.shared.link_count()
    }

    /// Sends a message to the one agent that its address stands for, and waits for what becomes of it. If the future is
    /// dropped, the message is sent nevertheless.
    pub async fn send(&self, message: Outgoing) -> Outcome {
        let begun = match self.is_early() {
            false => self.begin(&message),
            true => Box::pin(self.begin_later(message)).await,
        };
        match begun {
            Ok((to, begun)) => begun.outcome(&self.shared, &to).await,
            Err(outcome) => outcome,
        }
    }

    /// Begins to send a message once the fleet's agents are known, and those are on their way that were to be sent before.
    async fn begin_later(&self, message: Outgoing) -> Result<(Arc<Entry>, Begun), Outcome> {
        let (message, _turn) = self.turn(message).await?;
        self.begin(&message)
    }

    fn begin(&self, message: &Outgoing) -> Result<(Arc<Entry>, Begun), Outcome> {
        let (entry, packet) = self.route(message)?;
        self.count(message, &entry);
        let begun = Begun::begin(&self.shared, &entry, packet);
        Ok((entry, begun))
    }

    /// Seals a message for the one agent that its address stands for, whose key this is, so that no messenger can read
    /// it. The result is for that agent alone, and has its id.
    ///
    /// # Errors
    /// The outcome, if the address stands for no agent, or the payload can't be sealed.
    pub fn seal(&self, message: Outgoing, key: &SealingKey) -> Result<Outgoing, Outcome> {
        let (entry, mut packet) = self.route(&message)?;
        sealing::seal(&mut packet, key, &*self.shared.random).map_err(Outcome::refused)?;
        Ok(Outgoing {
            id: Some(packet.id),
            to: Address::Agent(Arc::clone(&entry.name)),
            payload: packet.payload,
            key_id: Some(key.id()),
            ..message
        })
    }

    /// Seals a message for the one agent that its address stands for, also if that is away, so that it can wait in the
    /// fleet's log: nobody will be able to read the receiver's reply. One that is sealed already is left as it is. If the
    /// fleet's agents are not known yet, it waits for that `within` this time.
    ///
    /// # Errors
    /// The outcome, if the address stands for no agent, or for one without a key, or the message is malformed; `Away` if
    /// the fleet's agents have not become known.
    pub async fn seal_letter(&self, message: Outgoing, within: Duration) -> Result<Outgoing, Outcome> {
        if message.key_id.is_some() {
            return Ok(message);
        }
        let deadline = message.deadline;
        let turn = Box::pin(self.turn(Outgoing { deadline: within, ..message })).await;
        let (message, _turn) = turn.map_err(|outcome| match outcome {
            Outcome::DeadlinePassed { .. } => Outcome::away(
                "this agent does not know the fleet's agents yet, so the message can't be sealed for one; send it again",
            ),
            outcome => outcome,
        })?;
        let message = Outgoing { deadline, ..message };
        let (snapshot, id) = (self.shared.directory.snapshot(), self.id_of(&message));
        let entry = match &message.to {
            Address::Agent(name) => snapshot.get(name).cloned().ok_or_else(|| {
                Outcome::no_such_agent(format!(
                    "the directory has no agent {name:?}, for which a message could be sealed"
                ))
            }),
            to => to.resolve_one(&snapshot, &self.shared.me, id.spread()).map_err(unresolved),
        }?;
        let mut packet = self.packet(&message, id, &entry.name).map_err(Outcome::refused)?;
        let key = entry.sealing_key.as_ref().ok_or_else(|| {
            Outcome::refused(format!("{:?} has no key for sealed messages, so none is kept for it", entry.name))
        })?;
        sealing::seal_letter(&mut packet, key, &*self.shared.random).map_err(Outcome::refused)?;
        Ok(Outgoing {
            id: Some(id),
            to: Address::Agent(Arc::clone(&entry.name)),
            payload: packet.payload,
            key_id: packet.key_id.as_deref().map(str::to_owned),
            ..message
        })
    }

    /// Sends a message to one agent by way of a messenger, for agents that can't reach each other.
    pub async fn send_via(&self, messenger: &str, message: Outgoing) -> Outcome {
        let (entry, packet) = match self.route(&message) {
            Ok(routed) => routed,
            Err(outcome) => return outcome,
        };
        let Some(sealed) = ForMessengers::new(&self.shared, &entry, &packet) else {
            return Outcome::away(format!(
                "{:?} has no key for sealed messages, so none can go by a messenger",
                entry.name
            ));
        };
        self.count(&message, &entry);
        let targets = vec![relay::target(&entry.name, packet.id)];
        let report = match relay::ask_messenger(&self.shared, messenger, &sealed.packet, targets).await {
            Ok(report) => report,
            Err(Outcome::Accepted { .. }) => Vec::new(),
            Err(outcome) => return outcome,
        };
        let reported = report.into_iter().find(|(id, _)| *id == packet.id).map(|(_, outcome)| outcome);
        match reported {
            Some(outcome) => sealed.opened(&self.shared.keys, outcome),
            None => Outcome::DeadlinePassed { maybe_handled: true },
        }
    }

    /// Sends a message to one agent, and waits for its reply: that of its handler, or a message of that agent with
    /// `reply_to`. Both count until the message's deadline.
    ///
    /// # Errors
    /// [`NoReply`] if the message is not accepted, or no reply comes.
    pub async fn ask(&self, message: Outgoing) -> Result<Reply, NoReply> {
        let deadline = Instant::now() + message.deadline;
        let (message, turn) = Box::pin(self.turn(message)).await.map_err(NoReply::NotAccepted)?;
        let (entry, packet) = self.route(&message).map_err(NoReply::NotAccepted)?;
        self.count(&message, &entry);
        let (id, from) = (packet.id, Arc::clone(&entry.name));
        let packet = Packet { requires_ack: true, ..packet };
        let mut reply = self.shared.expect_reply(id, Arc::clone(&from)).map_err(NoReply::NotAccepted)?;
        let begun = Begun::begin(&self.shared, &entry, packet);
        drop(turn);
        let answer = async {
            let outcome = tokio::select! {
                biased;
                // A reply may overtake the acknowledgement.
                Ok(packet) = &mut reply => return Ok(packet.payload),
                outcome = begun.outcome(&self.shared, &entry) => outcome,
            };
            match outcome {
                Outcome::Accepted { reply: Some(payload), .. } => Ok(payload),
                Outcome::Accepted { reply_forgotten: true, .. } => Err(NoReply::Forgotten(Arc::clone(&from))),
                Outcome::Accepted { reply_is_sealed: true, .. } => Err(NoReply::Unopened(Arc::clone(&from))),
                Outcome::Accepted { .. } => match timeout_at(deadline, reply).await {
                    Ok(Ok(packet)) => Ok(packet.payload),
                    _ => Err(NoReply::Late(Arc::clone(&from))),
                },
                outcome => Err(NoReply::NotAccepted(outcome)),
            }
        };
        let answer = answer.await;
        self.shared.forget_reply(id);
        answer.map(|payload| Reply { from, payload })
    }

    /// Sends a message to all active agents that its address stands for but this one, and waits for what becomes of it.
    /// To many agents it goes by way of messengers.
    ///
    /// # Errors
    /// The outcome, if the message is malformed or the address stands for no agent.
    pub async fn broadcast(&self, message: Outgoing) -> Result<BroadcastReport, Outcome> {
        let deadline = Instant::now() + message.deadline;
        let (message, turn) = self.turn(message).await?;
        drop(turn);
        let snapshot = self.shared.directory.snapshot();
        let targets = message.to.resolve_all(&snapshot, &self.shared.me).map_err(unresolved)?;
        let packet = self.packet(&message, self.id_of(&message), &self.shared.me).map_err(Outcome::refused)?;
        // One, however many get it: guardians compare what an agent does, and not how many others there are.
        if message.reply_to.is_none() && !targets.is_empty() {
            self.shared.metrics.sends();
        }
        Ok(relay::broadcast(&self.shared, &packet, targets, deadline).await)
    }

    /// Returns whether a message must wait: the directory has not told this agent yet who is there, or others wait for that.
    fn is_early(&self) -> bool {
        !self.shared.early.is_over(|| self.shared.knows_fleet())
    }

    /// Waits until the fleet's agents are known, which takes a moment after the start of this one, and until all messages
    /// are on their way that were to be sent before. Returns the message with the time that is left for it, and what lets
    /// the next one go when it is dropped.
    async fn turn(&self, message: Outgoing) -> Result<(Outgoing, Option<Turn<'_>>), Outcome> {
        let Some(mut changes) = self.is_early().then(|| self.shared.directory.changes()).flatten() else {
            return Ok((message, None));
        };
        let began = Instant::now();
        let turn = async {
            let turn = self.shared.early.turn().await;
            let _ = changes.wait_for(|changes| *changes > 0).await;
            turn
        };
        let turn = tokio::select! {
            biased;
            () = self.shared.stop.cancelled() => return Err(Outcome::away("this agent is shutting down")),
            turn = timeout_at(began + message.deadline, turn) => turn,
        };
        let turn = turn.map_err(|_| Outcome::DeadlinePassed { maybe_handled: false })?;
        // A deadline is at least a millisecond.
        let deadline = message.deadline.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        Ok((Outgoing { deadline, ..message }, Some(turn)))
    }

    fn route(&self, message: &Outgoing) -> Result<(Arc<Entry>, Packet), Outcome> {
        let snapshot = self.shared.directory.snapshot();
        // A message that is sent again with the same id goes to the same agent, which recognizes it, as long as the
        // directory is the same.
        let id = self.id_of(message);
        let entry = message.to.resolve_one(&snapshot, &self.shared.me, id.spread()).map_err(unresolved)?;
        let packet = self.packet(message, id, &entry.name).map_err(Outcome::refused)?;
        Ok((entry, packet))
    }

    /// Counts a message that this agent sends of its own accord. One that replies to another is not: who asks would decide
    /// how many there are.
    fn count(&self, message: &Outgoing, to: &Entry) {
        if message.reply_to.is_none() && to.name != self.shared.me {
            self.shared.metrics.sends();
        }
    }

    fn id_of(&self, message: &Outgoing) -> PacketId {
        message.id.unwrap_or_else(|| relay::new_id(&self.shared))
    }

    fn packet(&self, message: &Outgoing, id: PacketId, agent: &Arc<str>) -> Result<Packet, PacketError> {
        if message.kind == RELAY_TYPE {
            return Err(PacketError::Reserved);
        }
        let (receiver, kind) = self.shared.texts(&message.to, &message.kind);
        let packet = Packet {
            id,
            // A new id begins with the time.
            timestamp_ms: message.id.map_or_else(|| id.created_ms(), |_| self.shared.clock.unix_millis()),
            sender: Arc::clone(&self.shared.me),
            receiver,
            agent: Arc::clone(agent),
            kind,
            payload: message.payload.clone(),
            priority: message.priority,
            requires_ack: message.requires_ack,
            deadline_in_ms: u64::try_from(message.deadline.as_millis()).unwrap_or(u64::MAX),
            reply_to: message.reply_to,
            key_id: message.key_id.as_deref().map(Into::into),
            seq: 0,
            resent: false,
        };
        packet.validate()?;
        Ok(packet)
    }
}

/// Makes the links look at the directory when it has changed, so that the streams of agents that were barred, or are
/// gone, end.
async fn follow(shared: Arc<Shared>, mut changes: watch::Receiver<u64>) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        shared.wake_links();
    }
}

fn unresolved(error: Unresolved) -> Outcome {
    match error {
        Unresolved::NoSuchAgent(reason) => Outcome::no_such_agent(reason),
        Unresolved::Away(_) => Outcome::away(error),
        Unresolved::Several(_) => Outcome::refused(error),
    }
}
