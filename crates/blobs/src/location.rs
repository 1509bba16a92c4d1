//! URLs of stores.

use std::{env, ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

use object_store::{
    ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    local::LocalFileSystem,
    path::Path,
};
use url::Url;

use crate::{BlobError, http::Connector};

/// The beginning of the names of environment variables that are for the store alone; the rest is the name that its own tools
/// know. They count for more than those.
pub const OWN_VARIABLES: &str = "ROBEING_STORE_";
/// How the URLs of directories begin.
const DIRECTORY: &str = "file:///";
/// How many times a request that failed is repeated, and for how long after the first one.
const MAX_RETRIES: usize = 4;
const RETRY_WITHIN: Duration = Duration::from_secs(60);

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// A directory, which has to exist: one that is missing may be where a disk is not mounted.
    Directory(PathBuf),
    /// A prefix in a bucket of S3, or of what is like it.
    S3(String, Path),
    /// A prefix in a bucket of Google Cloud Storage.
    Gcs(String, Path),
}

impl Location {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`BlobError::Url`].
    pub(crate) fn parse(text: &str) -> Result<Self, BlobError> {
        let url = Url::parse(text).map_err(|error| {
            // What is before an @ could be a password.
            let shown = text.rsplit('@').next().unwrap_or_default();
            BlobError::Url { url: shown.to_owned(), reason: error.to_string() }
        })?;
        let refused = |reason: &str| BlobError::Url { url: shown(&url), reason: reason.to_owned() };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("it has a user; credentials are taken from the environment"));
        }
        if url.query().is_some() || url.fragment().is_some() || url.port().is_some() {
            return Err(refused("it has a port, a query or a fragment"));
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        if url.scheme() == "file" {
            // Url::parse makes file:x and file://localhost/x the same as file:///x.
            let is_absolute = text.get(..DIRECTORY.len()).is_some_and(|start| start.eq_ignore_ascii_case(DIRECTORY));
            let path = url.to_file_path().ok().filter(|_| is_absolute && host.is_none());
            return path.map(Self::Directory).ok_or_else(|| refused("a directory has three slashes, and no host"));
        }
        let bucket = host.ok_or_else(|| refused("it has no bucket"))?.to_owned();
        let prefix = Path::from_url_path(url.path()).map_err(|error| refused(&error.to_string()))?;
        match url.scheme() {
            "s3" => Ok(Self::S3(bucket, prefix)),
            "gs" => Ok(Self::Gcs(bucket, prefix)),
            scheme => Err(refused(&format!("{scheme} is no store"))),
        }
    }

    /// Opens the store. Returns the prefix of all keys in it, too.
    ///
    /// # Errors
    /// What of its settings is missing or can't be used. Nothing is sent before the first object is.
    pub(crate) fn open(self, url: &str) -> Result<(Arc<dyn ObjectStore>, Path), BlobError> {
        let failed = |source: object_store::Error| BlobError::unusable(url.to_owned(), &source);
        let unknown = |name: &str| BlobError::Unusable {
            store: url.to_owned(),
            reason: format!("{OWN_VARIABLES}{name} is no setting of such a store"),
        };
        let retry = RetryConfig { max_retries: MAX_RETRIES, retry_timeout: RETRY_WITHIN, ..RetryConfig::default() };
        Ok(match self {
            Self::Directory(path) => {
                // Only a directory has a ".".
                let found = std::fs::metadata(path.join("."));
                found.map_err(|source| BlobError::Directory { path: path.clone(), source })?;
                let store = LocalFileSystem::new_with_prefix(&path);
                let store = store.map_err(|source| BlobError::store(url.to_owned(), &source))?.with_fsync(true);
                (Arc::new(store) as Arc<dyn ObjectStore>, Path::default())
            }
            Self::S3(bucket, prefix) => {
                let mut builder = AmazonS3Builder::from_env();
                for (name, value) in own("AWS_", env::vars_os()) {
                    let key: AmazonS3ConfigKey = name.to_ascii_lowercase().parse().map_err(|_| unknown(&name))?;
                    builder = builder.with_config(key, value);
                }
                let builder = builder.with_bucket_name(bucket).with_retry(retry);
                // The readers of an object check its hash, so the signature need not contain one.
                let builder = builder.with_unsigned_payload(true).with_http_connector(Connector);
                (Arc::new(builder.build().map_err(failed)?) as Arc<dyn ObjectStore>, prefix)
            }
            Self::Gcs(bucket, prefix) => {
                let mut builder = GoogleCloudStorageBuilder::from_env();
                for (name, value) in own("GOOGLE_", env::vars_os()) {
                    let key: GoogleConfigKey = name.to_ascii_lowercase().parse().map_err(|_| unknown(&name))?;
                    builder = builder.with_config(key, value);
                }
                let builder = builder.with_bucket_name(bucket).with_retry(retry);
                let store = builder.with_http_connector(Connector).build().map_err(failed)?;
                (Arc::new(store) as Arc<dyn ObjectStore>, prefix)
            }
        })
    }
}

/// Returns the variables for stores of a kind that begin with [`OWN_VARIABLES`], by the rest of their names. The line break
/// at the end of a value is removed, since files of secrets have one.
pub(crate) fn own(kind: &str, all: impl Iterator<Item = (OsString, OsString)>) -> Vec<(String, String)> {
    let own = all.filter_map(|(name, value)| {
        let name = name.to_str()?.strip_prefix(OWN_VARIABLES)?.to_owned();
        let value = value.to_str()?.trim_end_matches(['\r', '\n']).to_owned();
        name.starts_with(kind).then_some((name, value))
    });
    own.collect()
}

/// Returns the URL of the store in a directory; `None` if its path is not absolute.
pub fn directory_url(directory: &std::path::Path) -> Option<String> {
    Url::from_file_path(directory).ok().map(String::from)
}

/// Returns a URL without its user and password.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    // They can't be set in a URL without a host, which has none.
    let _ = shown.set_password(None);
    let _ = shown.set_username("");
    shown.set_query(None);
    shown.to_string()
}
