//! Calls that go on after they were admitted, and that the gate can end.

use std::{
    any::Any,
    error::Error,
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock, Weak},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tonic::Status;

type BoxError = Box<dyn Error + Send + Sync>;

struct Inner {
    ended: OnceLock<Status>,
    /// Wakes whoever reads the request.
    request: AtomicWaker,
    /// Wakes whoever sends the response.
    response: AtomicWaker,
    /// Dropped when the call is over.
    _guard: Box<dyn Any + Send + Sync>,
}

/// A call that was admitted and goes on. Cheap to clone; clones are of the same call.
#[derive(Clone)]
pub struct Ongoing(Arc<Inner>);

/// Refers to a call that may be over.
#[derive(Clone)]
pub struct WeakOngoing(Weak<Inner>);

impl fmt::Debug for Ongoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ongoing").field(&self.ended()).finish()
    }
}

impl Ongoing {
    /// Creates the handle of a call. `guard` is dropped when the call is over and no handle of it is left.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        let (request, response) = (AtomicWaker::new(), AtomicWaker::new());
        Self(Arc::new(Inner { ended: OnceLock::new(), request, response, _guard: Box::new(guard) }))
    }

    /// Returns a reference that does not keep the call's guard.
    pub fn downgrade(&self) -> WeakOngoing {
        WeakOngoing(Arc::downgrade(&self.0))
    }

    /// Ends the call: its service reads this status instead of further messages, and its caller gets it instead of further
    /// answers. Returns whether that is new; the first status counts.
    pub fn end(&self, status: Status) -> bool {
        let is_new = self.0.ended.set(status).is_ok();
        self.0.request.wake();
        self.0.response.wake();
        is_new
    }

    /// Returns why the call was ended; `None` if it was not.
    pub fn ended(&self) -> Option<&Status> {
        self.0.ended.get()
    }

    /// Same as [`Ongoing::ended`], and has this side of the call polled again when it is ended.
    fn poll_ended(&self, side: Side, cx: &Context<'_>) -> Option<&Status> {
        let waker = match side {
            Side::Request => &self.0.request,
            Side::Response => &self.0.response,
        };
        // Before the look, or an end in between would wake nobody.
        waker.register(cx.waker());
        self.ended()
    }
}

impl WeakOngoing {
    /// Returns the call, unless it is over.
    pub fn upgrade(&self) -> Option<Ongoing> {
        self.0.upgrade().map(Ongoing)
    }
}

#[derive(Clone, Copy)]
enum Side {
    Request,
    Response,
}

/// The body of a request or response, which ends when its call is ended. That costs a message a few atomic operations.
pub struct Watched<B> {
    /// `None` once it was ended.
    body: Option<B>,
    call: Option<(Ongoing, Side)>,
}

impl<B> Watched<B> {
    /// Returns the body of the request of a call, if it is followed.
    pub(super) fn request(body: B, call: Option<Ongoing>) -> Self {
        Self { body: Some(body), call: call.map(|call| (call, Side::Request)) }
    }

    /// Same as [`Watched::request`], of the response.
    pub(super) fn response(body: B, call: Option<Ongoing>) -> Self {
        Self { body: Some(body), call: call.map(|call| (call, Side::Response)) }
    }
}

impl<B: Default> Default for Watched<B> {
    fn default() -> Self {
        Self { body: Some(B::default()), call: None }
    }
}

/// Returns what is at the end of a response with this status.
fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // The code is there in any case.
    let _ = status.add_header(&mut trailers);
    trailers
}

impl<B> Body for Watched<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let ended = this.call.as_ref().and_then(|(call, side)| Some((*side, call.poll_ended(*side, cx)?.clone())));
        match ended {
            None => Pin::new(body).poll_frame(cx).map(|next| next.map(|frame| frame.map_err(Into::into))),
            Some((side, status)) => {
                // Whoever writes to it finds out that nobody reads any more.
                this.body = None;
                Poll::Ready(Some(match side {
                    Side::Request => Err(status.into()),
                    Side::Response => Ok(Frame::trailers(trailers(&status))),
                }))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.body, &self.call) {
            (Some(body), None) => body.size_hint(),
            // It may end before all of it was read.
            (Some(_), Some(_)) => SizeHint::default(),
            (None, _) => SizeHint::with_exact(0),
        }
    }
}
