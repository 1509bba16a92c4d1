//! The data directory of a fleet. Only one `robeing dev` uses it at a time. Its state file contains the fleet's name
//! and the coordinators' ports, by which the coordinators know each other. The state file also distinguishes the
//! directory from unrelated ones.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{DevError, plan::OBJECTS, ports};
use crate::render::plural;

/// Locked by the `robeing dev` that uses the directory; contains its process id.
pub(super) const LOCK_FILE: &str = "lock";
/// Prefix of the names of temporary directories.
pub(super) const TEMPORARY: &str = "robeing-dev-";
const STATE_FILE: &str = "dev.json";
const STATE_ASIDE: &str = "dev.json.new";
const LOGS: &str = "logs";
/// Exists on a newly formatted disk.
const LOST_AND_FOUND: &str = "lost+found";
/// Version of the state file's format.
const STATE_VERSION: u32 = 1;

/// The contents of the state file.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
struct State {
    version: u32,
    name: String,
    ports: Vec<u16>,
}

/// A data directory that this process uses.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    /// Locked while it is open.
    _lock: File,
    /// Removed on drop.
    _temporary: Option<TempDir>,
}

impl DataDir {
    /// Opens and locks a directory, or a new temporary one if `wanted` is `None`.
    pub(super) fn open(wanted: Option<&Path>) -> Result<Self, DevError> {
        let (path, temporary) = match wanted {
            Some(path) => {
                fs::create_dir_all(path).map_err(|error| failed(path, error))?;
                ensure_own(path)?;
                (fs::canonicalize(path).map_err(|error| failed(path, error))?, None)
            }
            None => {
                let made = tempfile::Builder::new().prefix(TEMPORARY).tempdir();
                let made = made.map_err(|error| failed(&std::env::temp_dir(), error))?;
                (made.path().to_owned(), Some(made))
            }
        };
        let lock = lock(&path)?;
        fs::create_dir_all(path.join(LOGS)).map_err(|error| failed(&path, error))?;
        Ok(Self { path, _lock: lock, _temporary: temporary })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the log file of a process.
    pub(super) fn log_file(&self, name: &str) -> PathBuf {
        self.path.join(LOGS).join(format!("{name}.log"))
    }

    /// Returns the coordinators' ports, and stores them: the stored ones, else those from `base` on, else free ones.
    pub(super) async fn agree_on(&self, name: &str, count: usize, base: Option<u16>) -> Result<Vec<u16>, DevError> {
        let wanted = base.map(|base| ports::from_base(base, count)).transpose()?;
        if let Some(held) = self.read_state()? {
            self.check_same(&held, name, count, wanted.as_deref())?;
            ports::ensure_free(&held.ports, "the fleet in this directory needs it again: stop what listens there")
                .await?;
            return Ok(held.ports);
        }
        let ports = match wanted {
            Some(ports) => {
                ports::ensure_free(&ports, "choose another --port, or omit it to use free ports").await?;
                ports
            }
            None => ports::free(count)?,
        };
        self.write_state(&State { version: STATE_VERSION, name: name.into(), ports: ports.clone() })?;
        Ok(ports)
    }

    /// Makes the directory of the object store, which the agents and other commands don't: it might be a disk's.
    pub(super) fn make_objects(&self) -> Result<(), DevError> {
        fs::create_dir_all(self.path.join(OBJECTS)).map_err(|error| failed(&self.path, error))
    }

    fn check_same(&self, held: &State, name: &str, count: usize, wanted: Option<&[u16]>) -> Result<(), DevError> {
        let differ = |held: String, wanted: String| Err(DevError::OtherFleet { dir: self.path.clone(), held, wanted });
        if held.name != name {
            return differ(format!("the fleet {:?}", held.name), format!("{name:?}"));
        }
        if held.ports.len() != count {
            return differ(
                format!("a fleet of {}", plural(held.ports.len(), "coordinator")),
                format!("one of {}", plural(count, "coordinator")),
            );
        }
        match wanted {
            Some(wanted) if wanted != held.ports => {
                differ(format!("a fleet on the ports {:?}", held.ports), format!("one on {wanted:?}"))
            }
            _ => Ok(()),
        }
    }

    fn read_state(&self) -> Result<Option<State>, DevError> {
        let text = match fs::read(self.path.join(STATE_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&self.path, error)),
        };
        let invalid = |problem: String| {
            let problem = format!("its {STATE_FILE} can't be read ({problem})");
            failed(&self.path, io::Error::new(io::ErrorKind::InvalidData, problem))
        };
        let state: State = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        if state.version != STATE_VERSION {
            return Err(invalid(format!("version {} is not {STATE_VERSION}", state.version)));
        }
        Ok(Some(state))
    }

    fn write_state(&self, state: &State) -> Result<(), DevError> {
        let aside = self.path.join(STATE_ASIDE);
        let write = || -> io::Result<()> {
            let mut file = File::create(&aside)?;
            file.write_all(serde_json::to_string_pretty(state)?.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, self.path.join(STATE_FILE))
        };
        write().map_err(|error| failed(&self.path, error))
    }
}

