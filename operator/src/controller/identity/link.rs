//! How the operator connects to the coordinators of a fleet: with a certificate that it issues itself.

use std::time::Duration;

use robeing_client::{ClientIdentity, CredentialsError, Security};
use robeing_identity::{
    Authority, IdentityError, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest, SpiffeIdError,
    certificate_pem, digest,
};
use tokio::time::Instant;

use super::authority::AuthorityState;
use crate::names;

/// How much the operator's clock and the fleet's may differ. The operator judges its certificate's times by its own
/// clock, and coordinators by the fleet's.
const SKEW: Duration = Duration::from_secs(150 * 60);
/// After which time the certificate is renewed: half of what it is valid for, besides the skew.
const RENEWED_AFTER: Duration = Duration::from_secs(LEAF_LIFETIME.as_secs() / 2);

/// Why the operator can't connect with TLS.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The fleet has a name that no certificate can have.
    #[error(transparent)]
    Name(#[from] SpiffeIdError),
    /// The certificate can't be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate can't be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// The operator's credentials for one fleet.
#[derive(Debug)]
pub(crate) struct Link {
    security: Security,
    permissive: bool,
    made_of: [u8; 32],
    renew_at: Instant,
}

impl Link {
    /// Returns how to connect.
    pub(crate) fn security(&self) -> &Security {
        &self.security
    }
}

/// Makes the operator's credentials for a fleet, or renews them where they are old or the authorities have changed.
/// `now` is in Unix milliseconds. Connections that exist are kept.
///
/// # Errors
/// If no certificate can be made of this authority.
pub(crate) fn renew(
    link: &mut Option<Link>,
    realm: &Realm,
    state: &AuthorityState,
    permissive: bool,
    now: u64,
) -> Result<(), LinkError> {
    let made_of = digest(format!("{}{}", state.issuing.certificate, state.bundle()).as_bytes());
    let known = link.as_mut().filter(|link| link.permissive == permissive);
    if known.as_ref().is_some_and(|link| link.made_of == made_of && Instant::now() < link.renew_at) {
        return Ok(());
    }
    let identity = identity(realm, state, now)?;
    let renew_at = Instant::now() + RENEWED_AFTER;
    match known {
        Some(known) => {
            known.security.replace(&identity)?;
            (known.made_of, known.renew_at) = (made_of, renew_at);
        }
        None => {
            let security =
                if permissive { Security::permissive(&identity)? } else { Security::with_identity(&identity)? };
            *link = Some(Link { security, permissive, made_of, renew_at });
        }
    }
    Ok(())
}

/// Returns a new identity of the operator. `now` is in Unix milliseconds.
///
/// # Errors
/// If no certificate can be made of this authority.
pub(crate) fn identity(realm: &Realm, state: &AuthorityState, now: u64) -> Result<ClientIdentity, LinkError> {
    let authority = Authority::from_pem(&state.issuing.certificate, &state.issuing.key)?;
    let key = PrivateKey::generate()?;
    let request = SigningRequest::from_der(&key.request()?)?;
    let id = realm.member(PeerRole::Operator, names::OPERATOR)?;
    let from = now.saturating_sub(u64::try_from(SKEW.as_millis()).unwrap_or(u64::MAX));
    let issued = authority.issue(&request, &id, &[], from, SKEW * 2 + LEAF_LIFETIME)?;
    Ok(ClientIdentity {
        cluster: realm.cluster().to_owned(),
        trust: state.bundle(),
        certificate: Some((certificate_pem(&issued.certificate), key.to_pem())),
        token: None,
    })
}

#[cfg(test)]
mod tests {
    use robeing_identity::TrustBundle;

    use super::*;
    use crate::controller::identity::authority::Pair;

    const NOW: u64 = 1_800_000_000_000;

    fn state(realm: &Realm) -> AuthorityState {
        let authority = Authority::create(realm, NOW).expect("an authority");
        AuthorityState::first(Pair::of(&authority), "", vec![], "join".into())
    }

    #[test]
    fn the_operator_certifies_itself_for_each_fleet() {
        let realm = Realm::new("robeing.local", "apps", "fleet").expect("a realm");
        let state = state(&realm);
        let identity = identity(&realm, &state, NOW).expect("an identity");
        let (certificate, _) = identity.certificate.clone().expect("a certificate");
        let read = TrustBundle::from_pem(&certificate).expect("it is PEM");
        let stated = robeing_identity::Certificate::from_der(&read.authorities()[0]).expect("a member's");
        assert_eq!(stated.id.to_string(), "spiffe://robeing.local/ns/apps/cluster/fleet/operator/robeing-operator");
        let hours = |hours: u64| hours * 60 * 60 * 1_000;
        assert!(stated.not_before <= NOW - hours(2), "a fleet whose clock is slow accepts it");
        assert!(stated.not_after >= NOW + hours(2), "and one whose clock is fast");
    }

    #[tokio::test]
    async fn credentials_are_renewed_when_the_authorities_or_the_transport_change() {
        let realm = Realm::new("robeing.local", "apps", "fleet").expect("a realm");
        let (state, mut link) = (state(&realm), None);
        let mut made_of = |state: &AuthorityState, permissive: bool| {
            renew(&mut link, &realm, state, permissive, NOW).expect("credentials");
            let link = link.as_ref().expect("a link");
            (link.made_of, link.renew_at, link.permissive)
        };
        let first = made_of(&state, false);
        assert_eq!(made_of(&state, false), first, "they are fresh");
        let other = Authority::create(&realm, NOW).expect("an authority");
        let added = made_of(&state.clone().begun(Pair::of(&other), "", None), false);
        assert_ne!(added.0, first.0);
        assert!(made_of(&state, true).2);
    }
}
