//! What whoever runs a fleet asks of it while it works: more coordinators and fewer, another leader, other sizes of pools.
//! Nothing that was accepted is lost meanwhile, and what would endanger the fleet is refused.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use robeing::client::{FleetClient, SubmitEvent, SubmitOptions};
use robeing_proto::v1::{
    AddCoordinatorRequest, AgentState, Coordinator, PoolSize, PoolStatus, RemoveCoordinatorRequest, SetPoolsRequest,
    TaskSpec, TaskState, TransferLeadershipRequest, admin_client::AdminClient,
};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    history::{History, Seen},
    script::{answer, task},
    wait::{PATIENCE, check, eventually, in_time},
};
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status, transport::Channel};

/// Tasks that are on their way at once.
const IN_FLIGHT: usize = 16;

/// The Admin service at a coordinator. No call may hang.
async fn admin(fleet: &Fleet, at: &str) -> AdminClient<Channel> {
    let address = format!("http://{}", fleet.address(at));
    eventually("a connection to the coordinator", async || AdminClient::connect(address.clone()).await).await
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

async fn add(fleet: &Fleet, at: &str, name: &str) -> Result<String, Status> {
    add_at(fleet, at, name, &fleet.address(name)).await
}

async fn add_at(fleet: &Fleet, at: &str, name: &str, address: &str) -> Result<String, Status> {
    let request = AddCoordinatorRequest { name: name.into(), address: address.into() };
    let added = admin(fleet, at).await.add_coordinator(timed(request)).await?;
    Ok(added.into_inner().node_id)
}

/// Adds a coordinator that may only be starting.
async fn added(fleet: &Fleet, at: &str, name: &str) -> String {
    eventually(&format!("{name} added"), async || match add(fleet, at, name).await {
        Err(status) if !matches!(status.code(), Code::Unavailable | Code::FailedPrecondition | Code::Aborted) => {
            panic!("{name} is not added: {status}")
        }
        answer => answer,
    })
    .await
}

async fn remove(fleet: &Fleet, at: &str, name: &str) -> Result<bool, Status> {
    let request = RemoveCoordinatorRequest { name: name.into() };
    let removed = admin(fleet, at).await.remove_coordinator(timed(request)).await?;
    Ok(removed.into_inner().removed)
}

async fn transfer(fleet: &Fleet, at: &str, to: &str) -> Result<(String, u64), Status> {
    let request = TransferLeadershipRequest { to: to.into() };
    let moved = admin(fleet, at).await.transfer_leadership(timed(request)).await?.into_inner();
    Ok((moved.leader, moved.term))
}

/// The coordinators that this one knows.
async fn members(fleet: &Fleet, at: &str) -> Result<Vec<Coordinator>, String> {
    let client = fleet.client_of(&[at]);
    let status = client.status(robeing_proto::v1::Consistency::Linearizable).await;
    Ok(status.map_err(|error| error.to_string())?.coordinators)
}

/// Waits until exactly these are members, and all vote.
async fn voters_are(fleet: &Fleet, at: &str, expected: &[&str]) {
    eventually(&format!("the voters {expected:?}"), async || {
        let members = members(fleet, at).await?;
        let names: Vec<&str> = members.iter().map(|one| one.name.as_str()).collect();
        check(names == expected && members.iter().all(|one| one.voter), (), format!("{members:?}"))
    })
    .await;
}

async fn node_id(fleet: &Fleet, at: &str, name: &str) -> Option<String> {
    let members = members(fleet, at).await.expect("it answers");
    members.into_iter().find(|one| one.name == name).map(|one| one.node_id)
}

const NAMES: [&str; 5] = ["coordinator-0", "coordinator-1", "coordinator-2", "coordinator-3", "coordinator-4"];

/// A fleet whose first membership is the first `first` of `all` coordinators; the others are not started.
async fn growing(first: usize, all: u32, pool: PoolSpec) -> Fleet {
    // No agent is to be lost in these tests, however busy the machine is.
    let mut fleet = Fleet::prepare(FleetSpec::new(all).pool(pool).session_timeout("10s"));
    let listed = |fleet: &Fleet, count: usize| {
        let names = NAMES[..count].iter();
        names.map(|name| format!("{name}={}", fleet.address(name))).collect::<Vec<_>>().join(",")
    };
    for (index, name) in NAMES.iter().enumerate().take(all as usize) {
        let members = listed(&fleet, first.max(index + 1));
        fleet.set_flag(name, "initial-coordinators", &members);
    }
    for name in &NAMES[..first] {
        fleet.start_one(name);
    }
    for name in fleet.agent_names() {
        fleet.start_one(&name);
    }
    fleet.ready().await;
    fleet
}

async fn three() -> Fleet {
    growing(3, 3, PoolSpec::new("work", 2)).await
}

/// Recorded tasks, one after the other until it is ended.
struct Stream {
    history: Arc<History>,
    client: FleetClient,
    enough: Arc<AtomicBool>,
    submitting: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.submitting.abort();
    }
}

