//! Peers that violate the protocol: each is refused, counted, and harms nobody else.

use bytes::Bytes;
use futures::future::join_all;
use prost::Message;
use robeing_platform::OsRandom;
use robeing_proto::message::v1::{CloseCode, Frame, Relay, RelayReport, RelayTarget, messages_client::MessagesClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::fleet::{Agent, Fleet, keys, outgoing};
use crate::messaging::{
    Directory, Entry, Outcome, Outgoing, Packet, PacketId,
    driver::SEALS_IN_A_ROW,
    frame::{self, Content, Hello},
    packet::{MAX_KEY_ID, RELAY_TYPE},
    sealing,
    tests::fixture::{entry, hello, packet},
};

/// A peer that sends whatever frames a test makes.
struct Liar {
    outgoing: mpsc::Sender<Frame>,
    frames: Streaming<Frame>,
}

impl Liar {
    async fn begin(fleet: &Fleet, victim: &Agent, first: Frame) -> Result<Self, Status> {
        let address = victim.address.to_string();
        let channel = fleet.transport().connect(&address, std::time::Duration::from_secs(1)).await.expect("a channel");
        let (outgoing, frames) = mpsc::channel(64);
        outgoing.send(first).await.unwrap();
        let frames = MessagesClient::new(channel).exchange(ReceiverStream::new(frames)).await?.into_inner();
        Ok(Self { outgoing, frames })
    }

    /// Begins a stream as `liar`, an agent of the fleet.
    async fn greet(fleet: &Fleet, victim: &Agent) -> Self {
        let name = victim.messenger.name();
        let mut liar = Self::begin(fleet, victim, hello("liar", name, 1).to_frame()).await.expect("a stream");
        let answer = liar.frames.message().await.unwrap().expect("a frame");
        assert_eq!(Hello::from_frame(answer).unwrap().to, "liar");
        liar
    }

    async fn send(&self, packets: Vec<Packet>) {
        let packets = packets.iter().map(|packet| packet.to_wire(packet.deadline_in_ms)).collect();
        self.outgoing.send(Frame { packets, ..Frame::default() }).await.unwrap();
    }

    /// Returns the next outcome.
    async fn outcome(&mut self) -> Outcome {
        loop {
            let frame = self.frames.message().await.unwrap().expect("a frame");
            let content = Content::from_frame(frame).unwrap();
            if let Some((_, outcome)) = content.outcomes.into_iter().next() {
                return outcome;
            }
        }
    }

    /// Waits for the end of the stream; returns the code with which it was closed, if any.
    async fn end(mut self) -> Option<CloseCode> {
        loop {
            match self.frames.message().await {
                Ok(Some(frame)) if frame.close.is_some() => return frame.close.map(|close| close.code()),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

fn from_liar(seq: u64) -> Packet {
    Packet { seq, sender: "liar".into(), agent: "victim".into(), ..packet(u128::from(seq)) }
}

async fn fleet() -> (Fleet, Agent) {
    let fleet = Fleet::new();
    let _ = fleet.agent("liar").await;
    let victim = fleet.agent("victim").await;
    (fleet, victim)
}

#[tokio::test(start_paused = true)]
async fn a_message_that_claims_another_sender_is_refused_alone() {
    let (fleet, victim) = fleet().await;
    let mut liar = Liar::greet(&fleet, &victim).await;
    liar.send(vec![Packet { sender: "boss".into(), ..from_liar(1) }]).await;
    let outcome = liar.outcome().await;
    assert!(matches!(&outcome, Outcome::Refused { reason } if reason.contains("\"boss\"")), "{outcome}");
    liar.send(vec![Packet { agent: "other".into(), ..from_liar(2) }]).await;
    assert!(matches!(liar.outcome().await, Outcome::Refused { reason } if reason.contains("is for \"other\"")));
    liar.send(vec![from_liar(3)]).await;
    assert!(liar.outcome().await.is_accepted());
    liar.send(vec![Packet { seq: 4, ..from_liar(3) }]).await;
    assert!(liar.outcome().await.is_accepted(), "a replayed packet gets its outcome again");
    assert_eq!(victim.handler.handled().len(), 1);
    assert_eq!(victim.metrics.rejections("spoofed_sender"), 1);
    assert_eq!(victim.metrics.rejections("wrong_agent"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_messenger_passes_on_what_agents_send_and_nothing_in_the_name_of_clients() {
    let fleet = Fleet::new();
    let _ = fleet.messenger("liar").await;
    let victim = fleet.agent("victim").await;
    let mut liar = Liar::greet(&fleet, &victim).await;
    for (seq, sender) in (1..).zip(["client:ann", "operator:o"]) {
        liar.send(vec![Packet { sender: sender.into(), ..from_liar(seq) }]).await;
        let outcome = liar.outcome().await;
        assert!(matches!(&outcome, Outcome::Refused { reason } if reason.contains("is no agent")), "{outcome}");
    }
    liar.send(vec![Packet { sender: "boss".into(), ..from_liar(3) }]).await;
    assert!(liar.outcome().await.is_accepted());
    assert_eq!(victim.handler.handled().len(), 1);
    assert_eq!(victim.metrics.rejections("spoofed_sender"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_violates_the_protocol_loses_its_stream() {
    let large = |seq| Packet { payload: vec![0; 1 << 19].into(), kind: "hang".into(), ..from_liar(seq) };
    let second_hello = hello("liar", "victim", 1).to_frame();
    let of = |packets: Vec<Packet>| Frame {
        packets: packets.iter().map(|packet| packet.to_wire(1_000)).collect(),
        ..Frame::default()
    };
    let mut no_id = of(vec![from_liar(1)]);
    no_id.packets[0].id = Default::default();
    for frames in [
        (1..=8).map(|seq| of(vec![large(seq)])).collect(),
        vec![of(vec![from_liar(2), from_liar(2)])],
        vec![second_hello],
        vec![no_id],
        vec![Frame { packets: vec![large(1).to_wire(1); 5], ..Frame::default() }],
        vec![Frame { credits: vec![frame::credit(Default::default(), 1)], ..Frame::default() }],
    ] {
        let (fleet, victim) = fleet().await;
        victim.handler.set_open(false);
        let liar = Liar::greet(&fleet, &victim).await;
        for frame in frames {
            let _ = liar.outgoing.send(frame).await;
        }
        assert!(matches!(liar.end().await, Some(CloseCode::Violation) | None));
        assert_eq!(victim.metrics.rejections("violation"), 1);
        let other = fleet.agent("other").await;
        assert!(other.send("victim", "test", "").await.is_accepted(), "others are served");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_begin_with_a_fitting_hello_is_refused() {
    let mut old = hello("liar", "victim", 1).to_frame();
    old.hello.as_mut().unwrap().protocol_version = "9.0".into();
    for (first, code, reason) in [
        (hello("liar", "someone", 1).to_frame(), Code::FailedPrecondition, "wrong_agent"),
        (hello("stranger", "victim", 1).to_frame(), Code::PermissionDenied, "unauthenticated"),
        (old, Code::InvalidArgument, "version"),
        (Frame::default(), Code::InvalidArgument, "malformed"),
    ] {
        let (fleet, victim) = fleet().await;
        let Err(refused) = Liar::begin(&fleet, &victim, first).await else { panic!("{reason}: it was accepted") };
        assert_eq!((refused.code(), victim.metrics.rejections(reason)), (code, 1), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_says_hello_is_dropped() {
    let (fleet, victim) = fleet().await;
    let address = victim.address.to_string();
    let channel = fleet.transport().connect(&address, std::time::Duration::from_secs(1)).await.expect("a channel");
    let (_open, frames) = mpsc::channel::<Frame>(1);
    let refused = MessagesClient::new(channel).exchange(ReceiverStream::new(frames)).await.unwrap_err();
    assert_eq!((refused.code(), victim.metrics.rejections("late_hello")), (Code::DeadlineExceeded, 1), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn many_streams_of_one_peer_are_one_at_a_time() {
    let (fleet, victim) = fleet().await;
    let mut streams = Vec::new();
    for stream in 1..=100 {
        let first = Hello { lost: stream - 1, ..hello("liar", "victim", stream) };
        streams.push(Liar::begin(&fleet, &victim, first.to_frame()).await.expect("a stream"));
    }
    let mut last = streams.pop().unwrap();
    last.frames.message().await.unwrap().expect("Hello");
    for stream in streams {
        stream.end().await;
    }
    assert_eq!((victim.messenger.links(), victim.metrics.open_streams()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_messenger_passes_on_a_content_with_the_wrap_of_each_target_and_nothing_else() {
    let fleet = Fleet::new();
    let (relay, b) = (fleet.messenger("relay").await, fleet.agent("b").await);
    fleet.directory.put(entry("liar", 0.5));
    let mut liar = Liar::greet(&fleet, &relay).await;
    let key = keys("b")[0].public().clone();
    let content = sealing::Content::new(b"hello", &OsRandom).unwrap();
    let message = Packet { sender: "liar".into(), kind: "silent".into(), ..packet(0) };
    let wrap = |id: u128| {
        let about = sealing::About { id, ..sealing::about(&message) };
        content.wrap(&about, &key, &OsRandom).unwrap().0
    };
    let target = |id: u128, wrap: Bytes| RelayTarget {
        wrap,
        key_id: sealing::Content::key_id(&key),
        ..RelayTarget { agent: "b".into(), id: PacketId(id).to_bytes(), ..RelayTarget::default() }
    };
    let mut seq = 0;
    let mut relayed = async |key_id: Option<&str>, target: RelayTarget| {
        seq += 1;
        let message =
            Packet { key_id: key_id.map(Into::into), payload: content.ciphertext().clone(), ..message.clone() };
        let relay = Relay { message: Some(message.to_wire(60_000)), targets: vec![target] };
        let (agent, kind) = ("relay".into(), RELAY_TYPE.into());
        let payload = relay.encode_to_vec().into();
        let id = PacketId(1_000 + u128::from(seq));
        liar.send(vec![Packet { id, sender: "liar".into(), agent, kind, payload, seq, ..packet(0) }]).await;
        match liar.outcome().await {
            Outcome::Accepted { reply: Some(report), .. } => {
                let report = RelayReport::decode(report).unwrap();
                Outcome::from_wire(report.outcomes.into_iter().next().unwrap()).unwrap().1
            }
            other => other,
        }
    };
    let carrier = Some(sealing::CARRIER);
    assert!(relayed(carrier, target(1, wrap(1))).await.is_accepted());
    for (key_id, bad) in [
        (carrier, target(2, Bytes::new())),
        (carrier, target(2, wrap(2).slice(1..))),
        (None, target(2, wrap(2))),
        (Some("k"), target(2, wrap(2))),
    ] {
        let refused = relayed(key_id, bad).await;
        assert!(matches!(&refused, Outcome::Refused { reason } if reason.contains("80 bytes")), "{refused}");
    }
    // The receiver opens none of these, so they may be tried on another way.
    let swapped = target(3, wrap(4));
    let foreign = RelayTarget { key_id: "w.0000000000000000".into(), ..target(5, wrap(5)) };
    for bad in [swapped, foreign] {
        let away = relayed(carrier, bad).await;
        assert!(matches!(&away, Outcome::Away { .. }), "{away}");
    }
    let too_long = RelayTarget { key_id: "w".repeat(MAX_KEY_ID + 1), ..target(6, wrap(6)) };
    assert!(matches!(relayed(carrier, too_long).await, Outcome::Refused { .. }));
    // As an earlier messenger passes it on, which does not know of wraps.
    let unwrapped = target(7, Bytes::new());
    let plain = RelayTarget { key_id: String::new(), ..unwrapped };
    assert!(matches!(relayed(Some("0123456789abcdef"), plain).await, Outcome::Away { .. }));
    let handled = b.handler.handled();
    assert_eq!(handled.iter().map(|packet| (packet.id.0, &*packet.payload)).collect::<Vec<_>>(), [(1, &b"hello"[..])]);
}

#[tokio::test(start_paused = true)]
async fn a_messenger_that_seals_a_copy_of_its_own_gets_no_reply_that_it_can_open() {
    let fleet = Fleet::strict();
    let _ = fleet.messenger("liar").await;
    let (boss, victim) = (fleet.agent("boss").await, fleet.agent("victim").await);
    fleet.publish_keys();
    let sent = Outgoing { id: Some(PacketId(9)), ..outgoing("victim", "test", "a secret") };
    assert!(boss.messenger.send(sent).await.is_accepted());
    let mut liar = Liar::greet(&fleet, &victim).await;
    let clear = Packet { id: PacketId(9), sender: "boss".into(), ..from_liar(1) };
    let mut sealed = Packet { seq: 2, ..clear.clone() };
    let secret = sealing::seal_with_reply(&mut sealed, keys("victim")[0].public(), &OsRandom).expect("it is sealed");
    liar.send(vec![clear]).await;
    assert_eq!(liar.outcome().await, Outcome::reply_forgotten());
    liar.send(vec![sealed.clone()]).await;
    let Outcome::Accepted { reply: Some(reply), reply_is_sealed: true, .. } = liar.outcome().await else {
        panic!("it is sealed")
    };
    assert!(by_secret(&secret, &sealed, &reply).is_none());
    assert_eq!(by_boss(&sealed, &reply).as_deref(), Some(&b"a secret"[..]));
    assert_eq!(victim.handler.handled().len(), 1);
}

/// Opens a sealed reply to this packet by the secret of the one that sealed that.
fn by_secret(secret: &sealing::ReplyKey, sealed: &Packet, reply: &Bytes) -> Option<Bytes> {
    secret.open(&sealing::about(sealed), reply.strip_prefix(sealing::REPLY_MARK).expect("a mark")).ok()
}

/// Opens a sealed reply to this packet by the key of `boss`.
fn by_boss(sealed: &Packet, reply: &Bytes) -> Option<Bytes> {
    let (keys, reply) = (keys("boss"), reply.strip_prefix(sealing::REPLY_MARK).expect("a mark"));
    keys[0].open(&keys[0].public().id(), &sealing::about(sealed), reply).ok()
}

/// Returns a packet of `boss` with the id 9 as messengers see it, sealed for the key of its receiver, and what opens replies.
fn of_boss(agent: &str, payload: &'static str) -> (Packet, sealing::ReplyKey) {
    let (sender, receiver) = ("boss".into(), format!("agent:{agent}").into());
    let payload = Bytes::from_static(payload.as_bytes());
    let mut packet = Packet { id: PacketId(9), sender, receiver, agent: agent.into(), payload, ..packet(9) };
    let secret = sealing::seal_with_reply(&mut packet, keys(agent)[0].public(), &OsRandom).expect("it is sealed");
    (packet, secret)
}

/// Returns what a messenger gets that asks another one to pass a packet of `boss` on to itself.
async fn relayed(liar: &mut Liar, seq: u64, message: &Packet) -> Outcome {
    let target = RelayTarget { agent: "victim".into(), id: message.id.to_bytes(), ..RelayTarget::default() };
    let relay = Relay { message: Some(message.to_wire(60_000)), targets: vec![target] };
    let (kind, payload) = (RELAY_TYPE.into(), relay.encode_to_vec().into());
    let id = PacketId(1_000 + u128::from(seq));
    liar.send(vec![Packet { id, sender: "boss".into(), kind, payload, ..from_liar(seq) }]).await;
    let Outcome::Accepted { reply: Some(report), .. } = liar.outcome().await else { panic!("it reports") };
    let report = RelayReport::decode(report).expect("a report");
    Outcome::from_wire(report.outcomes.into_iter().next().expect("an outcome")).expect("it is read").1
}

#[tokio::test(start_paused = true)]
async fn a_messenger_that_is_asked_in_the_name_of_another_to_pass_a_message_on_to_itself_tells_no_reply() {
    let fleet = Fleet::strict();
    let _ = fleet.messenger("liar").await;
    let (boss, victim) = (fleet.agent("boss").await, fleet.messenger("victim").await);
    fleet.publish_keys();
    let mut liar = Liar::greet(&fleet, &victim).await;
    let (sealed, secret) = of_boss("victim", "whatever");
    let clear = Packet { key_id: None, payload: Bytes::from_static(b"whatever"), ..sealed.clone() };
    let check = |outcome: Outcome| {
        let Outcome::Accepted { reply: Some(reply), reply_is_sealed: true, .. } = outcome else { panic!("not sealed") };
        assert!(by_secret(&secret, &sealed, &reply).is_none());
        assert_eq!(by_boss(&sealed, &reply).as_deref(), Some(&b"a secret"[..]));
    };
    // While it is being handled.
    victim.handler.set_open(false);
    let opens = async {
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        victim.handler.set_open(true);
    };
    let asks = async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        relayed(&mut liar, 1, &sealed).await
    };
    let sends = boss.messenger.send(Outgoing { id: Some(PacketId(9)), ..outgoing("victim", "hang", "a secret") });
    let (sent, told, ()) = tokio::join!(sends, asks, opens);
    assert_eq!(sent, Outcome::accepted(Some(Bytes::from_static(b"a secret"))));
    check(told);
    // Once it was handled.
    check(relayed(&mut liar, 2, &sealed).await);
    assert_eq!(relayed(&mut liar, 3, &clear).await, Outcome::reply_forgotten());
    assert_eq!(victim.handler.handled().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_a_messenger_brings_again_has_its_reply_also_if_the_key_of_its_sender_is_not_known() {
    let fleet = Fleet::strict();
    let _ = fleet.messenger("liar").await;
    let (_boss, victim) = (fleet.agent("boss").await, fleet.agent("victim").await);
    fleet.publish_keys();
    let boss = fleet.directory.snapshot().get("boss").cloned().expect("an agent");
    fleet.directory.put(Entry { sealing_key: None, ..(*boss).clone() });
    let mut messenger = Liar::greet(&fleet, &victim).await;
    let (sealed, secret) = of_boss("victim", "a secret");
    for seq in 1..=3 {
        messenger.send(vec![Packet { seq, ..sealed.clone() }]).await;
        let Outcome::Accepted { reply: Some(reply), reply_is_sealed: true, .. } = messenger.outcome().await else {
            panic!("it is sealed")
        };
        assert_eq!(by_secret(&secret, &sealed, &reply).as_deref(), Some(&b"a secret"[..]));
    }
    let (another, _) = of_boss("victim", "a secret");
    messenger.send(vec![Packet { seq: 4, ..another }]).await;
    assert_eq!(messenger.outcome().await, Outcome::reply_forgotten());
    assert_eq!(victim.handler.handled().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_frame_of_repetitions_has_its_replies_sealed_a_few_at_a_time() {
    const REPETITIONS: usize = 1_000;
    let fleet = Fleet::strict();
    let _ = fleet.messenger("liar").await;
    let (_boss, victim) = (fleet.agent("boss").await, fleet.agent("victim").await);
    fleet.publish_keys();
    let mut liar = Liar::greet(&fleet, &victim).await;
    let (sealed, _) = of_boss("victim", "a secret");
    liar.send(vec![Packet { seq: 1, ..sealed.clone() }]).await;
    assert!(liar.outcome().await.is_accepted());
    let (another, secret) = of_boss("victim", "something else");
    liar.send((2..).take(REPETITIONS).map(|seq| Packet { seq, ..another.clone() }).collect()).await;
    let mut outcomes = Vec::new();
    while outcomes.len() < REPETITIONS {
        let frame = liar.frames.message().await.unwrap().expect("a frame");
        assert!(frame.outcomes.len() <= SEALS_IN_A_ROW, "{} outcomes", frame.outcomes.len());
        outcomes.extend(Content::from_frame(frame).unwrap().outcomes);
    }
    for (_, outcome) in outcomes {
        let Outcome::Accepted { reply: Some(reply), reply_is_sealed: true, .. } = outcome else { panic!("not sealed") };
        assert!(by_secret(&secret, &another, &reply).is_none());
    }
    assert_eq!(victim.handler.handled().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_at_once_shares_a_frame() {
    let (fleet, victim) = fleet().await;
    let mut liar = Liar::greet(&fleet, &victim).await;
    let sends = join_all((0..10).map(|_| victim.send("liar", "test", "x")));
    let packets = async {
        loop {
            let packets = liar.frames.message().await.unwrap().expect("a frame").packets;
            if !packets.is_empty() {
                return packets.len();
            }
        }
    };
    tokio::select! {
        outcomes = sends => panic!("nobody has handled them: {outcomes:?}"),
        packets = packets => assert_eq!(packets, 10),
    }
}
