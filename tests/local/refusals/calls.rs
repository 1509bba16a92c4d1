//! Members of the fleet that call what their role may not call, or that act for another agent.

use robeing_identity::PeerRole;
use robeing_proto::{
    internal::v1::{
        FromMailbox, Hello, MailboxOpen, from_mailbox::Message as FromAgent, mailbox_client::MailboxClient,
    },
    v1::{Role, TaskState},
};
use robeing_tests::{
    raw_call,
    script::task,
    scripted_agent::{HandAgent, completion, hello},
    thief::{CLUSTER, Stolen},
    wait::in_time,
};
use tonic::{Code, Status};

use super::{Scene, VICTIM, refused_calls};

#[tokio::test]
async fn a_role_may_call_what_the_table_says_and_nothing_else() {
    const WORKER: &[&str] = &[
        "robeing.v1.Fleet/Submit",
        "robeing.v1.Fleet/SubmitStream",
        "robeing.v1.Fleet/CancelTasks",
        "robeing.v1.Fleet/GetTask",
        "robeing.v1.Fleet/ListTasks",
        "robeing.v1.Fleet/ListSubtasks",
        "robeing.v1.Fleet/WatchTasks",
        "robeing.v1.DeadLetters/ListDeadLetters",
        "robeing.v1.DeadLetters/RetryDeadLetters",
        "robeing.v1.DeadLetters/DropDeadLetters",
        "robeing.v1.Messages/ReadInbox",
        "robeing.v1.Schedules/SetSchedule",
        "robeing.v1.Schedules/RunSchedule",
        "robeing.v1.Admin/SetTrust",
        "robeing.v1.Admin/CreateJoinToken",
        "robeing.v1.Admin/BarAgent",
        "robeing.internal.v1.Mailbox/ReadInboxHere",
        "robeing.internal.v1.Raft/Append",
        "robeing.internal.v1.Raft/Propose",
        "robeing.internal.v1.Raft/Join",
    ];
    const MESSENGER: &[&str] = &["robeing.v1.Fleet/Submit", "robeing.v1.Admin/SetPolicies"];
    const GUARDIAN: &[&str] = &["robeing.v1.Fleet/Submit", "robeing.v1.Admin/ReleaseAgent"];
    const NO_AGENT: &[&str] = &["robeing.internal.v1.Session/Open", "robeing.internal.v1.Mailbox/Attend"];
    const CLIENT: &[&str] = &["robeing.internal.v1.Session/Open", "robeing.internal.v1.Raft/Vote"];
    let scene = Scene::start(1).await;
    for (role, methods) in [
        (PeerRole::Worker, WORKER),
        (PeerRole::Specialist, WORKER),
        (PeerRole::Messenger, MESSENGER),
        (PeerRole::Guardian, GUARDIAN),
        (PeerRole::Client, CLIENT),
        (PeerRole::Operator, CLIENT),
        (PeerRole::Coordinator, NO_AGENT),
    ] {
        let channel = scene.thief.certified(role, "thief").channel(&scene.coordinator);
        for method in methods {
            let counter = scene.at_coordinator(&refused_calls(method, Code::PermissionDenied)).await;
            let path = format!("/{method}");
            let status = in_time(method, raw_call::call(&channel, &path, raw_call::framed(&[]))).await;
            assert_eq!(status.code(), Code::PermissionDenied, "{role} {method}: {status:?}");
            counter.rises_by(1).await;
        }
        let counter = scene.at_coordinator(&refused_calls("unknown", Code::Unimplemented)).await;
        let status = raw_call::call(&channel, "/robeing.v1.Nothing/AtAll", raw_call::framed(&[])).await;
        assert_eq!(status.code(), Code::Unimplemented, "{role}: {status:?}");
        counter.rises_by(1).await;
    }
}

#[tokio::test]
async fn only_agents_that_are_in_the_fleet_open_streams_to_agents() {
    let scene = Scene::start(1).await;
    let method = "robeing.message.v1.Messages/Exchange";
    for (role, code) in [
        (PeerRole::Client, Code::PermissionDenied),
        (PeerRole::Operator, Code::PermissionDenied),
        (PeerRole::Coordinator, Code::PermissionDenied),
        // It may join in a moment.
        (PeerRole::Worker, Code::Unavailable),
        (PeerRole::Messenger, Code::Unavailable),
    ] {
        let channel = scene.thief.certified(role, "nobody").channel_to(VICTIM, &scene.agent);
        let counter = scene.at_agent(&refused_calls(method, code)).await;
        let status = in_time(method, raw_call::call(&channel, &format!("/{method}"), raw_call::framed(&[]))).await;
        assert_eq!(status.code(), code, "{role}: {status:?}");
        counter.rises_by(1).await;
    }
}

