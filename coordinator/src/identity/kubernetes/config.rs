//! Where the API server is, and as whom it is asked.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::error::KubernetesError;

/// Where Kubernetes puts the files of a pod's service account.
pub const SERVICE_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long a question may take, with waiting for its turn.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

/// How to ask the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// The host of the API server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The folder with the files `token` and `ca.crt`. They are read again when they change.
    pub credentials: PathBuf,
    /// The namespace of the `RobeingCluster`.
    pub namespace: String,
    /// The name of the `RobeingCluster`.
    pub cluster: String,
    /// How long a question may take; [`CALL_TIMEOUT`] by default.
    pub call_timeout: Duration,
}

impl KubernetesConfig {
    /// Returns the configuration of a process in a pod. `variable` looks up an environment variable. The files are in
    /// `credentials`, or else where Kubernetes puts them.
    ///
    /// # Errors
    /// If the process does not run in a pod.
    pub fn in_cluster(
        variable: impl Fn(&str) -> Option<String>,
        credentials: Option<&Path>,
        namespace: &str,
        cluster: &str,
    ) -> Result<Self, KubernetesError> {
        let get = |name| variable(name).filter(|value| !value.is_empty()).ok_or(KubernetesError::NotInCluster(name));
        let (host, port) = (get(HOST)?, get(PORT)?);
        Ok(Self {
            host,
            port: port.parse().map_err(|_| KubernetesError::Port(port.clone()))?,
            credentials: credentials.unwrap_or(Path::new(SERVICE_ACCOUNT_DIR)).to_owned(),
            namespace: namespace.to_owned(),
            cluster: cluster.to_owned(),
            call_timeout: CALL_TIMEOUT,
        })
    }

    /// The file with the token of this process.
    pub(super) fn token(&self) -> PathBuf {
        self.credentials.join("token")
    }

    /// The file with the API server's certificate authority.
    pub(super) fn authority(&self) -> PathBuf {
        self.credentials.join("ca.crt")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(host: &str, port: &str, credentials: Option<&Path>) -> Result<KubernetesConfig, KubernetesError> {
        let variable = |name: &str| match name {
            HOST => Some(host.to_owned()),
            PORT => Some(port.to_owned()),
            _ => None,
        };
        KubernetesConfig::in_cluster(variable, credentials, "team", "fleet")
    }

    #[test]
    fn a_pod_finds_its_api_server() {
        let config = found("10.96.0.1", "443", None).unwrap();
        assert_eq!((&*config.host, config.port, config.call_timeout), ("10.96.0.1", 443, CALL_TIMEOUT));
        assert_eq!(config.token(), Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token"));
        let config = found("10.96.0.1", "443", Some(Path::new("/etc/api"))).unwrap();
        assert_eq!(config.authority(), Path::new("/etc/api/ca.crt"));
    }

    #[test]
    fn elsewhere_it_is_said_what_is_missing() {
        assert_eq!(found("", "443", None), Err(KubernetesError::NotInCluster(HOST)));
        assert_eq!(found("10.96.0.1", "", None), Err(KubernetesError::NotInCluster(PORT)));
        assert_eq!(found("10.96.0.1", "https", None), Err(KubernetesError::Port("https".into())));
    }
}
