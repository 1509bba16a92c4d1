//! The health of executors, with real processes, servers and attached processes.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use robeing_agent::executor::{
    CommandConfig, CommandExecutor, EchoExecutor, Executor, ExecutorError, Guard, Health, HttpConfig, HttpExecutor,
    Outcome, worker::MAX_UNHEALTHY,
};
use robeing_proto::worker::v1::{FromProcess, Health as Said, Hello, from_process, to_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};
use tokio_util::sync::CancellationToken;

use crate::{
    fixture::{SOON, alive, attempt, eventually, kill, limits, output},
    http::{Server, answer},
    worker::{self, Agent, Process},
};

/// How long to wait for an answer that does not come.
const SHORTLY: Duration = Duration::from_millis(200);

fn unhealthy(health: Health) -> String {
    match health {
        Health::Unhealthy(reason) => reason,
        other => panic!("expected unhealthy, got {other:?}"),
    }
}

fn silent(health: Health) -> String {
    match health {
        Health::Silent(reason) => reason,
        other => panic!("expected silence, got {other:?}"),
    }
}

fn command(program: &Path, guard: Option<Arc<Guard>>) -> CommandExecutor {
    let argv = vec![program.display().to_string()];
    CommandExecutor::new(CommandConfig { argv, limits: limits(), guard }).expect("a good configuration")
}

#[tokio::test]
async fn an_echo_is_always_healthy() {
    assert_eq!(EchoExecutor.health(SHORTLY).await, Health::Healthy);
}

#[tokio::test]
async fn a_command_that_is_not_there_any_more_or_may_not_be_executed_is_unhealthy() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("program");
    let executor = command(&program, None);
    assert!(unhealthy(executor.health(SOON).await).contains("does not exist"));
    fs::write(&program, "#!/bin/sh\ncat\n").expect("to write it");
    assert!(unhealthy(executor.health(SOON).await).contains("may not be executed"));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    assert_eq!(executor.health(SOON).await, Health::Healthy);
    assert_eq!(output(&executor, attempt("as ever")).await, "as ever");
}

/// A guard can be any program that reads its input; this test can remove that program.
#[tokio::test]
async fn a_guard_that_is_gone_is_replaced_and_an_agent_whose_guard_can_not_be_is_unhealthy() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("guard");
    symlink("/bin/cat", &program).expect("a link");
    let guard = Arc::new(Guard::spawn_with(&program, Vec::<String>::new()).expect("a guard"));
    let executor = command(Path::new("/bin/cat"), Some(Arc::clone(&guard)));
    assert_eq!(executor.health(SOON).await, Health::Healthy);

    let first = guard.pid();
    kill(first.cast_signed());
    eventually("the guard is gone", || !alive(first.cast_signed())).await;
    assert_eq!(executor.health(SOON).await, Health::Healthy, "it was repaired");
    let second = guard.pid();
    assert_ne!(first, second);

    fs::remove_file(&program).expect("to remove it");
    kill(second.cast_signed());
    eventually("the guard is gone", || !alive(second.cast_signed())).await;
    for _ in 0..2 {
        assert!(unhealthy(executor.health(SOON).await).contains("guard"));
    }
    symlink("/bin/cat", &program).expect("a link");
    assert_eq!(executor.health(SOON).await, Health::Healthy);
}

#[tokio::test]
async fn a_server_is_as_healthy_as_its_health_path_says() {
    let status = Arc::new(AtomicU16::new(503));
    let said = Arc::clone(&status);
    let server = Server::new(move |request: hyper::Request<hyper::body::Incoming>| {
        let asked = request.method() == "GET" && request.uri().path_and_query().is_some_and(|p| p == "/healthz?deep=1");
        let status = if asked { said.load(Ordering::Relaxed) } else { 404 };
        async move { answer(status, "") }
    })
    .await;
    let executor = |path: &str| {
        let url = format!("http://{}/run?x=1", server.address);
        HttpExecutor::new(HttpConfig { url, health_path: Some(path.into()), ..HttpConfig::default() })
    };
    let well = executor("/healthz?deep=1").expect("a good configuration");
    let reason = unhealthy(well.health(SOON).await);
    assert!(reason.contains("/healthz?… answered 503 Service Unavailable"), "{reason}");
    status.store(204, Ordering::Relaxed);
    assert_eq!(well.health(SOON).await, Health::Healthy);
    status.store(302, Ordering::Relaxed);
    assert!(unhealthy(well.health(SOON).await).contains("302"));
    for path in ["", "healthz", "/a b"] {
        assert!(matches!(executor(path), Err(ExecutorError::BadHealthPath { .. })), "{path:?}");
    }
}

#[tokio::test]
async fn an_agent_joins_once_the_health_path_of_its_server_answers() {
    let status = Arc::new(AtomicU16::new(503));
    let said = Arc::clone(&status);
    let asked = Arc::new(AtomicU16::new(0));
    let counted = Arc::clone(&asked);
    let server = Server::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        let status = said.load(Ordering::Relaxed);
        async move { answer(status, "") }
    })
    .await;
    let url = format!("http://{}/run", server.address);
    let config = HttpConfig { url, health_path: Some("/healthz".into()), ..HttpConfig::default() };
    let executor = HttpExecutor::new(config).expect("a good configuration");
    let mut presence = executor.presence().expect("it says whether it can");
    assert!(!*presence.borrow(), "nothing is known of it yet");
    let several = async {
        while asked.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, several).await.expect("it is asked again and again");
    assert!(!*presence.borrow(), "it is still starting");
    status.store(200, Ordering::Relaxed);
    let joins = presence.wait_for(|present| *present);
    tokio::time::timeout(SOON, joins).await.expect("soon").expect("it is there");
}

