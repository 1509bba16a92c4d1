//! Connections of strangers: without a certificate, with a wrong one, or without TLS.

use bytes::Bytes;
use robeing_identity::PeerRole;
use robeing_proto::v1::TaskState;
use robeing_tests::{
    raw_call,
    script::{answer, task},
    thief::{CLUSTER, now},
    wait::in_time,
};
use rustls::AlertDescription as Alert;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use super::{Scene, VICTIM, refused_calls, refused_connections};

const HOUR: u64 = 60 * 60 * 1_000;

#[tokio::test]
async fn a_certificate_that_is_not_of_this_fleet_or_not_of_now_is_refused_at_the_handshake() {
    let scene = Scene::start(1).await;
    let (thief, stranger) = (&scene.thief, scene.thief.of_another_fleet());
    for (address, is_coordinator) in [(&scene.coordinator, true), (&scene.agent, false)] {
        for (identity, alert, reason) in [
            (stranger.certified(PeerRole::Worker, VICTIM), Some(Alert::UnknownCA), "unknown_authority"),
            (stranger.certified(PeerRole::Coordinator, "coordinator-0"), Some(Alert::UnknownCA), "unknown_authority"),
            // An authority of several fleets does not make them one.
            (thief.issue("another", PeerRole::Worker, VICTIM, now()), None, "other_fleet"),
            (thief.issue("another", PeerRole::Coordinator, "coordinator-0", now()), None, "other_fleet"),
            (
                thief.issue(CLUSTER, PeerRole::Worker, VICTIM, now() - 3 * HOUR),
                Some(Alert::CertificateExpired),
                "expired",
            ),
            (
                thief.issue(CLUSTER, PeerRole::Coordinator, "coordinator-0", now() + 3 * HOUR),
                Some(Alert::CertificateExpired),
                "not_yet_valid",
            ),
        ] {
            let name = refused_connections(reason);
            let counter = if is_coordinator { scene.at_coordinator(&name).await } else { scene.at_agent(&name).await };
            assert_eq!(identity.knock(address).await, alert, "{reason} at {address}");
            counter.rises_by(1).await;
        }
    }
    let id = scene.fleet.submit_one(task(&answer("fine"))).await;
    scene.fleet.finished(&id, TaskState::Succeeded).await;
}

#[tokio::test]
async fn without_a_certificate_nothing_can_be_called_but_health_and_enrolment() {
    let scene = Scene::start(1).await;
    let nobody = scene.thief.nobody();
    let channel = nobody.channel(&scene.coordinator);
    for method in [
        "robeing.v1.Fleet/Submit",
        "robeing.v1.Fleet/SubmitStream",
        "robeing.v1.Fleet/GetTask",
        "robeing.v1.Fleet/ListAgents",
        "robeing.v1.Directory/WatchAgents",
        "robeing.v1.Messages/SendMessage",
        "robeing.v1.Messages/ReadInbox",
        "robeing.v1.Ballots/CastVote",
        "robeing.v1.Ballots/CastVotes",
        "robeing.v1.Ballots/GetBallot",
        "robeing.v1.Teams/FormTeam",
        "robeing.v1.Teams/ReportPaths",
        "robeing.v1.Resources/RequestResources",
        "robeing.v1.Resources/SetQueues",
        "robeing.v1.Queues/UpdateQueues",
        "robeing.v1.Schedules/SetSchedule",
        "robeing.v1.Schedules/ListSchedules",
        "robeing.v1.Admin/SetTrust",
        "robeing.v1.Admin/CertifyClient",
        "robeing.internal.v1.Session/Open",
        "robeing.internal.v1.Mailbox/Attend",
        "robeing.internal.v1.Raft/Append",
        "robeing.internal.v1.Raft/Vote",
    ] {
        let counter = scene.at_coordinator(&refused_calls(method, Code::Unauthenticated)).await;
        let status = in_time(method, raw_call::call(&channel, &format!("/{method}"), raw_call::framed(&[]))).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{method}: {status:?}");
        counter.rises_by(1).await;
    }
    let health = raw_call::call(&channel, "/grpc.health.v1.Health/Check", raw_call::framed(&[])).await;
    assert_eq!(health.code(), Code::Ok, "{health:?}");

    let channel = nobody.channel_to(VICTIM, &scene.agent);
    let method = "robeing.message.v1.Messages/Exchange";
    let counter = scene.at_agent(&refused_calls(method, Code::Unauthenticated)).await;
    let status = raw_call::call(&channel, &format!("/{method}"), Bytes::new()).await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    counter.rises_by(1).await;
}

/// Sends bytes to a port, and waits until the other side has closed the connection.
async fn send_until_closed(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
    // The other side may close it after the first byte.
    let _ = stream.write_all(bytes).await;
    let _ = in_time("the end of the connection", stream.read_to_end(&mut Vec::new())).await;
}

#[tokio::test]
async fn plaintext_and_malformed_handshakes_are_refused() {
    let scene = Scene::start(1).await;
    for (address, is_coordinator) in [(&scene.coordinator, true), (&scene.agent, false)] {
        for (bytes, reason) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], "plaintext"),
            (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "plaintext"),
            // Records of a handshake: one longer than any may be, and one of an unknown message.
            (&[22, 3, 1, 0xff, 0xff, 1, 2, 3][..], "malformed"),
            (&[22, 3, 1, 0, 4, 99, 0, 0, 0][..], "malformed"),
        ] {
            let name = refused_connections(reason);
            let counter = if is_coordinator { scene.at_coordinator(&name).await } else { scene.at_agent(&name).await };
            send_until_closed(address, bytes).await;
            // Whoever looks whether something listens, and says nothing, counts as malformed as well.
            counter.rises_by_at_least(1).await;
        }
    }
    let id = scene.fleet.submit_one(task(&answer("fine"))).await;
    scene.fleet.finished(&id, TaskState::Succeeded).await;
}
