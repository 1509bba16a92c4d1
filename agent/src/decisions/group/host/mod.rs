//! The replica of one group, driven by one task: it takes verified messages, timers and questions of clients, syncs the
//! records, and only then sends what depends on them.

mod changing;
mod fetching;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use robeing_bft::{
    Verified,
    certificate::{Decision, Endorsement},
    crypto::{Digest, Ed25519, Ed25519Signer, Signer},
    epoch::{EpochChange, Handover, Membership},
    error::StartError,
    limits::MAX_PENDING_PER_CLIENT,
    message::{Message, Operation, Request},
    replica::{Event, Input, Outcome, Outputs, Replica, Timer, TimerChange, TimerId},
};
use robeing_groups::{
    Group, Ledger,
    ballot::Refusal,
    exchange::{MAX_PAGE, MAX_PAGE_BYTES, Page, Status},
};
use robeing_votes::Base64;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::info;

use super::{
    ballots::{KnownBallot, OpenBallot, known, open_for},
    inbox::Inbound,
    limits::STEPS_PER_SYNC,
    missing::Missing,
    post::{Peers, Post},
    storage::{Folder, Store, StoreError},
};

/// How long the task sleeps while no timer is set.
const IDLE: Duration = Duration::from_secs(3_600);

/// Why a member does not take part any more.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Its disk failed, or was lost.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The records are of no replica of the group.
    #[error("the records of the group {group:?} can't be used: {error}")]
    Start {
        /// The group.
        group: String,
        /// The cause.
        error: StartError,
    },
    /// The key on the disk is none.
    #[error("the key of the group {0:?} can't be used; remove its folder, and form a new group")]
    Key(String),
    /// The disk is of another member.
    #[error(
        "the disk of the group {group:?} is of its member {found:?}, and this agent is another one: start the agent \
         under that name, or give it a data folder of its own"
    )]
    Name {
        /// The group.
        group: String,
        /// Whose disk it is.
        found: String,
    },
    /// The replica has halted.
    #[error("this member of the group {group:?} has halted: {fault}; it is faulty, or more members are than may be")]
    Halted {
        /// The group.
        group: String,
        /// The cause.
        fault: String,
    },
}

impl HostError {
    /// Returns whether the member may be able to take part later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_temporary())
    }
}

/// Why a call is not decided.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDecided {
    /// It is about a ballot, and changes nothing.
    #[error("the group has refused it: {0}")]
    Refused(Refusal),
    /// The group does not know what it is.
    #[error("the group has refused it: it is nothing that it knows")]
    Unknown,
    /// It may be decided if it is called again.
    #[error("{0}")]
    Later(String),
}

/// What clients ask the replica.
pub enum Command {
    /// To have a call decided; returns the number of the decision.
    Propose {
        /// The [`Call`](robeing_groups::Call), encoded.
        call: Bytes,
        /// Gets the number.
        done: oneshot::Sender<Result<u64, NotDecided>>,
    },
    /// What a ballot has come to.
    Ballot {
        /// The ballot.
        id: Digest,
        /// Gets that, if there is such a ballot.
        done: oneshot::Sender<Option<KnownBallot>>,
    },
    /// To approve the next epoch, if the group has.
    Approve {
        /// The next members.
        next: Membership,
        /// Gets the approval, or why there is none.
        done: oneshot::Sender<Result<Endorsement, String>>,
    },
    /// To end the epoch; returns the number of the decision.
    Change {
        /// The next members, approved.
        change: EpochChange,
        /// Gets the number.
        done: oneshot::Sender<Result<u64, NotDecided>>,
    },
    /// What has ended the epoch.
    Handover {
        /// Gets that, if it has ended and that is proved.
        done: oneshot::Sender<Option<Arc<Handover>>>,
    },
    /// To read decisions.
    Read {
        /// The number of the first one.
        from: u64,
        /// How many.
        limit: u32,
        /// Gets them.
        done: oneshot::Sender<Page>,
    },
    /// How it is doing.
    Show {
        /// Gets that.
        done: oneshot::Sender<Status>,
    },
}

