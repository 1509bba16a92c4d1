//! Calls that are ended while they go on.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body as _, Frame};
use tokio::{sync::oneshot, time::timeout};
use tower::ServiceExt;

use super::*;

type TestBody = UnsyncBoxBody<Bytes, Status>;

const SECOND: Duration = Duration::from_secs(1);

/// A gate that admits everyone, follows streams, and leaves it to the test when they end.
#[derive(Default)]
struct OpenGate {
    followed: Mutex<Option<Ongoing>>,
    over: Arc<AtomicBool>,
}

/// Notes that it was dropped.
struct Guard(Arc<AtomicBool>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Gate for OpenGate {
    async fn admit(&self, _: &str, _: &ConnectInfo, _: &HeaderMap) -> Result<Caller, Status> {
        Ok(Caller::user("ann"))
    }

    fn follow(&self, method: &str, _: &ConnectInfo, caller: &Caller) -> Option<Ongoing> {
        assert_eq!(caller.name(), "client/ann");
        let call = (method == "/stream").then(|| Ongoing::new(Guard(Arc::clone(&self.over))));
        self.followed.lock().unwrap().clone_from(&call);
        call
    }
}

/// A message, and then nothing for ever.
fn one_message() -> TestBody {
    let first = stream::iter([Ok::<_, Status>(Frame::data(Bytes::from_static(b"hello")))]);
    StreamBody::new(first.chain(stream::pending())).boxed_unsync()
}

/// Makes a call of this path. Returns its response, and what its service has read of the request when that has ended.
async fn call(gate: &Arc<OpenGate>, path: &str) -> (Response<Watched<TestBody>>, oneshot::Receiver<(Bytes, Code)>) {
    let (read, told) = oneshot::channel();
    let read = Arc::new(Mutex::new(Some(read)));
    let service = tower::service_fn(move |request: Request<Watched<TestBody>>| {
        let read = read.lock().unwrap().take().expect("one call");
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut all = Vec::new();
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => all.extend_from_slice(&frame.into_data().expect("a message")),
                    Err(error) => {
                        let code = error.downcast_ref::<Status>().expect("a status").code();
                        return drop(read.send((all.into(), code)));
                    }
                }
            }
        });
        async { Ok::<_, Infallible>(Response::new(one_message())) }
    });
    let gated = GateLayer { gate: Arc::clone(gate) as Arc<dyn Gate> }.layer(service);
    let request = Request::builder().uri(path).body(one_message()).expect("a request");
    (gated.oneshot(request).await.expect("it is infallible"), told)
}

async fn next(response: &mut Response<Watched<TestBody>>) -> Option<Frame<Bytes>> {
    let next = timeout(SECOND, response.body_mut().frame()).await.expect("in time");
    next.map(|frame| frame.expect("no error"))
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_gate_ends_is_over_for_its_service_and_for_its_caller() {
    let gate = Arc::new(OpenGate::default());
    let (mut response, read) = call(&gate, "/stream").await;
    let first = next(&mut response).await.and_then(|frame| frame.into_data().ok());
    assert_eq!(first.as_deref(), Some(&b"hello"[..]));
    assert!(timeout(SECOND, response.body_mut().frame()).await.is_err(), "it goes on");
    let ongoing = gate.followed.lock().unwrap().take().expect("it is followed");
    assert!(ongoing.ended().is_none());
    // Both sides wait when it happens.
    let ending = async {
        tokio::task::yield_now().await;
        assert!(ongoing.end(Status::permission_denied("ann has lost her rights")));
        assert!(!ongoing.end(Status::unavailable("later")), "the first reason counts");
    };
    let (last, ()) = tokio::join!(next(&mut response), ending);
    let trailers = last.and_then(|frame| frame.into_trailers().ok()).expect("the status");
    let status = Status::from_header_map(&trailers).expect("a status");
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "ann has lost her rights"));
    assert!(next(&mut response).await.is_none() && response.body().is_end_stream());
    let (all, code) = timeout(SECOND, read).await.expect("in time").expect("it reads on until then");
    assert_eq!((&all[..], code), (&b"hello"[..], Code::PermissionDenied));
    let weak = ongoing.downgrade();
    drop((response, ongoing));
    tokio::task::yield_now().await;
    assert!(weak.upgrade().is_none() && gate.over.load(Ordering::SeqCst), "nothing of it is kept");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_followed_goes_through_as_it_is() {
    let gate = Arc::new(OpenGate::default());
    let (mut response, read) = call(&gate, "/call").await;
    assert!(next(&mut response).await.is_some_and(|frame| frame.is_data()));
    assert!(timeout(SECOND, response.body_mut().frame()).await.is_err() && timeout(SECOND, read).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_ended_before_its_first_answer_has_the_status_alone() {
    let call = Ongoing::new(());
    call.end(Status::permission_denied("no"));
    let mut body = Watched::response(one_message(), Some(call));
    let frame = body.frame().await.expect("a frame").expect("no error");
    assert!(frame.is_trailers() && body.frame().await.is_none());
}
