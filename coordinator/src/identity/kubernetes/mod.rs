//! Asks the API server of Kubernetes who a token is (TokenReview) and what its user may do with the fleet
//! (LocalSubjectAccessReview), as the service account of this process.
//!
//! A decision is remembered for a short time, and used for longer while the API server can't be asked; after that, the
//! question fails. The questions at one time are bounded, the same question is asked once at a time, and none is asked
//! while the API server does not answer. No token is logged or shown in an error.

mod cache;
mod circuit;
mod config;
mod credentials;
mod error;
mod flights;
pub(crate) mod messages;

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{
    Method, Request, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use robeing_identity::{
    digest,
    jwt::{LEEWAY_MS, MAX_TOKEN_BYTES, claimed_expiry},
};
use robeing_platform::{
    Platform,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tracing::{info, warn};

#[cfg(test)]
pub use self::cache::{ALLOWED_FOR, USED_IN_OUTAGE_FOR};
pub use self::{cache::Decision, config::KubernetesConfig, error::KubernetesError, messages::User};
use self::{
    cache::{DecisionCache, Key},
    circuit::Circuit,
    credentials::{Access, Credentials},
    flights::Flights,
    messages::{ACCESS_REVIEWS, TOKEN_REVIEWS},
};
use super::rights::Right;

/// Maximum number of questions that are asked at one time.
pub const MAX_CALLS: usize = 16;
/// Maximum size of an answer, bytes. The size of a question is bounded by that of a token or a user.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// The path of the questions who a token is.
const TOKEN_REVIEWS_PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// The decisions of one kind, with what is needed to have more made.
struct Decisions<T: Clone> {
    about: &'static str,
    cache: Mutex<DecisionCache<T>>,
    flights: Flights<Result<Decision<T>, KubernetesError>>,
    circuit: Mutex<Circuit<KubernetesError>>,
}

impl<T: Clone + Send + Sync + 'static> Decisions<T> {
    fn new(about: &'static str, config: &KubernetesConfig) -> Self {
        Self {
            about,
            cache: Mutex::new(DecisionCache::default()),
            flights: Flights::default(),
            circuit: Mutex::new(Circuit::new(config.call_timeout)),
        }
    }

    fn cache(&self) -> MutexGuard<'_, DecisionCache<T>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit<KubernetesError>> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the decision with this key, which `ask` has made if it is not known.
    async fn decide(
        &self,
        key: Key,
        ask: impl FnOnce() -> BoxFuture<'static, Result<Decision<T>, KubernetesError>>,
    ) -> Result<Decision<T>, KubernetesError> {
        if let Some(decision) = self.cache().fresh(&key, Instant::now()) {
            return Ok(decision);
        }
        let decided = match self.flights.join(key, ask) {
            Ok(flight) => flight.await,
            Err(flights::TooMany) => Err(KubernetesError::Overloaded),
        };
        match decided {
            Err(error) if error.is_outage() => self.cache().in_outage(&key, Instant::now()).ok_or(error),
            decided => decided,
        }
    }

    /// Notes what came of a question that was asked.
    fn note(&self, key: &Key, asked: &Result<Decision<T>, KubernetesError>) {
        if let Ok(decision) = asked {
            self.cache().insert(*key, decision.clone(), Instant::now());
        }
        match asked {
            // That one question is refused does not mean that others would be.
            Ok(_) | Err(KubernetesError::Refused { .. }) => {
                if self.circuit().succeeded() {
                    info!(about = self.about, "the API server of Kubernetes answers again");
                }
            }
            // It was not asked.
            Err(KubernetesError::NoTurn(_)) => {}
            Err(error) => {
                if self.circuit().failed(error.clone(), Instant::now()) {
                    warn!(about = self.about, %error, "the API server of Kubernetes is asked no more for a while");
                }
            }
        }
    }
}

struct Inner {
    config: KubernetesConfig,
    platform: Platform,
    credentials: Credentials,
    calls: Semaphore,
    tokens: Decisions<Arc<User>>,
    access: Decisions<()>,
}

/// Asks the API server of Kubernetes. Cheap to clone.
#[derive(Clone)]
pub struct Kubernetes {
    inner: Arc<Inner>,
}

impl Kubernetes {
    /// Creates the client. Nothing is read or asked yet.
    pub fn new(platform: Platform, config: KubernetesConfig) -> Self {
        let inner = Inner {
            credentials: Credentials::new(platform.clone(), &config),
            platform,
            calls: Semaphore::new(MAX_CALLS),
            tokens: Decisions::new(TOKEN_REVIEWS, &config),
            access: Decisions::new(ACCESS_REVIEWS, &config),
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Asks who a token is, which must be made for the audience [`messages::AUDIENCE`]. The decision is at most
    /// [`cache::USED_IN_OUTAGE_FOR`] old, and not used after the token has expired.
    ///
    /// # Errors
    /// If the API server gives no answer. Then the token must be refused.
    pub async fn authenticate(&self, token: &str) -> Result<Decision<Arc<User>>, KubernetesError> {
        let token = token.trim();
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Ok(Decision::Denied(format!("a token has 1 to {MAX_TOKEN_BYTES} bytes")));
        }
        let now = self.inner.platform.clock.unix_millis();
        if claimed_expiry(token).is_some_and(|expires| now >= expires.saturating_add(LEEWAY_MS)) {
            return Ok(Decision::Denied("the token has expired: request another one".into()));
        }
        let key = digest(token.as_bytes());
        let ask = || {
            let (inner, question) = (Arc::clone(&self.inner), messages::token_review(token));
            async move { inner.ask(&inner.tokens, key, TOKEN_REVIEWS_PATH, question, messages::reviewed).await }.boxed()
        };
        self.inner.tokens.decide(key, ask).await
    }

    /// Asks whether a user has a right with the fleet. The decision is at most [`cache::USED_IN_OUTAGE_FOR`] old.
    ///
    /// # Errors
    /// If the API server gives no answer. Then the user must be refused.
    pub async fn authorize(&self, user: &User, right: Right) -> Result<Decision<()>, KubernetesError> {
        if !user.is_bounded() {
            return Ok(messages::too_much_known());
        }
        let KubernetesConfig { namespace, cluster, .. } = &self.inner.config;
        let question = messages::access_review(user, right, namespace, cluster);
        let key = digest(question.as_bytes());
        let ask = || {
            let inner = Arc::clone(&self.inner);
            let path = format!("/apis/authorization.k8s.io/v1/namespaces/{namespace}/localsubjectaccessreviews");
            async move { inner.ask(&inner.access, key, &path, question, messages::accessed).await }.boxed()
        };
        self.inner.access.decide(key, ask).await
    }
}

impl Inner {
    /// Asks a question, unless the API server does not answer those of its kind, and notes what comes of it. `read`
    /// reads the answer.
    async fn ask<T: Clone + Send + Sync + 'static>(
        &self,
        kind: &Decisions<T>,
        key: Key,
        path: &str,
        question: String,
        read: impl FnOnce(&[u8]) -> Result<Decision<T>, KubernetesError>,
    ) -> Result<Decision<T>, KubernetesError> {
        let admitted = kind.circuit().admit(Instant::now());
        let decided = match admitted {
            Err(error) => Err(error),
            Ok(()) => {
                let answer = self.call(kind.about, path, question.into()).await;
                let decided = answer.and_then(|answer| read(&answer));
                kind.note(&key, &decided);
                decided
            }
        };
        kind.flights.landed(&key);
        decided
    }

    /// Waits for a turn, and sends a request.
    async fn call(&self, about: &'static str, path: &str, body: Bytes) -> Result<Bytes, KubernetesError> {
        let within = self.config.call_timeout;
        let deadline = Instant::now() + within;
        // The semaphore is never closed.
        let turn = timeout_at(deadline, self.calls.acquire()).await;
        // Those before may all have had their turn until the deadline.
        let Some(Ok(_turn)) = turn.ok().filter(|_| Instant::now() < deadline) else {
            return Err(KubernetesError::NoTurn(within));
        };
        let access = self.credentials.current().await?;
        let mut response = send(&access, path, body.clone(), deadline).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(renewed) = self.credentials.renewed(&access).await
        {
            response = send(&renewed, path, body, deadline).await?;
        }
        match response.status() {
            status if status.is_success() => Ok(response.into_body()),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(KubernetesError::Failing(status))
            }
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(KubernetesError::NotGranted { about, status })
            }
            status => Err(KubernetesError::Refused { about, status }),
        }
    }
}

async fn send(access: &Access, path: &str, body: Bytes, deadline: Instant) -> Result<Response<Bytes>, KubernetesError> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(AUTHORIZATION, access.authorization.clone())
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/json");
    let about = "a request";
    // Only a namespace that is none can make it wrong.
    let request =
        request.body(body).map_err(|_| KubernetesError::Refused { about, status: StatusCode::BAD_REQUEST })?;
    let within = deadline.saturating_duration_since(Instant::now());
    Ok(access.client.send(request, MAX_BODY_BYTES, within).await?)
}

#[cfg(test)]
pub mod tests;
