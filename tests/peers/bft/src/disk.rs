//! The files of replicas.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    path::Path,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use commonware_utils::channel::oneshot;

/// Size from which the file of a replica's batches is written from its start again, in bytes: much more than all batches
/// that are not decided yet. Nobody keeps decisions for good here.
const MAX_KEPT_BYTES: u64 = 64 << 20;
/// Bytes that are written before each sync that is measured, and how often.
const BLOCK: usize = 4_096;
const SYNCS: usize = 200;

/// A batch, and who waits until it is on the disk.
type Batch = (Bytes, oneshot::Sender<()>);

/// Returns where a replica has its batches kept, in a file of their own. Those that wait share one sync.
pub fn keeper(path: &Path) -> Sender<Batch> {
    let file = File::create(path).expect("the folder can be written to");
    let (sender, batches) = channel();
    // It ends with the senders.
    thread::spawn(move || keep(file, &batches).expect("the batches can be written"));
    sender
}

fn keep(mut file: File, batches: &Receiver<Batch>) -> io::Result<()> {
    let mut written = 0;
    while let Ok(first) = batches.recv() {
        let all: Vec<Batch> = std::iter::once(first).chain(batches.try_iter()).collect();
        if written > MAX_KEPT_BYTES {
            file.seek(SeekFrom::Start(0))?;
            written = 0;
        }
        for (batch, _) in &all {
            file.write_all(batch)?;
            written += batch.len() as u64;
        }
        file.sync_data()?;
        for (_, waits) in all {
            // Nobody does once the group has ended.
            let _ = waits.send(());
        }
    }
    Ok(())
}

/// Returns the median time that it takes to overwrite 4 KiB of a file in this folder, and to sync it.
pub fn sync_time(folder: &Path) -> io::Result<Duration> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&[7; BLOCK])?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times[SYNCS / 2])
}
