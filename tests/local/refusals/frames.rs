//! Frames that are too large, malformed or cut off, at agents and at coordinators.

use bytes::Bytes;
use robeing_identity::PeerRole;
use robeing_proto::{
    MAX_MESSAGE_BYTES,
    message::v1::{CloseCode, Credit, Frame, Packet},
    v1::{Role, TaskState},
};
use robeing_tests::{
    raw_call::{announced, call, framed},
    script::{answer, task},
    wait::in_time,
};
use tonic::Code;

use super::{
    Scene, failed_calls,
    liar::{Liar, encoded, frame, hello, packet},
    rejections,
};

const EXCHANGE: &str = "/robeing.message.v1.Messages/Exchange";
/// The maximum size of a frame between agents.
const FRAME: usize = 4 << 20;
/// Bytes that are no message: fields of a wire type that does not exist.
const GARBAGE: &[u8] = &[0xff; 16];

/// Bodies that are not what they should be, and the code with which a call with one ends. A message has `most` bytes.
fn bad_bodies(most: usize, malformed: Code) -> [(&'static str, Bytes, Code); 5] {
    [
        ("too large", announced(most + 1, &[0; 64]), Code::OutOfRange),
        ("malformed", framed(GARBAGE), malformed),
        ("cut off", announced(100, &[0; 10]), Code::Internal),
        ("compressed in no way", Bytes::from_static(&[1, 0, 0, 0, 1, 0]), Code::Internal),
        ("of an unknown kind", Bytes::from_static(&[7, 0, 0, 0, 1, 0]), Code::Internal),
    ]
}

#[tokio::test]
async fn an_agent_closes_a_stream_with_a_frame_that_breaks_the_rules() {
    let scene = Scene::start(1).await;
    let liar = Liar::join(&scene).await;
    let large = |seq| Packet { payload: vec![0; 1 << 19].into(), ..packet(1, seq, "") };
    let credits = |count| Frame { credits: vec![Credit { priority: 5, limit: 1 }; count], ..Frame::default() };
    let no_id = Packet { id: Bytes::new(), ..packet(1, 1, "") };
    let no_lane = Packet { priority: 11, ..packet(1, 1, "") };
    for (number, (what, bad)) in [
        ("a second Hello", hello(9)),
        ("a packet without an id", frame(vec![no_id])),
        ("a packet in no lane", frame(vec![no_lane])),
        ("packets of more than 2 MiB", frame((1..=4).map(large).collect())),
        ("more items than a frame may have", credits(4_097)),
        ("credits that were taken back", credits(1)),
        ("a sequence that goes back", frame(vec![packet(3, 7, "x"), packet(4, 6, "x")])),
    ]
    .into_iter()
    .enumerate()
    {
        let counter = scene.at_agent(&rejections("violation")).await;
        let stream = liar.stream(&scene, number as u64 + 2).await;
        stream.say(bad).await;
        let closed = stream.end().await;
        assert!(matches!(closed, Some(CloseCode::Violation) | None), "{what}: {closed:?}");
        counter.rises_by(1).await;
    }
    let id = scene.fleet.submit_one(task(&answer("fine"))).await;
    scene.fleet.finished(&id, TaskState::Succeeded).await;
}

#[tokio::test]
async fn an_agent_closes_a_stream_with_what_is_no_frame() {
    let scene = Scene::start(1).await;
    let liar = Liar::join(&scene).await;
    // As the first frame, and as the second one.
    for (what, bad, code) in bad_bodies(FRAME, Code::InvalidArgument) {
        let counter = scene.at_agent(&rejections("malformed")).await;
        let status = in_time(what, call(&liar.channel(&scene), EXCHANGE, bad)).await;
        assert_eq!(status.code(), code, "{what}: {status:?}");
        counter.rises_by(1).await;
    }
    let counter = scene.at_agent(&rejections("malformed")).await;
    let status = in_time("nothing at all", call(&liar.channel(&scene), EXCHANGE, Bytes::new())).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    counter.rises_by(1).await;
    for (number, (what, bad, _)) in bad_bodies(FRAME, Code::InvalidArgument).into_iter().enumerate() {
        let counter = scene.at_agent(&rejections("violation")).await;
        let body = [encoded(&hello(number as u64 + 2)), bad].concat();
        in_time(what, call(&liar.channel(&scene), EXCHANGE, body.into())).await;
        counter.rises_by(1).await;
    }
    // The liar itself may begin again.
    liar.stream(&scene, 100).await;
}

#[tokio::test]
async fn a_coordinator_refuses_what_is_no_message() {
    let scene = Scene::start(1).await;
    let client = scene.thief.certified(PeerRole::Client, "thief").channel(&scene.coordinator);
    let agent = scene.enrolled((PeerRole::Worker, Role::Worker), "thief", "").await.channel(&scene.coordinator);
    let member = scene.thief.certified(PeerRole::Coordinator, "thief").channel(&scene.coordinator);
    let nobody = scene.thief.nobody().channel(&scene.coordinator);
    for (channel, method) in [
        (&client, "robeing.v1.Fleet/Submit"),
        (&client, "robeing.v1.Fleet/GetTask"),
        (&client, "robeing.v1.Admin/SetTrust"),
        (&agent, "robeing.v1.Messages/SendMessage"),
        (&agent, "robeing.internal.v1.Session/Open"),
        (&agent, "robeing.internal.v1.Mailbox/Attend"),
        (&member, "robeing.internal.v1.Raft/Propose"),
        (&nobody, "robeing.internal.v1.Enrolment/Enrol"),
        (&nobody, "robeing.internal.v1.Guards/Report"),
    ] {
        for (what, bad, code) in bad_bodies(MAX_MESSAGE_BYTES, Code::Internal) {
            let counter = scene.at_coordinator(&failed_calls(method, code)).await;
            let status = in_time(what, call(channel, &format!("/{method}"), bad)).await;
            assert_eq!(status.code(), code, "{method}, {what}: {status:?}");
            counter.rises_by(1).await;
        }
    }
    let id = scene.fleet.submit_one(task(&answer("fine"))).await;
    scene.fleet.finished(&id, TaskState::Succeeded).await;
}
