//! What unit tests of identities have in common.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use robeing_fleet::{EnrolmentMode, IdentityConfig};
use robeing_identity::{Authority, Realm};
use robeing_platform::Clock;
use robeing_settings::Enrolment;
use tokio::sync::watch;

use super::{
    authority::{Authorities, Certifier},
    trust::FleetTrust,
};

/// The time at which authorities are made, Unix milliseconds.
pub const NOW: u64 = 1_800_000_000_000;
/// The secret with which join tokens are signed.
pub const JOIN_KEY: &str = "the join key of the tests";

/// The fleet of the tests.
pub fn realm() -> Realm {
    Realm::new("robeing.local", "default", "test").expect("it is a realm")
}

/// A new authority that trusts itself alone.
pub fn certifier() -> Certifier {
    let authority = Authority::create(&realm(), NOW).expect("it is made");
    let trust = authority.certificate_pem().to_owned();
    Certifier::new(authority, &trust, JOIN_KEY).expect("it is trusted")
}

/// A configuration without any trust.
pub fn config() -> IdentityConfig {
    IdentityConfig { bundle: String::new(), enrolment: EnrolmentMode::Proof, issuers: vec![], pools: vec![] }
}

/// The certificates of authorities, PEM.
pub fn bundle_of(authorities: &[Authority]) -> String {
    authorities.iter().map(Authority::certificate_pem).collect()
}

/// The trust in an authority that the sender replaces.
pub fn trust(certifier: Arc<Certifier>, enrolment: Enrolment) -> (watch::Sender<Arc<Certifier>>, FleetTrust) {
    let (sender, current) = watch::channel(certifier);
    (sender, FleetTrust::new(Authorities::of(current), enrolment, watch::channel(None).1))
}

/// A machine's clock that a test sets.
#[derive(Default)]
pub struct Hands(AtomicU64);

impl Hands {
    /// Lets time pass, milliseconds.
    pub fn pass(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn unix_millis(&self) -> u64 {
        NOW + self.elapsed_millis()
    }
    fn elapsed_millis(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
