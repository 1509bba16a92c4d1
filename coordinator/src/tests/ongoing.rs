//! Calls that go on after they were admitted, and how they end.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use robeing_fleet::{BarKind, IdentityCommand};
use robeing_identity::PeerRole;
use robeing_net::{
    ConnectInfo,
    gate::{Caller, Gate, Ongoing},
};
use robeing_proto::v1;
use robeing_settings::Enrolment;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

use crate::{
    identity::{
        access::Access,
        client_rights::ClientRights,
        fixture::config,
        ongoing::{BAR_GRACE, LOOK_EVERY},
        rights::ClientRights as Rights,
        rights_file::CurrentRights,
    },
    tests::{
        access::{Fixture, KEY, connection, on_behalf_of},
        fleet::TestFleet,
        member::{TestMember, retried},
    },
};

const SUBMIT: &str = "/robeing.v1.Fleet/SubmitStream";
const WATCH: &str = "/robeing.v1.Fleet/WatchTasks";
const DIRECTORY: &str = "/robeing.v1.Directory/WatchAgents";
const BEFORE: &str = "clients: [{name: ann, rights: [submit, read]}, {name: bob, rights: [submit]}]";
const AFTER: &str = "clients: [{name: ann, rights: [read]}, {name: bob, rights: [submit]}]";
/// How long a call that is to be ended may go on, in the test's time.
const PATIENCE: Duration = Duration::from_secs(60);

fn parsed(rights: &str) -> Rights {
    Rights::parse(rights.as_bytes()).expect("they are rights")
}

fn bar(agent: &str) -> IdentityCommand {
    let (agent, kind, reason) = (agent.into(), BarKind::Quarantined, "odd".into());
    IdentityCommand::Bar { agent, kind, reason, by: "test".into() }
}

