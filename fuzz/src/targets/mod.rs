//! The targets. Each takes one input, and panics if the input is not handled as it must be: with a panic of a parser, or an
//! assertion here or in the module `fuzz` of the parser's crate.

mod connection;
mod decisions;
mod fleet;
mod gateway;
pub mod identity;
mod messages;
mod policies;
mod schedules;
pub mod votes;

use std::fmt;

use robeing_agent::executor::worker::fuzz as worker;
use robeing_coordinator::{
    fuzz as coordinator,
    raft::{self, log},
};

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also of the folder of its seeds.
    pub name: &'static str,
    /// The maximum length of an input that the fuzzer tries, bytes.
    pub max_len: usize,
    /// Runs one input. It panics if the input is not handled as it must be.
    pub run: fn(&[u8]),
}

impl Target {
    const fn new(name: &'static str, max_len: usize, run: fn(&[u8])) -> Self {
        Self { name, max_len, run }
    }
}

/// Maximum length of inputs that are a token, a name, or the like, bytes.
const SHORT: usize = 1_024;
/// Maximum length of inputs that are a message or a request, bytes.
const MESSAGE: usize = 4_096;
/// Maximum length of inputs that are a document or a state, bytes.
const DOCUMENT: usize = 16_384;

/// All targets, by name.
pub const TARGETS: &[Target] = &[
    Target::new("ballot_file", DOCUMENT, votes::ballot_file),
    Target::new("ballot_notice", MESSAGE, decisions::notice),
    Target::new("batch", MESSAGE, fleet::batch),
    Target::new("certificate", MESSAGE, identity::certificate),
    Target::new("command", MESSAGE, fleet::command),
    Target::new("connection", MESSAGE, connection::connection),
    Target::new("conversion", MESSAGE, gateway::conversion),
    Target::new("coordinator_messages", MESSAGE, robeing_agent::fuzz::coordinator_messages),
    Target::new("enrolment", MESSAGE, identity::enrolment),
    Target::new("gateway_cbor", MESSAGE, gateway::cbor),
    Target::new("gateway_event", MESSAGE, gateway::event),
    Target::new("gateway_request", MESSAGE, robeing_agent::fuzz::gateway_request),
    Target::new("join_token", SHORT, identity::join_token),
    Target::new("kubernetes_answer", MESSAGE, coordinator::kubernetes_answer),
    Target::new("letter", MESSAGE, robeing_agent::fuzz::letter),
    Target::new("log", MESSAGE, log::fuzz::log),
    Target::new("mailbox", MESSAGE, coordinator::mailbox),
    Target::new("manifest", DOCUMENT, policies::manifest),
    Target::new("message_address", SHORT, messages::address),
    Target::new("message_frame", MESSAGE, messages::frame),
    Target::new("message_journal", MESSAGE, messages::journal),
    Target::new("message_relayed", MESSAGE, robeing_agent::fuzz::relayed),
    Target::new("policy", MESSAGE, policies::policy),
    Target::new("protocol", DOCUMENT, messages::protocol),
    Target::new("raft_rpc", MESSAGE, raft::fuzz::rpc),
    Target::new("reply", MESSAGE, fleet::reply),
    Target::new("retry_after", SHORT, robeing_agent::fuzz::retry_after_of),
    Target::new("rights", MESSAGE, coordinator::rights),
    Target::new("send_message", MESSAGE, coordinator::send_message),
    Target::new("service_account_token", MESSAGE, identity::service_account_token),
    Target::new("session", MESSAGE, coordinator::session),
    Target::new("signing_request", SHORT, identity::signing_request),
    Target::new("snapshot", DOCUMENT, fleet::snapshot),
    Target::new("spiffe_id", SHORT, identity::spiffe_id),
    Target::new("stored_policies", MESSAGE, policies::stored),
    Target::new("submission", MESSAGE, coordinator::submission),
    Target::new("target_url", SHORT, gateway::url),
    Target::new("timetable", SHORT, schedules::timetable),
    Target::new("vote_binding", SHORT, votes::binding),
    Target::new("vote_envelope", MESSAGE, votes::envelope),
    Target::new("vote_reply", SHORT, decisions::reply),
    Target::new("webhooks", MESSAGE, gateway::webhooks),
    Target::new("worker_process", MESSAGE, worker::process),
];

/// Checks that a refusal is a sentence.
fn check_sentence(refusal: impl fmt::Display) {
    let text = refusal.to_string();
    assert!(text.contains(' '), "a refusal says what is wrong: {text:?}");
}
