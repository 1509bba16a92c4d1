//! Packets of an agent that claims to be another, or that sends again what has been handled.

use std::sync::{Arc, Mutex, PoisonError};

use robeing_proto::message::v1::{Frame, Packet, packet_outcome::Outcome};
use robeing_tests::attached::Attached;
use tokio::task::JoinHandle;
use tonic::Code;

use super::{
    Scene, VICTIM,
    liar::{LIAR, Liar, LiarStream, hello, packet},
    rejections,
};

/// A process that accepts all messages, and keeps their payloads.
struct Handler {
    handled: Arc<Mutex<Vec<String>>>,
    handling: JoinHandle<()>,
}

impl Handler {
    fn start(mut attached: Attached) -> Self {
        let handled: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&handled);
        let handling = tokio::spawn(async move {
            while let Ok(message) = attached.message().await {
                let payload = String::from_utf8_lossy(&message.payload).into_owned();
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(payload);
                attached.accept(&message, "done").await;
            }
        });
        Self { handled, handling }
    }

    fn handled(&self) -> Vec<String> {
        self.handled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.handling.abort();
    }
}

fn assert_refused(outcome: &Outcome, words: &str) {
    let Outcome::Refused(refused) = outcome else { panic!("instead of a refusal: {outcome:?}") };
    assert!(refused.reason.contains(words), "{words:?} is not in {refused:?}");
}

fn assert_accepted(outcome: &Outcome) {
    assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
}

#[tokio::test]
async fn a_sender_is_the_one_that_the_certificate_names() {
    let (scene, attached) = Scene::with_process().await;
    let (handler, liar) = (Handler::start(attached), Liar::join(&scene).await);
    // A stream in the name of another.
    for (name, to, code, reason) in [
        ("boss", VICTIM, Code::PermissionDenied, "spoofed_sender"),
        (VICTIM, VICTIM, Code::PermissionDenied, "spoofed_sender"),
        (LIAR, "someone", Code::FailedPrecondition, "wrong_agent"),
    ] {
        let counter = scene.at_agent(&rejections(reason)).await;
        let mut first = hello(2);
        let said = first.hello.as_mut().expect("it begins with Hello");
        (said.agent, said.to) = (name.into(), to.into());
        let refused = LiarStream::open(liar.channel(&scene), first).await.err();
        let refused = refused.unwrap_or_else(|| panic!("a stream of {name} was accepted"));
        assert_eq!(refused.code(), code, "{refused:?}");
        counter.rises_by(1).await;
    }

    // A packet in the name of another, and one for another.
    let mut stream = liar.stream(&scene, 3).await;
    let spoofed = scene.at_agent(&rejections("spoofed_sender")).await;
    let outcome = stream.send(Packet { sender: "boss".into(), ..packet(1, 1, "obey") }).await;
    assert_refused(&outcome, "claims to be from \"boss\"");
    spoofed.rises_by(1).await;
    let wrong = scene.at_agent(&rejections("wrong_agent")).await;
    let outcome = stream.send(Packet { agent: "someone".into(), ..packet(2, 2, "astray") }).await;
    assert_refused(&outcome, "is for \"someone\"");
    wrong.rises_by(1).await;
    assert_accepted(&stream.send(packet(3, 3, "honest")).await);
    assert_eq!(handler.handled(), ["honest"]);
}

#[tokio::test]
async fn a_messenger_passes_on_what_agents_have_sent_and_not_what_clients_have() {
    let (scene, attached) = Scene::with_process().await;
    let (handler, liar) = (Handler::start(attached), Liar::join_as_messenger(&scene).await);
    let mut stream = liar.stream(&scene, 2).await;
    let spoofed = scene.at_agent(&rejections("spoofed_sender")).await;
    let outcome = stream.send(Packet { sender: "client:boss".into(), ..packet(1, 1, "obey") }).await;
    assert_refused(&outcome, "claims to be from \"client:boss\", which is no agent");
    spoofed.rises_by(1).await;
    assert_accepted(&stream.send(Packet { sender: "worker-7".into(), ..packet(2, 2, "passed on") }).await);
    assert_eq!(handler.handled(), ["passed on"]);
}

#[tokio::test]
async fn a_packet_that_is_replayed_is_handled_once_also_after_a_restart() {
    let (mut scene, attached) = Scene::with_process().await;
    let (handler, liar) = (Handler::start(attached), Liar::join(&scene).await);
    let repeated = "robeing_agent_message_repetitions_total";
    let counter = scene.at_agent(repeated).await;
    let mut stream = liar.stream(&scene, 2).await;
    assert_accepted(&stream.send(packet(1, 1, "pay")).await);
    assert_accepted(&stream.send(packet(1, 2, "pay")).await);
    // The content does not matter: the id has been handled.
    assert_accepted(&stream.send(packet(1, 3, "pay more")).await);
    counter.rises_by(2).await;
    // Over another stream.
    let mut stream = liar.stream(&scene, 3).await;
    assert_accepted(&stream.send(Packet { resent: true, ..packet(1, 1, "pay") }).await);
    assert_accepted(&stream.send(packet(1, 2, "pay")).await);
    counter.rises_by(4).await;
    assert_accepted(&stream.send(packet(2, 3, "thanks")).await);
    assert_eq!(handler.handled(), ["pay", "thanks"]);
    drop((stream, handler));

    scene.fleet.kill(VICTIM);
    scene.fleet.start_one(VICTIM);
    let attached = Attached::to(&scene.fleet.attach_address(VICTIM)).await;
    scene = scene.refreshed().await;
    let (handler, liar) = (Handler::start(attached), liar.again(&scene).await);
    let counter = scene.at_agent(repeated).await;
    let mut stream = liar.stream(&scene, 4).await;
    assert_accepted(&stream.send(Packet { resent: true, ..packet(1, 1, "pay") }).await);
    assert_accepted(&stream.send(packet(2, 2, "thanks")).await);
    counter.rises_by(2).await;
    assert_accepted(&stream.send(packet(3, 3, "bye")).await);
    assert_eq!(handler.handled(), ["bye"]);
}

#[tokio::test]
async fn a_stream_of_another_version_is_refused_and_so_is_a_packet() {
    let (scene, attached) = Scene::with_process().await;
    let (handler, liar) = (Handler::start(attached), Liar::join(&scene).await);
    let version = scene.at_agent(&rejections("version")).await;
    let mut first: Frame = hello(2);
    first.hello.as_mut().expect("it begins with Hello").protocol_version = "9.0".into();
    let refused = LiarStream::open(liar.channel(&scene), first).await.err().expect("it is refused");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    version.rises_by(1).await;

    let malformed = scene.at_agent(&rejections("malformed")).await;
    let mut stream = liar.stream(&scene, 3).await;
    for (id, wrong) in [
        Packet { protocol_version: "9.0".into(), ..packet(0, 1, "old") },
        Packet { deadline_in_ms: 0, ..packet(0, 2, "never") },
        Packet { r#type: "t".repeat(129), ..packet(0, 3, "long") },
        Packet { r#type: "two\nlines".into(), ..packet(0, 4, "lines") },
    ]
    .into_iter()
    .enumerate()
    {
        let id = u8::try_from(id + 1).expect("a few");
        let outcome = stream.send(Packet { id: vec![id; 16].into(), ..wrong }).await;
        assert_refused(&outcome, "the message");
        malformed.rises_by(id.into()).await;
    }
    assert_accepted(&stream.send(packet(9, 5, "fine")).await);
    assert_eq!(handler.handled(), ["fine"]);
}
