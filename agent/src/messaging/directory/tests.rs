use std::collections::VecDeque;

use futures::{StreamExt, stream};
use robeing_net::Transport;
use robeing_platform::{
    Platform,
    simulated::{HostNetwork, MemoryNetwork, SeededRandom},
};
use robeing_proto::v1::directory_server::{self, DirectoryServer};
use tokio_util::sync::DropGuard;
use tonic::{Request, Response, service::Routes};

use super::*;
use crate::upstream::Upstream;

/// How long a condition may take to become true, in the test's time.
const PATIENCE: Duration = Duration::from_secs(120);

fn wire(name: &str, performance: u32) -> v1::DirectoryEntry {
    v1::DirectoryEntry {
        name: name.into(),
        role: v1::Role::Worker.into(),
        state: v1::AgentState::Live.into(),
        performance,
        ..v1::DirectoryEntry::default()
    }
}

fn message(reset: bool, agents: &[&str], gone: &[&str], revision: u64) -> v1::WatchAgentsResponse {
    let agents = agents.iter().map(|name| wire(name, 10)).collect();
    v1::WatchAgentsResponse {
        reset,
        agents,
        gone: gone.iter().map(ToString::to_string).collect(),
        revision,
        policies: None,
    }
}

fn names(directory: &FleetDirectory) -> Vec<String> {
    directory.snapshot().active().map(|entry| entry.name.to_string()).collect()
}

fn take(directory: &FleetDirectory, received: &mut Received, message: v1::WatchAgentsResponse) {
    if let Some(changes) = received.take(message).expect("it is within the limits") {
        directory.publish(changes).expect("it is within the limits");
    }
}

#[test]
fn entries_are_taken_as_they_are_and_those_that_can_not_be_reached_are_not() {
    use v1::AgentState as State;
    for (state, expected) in [
        (State::Live, Presence::Active),
        (State::Standby, Presence::Standby),
        (State::Unhealthy, Presence::Active),
        (State::Draining, Presence::Leaving),
        (State::Lost, Presence::Away),
        (State::Unspecified, Presence::Away),
    ] {
        let found = entry(v1::DirectoryEntry { state: state.into(), ..wire("a", 10) }).expect("it is an agent");
        assert_eq!((found.presence, found.score), (expected, 0.5), "{state:?}");
    }
    let key = crate::messaging::sealing::OpeningKey::generate(&SeededRandom::new(1)).public().clone();
    let full = v1::DirectoryEntry {
        role: v1::Role::Messenger.into(),
        pool: "relay".into(),
        skills: vec!["b".into(), "a".into()],
        address: "h:1".into(),
        performance: 99,
        spiffe_id: "spiffe://x".into(),
        sealing_key: key.to_bytes().to_vec().into(),
        ..wire("m", 0)
    };
    let found = entry(full.clone()).expect("it is an agent");
    assert_eq!((found.role, &*found.pool, &*found.address, found.score), (Role::Messenger, "relay", "h:1", 1.0));
    assert_eq!((&*found.spiffe_id, found.sealing_key), ("spiffe://x", Some(key)));
    assert_eq!(found.skills.iter().map(|skill| &**skill).collect::<Vec<_>>(), ["a", "b"]);
    let short = entry(v1::DirectoryEntry { sealing_key: vec![1; 31].into(), ..full.clone() });
    assert_eq!(short.expect("it is an agent").sealing_key, None);
    let long = "x".repeat(MAX_NAME + 1);
    for unusable in [
        wire("", 1),
        wire(&long, 1),
        v1::DirectoryEntry { role: 0, ..full.clone() },
        v1::DirectoryEntry { role: 77, ..full.clone() },
        v1::DirectoryEntry { address: "x".repeat(MAX_ADDRESS + 1), ..full },
    ] {
        assert_eq!(entry(unusable), None);
    }
}

#[test]
fn an_agent_that_is_no_longer_one_to_reach_is_gone() {
    let (directory, mut received) = (FleetDirectory::default(), Received::default());
    take(&directory, &mut received, message(true, &["a", "b"], &[], 1));
    let unknown = v1::DirectoryEntry { role: 77, ..wire("a", 10) };
    take(&directory, &mut received, v1::WatchAgentsResponse { agents: vec![unknown], ..message(false, &[], &[], 2) });
    assert_eq!(names(&directory), ["b"]);
}

