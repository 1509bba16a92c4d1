//! The `worker` executor against scripted gRPC clients on loopback.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use robeing_agent::executor::{
    Attempt, DEFAULT_STDERR_TAIL, Executor, ExecutorError, FailureKind, Limits, Outcome, WorkerConfig, WorkerExecutor,
    worker::{MAX_PROCESS_INPUT, MAX_PROCESS_NAME, MAX_PROCESSES, MAX_UNREAD},
};
use robeing_net::Transport;
use robeing_platform::TcpNetwork;
use robeing_proto::worker::v1::{
    Failure, FromProcess, Hello, Stop, Stopped, Task, TaskResult, ToProcess, Welcome, from_process, task_result,
    to_process, worker_client::WorkerClient,
};
use robeing_telemetry::Metrics;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Code, Status, Streaming};

use crate::fixture::{DEADLINE, SOON, attempt, eventually, limits};

const MAX_OUTPUT: usize = 1_000;

/// An agent's executor and its metrics.
pub struct Agent {
    pub executor: Arc<WorkerExecutor>,
    metrics: Metrics,
}

/// An attempt that runs in its own task.
pub struct Running {
    cancel: CancellationToken,
    task: AbortOnDropHandle<Outcome>,
}

impl Running {
    pub async fn end(self) -> Outcome {
        timeout(SOON, self.task).await.expect("the attempt ends").expect("no panic")
    }

    async fn failure(self) -> robeing_agent::executor::Failure {
        match self.end().await {
            Outcome::Failed(failure) => failure,
            other => panic!("expected a failure, got {other:?}"),
        }
    }
}

impl Agent {
    pub async fn new() -> Self {
        Self::with(Limits { max_output: MAX_OUTPUT, ..limits() }).await
    }

    async fn with(limits: Limits) -> Self {
        let metrics = Metrics::default();
        let config = WorkerConfig { listen: "127.0.0.1:0".into(), agent: "tasks-0".into(), slots: 3, limits };
        let transport = Transport::new(Arc::new(TcpNetwork));
        let executor = WorkerExecutor::listen(config, &transport, &metrics).await.expect("a free port");
        Self { executor: Arc::new(executor), metrics }
    }

    pub fn run(&self, attempt: Attempt) -> Running {
        let cancel = CancellationToken::new();
        let (executor, token) = (Arc::clone(&self.executor), cancel.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move { executor.run(attempt, token).await }));
        Running { cancel, task }
    }

    fn is_present(&self) -> bool {
        *self.executor.presence().expect("it tells").borrow()
    }

    async fn client(&self) -> WorkerClient<tonic::transport::Channel> {
        WorkerClient::connect(format!("http://{}", self.executor.local_addr())).await.expect("it listens")
    }

    /// Attaches a process that sends these messages; returns it and the Welcome it gets.
    pub async fn say(&self, messages: Vec<FromProcess>) -> Result<(Process, Welcome), Status> {
        let (outgoing, said) = mpsc::channel(1_000);
        for message in messages {
            outgoing.try_send(message).expect("there is room");
        }
        let attached = self.client().await.attach(ReceiverStream::new(said)).await?;
        let mut process = Process { outgoing, incoming: attached.into_inner() };
        match process.next().await? {
            to_process::Message::Welcome(welcome) => Ok((process, welcome)),
            other => panic!("expected Welcome, got {other:?}"),
        }
    }

    /// Attaches a process.
    async fn process(&self, name: &str) -> Process {
        self.say(vec![hello(name)]).await.expect("there is room for it").0
    }
}

/// An attached process.
pub struct Process {
    pub outgoing: mpsc::Sender<FromProcess>,
    incoming: Streaming<ToProcess>,
}

impl Process {
    pub async fn next(&mut self) -> Result<to_process::Message, Status> {
        let message = timeout(SOON, self.incoming.message()).await.expect("a message within the time")?;
        message.and_then(|message| message.message).ok_or_else(|| Status::ok("the stream ended"))
    }

    pub async fn task(&mut self) -> Task {
        match self.next().await {
            Ok(to_process::Message::Task(task)) => task,
            other => panic!("expected a task, got {other:?}"),
        }
    }

    async fn stop(&mut self) -> Stop {
        match self.next().await {
            Ok(to_process::Message::Stop(stop)) => stop,
            other => panic!("expected a stop, got {other:?}"),
        }
    }

    pub async fn answer(&self, task: &Task, outcome: impl Into<Option<task_result::Outcome>>) {
        let result = TaskResult { task_id: task.task_id.clone(), attempt: task.attempt, outcome: outcome.into() };
        let message = FromProcess { message: Some(from_process::Message::Result(result)) };
        self.outgoing.send(message).await.expect("it is attached");
    }
}

