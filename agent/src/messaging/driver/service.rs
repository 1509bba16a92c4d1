//! The gRPC service that other agents open streams to.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::{Stream as Frames, StreamExt};
use robeing_proto::message::raw::messages_server::Messages;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use super::{
    connect::{HELLO_WITHIN, Peer, Stream, is_unreadable},
    shared::{MAX_LINKS, Shared},
    written::{Written, written},
};
use crate::messaging::{
    frame::{FrameError, Hello},
    wire,
};

/// How the service knows who has opened a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// By its certificate, which the gate of the listener has checked. Without one, the stream is refused.
    Required,
    /// By its own Hello and the directory's role, which proves nothing: for plaintext on loopback, and for tests.
    Hello,
}

/// The service of an agent.
pub struct Service {
    pub(super) shared: Arc<Shared>,
    pub(super) authentication: Authentication,
}

#[tonic::async_trait]
impl Messages for Service {
    type ExchangeStream = Pin<Box<dyn Frames<Item = Result<Bytes, Status>> + Send>>;

    async fn exchange(&self, request: Request<Streaming<Bytes>>) -> Result<Response<Self::ExchangeStream>, Status> {
        let proven = Peer::proven(request.extensions());
        if proven.is_none() && self.authentication == Authentication::Required {
            return Err(
                self.reject("unauthenticated", Status::unauthenticated("agents show a certificate to each other"))
            );
        }
        let mut frames = request.into_inner();
        let first = timeout(HELLO_WITHIN, frames.message()).await.map_err(|_| {
            let seconds = HELLO_WITHIN.as_secs();
            self.reject("late_hello", Status::deadline_exceeded(format!("no Hello within {seconds} s")))
        })?;
        let first = first.map_err(|status| match is_unreadable(&status) {
            true => self.reject("malformed", status),
            false => status,
        })?;
        let first =
            first.ok_or_else(|| self.reject("malformed", Status::invalid_argument(FrameError::Hello.to_string())))?;
        let hello = wire::decode(&first).and_then(Hello::from_frame).map_err(|error| {
            let reason = if matches!(error, FrameError::Version(_)) { "version" } else { "malformed" };
            self.reject(reason, Status::invalid_argument(error.to_string()))
        })?;
        let peer = self.identify(proven, &hello)?;
        let written = self.pass(hello, peer, frames)?;
        Ok(Response::new(Box::pin(written.map(Ok))))
    }
}

impl Service {
    fn reject(&self, reason: &'static str, status: Status) -> Status {
        self.shared.metrics.rejected(reason);
        status
    }

    /// Returns who has opened a stream, if it is the one that its Hello names, and means this agent.
    fn identify(&self, proven: Option<Peer>, hello: &Hello) -> Result<Peer, Status> {
        let me = &self.shared.me;
        let peer = match proven {
            Some(peer) => peer,
            None => {
                let known = self.shared.directory.snapshot().get(&hello.agent).cloned();
                let unknown = || Status::permission_denied(format!("the fleet has no agent {:?}", hello.agent));
                let known = known.ok_or_else(|| self.reject("unauthenticated", unknown()))?;
                Peer { name: Arc::clone(&known.name), role: known.role }
            }
        };
        if *peer.name != *hello.agent {
            let status = format!("Hello names {:?}, but the certificate is that of {:?}", hello.agent, peer.name);
            return Err(self.reject("spoofed_sender", Status::permission_denied(status)));
        }
        if hello.to != **me || peer.name == *me {
            let status = format!("this is {me:?}, not {:?}; the address may be out of date", hello.to);
            return Err(self.reject("wrong_agent", Status::failed_precondition(status)));
        }
        Ok(peer)
    }

    /// Passes a stream to the link, which decides whether to use it. An earlier one that waits there is dropped. Returns
    /// what is written to it.
    fn pass(&self, hello: Hello, peer: Peer, frames: Streaming<Bytes>) -> Result<Written, Status> {
        loop {
            let link = self.shared.link(&peer.name).ok_or_else(|| {
                let status = format!("this agent has streams to {MAX_LINKS} others, the most, or is shutting down");
                self.reject("overloaded", Status::resource_exhausted(status))
            })?;
            let mut state = link.lock();
            if state.is_over {
                continue;
            }
            let (outlet, written) = written(&self.shared, &link);
            let replaced = state.incoming.replace(Stream { hello, peer, frames, outlet });
            drop(state);
            drop(replaced);
            link.wake.notify_one();
            return Ok(written);
        }
    }
}