/// What a replica gets.
pub struct Queues {
    /// From other members.
    pub inbox: mpsc::Receiver<Inbound>,
    /// From clients.
    pub commands: mpsc::Receiver<Command>,
    /// Gets the ballots that are open.
    pub ballots: watch::Sender<Vec<OpenBallot>>,
}

enum Arrived {
    Message(Box<Verified>),
    Command(Command),
    Missing(Vec<Decision>),
    Timer,
}

/// The replica of one group.
pub struct Host {
    group: Arc<Group>,
    signer: Ed25519Signer,
    store: Store,
    replica: Replica<Ledger>,
    peers: Peers,
    post: Arc<dyn Post>,
    timers: BTreeMap<Timer, (TimerId, Instant)>,
    /// Who waits for the results of this member's requests, by their numbers.
    waiting: BTreeMap<u64, oneshot::Sender<Result<u64, NotDecided>>>,
    /// What has ended the epoch.
    handover: Option<Arc<Handover>>,
    /// Up to this one no decision is missing on the disk.
    complete: u64,
    missing: Missing,
    fetching: Option<AbortOnDropHandle<Vec<Decision>>>,
    next_fetch: Instant,
    fetched_from: usize,
}

impl Host {
    /// Starts the replica from its disk.
    ///
    /// # Errors
    /// [`HostError`] if it must not, or can't.
    pub async fn start(folder: &Folder, group: &Arc<Group>, me: &str, post: &Arc<dyn Post>) -> Result<Self, HostError> {
        let (store, identity, records) = folder.open_in(group.epoch().number).await?;
        let name = || group.name().to_owned();
        let signer = Ed25519Signer::from_seed(&identity.seed).ok_or_else(|| HostError::Key(name()))?;
        let ledger = Ledger::of(group.epoch().scope());
        let initial = match group.initial() {
            Some(initial) => initial.clone(),
            None => folder.initial(group.epoch().number).await?,
        };
        let started = Replica::start(group.epoch(), ledger, &initial, records, &signer);
        let (replica, outputs) = started.map_err(|error| HostError::Start { group: name(), error })?;
        store.check_age(replica.executed().0)?;
        let found = group.names().nth(usize::from(replica.id().0)).unwrap_or_default().to_owned();
        if found != me {
            return Err(HostError::Name { group: name(), found });
        }
        info!(group = group.name(), decided = replica.executed().0, "this agent decides in a group");
        let mut host = Self {
            group: Arc::clone(group),
            signer,
            store,
            replica,
            peers: Peers::start(group, me, post),
            post: Arc::clone(post),
            timers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            handover: None,
            complete: 0,
            missing: Missing::default(),
            fetching: None,
            next_fetch: Instant::now(),
            fetched_from: 0,
        };
        host.carry_out(outputs).await?;
        Ok(host)
    }

    /// Takes part until `stop` is cancelled.
    ///
    /// # Errors
    /// [`HostError`] if the disk fails, or the replica halts.
    pub async fn run(&mut self, queues: &mut Queues, stop: &CancellationToken) -> Result<(), HostError> {
        self.publish(queues);
        while let Some(arrived) = self.next(queues, stop).await {
            let mut outputs = Outputs::default();
            match arrived {
                Arrived::Message(message) => self.take(message, &mut outputs),
                Arrived::Command(command) => self.answer(command, &mut outputs).await?,
                // What was executed before now is synced.
                Arrived::Missing(decisions) => {
                    let wanted = self.complete + 1..=self.replica.executed().0;
                    self.store.fill(&decisions, wanted).await?;
                    self.pass_over(&decisions);
                }
                Arrived::Timer => {
                    // What a timer waits for may have come during the last sync.
                    self.take_waiting(queues, &mut outputs);
                    self.fire(&mut outputs);
                }
            }
            self.take_waiting(queues, &mut outputs);
            self.carry_out(outputs).await?;
            self.publish(queues);
            self.fetch_missing();
        }
        Ok(())
    }

