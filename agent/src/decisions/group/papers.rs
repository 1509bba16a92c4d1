//! What proves who this agent is, and whom it trusts.

use std::sync::Arc;

use async_trait::async_trait;
use robeing_groups::Own;
use robeing_identity::TrustBundle;
use robeing_net::{Transport, security::Credentials};

/// The certificate of this agent, and the authorities that it trusts.
pub trait Papers: Send + Sync + 'static {
    /// Returns the certificate with its authority and its key; `None` without one, or if its authority is not trusted.
    fn own(&self) -> Option<Own<'_>>;
    /// Returns the fleet: how the SPIFFE ids of its members begin.
    fn fleet(&self) -> Option<String>;
    /// Returns the authorities that are trusted.
    fn bundle(&self) -> Option<&TrustBundle>;
    /// Returns the time by which certificates are judged, Unix milliseconds.
    fn now(&self) -> u64;
}

impl Papers for Credentials {
    fn own(&self) -> Option<Own<'_>> {
        Own::of(&Self::own(self)?.certificate, Self::bundle(self)?, self.signer()?, self.clock().now())
    }

    fn fleet(&self) -> Option<String> {
        Some(self.id()?.realm().to_string())
    }

    fn bundle(&self) -> Option<&TrustBundle> {
        Self::bundle(self)
    }

    fn now(&self) -> u64 {
        self.clock().now()
    }
}

/// Where the papers are: they are renewed every hour.
#[async_trait]
pub trait PaperSource: Send + Sync + 'static {
    /// Returns the papers as they are now; `None` if this agent has no certificate.
    async fn papers(&self) -> Option<Arc<dyn Papers>>;
}

#[async_trait]
impl PaperSource for Transport {
    async fn papers(&self) -> Option<Arc<dyn Papers>> {
        let tls = self.tls()?;
        if !tls.is_permissive() {
            tls.certified().await;
        }
        let credentials = tls.credentials();
        credentials.own().is_some().then_some(credentials as Arc<dyn Papers>)
    }
}
