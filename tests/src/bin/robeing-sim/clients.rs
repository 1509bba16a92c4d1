//! Submitters: they submit, submit again, cancel and ask, through any coordinator, and hold the fleet to what they were told.

use std::{future::Future, sync::Arc, time::Duration};

use robeing_agent::{
    platform::{Platform, Random},
    transport::Transport,
};
use robeing_proto::v1::{self, fleet_client::FleetClient, streamed_answer::Answer};
use tonic::{Code, Response, Status, transport::Channel};

use crate::{executor::Course, record::Record, results};

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the next answer on a stream may take.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// One submitter.
pub struct Submitter {
    /// Its name.
    pub name: String,
    /// Its world.
    pub platform: Platform,
    /// Addresses of the coordinators.
    pub coordinators: Vec<String>,
    /// Tasks to submit.
    pub tasks: usize,
    /// Over which time.
    pub during: Duration,
    /// Where it is noted.
    pub record: Record,
}

/// A number below `bound`, which is not 0.
pub fn below(random: &dyn Random, bound: u64) -> u64 {
    random.next_u64() % bound
}

impl Submitter {
    fn below(&self, bound: u64) -> u64 {
        below(&*self.platform.random, bound)
    }

    async fn pause(&self, most: Duration) {
        let micros = self.below(most.as_micros() as u64 + 1);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }

    fn client(&self, coordinator: usize) -> FleetClient<Channel> {
        let transport = Transport::new(Arc::clone(&self.platform.network));
        let channel =
            transport.channel(&self.coordinators[coordinator]).expect("the simulation's addresses are host:port");
        FleetClient::new(channel)
    }

