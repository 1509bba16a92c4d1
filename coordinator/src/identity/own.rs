//! This coordinator's own certificate. It is issued by the fleet's authority, which every coordinator has, and renewed
//! at half its life, or when the authority changes.

use std::{sync::Arc, time::Duration};

use robeing_fleet::IdentityConfig;
use robeing_identity::{
    IdentityError, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest, SpiffeIdError, TrustBundle, digest,
};
use robeing_net::security::{Credentials, CredentialsError, FIRST_CONTACT_TOLERANCE, TrustClock};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::{
    clock::FleetClock,
    identity::authority::{Authorities, Certifier},
    read::StateReader,
};

/// How often it is checked whether the certificate must be renewed.
const CHECK_EVERY: Duration = Duration::from_secs(1);

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
    authorities: Authorities,
    clock: Arc<TrustClock>,
    key: PrivateKey,
    sender: watch::Sender<Arc<Credentials>>,
    /// What the current credentials were made of.
    made: Made,
    trusted: Trusted,
}

/// The trusted authorities, and what they were merged from.
struct Trusted {
    certifier: Arc<Certifier>,
    config: Option<Arc<IdentityConfig>>,
    bundle: TrustBundle,
}

impl Trusted {
    fn new(certifier: Arc<Certifier>, config: Option<Arc<IdentityConfig>>) -> Self {
        let bundle = merged(&certifier.bundle, config.as_deref());
        Self { certifier, config, bundle }
    }

    fn is_of(&self, certifier: &Arc<Certifier>, config: Option<&Arc<IdentityConfig>>) -> bool {
        let same = match (&self.config, config) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same && Arc::ptr_eq(&self.certifier, certifier)
    }
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
        authorities: Authorities,
        clock: Arc<TrustClock>,
    ) -> Result<(Self, watch::Receiver<Arc<Credentials>>), OwnError> {
        let key = PrivateKey::generate()?;
        let nobody = Credentials::new(realm.cluster(), None, None, &clock)?;
        let (sender, receiver) = watch::channel(Arc::new(nobody));
        let made = Made { in_fleet_time: false, authority: [0; 32], trusted: [0; 32], renew_at: 0 };
        let trusted = Trusted::new(authorities.current(), None);
        let mut own = Self { realm, name: name.to_owned(), hosts, authorities, clock, key, sender, made, trusted };
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
            tokio::time::sleep(CHECK_EVERY).await;
        }
    }

    /// Renews the certificate if it is due. Returns whether it was.
    fn renew(&mut self, config: Option<Arc<IdentityConfig>>) -> Result<bool, OwnError> {
        let certifier = self.authorities.current();
        if !self.trusted.is_of(&certifier, config.as_ref()) {
            self.trusted = Trusted::new(Arc::clone(&certifier), config);
        }
        let in_fleet_time = self.clock.is_known();
        let (authority, trusted) = (digest(certifier.authority.certificate()), self.trusted.bundle.digest());
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
        let credentials = Credentials::new(self.realm.cluster(), Some(self.trusted.bundle.clone()), own, &self.clock)?;
        let renew_at = now + (issued.not_after.saturating_sub(now)) / 2;
        self.made = Made { renew_at, ..known };
        self.sender.send_replace(Arc::new(credentials));
        Ok(true)
    }
}

/// Returns the authorities that are trusted: those of the directory, and those of the fleet's state.
pub fn merged(own: &TrustBundle, config: Option<&IdentityConfig>) -> TrustBundle {
    let Some(config) = config.filter(|config| !config.bundle.is_empty()) else { return own.clone() };
    TrustBundle::from_pem(&format!("{}\n{}", own.pem(), config.bundle)).unwrap_or_else(|error| {
        debug!(%error, "the trusted authorities in the fleet's state can't be used");
        own.clone()
    })
}
