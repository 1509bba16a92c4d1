//! Submitters: they submit, submit again, cancel and read through any coordinator, and check the responses.

use std::{future::Future, rc::Rc, sync::Arc, time::Duration};

use robeing_net::{Transport, limited};
use robeing_platform::{Platform, Random};
use robeing_proto::v1::{self, fleet_client::FleetClient, streamed_answer::Answer as Streamed};
use robeing_settings::AgentRole;
use tokio::task::JoinSet;
use tonic::{Code, Response, Status, transport::Channel};

use crate::{
    checks::Check,
    history::{Answer, Op, Seen},
    plan::Pulse,
    record::Record,
    results,
    tasks::{self, Mix},
};

/// The timeout of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// The timeout of the next response on a stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);
/// The page size of listings.
const PAGE: u32 = 1_000;

/// A submitter.
pub struct Submitter {
    /// Its name.
    pub name: String,
    /// Its platform.
    pub platform: Platform,
    /// The addresses of the coordinators.
    pub coordinators: Vec<String>,
    /// The number of tasks that it submits.
    pub tasks: usize,
    /// The times at which it submits additional tasks.
    pub pulses: Rc<[Pulse]>,
    /// The number of additional tasks at each of these times.
    pub pulse: usize,
    /// The mix of its tasks.
    pub mix: Mix,
    /// A role that the last agent has.
    pub odd_role: AgentRole,
    /// The time over which the submissions are spread.
    pub during: Duration,
    /// The record of the run.
    pub record: Record,
}

/// Returns a random number below `bound`, which must not be 0.
pub fn below(random: &dyn Random, bound: u64) -> u64 {
    random.next_u64() % bound
}

