//! The agent's mailbox: messages that come through the coordinators, from clients and as durable ones of other agents.
//!
//! A stream to any coordinator brings the letters that wait in the fleet's log for this agent, and takes the handler's
//! decisions back. What the coordinators have no decision about they send again, to this process or the next one.
//!
//! Invariants:
//!
//! 1. **Only decisions are answers.** A letter is answered when the handler has accepted or refused it. One that could
//!    not be handled now, or not in the time of one delivery, is delivered again, until it expires.
//! 2. **Handled once.** A letter that is held is not delivered again when it arrives again. After that the messenger
//!    recognizes its id ([`memory`](crate::messaging::memory)), and its first outcome is reported again.
//! 3. **In order.** The letters of one sender in one priority are handed on one after another, in the order in which they
//!    were posted. One that can't be taken now holds up those after it; one whose time for a delivery has passed does
//!    not, and comes again after them. The notices of ballots do not wait for each other.
//! 4. **Bounded.** The stream carries so many letters without answer at once. It is opened only while no more are held,
//!    and closed if the coordinator sends more than [`MAX_HELD`](held::MAX_HELD), or takes no answers.
//! 5. **An answer survives the stream.** It is kept until it is written to a stream, also to another coordinator.

pub(crate) mod driver;
pub mod held;
pub mod port;
pub mod sending;
#[cfg(test)]
mod tests;

pub use self::{
    driver::{Deps, run},
    port::{LetterPort, MessengerPort},
    sending::{DurableSender, NotSent},
};
