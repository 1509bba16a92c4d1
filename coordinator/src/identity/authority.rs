//! The certificate authority of the fleet, as it is in a directory that all coordinators share. Without such a
//! directory, a coordinator makes an authority of its own in its data directory.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use robeing_identity::{
    Authority, IdentityError, JoinKey, Realm, TrustBundle, digest,
    files::{self, CERTIFICATE, JOIN_KEY, KEY, REALM, TRUST},
};
use robeing_platform::Platform;
use tokio::sync::watch;
use tracing::{info, warn};

use super::text_file;
use crate::warnings::{Reason, Warnings};

/// The folder of an authority of a coordinator's own, in its data directory.
const OWN_FOLDER: &str = "authority";
/// How long an authority of a coordinator's own is valid: nothing replaces it.
const OWN_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// How often the directory is looked at for a change.
const RELOAD_EVERY: Duration = Duration::from_secs(5);
/// Maximum size of one file, bytes.
const MAX_FILE_BYTES: usize = 64 * 1024;
/// The reason of the warning while the directory can't be used.
pub const AUTHORITY_UNREADABLE: Reason = "AuthorityUnreadable";

/// Why an authority can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file can't be read or written.
    #[error(
        "the certificate authority in {dir} can't be used: {source}; give the directory of the fleet's authority with --ca"
    )]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file has the wrong content.
    #[error("the certificate authority in {dir} can't be used: {source}")]
    Identity {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        source: IdentityError,
    },
    /// The authority that issues is not trusted.
    #[error("the authority in {dir}/{CERTIFICATE} is not in {dir}/{TRUST}; nobody would trust what it issues")]
    NotTrusted {
        /// The directory.
        dir: PathBuf,
    },
}

/// An authority as it was read from its directory.
#[derive(Debug)]
pub struct Certifier {
    /// The authority that issues certificates.
    pub authority: Authority,
    /// The trusted authorities.
    pub bundle: TrustBundle,
    /// Verifies and signs join tokens.
    pub join_key: JoinKey,
    /// The digest of the files.
    digest: [u8; 32],
}

impl Certifier {
    /// Creates the certifier of these files: an authority, the authorities that are trusted, PEM, and the secret with
    /// which join tokens are signed.
    ///
    /// # Errors
    /// If the trusted authorities can't be read.
    pub fn new(authority: Authority, trust: &str, join_key: &str) -> Result<Self, IdentityError> {
        let texts = [authority.certificate_pem(), authority.key_pem(), join_key, trust];
        let digest = digest(&texts.map(|text| digest(text.as_bytes())).concat());
        let join_key = JoinKey::new(join_key.trim().as_bytes());
        Ok(Self { authority, bundle: TrustBundle::from_pem(trust)?, join_key, digest })
    }
}

/// The authority of the fleet, kept up to date. Cheap to clone.
#[derive(Clone)]
pub struct Authorities {
    current: watch::Receiver<Arc<Certifier>>,
}

impl Authorities {
    /// Creates the handle of an authority that a test replaces.
    #[cfg(test)]
    pub fn of(current: watch::Receiver<Arc<Certifier>>) -> Self {
        Self { current }
    }

    /// Returns the authority as it is now.
    pub fn current(&self) -> Arc<Certifier> {
        Arc::clone(&self.current.borrow())
    }
}

/// Keeps an authority up to date.
pub struct AuthorityKeeper {
    platform: Platform,
    dir: PathBuf,
    sender: watch::Sender<Arc<Certifier>>,
}

