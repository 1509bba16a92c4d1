//! Calls of the Messages service. They are retried like all others: the caller draws the ids of messages, and a message
//! that is sent again with its id is handled once.

use std::time::Duration;

use robeing_platform::{OsRandom, compute};
use robeing_proto::v1::{
    GetMessageRequest, MessageStatus, ReadInboxRequest, ReadInboxResponse, ResolveMessageRequest,
    ResolveMessageResponse, SendMessageRequest, SendMessageResponse, messages_client::MessagesClient,
};
use robeing_sealing::letters::{self, Prepared};
use tonic::{Code, Response, Status};
use uuid::Uuid;

use super::{
    ClientError, FleetClient, Wire,
    calls::{Repeat, too_old},
    limited,
};

/// Maximum time that a coordinator may take to answer after the wait that a call asks for.
pub(super) const AFTER_WAIT: Duration = Duration::from_secs(3);

/// What a coordinator is said to be that does not know for whom to seal a message.
const TOO_OLD: &str = "this fleet's coordinators do not say for which keys to seal messages, and no message is sent \
                       unsealed to a fleet with TLS: upgrade them to this version";

/// Generates an id for a message.
pub fn new_message_id() -> String {
    Uuid::now_v7().to_string()
}

/// Returns the wait that a request asks for; none if it is negative or unset.
pub(super) fn wait(asked: Option<prost_types::Duration>) -> Duration {
    asked.and_then(|asked| Duration::try_from(asked).ok()).unwrap_or_default()
}

impl FleetClient {
    /// Sends a message, and returns what became of it. `request.id` must be set, so that a retry is the same message;
    /// see [`new_message_id`]. Unless the message is durable, the call takes up to `request.deadline`, which must be
    /// set, too.
    pub async fn send_message(&self, request: SendMessageRequest) -> Result<SendMessageResponse, ClientError> {
        let extra = if request.durable { Duration::ZERO } else { wait(request.deadline) };
        self.call_messages(Repeat::AtOnce, extra, |mut rpc| {
            let request = request.clone();
            async move { rpc.send_message(request).await }
        })
        .await
    }

    /// Seals a message for its receivers, sends it, and returns what became of it, with the replies opened. Takes what
    /// [`FleetClient::send_message`] takes. It is sent as it is if it is sealed already, and to a fleet that accepts
    /// plaintext also if a receiver has no key, or the coordinators do not tell the keys. Otherwise it is not sent to
    /// receivers without a key.
    pub async fn send_sealed(&self, request: SendMessageRequest) -> Result<Vec<MessageStatus>, ClientError> {
        match self.prepared(request).await? {
            Prepared::Plain(request) => Ok(self.send_message(request).await?.outcomes),
            Prepared::Sealed(mut sealed) => {
                let outcomes = match sealed.request.take() {
                    Some(request) => self.send_message(request).await?.outcomes,
                    None => Vec::new(),
                };
                Ok(sealed.finish(outcomes))
            }
        }
    }

    async fn prepared(&self, request: SendMessageRequest) -> Result<Prepared, ClientError> {
        let Some(resolving) = letters::resolving(&request) else { return Ok(Prepared::Plain(request)) };
        match self.resolve_message(resolving).await {
            // It takes some milliseconds if there are many receivers.
            Ok(resolved) => compute(|| letters::seal(request, resolved, &OsRandom))
                .map_err(|error| ClientError::Refused { code: Code::InvalidArgument, message: error.to_string() }),
            Err(ClientError::Refused { message, .. }) if message == TOO_OLD && !self.is_strict() => {
                Ok(Prepared::Plain(request))
            }
            Err(error) => Err(error),
        }
    }

    fn is_strict(&self) -> bool {
        self.inner.settings.security.is_strict()
    }

    /// Returns to whom a message would go, and their keys.
    async fn resolve_message(&self, request: ResolveMessageRequest) -> Result<ResolveMessageResponse, ClientError> {
        self.call_for(Repeat::AtOnce, Duration::ZERO, |target| {
            let mut rpc = limited!(MessagesClient::new(self.wire(target)));
            let request = request.clone();
            async move {
                // A fleet of the version before is one, though it has no such method.
                rpc.resolve_message(request).await.map_err(|status| match status.code() {
                    Code::Unimplemented => Status::failed_precondition(TOO_OLD),
                    _ => status,
                })
            }
        })
        .await
    }

    /// Returns what became of a message. [`ClientError::NotFound`] if the fleet does not know it, or not any more.
    pub async fn get_message(&self, request: GetMessageRequest) -> Result<MessageStatus, ClientError> {
        let extra = wait(request.wait);
        self.call_messages(Repeat::AtOnce, extra, |mut rpc| {
            let request = request.clone();
            async move { rpc.get_message(request).await }
        })
        .await
    }

    /// Returns messages in the built-in inbox of an agent. Messages that are taken out by a call whose answer gets lost
    /// are lost with it, so it is made at one coordinator at a time.
    pub async fn read_inbox(&self, request: ReadInboxRequest) -> Result<ReadInboxResponse, ClientError> {
        let extra = wait(request.wait);
        self.call_messages(Repeat::InTurn, extra, |mut rpc| {
            let request = request.clone();
            async move { rpc.read_inbox(request).await }
        })
        .await
    }

    /// Makes a call of the Messages service, as [`FleetClient::call`] does, that may take `extra` longer.
    async fn call_messages<T, F, A>(&self, repeat: Repeat, extra: Duration, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(MessagesClient<Wire>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let extra = if extra.is_zero() { extra } else { extra + AFTER_WAIT };
        self.call_for(repeat, extra, |target| {
            let call = attempt(limited!(MessagesClient::new(self.wire(target))));
            async move { call.await.map_err(|status| too_old(status, "has no messages")) }
        })
        .await
    }
}
