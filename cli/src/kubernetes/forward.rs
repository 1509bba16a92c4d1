//! Connections over port-forwards. Each is a WebSocket through the API server to a pod that was ready when it was
//! opened. Dropping the stream closes the port-forward.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use kube::api::Portforwarder;
use robeing_client::{ByteStream, Dialer};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    time::{sleep, timeout},
};

use super::{
    KubernetesError,
    access::ApiServer,
    choice::{self, Need},
    credentials::Credentials,
};

/// The gRPC port of coordinators.
pub(super) const GRPC_PORT: u16 = 8080;
/// Time limit for finding a pod and forwarding a connection to it. A node that is gone does not answer.
pub(super) const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for one coordinator before the next one is tried in parallel.
const NEXT_AFTER: Duration = Duration::from_millis(300);

/// The coordinators of one cluster, as a [`Dialer`].
pub(super) struct Coordinators {
    server: Arc<ApiServer>,
    name: String,
    need: Need,
    /// Renewed as long as the dialer exists.
    credentials: Credentials,
    /// The first connection, opened in advance.
    kept: Mutex<Option<Forward>>,
}

impl Coordinators {
    pub fn new(server: Arc<ApiServer>, name: String, need: Need, credentials: Credentials) -> Self {
        Self { server, name, need, credentials, kept: Mutex::new(None) }
    }

    /// Keeps a connection for the next call of `dial`.
    pub fn keep(&self, opened: Forward) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened);
    }

    fn take_kept(&self) -> Option<Forward> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Connects to the pod of the slot, or to another pod that answers sooner: a node that is gone does not answer, and
    /// Kubernetes takes a while to notice.
    pub async fn forward(&self, slot: usize, within: Duration) -> Result<Forward, KubernetesError> {
        let opening = async {
            let pods = self.server.coordinators(&self.name).await?;
            let candidates = choice::candidates(&pods, slot, self.need);
            let forwards = candidates.map(|pod| self.server.forward(pod, GRPC_PORT));
            staggered(forwards, NEXT_AFTER).await.unwrap_or(Err(KubernetesError::NoneReady))
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
            self.credentials.freshen().await.map_err(io::Error::other)?;
            if let Some(kept) = self.take_kept() {
                return Ok(Box::new(kept) as Box<dyn ByteStream>);
            }
            let opened = self.forward(slot, FORWARD_TIMEOUT).await.map_err(io::Error::other)?;
            Ok(Box::new(opened) as Box<dyn ByteStream>)
        })
    }
}

/// Returns the first success. The next future is started whenever one fails or `pause` has passed. If all fail, returns
/// the last failure; if `work` is empty, `None`.
async fn staggered<F, T, E>(mut work: impl Iterator<Item = F>, pause: Duration) -> Option<Result<T, E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut begun: FuturesUnordered<F> = work.next().into_iter().collect();
    let mut failure = None;
    loop {
        tokio::select! {
            biased;
            done = begun.next() => match done {
                Some(Ok(won)) => return Some(Ok(won)),
                Some(Err(error)) => failure = Some(Err(error)),
                None => {}
            },
            () = sleep(pause) => {}
        }
        match work.next() {
            Some(next) => begun.push(next),
            None if begun.is_empty() => return failure,
            None => match begun.next().await {
                Some(Err(error)) => failure = Some(Err(error)),
                Some(Ok(won)) => return Some(Ok(won)),
                None => return failure,
            },
        }
    }
}

/// The stream of one forwarded connection.
pub(super) struct Forward {
    stream: DuplexStream,
    /// Resolves to the reason when the stream can no longer be used.
    failure: Option<BoxFuture<'static, Option<String>>>,
    forwarder: Portforwarder,
}

impl Forward {
    /// Takes the stream of `port` from a forwarder, or returns `None` if it forwards another port.
    pub fn take(mut forwarder: Portforwarder, port: u16) -> Option<Self> {
        let stream = forwarder.take_stream(port)?;
        let failure = forwarder.take_error(port).map(|failure| Box::pin(failure) as BoxFuture<'static, _>);
        Some(Self { stream, failure, forwarder })
    }

    /// Returns the failure, once there is one.
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
        // Nothing was read: check whether the forwarding failed.
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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const PAUSE: Duration = Duration::from_millis(300);

    /// Returns the result for futures that take this many milliseconds and succeed or fail, and how long it took.
    async fn outcome(
        works: &[(u64, Result<&'static str, &'static str>)],
    ) -> (Option<Result<&'static str, &'static str>>, u128) {
        let began = Instant::now();
        let work = works.iter().map(|(ms, result)| async {
            sleep(Duration::from_millis(*ms)).await;
            *result
        });
        let outcome = staggered(work, PAUSE).await;
        (outcome, began.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_coordinator_that_does_not_answer_costs_a_fraction_of_a_second() {
        let never = u64::MAX / 2;
        assert_eq!(outcome(&[(100, Ok("a")), (0, Ok("b"))]).await, (Some(Ok("a")), 100));
        assert_eq!(outcome(&[(never, Ok("a")), (50, Ok("b"))]).await, (Some(Ok("b")), 350));
        assert_eq!(outcome(&[(never, Ok("a")), (never, Ok("b")), (50, Ok("c"))]).await, (Some(Ok("c")), 650));
        assert_eq!(outcome(&[(400, Ok("a")), (never, Ok("b"))]).await, (Some(Ok("a")), 400), "it may still answer");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_refuses_is_followed_by_the_next_at_once() {
        assert_eq!(outcome(&[(10, Err("a")), (10, Ok("b"))]).await, (Some(Ok("b")), 20));
        assert_eq!(outcome(&[(10, Err("a")), (20, Err("b"))]).await, (Some(Err("b")), 30));
        assert_eq!(outcome(&[(500, Err("a")), (10, Err("b"))]).await, (Some(Err("a")), 500));
        assert_eq!(outcome(&[]).await.0, None);
    }
}
