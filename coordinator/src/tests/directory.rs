//! Watches of the directory.

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use robeing_fleet::{AgentCommand, AgentJoin, Command, LossReason, Reply};
use robeing_net::{Transport, gate::Caller, limited};
use robeing_platform::simulated::HostNetwork;
use robeing_proto::v1::{self, WatchAgentsRequest, directory_client::DirectoryClient};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{
    directory::{MAX_WATCHERS, Position, fixture::Watcher},
    fixture::join,
    leader::standing::STALE_AFTER,
    tests::{
        agent::TestAgent,
        fleet::{TestFleet, address, task},
    },
};

/// How long a message may take, in the test's time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A watch, and what its watcher knows.
struct Watched {
    stream: Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>,
    watcher: Watcher,
}

impl Watched {
    fn start(fleet: &TestFleet, at: usize, watcher: Watcher) -> Self {
        let stream = fleet.tested(at).directory.watch(watcher.revision).expect("there is room");
        Self { stream: Box::pin(stream), watcher }
    }

    /// Breaks the watch off.
    fn end(mut self) -> Watcher {
        self.watcher.pending.clear();
        self.watcher
    }

    async fn next(&mut self) -> Bytes {
        let next = timeout(PATIENCE, self.stream.next()).await.expect("something changed");
        next.expect("the watch continues").expect("the watch continues")
    }

    /// Waits until the watcher knows the state of a coordinator. Returns the number of resets until then.
    async fn until_known(&mut self, fleet: &TestFleet, at: usize) -> usize {
        let mut resets = 0;
        while shown(fleet, at) != self.known() {
            let message = self.next().await;
            self.watcher.receive(&message);
            let message = <v1::WatchAgentsResponse as prost::Message>::decode(message).expect("it is well-formed");
            resets += usize::from(message.reset);
        }
        resets
    }

    fn known(&self) -> BTreeMap<String, (i32, String)> {
        self.watcher.known.values().map(|entry| (entry.name.clone(), (entry.state, entry.address.clone()))).collect()
    }
}

/// Returns the agents with state and address, according to a coordinator.
fn shown(fleet: &TestFleet, at: usize) -> BTreeMap<String, (i32, String)> {
    let agents = fleet.tested(at).state.look(|fleet| fleet.agents().cloned().collect::<Vec<_>>());
    let agents = agents.iter().map(|agent| crate::api::convert::directory_entry(agent, String::new(), None));
    agents.map(|entry| (entry.name, (entry.state, entry.address))).collect()
}

async fn propose(fleet: &TestFleet, at: usize, command: AgentCommand) -> Reply {
    fleet.tested(at).proposer.propose_one(Command::Agent(command)).await.expect("somebody leads")
}

async fn joined(fleet: &TestFleet, at: usize, name: &str, address: &str) -> AgentCommand {
    let join = AgentCommand::Joined(AgentJoin { address: address.into(), ..join(name, 1) });
    let Reply::Joined { agent, session } = propose(fleet, at, join).await else { panic!("{name} can join") };
    AgentCommand::Lost { agent, session, reason: LossReason::Silent }
}

/// Waits until a coordinator has applied as much as another.
async fn caught_up(fleet: &TestFleet, at: usize, with: usize) {
    let newest = fleet.tested(with).state.look(|fleet| fleet.revision());
    let applied = |fleet: &TestFleet| fleet.tested(at).state.look(|fleet| fleet.revision()) >= newest;
    fleet.until("what the other one has", applied).await;
}

