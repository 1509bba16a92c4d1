//! How the command line connects to endpoints: with the credentials that the user gave, with those of a fleet of
//! `robeing dev` that has these endpoints, or without.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use robeing_client::{Address, ClientIdentity, CredentialsError, Security};
use robeing_identity::{
    Authority, IdentityError, PeerRole, PrivateKey, Realm, SigningRequest, SpiffeId, SpiffeIdError, TrustBundle,
    certificate_pem,
    files::{CERTIFICATE, KEY, REALM, TRUST},
};
use robeing_settings::{DEFAULT_CLUSTER, DEFAULT_NAMESPACE, DEFAULT_TRUST_DOMAIN, Setting, settings};

use crate::{
    args::{ClientFiles, Connection},
    dev::registry::{self, RunningFleet},
};

/// How long a certificate that the command line makes for itself is valid.
const OWN_CERTIFICATE: Duration = Duration::from_secs(24 * 60 * 60);

/// The name of a client that certifies itself.
const OWN_NAME: &str = "cli";

/// Why the credentials can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file can't be read.
    #[error("can't read {}: {source}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file that names the fleet has the wrong content.
    #[error(
        "{} does not name a fleet: {problem}; it must contain spiffe://TRUST-DOMAIN/ns/NAMESPACE/cluster/NAME",
        .file.display()
    )]
    Realm {
        /// The file.
        file: PathBuf,
        /// What is wrong with its content.
        problem: SpiffeIdError,
    },
    /// Something is missing.
    #[error("{0}")]
    Missing(&'static str),
    /// They are malformed.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS can't use them.
    #[error(transparent)]
    Tls(#[from] CredentialsError),
}

/// Returns how to connect to these endpoints.
pub(super) fn security(connection: &Connection, endpoints: &[String]) -> Result<Security, CredentialError> {
    let files = &connection.credentials;
    if let Some(dir) = &files.ca {
        return Ok(Security::with_identity(&own_identity(dir)?)?.trusted_from(&dir.display().to_string()));
    }
    if let (Some(trust), Some(identity)) = (&files.trust, given(files)?) {
        return Ok(Security::with_identity(&identity)?.trusted_from(&trust.display().to_string()));
    }
    if let Some(fleet) = registry::running().iter().find(|fleet| has_one_of(fleet, endpoints)) {
        return Ok(fleet.security()?);
    }
    if endpoints.iter().filter_map(|endpoint| endpoint.parse::<Address>().ok()).any(|address| address.is_https()) {
        return Err(CredentialError::Missing(
            "an https endpoint must prove who it is: give --trust FILE, the certificates of the authorities to trust, \
             or --ca DIR (http:// also speaks TLS, to any server that answers)",
        ));
    }
    Ok(Security::opportunistic()?)
}

/// Returns the identity in the files that the user gave, if any.
fn given(files: &ClientFiles) -> Result<Option<ClientIdentity>, CredentialError> {
    let ClientFiles { trust, certificate, private_key, token_file, ca: _ } = files;
    let any = certificate.is_some() || private_key.is_some() || token_file.is_some();
    let Some(trust) = trust else {
        return match any {
            true => Err(CredentialError::Missing(
                "--certificate and --token-file need --trust, so that they are sent to no stranger",
            )),
            false => Ok(None),
        };
    };
    let certificate = match (certificate, private_key) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        (None, None) => None,
        _ => return Err(CredentialError::Missing("--certificate and --private-key go together")),
    };
    let token = token_file.as_deref().map(read).transpose()?;
    Ok(Some(ClientIdentity { cluster: String::new(), trust: read(trust)?, certificate, token }))
}

/// Certifies this process with the authority in a directory.
fn own_identity(dir: &Path) -> Result<ClientIdentity, CredentialError> {
    let certificate = read(dir.join(CERTIFICATE))?;
    let authority = Authority::from_pem(&certificate, &read(dir.join(KEY))?)?;
    let trust = trusted_in(dir)?;
    Ok(certified_by(&authority, &own_id(dir)?, &trust, OWN_CERTIFICATE)?)
}

/// Returns the certificates of the authorities that are trusted by the directory of one, PEM.
fn trusted_in(dir: &Path) -> Result<String, CredentialError> {
    match read(dir.join(TRUST)) {
        Err(CredentialError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            read(dir.join(CERTIFICATE))
        }
        trust => trust,
    }
}

/// Returns the authorities that the user trusts, and where they came from, if any were given.
pub(super) fn trusted(files: &ClientFiles) -> Result<Option<(TrustBundle, String)>, CredentialError> {
    let (pem, source) = match (&files.ca, &files.trust) {
        (Some(dir), _) => (trusted_in(dir)?, dir),
        (None, Some(file)) => (read(file)?, file),
        (None, None) => return Ok(None),
    };
    Ok(Some((TrustBundle::from_pem(&pem)?, source.display().to_string())))
}

/// Makes a key for a client, and certifies it with an authority. `trust` has the authorities that the client trusts, PEM.
///
/// # Errors
/// If the key or the certificate can't be made.
pub(crate) fn certified_by(
    authority: &Authority,
    id: &SpiffeId,
    trust: &str,
    lifetime: Duration,
) -> Result<ClientIdentity, IdentityError> {
    let key = PrivateKey::generate()?;
    let request = SigningRequest::from_der(&key.request()?)?;
    let issued = authority.issue(&request, id, &[], now(), lifetime)?;
    Ok(ClientIdentity {
        cluster: id.realm().cluster().to_owned(),
        trust: trust.to_owned(),
        certificate: Some((certificate_pem(&issued.certificate), key.to_pem())),
        token: None,
    })
}