#[tokio::test]
async fn the_task_of_another_agent_can_not_be_completed() {
    let scene = Scene::start(1).await;
    // The only other agent is busy, so that the task goes to an agent by hand.
    let gate = scene.fleet.gate("held");
    for _ in 0..4 {
        let id = scene.fleet.submit_one(task(&gate.wait())).await;
        scene.fleet.executing(&id, 1).await;
    }
    let open = async |name: &str| {
        let identity = scene.enrolled((PeerRole::Worker, Role::Worker), name, "").await;
        let channel = identity.channel(&scene.coordinator);
        HandAgent::open_over(channel, hello(name)).await.expect("a valid Hello")
    };
    let mut rightful = open("rightful").await;
    let id = scene.fleet.submit_one(task("done by hand")).await;
    let given = rightful.assignment().await;
    assert_eq!(given.task_id, id);
    let mut thief = open("thief").await;
    let stale = scene.at_coordinator("robeing_completions_stale").await;
    let ack = thief.complete(completion(&given, given.attempt, "stolen")).await;
    assert!(!ack.accepted && !ack.reason.is_empty(), "{ack:?}");
    stale.rises_by(1).await;
    assert_eq!(scene.fleet.task(&id).await.state(), TaskState::Assigned);
    let ack = rightful.complete(completion(&given, given.attempt, "right")).await;
    assert!(ack.accepted, "{ack:?}");
    assert_eq!(scene.fleet.finished(&id, TaskState::Succeeded).await.output, "right");
}

/// Opens a session as `identity`, which must be refused.
async fn refused_session(scene: &Scene, identity: &Stolen, hello: Hello) {
    let counter =
        scene.at_coordinator(&refused_calls("robeing.internal.v1.Session/Open", Code::PermissionDenied)).await;
    let refused = HandAgent::open_over(identity.channel(&scene.coordinator), hello.clone()).await;
    let refused = refused.err().unwrap_or_else(|| panic!("a session was opened: {hello:?}"));
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    counter.rises_by(1).await;
}

#[tokio::test]
async fn a_session_is_of_the_agent_that_the_certificate_names_and_of_no_other() {
    let scene = Scene::start(1).await;
    let first = scene.enrolled((PeerRole::Worker, Role::Worker), "hand-0", "hand").await;
    refused_session(&scene, &first, hello(VICTIM)).await;
    refused_session(&scene, &first, hello("hand-1")).await;
    refused_session(&scene, &first, Hello { role: Role::Guardian.into(), ..hello("hand-0") }).await;
    refused_session(&scene, &first, Hello { pool: "another".into(), ..hello("hand-0") }).await;
    refused_session(&scene, &first, Hello { cluster_id: "another".into(), ..hello("hand-0") }).await;
    let own = Hello { pool: "hand".into(), ..hello("hand-0") };
    let opened = HandAgent::open_over(first.channel(&scene.coordinator), own.clone()).await;
    opened.expect("the session is its own");

    // The name belongs to the process that has enrolled last.
    let second = scene.enrolled((PeerRole::Worker, Role::Worker), "hand-0", "hand").await;
    refused_session(&scene, &first, own.clone()).await;
    HandAgent::open_over(second.channel(&scene.coordinator), own).await.expect("it has enrolled last");
}

#[tokio::test]
async fn a_mailbox_is_of_the_agent_that_the_certificate_names_and_of_no_other() {
    let scene = Scene::start(1).await;
    let method = "robeing.internal.v1.Mailbox/Attend";
    let identity = scene.thief.certified(PeerRole::Worker, "thief");
    let attend = async |agent: &str, cluster: &str| -> Status {
        let open = MailboxOpen { cluster_id: cluster.into(), agent: agent.into() };
        let said = tokio_stream::iter([FromMailbox { message: Some(FromAgent::Open(open)) }]);
        let attended = MailboxClient::new(identity.channel(&scene.coordinator)).attend(said).await;
        let told = async { attended?.into_inner().message().await };
        in_time("the end of the mailbox", told).await.expect_err("it is refused")
    };
    for (agent, cluster) in [(VICTIM, CLUSTER), ("nobody", CLUSTER), ("thief", "another")] {
        let counter = scene.at_coordinator(&refused_calls(method, Code::PermissionDenied)).await;
        let refused = attend(agent, cluster).await;
        assert_eq!(refused.code(), Code::PermissionDenied, "{agent}: {refused:?}");
        counter.rises_by(1).await;
    }
}
