//! Messages that a correct client never sends: malformed and stale ones, and bytes that are no messages at all. Each is
//! refused, and the fleet keeps working.

use std::{hash::BuildHasher, time::Duration};

use prost_types::Any;
use robeing_fleet::{Refusal, Reply, decode_reply};
use robeing_proto::{
    MAX_MESSAGE_BYTES,
    internal::v1::{self as internal, Heartbeat, Hello, agent_message::Message as Said, raft_client::RaftClient},
    v1::{self, AgentState, Role, TaskState, fleet_client::FleetClient},
};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    load::Load,
    script::{answer, task},
    scripted_agent::{HandAgent, completion, hello},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

/// How long the test waits for a response to garbage; the other side need not close the connection.
const LISTEN: Duration = Duration::from_millis(200);
/// The number of silent connections to each port.
const SILENT: usize = 40;

fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &str) {
    let status = answer.expect_err("it should be refused");
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(words), "{words:?} is not in {status:?}");
}

#[tokio::test]
async fn an_agent_that_does_not_keep_to_the_protocol_is_refused() {
    // Long, because scripted agents send no heartbeats.
    let fleet = Fleet::start(FleetSpec::new(1).session_timeout("60s")).await;
    let address = fleet.address("coordinator-0");
    let of = |change: fn(&mut Hello)| {
        let mut hello = hello("bad");
        change(&mut hello);
        HandAgent::open(&address, hello)
    };
    assert_refused(of(|hello| hello.cluster_id = "another".into()).await, Code::PermissionDenied, "tested");
    assert_refused(of(|hello| hello.name.clear()).await, Code::FailedPrecondition, "name");
    assert_refused(of(|hello| hello.slots = u32::MAX).await, Code::FailedPrecondition, "slots");
    assert_refused(of(|hello| hello.role = Role::Coordinator.into()).await, Code::InvalidArgument, "role");
    assert_refused(of(|hello| hello.role = 77).await, Code::InvalidArgument, "role");
    assert_refused(of(|hello| hello.name = "x".repeat(10_000)).await, Code::FailedPrecondition, "name");
    assert_eq!(fleet.agents().await, [], "none of them has joined the fleet");
}

#[tokio::test]
async fn a_completion_of_what_is_not_current_is_refused() {
    let fleet = Fleet::start(FleetSpec::new(1).session_timeout("60s")).await;
    let address = fleet.address("coordinator-0");
    let mut first = HandAgent::open(&address, hello("first")).await.expect("a valid Hello");
    let id = fleet.submit_one(task("done by hand")).await;
    let given = first.assignment().await;
    assert_eq!((given.task_id.as_str(), given.attempt), (id.as_str(), 1));

    // Attempts that do not exist, tasks that do not exist, malformed ids, no outcome.
    for wrong in [
        completion(&given, 0, "wrong"),
        completion(&given, 2, "wrong"),
        completion(&given, u32::MAX, "wrong"),
        internal::Completion { task_id: robeing_client::new_task_id(), ..completion(&given, 1, "wrong") },
        internal::Completion { task_id: "no id".into(), ..completion(&given, 1, "wrong") },
        internal::Completion { outcome: None, ..completion(&given, 1, "wrong") },
    ] {
        let ack = first.complete(wrong.clone()).await;
        assert!(!ack.accepted && !ack.reason.is_empty(), "{wrong:?} got {ack:?}");
    }
    // A completion by another agent than the one that has the task.
    let mut second = HandAgent::open(&address, hello("second")).await.expect("a valid Hello");
    let ack = second.complete(completion(&given, 1, "stolen")).await;
    assert!(!ack.accepted, "{ack:?}");
    assert_eq!(fleet.task(&id).await.state(), TaskState::Assigned, "no completion counted");

    // The first agent has a new process: its task is assigned again, and completions of the first attempt are refused,
    // from the old session and from the new one.
    let before = fleet.status().await.stale_refused_total;
    let again = Hello { incarnation: 7, ..hello("first") };
    let mut reborn = HandAgent::open(&address, again).await.expect("a valid Hello");
    assert!(!reborn.welcome.resumed && reborn.welcome.session != first.welcome.session);
    let ack = reborn.complete(completion(&given, 1, "late")).await;
    assert!(!ack.accepted, "{ack:?}");
    assert!(fleet.status().await.stale_refused_total > before, "it is counted");
    let task = fleet.task_such(&id, "the second attempt", |task| task.attempt == 2).await;
    let holder = if task.attempts[1].agent == "second" { &mut second } else { &mut reborn };
    let given = holder.assignment().await;
    assert_eq!((given.task_id.as_str(), given.attempt), (id.as_str(), 2));
    let ack = holder.complete(completion(&given, 2, "right")).await;
    assert!(ack.accepted, "{ack:?}");
    let ended = fleet.finished(&id, TaskState::Succeeded).await;
    assert_eq!(ended.output, "right");
    let ack = holder.complete(completion(&given, 2, "more")).await;
    assert!(!ack.accepted, "a task is completed only once: {ack:?}");
    assert_eq!(fleet.task(&id).await, ended);
    holder.say(Said::Heartbeat(Heartbeat { seq: 1, ..Heartbeat::default() })).await;
}

