//! Damage to a coordinator's data, which it must detect.

use std::path::Path;

use robeing_platform::{Random, simulated::SimulatedDisk};

use crate::{clients::below, hosts::DATA};

const SNAPSHOT: &str = "snapshot";
/// A shorter log has too few frames: damage in the last one looks like a torn write.
const LEAST_LOG: usize = 20_000;

/// Flips a bit of synced data: of the snapshot or, if `of_log`, of the log, well before its end. Returns whether there
/// was anything to flip.
pub fn flip_bit(disk: &SimulatedDisk, random: &dyn Random, of_log: bool) -> bool {
    let dir = Path::new(DATA);
    let files = disk.files(dir);
    let snapshot = files.iter().any(|name| name == SNAPSHOT).then(|| dir.join(SNAPSHOT));
    let log = files.iter().find(|name| name.ends_with(".log")).filter(|_| of_log).map(|name| dir.join(name));
    let whole = |path: &Path| disk.content(path).map_or(0, |content| content.len());
    // The file contains zeros after the last frame.
    let written = |path: &Path| {
        disk.content(path).map_or(0, |content| content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1))
    };
    let log = log.filter(|path| written(path) >= LEAST_LOG);
    let (path, len) = match (snapshot, log) {
        (Some(path), None) => (path.clone(), whole(&path)),
        (_, Some(path)) if below(random, 2) == 0 => (path.clone(), written(&path) / 4),
        (Some(path), Some(_)) => (path.clone(), whole(&path)),
        (None, Some(path)) => (path.clone(), written(&path) / 4),
        (None, None) => return false,
    };
    let (byte, bit) = (below(random, len.max(1) as u64), below(random, 8) as u32);
    disk.flip(&path, byte, bit).is_ok()
}
