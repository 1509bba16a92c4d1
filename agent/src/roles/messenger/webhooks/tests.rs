use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use ring::hmac;
use robeing_net::{ConnectInfo, Transport, web::WebService};
use robeing_platform::Platform;
use robeing_telemetry::Metrics;
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{share::Share, *};
use crate::{
    messaging::{Entry, Presence, Role, Snapshot},
    roles::messenger::gateway::tests::{
        client::PATIENCE,
        stub::{Serving, Stub},
    },
    upstream::Upstream,
};

const SECRET: &str = "a secret of 24 characters";

/// A webhook's server: it keeps what it accepts, and fails as many requests as it is told to.
struct Receiver {
    events: Mutex<Vec<(HeaderMap, Bytes)>>,
    failing: AtomicUsize,
    requests: watch::Sender<usize>,
}

#[async_trait]
impl WebService for Receiver {
    async fn respond(&self, request: Request<Incoming>, _: ConnectInfo) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let mut response = Response::new(Full::default());
        if self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        } else {
            self.events.lock().unwrap_or_else(PoisonError::into_inner).push((parts.headers, body));
        }
        self.requests.send_modify(|requests| *requests += 1);
        response
    }
}

impl Receiver {
    /// Returns the ids of the events that were accepted.
    fn ids(&self) -> Vec<String> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().map(|(headers, _)| headers["webhook-id"].to_str().expect("text").to_owned()).collect()
    }

    /// Waits until something holds after a request.
    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let mut requests = self.requests.subscribe();
        let waiting = async {
            while !holds(self) {
                requests.changed().await.expect("it serves");
            }
        };
        timeout(PATIENCE, waiting).await.expect("in time");
    }
}

struct Served {
    receiver: Arc<Receiver>,
    url: String,
    _serving: AbortOnDropHandle<()>,
}

async fn receiver(failing: usize) -> Served {
    let bound = Transport::new(Platform::real().network).bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook", bound.local_addr().expect("an address"));
    let (events, requests) = (Mutex::default(), watch::Sender::default());
    let receiver = Arc::new(Receiver { events, failing: AtomicUsize::new(failing), requests });
    let serving = tokio::spawn(bound.serve_web(receiver.clone(), CancellationToken::new()));
    Served { receiver, url, _serving: AbortOnDropHandle::new(serving) }
}

/// A directory of messengers.
#[derive(Default)]
struct Known {
    snapshot: RwLock<Arc<Snapshot>>,
    /// How often it was looked at.
    looks: watch::Sender<usize>,
}

impl Known {
    fn new(names: &[&str]) -> Arc<Self> {
        let known = Self::default();
        known.set(names);
        Arc::new(known)
    }

    /// Waits until what it knows now was noticed: the first look may have begun before.
    async fn is_noticed(&self) {
        let mut looks = self.looks.subscribe();
        let before = *looks.borrow();
        let noticed = looks.wait_for(|looks| *looks >= before + 2);
        timeout(PATIENCE, noticed).await.expect("in time").expect("it is there");
    }

    fn set(&self, names: &[&str]) {
        let entry = |name: &&str| Entry {
            name: Arc::from(*name),
            role: Role::Messenger,
            presence: Presence::Active,
            ..crate::messaging::tests::fixture::entry(name, 0.5)
        };
        let snapshot = Arc::new(names.iter().map(entry).collect());
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}

impl Directory for Known {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.looks.send_modify(|looks| *looks += 1);
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Fleet {
    coordinator: Serving,
    directory: Arc<Known>,
    dir: tempfile::TempDir,
}

impl Fleet {
    async fn start(messengers: &[&str]) -> Self {
        let transport = Transport::new(Platform::real().network);
        let coordinator = Serving::start(Stub::default(), &transport).await;
        Self { coordinator, directory: Known::new(messengers), dir: tempfile::tempdir().expect("a folder") }
    }