/// Calls a method with a message of another type.
async fn call_with_garbage(channel: &Channel, method: &'static str, message: Any) -> Status {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.expect("it is connected");
    let codec: ProstCodec<Any, Any> = ProstCodec::default();
    let answer = grpc.unary(Request::new(message), PathAndQuery::from_static(method), codec).await;
    answer.err().unwrap_or_else(|| panic!("{method} accepted garbage"))
}

async fn malformed_calls(address: &str) {
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect().await;
    let channel = channel.expect("it listens");
    let garbage = Any { type_url: "\u{1}\u{2}garbage".into(), value: vec![0xff; 100] };
    for method in [
        "/robeing.v1.Fleet/Submit",
        "/robeing.v1.Fleet/GetTask",
        "/robeing.v1.Fleet/ListTasks",
        "/robeing.v1.Fleet/CancelTasks",
        "/robeing.internal.v1.Raft/Vote",
        "/robeing.internal.v1.Raft/Propose",
        "/robeing.internal.v1.Raft/Join",
        // Methods of an earlier version, and one that never existed.
        "/robeing.v1.Raft/Vote",
        "/robeing.v1.Nothing/AtAll",
    ] {
        call_with_garbage(&channel, method, garbage.clone()).await;
    }
    let huge = Any { type_url: "x".repeat(40 * 1024 * 1024), value: Vec::new() };
    call_with_garbage(&channel, "/robeing.v1.Fleet/Submit", huge).await;
    malformed_raft(channel).await;
}

async fn malformed_raft(channel: Channel) {
    let mut raft = RaftClient::new(channel);
    let vote = internal::VoteMessage { target: 1, json: "{\"vote\": ".into() };
    assert!(raft.vote(vote.clone()).await.is_err());
    assert!(raft.pre_vote(vote.clone()).await.is_err());
    assert!(raft.transfer_leader(vote).await.is_err());
    let commands = vec![vec![0xff; 64].into(), Vec::new().into()];
    let propose = internal::ProposeRequest { commands, ..Default::default() };
    if let Ok(told) = raft.propose(propose).await {
        // Each command gets its own reply, so that commands of others in the same request are still executed.
        for reply in told.into_inner().replies {
            let reply = decode_reply(&reply);
            assert!(matches!(reply, Ok(Reply::Refused(Refusal::Unreadable { .. }))), "{reply:?}");
        }
    }
    let chunk = internal::SnapshotChunk { meta_json: "[]".into(), data: "garbage".into(), ..Default::default() };
    assert!(raft.install_snapshot(tokio_stream::iter([chunk])).await.is_err());
    let append = internal::AppendRequest { vote_json: "null".into(), ..Default::default() };
    if let Ok(answers) = raft.append(tokio_stream::iter([append])).await {
        let answer = answers.into_inner().message().await;
        assert!(!matches!(answer, Ok(Some(_))), "{answer:?}");
    }
    let join = internal::JoinRequest {
        cluster_id: "another".into(),
        name: "coordinator-0".into(),
        node_id: 1,
        address: "127.0.0.1:9".into(),
    };
    assert_refused(raft.join(join.clone()).await, Code::PermissionDenied, "tested");
    let stranger = internal::JoinRequest { cluster_id: "tested".into(), name: "stranger".into(), ..join };
    let answer = raft.join(stranger).await;
    assert!(!matches!(&answer, Ok(answer) if answer.get_ref().joined), "{answer:?}");
}

