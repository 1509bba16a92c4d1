use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// A fake API server with one lease.
#[derive(Clone, Default)]
struct Server {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    lease: Option<Value>,
    version: u64,
    down: bool,
    writes: u32,
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "system")
    }

    fn elector(&self, identity: &str) -> Elector {
        let seconds = Duration::from_secs;
        let timings = Timings::new(seconds(15), seconds(10), seconds(2)).expect("good timings");
        Elector::new(self.client(), "system", "lease", identity.into(), timings)
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        if self.state.lock().expect("no panic").down {
            std::future::pending::<()>().await;
        }
        let method = request.method().clone();
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let mut state = self.state.lock().expect("no panic");
        let (status, answer) = state.answer(&method, serde_json::from_slice(&body).unwrap_or_default());
        Response::builder().status(status).body(Body::from(answer.to_string().into_bytes())).expect("a response")
    }

    fn holder(&self) -> String {
        let state = self.state.lock().expect("no panic");
        state.lease.as_ref().and_then(|lease| lease["spec"]["holderIdentity"].as_str()).unwrap_or_default().to_owned()
    }

    fn set_down(&self, down: bool) {
        self.state.lock().expect("no panic").down = down;
    }

    fn overwrite(&self, holder: &str) {
        let mut state = self.state.lock().expect("no panic");
        let mut lease = state.lease.clone().expect("a lease");
        lease["spec"]["holderIdentity"] = holder.into();
        state.write(lease);
    }
}

impl State {
    fn answer(&mut self, method: &Method, body: Value) -> (u16, Value) {
        let failure = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code,
                "message": reason});
            (code, status)
        };
        match (method, &self.lease) {
            (&Method::GET, None) => failure(404, "NotFound"),
            (&Method::GET, Some(lease)) => (200, lease.clone()),
            (&Method::POST, Some(_)) => failure(409, "AlreadyExists"),
            (&Method::POST, None) => (201, self.write(body)),
            (&Method::PUT, Some(lease))
                if lease["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"] =>
            {
                (200, self.write(body))
            }
            (&Method::PUT, Some(_)) => failure(409, "Conflict"),
            _ => failure(404, "NotFound"),
        }
    }

    fn write(&mut self, mut lease: Value) -> Value {
        (self.version, self.writes) = (self.version + 1, self.writes + 1);
        lease["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.lease = Some(lease.clone());
        lease
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_replica_takes_a_lease_that_does_not_exist_and_keeps_it() {
    let server = Server::default();
    let mut held = server.elector("a").acquire().await;
    assert_eq!(server.holder(), "a");
    let kept = tokio::time::timeout(Duration::from_secs(60), held.keep()).await;
    assert!(kept.is_err(), "it is renewed for as long as the API server answers");
    assert!(server.state.lock().expect("no panic").writes > 20, "every two seconds");
}

#[tokio::test(start_paused = true)]
async fn a_second_replica_waits_until_the_first_one_is_silent_for_the_whole_lease() {
    let server = Server::default();
    let first = server.elector("a").acquire().await;
    let started = Instant::now();
    let second = server.elector("b").acquire().await;
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(15), "{waited:?}");
    assert!(waited <= Duration::from_secs(20), "{waited:?}");
    assert_eq!(server.holder(), "b");
    let transitions = second.lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
    assert_eq!(transitions, Some(1));
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_at_once() {
    let server = Server::default();
    server.elector("a").acquire().await.release().await;
    assert_eq!(server.holder(), "");
    let started = Instant::now();
    server.elector("b").acquire().await;
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_holder_ends_before_others_begin_when_the_api_server_is_silent() {
    let server = Server::default();
    let mut held = server.elector("a").acquire().await;
    server.set_down(true);
    let started = Instant::now();
    assert_eq!(held.keep().await, Lost::Expired);
    let went_on = started.elapsed();
    assert!(went_on <= Duration::from_secs(10), "{went_on:?} is within the deadline, which is before the lease's end");
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_deadline_costs_nothing() {
    let server = Server::default();
    let mut held = server.elector("a").acquire().await;
    let outage = async {
        sleep(Duration::from_secs(1)).await;
        // Someone edits the lease manually, so that the next write is a conflict.
        server.overwrite("a");
        sleep(Duration::from_secs(8)).await;
        server.set_down(true);
        sleep(Duration::from_secs(5)).await;
        server.set_down(false);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        lost = held.keep() => panic!("the lease was lost: {lost}"),
        () = outage => {}
        () = sleep(Duration::from_secs(60)) => {}
    }
    assert_eq!(server.holder(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_took_is_lost_at_once() {
    let server = Server::default();
    let mut held = server.elector("a").acquire().await;
    server.overwrite("b");
    let started = Instant::now();
    assert_eq!(held.keep().await, Lost::Taken);
    assert!(started.elapsed() <= Duration::from_secs(3));
    assert_eq!(server.holder(), "b", "it is not taken back");
}

#[tokio::test(start_paused = true)]
async fn two_replicas_that_try_at_once_never_both_hold_it() {
    let server = Server::default();
    let (a, b) = (server.elector("a").acquire(), server.elector("b").acquire());
    let winner = tokio::select! {
        held = a => held,
        held = b => held,
    };
    assert_eq!(server.holder(), winner.elector.identity);
}
