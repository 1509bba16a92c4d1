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

    /// Requests it; a server that takes longer than `within` to answer is silent.
    pub(super) async fn ask(&self, within: Duration) -> Health {
        let shown = shown(&self.uri);
        let mut request = Request::new(Full::<Bytes>::default());
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().clone_from(&self.headers);
        match tokio::time::timeout(within, self.transport.send(request, drop)).await {
            Ok(Ok(answer)) if answer.status().is_success() => Health::Healthy,
            Ok(Ok(answer)) => Health::Unhealthy(format!("{shown} answered {}", answer.status())),
            Ok(Err(error)) if error.is_connect() => Health::Silent(trouble::unreachable(&shown, &error)),
            Ok(Err(error)) => Health::Silent(format!("the request to {shown} failed: {}", trouble::causes(&error))),
            Err(_) => Health::Silent(format!("{shown} did not answer within {}", humantime::format_duration(within))),
        }
    }

    /// Checks that it answers 2xx within [`ASK_WITHIN`], before the agent joins the fleet; the error gives the reason
    /// if it does not.
    pub(super) async fn answers(&self) -> Result<(), String> {
        match self.ask(ASK_WITHIN).await {
            Health::Healthy => Ok(()),
            Health::Unhealthy(why) | Health::Silent(why) | Health::Failed(why) => Err(why),
        }
    }
}
