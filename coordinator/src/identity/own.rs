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
/// The same while the fleet's time is not known. Until it is, this coordinator certifies no agents or clients.
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

#[cfg(test)]
mod tests {
    use robeing_identity::{Authority, Certificate, TrustBundle};
    use robeing_settings::Enrolment;

    use super::*;
    use crate::identity::{
        authority::Certifier,
        fixture::{Hands, JOIN_KEY, NOW, certifier, config, realm, trust},
    };

    const HOUR: u64 = 60 * 60 * 1_000;
    const DAY: u64 = 24 * HOUR;

    struct Fixture {
        own: OwnCertifier,
        credentials: watch::Receiver<Arc<Credentials>>,
        authority: watch::Sender<Arc<Certifier>>,
        hands: Arc<Hands>,
        clock: Arc<TrustClock>,
    }

    impl Fixture {
        fn new() -> Self {
            let hands = Arc::new(Hands::default());
            let clock = Arc::new(TrustClock::new(Arc::clone(&hands) as _));
            let (authority, trust) = trust(Arc::new(certifier()), Enrolment::Proof);
            let made = OwnCertifier::new(realm(), "c-0", vec!["localhost".into()], trust, Arc::clone(&clock));
            let (own, credentials) = made.unwrap();
            Self { own, credentials, authority, hands, clock }
        }

        fn stated(&self) -> Certificate {
            self.credentials.borrow().own().expect("it is certified").stated.clone()
        }

        fn trusted(&self) -> TrustBundle {
            self.credentials.borrow().bundle().expect("it trusts somebody").clone()
        }

        fn renew(&mut self) -> bool {
            self.own.renew(None).unwrap()
        }
    }

    #[test]
    fn a_certificate_is_renewed_at_half_of_its_life_and_not_before() {
        let mut fixture = Fixture::new();
        fixture.clock.learn(NOW);
        assert!(fixture.renew());
        for renewal in 0..3 {
            let first = fixture.stated();
            assert_eq!(first.not_after, fixture.clock.now() + HOUR, "renewal {renewal}");
            fixture.hands.pass(HOUR / 2 - 1);
            assert!(!fixture.renew());
            assert_eq!(fixture.stated(), first);
            fixture.hands.pass(1);
            assert!(fixture.renew());
            assert_eq!(fixture.stated().key, first.key, "the key stays");
        }
        // It slept for longer than the certificate lives.
        fixture.hands.pass(10 * HOUR);
        assert!(fixture.renew());
        assert_eq!(fixture.stated().not_after, fixture.clock.now() + HOUR);
    }

    #[test]
    fn until_the_fleets_time_is_known_the_certificate_is_valid_by_clocks_that_are_a_day_off() {
        let mut fixture = Fixture::new();
        let at_first = fixture.stated();
        assert!(at_first.not_before <= NOW - DAY && at_first.not_after >= NOW + DAY, "{at_first:?}");
        assert!(!fixture.renew());
        // By the fleet's time it is five hours later.
        fixture.clock.learn(NOW + 5 * HOUR);
        assert!(fixture.renew());
        let stated = fixture.stated();
        assert_eq!(stated.not_after, NOW + 6 * HOUR);
        assert!(stated.not_before > NOW + 4 * HOUR, "{stated:?}");
        fixture.clock.learn(NOW + 5 * HOUR + 1_000);
        assert!(!fixture.renew());
    }

    #[test]
    fn a_new_authority_issues_at_once_and_so_do_changes_of_the_trusted_ones_count() {
        let mut fixture = Fixture::new();
        let old = fixture.own.trust.with(None).certifier.authority.certificate_pem().to_owned();
        let before = fixture.stated();
        let next = Authority::create(&realm(), NOW).unwrap();
        let next_pem = next.certificate_pem().to_owned();
        let both = Certifier::new(next, &format!("{old}{next_pem}"), JOIN_KEY).unwrap();
        fixture.authority.send_replace(Arc::new(both));
        assert!(fixture.renew());
        assert!(!fixture.renew());
        assert_eq!(fixture.trusted().authorities().len(), 2);
        assert_eq!(fixture.stated().id, before.id);
        // The fleet's state adds one, which is trusted beside those of the files.
        let third = Authority::create(&realm(), NOW).unwrap();
        let replicated = Arc::new(IdentityConfig { bundle: third.certificate_pem().to_owned(), ..config() });
        assert!(fixture.own.renew(Some(Arc::clone(&replicated))).unwrap());
        assert!(!fixture.own.renew(Some(replicated)).unwrap());
        assert_eq!(fixture.trusted().authorities().len(), 3);
        assert_eq!(&fixture.trusted().authorities()[2], third.certificate());
        // What the fleet's state no longer says is not trusted any more.
        assert!(fixture.own.renew(Some(Arc::new(config()))).unwrap());
        assert_eq!(fixture.trusted().authorities().len(), 2);
    }

    #[test]
    fn a_name_that_no_certificate_can_have_is_refused() {
        let clock = Arc::new(TrustClock::new(Arc::new(Hands::default())));
        let (_authority, trust) = trust(Arc::new(certifier()), Enrolment::Proof);
        assert!(matches!(OwnCertifier::new(realm(), "a b", vec![], trust, clock), Err(OwnError::Name(_))));
    }
}
