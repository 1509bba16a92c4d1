//! The Messages service, for clients, and for durable messages of agents. Any coordinator serves it.

use std::time::Duration;

use robeing_net::gate::Caller;
use robeing_proto::v1::{
    self, GetMessageRequest, MessageStatus, ReadInboxRequest, ReadInboxResponse, ResolveMessageRequest,
    ResolveMessageResponse, SendMessageRequest, SendMessageResponse,
};
use tonic::{Request, Response, Status};

use crate::{
    api::convert,
    mail::{inboxes::Inboxes, sender_name, sending::Sending},
};

/// The Messages service. Cheap to clone.
#[derive(Clone)]
pub struct MessagesService {
    pub sending: Sending,
    pub inboxes: Inboxes,
}

#[tonic::async_trait]
impl v1::messages_server::Messages for MessagesService {
    async fn resolve_message(
        &self,
        request: Request<ResolveMessageRequest>,
    ) -> Result<Response<ResolveMessageResponse>, Status> {
        let sender = sender_name(&Caller::of(request.extensions()));
        Ok(Response::new(self.sending.resolve(&sender, request.into_inner()).await?))
    }

    async fn send_message(
        &self,
        request: Request<SendMessageRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        let sender = sender_name(&Caller::of(request.extensions()));
        let outcomes = self.sending.send(&sender, request.into_inner()).await?;
        Ok(Response::new(SendMessageResponse { outcomes }))
    }

    async fn get_message(&self, request: Request<GetMessageRequest>) -> Result<Response<MessageStatus>, Status> {
        let sender = sender_name(&Caller::of(request.extensions()));
        let GetMessageRequest { id, wait } = request.into_inner();
        let id = convert::letter_id(&id)?;
        let wait = Duration::from_millis(convert::millis("wait", wait)?.unwrap_or(0));
        Ok(Response::new(self.sending.status(&sender, id, wait).await?))
    }

    async fn read_inbox(&self, request: Request<ReadInboxRequest>) -> Result<Response<ReadInboxResponse>, Status> {
        Ok(Response::new(self.inboxes.read(request.into_inner()).await?))
    }
}
