//! Messages between agents: one stream for each pair of agents carries the packets of both directions, their outcomes,
//! and the credits by which a receiver slows down its sender.
//!
//! Invariants:
//!
//! 1. **One outcome.** Every send ends in exactly one [`Outcome`], at the latest when its deadline passes. `Accepted`
//!    and `Refused` mean that the receiver's handler decided so. `NoSuchAgent`, `Away` and `Overloaded` mean that the
//!    message was not handled. `DeadlinePassed` states whether it may have been.
//! 2. **Handled once.** A message that requires an acknowledgement is sent again after each reconnect until it has an
//!    outcome. The receiver recognizes its id within a window ([`memory`]), and reports the first outcome again instead
//!    of handling it a second time. With a data folder the receiver also recognizes it after a restart ([`journal`]):
//!    an outcome is on disk before it is reported. If the process dies between the effect of a handler and that record,
//!    the same id is handled again, marked as `resent`. A message without acknowledgement is written to a stream once.
//! 3. **In order.** The packets of one sender to one receiver in one priority are handled one after another, in the
//!    order in which they were sent, as long as they take the same way: directly, or through the same messenger. One that
//!    was put off is not handled after later ones of its link, also if the stream broke meanwhile.
//!    A packet of a higher priority overtakes those of lower ones, at the sender and at the receiver.
//! 4. **A slow receiver slows down its sender, and nobody else.** A sender sends only what the receiver has granted,
//!    lane by lane. What waits at a sender is bounded for each receiver and priority; beyond that, a send is
//!    `Overloaded` at once. Nothing waits for room while it holds up another receiver's messages.
//! 5. **Nobody speaks for another.** The name of the other side of a stream is its certificate's. A packet whose sender
//!    is another agent is refused and counted, unless a messenger passes it on.
//! 6. **One stream for each pair.** If both sides open one, both keep the same ([`pairing`]).
//! 7. **Bounded.** Packets, frames, queues, what is remembered, streams and pauses have named limits. A peer that
//!    exceeds what it was granted, or sends a malformed frame, loses its stream.
//! 8. **Sealed payloads are the receiver's.** What is sealed is opened by the receiver alone ([`sealing`]). In a fleet
//!    that speaks nothing but TLS, no payload passes a messenger unsealed. A reply to a sealed letter, and one that passes a
//!    messenger, is sealed for the sender of the message, if that can open it.
//! 9. **Pure cores.** [`outbox`], [`inbox`], [`memory`], [`pairing`], [`routing`], [`broadcast`], [`frame`] and [`wire`]
//!    perform no I/O, read no clock and draw no random numbers. [`sealing`] draws random numbers and does nothing else of
//!    that; I/O and clocks are left to [`driver`], [`journal`] and [`handlers`].

pub mod broadcast;
pub mod directory;
pub mod driver;
pub mod frame;
pub mod handlers;
pub mod inbox;
pub mod journal;
mod keys;
pub mod memory;
pub mod outbox;
pub mod outcome;
pub mod packet;
pub mod pairing;
pub mod policy;
pub mod routing;
pub mod sealing;
pub mod wire;

#[cfg(test)]
pub(crate) mod tests;

pub use self::{
    broadcast::BroadcastReport,
    directory::FleetDirectory,
    driver::{Messenger, Outgoing},
    keys::{KeyError, opening_key},
    outcome::Outcome,
    packet::{Packet, PacketId, Priority},
    policy::{MessagePolicy, NoPolicies, PolicyHolder},
    routing::{Address, Directory, Entry, Presence, Role, Snapshot},
};