impl Stream {
    async fn begin(fleet: &Fleet) -> Self {
        let (history, enough) = (Arc::new(History::default()), Arc::new(AtomicBool::new(false)));
        let client = fleet.client();
        let submitting = tokio::spawn(submit(client.clone(), Arc::clone(&history), Arc::clone(&enough)));
        let stream = Self { history, client, enough, submitting };
        stream.goes_on().await;
        stream
    }

    /// Waits until more tasks have ended than now.
    async fn goes_on(&self) {
        let before = self.history.ended_count();
        eventually("tasks that end", async || {
            let ended = self.history.ended_count();
            check(ended > before, (), format!("{ended} ended"))
        })
        .await;
    }

    /// Ends it, and checks that nothing was lost.
    async fn end(mut self, fleet: &Fleet) {
        self.goes_on().await;
        self.enough.store(true, Ordering::Relaxed);
        in_time("the end of the stream", &mut self.submitting).await.expect("it ends without a panic");
        for id in self.history.accepted_ids() {
            let request = robeing_proto::v1::GetTaskRequest { id: id.clone(), ..Default::default() };
            let task = self.client.get_task(request).await.unwrap_or_else(|error| panic!("no task {id}: {error}"));
            self.history.seen(Seen::Get, &task);
        }
        assert!(self.history.accepted_count() >= IN_FLIGHT, "there was something to lose");
        self.history.assert_sound(&fleet.executions_file());
    }
}

async fn submit(client: FleetClient, history: Arc<History>, enough: Arc<AtomicBool>) {
    let mut count = 0;
    while !enough.load(Ordering::Relaxed) {
        let tasks: Vec<TaskSpec> = (0..IN_FLIGHT)
            .map(|_| {
                count += 1;
                let text = format!("number {count}");
                let spec = task(&answer(&text));
                history.submitted(&spec.id, &text);
                spec
            })
            .collect();
        let ids: Vec<String> = tasks.iter().map(|task| task.id.clone()).collect();
        let options = SubmitOptions { window: IN_FLIGHT, unfinished: IN_FLIGHT, wait: true };
        let ended = client.submit_many(tasks, options, |event| match event {
            SubmitEvent::Submitted { index, result } => match &result.refusal {
                None => history.accepted(&result.task_id),
                Some(refusal) => history.refused(&ids[index], &refusal.message),
            },
            SubmitEvent::Finished { task, .. } => history.seen(Seen::Stream, &task),
            SubmitEvent::Expired { task_id, .. } => panic!("the result of {task_id} expired during the test"),
        });
        ended.await.unwrap_or_else(|error| panic!("the fleet gave up on the stream: {error}"));
    }
}

#[tokio::test]
async fn a_fleet_grows_from_one_coordinator_to_five_and_shrinks_again_and_nothing_is_lost() {
    let mut fleet = growing(1, 5, PoolSpec::new("work", 2)).await;
    let stream = Stream::begin(&fleet).await;
    for count in 2..=5 {
        let name = NAMES[count - 1];
        fleet.start_one(name);
        // At any member, which need not lead.
        let id = added(&fleet, NAMES[(count - 1) / 2], name).await;
        voters_are(&fleet, NAMES[0], &NAMES[..count]).await;
        assert_eq!(added(&fleet, NAMES[0], name).await, id, "once more changes nothing");
        stream.goes_on().await;
    }
    for count in [5, 4] {
        let gone = NAMES[count - 1];
        assert_eq!(remove(&fleet, NAMES[count / 2], gone).await.map_err(|e| e.to_string()), Ok(true));
        voters_are(&fleet, NAMES[0], &NAMES[..count - 1]).await;
        assert_eq!(remove(&fleet, NAMES[0], gone).await.map_err(|e| e.to_string()), Ok(false), "it is gone already");
        stream.goes_on().await;
    }
    // They still run, and ask nobody for anything that would disturb.
    let before = fleet.client_of(&NAMES[..3]).status(robeing_proto::v1::Consistency::Linearizable).await;
    let before = before.expect("the three answer");
    eventually("word of the removal in the log of the removed one", async || {
        let log = fleet.process(NAMES[4]).log();
        check(log.contains("this coordinator was removed from the fleet"), (), log)
    })
    .await;
    stream.end(&fleet).await;
    let after = fleet.client_of(&NAMES[..3]).status(robeing_proto::v1::Consistency::Linearizable).await;
    let after = after.expect("the three answer");
    assert_eq!((before.term, before.leader), (after.term, after.leader), "the removed ones caused no election");
}

