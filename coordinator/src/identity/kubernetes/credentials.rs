//! The token with which the API server is asked, and the certificate authority by which it is known. Both are files
//! that Kubernetes replaces while this process runs.

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use robeing_net::https::HttpsClient;
use robeing_platform::{Platform, WatchedFile};
use tokio::{sync::Mutex, time::Instant};
use tracing::warn;

use super::{config::KubernetesConfig, error::KubernetesError};

/// How often the files are looked at, at most.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum size of the file with the token, bytes.
pub const MAX_OWN_TOKEN_BYTES: u64 = 16 * 1024;
/// Maximum size of the file with the certificate authorities, bytes.
pub const MAX_AUTHORITY_BYTES: u64 = 256 * 1024;

/// How to ask the API server now.
pub(super) struct Access {
    /// Sends the questions.
    pub(super) client: Arc<HttpsClient>,
    /// The value of the header `Authorization`. Its `Debug` form does not reveal it.
    pub(super) authorization: HeaderValue,
}

struct Files {
    token: WatchedFile,
    authority: WatchedFile,
    /// The content of the files when they were last usable.
    authorization: Option<HeaderValue>,
    client: Option<Arc<HttpsClient>>,
    looked: Option<Instant>,
    access: Option<Arc<Access>>,
    /// What was last wrong with the files.
    problem: Option<KubernetesError>,
}

impl Files {
    async fn read_token(&mut self) -> Result<(), KubernetesError> {
        let read = self.token.read_if_changed().await.map_err(|error| unusable(&self.token, error))?;
        let Some(content) = read else { return Ok(()) };
        let Some(read) = authorization(&content) else {
            self.token.forget();
            return Err(unusable(&self.token, "there is no token in it"));
        };
        if self.authorization.as_ref() != Some(&read) {
            self.authorization = Some(read);
            self.access = None;
        }
        Ok(())
    }
}

/// The credentials of this process.
pub(super) struct Credentials {
    platform: Platform,
    host: String,
    port: u16,
    files: Mutex<Files>,
}

fn unusable(file: &WatchedFile, problem: impl ToString) -> KubernetesError {
    KubernetesError::Credentials { path: file.path().to_owned(), problem: problem.to_string() }
}

fn authorization(token: &[u8]) -> Option<HeaderValue> {
    let token = token.trim_ascii();
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).ok()?;
    value.set_sensitive(true);
    (!token.is_empty()).then_some(value)
}

impl Credentials {
    pub(super) fn new(platform: Platform, config: &KubernetesConfig) -> Self {
        let disk = &platform.disk;
        let files = Files {
            token: WatchedFile::new(Arc::clone(disk), config.token(), MAX_OWN_TOKEN_BYTES),
            authority: WatchedFile::new(Arc::clone(disk), config.authority(), MAX_AUTHORITY_BYTES),
            authorization: None,
            client: None,
            looked: None,
            access: None,
            problem: None,
        };
        Self { host: config.host.clone(), port: config.port, files: Mutex::new(files), platform }
    }

    /// Returns how to ask now. If the files have become unreadable, it stays as it was.
    ///
    /// # Errors
    /// If the files were never usable.
    pub(super) async fn current(&self) -> Result<Arc<Access>, KubernetesError> {
        let mut files = self.files.lock().await;
        match &files.access {
            Some(access) if files.looked.is_some_and(|looked| looked.elapsed() < CHECK_INTERVAL) => {
                Ok(Arc::clone(access))
            }
            _ => self.look(&mut files).await,
        }
    }

    /// Returns how to ask after the API server has refused `refused`; `None` if the files have not changed.
    pub(super) async fn renewed(&self, refused: &Arc<Access>) -> Option<Arc<Access>> {
        let mut files = self.files.lock().await;
        let access = self.look(&mut files).await.ok()?;
        (!Arc::ptr_eq(&access, refused)).then_some(access)
    }

    async fn look(&self, files: &mut Files) -> Result<Arc<Access>, KubernetesError> {
        files.looked = Some(Instant::now());
        let token = files.read_token().await;
        let authority = self.read_authority(files).await;
        let problem = token.and(authority).err();
        let (Some(authorization), Some(client)) = (&files.authorization, &files.client) else {
            return Err(problem.unwrap_or_else(|| unusable(&files.token, "it was not read")));
        };
        if let Some(error) = problem.as_ref().filter(|_| problem != files.problem) {
            warn!(%error, "the credentials for the API server stay as they were");
        }
        let access = files.access.get_or_insert_with(|| {
            Arc::new(Access { client: Arc::clone(client), authorization: authorization.clone() })
        });
        files.problem = problem;
        Ok(Arc::clone(access))
    }

    async fn read_authority(&self, files: &mut Files) -> Result<(), KubernetesError> {
        let read = files.authority.read_if_changed().await.map_err(|error| unusable(&files.authority, error))?;
        let Some(content) = read else { return Ok(()) };
        let (network, clock) = (Arc::clone(&self.platform.network), Arc::clone(&self.platform.clock));
        match HttpsClient::new(network, clock, &self.host, self.port, &content) {
            Ok(client) => files.client = Some(Arc::new(client)),
            Err(error) => {
                files.authority.forget();
                return Err(unusable(&files.authority, error));
            }
        }
        files.access = None;
        Ok(())
    }
}