pub fn hello(name: &str) -> FromProcess {
    FromProcess { message: Some(from_process::Message::Hello(Hello { name: name.into(), ..Hello::default() })) }
}

pub fn output(bytes: usize) -> task_result::Outcome {
    task_result::Outcome::Output(Bytes::from(vec![b'x'; bytes]))
}

fn said(message: &str, details: &str, permanent: bool) -> task_result::Outcome {
    let (message, details) = (message.into(), details.into());
    task_result::Outcome::Failure(Failure { message, code: Some(7), details, permanent, name: "KeyError".into() })
}

#[tokio::test]
async fn a_process_gets_the_task_and_its_answer_is_the_output() {
    let agent = Agent::new().await;
    let (mut process, welcome) = agent.say(vec![hello("mine")]).await.expect("it attaches");
    let max_output_bytes = MAX_OUTPUT as u64;
    assert_eq!(welcome, Welcome { agent: "tasks-0".into(), slots: 3, max_output_bytes, takes_batches: true });
    let asked = Attempt {
        attempt: 4,
        kind: "sums".into(),
        deadline: Some(DEADLINE),
        time_limit: Some(Duration::from_secs(600)),
        ..attempt("1 2 3")
    };
    let running = agent.run(asked.clone());
    let task = process.task().await;
    assert_eq!(
        task,
        Task {
            task_id: asked.task_id,
            attempt: 4,
            kind: "sums".into(),
            input: "1 2 3".into(),
            deadline_in_ms: 1_500,
            time_limit_ms: 600_000,
            ..Task::default()
        }
    );
    process.answer(&task, output(MAX_OUTPUT)).await;
    assert_eq!(running.end().await, Outcome::Succeeded { output: vec![b'x'; MAX_OUTPUT].into() });
}

#[tokio::test]
async fn what_a_process_says_of_a_failure_is_told() {
    let agent = Agent::new().await;
    let mut process = agent.process("mine").await;
    let long = "ä".repeat(DEFAULT_STDERR_TAIL);
    for (outcome, retryable, message) in [
        (Some(said("no such table", "at line 1", false)), true, "no such table"),
        (Some(said("no such table", "at line 1", true)), false, "no such table"),
        (Some(said("", "at line 1", true)), false, "mine failed without a reason"),
        (Some(said(&long, &format!("{long}at line 1"), true)), false, &long[..DEFAULT_STDERR_TAIL]),
        (Some(task_result::Outcome::Stopped(Stopped {})), true, "mine stopped the attempt without being asked to"),
        (None, false, "mine answered without an outcome; set output, failure, suspend or stopped"),
    ] {
        let running = agent.run(attempt(""));
        let task = process.task().await;
        let is_told = matches!(outcome, Some(task_result::Outcome::Failure(_)));
        process.answer(&task, outcome).await;
        let failure = running.failure().await;
        assert_eq!((failure.kind, failure.retryable), (FailureKind::Reported, retryable), "{failure:?}");
        assert_eq!(failure.message, message);
        if is_told {
            assert_eq!(failure.code, Some(7));
            assert!(failure.stderr_tail.ends_with("at line 1"), "{failure:?}");
            assert!(failure.stderr_tail.len() <= DEFAULT_STDERR_TAIL);
        }
    }
}

#[tokio::test]
async fn an_output_that_is_too_large_fails_the_task_alone() {
    let agent = Agent::new().await;
    let mut process = agent.process("mine").await;
    let (large, small) = (agent.run(attempt("")), agent.run(attempt("")));
    let mut tasks = [process.task().await, process.task().await];
    tasks.sort_by(|a, b| a.task_id.cmp(&b.task_id));
    process.answer(&tasks[0], output(MAX_OUTPUT + 1)).await;
    process.answer(&tasks[1], output(1)).await;
    let ends = [large.end().await, small.end().await];
    let too_large = ends.iter().find_map(|end| match end {
        Outcome::Failed(failure) => Some(failure),
        _ => None,
    });
    let failure = too_large.expect("one is too large");
    assert_eq!((failure.kind, failure.retryable), (FailureKind::OutputTooLarge, false), "{failure:?}");
    assert!(ends.contains(&Outcome::Succeeded { output: "x".into() }), "{ends:?}");
}

#[tokio::test]
async fn without_a_process_nothing_is_begun() {
    let agent = Agent::new().await;
    assert!(!agent.is_present());
    assert_eq!(agent.run(attempt("")).end().await, Outcome::NotBegun);
    let process = agent.process("mine").await;
    assert!(agent.is_present());
    assert!(agent.metrics.encode().contains("agent_worker_processes 1"), "{}", agent.metrics.encode());
    drop(process);
    eventually("the process is not attached any more", || !agent.is_present()).await;
    assert_eq!(agent.run(attempt("")).end().await, Outcome::NotBegun);
    assert!(agent.metrics.encode().contains("agent_worker_processes 0"));
}