#[tokio::test]
async fn a_leader_that_is_removed_hands_over_first() {
    let fleet = three().await;
    let stream = Stream::begin(&fleet).await;
    let old = fleet.leader().await;
    let others: Vec<&str> = NAMES[..3].iter().copied().filter(|name| *name != old).collect();
    // By way of a follower, and of itself.
    for at in [others[0], &old] {
        let leader = fleet.client_of(&others).status(robeing_proto::v1::Consistency::Linearizable).await;
        let leads = leader.expect("the others answer").leader == old;
        assert_eq!(remove(&fleet, at, &old).await.map_err(|e| e.to_string()), Ok(leads));
        voters_are(&fleet, others[0], &others).await;
        if at == others[0] {
            stream.goes_on().await;
            added(&fleet, others[1], &old).await;
            let (leader, _) = transfer(&fleet, others[0], &old).await.expect("it is caught up");
            assert_eq!(leader, old);
        } else {
            assert!(leads, "it led again");
        }
    }
    stream.end(&fleet).await;
}

#[tokio::test]
async fn what_can_not_be_added_is_refused_in_time() {
    let fleet = three().await;
    let refused = async |name: &str, address: &str| {
        let status = in_time("an answer", add_at(&fleet, NAMES[1], name, address)).await;
        status.expect_err("it is refused")
    };
    // Port 9 of the loopback address: nobody listens.
    let status = refused("coordinator-3", "127.0.0.1:9").await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("127.0.0.1:9"), "{status}");
    // Listens, and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = silent.local_addr().expect("it is bound").to_string();
    assert_eq!(refused("coordinator-3", &address).await.code(), Code::Unavailable);
    // Another than is meant.
    let status = refused("coordinator-3", &fleet.address(NAMES[2])).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("coordinator-2"), "{status}");
    assert_eq!(refused("coordinator-3", "nowhere").await.code(), Code::InvalidArgument);
    assert_eq!(refused("", "127.0.0.1:9").await.code(), Code::InvalidArgument);
    voters_are(&fleet, NAMES[0], &NAMES[..3]).await;
}

#[tokio::test]
async fn a_coordinator_of_another_cluster_is_not_added() {
    let mut fleet = growing(1, 3, PoolSpec::new("work", 1)).await;
    fleet.set_flag(NAMES[1], "cluster-id", "other");
    fleet.start_one(NAMES[1]);
    let status = eventually("word from the other", async || match add(&fleet, NAMES[0], NAMES[1]).await {
        Err(status) if status.code() != Code::Unavailable => Ok(status),
        other => Err(other),
    })
    .await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("other"), "{status}");
}

#[tokio::test]
async fn a_removal_that_would_leave_no_majority_is_refused() {
    let mut fleet = three().await;
    let leader = fleet.leader().await;
    let others: Vec<&str> = NAMES[..3].iter().copied().filter(|name| *name != leader).collect();
    fleet.kill(others[0]);
    let status = remove(&fleet, &leader, others[1]).await.expect_err("one of two would be left");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    // The dead one may go, and then even the other.
    assert_eq!(remove(&fleet, &leader, others[0]).await.map_err(|e| e.to_string()), Ok(true));
    assert_eq!(remove(&fleet, &leader, others[1]).await.map_err(|e| e.to_string()), Ok(true));
    voters_are(&fleet, &leader, &[&leader]).await;
    let status = remove(&fleet, &leader, &leader).await.expect_err("it is the last");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("last voter"), "{status}");
    let status = transfer(&fleet, &leader, "").await.expect_err("there is no other");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    fleet.submit_one(task(&answer("alone"))).await;
}

