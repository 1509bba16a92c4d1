//! A process that attaches to an agent with the executor `worker`, as a user's process would: each task runs the
//! command in this program's arguments, with the task's input on its standard input.
//!
//! `ROBEING_WORKER_ADDRESS=127.0.0.1:8081 robeing-test-worker /bin/sh -c 'wc -w'`
//!
//! If ROBEING_TEST_WORKER_HEALTH is set, it answers health checks: while that file exists it is unhealthy, with the
//! file's content as the reason.

use std::{
    collections::HashMap,
    env,
    process::{ExitCode, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use robeing_proto::worker::v1::{
    Failure, FromProcess, Health, Hello, Stopped, Task, TaskResult, from_process, task_result, to_process,
    worker_client::WorkerClient,
};
use tokio::{
    io::AsyncWriteExt,
    process::Command,
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// The pause between two attempts to attach: the agent may have just ended.
const PAUSE: Duration = Duration::from_millis(100);
/// The interval of HTTP/2 keepalive pings to the agent, and the time within which it must respond.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// The capacity of the channel of messages to the agent.
const UNSENT: usize = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let argv: Vec<String> = env::args().skip(1).collect();
    let (Ok(address), false) = (env::var("ROBEING_WORKER_ADDRESS"), argv.is_empty()) else {
        eprintln!("usage: ROBEING_WORKER_ADDRESS=HOST:PORT robeing-test-worker PROGRAM [ARGUMENT...]");
        return ExitCode::from(2);
    };
    loop {
        if let Err(error) = attach(&address, &argv).await {
            eprintln!("not attached to {address}: {error}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Runs tasks until the stream ends; tasks that run then are stopped.
async fn attach(address: &str, argv: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    // To notice a frozen agent, and to stop its tasks.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    let mut client = WorkerClient::new(endpoint.connect().await?);
    let (outgoing, said) = mpsc::channel(UNSENT);
    let health_file = env::var_os("ROBEING_TEST_WORKER_HEALTH");
    let name = format!("test-worker-{}", std::process::id());
    let hello = Hello { name, answers_health_checks: health_file.is_some(), ..Hello::default() };
    outgoing.send(FromProcess { message: Some(from_process::Message::Hello(hello)) }).await?;
    let mut incoming = client.attach(ReceiverStream::new(said)).await?.into_inner();
    eprintln!("attached to {address}");
    let mut tasks = JoinSet::new();
    // Dropping a sender stops its task.
    let mut running: HashMap<(String, u32), oneshot::Sender<()>> = HashMap::new();
    loop {
        tokio::select! {
            message = incoming.message() => match message?.and_then(|message| message.message) {
                Some(to_process::Message::Task(task)) => {
                    let key = (task.task_id.clone(), task.attempt);
                    let (running_until, stop) = oneshot::channel();
                    running.insert(key, running_until);
                    tasks.spawn(run(argv.to_vec(), task, stop));
                }
                Some(to_process::Message::Stop(stop)) => {
                    // The task responds once none of its processes runs.
                    drop(running.remove(&(stop.task_id, stop.attempt)));
                }
                Some(to_process::Message::HealthCheck(check)) => {
                    let unhealthy = health_file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
                    let health = Health { seq: check.seq, unhealthy: unhealthy.unwrap_or_default() };
                    outgoing.send(FromProcess { message: Some(from_process::Message::Health(health)) }).await?;
                }
                Some(to_process::Message::Welcome(_)) => {}
                // Its Hello did not announce that it handles messages, and it sends none.
                Some(to_process::Message::Incoming(_) | to_process::Message::SendOutcome(_)) => {}
                // Nor that it takes batches.
                Some(to_process::Message::Batch(_)) => {}
                None => return Ok(()),
            },
            Some(ended) = tasks.join_next() => {
                if let Ok((key, outcome)) = ended {
                    running.remove(&key);
                    outgoing.send(result(key, outcome)).await?;
                }
            }
        }
    }
}

fn result((task_id, attempt): (String, u32), outcome: task_result::Outcome) -> FromProcess {
    let result = TaskResult { task_id, attempt, outcome: Some(outcome) };
    FromProcess { message: Some(from_process::Message::Result(result)) }
}

/// A process group that is killed when this is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

async fn run(argv: Vec<String>, task: Task, stop: oneshot::Receiver<()>) -> ((String, u32), task_result::Outcome) {
    let key = (task.task_id.clone(), task.attempt);
    let outcome = output(&argv, &task, stop).await;
    let outcome = outcome.unwrap_or_else(|error| failed(format!("{}: {error}", argv[0]), None, ""));
    (key, outcome)
}

/// Waits until no process of a killed group is left.
async fn gone(group: Pid) {
    while killpg(group, None).is_ok() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn output(argv: &[String], task: &Task, stop: oneshot::Receiver<()>) -> std::io::Result<task_result::Outcome> {
    let mut child = Command::new(&argv[0])
        .args(&argv[1..])
        .env("ROBEING_TASK_ID", &task.task_id)
        .env("ROBEING_ATTEMPT", task.attempt.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let pid = child.id().and_then(|pid| pid.try_into().ok()).map(Pid::from_raw);
    let group = Group(pid);
    let mut stdin = child.stdin.take().expect("it is piped");
    // A program that does not read its input may end first.
    let write = async {
        let _ = stdin.write_all(&task.input).await;
        drop(stdin);
    };
    let ended = async { tokio::join!(write, child.wait_with_output()).1 };
    let output = tokio::select! {
        output = ended => output?,
        _ = stop => {
            drop(group);
            if let Some(pid) = pid {
                gone(pid).await;
            }
            return Ok(task_result::Outcome::Stopped(Stopped {}));
        }
    };
    Ok(match output.status.code() {
        Some(0) => task_result::Outcome::Output(output.stdout.into()),
        code => failed(output.status.to_string(), code, &String::from_utf8_lossy(&output.stderr)),
    })
}

fn failed(message: String, code: Option<i32>, details: &str) -> task_result::Outcome {
    task_result::Outcome::Failure(Failure { message, code, details: details.to_owned(), ..Failure::default() })
}
