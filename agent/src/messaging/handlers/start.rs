//! Creates the handler that the settings specify.

use std::sync::Arc;

use async_trait::async_trait;
use robeing_fleet::NOTICE_KIND;
use robeing_settings::MessagesSpec;
use tokio::sync::watch;

use super::{
    CommandHandler, Delivery, Handler, HandlerError, HandlerOutcome, HttpHandler, InboxHandler, WorkerHandler,
};
use crate::executor::{CommandConfig, Limits, WorkerMail, start_guard};

/// A handler, and the inbox that it may fill.
pub struct Started {
    /// Handles the messages.
    pub handler: Arc<dyn Handler>,
    /// The built-in inbox, if messages may get into it.
    pub inbox: Option<Arc<InboxHandler>>,
}

/// Creates the handler of an agent's messages. `mail` leads to attached processes, if processes can attach.
///
/// # Errors
/// If the settings are invalid, or the handler can't be started.
pub fn start(spec: Option<&MessagesSpec>, mail: Option<Arc<WorkerMail>>) -> Result<Started, HandlerError> {
    let inbox = Arc::new(InboxHandler::default());
    let handler: Arc<dyn Handler> = match (spec, mail) {
        (Some(MessagesSpec::Command(command)), _) => {
            let config = CommandConfig { argv: command.argv.clone(), limits: Limits::default(), guard: None };
            config.check_program()?;
            Arc::new(CommandHandler::new(CommandConfig { guard: start_guard(), ..config })?)
        }
        (Some(MessagesSpec::Http(http)), _) => Arc::new(HttpHandler::new(&http.url)?),
        (Some(MessagesSpec::Worker {}), Some(mail)) => Arc::new(WorkerHandler(mail)),
        (None, Some(mail)) => {
            let readers = mail.readers();
            let handler = AttachedOrInbox { attached: WorkerHandler(mail), inbox: Arc::clone(&inbox), readers };
            return Ok(Started { handler: Arc::new(handler), inbox: Some(inbox) });
        }
        (Some(MessagesSpec::Inbox {} | MessagesSpec::Worker {}) | None, _) => {
            return Ok(Started { handler: Arc::clone(&inbox) as Arc<dyn Handler>, inbox: Some(inbox) });
        }
    };
    Ok(Started { handler, inbox: None })
}

/// Passes messages to attached processes while there are any that handle messages, and otherwise to the inbox. Only the
/// notice of a ballot waits for a process if one was attached before: the inbox would accept it, and the agent would
/// not vote because its process is just connecting again.
pub struct AttachedOrInbox {
    attached: WorkerHandler,
    inbox: Arc<InboxHandler>,
    /// The number of processes that handle messages. This has seen the number at the start alone.
    readers: watch::Receiver<usize>,
}

impl AttachedOrInbox {
    /// Returns whether a process that handles messages is attached, or was since the start.
    fn had_reader(&self) -> bool {
        *self.readers.borrow() > 0 || self.readers.has_changed().unwrap_or(false)
    }
}

#[async_trait]
impl Handler for AttachedOrInbox {
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome {
        let is_attached = *self.readers.borrow() > 0;
        // An attached process may be gone when it is chosen; then the message waits for the next one.
        if is_attached || (&*delivery.packet.kind == NOTICE_KIND && self.had_reader()) {
            self.attached.deliver(delivery).await
        } else {
            self.inbox.deliver(delivery).await
        }
    }

    fn name(&self) -> &'static str {
        "worker"
    }
}