#[tokio::test]
async fn a_removed_coordinator_is_added_again_with_its_old_disk_and_with_an_empty_one() {
    let mut fleet = three().await;
    let stream = Stream::begin(&fleet).await;
    let leader = fleet.leader().await;
    let again = NAMES[..3].iter().copied().find(|name| *name != leader).expect("two follow");
    let old = node_id(&fleet, &leader, again).await.expect("it is a member");
    fleet.kill(again);
    assert_eq!(remove(&fleet, &leader, again).await.map_err(|e| e.to_string()), Ok(true));
    stream.goes_on().await;

    // What it remembers is that it is one of three: it must not come back by itself.
    fleet.start_one(again);
    eventually("word of the removal in its log", async || {
        let log = fleet.process(again).log();
        check(log.contains("this coordinator was removed from the fleet"), (), log)
    })
    .await;
    assert_eq!(node_id(&fleet, &leader, again).await, None);
    assert_eq!(added(&fleet, &leader, again).await, old, "its disk has its node id");
    voters_are(&fleet, &leader, &NAMES[..3]).await;
    fleet.coordinators_agree().await;

    // With an empty disk it is another node, and joins by nobody's word but the one that is asked.
    assert_eq!(remove(&fleet, &leader, again).await.map_err(|e| e.to_string()), Ok(true));
    fleet.kill(again);
    fs::remove_dir_all(fleet.data(again)).expect("it is the test's directory");
    fleet.start_one(again);
    eventually("a newcomer that waits", async || {
        let log = fleet.process(again).log();
        check(log.contains("waiting to be added"), (), log)
    })
    .await;
    assert_eq!(node_id(&fleet, &leader, again).await, None);
    let new = added(&fleet, &leader, again).await;
    assert_ne!(new, old);
    fleet.coordinators_agree().await;
    stream.end(&fleet).await;

    // Its vote counts.
    let third = NAMES[..3].iter().copied().find(|name| *name != leader && *name != again).expect("a third");
    fleet.kill(third);
    let id = fleet.submit_one(task(&answer("with two"))).await;
    fleet.finished(&id, TaskState::Succeeded).await;
}

#[tokio::test]
async fn an_emptied_coordinator_is_added_in_place_of_the_dead_one_of_its_name_and_never_of_a_living_one() {
    let mut fleet = three().await;
    let leader = fleet.leader().await;
    let again = NAMES[..3].iter().copied().find(|name| *name != leader).expect("two follow");
    let old = node_id(&fleet, &leader, again).await.expect("it is a member");
    fleet.kill(again);
    fs::remove_dir_all(fleet.data(again)).expect("it is the test's directory");
    fleet.start_one(again);
    let new = added(&fleet, &leader, again).await;
    assert_ne!(new, old);
    voters_are(&fleet, &leader, &NAMES[..3]).await;
    assert_eq!(node_id(&fleet, &leader, again).await, Some(new));
}

#[tokio::test]
async fn leadership_goes_to_the_one_that_is_named_or_to_any_other() {
    let mut fleet = three().await;
    let stream = Stream::begin(&fleet).await;
    let old = fleet.leader().await;
    let others: Vec<&str> = NAMES[..3].iter().copied().filter(|name| *name != old).collect();
    let (leader, term) = transfer(&fleet, others[0], others[1]).await.expect("it is up and caught up");
    assert_eq!(leader, others[1]);
    assert_eq!(fleet.leader().await, others[1]);
    assert_eq!(transfer(&fleet, &old, others[1]).await.expect("it leads already"), (leader, term));
    let (leader, later) = transfer(&fleet, &old, "").await.expect("there are others");
    assert!(leader != others[1] && later > term, "{leader} in {later}");
    stream.end(&fleet).await;

    let status = transfer(&fleet, &leader, "coordinator-9").await.expect_err("there is none");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let follower = NAMES[..3].iter().copied().find(|name| *name != leader).expect("two follow");
    fleet.kill(follower);
    let status = transfer(&fleet, &leader, follower).await.expect_err("it is dead");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(fleet.leader().await, leader, "it stays where it was");
}

#[tokio::test]
async fn without_a_leader_calls_are_given_up_in_time() {
    let mut fleet = three().await;
    let leader = fleet.leader().await;
    let left = NAMES[..3].iter().copied().find(|name| *name != leader).expect("two follow");
    for name in NAMES[..3].iter().filter(|name| **name != left) {
        fleet.kill(name);
    }
    let status = in_time("an answer", remove(&fleet, left, &leader)).await.expect_err("nobody leads");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let mut client = admin(&fleet, left).await;
    let set = in_time("an answer", client.set_pools(timed(SetPoolsRequest::default()))).await;
    assert_eq!(set.expect_err("nobody leads").code(), Code::Unavailable);
}

async fn set_pools(fleet: &Fleet, at: &str, pools: &[(&str, Option<u32>, u32)]) -> Result<u64, Status> {
    let size = |(name, replicas, standby): &(&str, Option<u32>, u32)| PoolSize {
        name: (*name).into(),
        replicas: *replicas,
        standby: *standby,
    };
    let request = SetPoolsRequest { pools: pools.iter().map(size).collect() };
    Ok(admin(fleet, at).await.set_pools(timed(request)).await?.into_inner().revision)
}

