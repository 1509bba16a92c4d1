//! Peers that are slow, or that are too many.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures::StreamExt;
use robeing_identity::PeerRole;
use robeing_net::security::{MAX_ANONYMOUS_PER_ADDRESS, MAX_PER_IDENTITY};
use robeing_proto::{
    internal::v1::{AgentMessage, session_client::SessionClient},
    message::v1::{Frame, messages_client::MessagesClient},
    v1::TaskState,
};
use robeing_tests::{
    raw_call,
    script::{answer, task},
    wait::{check, eventually, in_time},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use tonic::Code;

use super::{POOL, Scene, VICTIM, failed_calls, refused_connections, rejections};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a slow peer takes for a byte.
const DRIP: Duration = Duration::from_millis(250);
/// Number of connections of one peer.
const CONNECTIONS: u64 = 10_000;
/// How many of them it opens at once: more than it may have.
const AT_ONCE: usize = 2 * MAX_ANONYMOUS_PER_ADDRESS;
/// How long it waits for the end of one.
const GIVE_UP: Duration = Duration::from_secs(2 * HANDSHAKE.as_secs());
/// The address from which they come. It is not that of the fleet's members.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Sends a handshake byte by byte until the other side has closed the connection.
async fn drip(address: &str) {
    let mut stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
    // A record of 512 bytes, whose rest would take two minutes.
    let beginning = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    for byte in beginning.into_iter().chain(std::iter::repeat(7)) {
        let is_sent = stream.write_all(&[byte]).await.is_ok();
        if !is_sent || timeout(DRIP, stream.read_u8()).await.is_ok() {
            return;
        }
    }
}

#[tokio::test]
async fn a_peer_that_is_too_slow_is_dropped() {
    let scene = Scene::start(1).await;
    let too_slow = refused_connections("too_slow");
    let (at_coordinator, at_agent) = (scene.at_coordinator(&too_slow).await, scene.at_agent(&too_slow).await);
    let handshakes = async { tokio::join!(drip(&scene.coordinator), drip(&scene.agent)) };

    // Streams whose first message never comes.
    let late_hello = scene.at_agent(&rejections("late_hello")).await;
    let no_session = failed_calls("robeing.internal.v1.Session/Open", Code::DeadlineExceeded);
    let no_session = scene.at_coordinator(&no_session).await;
    let identity = scene.thief.certified(PeerRole::Worker, VICTIM);
    let streams = async {
        let channel = identity.channel_to(VICTIM, &scene.agent);
        let silent = futures::stream::pending::<Frame>();
        let refused = MessagesClient::new(channel).exchange(silent).await.expect_err("no Hello comes");
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
        let silent = futures::stream::pending::<AgentMessage>();
        let opened = SessionClient::new(identity.channel(&scene.coordinator)).open(silent).await;
        let refused = opened.expect("a stream").into_inner().message().await.expect_err("no Hello comes");
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    };
    in_time("all slow peers are dropped", async { tokio::join!(handshakes, streams) }).await;
    at_coordinator.rises_by(1).await;
    at_agent.rises_by(1).await;
    late_hello.rises_by(1).await;
    no_session.rises_by(1).await;
    let id = scene.fleet.submit_one(task(&answer("fine"))).await;
    scene.fleet.finished(&id, TaskState::Succeeded).await;
}

/// What became of one connection of the attack.
enum Held {
    /// The other side closed it.
    Closed,
    /// It could not be opened, for want of descriptors or ports.
    NotOpened,
    /// Nothing was heard of it. Where the queue of connections to accept is full, the kernel drops the last packet of
    /// the handshake, and only this side counts the connection as open; or the other side has just accepted it.
    GivenUp,
}

/// Opens a connection from another address of this machine, and keeps it until the other side has closed it.
async fn hold(to: SocketAddr) -> Held {
    let held = timeout(GIVE_UP, async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((ATTACKER, 0).into())?;
        let mut stream = socket.connect(to).await?;
        // A connection that is refused may be reset.
        let _ = stream.read_to_end(&mut Vec::new()).await;
        io::Result::Ok(())
    });
    match held.await {
        Ok(Ok(())) => Held::Closed,
        Ok(Err(_)) => Held::NotOpened,
        Err(_) => Held::GivenUp,
    }
}

#[tokio::test]
async fn ten_thousand_connections_of_one_peer_leave_room_for_the_others() {
    let scene = Scene::start(1).await;
    let too_many = scene.at_coordinator(&refused_connections("too_many")).await;
    let too_slow = scene.at_coordinator(&refused_connections("too_slow")).await;
    let to: SocketAddr = scene.coordinator.parse().expect("an address");
    let begun = Instant::now();
    let attack = tokio::spawn(async move {
        let connections = futures::stream::iter(0..CONNECTIONS).map(|_| hold(to)).buffer_unordered(AT_ONCE);
        let count = |(closed, given_up): (u64, u64), held| match held {
            Held::Closed => (closed + 1, given_up),
            Held::NotOpened => (closed, given_up),
            Held::GivenUp => (closed, given_up + 1),
        };
        connections.fold((0, 0), |counts, held| std::future::ready(count(counts, held))).await
    });
    too_many.rises_by_at_least(1).await;
    // Meanwhile clients connect from elsewhere, and their tasks run.
    while !attack.is_finished() {
        let id = scene.fleet.submit_one(task(&answer("fine"))).await;
        scene.fleet.finished(&id, TaskState::Succeeded).await;
    }
    let (closed, given_up) = attack.await.expect("the attack ends without a panic");
    assert!(closed > CONNECTIONS / 2, "of the attack's connections, {closed} were closed, {given_up} given up");
    eventually("every connection is counted", async || {
        let counted = (too_many.now().await, too_slow.now().await);
        let all = closed..=closed + given_up;
        check(all.contains(&(counted.0 + counted.1)), (), (counted, all))
    })
    .await;
    let rounds = begun.elapsed().as_secs() / HANDSHAKE.as_secs() + 1;
    let (admitted, most) = (too_slow.now().await, rounds * MAX_ANONYMOUS_PER_ADDRESS as u64);
    assert!(admitted <= most, "{admitted} connections of one address were admitted in {:?}", begun.elapsed());
    assert_eq!(scene.fleet.agents().await.len(), 1, "no agent was lost");
}

#[tokio::test]
async fn one_member_has_so_many_connections_and_no_more() {
    let scene = Scene::start(1).await;
    let too_many = scene.at_coordinator(&refused_connections("too_many")).await;
    let identity = scene.thief.certified(PeerRole::Worker, &format!("{POOL}-9"));
    let mut held = Vec::new();
    for number in 0..MAX_PER_IDENTITY + 6 {
        let channel = identity.channel(&scene.coordinator);
        let health = raw_call::call(&channel, "/grpc.health.v1.Health/Check", raw_call::framed(&[]));
        let status = in_time("health", health).await;
        assert_eq!(status.code() == Code::Ok, number < MAX_PER_IDENTITY, "connection {number}: {status:?}");
        held.push(channel);
    }
    // A channel that is refused may have tried once more.
    too_many.rises_by_at_least(6).await;
    drop(held);
    let other = scene.thief.certified(PeerRole::Worker, &format!("{POOL}-8")).channel(&scene.coordinator);
    let health = raw_call::call(&other, "/grpc.health.v1.Health/Check", raw_call::framed(&[])).await;
    assert_eq!(health.code(), Code::Ok, "{health:?}");
}
