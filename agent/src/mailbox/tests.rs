//! The mailbox against coordinators that the test plays.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use robeing_fleet::{NOTICE_KIND, NOTICE_SENDER};
use robeing_net::Transport;
use robeing_platform::{Platform, simulated::MemoryNetwork};
use robeing_proto::{
    budget::MAX_UNANSWERED_LETTERS,
    internal::v1::{
        FromMailbox, InboxQuery, Letter, LetterAnswer, Letters, ToMailbox,
        from_mailbox::Message as FromAgent,
        mailbox_server::{Mailbox, MailboxServer},
        to_mailbox::Message as ToAgent,
    },
    v1::{
        self, InboxMessage, MessageCode, MessageStatus, ReadInboxRequest, ReadInboxResponse, SendMessageRequest,
        SendMessageResponse,
        messages_server::{Messages, MessagesServer},
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, service::Routes};

use super::{
    Deps, DurableSender, LetterPort,
    held::MAX_HELD,
    run,
    sending::{NotSent, SEND_WITHIN},
};
use crate::{
    messaging::{Outcome, Outgoing, Packet, PacketId},
    upstream::Upstream,
};

/// A test that waits for longer has failed.
const WITHIN: Duration = Duration::from_secs(300);

/// The stream of a mailbox, as its coordinator has it.
struct Attended {
    coordinator: usize,
    agent: String,
    to: Option<mpsc::Sender<Result<ToMailbox, Status>>>,
    from: Streaming<FromMailbox>,
}

impl Attended {
    async fn say(&self, message: ToAgent) {
        let to = self.to.as_ref().expect("it is open");
        to.send(Ok(ToMailbox { message: Some(message) })).await.expect("the agent reads");
    }

    async fn letters(&self, ids: impl IntoIterator<Item = u128>) {
        self.say(ToAgent::Letters(Letters { letters: ids.into_iter().map(letter).collect() })).await;
    }

    /// Returns what the agent says next; `None` if it has closed the stream.
    async fn next(&mut self) -> Option<FromAgent> {
        let next = timeout(WITHIN, self.from.message()).await.expect("something comes");
        next.ok().flatten().and_then(|message| message.message)
    }

    async fn answers(&mut self, count: usize) -> BTreeMap<u128, LetterAnswer> {
        let mut answers = BTreeMap::new();
        while answers.len() < count {
            match self.next().await {
                Some(FromAgent::Answers(more)) => answers.extend(more.answers.into_iter().map(|of| (id(&of.id), of))),
                other => panic!("{other:?}"),
            }
        }
        answers
    }
}

fn id(bytes: &[u8]) -> u128 {
    u128::from_be_bytes(bytes.try_into().expect("an id"))
}

fn letter(id: u128) -> Letter {
    Letter {
        id: PacketId(id).to_bytes(),
        sender: format!("client:{id}"),
        receiver: "b".into(),
        r#type: "note".into(),
        payload: Bytes::from_static(b"hello"),
        priority: 5,
        expires_in_ms: 60_000,
        ..Letter::default()
    }
}

/// A coordinator that the test plays.
#[derive(Clone)]
struct Played {
    number: usize,
    attended: mpsc::UnboundedSender<Attended>,
    /// What it answers to messages that are sent.
    answers: Arc<Mutex<Vec<Result<MessageStatus, Status>>>>,
    sent: mpsc::UnboundedSender<SendMessageRequest>,
}

#[tonic::async_trait]
impl Mailbox for Played {
    type AttendStream = BoxStream<'static, Result<ToMailbox, Status>>;

    async fn attend(&self, request: Request<Streaming<FromMailbox>>) -> Result<Response<Self::AttendStream>, Status> {
        let (to, messages) = mpsc::channel(8);
        let (played, mut from) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let first = from.message().await.ok().flatten().and_then(|message| message.message);
            if let Some(FromAgent::Open(open)) = first {
                let (coordinator, agent) = (played.number, open.agent);
                let _ = played.attended.send(Attended { coordinator, agent, to: Some(to), from });
            }
        });
        Ok(Response::new(ReceiverStream::new(messages).boxed()))
    }

    async fn read_inbox_here(&self, _: Request<ReadInboxRequest>) -> Result<Response<ReadInboxResponse>, Status> {
        Err(Status::unimplemented("agents don't call it"))
    }
}

#[tonic::async_trait]
impl Messages for Played {
    async fn resolve_message(
        &self,
        _: Request<v1::ResolveMessageRequest>,
    ) -> Result<Response<v1::ResolveMessageResponse>, Status> {
        Err(Status::unimplemented("agents don't call it"))
    }

