//! The simulated disk: the interface that programs use, and the one that tests use to inject faults.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::state::{Latency, Power, State, power_is_off};
use crate::{Disk, DiskFile, DiskLock, FileStamp};

/// An in-memory disk. Clones share it, like programs on one machine. Directories are durable once created, and gone once removed; files behave
/// as on a real disk: a name is durable after [`Disk::sync_dir`], content after the file's sync.
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

/// How often a hung sync checks whether the disk works again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

struct OpenFile {
    disk: SimulatedDisk,
    epoch: u64,
    number: u64,
    path: PathBuf,
}

struct Lock {
    disk: SimulatedDisk,
    epoch: u64,
    path: PathBuf,
}

impl DiskLock for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.epoch == self.epoch {
            state.locks.remove(&self.path);
        }
    }
}

fn eio(path: &Path) -> io::Error {
    io::Error::other(format!("simulated I/O error syncing {}", path.display()))
}

impl SimulatedDisk {
    /// Creates an empty disk. `seed` determines how long syncs take.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State::new(seed))))
    }

    /// Creates an empty disk whose syncs take time.
    pub fn with_latency(seed: u64, latency: Latency) -> Self {
        let disk = Self::new(seed);
        disk.state().latency = Some(latency);
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Simulates a power failure and restart. `seed` determines what survives of unsynced changes: any subset of a
    /// file's sectors, any subset of a directory's changes. Open files and locks become invalid. A pending power or
    /// sync failure is cancelled and a hang ends; latency, capacity and [`SimulatedDisk::lie`] remain.
    pub fn crash(&self, seed: u64) {
        self.state().crash(seed);
    }

    /// Replaces the disk with an empty one. Open files and locks become invalid.
    pub fn wipe(&self) {
        self.state().wipe();
    }

    /// Makes the power fail during the `operations`-th operation from now (counting those that may change something);
    /// that one and all later ones fail. Call [`SimulatedDisk::crash`] afterwards.
    pub fn power_off_during(&self, operations: u64) {
        self.state().power_left = Some(operations);
    }

    /// Returns the number of operations so far that may have changed something.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Makes one sync fail with an I/O error after `good` successful ones. As on real systems, the data of the failed
    /// sync is readable until a crash, and no later sync makes it durable.
    pub fn fail_sync_after(&self, good: u64) {
        self.state().sync_failure_in = Some(good);
    }

    /// Cancels the pending sync failure. Data whose sync has already failed stays lost.
    pub fn fail_no_sync(&self) {
        self.state().sync_failure_in = None;
    }

    /// Returns the number of syncs that failed so far, plus writes that found no room.
    pub fn failures(&self) -> u64 {
        self.state().failures
    }

    /// Limits the total size of all files to `bytes`; `None` means no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Returns the total size of all files, in bytes.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Sets how long syncs take from now on; `None` means no time.
    pub fn set_latency(&self, latency: Option<Latency>) {
        self.state().latency = latency;
    }

    /// Sets whether the disk hangs. While it does, no sync completes.
    pub fn set_hung(&self, hung: bool) {
        self.state().hung = hung;
    }

    /// Returns the names of the files in a directory; empty if there is no such directory.
    pub fn files(&self, dir: &Path) -> Vec<String> {
        self.state().names(dir).unwrap_or_default()
    }

    /// From now on, file syncs report success without syncing, as broken disks do: to check that a test notices.
    pub fn lie(&self) {
        self.state().lying = true;
    }

    /// Returns a checksum of all operations so far; two runs with the same seed have the same one.
    pub fn trace(&self) -> u32 {
        self.state().trace
    }

    /// Returns a file's content.
    pub fn content(&self, path: &Path) -> io::Result<Bytes> {
        Ok(self.state().file(path)?.read(0, usize::MAX).into())
    }

    /// Changes a file's content durably, behind the program's back.
    pub fn overwrite(&self, path: &Path, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let file = state.file(path)?;
        file.write(offset, data);
        file.sync();
        Ok(())
    }

    /// Flips one bit of a file durably.
    pub fn flip(&self, path: &Path, byte: u64, bit: u32) -> io::Result<()> {
        let old = self.state().file(path)?.read(byte, 1);
        let old = old.first().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        self.overwrite(path, byte, &[old ^ (1 << bit)])
    }

    /// Truncates a file durably.
    pub fn cut(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let file = state.file(path)?;
        file.cut(len);
        file.sync();
        Ok(())
    }

    /// Waits for the duration of one sync.
    async fn take_time(&self) {
        let latency = self.state().draw_latency();
        if let Some(latency) = latency {
            tokio::time::sleep(latency).await;
        }
        while self.is_hung() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn is_hung(&self) -> bool {
        self.state().hung
    }
}

#[async_trait]
impl Disk for SimulatedDisk {
    async fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.state().make_directory(dir);
        Ok(())
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.state().names(dir)
    }

    async fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let number = match state.find(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && create => {
                let power = state.operate("create", path, &[])?;
                let number = state.create(path)?;
                if power == Power::Fails {
                    return Err(power_is_off());
                }
                number
            }
            found => found?,
        };
        Ok(Arc::new(OpenFile { disk: self.clone(), epoch: state.epoch, number, path: path.to_owned() }))
    }

    async fn read(&self, path: &Path) -> io::Result<Bytes> {
        self.content(path)
    }

    async fn stamp(&self, path: &Path) -> io::Result<FileStamp> {
        let mut state = self.state();
        let number = state.find(path)?;
        let file = state.file(path)?;
        Ok(FileStamp { len: file.len(), file: (0, number), changed: (i128::from(file.changes()), 0) })
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let power = state.operate("rename", to, from.as_os_str().as_encoded_bytes())?;
        state.rename(from, to)?;
        if power == Power::Fails { Err(power_is_off()) } else { Ok(()) }
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let power = state.operate("remove", path, &[])?;
        state.remove(path)?;
        if power == Power::Fails { Err(power_is_off()) } else { Ok(()) }
    }

    async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let power = state.operate("remove directory", dir, &[])?;
        state.remove_directory(dir)?;
        if power == Power::Fails { Err(power_is_off()) } else { Ok(()) }
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let (power, epoch) = {
            let mut state = self.state();
            (state.operate("sync directory", dir, &[])?, state.epoch)
        };
        self.take_time().await;
        let mut state = self.state();
        if power == Power::Fails || state.epoch != epoch {
            return Err(power_is_off());
        }
        if state.sync_fails() {
            return Err(eio(dir));
        }
        state.sync_directory(dir)
    }

    async fn free(&self, _: &Path) -> io::Result<u64> {
        Ok(self.state().room())
    }

    async fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut state = self.state();
        if !state.locks.insert(path.to_owned()) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, format!("{} is locked", path.display())));
        }
        Ok(Box::new(Lock { disk: self.clone(), epoch: state.epoch, path: path.to_owned() }))
    }
}

