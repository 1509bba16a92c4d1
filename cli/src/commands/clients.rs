//! `robeing client create`: makes a key on this machine, and has the fleet certify it.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use robeing_client::FleetClient;
use robeing_identity::{Certificate, IdentityError, PrivateKey, TrustBundle, certificate_pem, files::TRUST};
use robeing_proto::v1::{CertifyClientRequest, CertifyClientResponse};

use super::{connect::client, credentials::CredentialError, duration};
use crate::{
    args::{Connection, CreateClientArgs},
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::moment,
};

/// The permissions of a private key: only its owner can read it.
const OWNER_ALONE: u32 = 0o600;
/// The permissions of certificates, which are not secret.
const EVERYONE_READS: u32 = 0o644;

/// Why a client's files can't be written.
#[derive(Debug, thiserror::Error)]
pub enum ClientFileError {
    /// A file exists already.
    #[error("{} exists: give --force to replace it, or another directory with --out", .file.display())]
    Exists {
        /// The file.
        file: PathBuf,
    },
    /// A file or the directory can't be written.
    #[error("can't write {}: {error}; give another directory with --out", .file.display())]
    Write {
        /// The file or directory.
        file: PathBuf,
        /// The cause.
        error: io::Error,
    },
}

/// The files of a client.
#[derive(Debug)]
struct Files {
    dir: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    trust: PathBuf,
    force: bool,
}

/// What the files of a client contain, PEM.
struct Contents {
    certificate: String,
    key: String,
    trust: String,
    /// Time until which the certificate is valid, Unix milliseconds.
    not_after: u64,
}

pub(super) async fn create(args: CreateClientArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let files = Files::of(&args.out, &args.name, args.force);
    // Before a certificate is made that would not be used.
    files.check_absent()?;
    let key = PrivateKey::generate().map_err(CredentialError::from)?;
    let signing_request = key.request().map_err(CredentialError::from)?.into();
    let client = client(fleet, None, Access::Administer).await?;
    let valid_for = Some(duration(args.valid_for));
    let request = CertifyClientRequest { name: args.name.clone(), signing_request, valid_for };
    let contents = contents(&key, &client.certify_client(request).await?).map_err(CredentialError::from)?;
    files.write(&contents)?;
    let text = usage(&files, &args.name, contents.not_after, &client, Timestamp::now());
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(Exit::Success)
}

/// Converts what the fleet returned, which must be for this key.
fn contents(key: &PrivateKey, certified: &CertifyClientResponse) -> Result<Contents, IdentityError> {
    let stated = Certificate::from_der(&certified.certificate)?;
    if stated.key != key.public_digest() {
        return Err(IdentityError::KeyMismatch);
    }
    Ok(Contents {
        certificate: certificate_pem(&certified.certificate),
        key: key.to_pem(),
        trust: TrustBundle::from_pem(&certified.trust_bundle)?.pem().to_owned(),
        not_after: stated.not_after,
    })
}

impl Files {
    fn of(dir: &Path, name: &str, force: bool) -> Self {
        Self {
            dir: dir.to_owned(),
            certificate: dir.join(format!("{name}.crt")),
            key: dir.join(format!("{name}.key")),
            trust: dir.join(TRUST),
            force,
        }
    }

    fn check_absent(&self) -> Result<(), ClientFileError> {
        let is_there = |file: &&&PathBuf| fs::symlink_metadata(file).is_ok();
        match [&self.certificate, &self.key, &self.trust].iter().find(is_there) {
            Some(file) if !self.force => Err(ClientFileError::Exists { file: (*file).clone() }),
            _ => Ok(()),
        }
    }

    /// Writes the files, each whole or not at all; the certificate last, because it is of no use without the others.
    fn write(&self, contents: &Contents) -> Result<(), ClientFileError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(|error| ClientFileError::Write { file: self.dir.clone(), error })?;
        self.write_one(&self.key, &contents.key, OWNER_ALONE)?;
        self.write_one(&self.trust, &contents.trust, EVERYONE_READS)?;
        self.write_one(&self.certificate, &contents.certificate, EVERYONE_READS)
    }

    fn write_one(&self, file: &Path, content: &str, mode: u32) -> Result<(), ClientFileError> {
        let failed = |error: io::Error| ClientFileError::Write { file: file.to_owned(), error };
        let aside = tempfile::Builder::new().permissions(Permissions::from_mode(mode)).tempfile_in(&self.dir);
        let mut aside = aside.map_err(failed)?;
        aside.write_all(content.as_bytes()).map_err(failed)?;
        aside.as_file().sync_all().map_err(failed)?;
        let persisted = if self.force { aside.persist(file) } else { aside.persist_noclobber(file) };
        match persisted {
            Ok(_) => Ok(()),
            // It was created meanwhile.
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                Err(ClientFileError::Exists { file: file.to_owned() })
            }
            Err(error) => Err(failed(error.error)),
        }
    }
}