#[test]
fn changes_are_visible_once_they_are_complete() {
    let (directory, mut received) = (FleetDirectory::default(), Received::default());
    take(&directory, &mut received, message(true, &["a", "b"], &[], 0));
    assert_eq!(names(&directory), [""; 0]);
    assert!(*directory.changes.borrow() == 0);
    take(&directory, &mut received, message(false, &["c"], &[], 7));
    assert_eq!((names(&directory), received.revision), (vec!["a".into(), "b".into(), "c".into()], 7));
    assert!(*directory.changes.borrow() > 0);
    let held = directory.snapshot();
    take(&directory, &mut received, message(false, &["d"], &["a"], 8));
    assert_eq!(names(&directory), ["b", "c", "d"]);
    assert!(held.get("a").is_some() && held.get("d").is_none(), "a snapshot does not change");
    // A watch that breaks off in the middle changes nothing.
    take(&directory, &mut received, message(true, &["x"], &[], 0));
    received.begin();
    take(&directory, &mut received, message(false, &["e"], &[], 9));
    assert_eq!(names(&directory), ["b", "c", "d", "e"]);
    take(&directory, &mut received, message(true, &["z"], &[], 3));
    assert_eq!((names(&directory), received.revision), (vec!["z".into()], 3));
}

#[test]
fn snapshots_are_changed_in_place_unless_somebody_holds_one() {
    let (directory, mut received) = (FleetDirectory::default(), Received::default());
    let at = |directory: &FleetDirectory| Arc::as_ptr(&directory.snapshot());
    take(&directory, &mut received, message(true, &["a"], &[], 1));
    let before = at(&directory);
    take(&directory, &mut received, message(false, &["b"], &[], 2));
    assert_eq!(at(&directory), before);
    let held = directory.snapshot();
    take(&directory, &mut received, message(false, &["c"], &[], 3));
    assert_ne!(at(&directory), Arc::as_ptr(&held));
}

#[test]
fn what_a_coordinator_may_send_is_limited() {
    let mut received = Received::default();
    let many = |count: usize| v1::WatchAgentsResponse { agents: vec![wire("a", 1); count], ..Default::default() };
    assert!(received.take(many(MAX_PENDING)).is_ok());
    assert!(matches!(received.take(many(1)), Err(WatchError::TooMuch)));
    received.begin();
    assert!(received.take(many(1)).is_ok());
    let directory = FleetDirectory::default();
    let all = |count: usize| {
        let entry = |n: usize| entry(wire(&n.to_string(), 1)).map(|entry| Change::Is(Arc::new(entry)));
        Changes { reset: true, changes: (0..count).filter_map(entry).collect() }
    };
    assert!(directory.publish(all(MAX_ENTRIES)).is_ok());
    assert!(matches!(directory.publish(all(MAX_ENTRIES + 1)), Err(WatchError::TooMuch)));
}

/// What a coordinator does with a watch.
enum Script {
    /// Sends these messages and then nothing.
    Serve(Vec<v1::WatchAgentsResponse>),
    /// Sends these messages and then ends the watch.
    End(Vec<v1::WatchAgentsResponse>),
    /// Refuses it.
    Refuse,
    /// Never answers.
    Hang,
}

/// The coordinators of a test: what they do with the next watches, and the revisions that watches were resumed from.
#[derive(Clone, Default)]
struct Coordinators(Arc<std::sync::Mutex<(VecDeque<Script>, Vec<u64>)>>);

#[tonic::async_trait]
impl directory_server::Directory for Coordinators {
    type WatchAgentsStream = stream::BoxStream<'static, Result<v1::WatchAgentsResponse, Status>>;

    async fn watch_agents(
        &self,
        request: Request<v1::WatchAgentsRequest>,
    ) -> Result<Response<Self::WatchAgentsStream>, Status> {
        let next = {
            let mut state = self.0.lock().unwrap();
            state.1.push(request.into_inner().from_revision);
            state.0.pop_front()
        };
        let all = |messages: Vec<_>| stream::iter(messages.into_iter().map(Ok));
        match next {
            Some(Script::Serve(messages)) => Ok(Response::new(all(messages).chain(stream::pending()).boxed())),
            Some(Script::End(messages)) => Ok(Response::new(all(messages).boxed())),
            Some(Script::Hang) => std::future::pending().await,
            Some(Script::Refuse) | None => Err(Status::resource_exhausted("too many watchers")),
        }
    }
}