#[tokio::test(start_paused = true)]
async fn every_coordinator_tells_who_is_there_and_what_changes() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let _agent = TestAgent::join(&fleet, leader, "real").await;
    let lost = joined(&fleet, leader, "a", "10.0.0.1:1").await;
    for at in [leader, fleet.followers(leader)[0]] {
        caught_up(&fleet, at, leader).await;
        let mut watched = Watched::start(&fleet, at, Watcher::default());
        watched.until_known(&fleet, leader).await;
        assert_eq!(watched.known()["real"].1, "10.0.2.1:7000");
    }
    let follower = fleet.followers(leader)[1];
    let mut watched = Watched::start(&fleet, follower, Watcher::default());
    assert_eq!(watched.until_known(&fleet, leader).await, 1);
    propose(&fleet, leader, lost).await;
    joined(&fleet, leader, "b", "10.0.0.2:1").await;
    assert_eq!(watched.until_known(&fleet, leader).await, 0, "only what has changed is sent");
    assert_eq!(watched.known()["a"].0, v1::AgentState::Lost as i32);
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_resumed_at_another_coordinator_without_starting_over() {
    let mut fleet = TestFleet::start();
    let leader = fleet.led().await;
    let lost = joined(&fleet, leader, "a", "10.0.0.1:1").await;
    let followers = fleet.followers(leader);
    for at in &followers {
        // Its log begins with its first look.
        caught_up(&fleet, *at, leader).await;
        Watched::start(&fleet, *at, Watcher::default()).until_known(&fleet, leader).await;
    }
    joined(&fleet, leader, "b", "10.0.0.1:1").await;
    let mut watched = Watched::start(&fleet, leader, Watcher::default());
    watched.until_known(&fleet, leader).await;
    let watcher = watched.end();
    propose(&fleet, leader, lost).await;
    fleet.tested(leader).submissions.submit(vec![task(1)], &Caller::Plaintext).await.expect("somebody leads");
    caught_up(&fleet, followers[0], leader).await;
    caught_up(&fleet, followers[1], leader).await;
    fleet.take_away(leader);
    let next = fleet.led().await;
    let mut watched = Watched::start(&fleet, followers[0], watcher);
    assert_eq!(watched.until_known(&fleet, next).await, 0);
    let watcher = watched.end();
    joined(&fleet, next, "c", "10.0.0.1:1").await;
    let mut watched = Watched::start(&fleet, followers[1], watcher);
    assert_eq!(watched.until_known(&fleet, next).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_does_not_learn_what_the_watcher_has_seen_sends_everything() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    joined(&fleet, leader, "a", "10.0.0.1:1").await;
    let watcher = Watcher { revision: 1_000_000, ..Watcher::default() };
    let mut watched = Watched::start(&fleet, leader, watcher);
    assert_eq!(watched.until_known(&fleet, leader).await, 1);
    assert!(watched.watcher.revision < 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_got_a_snapshot_tells_its_watchers_what_has_changed() {
    let mut fleet = TestFleet::start();
    let leader = fleet.led().await;
    let lost = joined(&fleet, leader, "a", "10.0.0.1:1").await;
    let follower = fleet.followers(leader)[0];
    caught_up(&fleet, follower, leader).await;
    let mut watched = Watched::start(&fleet, follower, Watcher::default());
    watched.until_known(&fleet, leader).await;
    joined(&fleet, leader, "x", "10.0.0.1:1").await;
    watched.until_known(&fleet, leader).await;
    let (seen, directory) = (watched.watcher.revision, fleet.tested(follower).directory);
    assert!(matches!(directory.directory.start(seen), Some(Position::Log(_))));
    // It gets the effects of nothing that follows, as if a snapshot were installed.
    propose(&fleet, leader, lost).await;
    joined(&fleet, leader, "b", "10.0.0.1:1").await;
    caught_up(&fleet, follower, leader).await;
    directory.observer.directory.take();
    directory.observer.directory.note_everything();
    assert_eq!(
        watched.until_known(&fleet, leader).await,
        1,
        "the watch starts over: it may know agents that this coordinator never saw"
    );
    let is_new = |_: &TestFleet| matches!(directory.directory.start(seen), Some(Position::Full { .. }));
    fleet.until("a look at everything", is_new).await;
    let mut before = Watched::start(&fleet, follower, Watcher { revision: seen, ..Watcher::default() });
    assert_eq!(before.until_known(&fleet, leader).await, 1, "what happened before the snapshot is not known");
    // A coordinator with an empty disk catches up, with or without a snapshot.
    fleet.take_away(follower);
    fleet.empty_disk(follower);
    fleet.run(follower);
    fleet.until("it runs", |fleet| fleet.up(follower).is_some()).await;
    let mut watched = Watched::start(&fleet, follower, Watcher::default());
    watched.until_known(&fleet, leader).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_holds_up_nobody_and_catches_up() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let mut slow = Watched::start(&fleet, leader, Watcher::default());
    let mut quick = Watched::start(&fleet, leader, Watcher::default());
    for n in 0..200 {
        joined(&fleet, leader, &format!("a-{}", n % 20), &format!("10.0.0.1:{n}")).await;
        quick.until_known(&fleet, leader).await;
    }
    slow.until_known(&fleet, leader).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_at_a_coordinator_that_is_cut_off_and_goes_on_otherwise() {
    let mut fleet = TestFleet::start();
    let leader = fleet.led().await;
    let _agent = joined(&fleet, leader, "a", "10.0.0.1:1").await;
    let follower = fleet.followers(leader)[0];
    let mut watched = Watched::start(&fleet, follower, Watcher::default());
    let goes_on = async {
        loop {
            match watched.stream.next().await {
                Some(Ok(_)) => {}
                ended => return ended,
            }
        }
    };
    let ended = timeout(3 * STALE_AFTER, goes_on).await;
    assert!(ended.is_err(), "the coordinator is in touch: {ended:?}");
    for other in fleet.running() {
        if other != follower {
            fleet.take_away(other);
        }
    }
    let ended = async {
        loop {
            if let Err(status) = watched.stream.next().await.expect("it says why it ends") {
                return status;
            }
        }
    };
    let status = timeout(PATIENCE, ended).await.expect("it ends");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    // Another coordinator may know no more, so this one serves a watch for a while.
    let mut again = Watched::start(&fleet, follower, Watcher::default());
    again.next().await;
}

#[tokio::test(start_paused = true)]
async fn watches_end_when_their_coordinator_leaves_and_are_limited() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let agent = joined(&fleet, leader, "a", "10.0.0.1:1").await;
    drop(agent);
    let directory = fleet.tested(leader).directory;
    let mut watches: Vec<_> = (0..MAX_WATCHERS).map(|_| directory.watch(0).expect("there is room")).collect();
    let refused = directory.watch(0).map(drop).expect_err("there is no room");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    watches.pop();
    let mut watched = Watched::start(&fleet, leader, Watcher::default());
    watched.until_known(&fleet, leader).await;
    drop(watches);
    fleet.tested(leader).members.note_removed(true);
    let ended = timeout(PATIENCE, async {
        loop {
            if let Err(status) = watched.stream.next().await.expect("a status comes first") {
                return status;
            }
        }
    });
    assert_eq!(ended.await.expect("it ends").code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn the_service_sends_what_a_generated_client_reads() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    joined(&fleet, leader, "a", "10.0.0.1:1").await;
    let network = HostNetwork::new(fleet.network.clone(), CancellationToken::new()).at([10, 0, 3, 1]);
    let channel = Transport::new(std::sync::Arc::new(network)).channel(&address(leader)).expect("it is an address");
    let mut client = limited!(DirectoryClient::new(channel));
    let mut stream =
        client.watch_agents(WatchAgentsRequest { from_revision: 0 }).await.expect("it serves").into_inner();
    let policies = stream.message().await.expect("it continues").expect("it continues");
    assert_eq!(policies.policies, Some(v1::Policies::default()), "there are none");
    let first = stream.message().await.expect("it continues").expect("it continues");
    assert!(first.reset && first.revision > 0);
    assert_eq!(first.agents.iter().map(|agent| agent.name.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(first.agents[0].role(), v1::Role::Worker);
}
