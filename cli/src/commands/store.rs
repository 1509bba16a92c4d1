//! The object store for inputs and outputs that are too large for a fleet's log.

use bytes::Bytes;
use robeing_blobs::{BlobRef, BlobStore};
use robeing_client::{ClientError, FleetClient};
use robeing_proto::v1::{self, Consistency, Task, TaskSpec};
use tonic::Code;

use super::connect::object_store_of_dev;
use crate::{
    args::{Connection, StoreArgs},
    error::CliError,
    inputs::INPUT_LIMIT,
};

/// The fleet version since which a task can refer to its input. A coordinator of an earlier one does not see the reference,
/// and would accept the task with an empty input.
const REFS_SINCE: u32 = 4;

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

fn is_large(spec: &TaskSpec) -> bool {
    spec.input.len() > INPUT_LIMIT
}

/// Checks that the fleet knows references to inputs, if a task is to have one.
///
/// # Errors
/// If it does not, or can't be asked.
pub(super) async fn check_version(client: &FleetClient, specs: &[TaskSpec]) -> Result<(), CliError> {
    if !specs.iter().any(is_large) {
        return Ok(());
    }
    match client.status(Consistency::Linearizable).await {
        Ok(status) if status.fleet_version < REFS_SINCE => {
            Err(CliError::NoReferences { current: status.fleet_version, since: REFS_SINCE })
        }
        // Who may submit tasks need not be allowed to read the status.
        Ok(_) | Err(ClientError::Refused { code: Code::PermissionDenied, .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Puts the inputs that are too large for the log into the store, and refers to them.
///
/// # Errors
/// If one can't be stored.
pub(super) async fn upload(store: Option<&BlobStore>, specs: &mut [TaskSpec]) -> Result<(), CliError> {
    let Some(store) = store else { return Ok(()) };
    for spec in specs.iter_mut().filter(|spec| is_large(spec)) {
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
