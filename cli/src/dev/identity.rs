//! The identities of a fleet of `robeing dev`: its certificate authority, the join tokens of its agents, and the
//! certificate with which the other commands of the user call it. All of it is in a folder of the data directory that
//! only the user can read.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use robeing_client::ClientIdentity;
use robeing_identity::{
    Authority, IdentityError, JoinClaims, JoinKey, PeerRole, Realm,
    files::{self, CERTIFICATE, JOIN_KEY, KEY, REALM},
};
use robeing_settings::{DEFAULT_NAMESPACE, DEFAULT_TRUST_DOMAIN};

use super::DevError;
use crate::commands::credentials::{certified_by, now};

/// The folder in the data directory.
const FOLDER: &str = "identity";
/// How long the authority and the user's certificate are valid: as long as the data directory may be used.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// How long an agent has to use its join token: it does so when it starts.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The identities of a fleet.
pub struct DevIdentity {
    cluster: String,
    realm: Realm,
    join_key: JoinKey,
    client: ClientIdentity,
}

impl std::fmt::Debug for DevIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevIdentity").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// Returns the folder of identities in a data directory.
pub(super) fn folder(data: &Path) -> PathBuf {
    data.join(FOLDER)
}

/// Returns the file with the authority that agents trust.
pub(super) fn trust_file(data: &Path) -> PathBuf {
    folder(data).join(CERTIFICATE)
}

impl DevIdentity {
    /// Opens the identities of the fleet in a data directory, or makes them.
    ///
    /// # Errors
    /// If the files can't be read or written.
    pub fn open(data: &Path, cluster: &str) -> Result<Self, DevError> {
        let dir = folder(data);
        let failed = |error: io::Error| DevError::Data { dir: dir.clone(), error };
        let invalid = |error: IdentityError| failed(io::Error::new(io::ErrorKind::InvalidData, error));
        let realm = Realm::new(DEFAULT_TRUST_DOMAIN, DEFAULT_NAMESPACE, cluster)
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        make(&dir, &realm).map_err(failed)?;
        let read = |name: &str| fs::read_to_string(dir.join(name)).map_err(failed);
        let (certificate, key, join_key) = (read(CERTIFICATE)?, read(KEY)?, read(JOIN_KEY)?);
        let authority = Authority::from_pem(&certificate, &key).map_err(invalid)?;
        let client = client(&realm, &authority).map_err(invalid)?;
        let join_key = JoinKey::new(join_key.trim().as_bytes());
        Ok(Self { cluster: cluster.to_owned(), realm, join_key, client })
    }

    /// Returns the credentials of the user.
    pub fn client(&self) -> &ClientIdentity {
        &self.client
    }

    /// Makes a token with which the process of this agent can enrol once.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn join_token(&self, role: &str, pool: &str, name: &str) -> Result<String, IdentityError> {
        let role = PeerRole::parse(role).unwrap_or(PeerRole::Worker);
        let expires = now() + TOKEN_LIFETIME.as_millis() as u64;
        Ok(self.join_key.sign(&JoinClaims::new(self.realm.cluster(), role, pool, Some(name), expires)?))
    }
}

/// Certifies the user of this process.
fn client(realm: &Realm, authority: &Authority) -> Result<ClientIdentity, IdentityError> {
    let id = realm.member(PeerRole::Client, "dev").map_err(|error| IdentityError::NoIdentity(error.to_string()))?;
    certified_by(authority, &id, authority.certificate_pem(), LIFETIME)
}

/// Makes an authority in a folder, unless there is one, and names the fleet in it, for those who certify themselves with
/// the authority. The name can differ from that of an earlier run.
fn make(dir: &Path, realm: &Realm) -> io::Result<()> {
    if !dir.join(CERTIFICATE).exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        for (name, content) in files::make(realm, now(), LIFETIME).map_err(io::Error::other)? {
            write(dir, name, &content)?;
        }
    }
    let line = files::realm_line(realm);
    match fs::read_to_string(dir.join(REALM)) {
        Ok(known) if known == line => Ok(()),
        _ => write(dir, REALM, &line),
    }
}

/// Writes a file that only the user can read, whole or not at all.
pub(super) fn write(dir: &Path, name: &str, content: &str) -> io::Result<()> {
    let aside = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&aside, dir.join(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use robeing_client::Security;

    use super::*;

    #[test]
    fn a_fleet_keeps_its_authority_and_nobody_else_can_read_it() {
        let data = tempfile::tempdir().expect("a temporary directory");
        let first = DevIdentity::open(data.path(), "one").expect("made");
        let again = DevIdentity::open(data.path(), "one").expect("read");
        assert_eq!(again.client().trust, first.client().trust);
        Security::with_identity(again.client()).expect("usable");
        let token = first.join_token("specialist", "data", "data-0").expect("signed");
        let claims = again.join_key.verify(&token, "one", now()).expect("right");
        assert_eq!((&*claims.role, &*claims.pool, claims.name.as_deref()), ("specialist", "data", Some("data-0")));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        let dir = folder(data.path());
        assert_eq!(mode(&dir), 0o700);
        assert!([CERTIFICATE, KEY, JOIN_KEY, REALM].iter().all(|name| mode(&dir.join(name)) == 0o600));
    }

    #[test]
    fn the_folder_names_the_fleet_also_after_it_was_renamed() {
        let data = tempfile::tempdir().expect("a temporary directory");
        let named = || fs::read_to_string(folder(data.path()).join(REALM)).expect("there");
        for name in ["one", "one", "two"] {
            DevIdentity::open(data.path(), name).expect("opened");
            assert_eq!(named(), format!("spiffe://robeing.local/ns/default/cluster/{name}\n"));
        }
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let data = tempfile::tempdir().expect("a temporary directory");
        DevIdentity::open(data.path(), "one").expect("made");
        fs::write(folder(data.path()).join(KEY), "x").expect("written");
        assert!(DevIdentity::open(data.path(), "one").is_err());
    }
}