    async fn webhooks(&self, urls: &[&str]) -> Webhooks {
        let entry = |(at, url): (usize, &&str)| {
            format!(r#"{{"name":"w-{at}","url":"{url}","secret":{{"env":"SECRET"}},"kinds":["k"]}}"#)
        };
        let list: Vec<String> = urls.iter().enumerate().map(entry).collect();
        let file = self.dir.path().join("webhooks.json");
        std::fs::write(&file, format!("[{}]", list.join(","))).expect("it is written");
        let platform = Platform::real();
        let transport = Transport::new(Arc::clone(&platform.network));
        let addresses = vec![self.coordinator.address.clone()];
        let deps = WebhooksDeps {
            file,
            env: Arc::new(|name| (name == "SECRET").then(|| SECRET.to_owned())),
            data: Some(self.dir.path().to_owned()),
            cluster: "one".into(),
            name: "m-0".into(),
            upstream: Arc::new(Upstream::new(transport, addresses, &*platform.random)),
            directory: self.directory.clone(),
            platform,
            metrics: Metrics::default(),
        };
        Webhooks::start(deps).await.expect("they are right")
    }

    /// Waits until this many watches of tasks have begun.
    async fn watched(&self, count: usize) {
        let waiting = async {
            let watches = || self.coordinator.stub.calls().iter().filter(|call| call.method == "WatchTasks").count();
            while watches() < count {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("in time");
    }

    /// Waits until the file of a webhook says what it should.
    async fn kept(&self, holds: impl Fn(&str) -> bool) {
        let path: &Path = &place::folder(self.dir.path()).join("w-0.json");
        let waiting = async {
            while !std::fs::read_to_string(path).is_ok_and(|text| holds(&text)) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("in time");
    }
}

#[tokio::test]
async fn the_end_of_a_task_is_told_once_with_a_signature() {
    let (fleet, server) = (Fleet::start(&["m-0"]).await, receiver(0).await);
    fleet.coordinator.stub.succeed("before", "k");
    let _webhooks = fleet.webhooks(&[&server.url]).await;
    fleet.watched(1).await;
    fleet.coordinator.stub.succeed("other", "another kind");
    fleet.coordinator.stub.succeed("t", "k");
    server.receiver.until(|receiver| !receiver.ids().is_empty()).await;
    assert_eq!(server.receiver.ids(), ["t"], "neither what had ended before nor other kinds");
    let (headers, body) = server.receiver.events.lock().expect("it is whole").remove(0);
    let text = |name: &str| headers[name].to_str().expect("text").to_owned();
    assert_eq!(text("content-type"), "application/cloudevents+json");
    let signed = [format!("t.{}.", text("webhook-timestamp")).as_bytes(), &body[..]].concat();
    let signature = text("webhook-signature");
    let tag = BASE64_STANDARD.decode(signature.strip_prefix("v1,").expect("version 1")).expect("base64");
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), &signed, &tag).expect("it is signed");
}

#[tokio::test]
async fn a_webhook_that_fails_is_called_again_and_holds_up_no_other() {
    let fleet = Fleet::start(&["m-0"]).await;
    let (flaky, good) = (receiver(1).await, receiver(0).await);
    let _webhooks = fleet.webhooks(&[&flaky.url, "http://127.0.0.1:9/", &good.url]).await;
    fleet.watched(3).await;
    fleet.coordinator.stub.succeed("t", "k");
    good.receiver.until(|receiver| receiver.ids() == ["t"]).await;
    flaky.receiver.until(|receiver| receiver.ids() == ["t"]).await;
    assert_eq!(*flaky.receiver.requests.borrow(), 2);
}

#[tokio::test]
async fn what_was_not_delivered_is_after_a_restart() {
    let (fleet, server) = (Fleet::start(&["m-0"]).await, receiver(usize::MAX).await);
    let webhooks = fleet.webhooks(&[&server.url]).await;
    fleet.watched(1).await;
    fleet.coordinator.stub.succeed("t", "k");
    server.receiver.until(|receiver| *receiver.requests.borrow() >= 1).await;
    fleet.kept(|text| text.contains("\"t\"")).await;
    drop(webhooks);
    server.receiver.failing.store(0, Ordering::SeqCst);
    // While nobody is there, another task ends.
    fleet.coordinator.stub.succeed("u", "k");
    let _webhooks = fleet.webhooks(&[&server.url]).await;
    let both: BTreeSet<String> = ["t", "u"].map(str::to_owned).into();
    server.receiver.until(|receiver| receiver.ids().into_iter().collect::<BTreeSet<_>>() == both).await;
    fleet.kept(|text| text.contains("\"pending\":[]")).await;
}

#[tokio::test]
async fn what_another_messenger_may_not_have_told_is_told_when_it_is_gone() {
    let (fleet, server) = (Fleet::start(&["m-0", "m-1"]).await, receiver(0).await);
    let _webhooks = fleet.webhooks(&[&server.url]).await;
    fleet.watched(1).await;
    let share = Share::of(&fleet.directory.snapshot());
    let ids: Vec<String> = (0..20).map(|at| format!("t-{at}")).collect();
    let (own, others): (Vec<_>, Vec<_>) = ids.iter().cloned().partition(|id| share.is_for("m-0", id));
    assert!(!own.is_empty() && !others.is_empty());
    // A tick later there is a revision to look back to.
    fleet.coordinator.stub.succeed("first", "k");
    fleet.kept(|text| text.contains("\"revision\":1")).await;
    ids.iter().for_each(|id| fleet.coordinator.stub.succeed(id, "k"));
    server.receiver.until(|receiver| own.iter().all(|id| receiver.ids().contains(id))).await;
    assert!(others.iter().all(|id| !server.receiver.ids().contains(id)));
    fleet.directory.set(&["m-0"]);
    server.receiver.until(|receiver| others.iter().all(|id| receiver.ids().contains(id))).await;
    let times = |id: &String| server.receiver.ids().iter().filter(|known| *known == id).count();
    assert!(own.iter().all(|id| times(id) == 1), "what it has told itself is not repeated");
}

#[tokio::test]
async fn what_ended_before_another_messenger_came_is_told_by_the_one_that_was_there_also_after_a_restart() {
    let (fleet, server) = (Fleet::start(&["m-0"]).await, receiver(usize::MAX).await);
    let webhooks = fleet.webhooks(&[&server.url]).await;
    fleet.watched(1).await;
    // It reads no further than this.
    (0..MAX_PENDING).for_each(|at| fleet.coordinator.stub.succeed(&format!("t-{at}"), "k"));
    fleet.kept(|text| text.matches("\"t-").count() == MAX_PENDING).await;
    let unread: Vec<String> = (0..20).map(|at| format!("u-{at}")).collect();
    unread.iter().for_each(|id| fleet.coordinator.stub.succeed(id, "k"));
    fleet.directory.set(&["m-0", "m-1"]);
    let share = Share::of(&fleet.directory.snapshot());
    assert!(unread.iter().any(|id| share.is_for("m-1", id)));
    fleet.kept(|text| text.contains("\"m-1\"")).await;
    assert!(unread.iter().all(|id| !server.receiver.ids().contains(id)));
    drop(webhooks);
    let _webhooks = fleet.webhooks(&[&server.url]).await;
    server.receiver.failing.store(0, Ordering::SeqCst);
    server.receiver.until(|receiver| unread.iter().all(|id| receiver.ids().contains(id))).await;
}

#[tokio::test]
async fn one_that_was_not_active_for_a_while_still_tells_what_is_its_own() {
    let (fleet, server) = (Fleet::start(&["m-0"]).await, receiver(0).await);
    let _webhooks = fleet.webhooks(&[&server.url]).await;
    fleet.watched(1).await;
    fleet.kept(|text| text.contains("\"m-0\"")).await;
    fleet.directory.set(&["m-1"]);
    fleet.directory.is_noticed().await;
    let ids: Vec<String> = (0..20).map(|at| format!("t-{at}")).collect();
    ids.iter().for_each(|id| fleet.coordinator.stub.succeed(id, "k"));
    fleet.directory.set(&["m-0", "m-1"]);
    server.receiver.until(|receiver| ids.iter().all(|id| receiver.ids().contains(id))).await;
}
