//! Connections that are port-forwards: each is a WebSocket through the API server to a pod that was ready when it was
//! opened. Whoever holds the stream holds the forward; dropping it ends it.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::future::BoxFuture;
use kube::api::Portforwarder;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    time::timeout,
};

use super::{
    KubernetesError,
    access::ApiServer,
    choice::{self, Need},
};
use crate::client::{ByteStream, Dialer};

/// Where coordinators speak gRPC.
pub(super) const GRPC_PORT: u16 = 8080;
/// Time in which a pod is found and a connection to it forwarded. A node that is gone answers nothing.
pub(super) const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);

/// The coordinators of one cluster, as something to connect to.
pub(super) struct Coordinators {
    server: ApiServer,
    name: String,
    need: Need,
    /// The first connection, opened before anybody asked for it.
    kept: Mutex<Option<Forward>>,
}

impl Coordinators {
    pub fn new(server: ApiServer, name: String, need: Need) -> Self {
        Self { server, name, need, kept: Mutex::new(None) }
    }

    /// Keeps a connection for the next who dials.
    pub fn keep(&self, opened: Forward) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened);
    }

    fn take_kept(&self) -> Option<Forward> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A connection to the pod that the slot has at present.
    pub async fn forward(&self, slot: usize, within: Duration) -> Result<Forward, KubernetesError> {
        let opening = async {
            let pods = self.server.coordinators(&self.name).await?;
            let Some(pod) = choice::pick(&pods, slot, self.need) else {
                return Err(KubernetesError::NoneReady);
            };
            self.server.forward(pod, GRPC_PORT).await
        };
        timeout(within, opening).await.unwrap_or(Err(KubernetesError::ForwardTimedOut { after: within }))
    }
}

impl fmt::Display for Coordinators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RobeingCluster {}/{}", self.server.namespace(), self.name)
    }
}

impl Dialer for Coordinators {
    fn dial(self: Arc<Self>, slot: usize) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            if let Some(kept) = self.take_kept() {
                return Ok(Box::new(kept) as Box<dyn ByteStream>);
            }
            let opened = self.forward(slot, FORWARD_TIMEOUT).await.map_err(io::Error::other)?;
            Ok(Box::new(opened) as Box<dyn ByteStream>)
        })
    }
}

/// The stream of one forwarded connection.
pub(super) struct Forward {
    stream: DuplexStream,
    /// Says why the stream can't be used any more.
    failure: Option<BoxFuture<'static, Option<String>>>,
    forwarder: Portforwarder,
}

impl Forward {
    /// Takes the stream of `port` from a forwarder; `None` when it forwards another.
    pub fn take(mut forwarder: Portforwarder, port: u16) -> Option<Self> {
        let stream = forwarder.take_stream(port)?;
        let failure = forwarder.take_error(port).map(|failure| Box::pin(failure) as BoxFuture<'static, _>);
        Some(Self { stream, failure, forwarder })
    }

    /// The failure, once there is one.
    fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<Option<String>> {
        let Some(failure) = &mut self.failure else { return Poll::Ready(None) };
        let told = ready!(failure.as_mut().poll(cx));
        self.failure = None;
        Poll::Ready(told)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}

impl AsyncRead for Forward {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() && buf.filled().len() > before {
            return read;
        }
        // Silence or the end: there may be a reason.
        match self.poll_failure(cx) {
            Poll::Ready(Some(failure)) => Poll::Ready(Err(io::Error::other(failure))),
            Poll::Ready(None) | Poll::Pending => read,
        }
    }
}

impl AsyncWrite for Forward {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