#[tokio::test]
async fn what_a_process_ran_fails_when_it_is_gone_and_may_be_tried_again() {
    let agent = Agent::new().await;
    let mut process = agent.process("mine").await;
    let running = agent.run(attempt(""));
    process.task().await;
    drop(process);
    let failure = running.failure().await;
    assert_eq!((failure.kind, failure.retryable), (FailureKind::Unreachable, true));
    assert_eq!(failure.message, "mine, a process attached to the agent, was gone before it answered");
}

#[tokio::test]
async fn a_message_over_the_limit_is_told_as_such_and_final_only_where_it_can_be_of_one_attempt_alone() {
    let agent = Agent::new().await;
    for (others, stopped, kind, retryable) in [
        (0, false, FailureKind::OutputTooLarge, false),
        (2, false, FailureKind::Unreachable, true),
        // It may be the late answer to an attempt that was stopped.
        (0, true, FailureKind::Unreachable, true),
    ] {
        let mut process = agent.process("mine").await;
        if stopped {
            let running = agent.run(attempt(""));
            process.task().await;
            running.cancel.cancel();
            assert_eq!(running.end().await, Outcome::Cancelled);
            process.stop().await;
        }
        let running: Vec<_> = (0..=others).map(|_| agent.run(attempt(""))).collect();
        let mut task = process.task().await;
        for _ in 0..others {
            task = process.task().await;
        }
        process.answer(&task, output(robeing_net::message_limit())).await;
        for running in running {
            let failure = running.failure().await;
            assert_eq!((failure.kind, failure.retryable), (kind, retryable), "{failure:?}");
            assert!(failure.message.contains("a message of more than 16777216 bytes"), "{failure:?}");
            assert!(failure.message.ends_with("; answer with less, or with a reference"), "{failure:?}");
        }
        eventually("the process is not attached any more", || !agent.is_present()).await;
    }
}

#[tokio::test]
async fn an_input_that_is_too_large_for_a_process_is_given_to_none() {
    let agent = Agent::new().await;
    let mut process = agent.process("mine").await;
    let with = |length| Attempt { input: vec![7; length].into(), ..attempt("") };
    let failure = agent.run(with(MAX_PROCESS_INPUT + 1)).failure().await;
    assert_eq!((failure.kind, failure.retryable), (FailureKind::InvalidAttempt, false), "{failure:?}");
    // Nor with less, if it is too much with what is left from an earlier attempt.
    let failure = agent.run(Attempt { carried: "x".into(), ..with(MAX_PROCESS_INPUT) }).failure().await;
    assert_eq!((failure.kind, failure.retryable), (FailureKind::InvalidAttempt, false), "{failure:?}");
    let running = agent.run(with(MAX_PROCESS_INPUT));
    let task = process.task().await;
    assert_eq!(task.input.len(), MAX_PROCESS_INPUT);
    process.answer(&task, output(1)).await;
    assert_eq!(running.end().await, Outcome::Succeeded { output: "x".into() });
}

#[tokio::test]
async fn half_a_stream_is_the_end_of_a_process_too() {
    let agent = Agent::new().await;
    let mut process = agent.process("").await;
    let running = agent.run(attempt(""));
    process.task().await;
    let Process { outgoing, mut incoming } = process;
    drop(outgoing);
    assert!(running.failure().await.message.starts_with("process 1, "));
    let end = timeout(SOON, incoming.message()).await.expect("the stream ends").expect("in order");
    assert_eq!(end, None);
}

#[tokio::test]
async fn a_cancelled_attempt_is_told_and_waited_for() {
    let agent = Agent::with(Limits { kill_grace: SOON, ..limits() }).await;
    let mut process = agent.process("mine").await;
    let running = agent.run(attempt(""));
    let task = process.task().await;
    running.cancel.cancel();
    let stop = process.stop().await;
    assert_eq!((&stop.task_id, stop.attempt), (&task.task_id, task.attempt));
    assert!(!running.task.is_finished(), "it is waited for");
    process.answer(&task, output(1)).await;
    assert_eq!(running.end().await, Outcome::Cancelled, "whatever it answers, it was stopped");
}