    async fn send_message(
        &self,
        request: Request<SendMessageRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        let _ = self.sent.send(request.into_inner());
        let answer = self.answers.lock().unwrap().pop();
        let answer = answer.unwrap_or_else(|| Err(Status::unavailable("nothing is prepared")));
        answer.map(|outcome| Response::new(SendMessageResponse { outcomes: vec![outcome] }))
    }

    async fn get_message(&self, _: Request<v1::GetMessageRequest>) -> Result<Response<MessageStatus>, Status> {
        Err(Status::unimplemented("agents don't call it"))
    }

    async fn read_inbox(&self, _: Request<ReadInboxRequest>) -> Result<Response<ReadInboxResponse>, Status> {
        Err(Status::unimplemented("agents don't call it"))
    }
}

/// Handles letters as the test says: by default it accepts them.
#[derive(Clone)]
struct Port {
    delivered: mpsc::UnboundedSender<Packet>,
    outcomes: Arc<Mutex<BTreeMap<u128, Vec<Outcome>>>>,
    is_open: Arc<watch::Sender<bool>>,
}

#[async_trait]
impl LetterPort for Port {
    async fn deliver(&self, letter: Packet) -> Outcome {
        let id = letter.id.0;
        let _ = self.delivered.send(letter);
        let _ = self.is_open.subscribe().wait_for(|is_open| *is_open).await;
        let next = self.outcomes.lock().unwrap().get_mut(&id).and_then(Vec::pop);
        next.unwrap_or_else(|| Outcome::accepted(None))
    }

    async fn read_inbox(&self, request: ReadInboxRequest) -> Result<ReadInboxResponse, String> {
        if request.peek {
            return Err("nobody may".to_owned());
        }
        Ok(ReadInboxResponse { messages: vec![InboxMessage::default()], left: request.limit })
    }
}

/// An agent `b` with coordinators that the test plays.
struct Stage {
    port: Port,
    delivered: mpsc::UnboundedReceiver<Packet>,
    attended: mpsc::UnboundedReceiver<Attended>,
    answers: Arc<Mutex<Vec<Result<MessageStatus, Status>>>>,
    sent: mpsc::UnboundedReceiver<SendMessageRequest>,
    durable: DurableSender,
    stop: CancellationToken,
}