fn refusal(refusal: &v1::Refusal) -> Answer {
    if refusal.code == "ALREADY_EXISTS" { Answer::Conflict } else { Answer::Refused }
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
        limited!(FleetClient::new(channel))
    }

    /// Makes one call on a connection of its own.
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

    /// Records that a submission begins; returns the number of the call.
    fn submits(&self, spec: &v1::TaskSpec) -> usize {
        let key = (!spec.idempotency_key.is_empty()).then(|| spec.idempotency_key.clone());
        if let Some(delay) = spec.delay.and_then(|delay| Duration::try_from(delay).ok()) {
            let mut notes = self.record.notes();
            let not_before = notes.now + delay.mul_f64(0.95);
            notes.not_before.entry(spec.id.clone()).or_insert(not_before);
        }
        self.record.notes().ask(spec);
        let content = crc32c::crc32c_append(crc32c::crc32c(spec.kind.as_bytes()), &spec.input);
        self.record.asked(Op::Submit { id: spec.id.clone(), key, content })
    }

    /// Records the response to a submission.
    fn submitted(&self, call: usize, result: &v1::SubmitResult) {
        let answer = match &result.refusal {
            Some(refused) => refusal(refused),
            None if result.existing => Answer::Existing(result.task_id.clone()),
            None => Answer::New,
        };
        self.record.answered(call, answer);
        if result.refusal.is_none() {
            self.record.notes().accepted.entry(result.task_id.clone()).or_default();
        }
    }

    /// Submits on a stream and waits there for the result while the stream lasts; returns the response to the
    /// submission.
    async fn submit_and_wait(&self, spec: &v1::TaskSpec) -> Option<v1::SubmitResult> {
        let task = v1::StreamedTask { tag: 1, task: Some(spec.clone()), wait: true };
        // The request side ends here, but the response side stays open until the result is reported.
        let request = futures::stream::iter([v1::SubmitStreamRequest { tasks: vec![task] }]);
        let call = self.submits(spec);
        let stream = self.call(self.any(), async |mut fleet| fleet.submit_stream(request).await).await;
        let mut stream = stream.ok()?;
        let mut submitted = None;
        while let Ok(Ok(Some(response))) = tokio::time::timeout(STREAM_TIMEOUT, stream.message()).await {
            for answer in response.answers {
                match answer.answer {
                    Some(Streamed::Submitted(result)) => {
                        self.submitted(call, &result);
                        if result.refusal.is_some() {
                            return None;
                        }
                        submitted = Some(result);
                    }
                    Some(Streamed::Finished(task)) if submitted.is_none() => {
                        let what = format!("task {} finished before it was accepted", task.id);
                        self.record.violation(Check::Told, what);
                    }
                    Some(Streamed::Finished(task)) => {
                        if !results::note(&self.record, &task) {
                            let what = format!("task {} was reported as finished but is not", task.id);
                            self.record.violation(Check::Told, what);
                        }
                        return submitted;
                    }
                    // The other clients check what became of the task.
                    Some(Streamed::Expired(_)) => return submitted,
                    None => {}
                }
            }
        }
        submitted
    }

    /// Makes one submission; returns its result if there is a response.
    async fn submit_once(&self, spec: &v1::TaskSpec) -> Option<v1::SubmitResult> {
        let request = v1::SubmitRequest { tasks: vec![spec.clone()] };
        let call = self.submits(spec);
        match self.call(self.any(), async |mut fleet| fleet.submit(request).await).await {
            Ok(mut response) => {
                let result = response.results.pop()?;
                self.submitted(call, &result);
                Some(result)
            }
            Err(status) => {
                if status.code() == Code::InvalidArgument {
                    self.record.violation(Check::Refused, format!("task {} was refused: {status}", spec.id));
                }
                None
            }
        }
    }

    /// Submits a task until it is accepted.
    async fn submit(&self, spec: &v1::TaskSpec) -> v1::SubmitResult {
        if self.below(4) == 0
            && let Some(result) = self.submit_and_wait(spec).await
        {
            return result;
        }
        loop {
            match self.submit_once(spec).await {
                Some(result) if result.refusal.is_none() => return result,
                // The coordinators have not agreed on the version yet that has this.
                Some(v1::SubmitResult { refusal: Some(refused), .. })
                    if spec.slots > 1 && refused.code == "FAILED_PRECONDITION" => {}
                Some(v1::SubmitResult { refusal: Some(refused), .. }) if refused.code != "RESOURCE_EXHAUSTED" => {
                    self.record.violation(Check::Refused, format!("task {} was refused: {refused:?}", spec.id));
                }
                _ => {}
            }
            self.pause(Duration::from_millis(200)).await;
        }
    }

    /// Submits a task, and may read it, submit it again or cancel it.
    async fn submit_one(&self, spec: &v1::TaskSpec, may_cancel: bool) {
        let first = self.submit(spec).await;
        if first.task_id != spec.id {
            self.record.violation(Check::Refused, format!("task {} was accepted as {}", spec.id, first.task_id));
        }
        // Read at once, mostly through another coordinator: the task must exist.
        if self.below(self.mix.read_one_of) == 0 {
            self.look(&spec.id, self.any(), v1::Consistency::Linearizable).await;
        }
        if self.below(6) == 0 {
            self.submit_again(spec).await;
        }
        if may_cancel && self.below(self.mix.cancel_one_of) == 0 {
            self.pause(Duration::from_millis(self.mix.cancel_within)).await;
            self.cancel(&spec.id).await;
        }
        if self.below(3) == 0 {
            self.pause(Duration::from_secs(1)).await;
            self.look(&spec.id, self.any(), v1::Consistency::Linearizable).await;
        }
    }

    /// Submits an accepted task once more: unchanged, under its key with a new id, or with other content.
    async fn submit_again(&self, spec: &v1::TaskSpec) {
        let mut again = spec.clone();
        match self.below(3) {
            0 if !spec.idempotency_key.is_empty() => again.id = tasks::new_id(&self.platform),
            1 => again.input = b"succeed 1 and is another task".to_vec().into(),
            _ => {}
        }
        let conflict = again.input != spec.input;
        let second = if conflict { self.submit_once(&again).await } else { Some(self.submit(&again).await) };
        let Some(second) = second else { return };
        let fine = match (&second.refusal, conflict) {
            (Some(refused), true) => ["ALREADY_EXISTS", "RESOURCE_EXHAUSTED"].contains(&refused.code.as_str()),
            (None, false) => second.existing && second.task_id == spec.id,
            _ => false,
        };
        if !fine {
            self.record.violation(Check::Refused, format!("task {} was accepted twice: {second:?}", spec.id));
        }
    }

    async fn cancel(&self, id: &str) {
        if let Some(accepted) = self.record.notes().accepted.get_mut(id) {
            accepted.cancelled = true;
        }
        let request = v1::CancelTasksRequest { ids: vec![id.to_owned()], reason: "simulated".to_owned(), wait: None };
        let call = self.record.asked(Op::Cancel(id.to_owned()));
        let answer = self.call(self.any(), async |mut fleet| fleet.cancel_tasks(request).await).await;
        let Some(result) = answer.ok().and_then(|mut response| response.results.pop()) else { return };
        let answer = match &result.refusal {
            Some(refused) if refused.code == "NOT_FOUND" => Answer::NotFound,
            Some(_) => Answer::Refused,
            None => Answer::Ended(result.state()),
        };
        self.record.answered(call, answer);
    }

    /// Reads a task and compares it with the record. Returns whether it was read and is finished, or is forgotten by
    /// now.
    async fn look(&self, id: &str, coordinator: usize, consistency: v1::Consistency) -> bool {
        let read = v1::GetTaskRequest { id: id.to_owned(), ..v1::GetTaskRequest::default() };
        let request = v1::GetTaskRequest { consistency: consistency.into(), ..read };
        let linearizable = consistency == v1::Consistency::Linearizable;
        let since = self.record.notes().now;
        let call = linearizable.then(|| self.record.asked(Op::Get(id.to_owned())));
        let told = |answer| {
            if let Some(call) = call {
                self.record.answered(call, answer);
            }
        };
        match self.call(coordinator, async |mut fleet| fleet.get_task(request).await).await {
            Ok(task) => {
                told(Answer::Found(Seen::of(&task)));
                results::note(&self.record, &task)
            }
            Err(status) if status.code() == Code::NotFound => {
                told(Answer::NotFound);
                self.record.notes().check_forgotten(id, since);
                let fleeting = self.record.notes().fleeting.contains(id);
                if linearizable && !fleeting {
                    let what = format!("task {id} was accepted but does not exist: {status}");
                    self.record.violation(Check::Lost, what);
                }
                fleeting
            }
            Err(_) => false,
        }
    }

    /// Lists all tasks.
    async fn list(&self) {
        let request = v1::ListTasksRequest { page_size: PAGE, ..v1::ListTasksRequest::default() };
        let call = self.record.asked(Op::List);
        let answer = self.call(self.any(), async |mut fleet| fleet.list_tasks(request).await).await;
        if let Ok(page) = answer
            && page.next_page_token.is_empty()
        {
            let all = page.tasks.iter().map(|task| (task.id.clone(), Seen::of(task))).collect();
            self.record.answered(call, Answer::All(all));
        }
    }

    /// Submits a task whose result is kept only for a moment, and, once it is forgotten, another one with its id.
    async fn use_an_id_twice(self: Rc<Self>) -> Option<String> {
        let spec = self.mix.fleeting(&self.platform, &self.name);
        {
            let mut notes = self.record.notes();
            notes.fleeting.insert(spec.id.clone());
            let ttl = spec.result_ttl.and_then(|ttl| Duration::try_from(ttl).ok());
            notes.ttl.insert(spec.id.clone(), ttl.unwrap_or_default());
        }
        for _ in 0..2 {
            self.submit(&spec).await;
            self.pause(Duration::from_millis(2_500)).await;
            self.look(&spec.id, self.any(), v1::Consistency::Linearizable).await;
        }
        None
    }

    /// Runs through the life of one task until it is finished, and returns its id.
    async fn activity(self: Rc<Self>, spec: v1::TaskSpec, may_cancel: bool) -> Option<String> {
        self.submit_one(&spec, may_cancel).await;
        if self.below(8) == 0 {
            self.list().await;
        }
        while !self.look(&spec.id, self.any(), v1::Consistency::Linearizable).await {
            self.pause(Duration::from_millis(2_500)).await;
        }
        Some(spec.id)
    }

    /// Runs the submitter, with all tasks concurrently, so that none waits for calls without a response. Returns when
    /// every task is finished, and every coordinator reports it.
    pub async fn run(self) {
        let submitter = Rc::new(self);
        let apart = submitter.during / submitter.tasks as u32;
        let burst = submitter.below(submitter.tasks as u64) as usize;
        let mut activities = JoinSet::new();
        for pulse in &*submitter.pulses {
            for _ in 0..submitter.pulse {
                let (submitter, pulse) = (Rc::clone(&submitter), *pulse);
                activities.spawn_local(async move {
                    tokio::time::sleep(pulse.at).await;
                    let spec = Mix::urgent(&submitter.platform, &submitter.name, pulse.lasts);
                    submitter.activity(spec, false).await
                });
            }
        }
        for n in 0..submitter.tasks {
            // Sometimes many at once, so that there is a queue.
            if !(burst..burst + submitter.tasks / 3).contains(&n) {
                submitter.pause(apart * 3).await;
            }
            let spec = submitter.mix.task(&submitter.platform, &submitter.name, submitter.odd_role);
            activities.spawn_local(Rc::clone(&submitter).activity(spec, true));
            if submitter.mix.is_fleeting && submitter.below(8) == 0 {
                activities.spawn_local(Rc::clone(&submitter).use_an_id_twice());
            }
        }
        let ids: Rc<[String]> = activities.join_all().await.into_iter().flatten().collect();
        submitter.list().await;
        let mut readers = JoinSet::new();
        for coordinator in 0..submitter.coordinators.len() {
            let (submitter, ids) = (Rc::clone(&submitter), Rc::clone(&ids));
            readers.spawn_local(async move {
                for id in &*ids {
                    while !submitter.look(id, coordinator, v1::Consistency::Local).await {
                        submitter.pause(Duration::from_millis(400)).await;
                    }
                }
            });
        }
        readers.join_all().await;
    }
}