async fn pools(fleet: &Fleet) -> Vec<(String, u32, u32, u32)> {
    let shown = |pool: PoolStatus| (pool.name, pool.live, pool.standby, pool.desired);
    fleet.status().await.pools.into_iter().map(shown).collect()
}

#[tokio::test]
async fn pools_are_set_by_any_coordinator_and_standbys_step_in_and_stay() {
    let mut fleet = growing(3, 3, PoolSpec::new("work", 2).standby(2).slots(1)).await;
    let pool = |live, standby, desired| ("work".to_owned(), live, standby, desired);
    assert_eq!(pools(&fleet).await, [pool(2, 2, 2)]);
    for (at, name) in NAMES[..3].iter().enumerate() {
        let replicas = at.min(1) as u32 + 3;
        set_pools(&fleet, name, &[("work", Some(replicas), 1), ("mail", Some(5), 0)]).await.expect("any takes it");
        let mail = ("mail".to_owned(), 0, 0, 5);
        assert_eq!(pools(&fleet).await, [mail, pool(replicas, 4 - replicas, replicas)], "set at {name}");
    }
    // Fewer: nobody goes back, and one that leaves is not replaced. What agents say at a restart does not count.
    let revision = set_pools(&fleet, NAMES[1], &[("work", Some(1), 1)]).await.expect("it is taken");
    assert!(revision > 0);
    assert_eq!(pools(&fleet).await, [pool(4, 0, 1)]);
    let agents = fleet.agent_names();
    fleet.kill(&agents[0]);
    fleet.agent_is(&agents[0], AgentState::Lost).await;
    fleet.start_one(&agents[0]);
    fleet.agent_is(&agents[0], AgentState::Standby).await;
    assert_eq!(pools(&fleet).await, [pool(3, 1, 1)]);

    for wrong in [vec![("work", Some(1), 0), ("work", Some(2), 0)], vec![("", Some(1), 0)]] {
        let status = set_pools(&fleet, NAMES[0], &wrong).await.expect_err("it is wrong");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    // It outlives all of them.
    for name in &NAMES[..3] {
        fleet.kill(name);
    }
    for name in &NAMES[..3] {
        fleet.start_one(name);
    }
    fleet.ready().await;
    assert_eq!(pools(&fleet).await, [pool(3, 1, 1)]);
}

/// Whether `/readyz` says that a coordinator can do its work.
async fn is_ready(fleet: &Fleet, name: &str) -> Result<bool, String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let asking = async {
        let mut stream = tokio::net::TcpStream::connect(fleet.metrics_address(name)).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text.starts_with("HTTP/1.1 200"))
    };
    let asked = tokio::time::timeout(Duration::from_secs(5), asking).await.map_err(|_| "no answer".to_owned())?;
    asked.map_err(|error| error.to_string())
}

async fn readiness_is(fleet: &Fleet, name: &str, expected: bool) {
    eventually(&format!("readiness {expected} of {name}"), async || {
        let ready = is_ready(fleet, name).await?;
        check(ready == expected, (), format!("{ready}"))
    })
    .await;
}

#[tokio::test]
async fn a_coordinator_is_ready_while_it_votes_and_is_in_touch_with_a_leader() {
    let mut fleet = growing(3, 5, PoolSpec::new("work", 1)).await;
    for name in &NAMES[..3] {
        readiness_is(&fleet, name, true).await;
    }
    fleet.start_one(NAMES[3]);
    eventually("a newcomer that waits", async || {
        let log = fleet.process(NAMES[3]).log();
        check(log.contains("waiting to be added"), (), log)
    })
    .await;
    readiness_is(&fleet, NAMES[3], false).await;
    added(&fleet, NAMES[0], NAMES[3]).await;
    readiness_is(&fleet, NAMES[3], true).await;
    remove(&fleet, NAMES[0], NAMES[3]).await.expect("three are left");
    readiness_is(&fleet, NAMES[3], false).await;
    // Those that are left by the majority, a leader among them or not.
    let leader = fleet.leader().await;
    for name in NAMES[..3].iter().filter(|name| **name != leader) {
        fleet.freeze(name);
    }
    readiness_is(&fleet, &leader, false).await;
    for name in NAMES[..3].iter().filter(|name| **name != leader) {
        fleet.thaw(name);
    }
    for name in &NAMES[..3] {
        readiness_is(&fleet, name, true).await;
    }
}
