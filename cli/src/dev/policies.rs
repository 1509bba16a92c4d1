//! Sets the policies of the manifest, once the coordinators can take them.

use std::time::Duration;

use robeing_client::{ClientError, FleetClient, Security, Settings};
use robeing_proto::v1::SetPoliciesRequest;
use tokio::{sync::broadcast, task::JoinHandle, time::sleep};
use tonic::Code;

use super::event::DevEvent;

/// How long a call may take.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before another try.
pub(super) const RETRY: Duration = Duration::from_millis(250);

/// Sets policies in the background until it is dropped.
#[derive(Debug)]
pub struct PolicySetter(JoinHandle<()>);

impl PolicySetter {
    /// Starts to set these policies, in place of those that the fleet may have from an earlier run. An event tells when
    /// they are in force, if there are any.
    pub fn start(
        endpoints: Vec<String>,
        security: Security,
        request: SetPoliciesRequest,
        events: broadcast::Sender<DevEvent>,
    ) -> Self {
        Self(tokio::spawn(async move {
            let event = match set(&endpoints, security, &request).await {
                Ok(()) if request.policies.is_empty() => return,
                Ok(()) => DevEvent::PoliciesSet { count: request.policies.len() },
                Err(error) => DevEvent::PoliciesRefused { problem: error.to_string() },
            };
            // Nobody may be watching.
            let _ = events.send(event);
        }))
    }
}

impl Drop for PolicySetter {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn set(endpoints: &[String], security: Security, request: &SetPoliciesRequest) -> Result<(), ClientError> {
    let settings = Settings { connect_timeout: CALL_TIMEOUT, request_timeout: CALL_TIMEOUT, security };
    let client = FleetClient::new(endpoints, settings)?;
    loop {
        match client.set_policies(request.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if may_pass(&error) => sleep(RETRY).await,
            Err(error) => return Err(error),
        }
    }
}

/// Returns whether the coordinators may take something later: when they have started, and all of them know such things.
pub(super) fn may_pass(error: &ClientError) -> bool {
    match error {
        ClientError::Refused { code, .. } => *code == Code::FailedPrecondition,
        error => matches!(error, ClientError::Unreachable { .. } | ClientError::Unavailable { .. }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_fleet_refuses_only_at_first_is_tried_again() {
        let refused = |code| ClientError::Refused { code, message: String::new() };
        assert!(may_pass(&refused(Code::FailedPrecondition)));
        assert!(may_pass(&ClientError::Unreachable { endpoints: String::new(), cause: String::new() }));
        assert!(!may_pass(&refused(Code::InvalidArgument)) && !may_pass(&refused(Code::PermissionDenied)));
    }
}
