//! Calls of the Messages service. They are retried like all others: the caller draws the ids of messages, and a message
//! that is sent again with its id is handled once.

use std::time::Duration;

use robeing_proto::v1::{
    GetMessageRequest, MessageStatus, ReadInboxRequest, ReadInboxResponse, SendMessageRequest, SendMessageResponse,
    messages_client::MessagesClient,
};
use tonic::{Code, Response, Status};
use uuid::Uuid;

use super::{ClientError, FleetClient, Wire, limited};

/// Maximum time that a coordinator may take to answer after the wait that a call asks for.
const AFTER_WAIT: Duration = Duration::from_secs(3);

/// Generates an id for a message.
pub fn new_message_id() -> String {
    Uuid::now_v7().to_string()
}

/// Returns the wait that a request asks for; none if it is negative or unset.
fn wait(asked: Option<prost_types::Duration>) -> Duration {
    asked.and_then(|asked| Duration::try_from(asked).ok()).unwrap_or_default()
}

impl FleetClient {
    /// Sends a message, and returns what became of it. `request.id` must be set, so that a retry is the same message;
    /// see [`new_message_id`]. Unless the message is durable, the call takes up to `request.deadline`, which must be
    /// set, too.
    pub async fn send_message(&self, request: SendMessageRequest) -> Result<SendMessageResponse, ClientError> {
        let extra = if request.durable { Duration::ZERO } else { wait(request.deadline) };
        self.call_messages(extra, |mut rpc| {
            let request = request.clone();
            async move { rpc.send_message(request).await }
        })
        .await
    }

    /// Returns what became of a message. [`ClientError::NotFound`] if the fleet does not know it, or not any more.
    pub async fn get_message(&self, request: GetMessageRequest) -> Result<MessageStatus, ClientError> {
        let extra = wait(request.wait);
        self.call_messages(extra, |mut rpc| {
            let request = request.clone();
            async move { rpc.get_message(request).await }
        })
        .await
    }

    /// Returns messages in the built-in inbox of an agent. Messages that are taken out by a call whose answer gets lost
    /// are lost with it.
    pub async fn read_inbox(&self, request: ReadInboxRequest) -> Result<ReadInboxResponse, ClientError> {
        let extra = wait(request.wait);
        self.call_messages(extra, |mut rpc| {
            let request = request.clone();
            async move { rpc.read_inbox(request).await }
        })
        .await
    }

    /// Makes a call of the Messages service, as [`FleetClient::call`] does, that may take `extra` longer.
    async fn call_messages<T, F, A>(&self, extra: Duration, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(MessagesClient<Wire>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let extra = if extra.is_zero() { extra } else { extra + AFTER_WAIT };
        self.call_for(extra, |target| {
            let call = attempt(limited!(MessagesClient::new(self.wire(target))));
            async move {
                // A fleet of the version before is one, though it has no such service.
                call.await.map_err(|status| match status.code() {
                    Code::Unimplemented => Status::failed_precondition(
                        "this fleet has no messages yet: upgrade its coordinators to this version",
                    ),
                    _ => status,
                })
            }
        })
        .await
    }
}