#[tokio::test]
async fn a_process_that_does_not_stop_is_not_waited_for_and_its_late_answer_is_ignored() {
    let agent = Agent::new().await;
    let mut process = agent.process("mine").await;
    let running = agent.run(attempt(""));
    let late = process.task().await;
    running.cancel.cancel();
    assert_eq!(running.end().await, Outcome::Cancelled);
    process.stop().await;
    process.answer(&late, output(1)).await;

    let next = agent.run(attempt(""));
    let task = process.task().await;
    process.answer(&Task { attempt: 9, ..task.clone() }, output(3)).await;
    process.answer(&task, output(2)).await;
    assert_eq!(next.end().await, Outcome::Succeeded { output: "xx".into() });
}

#[tokio::test]
async fn an_attempt_is_stopped_at_its_time_limit() {
    let agent = Agent::new().await;
    let mut process = agent.process("mine").await;
    let running = agent.run(Attempt { time_limit: Some(Duration::from_millis(20)), ..attempt("") });
    let task = process.task().await;
    assert_eq!(process.stop().await.task_id, task.task_id);
    let failure = running.failure().await;
    assert_eq!((failure.kind, failure.retryable), (FailureKind::TimedOut, true));
}

#[tokio::test]
async fn a_dropped_attempt_is_told_once() {
    let agent = Agent::new().await;
    let mut process = agent.process("mine").await;
    let running = agent.run(attempt(""));
    let task = process.task().await;
    drop(running);
    assert_eq!(process.stop().await.task_id, task.task_id);
    let next = agent.run(attempt(""));
    assert_ne!(process.task().await.task_id, task.task_id, "it is told nothing else of the first");
    drop(next);
}

#[tokio::test]
async fn the_process_that_runs_the_fewest_gets_the_next() {
    let agent = Agent::new().await;
    let mut processes = [agent.process("a").await, agent.process("b").await];
    let mut running = Vec::new();
    for _ in 0..4 {
        running.push(agent.run(attempt("")));
    }
    for process in &mut processes {
        process.task().await;
        process.task().await;
    }
    drop(processes);
    for running in running {
        assert!(running.failure().await.retryable);
    }
}

#[tokio::test]
async fn no_more_than_so_many_processes_attach() {
    let agent = Agent::new().await;
    let mut attached = Vec::new();
    for _ in 0..MAX_PROCESSES {
        attached.push(agent.process("").await);
    }
    let refused = agent.say(vec![hello("")]).await.err().expect("there is no room");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    attached.pop();
    eventually("there is room again", || agent.metrics.encode().contains(&format!(" {}\n", MAX_PROCESSES - 1))).await;
    agent.process("").await;
}

#[tokio::test]
async fn a_process_says_hello_first_and_once() {
    let agent = Agent::new().await;
    let result = FromProcess { message: Some(from_process::Message::Result(TaskResult::default())) };
    let long = "x".repeat(MAX_PROCESS_NAME);
    for wrong in [vec![result], vec![FromProcess { message: None }], vec![hello(&format!("{long}x"))]] {
        let refused = agent.say(wrong).await.err().expect("it is refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    assert!(!agent.is_present());
    let (mut process, _) = agent.say(vec![hello(&long), hello("again")]).await.expect("the first is right");
    let end = process.next().await.expect_err("it ends");
    assert_eq!(end.code(), Code::InvalidArgument, "{end:?}");
    eventually("it is not attached", || !agent.is_present()).await;
}

#[tokio::test]
async fn a_process_that_reads_nothing_is_detached_and_holds_nobody_up() {
    let agent = Agent::new().await;
    let deaf = agent.process("deaf").await;
    // More than the stream's window and the queue hold together.
    let input = Bytes::from(vec![0; 1 << 20]);
    let mut running: Vec<Running> = (0..2 * MAX_UNREAD).map(|_| agent.run(attempt(input.clone()))).collect();
    let stuck = running.pop().expect("there are some");
    stuck.cancel.cancel();
    assert_eq!(stuck.end().await, Outcome::Cancelled, "it waits for room no longer than it may");
    eventually("it is detached", || !agent.is_present()).await;
    for running in running {
        assert!(matches!(running.end().await, Outcome::NotBegun | Outcome::Failed(_)));
    }
    drop(deaf);
}

#[tokio::test]
async fn an_address_in_use_is_refused_with_a_sentence() {
    let agent = Agent::new().await;
    let listen = agent.executor.local_addr().to_string();
    let config = WorkerConfig { listen: listen.clone(), agent: "b".into(), slots: 1, limits: limits() };
    let transport = Transport::new(Arc::new(TcpNetwork));
    let error = WorkerExecutor::listen(config, &transport, &Metrics::default()).await.err().expect("it is taken");
    assert!(matches!(error, ExecutorError::Listen(_)));
    let text = error.to_string();
    assert!(text.contains(&listen) && text.ends_with("change --worker-listen"), "{text}");
}
