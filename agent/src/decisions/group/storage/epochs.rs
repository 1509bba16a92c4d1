//! The files of an epoch: its records, and the state with which it starts.

use std::io;

use robeing_bft::{record::Record, state::State, wire::Wire};
use robeing_groups::Group;
use tracing::warn;

use super::{Folder, FrameFile, IDENTITY, RECORDS, StoreError, pack};

/// Begins the names of the files with the states with which epochs start.
const INITIAL: &str = "initial-";

/// Returns the file of the records in an epoch.
pub(super) fn records_of(epoch: u64) -> String {
    if epoch == 0 { RECORDS.to_owned() } else { format!("{RECORDS}-{epoch}") }
}

/// Returns the file of the state with which an epoch starts.
fn initial_of(epoch: u64) -> String {
    format!("{INITIAL}{epoch}")
}

/// Returns the epoch that a file belongs to; `None` if it belongs to none.
fn epoch_of(file: &str) -> Option<u64> {
    if file == RECORDS {
        return Some(0);
    }
    let rest = file.strip_prefix(INITIAL).or_else(|| file.strip_prefix(RECORDS)?.strip_prefix('-'))?;
    let epoch = rest.parse().ok()?;
    (file == records_of(epoch) || file == initial_of(epoch)).then_some(epoch)
}

impl Folder {
    /// Keeps the description of a later epoch of the group, which starts with this state: the member may vote in it
    /// from now on, and never again in an earlier one.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails. Then the member is in the epoch before, or in none.
    pub async fn admit_next(&self, group: &Group, initial: &State) -> Result<(), StoreError> {
        let number = group.epoch().number;
        let identity = self.known_identity().await?.ok_or_else(|| StoreError::Lost(self.path.join(IDENTITY)))?;
        self.replace(&initial_of(number), initial.encoded().into()).await?;
        let file = records_of(number);
        // What is there is of an attempt that was interrupted.
        if self.read(&file).await?.is_none() {
            let records = [pack(&[Record::Identity(identity.incarnation)])];
            FrameFile::create(&self.disk, &self.path.join(file), self.random.next_u64(), &records).await?;
        }
        // From here on, this epoch is the one that the member is in.
        self.admit(group).await?;
        if let Err(error) = self.forget_before(number).await {
            // The next epoch removes them.
            warn!(group = group.name(), %error, "files of earlier epochs of a group can't be removed");
        }
        Ok(())
    }

    /// Removes the records and states of earlier epochs, each as large as tens of MiB.
    async fn forget_before(&self, epoch: u64) -> io::Result<()> {
        for file in self.disk.list(&self.path).await? {
            if epoch_of(&file).is_some_and(|of| of < epoch) {
                self.disk.remove(&self.path.join(file)).await?;
            }
        }
        self.disk.sync_dir(&self.path).await
    }

    /// Returns the state with which a later epoch of the group starts.
    ///
    /// # Errors
    /// [`StoreError`] if it is gone, damaged, or can't be read.
    pub async fn initial(&self, epoch: u64) -> Result<State, StoreError> {
        let file = initial_of(epoch);
        let bytes = self.read(&file).await?.ok_or_else(|| StoreError::Lost(self.path.join(&file)))?;
        State::decoded(&bytes).map_err(|error| StoreError::damaged(&self.path.join(&file), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_of_the_epoch_in_their_names() {
        for (file, epoch) in [("records", 0), ("records-1", 1), ("initial-1", 1), ("initial-64", 64)] {
            assert_eq!(epoch_of(file), Some(epoch), "{file}");
        }
        for file in ["identity", "request-ids", "group.json", "lock", "enrolled", "decisions-0000000000000000"] {
            assert_eq!(epoch_of(file), None, "{file}");
        }
        for file in ["records-", "records1", "records-01", "records-x", "initial-", "initial", "initial-+1"] {
            assert_eq!(epoch_of(file), None, "{file}");
        }
    }
}