impl Stage {
    async fn with(coordinators: usize) -> Self {
        let platform = Platform { network: Arc::new(MemoryNetwork::default()), ..Platform::real() };
        let transport = Transport::new(Arc::clone(&platform.network));
        let (stop, answers) = (CancellationToken::new(), Arc::<Mutex<Vec<_>>>::default());
        let ((attending, attended), (sending, sent)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let mut addresses = Vec::new();
        for number in 0..coordinators {
            let bound = transport.bind("127.0.0.1:0").await.expect("an address");
            addresses.push(bound.local_addr().expect("an address").to_string());
            let (attended, answers, sent) = (attending.clone(), Arc::clone(&answers), sending.clone());
            let played = Played { number, attended, answers, sent };
            let routes = Routes::new(MailboxServer::new(played.clone())).add_service(MessagesServer::new(played));
            tokio::spawn(bound.serve(routes, stop.clone()));
        }
        let upstream = Arc::new(Upstream::new(transport, addresses, &*platform.random));
        let (delivering, delivered) = mpsc::unbounded_channel();
        let port =
            Port { delivered: delivering, outcomes: Arc::default(), is_open: Arc::new(watch::Sender::new(true)) };
        let deps = Deps {
            cluster_id: "test".into(),
            name: "b".into(),
            upstream: Arc::clone(&upstream),
            port: Arc::new(port.clone()),
            random: Arc::clone(&platform.random),
            stop: stop.clone(),
        };
        tokio::spawn(run(deps));
        let durable = DurableSender::new(upstream, platform);
        Self { port, delivered, attended, answers, sent, durable, stop }
    }

    async fn opened(&mut self) -> Attended {
        timeout(WITHIN, self.attended.recv()).await.expect("it is opened").expect("it is opened")
    }

    async fn delivered(&mut self, count: usize) -> Vec<Packet> {
        let mut packets = Vec::new();
        while packets.len() < count {
            packets.push(timeout(WITHIN, self.delivered.recv()).await.expect("it is delivered").expect("a letter"));
        }
        packets
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn letters_are_handed_on_and_decisions_are_answers() {
    let mut stage = Stage::with(1).await;
    let mut stream = stage.opened().await;
    assert_eq!(stream.agent, "b");
    let outcomes = [(1, Outcome::accepted(Some(Bytes::from_static(b"yes")))), (2, Outcome::refused("no"))];
    stage.port.outcomes.lock().unwrap().extend(outcomes.map(|(id, outcome)| (id, vec![outcome])));
    stream.letters([1, 2, 3]).await;
    let answers = stream.answers(3).await;
    let of = |id: u128| (answers[&id].refused.as_deref(), answers[&id].reply.as_deref());
    assert_eq!([of(1), of(2), of(3)], [(None, Some(&b"yes"[..])), (Some("no"), None), (None, None)]);
    let delivered = stage.delivered(3).await;
    let first = delivered.iter().find(|packet| packet.id == PacketId(1)).expect("it was delivered");
    assert_eq!((&*first.sender, &*first.receiver, &*first.agent, first.resent), ("client:1", "b", "b", false));
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_is_not_decided_is_delivered_again_until_it_expires() {
    let mut stage = Stage::with(1).await;
    let mut stream = stage.opened().await;
    let later = vec![Outcome::overloaded("full"), Outcome::DeadlinePassed { maybe_handled: false }];
    let never = vec![Outcome::overloaded("full"); 1_000];
    stage.port.outcomes.lock().unwrap().extend([(1, later), (2, never)]);
    stream.letters([1, 2]).await;
    assert_eq!(stream.answers(1).await.into_keys().collect::<Vec<_>>(), [1]);
    let resent = async {
        loop {
            let [packet] = &stage.delivered(1).await[..] else { panic!("one") };
            if packet.id == PacketId(1) && packet.resent {
                return;
            }
        }
    };
    timeout(WITHIN, resent).await.expect("it is marked");
    let silence = timeout(Duration::from_secs(61), stream.from.message()).await;
    assert!(silence.is_err(), "the other one is not answered");
    stage.port.outcomes.lock().unwrap().clear();
    stream.letters([2]).await;
    assert_eq!(stream.answers(1).await.into_keys().collect::<Vec<_>>(), [2], "it was dropped when it had expired");
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_can_not_be_taken_now_holds_up_those_after_it_of_its_sender_and_priority() {
    let mut stage = Stage::with(1).await;
    let mut stream = stage.opened().await;
    stage.port.outcomes.lock().unwrap().insert(1, vec![Outcome::overloaded("full"); 3]);
    let of = |id, sender: &str, priority| Letter { sender: sender.into(), priority, ..letter(id) };
    let letters = vec![of(1, "a", 5), of(2, "a", 5), of(3, "b", 5), of(4, "a", 6), of(5, "a", 5)];
    stream.say(ToAgent::Letters(Letters { letters })).await;
    assert_eq!(stream.answers(5).await.len(), 5);
    let delivered: Vec<u128> = stage.delivered(8).await.iter().map(|packet| packet.id.0).collect();
    let lane: Vec<u128> = delivered.iter().copied().filter(|id| ![3, 4].contains(id)).collect();
    assert_eq!(lane, [1, 1, 1, 1, 2, 5], "{delivered:?}");
    let last = delivered.iter().rposition(|id| [3, 4].contains(id)).expect("they are delivered");
    assert!(last < 4, "the others wait for nothing: {delivered:?}");
}

#[tokio::test(start_paused = true)]
async fn notices_of_ballots_do_not_wait_for_each_other() {
    let mut stage = Stage::with(1).await;
    let mut stream = stage.opened().await;
    stage.port.is_open.send_replace(false);
    let other = |id| Letter { sender: NOTICE_SENDER.into(), ..letter(id) };
    let notice = |id| Letter { r#type: NOTICE_KIND.into(), ..other(id) };
    let letters = vec![notice(1), other(2), notice(3), other(4), notice(5)];
    stream.say(ToAgent::Letters(Letters { letters })).await;
    let delivered: BTreeSet<u128> = stage.delivered(4).await.iter().map(|packet| packet.id.0).collect();
    assert_eq!(delivered, BTreeSet::from([1, 2, 3, 5]), "the other letters have one turn, and nothing is decided yet");
    stage.port.is_open.send_replace(true);
    assert_eq!(stream.answers(5).await.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_letter_whose_time_has_passed_lets_those_after_it_go_first() {
    let mut stage = Stage::with(1).await;
    let mut stream = stage.opened().await;
    stage.port.outcomes.lock().unwrap().insert(1, vec![Outcome::DeadlinePassed { maybe_handled: false }]);
    let letters = (1..=3).map(|id| Letter { sender: "a".into(), ..letter(id) }).collect();
    stream.say(ToAgent::Letters(Letters { letters })).await;
    assert_eq!(stream.answers(3).await.len(), 3);
    let delivered: Vec<u128> = stage.delivered(4).await.iter().map(|packet| packet.id.0).collect();
    assert_eq!(delivered, [1, 2, 3, 1]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_outlives_its_stream_and_a_letter_that_is_held_is_not_delivered_again() {
    let mut stage = Stage::with(2).await;
    stage.port.is_open.send_replace(false);
    let first = stage.opened().await;
    first.letters([1]).await;
    stage.delivered(1).await;
    let coordinator = first.coordinator;
    drop(first);
    let mut second = stage.opened().await;
    assert_ne!(second.coordinator, coordinator, "it moves on");
    second.letters([1, 2]).await;
    assert_eq!(stage.delivered(1).await[0].id, PacketId(2), "only the new one");
    stage.port.is_open.send_replace(true);
    assert_eq!(second.answers(2).await.into_keys().collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_sends_too_much_loses_its_stream_and_another_is_opened_once_there_is_room() {
    let mut stage = Stage::with(1).await;
    stage.port.is_open.send_replace(false);
    let mut stream = stage.opened().await;
    stream.letters(0..MAX_HELD as u128).await;
    stage.delivered(MAX_HELD).await;
    stream.letters([u128::MAX]).await;
    assert_eq!(stream.next().await, None, "it is closed");
    assert!(timeout(Duration::from_secs(60), stage.attended.recv()).await.is_err(), "no room for the next ones");
    stage.port.is_open.send_replace(true);
    let mut stream = stage.opened().await;
    let mut answered = stream.answers(MAX_HELD - MAX_UNANSWERED_LETTERS).await.len();
    while answered < MAX_HELD {
        answered += stream.answers(1).await.len();
    }
}

#[tokio::test(start_paused = true)]
async fn queries_of_the_inbox_are_answered() {
    let mut stage = Stage::with(1).await;
    let mut stream = stage.opened().await;
    for (seq, peek) in [(7, false), (8, true)] {
        let request = Some(ReadInboxRequest { limit: 3, peek, ..ReadInboxRequest::default() });
        stream.say(ToAgent::InboxQuery(InboxQuery { seq, request })).await;
        let Some(FromAgent::InboxPage(page)) = stream.next().await else { panic!("a page") };
        assert_eq!(page.seq, seq);
        match peek {
            false => assert_eq!(page.page.map(|page| (page.messages.len(), page.left)), Some((1, 3))),
            true => assert_eq!(page.refused, "nobody may"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_durable_message_is_sent_until_a_coordinator_has_confirmed_it() {
    let mut stage = Stage::with(2).await;
    let kept = MessageStatus { code: MessageCode::Kept.into(), ..MessageStatus::default() };
    let message = || Outgoing::new("role:worker".parse().expect("an address"), "note", "x");
    let prepare = |answers: Vec<Result<MessageStatus, Status>>| *stage.answers.lock().unwrap() = answers;
    prepare(vec![Ok(kept.clone()), Err(Status::unavailable("no leader"))]);
    let sent = stage.durable.send_durable(message(), Duration::from_millis(90_500)).await;
    assert_eq!(sent, Ok(kept.clone()));
    let (first, second) = (stage.sent.recv().await.expect("a try"), stage.sent.recv().await.expect("another"));
    assert_eq!((&first, first.durable), (&second, true), "the same message");
    assert_eq!(first.deadline, Some(prost_types::Duration { seconds: 90, nanos: 500_000_000 }));
    let full = || Err(Status::resource_exhausted("full"));
    prepare(vec![Ok(kept.clone()), full(), Err(Status::unavailable("no answer"))]);
    let sent = stage.durable.send_durable(message(), Duration::from_secs(1)).await;
    assert_eq!(sent, Ok(kept), "the first coordinator may have kept it");
    prepare(vec![full()]);
    let refused = stage.durable.send_durable(message(), Duration::from_secs(1)).await;
    assert_eq!(refused, Err(NotSent::Refused("full".to_owned())));
    prepare(Vec::new());
    let begun = tokio::time::Instant::now();
    let unconfirmed = stage.durable.send_durable(message(), Duration::from_secs(1)).await;
    assert!(matches!(unconfirmed, Err(NotSent::Unconfirmed { .. })), "{unconfirmed:?}");
    assert!(begun.elapsed() >= SEND_WITHIN);
}