impl OpenFile {
    /// Runs an operation that ends with a sync: `change` is visible immediately, and durable once the sync completes.
    async fn change(
        &self,
        what: &str,
        data: &[u8],
        change: impl FnOnce(&mut State) -> io::Result<()> + Send,
    ) -> io::Result<()> {
        let power = {
            let mut state = self.disk.state();
            if state.epoch != self.epoch {
                return Err(power_is_off());
            }
            let power = state.operate(what, &self.path, data)?;
            change(&mut state)?;
            power
        };
        self.disk.take_time().await;
        let mut state = self.disk.state();
        if power == Power::Fails || state.epoch != self.epoch {
            return Err(power_is_off());
        }
        let (fails, lying) = (state.sync_fails(), state.lying);
        let file = state.files.get_mut(&self.number).ok_or_else(|| eio(&self.path))?;
        match (fails, lying) {
            (true, _) => {
                file.fail_sync();
                return Err(eio(&self.path));
            }
            (false, false) => file.sync(),
            (false, true) => {}
        }
        Ok(())
    }
}

#[async_trait]
impl DiskFile for OpenFile {
    async fn write_at_and_sync(&self, offset: u64, data: Bytes) -> io::Result<()> {
        self.change("write", &data, |state| {
            let room = state.room();
            let file = state.files.get_mut(&self.number).ok_or_else(|| eio(&self.path))?;
            if (offset + data.len() as u64).saturating_sub(file.len()) > room {
                return Err(state.full());
            }
            file.write(offset, &data);
            Ok(())
        })
        .await
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut state = self.disk.state();
        if state.epoch != self.epoch {
            return Err(power_is_off());
        }
        let file = state.files.get_mut(&self.number).ok_or_else(|| eio(&self.path))?;
        Ok(file.read(offset, len).into())
    }

    async fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        Ok(state.files.get_mut(&self.number).ok_or_else(|| eio(&self.path))?.len())
    }

    async fn fill_to(&self, len: u64) -> io::Result<()> {
        self.change("fill", &len.to_le_bytes(), |state| {
            let room = state.room();
            let file = state.files.get_mut(&self.number).ok_or_else(|| eio(&self.path))?;
            let missing = len.saturating_sub(file.len());
            file.extend(file.len() + missing.min(room));
            if missing > room { Err(state.full()) } else { Ok(()) }
        })
        .await
    }
}
