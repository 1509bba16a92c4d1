//! What an agent does with the messages that it receives.

pub mod command;
pub mod http;
pub mod inbox;
mod start;
pub mod worker;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use robeing_target::TargetError;
use tokio::time::Instant;

pub use self::{
    command::CommandHandler,
    http::HttpHandler,
    inbox::InboxHandler,
    start::{AttachedOrInbox, Started, start},
    worker::{MessengerPost, WorkerHandler},
};
use super::{inbox::MAX_HANDLING, outcome::Outcome, packet::Packet};
use crate::executor::{CertificatesError, ExecutorError};

/// Why a handler can't be created from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The URL does not parse, or is not an absolute http or https URL.
    #[error("the URL {url:?} for messages can't be called ({reason}); write it as http://HOST:PORT/PATH")]
    BadUrl {
        /// The URL as given, without credentials.
        url: String,
        /// What is wrong with it.
        reason: TargetError,
    },
    /// The trusted certificates can't be read, so an https URL can't be called.
    #[error("{url:?} can't be called without trusted certificates: {source}")]
    Certificates {
        /// The URL as given, without credentials.
        url: String,
        /// Why there are no trusted certificates.
        source: CertificatesError,
    },
    /// The command for messages can't be run.
    #[error("the command for messages can't be run: {0}")]
    Command(#[from] ExecutorError),
}

/// A message for a handler.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message. `resent`: an earlier delivery may have had an effect, for example before the agent restarted.
    pub packet: Packet,
    /// When the sender stops waiting. The handler's future is dropped then.
    pub deadline: Instant,
}

/// What a handler decides about a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerOutcome {
    /// It has handled the message.
    Accepted {
        /// A reply to the sender, at most [`MAX_REPLY`](super::outcome::MAX_REPLY) bytes.
        reply: Option<Bytes>,
    },
    /// It refuses the message.
    Refused {
        /// A human-readable sentence; at most [`MAX_REASON`](super::outcome::MAX_REASON) bytes are kept.
        reason: String,
    },
}

impl From<HandlerOutcome> for Outcome {
    fn from(outcome: HandlerOutcome) -> Self {
        match outcome {
            HandlerOutcome::Accepted { reply } => Self::accepted(reply),
            HandlerOutcome::Refused { reason } => Self::refused(reason),
        }
    }
}

/// Handles the messages of an agent.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles one message. The next message of the same sender and priority waits for the outcome, but the notices of
    /// ballots do not wait for each other. While a handler cannot take a message, it waits: that slows down the sender.
    /// Once the deadline passes, the future is dropped and the message counts as maybe handled.
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome;

    /// Returns how many messages may be handled at once, at least 1.
    fn at_once(&self) -> usize {
        MAX_HANDLING
    }

    /// Returns the handler's name: `inbox`, `http`, `command` or `worker`.
    fn name(&self) -> &'static str;
}

#[async_trait]
impl<H: Handler + ?Sized> Handler for Arc<H> {
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome {
        (**self).deliver(delivery).await
    }

    fn at_once(&self) -> usize {
        (**self).at_once()
    }

    fn name(&self) -> &'static str {
        (**self).name()
    }
}
