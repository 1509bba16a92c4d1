//! Connections that are not opened as sockets here: a seam for whatever carries bytes to a coordinator.

use std::{io, sync::Arc};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// Opens connections to the coordinators of one fleet. A client has several slots, which should be different
/// coordinators, and turns to the next one when a call fails; a slot dials again when its connection broke.
pub trait Dialer: Send + Sync + 'static {
    /// Opens a connection for a slot.
    fn dial(self: Arc<Self>, slot: usize) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>>;
}

/// A channel over what the dialer opens for this slot. It dials with the first call.
pub(super) fn channel(endpoint: &Endpoint, dialer: Arc<dyn Dialer>, slot: usize) -> Channel {
    endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
        let dialled = Arc::clone(&dialer).dial(slot);
        async move { dialled.await.map(TokioIo::new) }
    }))
}