/// Returns the time, Unix milliseconds.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the id that this process gives itself: in the realm that the authority's directory names, or else in that of
/// the variables that coordinators read, too.
fn own_id(dir: &Path) -> Result<SpiffeId, CredentialError> {
    let file = dir.join(REALM);
    if !file.exists() {
        let member = realm()?.member(PeerRole::Client, OWN_NAME);
        return Ok(member.map_err(|error| IdentityError::NoIdentity(error.to_string()))?);
    }
    let id = format!("{}/{}/{OWN_NAME}", read(&file)?.trim(), PeerRole::Client);
    id.parse().map_err(|problem| CredentialError::Realm { file, problem })
}

/// Returns the realm of a fleet whose authority the user has, from the variables that its coordinators read, too.
fn realm() -> Result<Realm, CredentialError> {
    let variable = |setting: &Setting, default: &str| {
        let value = env::var(setting.variable()).ok().filter(|value| !value.is_empty());
        value.unwrap_or_else(|| default.to_owned())
    };
    let realm = Realm::new(
        &variable(&settings::TRUST_DOMAIN, DEFAULT_TRUST_DOMAIN),
        &variable(&settings::NAMESPACE, DEFAULT_NAMESPACE),
        &variable(&settings::CLUSTER_ID, DEFAULT_CLUSTER),
    );
    Ok(realm.map_err(|error| IdentityError::NoIdentity(error.to_string()))?)
}

fn read(file: impl AsRef<Path>) -> Result<String, CredentialError> {
    let file = file.as_ref();
    fs::read_to_string(file).map_err(|source| CredentialError::Unreadable { file: file.to_owned(), source })
}

/// Returns whether a fleet has one of these endpoints, whichever scheme they have.
fn has_one_of(fleet: &RunningFleet, endpoints: &[String]) -> bool {
    let address = |endpoint: &String| endpoint.parse::<Address>().ok().map(|address| address.dial());
    let own: Vec<String> = fleet.endpoints.iter().filter_map(address).collect();
    endpoints.iter().filter_map(address).any(|address| own.contains(&address))
}

#[cfg(test)]
mod tests {
    use robeing_identity::Certificate;
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    use super::*;
    use crate::dev::DevIdentity;

    fn certified(dir: &Path) -> Certificate {
        let (certificate, _) = own_identity(dir).expect("certified").certificate.expect("with a certificate");
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
        Certificate::from_der(&der).expect("a member's")
    }

    #[test]
    fn who_has_the_authority_is_certified_in_the_realm_that_its_directory_names() {
        let data = tempfile::tempdir().expect("a temporary directory");
        DevIdentity::open(data.path(), "fleet-7").expect("made");
        let dir = data.path().join("identity");
        assert_eq!(certified(&dir).id.to_string(), "spiffe://robeing.local/ns/default/cluster/fleet-7/client/cli");
        assert_eq!(own_identity(&dir).expect("certified").cluster, "fleet-7");

        let file = dir.join(REALM);
        fs::write(&file, "spiffe://robeing.local/fleet-7").expect("written");
        let error = own_identity(&dir).expect_err("it names no fleet").to_string();
        assert!(error.starts_with(&format!("{} does not name a fleet", file.display())), "{error}");

        fs::remove_file(&file).expect("removed");
        let id = certified(&dir).id;
        assert_eq!((id.role(), id.name()), (PeerRole::Client, OWN_NAME), "the variables name the fleet");
    }

    #[test]
    fn the_authorities_to_verify_by_are_those_of_a_file_or_of_an_authoritys_directory() {
        let data = tempfile::tempdir().expect("a temporary directory");
        DevIdentity::open(data.path(), "fleet-7").expect("made");
        let dir = data.path().join("identity");
        let of = |files: ClientFiles| trusted(&files).expect("they are right");
        assert!(of(ClientFiles::default()).is_none());
        let (by_dir, source) = of(ClientFiles { ca: Some(dir.clone()), ..ClientFiles::default() }).expect("given");
        assert_eq!(source, dir.display().to_string());
        let (by_file, _) =
            of(ClientFiles { trust: Some(dir.join(CERTIFICATE)), ..ClientFiles::default() }).expect("given");
        assert_eq!(by_dir.digest(), by_file.digest());
        let missing = ClientFiles { ca: Some("/nonexistent".into()), ..ClientFiles::default() };
        assert!(trusted(&missing).is_err_and(|error| error.to_string().contains("/nonexistent/ca.crt")));
    }

    #[test]
    fn credentials_that_are_not_whole_are_refused() {
        let refused = |files: ClientFiles| given(&files).expect_err("it is not whole").to_string();
        let file = |name: &str| Some(PathBuf::from(name));
        let said = refused(ClientFiles { token_file: file("t"), ..ClientFiles::default() });
        assert!(said.contains("need --trust"), "{said}");
        let said = refused(ClientFiles { trust: file("a"), certificate: file("c"), ..ClientFiles::default() });
        assert!(said.contains("--certificate and --private-key go together"), "{said}");
        let said = refused(ClientFiles { trust: file("/nonexistent"), ..ClientFiles::default() });
        assert!(said.starts_with("can't read /nonexistent: No such file"), "{said}");
    }
}
