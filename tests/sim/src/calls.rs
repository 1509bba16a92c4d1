//! The calls of a client to any coordinator. Some are given up before there is a response.

use std::{sync::Arc, time::Duration};

use robeing_net::{Transport, limited};
use robeing_platform::Platform;
use robeing_proto::v1::{self, fleet_client::FleetClient};
use tokio::time::{sleep, timeout};
use tonic::{Code, Response, Status, transport::Channel};

use crate::{checks::Check, clients::below, record::Record};

/// The timeout of a call, besides the time for which it waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// One of this many calls has a timeout of [`HASTY`], so that it mostly takes effect without a response.
const HASTY_ONE_OF: u64 = 8;
const HASTY: Duration = Duration::from_millis(30);
/// The longest pause before a call is repeated, in milliseconds.
pub const PAUSE: u64 = 300;

/// What a client needs to make calls.
#[derive(Clone)]
pub struct Calls {
    /// The client's name.
    pub name: String,
    /// Its platform.
    pub platform: Platform,
    /// The addresses of the coordinators.
    pub coordinators: Vec<String>,
    /// The time over which the client begins its activities.
    pub during: Duration,
    /// The record of the run.
    pub record: Record,
}

/// Returns whether a code says that a call was refused, which clients do not expect of most calls. After other codes it
/// is not known whether the call took effect, or it may take effect a little later.
pub fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::Internal
            | Code::DataLoss
    )
}

impl Calls {
    /// Returns a random number below `bound`, which must not be 0.
    pub fn below(&self, bound: u64) -> u64 {
        below(&*self.platform.random, bound)
    }

    /// Returns the simulated time.
    pub fn now(&self) -> Duration {
        self.record.notes().now
    }

    /// Waits for up to so many milliseconds.
    pub async fn pause(&self, most: u64) {
        sleep(Duration::from_millis(1 + self.below(most))).await;
    }

    /// Waits for a while before an activity begins.
    pub async fn pause_to_begin(&self) {
        self.pause(self.during.as_millis() as u64).await;
    }

    /// Waits until nothing but clocks is wrong with the fleet.
    pub async fn calm(&self) {
        let (calm_from, now) = {
            let notes = self.record.notes();
            (notes.calm_from, notes.now)
        };
        sleep(calm_from.saturating_sub(now)).await;
    }

    /// Returns the number of any coordinator.
    pub fn any(&self) -> usize {
        self.below(self.coordinators.len() as u64) as usize
    }

    /// Makes one call that may wait for so long.
    pub async fn call<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        coordinator: usize,
        wait: Duration,
        call: impl FnOnce(Channel) -> F,
    ) -> Result<T, Status> {
        let transport = Transport::new(Arc::clone(&self.platform.network));
        let address = &self.coordinators[coordinator];
        let channel = transport.channel(address).expect("the simulation's addresses are host:port");
        let within = wait + if self.below(HASTY_ONE_OF) == 0 { HASTY } else { CALL_TIMEOUT };
        match timeout(within, call(channel)).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer")),
        }
    }

    /// Makes one call to submit a task of this client. `NotFound`: its approval stands for nobody.
    pub async fn submit(&self, spec: &v1::TaskSpec) -> Result<(), Code> {
        self.submit_all(std::slice::from_ref(spec)).await
    }

    /// Makes one call to submit tasks of this client together. If it fails for one of them, others may be accepted.
    pub async fn submit_all(&self, specs: &[v1::TaskSpec]) -> Result<(), Code> {
        self.record.notes().others.extend(specs.iter().map(|spec| spec.id.clone()));
        let request = v1::SubmitRequest { tasks: specs.to_vec() };
        let submitting = self.call(self.any(), Duration::ZERO, async |channel| {
            limited!(FleetClient::new(channel)).submit(request).await
        });
        match submitting.await {
            Ok(response) => {
                let answers = specs.iter().zip(response.results);
                answers.map(|(spec, result)| self.accepted(spec, result.refusal)).fold(Ok(()), Result::and)
            }
            Err(status) => {
                let is_expected = !is_refusal(status.code()) || status.code() == Code::FailedPrecondition;
                if !is_expected {
                    let ids: Vec<&str> = specs.iter().map(|spec| spec.id.as_str()).collect();
                    self.record.violation(Check::Refused, format!("task {} was refused: {status}", ids.join(", ")));
                }
                Err(status.code())
            }
        }
    }

    /// Records whether a task is accepted.
    fn accepted(&self, spec: &v1::TaskSpec, refusal: Option<v1::Refusal>) -> Result<(), Code> {
        let Some(refusal) = refusal else {
            self.record.notes().accepted.entry(spec.id.clone()).or_default();
            return Ok(());
        };
        match refusal.code.as_str() {
            "NOT_FOUND" => Err(Code::NotFound),
            // There is no room now, or the coordinators have not agreed on the version yet that has this.
            "RESOURCE_EXHAUSTED" | "UNAVAILABLE" | "FAILED_PRECONDITION" => Err(Code::Unavailable),
            _ => {
                self.record.violation(Check::Refused, format!("task {} was refused: {refusal:?}", spec.id));
                Err(Code::InvalidArgument)
            }
        }
    }

    /// Reads a task that was accepted. `None`: there is no response.
    pub async fn task(&self, id: &str) -> Option<v1::Task> {
        let consistency = v1::Consistency::Linearizable.into();
        let request = v1::GetTaskRequest { id: id.to_owned(), consistency, ..v1::GetTaskRequest::default() };
        let reading = self.call(self.any(), Duration::ZERO, async |channel| {
            limited!(FleetClient::new(channel)).get_task(request).await
        });
        match reading.await {
            Ok(task) => Some(task),
            Err(status) => {
                if is_refusal(status.code()) {
                    self.record.violation(Check::Lost, format!("task {id} was accepted, but can't be read: {status}"));
                }
                None
            }
        }
    }
}
