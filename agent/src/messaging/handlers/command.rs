//! Runs a command for each message, with the payload on its stdin.
//!
//! The command gets the agent's environment plus `ROBEING_MESSAGE_ID`, `_SENDER`, `_RECEIVER`, `_TYPE`, `_PRIORITY`,
//! `_TIMESTAMP_MS`, `_DEADLINE_IN_MS`, `_RESENT` (`true` or `false`), and where there is one `_REPLY_TO` and `_KEY_ID`, each
//! with the prefix `ROBEING_MESSAGE`. Exit code 0 accepts the message, and stdout is the reply if it is not empty. Any
//! other end refuses it, with the end of stderr as the reason. A command that can't be started, because the agent
//! temporarily lacks something, is started again until the message's deadline.
//!
//! Commands run as tasks of the `command` executor do: in a process group of their own that is killed with them, also
//! when the deadline passes or the agent dies.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Delivery, Handler, HandlerError, HandlerOutcome};
use crate::{
    executor::{AttemptLog, CommandConfig, CommandExecutor, Limits, Outcome as Ran, command::Work},
    messaging::{
        outcome::{MAX_REASON, MAX_REPLY},
        packet::Packet,
    },
};

/// Maximum number of commands that run at once for messages.
pub const MAX_COMMANDS: usize = 8;
/// The pause before a command that could not be started is started again.
pub const START_AGAIN: Duration = Duration::from_secs(1);

/// Runs a command for each message.
pub struct CommandHandler {
    command: CommandExecutor,
}

impl CommandHandler {
    /// Creates the handler and the thread that starts its commands.
    ///
    /// # Errors
    /// [`HandlerError`] if `argv` names no program or can't be passed to one, or the thread can't be started.
    pub fn new(config: CommandConfig) -> Result<Self, HandlerError> {
        let limits = Limits { max_output: MAX_REPLY, stderr_tail: MAX_REASON, ..config.limits };
        let command = CommandExecutor::new(CommandConfig { limits, ..config })?;
        Ok(Self { command })
    }
}

fn work(packet: &Packet, deadline: Instant) -> Work {
    let left = deadline.saturating_duration_since(Instant::now());
    let env = vec![
        ("ROBEING_MESSAGE_ID", Some(packet.id.to_string())),
        ("ROBEING_MESSAGE_SENDER", Some((*packet.sender).into())),
        ("ROBEING_MESSAGE_RECEIVER", Some((*packet.receiver).into())),
        ("ROBEING_MESSAGE_TYPE", Some((*packet.kind).into())),
        ("ROBEING_MESSAGE_PRIORITY", Some(packet.priority.get().to_string())),
        ("ROBEING_MESSAGE_TIMESTAMP_MS", Some(packet.timestamp_ms.to_string())),
        ("ROBEING_MESSAGE_DEADLINE_IN_MS", Some(left.as_millis().to_string())),
        ("ROBEING_MESSAGE_RESENT", Some(packet.resent.to_string())),
        ("ROBEING_MESSAGE_REPLY_TO", packet.reply_to.map(|id| id.to_string())),
        ("ROBEING_MESSAGE_KEY_ID", packet.key_id.as_deref().map(Into::into)),
    ];
    let log = AttemptLog::default();
    Work { env, input: packet.payload.clone(), time_limit: None, allowance: None, log }
}

#[async_trait]
impl Handler for CommandHandler {
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome {
        let Delivery { packet, deadline } = delivery;
        loop {
            match self.command.run_with(work(&packet, deadline), CancellationToken::new()).await {
                Ran::Succeeded { output } => {
                    return HandlerOutcome::Accepted { reply: Some(output).filter(|output| !output.is_empty()) };
                }
                Ran::Failed(failure) => {
                    let reason = match failure.stderr_tail.trim() {
                        "" => failure.message,
                        tail => tail.to_owned(),
                    };
                    return HandlerOutcome::Refused { reason };
                }
                Ran::Suspended { .. } => {
                    return HandlerOutcome::Refused {
                        reason: "a message can't wait for subtasks, only a task".to_owned(),
                    };
                }
                Ran::NotBegun | Ran::Cancelled => tokio::time::sleep(START_AGAIN).await,
            }
        }
    }

    fn at_once(&self) -> usize {
        MAX_COMMANDS
    }

    fn name(&self) -> &'static str {
        "command"
    }
}
