//! Sets the manifest's kinds of tasks, once the coordinators can take them.

use std::time::Duration;

use robeing_client::{ClientError, FleetClient, Security, Settings};
use robeing_crds::TaskKind;
use robeing_proto::v1::SetTaskKindsRequest;
use tokio::{sync::broadcast, task::JoinHandle, time::sleep};

use super::{
    event::DevEvent,
    policies::{CALL_TIMEOUT, RETRY, may_pass},
};

/// Pause before kinds that were refused are sent again. Each refusal is a record in the fleet's audit log.
const REFUSED_RETRY: Duration = Duration::from_secs(10);

/// Returns the kinds as coordinators take them.
pub fn request(kinds: &[TaskKind]) -> SetTaskKindsRequest {
    SetTaskKindsRequest { kinds: kinds.iter().map(Into::into).collect() }
}

/// Sets kinds in the background until it is dropped.
#[derive(Debug)]
pub struct KindSetter(JoinHandle<()>);

impl KindSetter {
    /// Starts to set these kinds, in place of those that the fleet may have from an earlier run. An event reports when they
    /// are in force, if there are any, or why they are not.
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
    let mut reported = None;
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
        if reported.as_ref() != Some(&problem) {
            let _ = events.send(DevEvent::KindsRefused { problem: problem.clone() });
            reported = Some(problem);
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
    use robeing_proto::v1;

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
    agents: 3
    splitter: {by: Chunks}
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
            agents: 3,
            splitter: Some(v1::Splitter {
                by: v1::SplitBy::Chunks.into(),
                join: v1::Join::All.into(),
                ..v1::Splitter::default()
            }),
            retry: Some(v1::RetryPolicy { max_attempts: 3, initial_backoff: millis(0), ..v1::RetryPolicy::default() }),
            ..v1::TaskKind::default()
        };
        assert_eq!(request(&cluster.spec.task_kinds).kinds, [plain, whole]);
    }
}
