//! How a client proves who it is, and whom it trusts.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use robeing_identity::{IdentityError, PrivateKey, TrustBundle};
use robeing_net::security::{Credentials, CredentialsError, NoTls, Tls, TrustClock};
use robeing_platform::Platform;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::watch;
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::Wire;

/// The credentials of a client, as it keeps them.
#[derive(Clone, Default)]
pub struct ClientIdentity {
    /// The name of the cluster. Empty if it is not known.
    pub cluster: String,
    /// The authorities that it trusts, PEM.
    pub trust: String,
    /// Its certificate and private key, PEM.
    pub certificate: Option<(String, String)>,
    /// A token of the audience `robeing`.
    pub token: Option<String>,
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// How a client connects. Cheap to clone; clones share the credentials.
#[derive(Clone, Default)]
pub struct Security {
    tls: Option<Tls>,
    /// Keeps the credentials replaceable.
    replace: Option<Arc<watch::Sender<Arc<Credentials>>>>,
    bearer: Bearer,
    /// Where the trusted authorities came from, for messages.
    trust_source: Option<Arc<str>>,
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Security {
    /// Connects without TLS.
    pub fn plain() -> Self {
        Self::default()
    }

    /// Connects with TLS, but trusts whatever coordinator it meets, and falls back to plaintext where a server speaks
    /// no TLS. For endpoints that the user gave without saying whom to trust.
    ///
    /// # Errors
    /// If TLS can't be set up.
    pub fn opportunistic() -> Result<Self, CredentialsError> {
        let clock = Arc::new(TrustClock::new(Platform::real().clock));
        Ok(Self::of(Credentials::new("", None, None, &clock)?, true, None))
    }

    /// Connects with TLS to coordinators that an authority of this identity has certified.
    ///
    /// # Errors
    /// If the identity can't be used.
    pub fn with_identity(identity: &ClientIdentity) -> Result<Self, CredentialsError> {
        Ok(Self::of(credentials(identity)?, false, token(identity)?))
    }

    /// Connects as [`Security::with_identity`], but falls back to plaintext where a server speaks no TLS: for the time in
    /// which a fleet moves to TLS. Without TLS, calls have no token.
    ///
    /// # Errors
    /// If the identity can't be used.
    pub fn permissive(identity: &ClientIdentity) -> Result<Self, CredentialsError> {
        Ok(Self::of(credentials(identity)?, true, token(identity)?))
    }

    /// Returns whether nothing but TLS is spoken.
    pub(crate) fn is_strict(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.is_permissive())
    }

    /// Returns whether both share the same credentials.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (&self.replace, &other.replace) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// Replaces the identity, for connections that are made from now on.
    ///
    /// # Errors
    /// If the identity can't be used.
    pub fn replace(&self, identity: &ClientIdentity) -> Result<(), CredentialsError> {
        let (credentials, token) = (credentials(identity)?, token(identity)?);
        if let Some(replace) = &self.replace {
            replace.send_replace(Arc::new(credentials));
        }
        self.bearer.set(token);
        Ok(())
    }

    fn of(credentials: Credentials, permissive: bool, token: Option<Token>) -> Self {
        let (sender, receiver) = watch::channel(Arc::new(credentials));
        let bearer = Bearer::default();
        bearer.set(token);
        Self { tls: Some(Tls::new(receiver, permissive)), replace: Some(Arc::new(sender)), bearer, trust_source: None }
    }

    /// Sets where the trusted authorities came from, such as the name of a file; error messages contain it.
    pub fn trusted_from(mut self, source: &str) -> Self {
        self.trust_source = Some(source.into());
        self
    }

    /// Returns where the trusted authorities came from, if that was set.
    pub(crate) fn trust_source(&self) -> Option<&str> {
        self.trust_source.as_deref()
    }

    /// Returns the TLS to connect with, if any.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }
}

/// The connections to one coordinator. A token is sent over TLS alone.
pub(crate) struct Channels {
    channel: Channel,
    bearer: Bearer,
    /// Where a server may speak no TLS yet: whether it does, and the connection for calls without the token.
    without_token: Option<(NoTls, Channel)>,
}

impl Channels {
    /// Creates channels with this security, by `connect`. None of them connects before its first call.
    ///
    /// # Errors
    /// If `connect` returns one.
    pub fn open<E>(security: &Security, connect: impl Fn(Option<&Tls>) -> Result<Channel, E>) -> Result<Self, E> {
        let bearer = security.bearer.clone();
        match security.tls() {
            Some(tls) if !tls.is_permissive() => Ok(Self { channel: connect(Some(tls))?, bearer, without_token: None }),
            Some(tls) if bearer.is_set() => {
                let server = NoTls::default();
                let channel = connect(Some(&tls.strict().noting(&server)))?;
                let open = connect(Some(&tls.noting(&server)))?;
                Ok(Self { channel, bearer, without_token: Some((server, open)) })
            }
            tls => Ok(Self { channel: connect(tls)?, bearer: Bearer::default(), without_token: None }),
        }
    }

    /// Returns the connection for a call that needs no token.
    pub fn channel(&self) -> Channel {
        match &self.without_token {
            Some((server, open)) if server.is_found() => open.clone(),
            _ => self.channel.clone(),
        }
    }

    /// Returns the connection for the next call. The first call to a server without TLS fails, as one to a server that is
    /// away, and is to be tried again.
    pub fn wire(&self) -> Wire {
        match &self.without_token {
            Some((server, open)) if server.is_found() => InterceptedService::new(open.clone(), Bearer::default()),
            _ => InterceptedService::new(self.channel.clone(), self.bearer.clone()),
        }
    }
}

fn credentials(identity: &ClientIdentity) -> Result<Credentials, CredentialsError> {
    let bundle = TrustBundle::from_pem(&identity.trust)?;
    let clock = Arc::new(TrustClock::new(Platform::real().clock));
    let Some((certificate, key)) = &identity.certificate else {
        return Credentials::new(&identity.cluster, Some(bundle), None, &clock);
    };
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
        .map_err(|error| IdentityError::Unreadable { what: "client certificate", problem: error.to_string() })?;
    let key = PrivateKey::from_pem(key)?;
    Credentials::new(&identity.cluster, Some(bundle), Some((certificate, &key)), &clock)
}

/// A token, as the header of a call.
type Token = MetadataValue<tonic::metadata::Ascii>;

/// Returns the token of an identity, if it has one.
fn token(identity: &ClientIdentity) -> Result<Option<Token>, IdentityError> {
    let Some(token) = &identity.token else { return Ok(None) };
    let header = format!("Bearer {}", token.trim()).parse::<Token>();
    let problem = "it contains line ends or other characters that no header can have".to_owned();
    let mut header = header.map_err(|_| IdentityError::Unreadable { what: "token", problem })?;
    header.set_sensitive(true);
    Ok(Some(header))
}

/// Adds a client's token to its calls, if it has one.
#[derive(Clone, Default)]
pub struct Bearer(Arc<RwLock<Option<Token>>>);

impl Bearer {
    fn is_set(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn set(&self, token: Option<Token>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = token;
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_no_header_can_have_is_refused() {
        let with = |text: &str| token(&ClientIdentity { token: Some(text.to_owned()), ..ClientIdentity::default() });
        assert_eq!(with(" a.b.c\n").expect("right"), Some(Token::from_static("Bearer a.b.c")));
        let error = with("a\nb").expect_err("two lines").to_string();
        assert!(error.starts_with("the token can't be read: it contains line ends"), "{error}");
        assert_eq!(token(&ClientIdentity::default()).expect("none"), None);
    }
}
