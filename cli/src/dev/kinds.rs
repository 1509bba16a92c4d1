//! Sets what the manifest says of kinds of tasks, once the coordinators can take it.

use std::time::Duration;

use robeing_client::{ClientError, FleetClient, Security, Settings};
use robeing_crds::{Role, TaskKind, TaskKindRetry};
use robeing_proto::v1::{self, SetTaskKindsRequest};
use tokio::{sync::broadcast, task::JoinHandle, time::sleep};

use super::{
    event::DevEvent,
    policies::{CALL_TIMEOUT, RETRY, may_pass},
};

/// Pause before kinds that were refused are sent again. Each refusal is a record in the fleet's audit log.
const REFUSED_RETRY: Duration = Duration::from_secs(10);

/// Returns the kinds as coordinators take them.
pub fn request(kinds: &[TaskKind]) -> SetTaskKindsRequest {
    SetTaskKindsRequest { kinds: kinds.iter().map(kind).collect() }
}

/// Returns a time in the coordinators' unit: what is less than a millisecond does not count. The schema takes no time that
/// is too long for the protocol.
pub(super) fn whole_millis(time: robeing_crds::Duration) -> Option<prost_types::Duration> {
    Duration::from_millis(u64::try_from(time.get().as_millis()).ok()?).try_into().ok()
}

/// Returns a role, or that there is none, as coordinators take it.
pub(super) fn role(role: Option<Role>) -> v1::Role {
    match role {
        None => v1::Role::Unspecified,
        Some(Role::Worker) => v1::Role::Worker,
        Some(Role::Specialist) => v1::Role::Specialist,
        Some(Role::Messenger) => v1::Role::Messenger,
        Some(Role::Guardian) => v1::Role::Guardian,
    }
}

fn kind(kind: &TaskKind) -> v1::TaskKind {
    let amounts = kind.resources.as_ref().map(|resources| resources.amounts());
    v1::TaskKind {
        name: kind.name.clone(),
        role: role(kind.role).into(),
        skills: kind.skills.clone(),
        slots: kind.slots,
        resources: amounts.map(|amounts| v1::ResourceAmounts {
            cpu_millis: amounts.cpu.unwrap_or(0),
            memory_bytes: amounts.memory.unwrap_or(0),
            storage_bytes: amounts.storage.unwrap_or(0),
            bandwidth_bits_per_second: amounts.bandwidth.unwrap_or(0),
        }),
        queue: kind.queue.clone().unwrap_or_default(),
        deadline_in: kind.deadline.and_then(whole_millis),
        attempt_timeout: kind.attempt_timeout.and_then(whole_millis),
        retry: kind.retry.as_ref().map(retry),
        queue_expiry: kind.queue_expiry.and_then(whole_millis),
        progress_timeout: kind.progress_timeout.and_then(whole_millis),
    }
}

fn retry(retry: &TaskKindRetry) -> v1::RetryPolicy {
    v1::RetryPolicy {
        max_attempts: retry.max_attempts.unwrap_or(0),
        initial_backoff: retry.initial_backoff.and_then(whole_millis),
        max_backoff: retry.max_backoff.and_then(whole_millis),
        multiplier_percent: retry.multiplier_percent.unwrap_or(0),
        jitter_percent: retry.jitter_percent.unwrap_or(0),
        ..v1::RetryPolicy::default()
    }
}

/// Sets kinds in the background until it is dropped.
#[derive(Debug)]
pub struct KindSetter(JoinHandle<()>);

impl KindSetter {
    /// Starts to set these kinds, in place of those that the fleet may have from an earlier run. An event tells when they
    /// are in force, if there are any, and why they are not.
    pub fn start(
        endpoints: Vec<String>,
        security: Security,
        request: SetTaskKindsRequest,
        events: broadcast::Sender<DevEvent>,
    ) -> Self {
        Self(tokio::spawn(keep_setting(endpoints, security, request, events)))
    }
}

impl Drop for KindSetter {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sets kinds until they are in force: a queue that one of them names may be set after the fleet has started. Each other
/// reason for a refusal is an event.
async fn keep_setting(
    endpoints: Vec<String>,
    security: Security,
    request: SetTaskKindsRequest,
    events: broadcast::Sender<DevEvent>,
) {
    let mut told = None;
    loop {
        let problem = match set(&endpoints, security.clone(), &request).await {
            Ok(()) if request.kinds.is_empty() => return,
            Ok(()) => {
                // Nobody may be watching.
                let _ = events.send(DevEvent::KindsSet { count: request.kinds.len() });
                return;
            }
            Err(error) => error.to_string(),
        };
        if told.as_ref() != Some(&problem) {
            let _ = events.send(DevEvent::KindsRefused { problem: problem.clone() });
            told = Some(problem);
        }
        sleep(REFUSED_RETRY).await;
    }
}

async fn set(endpoints: &[String], security: Security, request: &SetTaskKindsRequest) -> Result<(), ClientError> {
    let settings = Settings { connect_timeout: CALL_TIMEOUT, request_timeout: CALL_TIMEOUT, security };
    let client = FleetClient::new(endpoints, settings)?;
    loop {
        match client.set_task_kinds(request.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if may_pass(&error) => sleep(RETRY).await,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use robeing_crds::parse_manifest;

    use super::*;

    #[test]
    fn kinds_are_set_in_the_coordinators_units() {
        let manifest = "
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: f}
spec:
  taskKinds:
  - {name: plain}
  - name: whole
    role: Guardian
    skills: [ocr]
    slots: 2
    resources: {cpu: 500m, memory: 1Gi}
    queue: batch
    deadline: 1m
    attemptTimeout: 1.5ms
    retry: {maxAttempts: 3, initialBackoff: 0s}
";
        let cluster = parse_manifest(manifest).unwrap_or_else(|error| panic!("{error}"));
        let plain = v1::TaskKind { name: "plain".into(), slots: 1, ..v1::TaskKind::default() };
        let amounts = v1::ResourceAmounts { cpu_millis: 500, memory_bytes: 1 << 30, ..v1::ResourceAmounts::default() };
        let millis = |nanos| Some(prost_types::Duration { seconds: 0, nanos });
        let whole = v1::TaskKind {
            name: "whole".into(),
            role: v1::Role::Guardian.into(),
            skills: vec!["ocr".into()],
            slots: 2,
            resources: Some(amounts),
            queue: "batch".into(),
            deadline_in: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            attempt_timeout: millis(1_000_000),
            retry: Some(v1::RetryPolicy { max_attempts: 3, initial_backoff: millis(0), ..v1::RetryPolicy::default() }),
            ..v1::TaskKind::default()
        };
        assert_eq!(request(&cluster.spec.task_kinds).kinds, [plain, whole]);
    }
}
