//! This coordinator's own certificate. It is issued by the fleet's authority, which every coordinator has, and renewed
//! at half its life, or when the authority changes.

use std::{sync::Arc, time::Duration};

use robeing_fleet::IdentityConfig;
use robeing_identity::{
    IdentityError, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest, SpiffeIdError, digest,
};
use robeing_net::security::{Credentials, CredentialsError, FIRST_CONTACT_TOLERANCE, TrustClock};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::{clock::FleetClock, identity::trust::FleetTrust, read::StateReader};

/// How often it is checked whether the certificate must be renewed.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The same while the fleet's time is not known. Until it is, nobody is certified here.
const CHECK_AT_FIRST: Duration = Duration::from_millis(50);

/// Why this coordinator can't be certified.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// Its name can't be in a certificate.
    #[error(transparent)]
    Name(#[from] SpiffeIdError),
    /// A certificate can't be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS can't use the certificate.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// Certifies this coordinator.
pub struct OwnCertifier {
    realm: Realm,
    name: String,
    hosts: Vec<String>,
    trust: FleetTrust,
    clock: Arc<TrustClock>,
    key: PrivateKey,
    sender: watch::Sender<Arc<Credentials>>,
    /// What the current credentials were made of.
    made: Made,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Made {
    /// Whether the fleet's time was known.
    in_fleet_time: bool,
    /// The digest of the authority that issued, and of the trusted ones.
    authority: [u8; 32],
    trusted: [u8; 32],
    /// When to renew, Unix milliseconds.
    renew_at: u64,
}

impl OwnCertifier {
    /// Certifies the coordinator of this name, which clients reach at `hosts`.
    ///
    /// # Errors
    /// If that is impossible.
    pub fn new(
        realm: Realm,
        name: &str,
        hosts: Vec<String>,
        trust: FleetTrust,
        clock: Arc<TrustClock>,
    ) -> Result<(Self, watch::Receiver<Arc<Credentials>>), OwnError> {
        let key = PrivateKey::generate()?;
        let nobody = Credentials::new(realm.cluster(), None, None, &clock)?;
        let (sender, receiver) = watch::channel(Arc::new(nobody));
        let made = Made { in_fleet_time: false, authority: [0; 32], trusted: [0; 32], renew_at: 0 };
        let mut own = Self { realm, name: name.to_owned(), hosts, trust, clock, key, sender, made };
        own.renew(None)?;
        Ok((own, receiver))
    }

    /// Renews the certificate whenever it is due. Runs until the coordinator stops.
    pub async fn run(mut self, state: StateReader, clock: FleetClock) {
        let mut failed = false;
        loop {
            // The fleet's time is known while a leader reports it, or this coordinator leads.
            if clock.offset().is_some() {
                self.clock.learn(clock.estimate().wall);
            }
            match self.renew(state.look(|fleet| fleet.identity_config().cloned())) {
                Ok(true) => debug!(name = self.name, "renewed this coordinator's certificate"),
                Ok(false) => failed = false,
                Err(error) if failed => debug!(%error, "this coordinator's certificate can't be renewed"),
                Err(error) => {
                    failed = true;
                    warn!(%error, "this coordinator's certificate can't be renewed; retrying every second");
                }
            }
            tokio::time::sleep(if self.clock.is_known() { CHECK_EVERY } else { CHECK_AT_FIRST }).await;
        }
    }

    /// Renews the certificate if it is due. Returns whether it was.
    fn renew(&mut self, config: Option<Arc<IdentityConfig>>) -> Result<bool, OwnError> {
        let now_trusted = self.trust.with(config);
        let (certifier, bundle) = (&now_trusted.certifier, &now_trusted.bundle);
        let in_fleet_time = self.clock.is_known();
        let (authority, trusted) = (digest(certifier.authority.certificate()), bundle.digest());
        let now = self.clock.now();
        let known = Made { in_fleet_time, authority, trusted, ..self.made };
        if known == self.made && now < self.made.renew_at {
            return Ok(false);
        }
        let id = self.realm.member(PeerRole::Coordinator, &self.name)?;
        let request = SigningRequest::from_der(&self.key.request()?)?;
        // Before the fleet's time is known, this machine's clock may be wrong, and the others judge by the fleet's.
        let margin = if in_fleet_time { Duration::ZERO } else { FIRST_CONTACT_TOLERANCE };
        let from = now.saturating_sub(margin.as_millis() as u64);
        let issued = certifier.authority.issue(&request, &id, &self.hosts, from, LEAF_LIFETIME + margin * 2)?;
        let own = Some((issued.certificate, &self.key));
        let credentials = Credentials::new(self.realm.cluster(), Some(bundle.clone()), own, &self.clock)?;
        let renew_at = now + (issued.not_after.saturating_sub(now)) / 2;
        self.made = Made { renew_at, ..known };
        self.sender.send_replace(Arc::new(credentials));
        Ok(true)
    }
}
