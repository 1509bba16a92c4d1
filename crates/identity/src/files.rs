//! The files of a certificate authority in a directory, as coordinators read them, and clients that certify themselves.

use std::time::Duration;

use crate::{Authority, IdentityError, Realm, random_bytes};

/// The certificate of the authority that issues, PEM.
pub const CERTIFICATE: &str = "ca.crt";
/// Its private key, PEM.
pub const KEY: &str = "ca.key";
/// The secret with which join tokens are signed.
pub const JOIN_KEY: &str = "join.key";
/// The certificates of all trusted authorities, PEM. Without this file, the one that issues is trusted.
pub const TRUST: &str = "trust.crt";
/// The fleet that the authority certifies; see [`realm_line`].
pub const REALM: &str = "realm";

/// Makes an authority that is valid for `lifetime`, and returns its files: the name and the content of each, in the order
/// in which they must be written. The certificate is the last one: where it is missing, a crash left only a part, and all
/// files are made again. `now` is in Unix milliseconds.
///
/// # Errors
/// If its key or certificate can't be made.
pub fn make(realm: &Realm, now: u64, lifetime: Duration) -> Result<[(&'static str, String); 3], IdentityError> {
    let authority = Authority::create_for(realm, now, lifetime)?;
    let secret: [u8; 32] = random_bytes()?;
    let secret = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([
        (JOIN_KEY, secret),
        (KEY, authority.key_pem().to_owned()),
        (CERTIFICATE, authority.certificate_pem().to_owned()),
    ])
}

/// Returns the content of [`REALM`]: one line, as the SPIFFE ids of the fleet's members begin.
pub fn realm_line(realm: &Realm) -> String {
    format!("{realm}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AUTHORITY_LIFETIME;

    #[test]
    fn the_files_are_of_one_authority_and_the_certificate_is_the_last() {
        let realm = Realm::new("robeing.local", "default", "one").unwrap();
        let [(JOIN_KEY, secret), (KEY, key), (CERTIFICATE, certificate)] =
            make(&realm, 1_800_000_000_000, AUTHORITY_LIFETIME).unwrap()
        else {
            panic!("another order");
        };
        assert_eq!(secret.len(), 64);
        Authority::from_pem(&certificate, &key).unwrap();
        let id = realm.member(crate::PeerRole::Client, "ann").unwrap();
        assert_eq!(id.to_string(), format!("{}/client/ann", realm_line(&realm).trim()));
    }
}
