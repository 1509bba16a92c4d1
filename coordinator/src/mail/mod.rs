//! Messages through the coordinators: from clients, and durable ones of agents.
//!
//! Each is a letter in the fleet's state, also one that is not durable: it expires when its sender stops waiting. So any
//! coordinator takes the call, any coordinator has the receiver's mailbox, and neither needs to know the other.
//!
//! ```text
//! api::messages ─► sending ─► propose ─► the log ─► observer ─┬─► mailboxes ─► api::mailbox ─► the agent
//!                     ▲                                       │                    │
//!                     └────────────── waiters ◄───────────────┴── the log ◄── its answers
//! ```
//!
//! - [`draft`] checks a message as a caller has sent it, [`address`] finds the agents that its address stands for, and
//!   [`sending`] posts it and waits for what becomes of it.
//! - [`resolving`] tells callers to whom a message would go, and the keys to seal it for them, before they send it.
//! - [`waiters`] are told of settled letters, and [`mailboxes`] of posted and settled ones. The effects of applied
//!   commands only wake a mailbox: which letters are sent next is read from the state, by [`window`].
//! - [`inboxes`] reads the inbox of an agent through its mailbox, wherever that is open.

pub mod address;
pub mod draft;
pub mod inboxes;
pub mod mailboxes;
pub mod resolving;
pub mod sending;
pub mod waiters;
pub mod window;

use ring::digest::{SHA256, digest};
use robeing_fleet::{Refusal, Role, limits::MAX_NAME_BYTES};
use robeing_identity::PeerRole;
use robeing_net::gate::Caller;

use crate::{
    api::convert::{BadField, peer_role},
    propose::ProposeError,
};

/// Why a message was not accepted, or a call about messages has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// A field of the request is invalid.
    #[error(transparent)]
    BadField(#[from] BadField),
    /// The state machine refuses it.
    #[error("{0}")]
    Refused(Refusal),
    /// It was not confirmed to be in the log.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The state can't be read now.
    #[error("{0}")]
    NotReadable(String),
    /// A broadcast would go to too many agents.
    #[error("the address stands for more than {most} agents, the most of one broadcast; send to pools one by one")]
    TooManyTargets {
        /// The limit.
        most: usize,
    },
    /// Too many callers wait here.
    #[error("calls wait here for the outcomes of {most} messages, the most; send again later, or durably")]
    TooManyWaiting {
        /// The limit.
        most: usize,
    },
    /// Too many bytes are being posted here.
    #[error("messages of {most} bytes are being posted here, the most; send again later, or at another coordinator")]
    TooMuchAtOnce {
        /// The limit, bytes.
        most: usize,
    },
    /// Too many callers ask for receivers here.
    #[error(
        "{most} calls ask here for the receivers of messages, the most; send again later, or at another coordinator"
    )]
    TooManyResolving {
        /// The limit.
        most: usize,
    },
    /// Callers ask for too many receivers here.
    #[error(
        "lists of {most} bytes of the receivers of messages are being made here, the most; send again later, or at \
         another coordinator"
    )]
    TooMuchResolved {
        /// The limit, bytes.
        most: usize,
    },
    /// No message of this id is known.
    #[error(
        "no message {id:?} of {sender}: it never existed, or its outcome is not kept any more (outcomes are kept for ten \
         minutes)"
    )]
    UnknownMessage {
        /// The id, as text.
        id: String,
        /// Who asks.
        sender: String,
    },
    /// No agent of this name is known.
    #[error("the fleet has no agent {0:?}; `robeing agents` lists those it has")]
    UnknownAgent(String),
    /// The agent has no open mailbox.
    #[error("the agent {0} has no mailbox open now, so its inbox can't be read; try again when it is back")]
    NoMailbox(String),
    /// The agent can't show its inbox.
    #[error("the agent {agent} does not show its inbox: {reason}")]
    InboxRefused {
        /// The agent.
        agent: String,
        /// What it says.
        reason: String,
    },
    /// Too many callers read the agent's inbox.
    #[error("{most} calls read the inbox of {agent} already, the most; try again later")]
    InboxBusy {
        /// The agent.
        agent: String,
        /// The limit.
        most: usize,
    },
    /// The agent has not answered in time.
    #[error("the agent {0} has not shown its inbox in time; try again")]
    InboxLate(String),
}

/// Number of hexadecimal digits that tell apart senders whose names are cut.
const CUT_DIGITS: usize = 16;

/// Returns the name under which a caller sends messages: an agent's own, or `client:NAME`. A name that is too long for a
/// message is cut, and ends with digits of its digest.
pub fn sender_name(caller: &Caller) -> String {
    let name = match caller {
        Caller::Member(peer) if peer.id.role().is_agent() => peer.id.name().to_owned(),
        Caller::Member(peer) => format!("{}:{}", peer.id.role(), peer.id.name()),
        Caller::User(user) => format!("client:{}", user.name),
        Caller::Plaintext | Caller::Anonymous => "client:anonymous".to_owned(),
    };
    if name.len() <= MAX_NAME_BYTES {
        return name;
    }
    let digits: String = digest(&SHA256, name.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let kept = &name[..name.floor_char_boundary(MAX_NAME_BYTES - CUT_DIGITS - 1)];
    format!("{kept}~{}", &digits[..CUT_DIGITS])
}

/// Returns the name of a sender without what its role puts before it, and the role as policies see it: of clients, and of
/// members that are no agents, the role is in the sender's name. `role_of` knows the roles of agents; the role of one that
/// it does not know is empty.
pub fn sender_and_role(sender: &str, role_of: impl FnOnce(&str) -> Option<Role>) -> (&str, &'static str) {
    let others = [PeerRole::Client, PeerRole::Operator, PeerRole::Coordinator];
    match sender.split_once(':') {
        Some((role, name)) => match others.into_iter().find(|other| other.as_str() == role) {
            Some(role) => (name, role.as_str()),
            None => (sender, ""),
        },
        None => (sender, role_of(sender).map_or("", |role| peer_role(role).as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::fixture::member;

    #[test]
    fn a_sender_is_named_by_its_certificate_or_token_and_clients_are_told_from_agents() {
        assert_eq!(sender_name(&member(PeerRole::Worker, "x")), "x");
        assert_eq!(sender_name(&member(PeerRole::Client, "x")), "client:x");
        assert_eq!(sender_name(&Caller::user("ann")), "client:ann");
        assert_eq!(sender_name(&Caller::Plaintext), "client:anonymous");
    }

    #[test]
    fn a_senders_role_is_in_its_name_or_known_to_the_fleet() {
        let of = |sender| sender_and_role(sender, |name| (name == "g").then_some(Role::Guardian));
        assert_eq!(of("client:ada"), ("ada", "client"));
        assert_eq!(of("client:system:serviceaccount:a:b"), ("system:serviceaccount:a:b", "client"));
        assert_eq!(of("operator:o"), ("o", "operator"));
        assert_eq!(of("g"), ("g", "guardian"));
        assert_eq!(of("ada"), ("ada", ""), "an agent of an unknown role is no client");
        assert_eq!(of("worker:ada"), ("worker:ada", ""));
    }

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let of = |last: &str| sender_name(&Caller::user(format!("{}{last}", "é".repeat(MAX_NAME_BYTES))));
        let (one, other) = (of("1"), of("2"));
        assert!(one.len() <= MAX_NAME_BYTES && other.len() <= MAX_NAME_BYTES && one != other, "{one} {other}");
        let fits = "n".repeat(MAX_NAME_BYTES - "client:".len());
        assert_eq!(sender_name(&Caller::user(fits.as_str())), format!("client:{fits}"));
    }
}
