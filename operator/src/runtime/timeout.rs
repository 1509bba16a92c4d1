//! A limit for how long the API server may take to respond. Without it, a request whose response was lost on a
//! connection that no one closes would wait until the kernel gives the connection up, which takes many minutes, and its
//! cluster would not be reconciled meanwhile. Watches are exempt: they can be silent for long, and the watcher has its
//! own limit.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, Request};
use tokio::time::timeout;
use tower::{BoxError, Layer, Service};

use crate::runtime::metrics::is_watch;

/// How long the API server may take to start its response. It may call webhooks first, each for up to 10 s by default.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The API server took longer than [`ANSWER_WITHIN`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no response to {method} {path} within {within:?}")]
pub struct NoAnswer {
    method: Method,
    path: String,
    within: Duration,
}

/// A layer that fails requests without a response within this time.
#[derive(Clone, Copy, Debug)]
pub struct AnswerWithin(pub Duration);

impl<S> Layer<S> for AnswerWithin {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Limited { inner, within: self.0 }
    }
}

/// A service with a limit for the time to a response.
#[derive(Clone, Debug)]
pub struct Limited<S> {
    inner: S,
    within: Duration,
}

impl<S, B> Service<Request<B>> for Limited<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let (watches, within) = (is_watch(request.uri().query()), self.within);
        let answer = self.inner.call(request);
        Box::pin(async move {
            if watches {
                return answer.await.map_err(Into::into);
            }
            match timeout(within, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(NoAnswer { method, path, within }.into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::time::{Instant, sleep};
    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn after(delay: Duration, path: &'static str) -> Result<(), String> {
        let slow = service_fn(move |_: Request<()>| async move {
            sleep(delay).await;
            Ok::<_, Infallible>(())
        });
        let request = Request::get(path).body(()).expect("a request");
        AnswerWithin(ANSWER_WITHIN).layer(slow).oneshot(request).await.map_err(|error| error.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_waited_for_until_the_limit_and_a_watch_for_ever() {
        let tick = Duration::from_millis(1);
        assert_eq!(after(ANSWER_WITHIN - tick, "/api/v1/pods").await, Ok(()));
        let began = Instant::now();
        let error = after(ANSWER_WITHIN + tick, "/api/v1/pods?limit=1").await.expect_err("it took too long");
        assert_eq!(error, "no response to GET /api/v1/pods within 30s");
        assert!(began.elapsed() <= ANSWER_WITHIN + tick, "{:?}", began.elapsed());
        assert_eq!(after(ANSWER_WITHIN * 10, "/api/v1/pods?a=b&watch=true").await, Ok(()));
    }
}
