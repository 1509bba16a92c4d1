//! A raw gRPC stream that acknowledges each message with the first 16 bytes of it.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt, future::BoxFuture};
use http::uri::PathAndQuery;
use robeing_net::{CONNECT_TIMEOUT, Transport, security::Expected};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService, StreamingService},
};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::{Failure, fleet::MEMORY, load::PAYLOAD};

/// Bytes of the id with which a message begins.
pub const ID: usize = 16;
const PATH: &str = "/robeing.bench.Raw/Exchange";
/// Maximum number of messages that wait for the stream to take them.
const QUEUE: usize = 4_096;

/// The service that acknowledges messages.
#[derive(Clone)]
pub struct Acknowledging;

impl NamedService for Acknowledging {
    const NAME: &'static str = "robeing.bench.Raw";
}

impl Service<http::Request<Body>> for Acknowledging {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).streaming(Acknowledging, request).await) })
    }
}

impl StreamingService<Bytes> for Acknowledging {
    type Response = Bytes;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let acknowledged = request.into_inner().map(|message| message.map(|bytes| bytes.slice(..ID.min(bytes.len()))));
        ready(Ok(Response::new(Box::pin(acknowledged))))
    }
}

/// Returns a message with this id.
fn message(id: u128) -> Bytes {
    let mut message = BytesMut::with_capacity(PAYLOAD.len());
    message.put_u128(id);
    message.put_slice(&PAYLOAD[ID..]);
    message.freeze()
}

/// Reads an id.
fn id(bytes: &[u8]) -> Result<u128, Failure> {
    Ok(u128::from_be_bytes(bytes.try_into()?))
}

/// The client's side of a stream, which one task writes and reads.
pub struct RawStream {
    outgoing: mpsc::Sender<Bytes>,
    acknowledged: Streaming<Bytes>,
}

impl RawStream {
    /// Opens a stream.
    pub async fn connect(transport: &Transport, address: &str) -> Result<Self, Failure> {
        let channel = transport.connect_to(address, Expected::Agent(MEMORY.to_owned()), CONNECT_TIMEOUT).await?;
        let (outgoing, messages) = mpsc::channel(QUEUE);
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await?;
        let request = Request::new(ReceiverStream::new(messages));
        let path = PathAndQuery::from_static(PATH);
        let response = client.streaming(request, path, ProstCodec::<Bytes, Bytes>::default()).await?;
        Ok(Self { outgoing, acknowledged: response.into_inner() })
    }

    /// Keeps this number of messages in flight until `end`. Returns how long each took.
    pub async fn run(&mut self, in_flight: usize, end: Instant) -> Result<Vec<Duration>, Failure> {
        let mut latencies = Vec::new();
        let mut sent = Vec::new();
        for index in 0..in_flight {
            sent.push(Instant::now());
            self.send(index)?;
        }
        let mut waiting = in_flight;
        while waiting > 0 {
            let index = id(&self.acknowledged.message().await?.ok_or("the raw stream ended")?)? as usize;
            let now = Instant::now();
            latencies.push(now - sent[index]);
            if now < end {
                sent[index] = now;
                self.send(index)?;
            } else {
                waiting -= 1;
            }
        }
        Ok(latencies)
    }

    fn send(&self, index: usize) -> Result<(), Failure> {
        Ok(self.outgoing.try_send(message(index as u128))?)
    }
}

/// The client's side of a stream, which many tasks share. Each waits for the acknowledgement of its own message.
pub struct SharedStream {
    outgoing: mpsc::Sender<Bytes>,
    waiting: Arc<Mutex<HashMap<u128, oneshot::Sender<()>>>>,
    next: AtomicU64,
}

impl SharedStream {
    /// Shares a stream.
    pub fn new(stream: RawStream) -> Self {
        let RawStream { outgoing, mut acknowledged } = stream;
        let waiting: Arc<Mutex<HashMap<u128, oneshot::Sender<()>>>> = Arc::default();
        let known = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Some(bytes) = acknowledged.message().await? {
                let waiting = known.lock().unwrap_or_else(PoisonError::into_inner).remove(&id(&bytes)?);
                waiting.map(|waiting| waiting.send(()));
            }
            Ok::<_, Failure>(())
        });
        Self { outgoing, waiting, next: AtomicU64::new(0) }
    }

    /// Sends a message, and waits until it is acknowledged.
    pub async fn send(&self) -> Result<(), Failure> {
        let id = self.next.fetch_add(1, Ordering::Relaxed).into();
        let (acknowledge, acknowledged) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, acknowledge);
        self.outgoing.send(message(id)).await?;
        Ok(acknowledged.await?)
    }
}
