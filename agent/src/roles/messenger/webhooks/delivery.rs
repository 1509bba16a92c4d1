//! Delivers an event to its webhook: until it is accepted, or it is too late.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT},
};
use http_body_util::Full;
use robeing_platform::{Platform, jittered};
use tokio::{sync::Semaphore, time::timeout};
use tracing::{debug, warn};

use super::{ANSWER_WITHIN, GIVE_UP_AFTER, PAUSES, WebhookMetrics, config::Webhook, event::Event};
use crate::{
    executor::http::{retry_after, unreachable},
    roles::messenger::gateway::cloudevents::EVENT,
};

/// What became of a request.
enum Sent {
    Accepted,
    /// It failed; the webhook may say when to come back.
    Failed(String, Option<Duration>),
    /// The webhook wants no more of it.
    Gone,
}

/// Sends events to one webhook.
pub struct Delivery {
    pub webhook: Webhook,
    pub platform: Platform,
    pub metrics: WebhookMetrics,
    /// Room for requests at once.
    pub room: Semaphore,
}

impl Delivery {
    /// Delivers an event, or gives it up.
    pub async fn deliver(&self, event: &Event) {
        let name = &self.webhook.name;
        let mut pause = PAUSES.0;
        loop {
            let sent = match self.room.acquire().await {
                Ok(_permit) => self.send(event).await,
                Err(_) => return,
            };
            let (why, wanted) = match sent {
                Sent::Accepted => {
                    WebhookMetrics::count(&self.metrics.delivered, name);
                    return;
                }
                Sent::Gone => ("it answered 410 Gone".to_owned(), None),
                Sent::Failed(why, wanted) => {
                    WebhookMetrics::count(&self.metrics.failed, name);
                    let wanted = wanted.unwrap_or_default().min(PAUSES.1);
                    let paused = jittered(&*self.platform.random, pause).max(wanted);
                    if self.is_late(event, paused) {
                        (why, None)
                    } else {
                        debug!(webhook = name, task = event.id, why, "an event is not delivered yet");
                        (why, Some(paused))
                    }
                }
            };
            let Some(paused) = wanted else {
                WebhookMetrics::count(&self.metrics.given_up, name);
                warn!(webhook = name, task = event.id, why, "an event was never delivered");
                return;
            };
            tokio::time::sleep(paused).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Returns whether it will be too late for the event after a pause.
    fn is_late(&self, event: &Event, pause: Duration) -> bool {
        let age = self.platform.clock.unix_millis().saturating_sub(event.ended_at);
        Duration::from_millis(age).saturating_add(pause) > GIVE_UP_AFTER
    }

    async fn send(&self, event: &Event) -> Sent {
        let target = &self.webhook.target;
        match timeout(ANSWER_WITHIN, self.webhook.transport.send(self.request(event), drop)).await {
            Err(_) => Sent::Failed(format!("no answer within {} s", ANSWER_WITHIN.as_secs()), None),
            Ok(Err(error)) => Sent::Failed(unreachable(target.shown(), &error), None),
            // The body is not read.
            Ok(Ok(answer)) => match answer.status() {
                status if status.is_success() => Sent::Accepted,
                StatusCode::GONE => Sent::Gone,
                status => {
                    let wanted = retry_after(answer.headers(), SystemTime::now());
                    Sent::Failed(format!("{} answered {status}", target.shown()), wanted)
                }
            },
        }
    }

    fn request(&self, event: &Event) -> Request<Full<Bytes>> {
        let at = self.platform.clock.unix_millis() / 1_000;
        let mut request = Request::new(Full::new(event.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.webhook.target.uri().clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_LENGTH, event.body.len().into());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("robeing/", env!("CARGO_PKG_VERSION"))));
        if let Some(authorization) = self.webhook.target.authorization() {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let signature = event.signature(&self.webhook.key, at);
        for (name, value) in
            [("webhook-id", event.id.clone()), ("webhook-timestamp", at.to_string()), ("webhook-signature", signature)]
        {
            // Ids, numbers and base64 have no characters that a header can't have.
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        request
    }
}