/// The memory that a coordinator of an empty fleet may use whatever requests it gets, in bytes; a debug build uses
/// about 60 MiB at rest.
const MODEST: u64 = 400 * 1024 * 1024;

/// Small requests that would make a coordinator do, keep or return very much.
#[tokio::test]
async fn what_asks_for_much_more_than_it_brings_is_refused_and_takes_no_memory() {
    let mut fleet = Fleet::start(FleetSpec::new(1).session_timeout("60s")).await;
    let address = fleet.address("coordinator-0");
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect().await;
    let mut client = FleetClient::new(channel.expect("it listens")).max_encoding_message_size(MAX_MESSAGE_BYTES);
    const MIB: usize = 1024 * 1024;

    // A reason that would be kept with each of a thousand tasks.
    let ids: Vec<String> = (0..1_000).map(|_| robeing_client::new_task_id()).collect();
    let cancel = |ids: &[String], reason: usize| v1::CancelTasksRequest {
        ids: ids.to_vec(),
        reason: "r".repeat(reason),
        wait: None,
    };
    assert_refused(client.cancel_tasks(cancel(&ids, 4 * MIB)).await, Code::InvalidArgument, "reason");
    assert_refused(client.cancel_tasks(cancel(&ids, 1025)).await, Code::InvalidArgument, "1024 at most");
    let same = vec![ids[0].clone(); 1_000];
    let told = client.cancel_tasks(cancel(&same, 1024)).await.expect("it is within the limits").into_inner();
    assert!(told.results.iter().all(|result| result.task_id == ids[0]) && told.results.len() == 1_000);
    let more = [&ids[..], &ids[..1]].concat();
    assert_refused(client.cancel_tasks(cancel(&more, 0)).await, Code::InvalidArgument, "1000 at most");

    // Parts of two bytes each that take hundreds of bytes in memory.
    let submission = |tasks| v1::SubmitRequest { tasks: vec![v1::TaskSpec::default(); tasks] };
    assert_refused(client.submit(submission(2_000_000)).await, Code::InvalidArgument, "parts");
    assert_refused(client.submit(submission(1_001)).await, Code::InvalidArgument, "1000 at most");
    let request = v1::SubmitStreamRequest { tasks: vec![v1::StreamedTask::default(); 2_000_000] };
    let mut told = client.submit_stream(tokio_stream::iter([request])).await.expect("a stream").into_inner();
    assert_refused(told.message().await, Code::InvalidArgument, "parts");
    let held = vec![internal::AttemptRef::default(); 1_000_000];
    assert_refused(HandAgent::open(&address, Hello { held, ..hello("holder") }).await, Code::InvalidArgument, "parts");

    // Long texts are neither repeated in responses nor kept.
    let long = "x".repeat(2 * MIB);
    let get = v1::GetTaskRequest { id: long.clone(), ..Default::default() };
    let status = client.get_task(get).await.expect_err("it is not an id");
    assert!(status.code() == Code::InvalidArgument && status.message().len() < 200, "{status:?}");
    let spec = v1::TaskSpec { id: long.clone(), ..task("") };
    let refused = client.submit(v1::SubmitRequest { tasks: vec![spec] }).await.expect("each task has its own result");
    assert!(format!("{refused:?}").len() < 2_000, "the response is short");
    let list = v1::ListTasksRequest { page_token: long.clone(), ..Default::default() };
    let status = client.list_tasks(list).await.expect_err("it is not a token");
    assert!(status.message().len() < 300, "{} bytes", status.message().len());
    for list in [
        v1::ListTasksRequest { kind: long.clone(), ..Default::default() },
        v1::ListTasksRequest { submitter: long.clone(), ..Default::default() },
        v1::ListTasksRequest { agent: long.clone(), ..Default::default() },
    ] {
        assert_refused(client.list_tasks(list).await, Code::InvalidArgument, "the most is 253");
    }
    let states = vec![i32::from(TaskState::Queued); MIB];
    client.list_tasks(v1::ListTasksRequest { states, ..Default::default() }).await.expect("one state, repeated");
    let specializations = vec![long; 5];
    let hello = Hello { specializations, ..hello("expert") };
    assert_refused(HandAgent::open(&address, hello).await, Code::FailedPrecondition, "specializations");

    let peak = fleet.process("coordinator-0").peak_memory();
    assert!(peak < MODEST, "the coordinator used {peak} bytes");
    let id = fleet.submit_one(task(&answer("fine"))).await;
    assert_eq!(fleet.task(&id).await.state(), TaskState::Queued);
}