    /// Tells which ballots are open: what was executed before now is synced.
    fn publish(&self, queues: &Queues) {
        let open = open_for(self.replica.application().ballots(), &self.signer.public_key());
        queues.ballots.send_if_modified(|known| {
            let is_new = *known != open;
            *known = open;
            is_new
        });
    }

    /// Waits for the next thing to do; `None` once the agent stops.
    async fn next(&mut self, queues: &mut Queues, stop: &CancellationToken) -> Option<Arrived> {
        let timers = self.timers.values().map(|(_, at)| *at).min();
        let wake = timers.unwrap_or_else(|| Instant::now() + IDLE);
        let arrived = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            // A flood of messages must not keep timers from firing.
            () = sleep_until(wake) => Arrived::Timer,
            decisions = fetching::fetched(&mut self.fetching) => Arrived::Missing(decisions),
            Some(command) = queues.commands.recv() => Arrived::Command(command),
            Some(Inbound { message, room }) = queues.inbox.recv() => {
                drop(room);
                Arrived::Message(Box::new(message))
            }
        };
        Some(arrived)
    }

    /// Takes messages that wait: several steps share one sync.
    fn take_waiting(&mut self, queues: &mut Queues, outputs: &mut Outputs) {
        for _ in 1..STEPS_PER_SYNC {
            let Ok(Inbound { message, room }) = queues.inbox.try_recv() else { break };
            drop(room);
            self.take(Box::new(message), outputs);
        }
    }

    fn take(&mut self, message: Box<Verified>, outputs: &mut Outputs) {
        if self.replica.wants(message.message()) {
            self.step(Input::Message(message), outputs);
        }
    }

    fn step(&mut self, input: Input, outputs: &mut Outputs) {
        let step = self.replica.step(input, &self.signer);
        // Timers that a step has set are known to the next one.
        self.set_timers(&step);
        outputs.sync.extend(step.sync);
        outputs.messages.extend(step.messages);
        outputs.decided.extend(step.decided);
        outputs.outcomes.extend(step.outcomes);
        outputs.events.extend(step.events);
        outputs.handover = step.handover.or(outputs.handover.take());
    }

    fn set_timers(&mut self, outputs: &Outputs) {
        for change in &outputs.timers {
            match *change {
                TimerChange::Set { id, after_ms, .. } => {
                    let at = Instant::now() + Duration::from_millis(after_ms);
                    self.timers.insert(id.timer, (id, at));
                }
                TimerChange::Cancel(timer) => {
                    self.timers.remove(&timer);
                }
            }
        }
    }

    fn fire(&mut self, outputs: &mut Outputs) {
        let now = Instant::now();
        let due: Vec<TimerId> = self.timers.values().filter(|(_, at)| *at <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.timers.remove(&id.timer);
            self.step(Input::Timer(id), outputs);
        }
    }

    /// Syncs, then sends, then answers.
    async fn carry_out(&mut self, outputs: Outputs) -> Result<(), HostError> {
        self.set_timers(&outputs);
        let Outputs { sync, messages, decided, outcomes, events, handover, .. } = outputs;
        self.store.save(sync, &decided).await?;
        self.handover = handover.map(Arc::from).or(self.handover.take());
        for (to, message) in messages {
            self.peers.send(to, &message);
        }
        for outcome in outcomes {
            self.conclude(&outcome);
        }
        events.into_iter().try_for_each(|event| self.report(event))?;
        self.end_waiting();
        Ok(())
    }

    /// Passes on the result of a request of this member.
    fn conclude(&mut self, outcome: &Outcome) {
        if outcome.client != self.signer.public_key() {
            return;
        }
        if let Some(done) = self.waiting.remove(&outcome.id) {
            let decided = Ledger::result(&outcome.result).map(|seq| seq.0).or(self.end_of(&outcome.result));
            let refused = || Ledger::refusal(&outcome.result).map_or(NotDecided::Unknown, NotDecided::Refused);
            // Who asked may have stopped waiting.
            let _ = done.send(decided.ok_or_else(refused));
        }
    }

    fn report(&mut self, event: Event) -> Result<(), HostError> {
        let group = self.group.name();
        match event {
            Event::ViewChange(view) => info!(group, view = view.0, "the members of a group wait for another primary"),
            Event::NewView(view) => info!(group, view = view.0, "the members of a group have another primary"),
            Event::Restored { from, to } => {
                info!(group, from = from.0, to = to.0, "decisions were skipped, and are got from other members");
                self.complete = self.complete.min(from.0.saturating_sub(1));
                self.missing = Missing::default();
                // Whether their proposals are among the skipped ones is not known here.
                for done in std::mem::take(&mut self.waiting).into_values() {
                    let _ = done.send(later("this member has skipped decisions; propose it again".to_owned()));
                }
            }
            Event::Refused { client, id, why } if client == self.signer.public_key() => {
                if let Some(done) = self.waiting.remove(&id) {
                    let _ = done.send(later(format!("the proposal is not accepted now: {why}; propose it again")));
                }
            }
            Event::Refused { .. } | Event::Stable(_) => {}
            Event::Halted(fault) => {
                return Err(HostError::Halted { group: group.to_owned(), fault: fault.to_string() });
            }
        }
        Ok(())
    }

    async fn answer(&mut self, command: Command, outputs: &mut Outputs) -> Result<(), HostError> {
        match command {
            Command::Propose { call, done } => self.propose(Operation::Call(call), done, outputs).await?,
            Command::Change { change, done } => {
                self.propose(Operation::NewEpoch(Box::new(change)), done, outputs).await?;
            }
            Command::Approve { next, done } => {
                let _ = done.send(self.approve(&next));
            }
            Command::Handover { done } => {
                let _ = done.send(self.handover.clone());
            }
            Command::Read { from, limit, done } => {
                let limit = limit.clamp(1, MAX_PAGE) as usize;
                let (found, last) = (self.store.find(from, limit, MAX_PAGE_BYTES), self.replica.executed().0);
                // There are as many as questions of clients are answered at once. None holds up the replica.
                tokio::spawn(async move {
                    let decisions = found.read().await.into_iter().map(Base64).collect();
                    let _ = done.send(Page { decisions, last });
                });
            }
            Command::Ballot { id, done } => {
                let ballot = self.replica.application().ballots().get(&id);
                let _ = done.send(ballot.map(|ballot| known(ballot, self.group.epoch().scope(), &self.signer)));
            }
            Command::Show { done } => {
                let (view, active) = self.replica.view();
                let (decided, stable) = (self.replica.executed().0, self.replica.stable().0);
                let _ = done.send(Status { view: view.0, active, decided, stable, problem: String::new() });
            }
        }
        Ok(())
    }

    async fn propose(
        &mut self,
        operation: Operation,
        done: oneshot::Sender<Result<u64, NotDecided>>,
        outputs: &mut Outputs,
    ) -> Result<(), HostError> {
        // While this member could not take part, who asked may have given up.
        if done.is_closed() {
            return Ok(());
        }
        self.waiting.retain(|_, done| !done.is_closed());
        if self.waiting.len() >= MAX_PENDING_PER_CLIENT {
            let _ = done.send(later(format!("{MAX_PENDING_PER_CLIENT} proposals wait here; propose it again later")));
            return Ok(());
        }
        let id = self.store.next_request().await?;
        let epoch = self.group.epoch();
        let request = Request::sign(epoch.scope(), id, operation, &self.signer);
        match Verified::check(Message::Request(request), epoch, &Ed25519) {
            Ok(verified) => {
                self.waiting.insert(id, done);
                self.step(Input::Message(Box::new(verified)), outputs);
            }
            Err(error) => {
                let _ = done.send(later(format!("the proposal can't be made: {error}")));
            }
        }
        Ok(())
    }
}

fn later(reason: String) -> Result<u64, NotDecided> {
    Err(NotDecided::Later(reason))
}