#[tokio::test]
async fn a_server_without_a_health_path_is_healthy_while_it_accepts_connections() {
    let server = Server::always(500, "").await;
    let executor = server.executor();
    assert_eq!(executor.health(SOON).await, Health::Healthy);
    drop(server);
    // Aborting the task closes its listener.
    let gone = async {
        loop {
            match executor.health(SOON).await {
                Health::Healthy => tokio::task::yield_now().await,
                other => return other,
            }
        }
    };
    let gone = tokio::time::timeout(SOON, gone).await.expect("the server is gone");
    assert!(silent(gone).contains("can't be reached"));
}

#[tokio::test]
async fn a_server_that_does_one_thing_at_a_time_is_not_taken_for_dead_by_looking_at_it() {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(1).expect("it listens");
    let url = format!("http://{}/", listener.local_addr().expect("its address"));
    let executor = Arc::new(HttpExecutor::new(HttpConfig { url, ..HttpConfig::default() }).expect("good"));
    let runner = Arc::clone(&executor);
    let running = tokio::spawn(async move { runner.run(attempt(""), CancellationToken::new()).await });
    let (mut connection, _) = listener.accept().await.expect("a connection");
    assert!(connection.read(&mut [0; 4096]).await.expect("a request") > 0);
    for check in 0..10 {
        assert_eq!(executor.health(SHORTLY).await, Health::Healthy, "check {check}");
    }
    connection
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        .await
        .expect("written");
    assert_eq!(running.await.expect("no panic"), Outcome::Succeeded { output: "ok".into() });
    assert_eq!(executor.health(SHORTLY).await, Health::Healthy, "nobody was in its queue");
    drop((connection, listener));
    assert!(silent(executor.health(SOON).await).contains("can't be reached"), "the attempt is over");
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_is_silent() {
    let server = Server::raw(|connection| async move {
        let _held = connection;
        std::future::pending().await
    })
    .await;
    let url = format!("http://{}/run", server.address);
    let config = HttpConfig { url, health_path: Some("/healthz?x".into()), ..HttpConfig::default() };
    let executor = HttpExecutor::new(config).expect("a good configuration");
    let told = silent(executor.health(SHORTLY).await);
    assert_eq!(told, format!("http://{}/healthz?… did not answer within 200ms", server.address));
}

async fn answering(agent: &Agent, name: &str) -> Process {
    let hello = Hello { name: name.into(), answers_health_checks: true, ..Hello::default() };
    let hello = FromProcess { message: Some(from_process::Message::Hello(hello)) };
    agent.say(vec![hello]).await.expect("there is room for it").0
}

/// Returns the agent's health when each of these processes, in turn, answers a check this way.
async fn health(agent: &Agent, processes: &mut [(&mut Process, &str)]) -> Health {
    let executor = Arc::clone(&agent.executor);
    let asked = tokio::spawn(async move { executor.health(SOON).await });
    for (process, unhealthy) in processes {
        let seq = match process.next().await {
            Ok(to_process::Message::HealthCheck(check)) => check.seq,
            other => panic!("expected a health check, got {other:?}"),
        };
        for seq in [seq - 1, seq] {
            let unhealthy = if seq == 0 { "an answer to nothing".to_owned() } else { (*unhealthy).to_owned() };
            let said = FromProcess { message: Some(from_process::Message::Health(Said { seq, unhealthy })) };
            process.outgoing.send(said).await.expect("it is attached");
        }
    }
    asked.await.expect("no panic")
}

#[tokio::test]
async fn an_agent_is_as_healthy_as_the_best_process_that_is_attached_and_that_one_gets_the_tasks() {
    let agent = Agent::new().await;
    let mut first = answering(&agent, "first").await;
    assert_eq!(health(&agent, &mut [(&mut first, "")]).await, Health::Healthy);
    let reason = unhealthy(health(&agent, &mut [(&mut first, &"é".repeat(MAX_UNHEALTHY))]).await);
    assert_eq!(reason, format!("first is unhealthy: {}", "é".repeat(MAX_UNHEALTHY / 2)));

    let mut second = answering(&agent, "second").await;
    assert_eq!(health(&agent, &mut [(&mut first, "no GPU"), (&mut second, "")]).await, Health::Healthy);
    let running: Vec<_> = (0..2).map(|_| agent.run(attempt(""))).collect();
    for running in running {
        let task = second.task().await;
        second.answer(&task, worker::output(1)).await;
        assert!(matches!(running.end().await, Outcome::Succeeded { .. }));
    }
    assert_eq!(health(&agent, &mut [(&mut first, ""), (&mut second, "")]).await, Health::Healthy);
}

#[tokio::test]
async fn a_process_that_does_not_answer_is_silent_and_one_that_does_not_say_that_it_would_is_not_asked() {
    let agent = Agent::new().await;
    assert_eq!(agent.executor.health(SHORTLY).await, Health::Healthy, "nothing is attached, so it is not in the fleet");
    let _mute = answering(&agent, "mute").await;
    for _ in 0..2 {
        assert!(silent(agent.executor.health(SHORTLY).await).starts_with("mute did not answer"));
    }
    let (mut old, _) = agent.say(vec![worker::hello("old")]).await.expect("there is room for it");
    assert_eq!(agent.executor.health(SHORTLY).await, Health::Healthy);
    let running = agent.run(attempt(""));
    let task = old.task().await;
    old.answer(&task, worker::output(1)).await;
    assert!(matches!(running.end().await, Outcome::Succeeded { .. }), "the one that answers nothing gets nothing");
}
