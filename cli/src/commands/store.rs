//! The object store for inputs and outputs that are too large for a fleet's log.

use bytes::Bytes;
use robeing_blobs::{BlobRef, BlobStore};
use robeing_proto::v1::{self, Task, TaskSpec};

use super::connect::object_store_of_dev;
use crate::{
    args::{Connection, StoreArgs},
    error::CliError,
    inputs::INPUT_LIMIT,
};

/// Opens the object store that is named, or else that of the fleet of `robeing dev` that is selected.
///
/// # Errors
/// If the one that is named can't be used.
pub(super) fn open(args: &StoreArgs, fleet: &Connection) -> Result<Option<BlobStore>, CliError> {
    match args.object_store.as_deref().map(str::trim).filter(|url| !url.is_empty()) {
        Some(url) => Ok(Some(BlobStore::open(url)?)),
        // Most tasks need none, so it does not matter if it can't be used.
        None => Ok(object_store_of_dev(fleet).and_then(|url| BlobStore::open(&url).ok())),
    }
}

/// Puts the inputs that are too large for the log into the store, and refers to them.
///
/// # Errors
/// If one can't be stored.
pub(super) async fn upload(store: Option<&BlobStore>, specs: &mut [TaskSpec]) -> Result<(), CliError> {
    let Some(store) = store else { return Ok(()) };
    for spec in specs.iter_mut().filter(|spec| spec.input.len() > INPUT_LIMIT) {
        let BlobRef { sha256, bytes } = store.put(std::mem::take(&mut spec.input)).await?;
        spec.input_ref = Some(v1::BlobRef { sha256: sha256.to_vec().into(), bytes });
    }
    Ok(())
}

/// Fetches the output of a task that is in the store. Without a store, the task is left as it is.
///
/// # Errors
/// If it can't be fetched, or is not what the task refers to.
pub(super) async fn fetch_output(store: Option<&BlobStore>, task: &mut Task) -> Result<(), CliError> {
    let (Some(store), Some(v1::BlobRef { sha256, bytes })) = (store, &task.output_ref) else { return Ok(()) };
    let Some(blob) = BlobRef::from_parts(sha256, *bytes) else { return Ok(()) };
    let output: Bytes = store.get(blob).await?;
    (task.output, task.output_ref) = (output, None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn large_inputs_are_stored_and_outputs_are_fetched() {
        let folder = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(&format!("file://{}", folder.path().display())).expect("it can be opened");
        let (small, large) = (Bytes::from(vec![7; INPUT_LIMIT]), Bytes::from(vec![7; INPUT_LIMIT + 1]));
        let spec = |input: &Bytes| TaskSpec { input: input.clone(), ..TaskSpec::default() };
        let mut specs = vec![spec(&small), spec(&large)];
        upload(Some(&store), &mut specs).await.expect("it is stored");
        assert_eq!((&specs[0], specs[1].input.len()), (&spec(&small), 0));
        let mut task = Task { output_ref: specs[1].input_ref.clone(), ..Task::default() };
        fetch_output(None, &mut task).await.expect("nothing is to be done");
        assert!(task.output_ref.is_some());
        fetch_output(Some(&store), &mut task).await.expect("it is there");
        assert_eq!((task.output, task.output_ref), (large, None));
    }
}