/// Returns how to use the files.
fn usage(files: &Files, name: &str, not_after: u64, client: &FleetClient, now: Timestamp) -> String {
    let Files { certificate, key, trust, .. } = files;
    let (certificate, key, trust) = (certificate.display(), key.display(), trust.display());
    let expires = prost_types::Timestamp {
        seconds: i64::try_from(not_after / 1_000).unwrap_or(i64::MAX),
        nanos: (not_after % 1_000) as i32 * 1_000_000,
    };
    // A fleet on Kubernetes has a name here instead.
    let endpoints: Vec<String> = client.endpoints().into_iter().filter(|name| name.contains("://")).collect();
    let (flag, variable) = match endpoints.is_empty() {
        true => (String::new(), String::new()),
        false => (format!(" --endpoint {}", endpoints.join(",")), format!("ROBEING_ENDPOINT={} ", endpoints.join(","))),
    };
    format!(
        "{name} is certified until {}\n\
         files:  {certificate}, {key} (keep it secret), {trust}\n\
         try:    robeing status{flag} --trust {trust} --certificate {certificate} --private-key {key}\n\
         or set: {variable}ROBEING_TRUST={trust} ROBEING_CERTIFICATE={certificate} ROBEING_PRIVATE_KEY={key}\n",
        moment(Some(&expires), now)
    )
}

#[cfg(test)]
mod tests {
    use robeing_client::Settings;
    use robeing_identity::{Authority, LEAF_LIFETIME, PeerRole, Realm, SigningRequest};

    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn certified(key: &PrivateKey) -> CertifyClientResponse {
        let realm = Realm::new("robeing.local", "default", "one").expect("a realm");
        let authority = Authority::create(&realm, NOW).expect("an authority");
        let request = SigningRequest::from_der(&key.request().expect("a request")).expect("it is right");
        let id = realm.member(PeerRole::Client, "ada").expect("an id");
        let issued = authority.issue(&request, &id, &[], NOW, LEAF_LIFETIME).expect("a certificate");
        let trust_bundle = authority.certificate_pem().to_owned();
        CertifyClientResponse { certificate: issued.certificate.to_vec().into(), trust_bundle }
    }

    #[test]
    fn the_files_are_written_once_and_the_key_is_the_users_alone() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let dir = parent.path().join("a/b");
        let files = Files::of(&dir, "ada", false);
        let key = PrivateKey::generate().expect("a key");
        let contents = contents(&key, &certified(&key)).expect("it is for this key");
        files.check_absent().expect("nothing is there");
        files.write(&contents).expect("written");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&files.key)), (0o700, 0o600));
        assert_eq!(mode(&files.certificate) & 0o600, 0o600);
        let read = |path: &Path| fs::read_to_string(path).expect("there");
        assert_eq!(read(&files.key), contents.key);
        assert_eq!(read(&files.trust), contents.trust);
        assert_eq!(read(&files.certificate), contents.certificate);
        assert_eq!(fs::read_dir(&dir).expect("there").count(), 3, "nothing else is left");

        let error = files.check_absent().expect_err("they are there").to_string();
        assert!(error.starts_with(&format!("{} exists: give --force", files.certificate.display())), "{error}");
        let error = files.write(&contents).expect_err("they are there");
        assert!(matches!(error, ClientFileError::Exists { .. }), "{error}");
        let forced = Files::of(&dir, "ada", true);
        forced.check_absent().expect("they may be replaced");
        forced.write(&Contents { key: "another".into(), ..contents }).expect("replaced");
        assert_eq!((read(&files.key).as_str(), mode(&files.key)), ("another", 0o600));
    }

    #[test]
    fn a_certificate_of_another_key_is_not_taken() {
        let key = PrivateKey::generate().expect("a key");
        let other = certified(&PrivateKey::generate().expect("a key"));
        assert!(matches!(contents(&key, &other), Err(IdentityError::KeyMismatch)));
        assert!(contents(&key, &CertifyClientResponse::default()).is_err());
    }

    #[tokio::test]
    async fn how_to_use_the_files_is_told() {
        let client = FleetClient::new(&["a:1", "b:2"], Settings::default()).expect("the endpoints are good");
        let now = Timestamp::from_millisecond(NOW as i64).expect("a time of this century");
        let text = usage(&Files::of(Path::new("ids"), "ada", false), "ada", NOW + 3_600_000, &client, now);
        insta::assert_snapshot!(text, @r"
        ada is certified until 2023-11-14T23:13:20.000Z (in 1h)
        files:  ids/ada.crt, ids/ada.key (keep it secret), ids/trust.crt
        try:    robeing status --endpoint http://a:1,http://b:2 --trust ids/trust.crt --certificate ids/ada.crt --private-key ids/ada.key
        or set: ROBEING_ENDPOINT=http://a:1,http://b:2 ROBEING_TRUST=ids/trust.crt ROBEING_CERTIFICATE=ids/ada.crt ROBEING_PRIVATE_KEY=ids/ada.key
        ");
    }
}
