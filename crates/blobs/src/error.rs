//! Why an object can't be stored or fetched.

use std::{error::Error, io, path::PathBuf};

use crate::BlobRef;

/// Why a store can't be opened, or an object can't be stored or fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The URL of a store is none.
    #[error("{url:?} is no object store ({reason}); write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or file:///DIRECTORY")]
    Url {
        /// The URL as given, without what could be a password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store can't be used as it is set.
    #[error("the object store {store} can't be used: {reason}")]
    Unusable {
        /// The URL of the store.
        store: String,
        /// What of its settings is missing or wrong.
        reason: String,
    },
    /// The directory of a store can't be read.
    #[error("the directory {path:?} of an object store, which has to exist, can't be used: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The object is larger than the limit.
    #[error("an object of {bytes} bytes is too large, the limit is {limit}")]
    TooLarge {
        /// The size of the object, bytes.
        bytes: u64,
        /// The largest size, bytes.
        limit: u64,
    },
    /// The store has no such object.
    #[error("there is no object {blob} in {store}; it was deleted, or is in another store")]
    Missing {
        /// The object.
        blob: BlobRef,
        /// The URL of the store.
        store: String,
    },
    /// The object has another length than the reference says.
    #[error("the object {blob} in {store} has {found} bytes, and should have {}; it was damaged", .blob.bytes)]
    Length {
        /// The object.
        blob: BlobRef,
        /// The URL of the store.
        store: String,
        /// How many bytes were found, at least.
        found: u64,
    },
    /// The object has another content than the reference says.
    #[error("the object {blob} in {store} has another hash; it was damaged, or replaced")]
    Hash {
        /// The object.
        blob: BlobRef,
        /// The URL of the store.
        store: String,
    },
    /// The store did not finish in time.
    #[error("the object store {store} did not store or return {blob} within {seconds} s; check the connection to it")]
    TimedOut {
        /// The object.
        blob: BlobRef,
        /// The URL of the store.
        store: String,
        /// How long it was waited for, seconds.
        seconds: u64,
    },
    /// The store failed.
    #[error("the object store {store} failed: {reason}")]
    Store {
        /// The URL of the store.
        store: String,
        /// Why, as the store says. It contains nothing that could be a credential, since failures of tasks contain it.
        reason: String,
    },
    /// The process is about to end.
    #[error("the process ends before the object was stored")]
    Ending,
}

/// The longest reason of a store in an error, bytes: a longer one is cut.
pub(crate) const MAX_REASON_BYTES: usize = 1_000;

impl BlobError {
    /// Returns the failure of a store.
    pub(crate) fn store(store: String, source: &object_store::Error) -> Self {
        Self::Store { store, reason: reason(source) }
    }

    /// Returns that a store can't be used as it is set.
    pub(crate) fn unusable(store: String, source: &object_store::Error) -> Self {
        Self::Unusable { store, reason: reason(source) }
    }

    /// Returns whether the same may succeed later, or at another machine.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::TooLarge { .. } | Self::Url { .. })
    }
}

/// Returns why a store failed, with the cause that is behind all others. The response of a store can repeat the headers of
/// the request, which contain the token of a session, so only its code and message are returned.
pub(crate) fn reason(error: &(dyn Error + 'static)) -> String {
    let text = error.to_string();
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let cause = cause.to_string();
    let mut reason = match text.split_once('<') {
        Some((before, answer)) => {
            let known = ["Code", "Message"].into_iter().filter_map(|name| element(answer, name));
            [before.trim_end_matches([' ', ':'])].into_iter().chain(known).collect::<Vec<_>>().join(": ")
        }
        None if text.contains(&cause) => text,
        None => format!("{text}: {cause}"),
    };
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    reason
}

/// Returns the content of the first element with this name in XML.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once("</")?.0)
}
