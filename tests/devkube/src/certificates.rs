//! A cluster's certificate authority and the certificates it signs. Keys are P-256, generated for every cluster, and
//! readable only by root.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::{
    error::{Error, Result},
    record::write,
};

/// The certificate authority of one cluster. Writes the certificates that it signs to a folder.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// The subject of a certificate.
pub(crate) struct Subject<'a> {
    /// File name, without extension.
    pub(crate) file: &'a str,
    /// Kubernetes user name.
    pub(crate) user: &'a str,
    /// Group of the user, if any.
    pub(crate) group: Option<&'a str>,
    /// Host names and addresses for serving; may be empty.
    pub(crate) hosts: Vec<String>,
}

impl Authority {
    /// Creates `ca.crt` and `ca.key` in a folder.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let failed = failed("the authority");
        let key = KeyPair::generate().map_err(&failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "devkube");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        write(&folder.join("ca.crt"), params.self_signed(&key).map_err(&failed)?.pem())?;
        write(&folder.join("ca.key"), key.serialize_pem())?;
        Ok(Self { folder: folder.into(), issuer: Issuer::new(params, key) })
    }

    /// Creates `FILE.crt` and `FILE.key`, where `FILE` is [`Subject::file`].
    pub(crate) fn sign(&self, subject: &Subject<'_>) -> Result<()> {
        let failed = failed(subject.user);
        let key = KeyPair::generate().map_err(&failed)?;
        let mut params = CertificateParams::new(subject.hosts.clone()).map_err(&failed)?;
        params.distinguished_name.push(DnType::CommonName, subject.user);
        if let Some(group) = subject.group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(&failed)?;
        write(&self.folder.join(format!("{}.crt", subject.file)), certificate.pem())?;
        write(&self.folder.join(format!("{}.key", subject.file)), key.serialize_pem())
    }

    /// Creates the key pair for service account tokens: `sa.key` and `sa.pub`.
    pub(crate) fn token_keys(&self) -> Result<()> {
        let key = KeyPair::generate().map_err(failed("service accounts"))?;
        write(&self.folder.join("sa.key"), key.serialize_pem())?;
        write(&self.folder.join("sa.pub"), key.public_key_pem())
    }
}

fn failed(subject: &str) -> impl Fn(rcgen::Error) -> Error + use<> {
    let subject = subject.to_owned();
    move |source| Error::Certificate { subject: subject.clone(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_for_root_alone() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path()).unwrap();
        let hosts = vec!["n1".into(), "10.0.0.1".into()];
        authority.sign(&Subject { file: "n1", user: "system:node:n1", group: Some("system:nodes"), hosts }).unwrap();
        authority.token_keys().unwrap();
        for name in ["ca.key", "n1.key", "n1.crt", "sa.key", "sa.pub"] {
            let mode = folder.path().join(name).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }
}
