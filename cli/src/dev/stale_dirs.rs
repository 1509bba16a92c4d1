//! Temporary directories of `robeing dev` processes that were killed and could not remove them. A running process holds
//! the lock in its directory, so a lock that can be acquired belongs to a dead one. Only this user's own directories
//! are examined.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{libc::O_NOFOLLOW, unistd::geteuid};

use super::data::{LOCK_FILE, TEMPORARY};

/// Maximum number of bytes to read of a lock file, enough for any process id.
const PID_BYTES: u64 = 32;

/// Removes what dead `robeing dev` processes left in the directory for temporary files. Returns the removed
/// directories. Anything that can't be examined or removed is left for the next time.
pub(super) fn remove() -> Vec<PathBuf> {
    remove_in(&std::env::temp_dir())
}

fn remove_in(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(TEMPORARY));
    let paths = named.map(|entry| entry.path());
    paths.filter(|path| lock_of_dead(path).is_some_and(|lock| remove_locked(path, &lock).is_ok())).collect()
}

/// Acquires the lock of a directory whose process is dead. The lock file of a directory that is just being created
/// contains no process id yet.
fn lock_of_dead(dir: &Path) -> Option<File> {
    let own = geteuid().as_raw();
    let directory = fs::symlink_metadata(dir).ok()?;
    if !directory.is_dir() || directory.uid() != own {
        return None;
    }
    // The lock must be a regular file, neither a link to another lock nor a FIFO, which would block.
    let lock = dir.join(LOCK_FILE);
    if !fs::symlink_metadata(&lock).ok()?.is_file() {
        return None;
    }
    let mut file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(lock).ok()?;
    if file.metadata().ok()?.uid() != own {
        return None;
    }
    file.try_lock().ok()?;
    let mut pid = String::new();
    (&mut file).take(PID_BYTES).read_to_string(&mut pid).ok()?;
    pid.trim().parse::<u32>().ok()?;
    Some(file)
}

/// Removes a directory, its lock file last: processes of the dead fleet may still write while they exit, and then what
/// is left must be recognizable as stale. Links in the directory are removed, not followed.
fn remove_locked(dir: &Path, _taken: &File) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == LOCK_FILE {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir_all(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// Creates a directory for temporary files that contains the directory of a fleet.
    fn left(name: &str, pid: Option<&str>) -> (TempDir, PathBuf) {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let dir = parent.path().join(name);
        fs::create_dir_all(dir.join("logs")).expect("made");
        fs::write(dir.join("logs/a.log"), "text").expect("written");
        if let Some(pid) = pid {
            fs::write(dir.join(LOCK_FILE), pid).expect("written");
        }
        (parent, dir)
    }

    #[test]
    fn what_a_dead_process_left_is_removed() {
        let (parent, dir) = left("robeing-dev-abc", Some("7"));
        let outside = parent.path().join("outside");
        fs::write(&outside, "kept").expect("written");
        symlink(&outside, dir.join("link")).expect("made");
        assert_eq!(remove_in(parent.path()), std::slice::from_ref(&dir));
        assert!(!dir.exists());
        assert_eq!(fs::read_to_string(outside).expect("it is there"), "kept");
    }

    #[test]
    fn what_is_in_use_or_not_known_as_ours_is_left() {
        for (name, pid) in [
            ("robeing-dev-new", None),
            ("robeing-dev-young", Some("")),
            ("robeing-dev-other", Some("something else")),
            ("robeing-test-abc", Some("7")),
        ] {
            let (parent, dir) = left(name, pid);
            assert_eq!(remove_in(parent.path()), Vec::<PathBuf>::new(), "{name}");
            assert!(dir.join("logs/a.log").exists(), "{name}");
        }
        let (parent, dir) = left("robeing-dev-used", Some("7"));
        let used = File::open(dir.join(LOCK_FILE)).expect("it is there");
        used.lock().expect("nobody has it");
        assert_eq!(remove_in(parent.path()), Vec::<PathBuf>::new());
        drop(used);
        assert_eq!(remove_in(parent.path()), [dir]);
    }

    #[test]
    fn links_are_not_followed() {
        let (elsewhere, real) = left("real", Some("7"));
        let parent = tempfile::tempdir().expect("a temporary directory");
        symlink(&real, parent.path().join("robeing-dev-link")).expect("made");
        let dir = parent.path().join("robeing-dev-locked-elsewhere");
        fs::create_dir(&dir).expect("made");
        symlink(real.join(LOCK_FILE), dir.join(LOCK_FILE)).expect("made");
        assert_eq!(remove_in(parent.path()), Vec::<PathBuf>::new());
        assert!(real.join("logs/a.log").exists() && dir.exists(), "in {}", elsewhere.path().display());
    }
}
