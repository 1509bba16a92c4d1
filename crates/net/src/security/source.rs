//! Where a process gets its certificate from, and what keeps it renewed.

use std::{sync::Arc, time::Duration};

use robeing_identity::{PrivateKey, TrustBundle};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tonic::async_trait;
use tracing::{debug, info, warn};

use super::{Credentials, CredentialsError, TrustClock};

/// How often it is checked whether the certificate must be renewed. Far shorter than the life of a certificate, since
/// timers stand still while a machine is suspended.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// The first and the longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Number of failures for the same reason after which it is reported once more.
const REPORT_AGAIN: u32 = 60;

/// A certificate, and what came with it.
#[derive(Debug)]
pub struct Obtained {
    /// The certificate of the key.
    pub certificate: CertificateDer<'static>,
    /// The authorities to trust from now on.
    pub bundle: TrustBundle,
    /// The fleet's wall time, Unix milliseconds, if the source knows it.
    pub wall: Option<u64>,
}

/// Certifies the key of a process: the coordinators of its fleet, or another system that issues SPIFFE identities.
#[async_trait]
pub trait IdentitySource: Send + Sync + 'static {
    /// Obtains a certificate for the public key of `key`, for the first time or again.
    ///
    /// # Errors
    /// Why there is none, as a sentence. It will be tried again.
    async fn obtain(&self, key: &PrivateKey) -> Result<Obtained, String>;
}

/// Keeps a process certified.
pub struct IdentityKeeper {
    cluster: String,
    source: Arc<dyn IdentitySource>,
    key: PrivateKey,
    clock: Arc<TrustClock>,
    sender: watch::Sender<Arc<Credentials>>,
}

impl IdentityKeeper {
    /// Creates the keeper of a process of this cluster, with a new key, and the credentials that it keeps. Until there
    /// is a certificate, they trust `bundle`, or whatever they meet if there is none.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn new(
        cluster: &str,
        bundle: Option<TrustBundle>,
        source: impl FnOnce(&watch::Receiver<Arc<Credentials>>) -> Arc<dyn IdentitySource>,
        clock: Arc<TrustClock>,
    ) -> Result<(Self, watch::Receiver<Arc<Credentials>>), CredentialsError> {
        let key = PrivateKey::generate()?;
        let (sender, receiver) = watch::channel(Arc::new(Credentials::new(cluster, bundle, None, &clock)?));
        let source = source(&receiver);
        Ok((Self { cluster: cluster.to_owned(), source, key, clock, sender }, receiver))
    }

    /// Obtains the first certificate, however long it takes, and then renews it whenever half of its life is over.
    pub async fn run(self) {
        loop {
            self.obtain_some().await;
            while self.is_fresh() {
                tokio::time::sleep(CHECK_EVERY).await;
            }
        }
    }

    fn is_fresh(&self) -> bool {
        let credentials = self.sender.borrow();
        let Some(own) = credentials.own() else { return false };
        let (from, to) = (own.stated.not_before, own.stated.not_after);
        self.clock.now() < from + to.saturating_sub(from) / 2
    }

    /// Tries until a certificate is obtained.
    async fn obtain_some(&self) {
        let (mut pause, longest) = PAUSE;
        let mut reported = (String::new(), 0);
        loop {
            let obtained = self.source.obtain(&self.key).await;
            let problem = match obtained.map(|obtained| self.take(obtained)) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(problem) => problem,
            };
            if reported.0 != problem || reported.1 >= REPORT_AGAIN {
                warn!(problem, "there is no certificate for this process yet; trying again");
                reported = (problem, 0);
            } else {
                debug!(problem, "there is no certificate for this process yet");
                reported.1 += 1;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    fn take(&self, obtained: Obtained) -> Result<(), CredentialsError> {
        if let Some(wall) = obtained.wall {
            self.clock.learn(wall);
        }
        let own = Some((obtained.certificate, &self.key));
        let credentials = Credentials::new(&self.cluster, Some(obtained.bundle), own, &self.clock)?;
        match (credentials.id(), self.sender.borrow().own().is_some()) {
            (Some(id), true) => debug!(%id, "renewed the certificate of this process"),
            (Some(id), false) => info!(%id, "this process is certified"),
            (None, _) => {}
        }
        self.sender.send_replace(Arc::new(credentials));
        Ok(())
    }
}
