//! Inputs and outputs of tasks that are too large for the log: they are kept in an object store, which is a directory,
//! S3 or Google Cloud Storage, and the log carries a [`BlobRef`], by which they are found and checked.
//!
//! An object is called by the SHA-256 of its content, so the same content is stored once, an object never changes, and
//! its readers check that it is the right one. Nothing is ever deleted here: give the store a lifecycle rule.
//!
//! This crate makes its own connections and reads its own files, besides `robeing-platform`, because stores are no part
//! of what the simulator runs.

mod error;
mod http;
mod location;
mod reference;
mod store;

pub use error::BlobError;
pub use location::{OWN_VARIABLES, directory_url};
pub use reference::BlobRef;
pub use store::{BlobStore, MAX_BLOB_BYTES};

#[cfg(test)]
mod tests;
