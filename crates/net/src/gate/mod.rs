//! Decides about every call before its service sees it.

mod ongoing;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Extensions, HeaderMap, Request, Response};
use robeing_identity::{PeerRole, SpiffeId};
use tonic::{Code, Status, async_trait, service::Routes};
use tower::{Layer, Service};

use self::ongoing::Watched;
pub use self::ongoing::{Ongoing, WeakOngoing};
use crate::{ConnectInfo, security::PeerIdentity};

/// The header with which a messenger states that it calls on behalf of a client: the name in the certificate with which
/// the client has connected to the messenger. Coordinators accept it from messengers alone.
pub const ON_BEHALF_OF: &str = "robeing-on-behalf-of";

/// The header of an answer with the code of its status.
const STATUS: &str = "grpc-status";

/// Who made a call that was admitted. Services find it in the extensions of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Someone on a connection without TLS, which is trusted.
    Plaintext,
    /// Someone without a certificate or token.
    Anonymous,
    /// A member of this fleet, by its certificate.
    Member(Arc<PeerIdentity>),
    /// A person or program, by a token.
    User(Arc<TokenUser>),
}

/// A person or program, as whoever has verified its token knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenUser {
    /// The name.
    pub name: String,
    /// The uid; empty if it has none.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// What else is known.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Caller {
    /// Returns a user of whom only this name is known.
    pub fn user(name: impl Into<String>) -> Self {
        Self::User(Arc::new(TokenUser { name: name.into(), ..TokenUser::default() }))
    }

    /// Returns who made the call of a request with these extensions.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or(Self::Plaintext)
    }

    /// Returns the member's id, if the caller is one.
    pub fn member(&self) -> Option<&SpiffeId> {
        match self {
            Self::Member(peer) => Some(&peer.id),
            Self::Plaintext | Self::Anonymous | Self::User(_) => None,
        }
    }

    /// Returns the caller's name, for records and messages.
    pub fn name(&self) -> String {
        match self {
            Self::Plaintext => "plaintext".to_owned(),
            Self::Anonymous => "anonymous".to_owned(),
            Self::Member(peer) => format!("{}/{}", peer.id.role(), peer.id.name()),
            Self::User(user) => format!("{}/{}", PeerRole::Client, user.name),
        }
    }
}

/// Decides which calls are admitted.
#[async_trait]
pub trait Gate: Send + Sync + 'static {
    /// Admits a call, and returns who made it, or refuses it. `method` is the path, `/package.Service/Method`.
    ///
    /// # Errors
    /// The status with which the call is refused.
    async fn admit(&self, method: &str, connection: &ConnectInfo, headers: &HeaderMap) -> Result<Caller, Status>;

    /// Begins to follow a call that was admitted just now as that of `caller`, if it may go on for so long that its caller
    /// can lose the right to make it. The gate ends the call then, in both directions, and whatever its service does.
    fn follow(&self, _method: &str, _connection: &ConnectInfo, _caller: &Caller) -> Option<Ongoing> {
        None
    }

    /// Notes that the service of an admitted call has answered with an error at once, and not in a stream.
    fn failed(&self, _method: &str, _code: Code) {}
}

/// Returns these services behind a gate.
pub fn gated(routes: Routes, gate: Arc<dyn Gate>) -> Routes {
    routes.into_axum_router().layer(GateLayer { gate }).into()
}

#[derive(Clone)]
struct GateLayer {
    gate: Arc<dyn Gate>,
}

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: Arc::clone(&self.gate), inner }
    }
}

/// Returns the code of an answer that is an error and nothing else: its status is in its headers.
fn failure(headers: &HeaderMap) -> Option<Code> {
    let code = Code::from_bytes(headers.get(STATUS)?.as_bytes());
    (code != Code::Ok).then_some(code)
}

/// A service behind a gate.
#[derive(Clone)]
struct Gated<S> {
    gate: Arc<dyn Gate>,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Gated<S>
where
    S: Service<Request<Watched<B>>, Response = Response<R>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<Watched<R>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Watched<R>>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The service that was polled ready takes the call; its clone takes the next one.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let gate = Arc::clone(&self.gate);
        Box::pin(async move {
            let connection = request.extensions().get::<ConnectInfo>().cloned().unwrap_or_default();
            match gate.admit(request.uri().path(), &connection, request.headers()).await {
                Ok(caller) => {
                    let method = request.uri().path().to_owned();
                    let ongoing = gate.follow(&method, &connection, &caller);
                    request.extensions_mut().insert(caller);
                    let answered = inner.call(request.map(|body| Watched::request(body, ongoing.clone()))).await?;
                    if let Some(code) = failure(answered.headers()) {
                        gate.failed(&method, code);
                    }
                    Ok(answered.map(|body| Watched::response(body, ongoing)))
                }
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

#[cfg(test)]
mod tests;
