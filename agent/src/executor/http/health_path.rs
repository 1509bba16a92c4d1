//! The health path: a URL of the server that the agent requests to check the server's health.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Uri, header::CONTENT_TYPE};
use http_body_util::Full;
use robeing_target::shown;

use super::{transport::Transport, trouble};
use crate::executor::Health;

/// How long the health path may take to answer before the agent joins the fleet.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// The server's health path.
pub(super) struct HealthPath {
    uri: Uri,
    headers: HeaderMap,
    transport: Arc<Transport>,
}

impl HealthPath {
    pub(super) fn new(uri: Uri, headers: &HeaderMap, transport: Arc<Transport>) -> Self {
        let mut headers = headers.clone();
        headers.remove(CONTENT_TYPE);
        Self { uri, headers, transport }
    }

    /// Returns its URL for display, without credentials and query.
    pub(super) fn shown(&self) -> String {
        shown(&self.uri)
    }

    /// Requests it. Has no timeout of its own.
    pub(super) async fn ask(&self) -> Health {
        let mut request = Request::new(Full::<Bytes>::default());
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().clone_from(&self.headers);
        let shown = self.shown();
        match self.transport.send(request, drop).await {
            Ok(answer) if answer.status().is_success() => Health::Healthy,
            Ok(answer) => Health::Unhealthy(format!("{shown} answered {}", answer.status())),
            Err(error) if error.is_connect() => Health::Silent(trouble::unreachable(&shown, &error)),
            Err(error) => Health::Silent(format!("the request to {shown} failed: {}", trouble::causes(&error))),
        }
    }

    /// Requests it within [`ASK_WITHIN`]; the error says why it did not answer 2xx.
    pub(super) async fn answers(&self) -> Result<(), String> {
        match tokio::time::timeout(ASK_WITHIN, self.ask()).await {
            Ok(Health::Healthy) => Ok(()),
            Ok(Health::Unhealthy(why) | Health::Silent(why) | Health::Failed(why)) => Err(why),
            Err(_) => {
                let within = humantime::format_duration(ASK_WITHIN);
                Err(format!("{} did not answer within {within}", self.shown()))
            }
        }
    }
}