    /// One call, on a connection of its own.
    async fn call<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        coordinator: usize,
        call: impl FnOnce(FleetClient<Channel>) -> F,
    ) -> Result<T, Status> {
        match tokio::time::timeout(CALL_TIMEOUT, call(self.client(coordinator))).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer")),
        }
    }

    fn any(&self) -> usize {
        self.below(self.coordinators.len() as u64) as usize
    }

    fn new_task(&self) -> v1::TaskSpec {
        let ms = match self.below(10) {
            0 => 4_000,
            1..=3 => 1_000,
            _ => 100,
        };
        let ms = self.below(ms);
        let course = match self.below(12) {
            0 => Course::Fail(ms),
            1 | 2 => Course::Retry(ms),
            3 => Course::Hang,
            _ => Course::Succeed(ms),
        };
        let id = robeing_agent::platform::uuid_v7(&*self.platform.clock, &*self.platform.random);
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        // A task that hangs is given up soon: waiting for it shows nothing more.
        let max_attempts = if course == Course::Hang { 2 } else { 0 };
        let backoff = Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 });
        let retry = v1::RetryPolicy { max_attempts, initial_backoff: backoff, ..v1::RetryPolicy::default() };
        v1::TaskSpec {
            id: uuid::Uuid::from_u128(id).to_string(),
            kind: "simulated".to_owned(),
            input: course.input(),
            priority: 1 + self.below(10) as u32,
            attempt_timeout: if course == Course::Hang { seconds(1) } else { None },
            retry: Some(retry),
            deadline_in: if self.below(8) == 0 { seconds(20) } else { None },
            idempotency_key: if self.below(4) == 0 { format!("key of {id:032x}") } else { String::new() },
            submitter: self.name.clone(),
            ..v1::TaskSpec::default()
        }
    }

    /// Submits on a stream and waits there for the result, as long as the stream lasts: what was answered.
    async fn submit_and_wait(&self, spec: &v1::TaskSpec) -> Option<v1::SubmitResult> {
        let task = v1::StreamedTask { tag: 1, task: Some(spec.clone()), wait: true };
        // The open end keeps the stream: nothing more is submitted, but results are told.
        let request = futures::stream::iter([v1::SubmitStreamRequest { tasks: vec![task] }]);
        let stream = self.call(self.any(), async |mut fleet| fleet.submit_stream(request).await).await;
        let mut stream = stream.ok()?;
        let mut submitted = None;
        while let Ok(Ok(Some(response))) = tokio::time::timeout(STREAM_TIMEOUT, stream.message()).await {
            for answer in response.answers {
                match answer.answer {
                    Some(Answer::Submitted(result)) if result.refusal.is_some() => return None,
                    Some(Answer::Submitted(result)) => {
                        self.record.notes().accepted.entry(result.task_id.clone()).or_default();
                        submitted = Some(result);
                    }
                    Some(Answer::Finished(task)) if submitted.is_none() => {
                        self.record.violation(format!("task {} was finished before it was accepted", task.id));
                    }
                    Some(Answer::Finished(task)) => {
                        if !results::note(&self.record, &task) {
                            self.record.violation(format!("task {} was told as finished and is not", task.id));
                        }
                        return submitted;
                    }
                    // What became of it is looked for by the other clients.
                    Some(Answer::Expired(_)) => return submitted,
                    None => {}
                }
            }
        }
        submitted
    }

    /// Submits until it is answered.
    async fn submit(&self, spec: &v1::TaskSpec) -> v1::SubmitResult {
        if self.below(4) == 0
            && let Some(result) = self.submit_and_wait(spec).await
        {
            return result;
        }
        loop {
            let request = v1::SubmitRequest { tasks: vec![spec.clone()] };
            let answer = self.call(self.any(), async |mut fleet| fleet.submit(request).await).await;
            match answer.map(|mut response| response.results.pop()) {
                Ok(Some(result)) if result.refusal.is_none() => return result,
                Ok(result) => self.record.violation(format!("task {} was refused: {result:?}", spec.id)),
                Err(status) if status.code() == Code::InvalidArgument => {
                    self.record.violation(format!("task {} was refused: {status}", spec.id));
                }
                Err(_) => {}
            }
            self.pause(Duration::from_millis(200)).await;
        }
    }

    async fn submit_one(&self) -> String {
        let spec = self.new_task();
        let first = self.submit(&spec).await;
        if first.task_id != spec.id {
            self.record.violation(format!("task {} was accepted as {}", spec.id, first.task_id));
        }
        self.record.notes().accepted.entry(spec.id.clone()).or_default();
        if self.below(6) == 0 {
            let second = self.submit(&spec).await;
            if !second.existing || second.task_id != spec.id {
                self.record.violation(format!("task {} was accepted twice: {second:?}", spec.id));
            }
        }
        if self.below(10) == 0 {
            self.pause(Duration::from_millis(500)).await;
            if let Some(accepted) = self.record.notes().accepted.get_mut(&spec.id) {
                accepted.cancelled = true;
            }
            let request = v1::CancelTasksRequest { ids: vec![spec.id.clone()], reason: "simulated".to_owned() };
            // Whether it went through shows when the task is read.
            drop(self.call(self.any(), async |mut fleet| fleet.cancel_tasks(request).await).await);
        }
        spec.id
    }

    /// Reads a task and compares it with what is known: whether it was read, and is finished.
    async fn look(&self, id: &str, coordinator: usize, consistency: v1::Consistency) -> bool {
        let request = v1::GetTaskRequest { id: id.to_owned(), include_input: false, consistency: consistency.into() };
        let task = match self.call(coordinator, async |mut fleet| fleet.get_task(request).await).await {
            Ok(task) => task,
            Err(status) if status.code() == Code::NotFound && consistency == v1::Consistency::Linearizable => {
                self.record.violation(format!("task {id} was accepted and is not there: {status}"));
                return false;
            }
            Err(_) => return false,
        };
        results::note(&self.record, &task)
    }

    /// Does all of it; returns when every task is finished, and every coordinator says so.
    pub async fn run(self) {
        let apart = self.during / self.tasks as u32;
        let mut ids = Vec::new();
        for _ in 0..self.tasks {
            self.pause(apart * 2).await;
            ids.push(self.submit_one().await);
            if self.below(3) == 0 {
                let id = &ids[self.below(ids.len() as u64) as usize];
                self.look(id, self.any(), v1::Consistency::Linearizable).await;
            }
        }
        for id in &ids {
            while !self.look(id, self.any(), v1::Consistency::Linearizable).await {
                self.pause(Duration::from_millis(400)).await;
            }
        }
        for coordinator in 0..self.coordinators.len() {
            for id in &ids {
                while !self.look(id, coordinator, v1::Consistency::Local).await {
                    self.pause(Duration::from_millis(400)).await;
                }
            }
        }
    }
}
