//! The time that the disk itself takes for what a log does, for reference.

use std::{
    fs::OpenOptions,
    io::{Seek, SeekFrom, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::measure::Spread;

/// The number of bytes that are written before each sync.
const BLOCK: usize = 4096;
/// The number of blocks in the file. All are written first and then overwritten, as in a preallocated log.
const BLOCKS: usize = 1024;
/// The duration of the measurement.
const LENGTH: Duration = Duration::from_secs(1);

/// Measures the time to overwrite a block of a preallocated file and to sync it with `fdatasync`.
///
/// # Errors
/// If the directory can't be written to.
pub fn sync_latency(directory: &Path) -> Result<Spread> {
    let path = directory.join("disk-reference");
    let measured = sync_file(&path).with_context(|| format!("can't measure the disk of {}", directory.display()));
    let _ = std::fs::remove_file(&path);
    measured
}

fn sync_file(path: &Path) -> std::io::Result<Spread> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let block = [0x5a_u8; BLOCK];
    for _ in 0..BLOCKS {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    let began = Instant::now();
    let mut took = Vec::new();
    while began.elapsed() < LENGTH {
        let offset = took.len() % BLOCKS * BLOCK;
        file.seek(SeekFrom::Start(offset as u64))?;
        let start = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        took.push(start.elapsed());
    }
    Ok(Spread::of(took))
}
