//! Storing and fetching objects.

use std::{fmt, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::{GetOptions, ObjectStore, PutOptions, PutPayload, path::Path};
use ring::digest::{Context, SHA256};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{BlobError, BlobRef, location::Location};

/// The size of the largest object, bytes: 64 MiB. It is held in memory while it is stored or fetched.
pub const MAX_BLOB_BYTES: u64 = 64 << 20;
/// The size of the pieces in which an object is sent, bytes.
const PIECE_BYTES: usize = 1 << 20;
/// How long an object may take, besides the time for its bytes.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// How many bytes a second a store has to take or return at least.
const MIN_BYTES_PER_SECOND: u64 = 256 << 10;

/// A store of objects. Cheap to clone.
#[derive(Clone)]
pub struct BlobStore {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    url: Arc<str>,
}

impl fmt::Debug for BlobStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobStore({})", self.url)
    }
}

impl BlobStore {
    /// Opens the store with this URL: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `file:///DIRECTORY`. A directory
    /// has to exist. What buckets need is taken from the environment, as their own tools take it
    /// (`AWS_ACCESS_KEY_ID`, `AWS_REGION`, `GOOGLE_APPLICATION_CREDENTIALS`, …), or from where the process runs.
    ///
    /// # Errors
    /// If it is no URL of a store, or the store can't be used.
    pub fn open(url: &str) -> Result<Self, BlobError> {
        let (store, prefix) = Location::parse(url)?.open(url)?;
        Ok(Self { store, prefix, url: url.into() })
    }

    /// Stores content, and returns the reference to it. Others see all of it or nothing.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`] beyond [`MAX_BLOB_BYTES`], or why it could not be stored in time.
    pub async fn put(&self, content: Bytes) -> Result<BlobRef, BlobError> {
        check_size(content.len() as u64)?;
        let hashed = content.clone();
        let blob = spawn_blocking(move || BlobRef::of(&hashed)).await.map_err(|_| BlobError::Ending)?;
        let pieces = (0..content.len()).step_by(PIECE_BYTES);
        let payload: PutPayload =
            pieces.map(|from| content.slice(from..content.len().min(from + PIECE_BYTES))).collect();
        let path = self.path(&blob);
        let putting = self.store.put_opts(&path, payload, PutOptions::default());
        self.in_time(blob, async { putting.await.map_err(|source| self.failed(blob, source)) }).await?;
        Ok(blob)
    }

    /// Returns the content that a reference is to, once its length and its hash have been checked.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`] beyond [`MAX_BLOB_BYTES`], or why it could not be fetched in time, or is not what the
    /// reference says.
    pub async fn get(&self, blob: BlobRef) -> Result<Bytes, BlobError> {
        check_size(blob.bytes)?;
        self.in_time(blob, self.fetch(blob)).await
    }

    async fn fetch(&self, blob: BlobRef) -> Result<Bytes, BlobError> {
        let path = self.path(&blob);
        let found = self.store.get_opts(&path, GetOptions::default()).await;
        let found = found.map_err(|source| self.failed(blob, source))?;
        self.check_length(blob, found.meta.size)?;
        let mut content = BytesMut::with_capacity(usize::try_from(blob.bytes).unwrap_or_default());
        let mut hash = Context::new(&SHA256);
        let mut pieces = found.into_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|source| self.failed(blob, source))?;
            let length = (content.len() + piece.len()) as u64;
            if length > blob.bytes {
                return self.check_length(blob, length).map(|()| Bytes::new());
            }
            hash.update(&piece);
            content.extend_from_slice(&piece);
        }
        self.check_length(blob, content.len() as u64)?;
        match hash.finish().as_ref() == blob.sha256 {
            true => Ok(content.freeze()),
            false => Err(BlobError::Hash { blob, store: self.url.to_string() }),
        }
    }

    fn check_length(&self, blob: BlobRef, found: u64) -> Result<(), BlobError> {
        match found == blob.bytes {
            true => Ok(()),
            false => Err(BlobError::Length { blob, store: self.url.to_string(), found }),
        }
    }

    /// Returns the object's path in the store. It has nothing that anybody wrote: only digits of a hash.
    fn path(&self, blob: &BlobRef) -> Path {
        let (folder, name) = blob.key();
        self.prefix.clone().join(folder).join(name.as_str())
    }

    fn failed(&self, blob: BlobRef, source: object_store::Error) -> BlobError {
        let store = self.url.to_string();
        match source {
            object_store::Error::NotFound { .. } => BlobError::Missing { blob, store },
            source => BlobError::store(store, &source),
        }
    }

    async fn in_time<T>(
        &self,
        blob: BlobRef,
        done: impl Future<Output = Result<T, BlobError>>,
    ) -> Result<T, BlobError> {
        let limit = ANSWERED_WITHIN + Duration::from_secs(blob.bytes / MIN_BYTES_PER_SECOND);
        let timed_out = |_| BlobError::TimedOut { blob, store: self.url.to_string(), seconds: limit.as_secs() };
        timeout(limit, done).await.map_err(timed_out)?
    }
}

fn check_size(bytes: u64) -> Result<(), BlobError> {
    match bytes <= MAX_BLOB_BYTES {
        true => Ok(()),
        false => Err(BlobError::TooLarge { bytes, limit: MAX_BLOB_BYTES }),
    }
}
