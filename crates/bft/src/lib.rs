//! Practical Byzantine fault tolerance: n ≥ 4 members agree on an ordered log of decisions although f = ⌊(n−1)/3⌋ of
//! them lie. Written from M. Castro, B. Liskov, "Practical Byzantine Fault Tolerance" (OSDI 1999; here "1999"), and
//! "Practical Byzantine Fault Tolerance and Proactive Recovery" (TOCS 2002; here "2002"), in the variant with
//! signatures: every message that proves something to third parties is signed.
//!
//! The crate does no I/O, reads no clock, draws no random numbers and starts no threads. A host
//!
//! 1. decodes what arrives ([`message::Message::decode`]) and verifies it ([`Verified::check`]), on any thread;
//! 2. calls [`replica::Replica::step`] with one [`replica::Input`] at a time;
//! 3. carries out the [`replica::Outputs`]: first syncs the records, then sends the messages, sets the timers, and
//!    uses the decisions.
//!
//! What the host has to keep for the promises to hold:
//!
//! - The identity of a disk ([`record::Record::Identity`]) is random, is written once, before the group admits the
//!   member, and is never copied. A member whose records are lost, cut or older than the last sync must not start
//!   again; it enrols anew, and the next epoch admits it.
//! - The private key signs for one replica of the epoch at a time.
//! - Decisions are written with the same sync as the records of their step.
//! - A member approves the next epoch ([`epoch::Membership::approve`]) only for reasons of its own: not because someone
//!   else, such as a coordinator, says so.
//!
//! What is not promised: a primary can delay requests for almost the timeout of the view and choose their order; more
//! than f liars break agreement (a test shows it); the batch of a proposal that was prepared without any honest member
//! keeping it can be missing for as long as such views follow each other, since each member keeps
//! [`limits::BODIES_PER_SLOT`] batches for a sequence number.
//!
//! | module | job |
//! |---|---|
//! | [`limits`] | all limits |
//! | [`quorum`] | f, quorums, weak certificates |
//! | [`crypto`], [`wire`] | digests, signatures and their contexts; the canonical encoding |
//! | [`epoch`] | members, keys and parameters, which are fixed for an epoch; how one epoch decides on the next |
//! | [`message`] | what replicas and clients send |
//! | [`certificate`] | what is proven by a quorum of signatures, and [`certificate::Decision`], which anyone can verify |
//! | [`verify`] | the checks of a message that need no state |
//! | [`new_view`] | what a new view must propose, computed from its view changes |
//! | [`application`], [`state`], [`clients`] | what executes requests; its checkpoints; that each request runs once |
//! | [`replica`] | the protocol itself: one file for each part |
//! | [`record`] | what a replica writes to disk, and its identity there |
//! | [`client`] | the client's side: numbering requests, counting replies |
//! | [`sabotage`] | mistakes that tests plant |

pub mod application;
pub mod certificate;
pub mod client;
pub mod clients;
pub mod crypto;
pub mod epoch;
pub mod error;
pub mod limits;
pub mod message;
pub mod new_view;
pub mod pending;
pub mod quorum;
pub mod record;
pub mod replica;
pub mod sabotage;
pub mod state;
pub mod verify;
pub mod wire;

pub use verify::Verified;