/// An agent that follows the directory of two coordinators.
struct Following {
    directory: Arc<FleetDirectory>,
    coordinators: Coordinators,
    _stop: DropGuard,
}

impl Following {
    async fn start(scripts: impl IntoIterator<Item = Script>) -> Self {
        let (network, stop) = (MemoryNetwork::default(), CancellationToken::new());
        let coordinators = Coordinators::default();
        coordinators.0.lock().unwrap().0.extend(scripts);
        let addresses = ["10.0.0.1:1", "10.0.0.2:1"];
        for (n, address) in (1..).zip(addresses) {
            let host = HostNetwork::new(network.clone(), stop.clone()).at([10, 0, 0, n]);
            let bound = Transport::new(Arc::new(host)).bind(address).await.expect("it is free");
            let routes = Routes::new(DirectoryServer::new(coordinators.clone()));
            tokio::spawn(bound.serve(routes, stop.clone()));
        }
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(1));
        let transport = Transport::new(Arc::new(HostNetwork::new(network, stop.clone()).at([10, 0, 0, 9])));
        let addresses = addresses.map(str::to_owned).to_vec();
        let upstream = Arc::new(Upstream::new(transport, addresses, &*random));
        let directory = Arc::new(FleetDirectory::default());
        let (running, until) = (Arc::clone(&directory), stop.clone());
        tokio::spawn(async move { running.run(upstream, random, until).await });
        Self { directory, coordinators, _stop: stop.drop_guard() }
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < PATIENCE, "{what}: not in time");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn resumed_from(&self) -> Vec<u64> {
        self.coordinators.0.lock().unwrap().1.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_resumed_at_the_next_coordinator_from_what_is_known() {
    let following = Following::start([
        Script::Refuse,
        Script::End(vec![message(true, &["a"], &[], 5), message(true, &["lost on its way"], &[], 0)]),
        Script::Hang,
        Script::Serve(vec![message(false, &["b"], &[], 6)]),
    ])
    .await;
    timeout(PATIENCE, following.directory.known()).await.expect("one coordinator answers");
    following.until("the agents", |following| names(&following.directory) == ["a", "b"]).await;
    assert_eq!(following.resumed_from(), [0, 0, 5, 5]);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_stays_while_no_coordinator_answers_and_pauses_grow() {
    let following = Following::start([Script::End(vec![message(true, &["a"], &[], 5)])]).await;
    following.until("tries", |following| following.resumed_from().len() == 12).await;
    assert_eq!(names(&following.directory), ["a"]);
    let begun = Instant::now();
    following.until("another try", |following| following.resumed_from().len() == 13).await;
    assert!(begun.elapsed() >= MAX_PAUSE / 2 - Duration::from_millis(10) && begun.elapsed() <= 2 * MAX_PAUSE);
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_does_not_complete_what_it_sends_is_left() {
    let following = Following::start([
        Script::Serve(vec![message(true, &["a"], &[], 0)]),
        Script::Serve(vec![message(true, &["b"], &[], 5)]),
    ])
    .await;
    following.until("the agents", |following| names(&following.directory) == ["b"]).await;
    assert_eq!(following.resumed_from(), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_usable_coordinators_waits() {
    let platform = Platform::real();
    let upstream = Arc::new(Upstream::new(Transport::new(platform.network), vec!["nowhere".into()], &*platform.random));
    let directory = FleetDirectory::default();
    let stop = CancellationToken::new();
    let running = directory.run(upstream, Arc::new(SeededRandom::new(1)), stop.clone());
    assert!(timeout(PATIENCE, running).await.is_err(), "it goes on trying");
    stop.cancel();
    let upstream = Arc::new(Upstream::new(Transport::new(Platform::real().network), vec![], &SeededRandom::new(1)));
    timeout(PATIENCE, directory.run(upstream, Arc::new(SeededRandom::new(1)), stop)).await.expect("it ends");
}
