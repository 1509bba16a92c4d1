//! What this coordinator trusts: the authorities and secrets of its files together with the configuration in the
//! fleet's state. What is read from both, such as the keys of tokens' issuers, is read once for each change, and not
//! for each call.

use std::sync::Arc;

use robeing_fleet::IdentityConfig;
use robeing_identity::{
    MAX_AUTHORITIES, TrustBundle,
    jwt::{KeySet, TokenIssuer},
};
use robeing_platform::sync::{Mutex, PoisonError};
use robeing_settings::Enrolment;
use tokio::sync::watch;
use tracing::warn;

use super::{
    authority::{Authorities, Certifier},
    proofs::Verifier,
};

/// What is trusted at some moment.
pub struct Trusted {
    /// What certificates are issued with.
    pub certifier: Arc<Certifier>,
    /// The configuration in the fleet's state.
    pub config: Option<Arc<IdentityConfig>>,
    /// The trusted authorities: those of the files, and those of the fleet's state.
    pub bundle: TrustBundle,
    issuers: Vec<TokenIssuer>,
    enrolment: Enrolment,
    /// The digest of the secret in the join directory.
    join_secret: Option<[u8; 32]>,
}

impl Trusted {
    fn new(
        certifier: Arc<Certifier>,
        config: Option<Arc<IdentityConfig>>,
        enrolment: Enrolment,
        join_secret: Option<[u8; 32]>,
    ) -> Self {
        let bundle = merged(&certifier.bundle, config.as_deref());
        let issuers = config.as_deref().map(issuers).unwrap_or_default();
        Self { certifier, config, bundle, issuers, enrolment, join_secret }
    }

    fn is_of(&self, certifier: &Arc<Certifier>, config: Option<&Arc<IdentityConfig>>, join: Option<[u8; 32]>) -> bool {
        let same = match (&self.config, config) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same && Arc::ptr_eq(&self.certifier, certifier) && self.join_secret == join
    }

    /// Returns whether anyone may enrol.
    pub fn is_open(&self) -> bool {
        // The time does not matter.
        self.verifier(0).is_open()
    }

    /// Returns what verifies proofs at the time `now`, Unix milliseconds.
    pub fn verifier(&self, now: u64) -> Verifier<'_> {
        Verifier {
            config: self.config.as_deref(),
            issuers: &self.issuers,
            enrolment: self.enrolment,
            join_key: &self.certifier.join_key,
            join_secret: self.join_secret,
            now,
        }
    }
}

/// Knows what is trusted now. Cheap to clone; clones share what they have read.
#[derive(Clone)]
pub struct FleetTrust {
    authorities: Authorities,
    /// What agents need to enrol, unless the fleet's configuration sets it.
    enrolment: Enrolment,
    join_secret: watch::Receiver<Option<[u8; 32]>>,
    read: Arc<Mutex<Option<Arc<Trusted>>>>,
}

impl FleetTrust {
    /// Creates the handle. `join_secret` is the digest of the secret in the join directory, if there is one.
    pub fn new(authorities: Authorities, enrolment: Enrolment, join_secret: watch::Receiver<Option<[u8; 32]>>) -> Self {
        Self { authorities, enrolment, join_secret, read: Arc::default() }
    }

    /// Returns what agents need to enrol by the coordinator's settings.
    pub fn configured(&self) -> Enrolment {
        self.enrolment
    }

    /// Returns what certificates are issued with now.
    pub fn certifier(&self) -> Arc<Certifier> {
        self.authorities.current()
    }

    /// Returns what is trusted by this configuration, which is the one in the fleet's state: the result is remembered
    /// until the next call with another one.
    pub fn with(&self, config: Option<Arc<IdentityConfig>>) -> Arc<Trusted> {
        let (certifier, join) = (self.authorities.current(), *self.join_secret.borrow());
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some(trusted) if trusted.is_of(&certifier, config.as_ref(), join) => Arc::clone(trusted),
            _ => Arc::clone(read.insert(Arc::new(Trusted::new(certifier, config, self.enrolment, join)))),
        }
    }
}

/// Returns the issuers whose keys can be read. `SetTrust` refuses keys that can't be read, but an earlier version may
/// have accepted them.
fn issuers(config: &IdentityConfig) -> Vec<TokenIssuer> {
    let issuer = |issuer: &robeing_fleet::TokenIssuer| match KeySet::from_json(issuer.jwks.as_bytes()) {
        Ok(keys) => Some(TokenIssuer { issuer: issuer.issuer.clone(), audience: issuer.audience.clone(), keys }),
        Err(error) => {
            let issuer = &issuer.issuer;
            warn!(issuer, %error, "the keys of an issuer of tokens can't be read; its tokens are refused");
            None
        }
    };
    config.issuers.iter().filter_map(issuer).collect()
}