impl AuthorityKeeper {
    /// Reads the authority in a directory, or makes one in the data directory if none is given.
    ///
    /// # Errors
    /// If the directory can't be used.
    pub async fn open(
        platform: &Platform,
        dir: Option<&Path>,
        data: &Path,
        realm: &Realm,
    ) -> Result<(Self, Authorities), AuthorityError> {
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => {
                let dir = data.join(OWN_FOLDER);
                make(platform, &dir, realm).await?;
                dir
            }
        };
        let (sender, current) = watch::channel(Arc::new(read(platform, &dir).await?));
        Ok((Self { platform: platform.clone(), dir, sender }, Authorities { current }))
    }

    /// Reads the directory again whenever it has changed. Runs until the coordinator stops.
    pub async fn run(self, warnings: Arc<Warnings>) {
        loop {
            tokio::time::sleep(RELOAD_EVERY).await;
            match read(&self.platform, &self.dir).await {
                Ok(certifier) => {
                    warnings.set(AUTHORITY_UNREADABLE, None);
                    let is_new = self.sender.borrow().digest != certifier.digest;
                    if is_new {
                        self.tell_change(&certifier);
                        self.sender.send_replace(Arc::new(certifier));
                    }
                }
                Err(error) => {
                    let problem = format!("{error}; certificates are issued by the authority that was read before");
                    warnings.set(AUTHORITY_UNREADABLE, Some(problem));
                }
            }
        }
    }
}

impl AuthorityKeeper {
    fn tell_change(&self, new: &Certifier) {
        let dir = self.dir.display();
        info!(%dir, "the certificate authority has changed");
        let before = Arc::clone(&self.sender.borrow());
        if !before.bundle.authorities().contains(new.authority.certificate()) {
            warn!(
                %dir,
                "the new authority was not trusted before: members that don't know it yet can't connect until they are \
                 given it; keep a new authority in {TRUST} for an hour before it issues"
            );
        }
        if !new.bundle.authorities().contains(before.authority.certificate()) {
            warn!(
                %dir,
                "the authority that has issued so far is not trusted any more: members with certificates of it are refused; \
                 keep it in {TRUST} for an hour after the change, unless its key is known to others"
            );
        }
    }
}

async fn read(platform: &Platform, dir: &Path) -> Result<Certifier, AuthorityError> {
    let identity = |source| AuthorityError::Identity { dir: dir.to_owned(), source };
    let certificate = required(platform, dir, CERTIFICATE).await?;
    let key = required(platform, dir, KEY).await?;
    let join_key = required(platform, dir, JOIN_KEY).await?;
    let trust = optional(platform, dir, TRUST).await?.unwrap_or_else(|| certificate.clone());
    let authority = Authority::from_pem(&certificate, &key).map_err(identity)?;
    let certifier = Certifier::new(authority, &trust, &join_key).map_err(identity)?;
    if !certifier.bundle.authorities().contains(certifier.authority.certificate()) {
        return Err(AuthorityError::NotTrusted { dir: dir.to_owned() });
    }
    Ok(certifier)
}

async fn required(platform: &Platform, dir: &Path, name: &str) -> Result<String, AuthorityError> {
    let missing = || AuthorityError::Io {
        dir: dir.to_owned(),
        source: io::Error::new(io::ErrorKind::NotFound, format!("{name} is missing or empty")),
    };
    // Anyone could sign join tokens with an empty key.
    optional(platform, dir, name).await?.filter(|text| !text.trim().is_empty()).ok_or_else(missing)
}

async fn optional(platform: &Platform, dir: &Path, name: &str) -> Result<Option<String>, AuthorityError> {
    let read = text_file::read(&platform.disk, dir, name, MAX_FILE_BYTES).await;
    read.map_err(|source| AuthorityError::Io { dir: dir.to_owned(), source })
}

/// Makes an authority in a directory, unless there is one, and names the fleet, whose name may have changed, in it.
async fn make(platform: &Platform, dir: &Path, realm: &Realm) -> Result<(), AuthorityError> {
    let failed = |source| AuthorityError::Io { dir: dir.to_owned(), source };
    if optional(platform, dir, CERTIFICATE).await?.is_none() {
        platform.disk.create_dir_all(dir).await.map_err(failed)?;
        let made = files::make(realm, platform.clock.unix_millis(), OWN_LIFETIME);
        for (name, content) in made.map_err(|source| AuthorityError::Identity { dir: dir.to_owned(), source })? {
            write(platform, dir, name, content).await?;
        }
        info!(dir = %dir.display(), "made a certificate authority of this coordinator's own");
    }
    let line = files::realm_line(realm);
    if optional(platform, dir, REALM).await?.as_ref() != Some(&line) {
        write(platform, dir, REALM, line).await?;
    }
    Ok(())
}

