//! What goes into a replica, and what comes out.

use std::fmt;

use bytes::Bytes;

use crate::{
    Verified,
    certificate::{Checkpoint, Decision, Seq, View},
    crypto::{Context, PublicKey, Signer},
    epoch::{Handover, ReplicaId, Scope},
    message::{Message, Reply, Signed},
    record::Record,
};

/// An input.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message arrived, from whomever, or a local client makes a request.
    Message(Box<Verified>),
    /// A timer fired.
    Timer(TimerId),
    /// The host has other evidence that the primary of this view is gone. If the replica is in this view, or waits for
    /// it, it moves on as if the view's timer had fired.
    Suspect(View),
}

/// The timers of a replica. There is at most one of each kind; setting it replaces it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Timer {
    /// The current view takes too long (1999, section 4.4).
    View,
    /// Something may have been lost, and is sent again (2002, section 5.2).
    Resend,
}

/// A timer as it was set. If it was set again since, its firing is ignored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TimerId {
    /// Which one.
    pub timer: Timer,
    /// How often timers had been set before.
    pub token: u64,
}

/// A change of a timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerChange {
    /// The timer fires once, after this time.
    Set {
        /// The timer.
        id: TimerId,
        /// The view that it is about.
        view: View,
        /// The time until it fires, in milliseconds.
        after_ms: u64,
    },
    /// The timer does not fire.
    Cancel(Timer),
}

/// A change of the records on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sync {
    /// Appends a record.
    Append(Record),
    /// Replaces all records by these, at once or not at all. Happens at each stable checkpoint, and so bounds the
    /// records (1999, section 4.3).
    Replace(Vec<Record>),
}

/// Who gets a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// All other members.
    All,
    /// One other member.
    One(ReplicaId),
}

/// The result of a request at this replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The client.
    pub client: PublicKey,
    /// The request's id.
    pub id: u64,
    /// The result.
    pub result: Bytes,
}

impl Outcome {
    /// Signs the result, for a client that is not this process.
    pub fn reply(self, scope: &Scope, me: ReplicaId, signer: &dyn Signer) -> Signed<Reply> {
        let Self { client, id, result } = self;
        Signed::sign(Context::Reply, scope.domain(), me, Reply { client, id, result }, signer)
    }
}

/// Something that the host may report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The replica moved towards a view and takes part in no lower one any more.
    ViewChange(View),
    /// The replica accepted a view.
    NewView(View),
    /// A checkpoint became stable.
    Stable(Checkpoint),
    /// The replica got a state from others and skipped the decisions up to it; the host can get them from other
    /// members, and verify each by itself.
    Restored {
        /// The first skipped decision.
        from: Seq,
        /// The last skipped decision.
        to: Seq,
    },
    /// A request was not accepted.
    Refused {
        /// The client.
        client: PublicKey,
        /// The request's id.
        id: u64,
        /// The reason.
        why: Refusal,
    },
    /// The replica takes part in nothing any more.
    Halted(Fault),
}

/// Why a request is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Its id is too far below the client's highest one.
    TooOld,
    /// Too many requests wait already; the client has to repeat it later.
    Full,
    /// The epoch has ended; the client has to sign it for the next one.
    Ended,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooOld => "it is older than many that were made later",
            Self::Full => "too many wait already",
            Self::Ended => "the epoch has ended",
        })
    }
}

/// Why a replica halts. Each is an error of this process or of more than f members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A quorum has another state after this sequence number.
    Diverged(Seq),
    /// The application's state is too large.
    StateTooLarge(Seq),
    /// The application cannot read a snapshot.
    Snapshot(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Diverged(Seq(number)) => write!(f, "a quorum has another state after decision {number}"),
            Self::StateTooLarge(Seq(number)) => write!(f, "the state after decision {number} is too large"),
            Self::Snapshot(problem) => write!(f, "it can't read a snapshot of the state: {problem}"),
        }
    }
}

/// What a host has to do after a step, in this order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outputs {
    /// Changes of the records, in order. They are on disk before anything else below happens. Several steps may share
    /// one sync.
    pub sync: Vec<Sync>,
    /// Messages to other members.
    pub messages: Vec<(To, Message)>,
    /// Changes of timers, in order.
    pub timers: Vec<TimerChange>,
    /// Decisions, in the order of their sequence numbers and without gaps, except after [`Event::Restored`]. A host
    /// that keeps the log writes them with the same sync as the records: those up to a stable checkpoint are not in the
    /// records any more.
    pub decided: Vec<Decision>,
    /// Results for clients.
    pub outcomes: Vec<Outcome>,
    /// What happened besides.
    pub events: Vec<Event>,
    /// The epoch has ended, and this starts the next one.
    pub handover: Option<Box<Handover>>,
}

/// What a step writes to and signs with.
pub(super) struct Cx<'a> {
    pub out: Outputs,
    pub signer: &'a dyn Signer,
}

impl<'a> Cx<'a> {
    pub fn new(signer: &'a dyn Signer) -> Self {
        Self { out: Outputs::default(), signer }
    }

    pub fn append(&mut self, record: Record) {
        self.out.sync.push(Sync::Append(record));
    }

    pub fn broadcast(&mut self, message: Message) {
        self.out.messages.push((To::All, message));
    }

    pub fn send(&mut self, to: ReplicaId, message: Message) {
        self.out.messages.push((To::One(to), message));
    }

    pub fn event(&mut self, event: Event) {
        self.out.events.push(event);
    }
}