/// Returns bytes without a pattern; their content does not matter to the test.
fn noise(length: usize) -> Vec<u8> {
    let state = std::hash::RandomState::new();
    (0..length.div_ceil(8)).flat_map(|index| state.hash_one(index).to_le_bytes()).collect()
}

/// Sends all kinds of garbage to a port. Returns connections that stay open, over which nothing or half a message was
/// sent.
async fn garbage(address: &str) -> Vec<TcpStream> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // The beginning of a header frame that claims to be long and never ends.
    let endless = [0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 1];
    for bytes in [
        noise(100_000),
        vec![0; 100_000],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"POST /robeing.v1.Fleet/Submit HTTP/1.1\r\nContent-Length: 99999999\r\n\r\nx".to_vec(),
        [&preface[..], &noise(10_000)].concat(),
        [&preface[..], &settings, &endless, &noise(1_000)].concat(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        // The other side may close the connection at any time.
        let _ = timeout(LISTEN, stream.write_all(&bytes)).await;
        let _ = timeout(LISTEN, stream.read_to_end(&mut Vec::new())).await;
    }
    let mut open = Vec::new();
    for index in 0..SILENT {
        let mut stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        match index % 3 {
            0 => {}
            1 => drop(stream.write_all(&preface[..10]).await),
            _ => drop(stream.write_all(&[&preface[..], &settings, &endless].concat()).await),
        }
        open.push(stream);
    }
    open
}

#[tokio::test]
async fn garbage_on_every_port_leaves_the_fleet_working() {
    let pool = PoolSpec::new("work", 1);
    let mut fleet = Fleet::start(FleetSpec::new(3).pool(pool).session_timeout("20s")).await;
    let agents = fleet.agents().await;
    let members = fleet.coordinators_agree().await;
    for name in fleet.coordinators() {
        malformed_calls(&fleet.address(&name)).await;
    }
    let mut ports: Vec<String> = agents.iter().map(|agent| agent.address.clone()).collect();
    for name in fleet.coordinators() {
        ports.push(fleet.address(&name));
        ports.push(fleet.metrics_address(&name));
    }
    let mut open = Vec::new();
    for port in &ports {
        open.extend(garbage(port).await);
    }

    // All connections are still open, and tasks are still done.
    let mut load = Load::start(&fleet.client(), 40, 8, "");
    let history = load.complete().await;
    assert_eq!(history.accepted_count(), 40);
    history.assert_sound(&fleet.executions_file());
    drop(open);
    let id = fleet.submit_one(task(&answer("fine"))).await;
    fleet.finished(&id, TaskState::Succeeded).await;
    let after = fleet.agents().await;
    assert!(after.iter().all(|agent| agent.state() == AgentState::Live), "{after:#?}");
    let sessions = |agents: &[v1::Agent]| agents.iter().map(|agent| agent.session).collect::<Vec<_>>();
    assert_eq!(sessions(&after), sessions(&agents), "no session broke");
    let nodes = |status: &v1::FleetStatus| {
        status.coordinators.iter().map(|one| (one.name.clone(), one.node_id.clone(), one.pid)).collect::<Vec<_>>()
    };
    assert_eq!(nodes(&fleet.status().await), nodes(&members), "no process ended or joined");
    for name in fleet.coordinators().into_iter().chain(fleet.agent_names()) {
        let log = fleet.process(&name).log();
        assert!(!log.contains("panicked"), "{name} panicked: {log}");
    }
}