async fn write(platform: &Platform, dir: &Path, name: &str, content: String) -> Result<(), AuthorityError> {
    let written = text_file::write(&platform.disk, dir, name, content).await;
    written.map_err(|source| AuthorityError::Io { dir: dir.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn realm() -> Realm {
        Realm::new("robeing.local", "default", "one").unwrap()
    }

    async fn open(dir: &Path) -> Result<(AuthorityKeeper, Authorities), AuthorityError> {
        AuthorityKeeper::open(&Platform::real(), Some(dir), Path::new("/nowhere"), &realm()).await
    }

    async fn own(data: &Path) -> Arc<Certifier> {
        let opened = AuthorityKeeper::open(&Platform::real(), None, data, &realm()).await;
        opened.unwrap_or_else(|error| panic!("{error}")).1.current()
    }

    #[tokio::test]
    async fn an_authority_of_its_own_is_made_once_and_again_if_it_was_made_only_partly() {
        let data = TempDir::new().unwrap();
        let first = own(data.path()).await;
        assert_eq!(own(data.path()).await.digest, first.digest);
        let dir = data.path().join(OWN_FOLDER);
        std::fs::remove_file(dir.join(CERTIFICATE)).unwrap();
        assert_ne!(own(data.path()).await.digest, first.digest);
        let realm = || std::fs::read_to_string(dir.join(REALM)).unwrap();
        assert_eq!(realm(), "spiffe://robeing.local/ns/default/cluster/one\n");
        std::fs::write(dir.join(REALM), "of an earlier name").unwrap();
        own(data.path()).await;
        assert_eq!(realm(), "spiffe://robeing.local/ns/default/cluster/one\n");
        for name in [KEY, JOIN_KEY] {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(dir.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{name} is readable by others");
        }
    }

    #[tokio::test]
    async fn a_directory_that_can_not_be_used_is_refused_with_a_sentence() {
        let data = TempDir::new().unwrap();
        let own = own(data.path()).await;
        let dir = data.path().join(OWN_FOLDER);
        let other = Authority::create(&realm(), 0).unwrap();
        let refused = async || open(&dir).await.err().expect("it is refused").to_string();
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        write(TRUST, other.certificate_pem());
        assert!(refused().await.contains("nobody would trust what it issues"));
        std::fs::remove_file(dir.join(TRUST)).unwrap();
        write(KEY, other.key_pem());
        assert!(refused().await.contains("not the key of the certificate"));
        write(KEY, &"x".repeat(MAX_FILE_BYTES + 1));
        assert!(refused().await.contains("the most is"));
        write(JOIN_KEY, "\n");
        write(KEY, own.authority.key_pem());
        assert!(refused().await.contains("join.key is missing or empty"));
        std::fs::remove_file(dir.join(KEY)).unwrap();
        assert!(refused().await.contains("ca.key is missing"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_authority_is_taken_over_and_a_broken_one_is_not() {
        let data = TempDir::new().unwrap();
        let first = own(data.path()).await;
        let dir = data.path().join(OWN_FOLDER);
        let (keeper, authorities) = open(&dir).await.unwrap_or_else(|error| panic!("{error}"));
        let warnings = Arc::new(Warnings::default());
        let running = tokio::spawn(keeper.run(Arc::clone(&warnings)));
        let other = Authority::create(&realm(), 0).unwrap();
        let both = format!("{}{}", other.certificate_pem(), first.authority.certificate_pem());
        Platform::real().disk.remove(&dir.join(KEY)).await.unwrap();
        while warnings.told().is_empty() {
            tokio::time::advance(RELOAD_EVERY).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(authorities.current().digest, first.digest);
        for (name, text) in [(KEY, other.key_pem()), (CERTIFICATE, other.certificate_pem()), (TRUST, &both)] {
            std::fs::write(dir.join(name), text).unwrap();
        }
        while authorities.current().digest == first.digest {
            tokio::time::advance(RELOAD_EVERY).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(authorities.current().bundle.authorities().len(), 2);
        running.abort();
    }
}