/// A gate that follows what goes on.
struct Following {
    access: Arc<Access>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Following {
    fn new(fixture: &Fixture, access: Access) -> Self {
        let access = Arc::new(access);
        let bars = Arc::clone(&access).follow_bars(Arc::clone(&fixture.tested.directory.observer));
        let tasks = [tokio::spawn(bars), tokio::spawn(Arc::clone(&access).follow_rights())];
        Self { access, _tasks: tasks.map(AbortOnDropHandle::new) }
    }

    /// Makes a call, which goes on.
    async fn begin(&self, method: &str, connection: &ConnectInfo, headers: &HeaderMap) -> Option<Ongoing> {
        let caller = self.access.admit(method, connection, headers).await.expect("it is admitted");
        self.access.follow(method, connection, &caller)
    }
}

fn code(call: &Ongoing) -> Option<Code> {
    call.ended().map(|status| status.code())
}

#[tokio::test(start_paused = true)]
async fn the_streams_of_a_client_end_when_it_loses_the_right_to_them_and_no_others() {
    let fixture = Fixture::new().await;
    let rights = CurrentRights::fixed(parsed(BEFORE));
    let access = fixture.access(Enrolment::Proof, BEFORE, false);
    let gate = Following::new(&fixture, Access { rights: ClientRights::File(rights.clone()), ..access });
    let client = |name: &str| connection(Some((PeerRole::Client, name)));
    let none = HeaderMap::new();
    let begin =
        async |method: &str, name: &str| gate.begin(method, &client(name), &none).await.expect("it is a stream");
    let (one, another) = (begin(SUBMIT, "ann").await, begin(SUBMIT, "ann").await);
    let kept = [begin(WATCH, "ann").await, begin(SUBMIT, "bob").await];
    // What a messenger does for her is hers.
    fixture.enrol("m-0", KEY).await;
    let behalf = on_behalf_of(&["ann"]);
    let through = gate.begin(WATCH, &connection(Some((PeerRole::Messenger, "m-0"))), &behalf).await.expect("a stream");
    assert_eq!(gate.access.calls.sizes(), (1, 3), "calls are not looked after one by one");
    sleep(10 * LOOK_EVERY).await;
    assert_eq!((code(&one), code(&through)), (None, None));
    rights.set(parsed(AFTER));
    sleep(2 * LOOK_EVERY).await;
    for ended in [&one, &another] {
        assert_eq!(code(ended), Some(Code::PermissionDenied));
    }
    assert!(kept.iter().chain([&through]).all(|call| code(call).is_none()));
    assert_eq!(gate.access.refusals.actors(), ["client/ann ()"], "it is recorded");
    rights.set(parsed("{}"));
    sleep(2 * LOOK_EVERY).await;
    assert!(kept.iter().chain([&through]).all(|call| code(call) == Some(Code::PermissionDenied)));
    let actors = gate.access.refusals.actors();
    assert!(actors.contains(&"client/ann through messenger/m-0 ()".to_owned()), "{actors:?}");
    drop((one, another, kept, through));
    assert_eq!(gate.access.calls.sizes(), (0, 0), "nothing of them is kept");
}

#[tokio::test(start_paused = true)]
async fn the_streams_of_an_agent_end_when_it_is_barred_also_what_it_does_for_clients() {
    let fixture = Fixture::new().await;
    let gate = Following::new(&fixture, fixture.access(Enrolment::Proof, BEFORE, false));
    for agent in ["m-0", "w", "x"] {
        fixture.enrol(agent, KEY).await;
    }
    let messenger = connection(Some((PeerRole::Messenger, "m-0")));
    let worker = connection(Some((PeerRole::Worker, "w")));
    let none = HeaderMap::new();
    let behalf = on_behalf_of(&["ann"]);
    let ended = [
        gate.begin(WATCH, &messenger, &none).await.expect("it is a stream"),
        gate.begin(WATCH, &messenger, &behalf).await.expect("it is a stream"),
        gate.begin("/robeing.internal.v1.Session/Open", &messenger, &none).await.expect("it is a stream"),
    ];
    let kept = gate.begin(DIRECTORY, &worker, &none).await.expect("it is a stream");
    fixture.propose(bar("m-0")).await;
    assert!(ended.iter().all(|call| code(call).is_none()), "what its services say to it comes first");
    sleep(BAR_GRACE + LOOK_EVERY).await;
    assert!(ended.iter().all(|call| code(call) == Some(Code::PermissionDenied)));
    let actors = gate.access.refusals.actors();
    assert_eq!(actors, ["messenger/m-0 ()"; 2], "it is the messenger that is barred, and not its client");
    assert_eq!(code(&kept), None);
    // One that was admitted before the bar, and is followed only after it.
    let identity = worker.identity.clone().expect("a certificate");
    fixture.propose(bar("w")).await;
    let late = gate.access.follow(DIRECTORY, &worker, &Caller::Member(identity)).expect("it is a stream");
    assert_eq!(code(&late), Some(Code::PermissionDenied));
    // A snapshot says nothing of what has changed.
    let unseen = connection(Some((PeerRole::Worker, "x")));
    let unseen = gate.begin(DIRECTORY, &unseen, &none).await.expect("it is a stream");
    fixture.propose(bar("x")).await;
    fixture.tested.directory.observer.barred.take();
    fixture.tested.directory.observer.barred.note_everything();
    sleep(2 * BAR_GRACE + LOOK_EVERY).await;
    assert_eq!(code(&unseen), Some(Code::PermissionDenied));
}

#[tokio::test(start_paused = true)]
async fn the_streams_of_an_agent_end_also_if_it_is_released_at_once() {
    let fixture = Fixture::new().await;
    let gate = Following::new(&fixture, fixture.access(Enrolment::Proof, BEFORE, false));
    fixture.enrol("w", KEY).await;
    let worker = connection(Some((PeerRole::Worker, "w")));
    let stream = gate.begin(DIRECTORY, &worker, &HeaderMap::new()).await.expect("it is a stream");
    fixture.propose(bar("w")).await;
    fixture.propose(IdentityCommand::Release { agent: "w".into(), by: "test".into() }).await;
    sleep(BAR_GRACE + LOOK_EVERY).await;
    assert_eq!(code(&stream), Some(Code::PermissionDenied));
    let again = gate.begin(DIRECTORY, &worker, &HeaderMap::new()).await.expect("it is released");
    sleep(BAR_GRACE + LOOK_EVERY).await;
    assert_eq!(code(&again), None);
}

#[tokio::test(start_paused = true)]
async fn after_a_snapshot_the_streams_of_agents_that_are_not_enrolled_any_more_end() {
    let fixture = Fixture::new().await;
    let access = fixture.access(Enrolment::Proof, BEFORE, false);
    let mut streams = Vec::new();
    for agent in ["removed", "replaced", "kept"] {
        fixture.enrol(agent, KEY).await;
        let (connection, none) = (connection(Some((PeerRole::Worker, agent))), HeaderMap::new());
        let caller = access.admit(DIRECTORY, &connection, &none).await.expect("it is admitted");
        streams.push(access.follow(DIRECTORY, &connection, &caller).expect("it is a stream"));
    }
    let (agent, kind, by) = ("removed".to_owned(), BarKind::Removed, "test".to_owned());
    fixture.propose(IdentityCommand::Bar { agent, kind, reason: "odd".into(), by }).await;
    fixture.propose(IdentityCommand::Release { agent: "removed".into(), by: "test".into() }).await;
    fixture.enrol("replaced", [8; 32]).await;
    // A snapshot says nothing of what was done in between.
    let barred = &fixture.tested.directory.observer.barred;
    barred.take();
    barred.note_everything();
    let _gate = Following::new(&fixture, access);
    sleep(2 * BAR_GRACE + LOOK_EVERY).await;
    let ended: Vec<_> = streams.iter().map(code).collect();
    assert_eq!(ended, [Some(Code::Unauthenticated), Some(Code::PermissionDenied), None]);
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_lost_and_what_ends_by_itself_is_not_followed() {
    let fixture = Fixture::new().await;
    let gate = Following::new(&fixture, fixture.access(Enrolment::Open, BEFORE, true));
    let none = HeaderMap::new();
    let coordinator = connection(Some((PeerRole::Coordinator, "c")));
    assert!(gate.begin(WATCH, &coordinator, &none).await.is_none());
    assert!(gate.begin(WATCH, &ConnectInfo::default(), &none).await.is_none(), "plaintext is trusted");
    let ann = connection(Some((PeerRole::Client, "ann")));
    assert!(gate.begin("/robeing.v1.Fleet/Submit", &ann, &none).await.is_none());
    let closed = fixture.access(Enrolment::Open, BEFORE, false);
    let gate = Following::new(&fixture, closed);
    let anonymous = gate.begin(WATCH, &connection(None), &none).await.expect("it is a stream");
    fixture.propose(IdentityCommand::Configure(config())).await;
    sleep(2 * LOOK_EVERY).await;
    assert_eq!(code(&anonymous), Some(Code::PermissionDenied), "enrolment is open no more");
}

#[tokio::test(start_paused = true)]
async fn a_guardian_that_is_quarantined_sees_no_more_of_the_tasks() {
    let fleet = TestFleet::start_secured(Enrolment::Proof);
    let leader = fleet.led().await;
    let guardian = TestMember::enrolled(&fleet, leader, PeerRole::Guardian, "g").await;
    let client = guardian.fleet(&fleet, fleet.followers(leader)[0]);
    let request = v1::WatchTasksRequest { include_output: true, ..v1::WatchTasksRequest::default() };
    let watch = retried(async || client.clone().watch_tasks(request.clone()).await).await;
    let mut watch = watch.expect("it may").into_inner();
    let admin = TestMember::certified(&fleet, PeerRole::Client, "root");
    let kind = v1::BarKind::Quarantined.into();
    let bar = v1::BarAgentRequest { agent: "g".into(), kind, reason: "odd".into(), known_only: false };
    retried(async || admin.admin(&fleet, leader).bar_agent(bar.clone()).await).await.expect("it may");
    let ended = async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ends with a reason"),
                Err(status) => break status,
            }
        }
    };
    let ended = timeout(PATIENCE, ended).await.expect("in time");
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert!(ended.message().contains("odd"), "{ended}");
}