/// Returns the authorities of the files, and as many of those in the fleet's state as a bundle has room for.
fn merged(own: &TrustBundle, config: Option<&IdentityConfig>) -> TrustBundle {
    let Some(config) = config.filter(|config| !config.bundle.is_empty()) else { return own.clone() };
    let replicated = match TrustBundle::from_pem(&config.bundle) {
        Ok(replicated) => replicated,
        Err(error) => {
            warn!(%error, "the trusted authorities in the fleet's state can't be read; those of this coordinator count");
            return own.clone();
        }
    };
    let mut all: Vec<Vec<u8>> = own.authorities().iter().map(|authority| authority.to_vec()).collect();
    for authority in replicated.authorities() {
        if own.authorities().contains(authority) {
            continue;
        }
        if all.len() >= MAX_AUTHORITIES {
            warn!(
                "this coordinator's authorities and those in the fleet's state are more than {MAX_AUTHORITIES}; remove \
                 those that are not used any more"
            );
            break;
        }
        all.push(authority.to_vec());
    }
    TrustBundle::from_der(&all).unwrap_or_else(|error| {
        warn!(%error, "the trusted authorities in the fleet's state can't be used; those of this coordinator count");
        own.clone()
    })
}

#[cfg(test)]
mod tests {
    use robeing_fleet::EnrolmentMode;
    use robeing_identity::Authority;

    use super::*;
    use crate::identity::fixture::{NOW, bundle_of, certifier, config, realm};

    fn authorities(count: usize) -> Vec<Authority> {
        (0..count).map(|_| Authority::create(&realm(), NOW).unwrap()).collect()
    }

    #[test]
    fn what_is_trusted_is_read_once_for_each_change() {
        let certifier = Arc::new(certifier());
        let (sender, current) = watch::channel(Arc::clone(&certifier));
        let (join, digest) = watch::channel(None);
        let trust = FleetTrust::new(Authorities::of(current), Enrolment::Proof, digest);
        let first = trust.with(None);
        assert!(Arc::ptr_eq(&first, &trust.clone().with(None)));
        let config = Arc::new(config());
        let second = trust.with(Some(Arc::clone(&config)));
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &trust.with(Some(Arc::clone(&config)))));
        assert!(!Arc::ptr_eq(&second, &trust.with(Some(Arc::new(IdentityConfig::clone(&config))))), "another one");
        let second = trust.with(Some(Arc::clone(&config)));
        join.send_replace(Some([1; 32]));
        let third = trust.with(Some(Arc::clone(&config)));
        assert_eq!(third.verifier(NOW).join_secret, Some([1; 32]));
        assert!(!Arc::ptr_eq(&second, &third));
        sender.send_replace(Arc::new(crate::identity::fixture::certifier()));
        let fourth = trust.with(Some(config));
        assert_ne!(fourth.bundle.digest(), third.bundle.digest());
    }

    #[test]
    fn the_authorities_of_the_files_are_trusted_whatever_the_fleets_state_says() {
        let certifier = certifier();
        let own = certifier.bundle.authorities()[0].clone();
        let others = authorities(2);
        let both = IdentityConfig { bundle: bundle_of(&others), ..config() };
        let merged_with = |config: &IdentityConfig| merged(&certifier.bundle, Some(config)).authorities().to_vec();
        assert_eq!(merged_with(&both), [own.clone(), others[0].certificate().clone(), others[1].certificate().clone()]);
        let mine = IdentityConfig { bundle: certifier.bundle.pem().to_owned(), ..config() };
        for same in [&mine, &config(), &IdentityConfig { bundle: "no certificate".into(), ..config() }] {
            assert_eq!(merged_with(same), std::slice::from_ref(&own));
        }
    }

    #[test]
    fn of_too_many_authorities_as_many_are_trusted_as_there_is_room_for() {
        let certifier = certifier();
        let others = authorities(MAX_AUTHORITIES);
        let many = IdentityConfig { bundle: bundle_of(&others), ..config() };
        let trusted = merged(&certifier.bundle, Some(&many));
        assert_eq!(trusted.authorities().len(), MAX_AUTHORITIES);
        assert_eq!(trusted.authorities()[0], certifier.bundle.authorities()[0]);
        assert_eq!(&trusted.authorities()[1], others[0].certificate());
    }

    #[test]
    fn an_issuer_whose_keys_can_not_be_read_is_left_out() {
        let issuer = |jwks: &str| robeing_fleet::TokenIssuer {
            issuer: "https://issuer".into(),
            audience: "robeing".into(),
            jwks: jwks.into(),
        };
        let wrong = IdentityConfig { issuers: vec![issuer("{}"), issuer("x")], ..config() };
        assert!(issuers(&wrong).is_empty());
        assert_eq!(config().enrolment, EnrolmentMode::Proof);
    }
}