/// Checks that a directory is empty or was created by `robeing dev`: it has a state file, or nothing but `lost+found`
/// and the files that are created before the state file. A state file that can't be parsed is accepted if the lock and
/// the logs exist; that error is reported later.
fn ensure_own(dir: &Path) -> Result<(), DevError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| failed(dir, error))? {
        names.push(entry.map_err(|error| failed(dir, error))?.file_name());
    }
    names.sort();
    let begun = [LOCK_FILE, LOGS, STATE_ASIDE, LOST_AND_FOUND];
    let Some(found) = names.iter().find(|name| begun.iter().all(|ours| name != ours)) else { return Ok(()) };
    let has = |name: &str| names.iter().any(|found| found == name);
    let is_state = || {
        let read = fs::read(dir.join(STATE_FILE)).ok();
        read.is_some_and(|text| serde_json::from_slice::<State>(&text).is_ok())
    };
    if has(STATE_FILE) && (has(LOCK_FILE) && has(LOGS) || is_state()) {
        return Ok(());
    }
    Err(DevError::ForeignData { dir: dir.to_owned(), found: found.to_string_lossy().into_owned() })
}

fn failed(dir: &Path, error: io::Error) -> DevError {
    DevError::Data { dir: dir.to_owned(), error }
}

fn lock(dir: &Path) -> Result<File, DevError> {
    let path = dir.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| failed(dir, error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(DevError::DataInUse { dir: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(failed(dir, error)),
    }
    let note = |file: &mut File| -> io::Result<()> {
        file.set_len(0)?;
        write!(file, "{}", std::process::id())
    };
    note(&mut file).map_err(|error| failed(dir, error))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_is_used_by_one_and_remembers_its_fleet() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = DataDir::open(Some(dir.path())).expect("free");
        let ports = data.agree_on("a", 3, None).await.expect("there are free ports");
        let error = DataDir::open(Some(dir.path())).expect_err("in use").to_string();
        assert!(
            error.contains(&format!("in use by another `robeing dev` (process {})", std::process::id())),
            "{error}"
        );
        drop(data);
        let data = DataDir::open(Some(dir.path())).expect("free again");
        assert_eq!(data.agree_on("a", 3, None).await.expect("the same fleet"), ports);
        for _ in 0..2 {
            data.make_objects().expect("it is made, or there");
            assert!(dir.path().join(OBJECTS).is_dir());
        }
        for (name, count, base, words) in [
            ("b", 3, None, r#"holds the fleet "a", but "b" was requested"#),
            ("a", 1, None, "holds a fleet of 3 coordinators, but one of 1 coordinator was requested"),
            ("a", 3, Some(1), "but one on [1, 2, 3] was requested"),
        ] {
            let error = data.agree_on(name, count, base).await.expect_err("another fleet").to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[tokio::test]
    async fn a_damaged_state_is_told_and_kept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let state = dir.path().join(STATE_FILE);
        drop(DataDir::open(Some(dir.path())).expect("free"));
        fs::write(&state, "{").expect("written");
        let data = DataDir::open(Some(dir.path())).expect("free");
        let error = data.agree_on("a", 1, None).await.expect_err("damaged").to_string();
        assert!(error.contains("its dev.json can't be read"), "{error}");
        assert_eq!(fs::read_to_string(&state).expect("still there"), "{");
    }

    #[test]
    fn a_directory_of_somebody_else_is_left_as_it_is() {
        for foreign in [&["notes.txt"][..], &["dev.json"], &["lock", "coordinator-0"], &["lock", "logs", ".git"]] {
            let dir = tempfile::tempdir().expect("a temporary directory");
            for name in foreign {
                fs::write(dir.path().join(name), "{}").expect("written");
            }
            let error = DataDir::open(Some(dir.path())).expect_err("it is not ours").to_string();
            let found = foreign.last().expect("there is one");
            assert!(error.contains(&format!("was not made by `robeing dev --data` (it has {found})")), "{error}");
            assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), foreign.len(), "nothing was added");
        }
    }

    #[test]
    fn a_directory_that_is_ours_or_empty_is_taken() {
        let state = r#"{"version": 1, "name": "a", "ports": [4000]}"#;
        for ours in [
            &[][..],
            &[("lost+found", "")],
            &[("lock", "7")],
            &[("lock", ""), ("dev.json.new", "{")],
            &[("dev.json", state), ("coordinator-0", "")],
            &[("dev.json", state), ("lock", "7"), ("coordinator-0", ""), ("mine.txt", "")],
        ] {
            let dir = tempfile::tempdir().expect("a temporary directory");
            for (name, text) in ours {
                fs::write(dir.path().join(name), text).expect("written");
            }
            DataDir::open(Some(dir.path())).unwrap_or_else(|error| panic!("{ours:?}: {error}"));
        }
    }

    #[test]
    fn a_temporary_directory_goes_with_its_fleet() {
        let data = DataDir::open(None).expect("made");
        let path = data.path().to_owned();
        assert!(path.join(LOGS).is_dir());
        drop(data);
        assert!(!path.exists());
    }
}
