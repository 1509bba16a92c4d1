//! The registry of running `robeing dev` fleets, so that other commands of the same user find them. Each fleet has a
//! file that only the user can read, and holds a lock on it while it runs. A file whose lock is free was left behind by
//! a killed fleet.

use std::{
    env, fmt,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use nix::unistd::geteuid;
use robeing_client::{ClientIdentity, CredentialsError, Security};
use serde::{Deserialize, Serialize};

use super::plan::object_store;

/// A running fleet.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunningFleet {
    /// The name of the fleet.
    pub name: String,
    /// The process id of `robeing dev`.
    pub pid: u32,
    /// When the fleet was started, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// The URLs of the coordinators.
    pub endpoints: Vec<String>,
    /// The data directory.
    pub data: PathBuf,
    /// The user's credentials for the fleet; `None` if it runs without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Credentials>,
    /// The agents that processes of the user's attach to; programs of the Python SDK find them here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachable: Vec<Attachable>,
    /// The URL of the object store for large inputs and outputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store: Option<String>,
}

/// An agent that processes of the user's attach to.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachable {
    /// The agent's name.
    pub agent: String,
    /// The address (host:port) to attach at.
    pub address: String,
}

/// The user's credentials for a fleet, PEM.
#[derive(Clone, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    trust: String,
    certificate: String,
    key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl RunningFleet {
    /// Returns how the user's commands connect to the fleet.
    ///
    /// # Errors
    /// If the credentials in the entry can't be used.
    pub fn security(&self) -> Result<Security, CredentialsError> {
        let Some(Credentials { trust, certificate, key }) = self.identity.clone() else { return Ok(Security::plain()) };
        let certificate = Some((certificate, key));
        Security::with_identity(&ClientIdentity { cluster: self.name.clone(), trust, certificate, token: None })
    }
}

/// A fleet's entry in the registry, removed on drop.
#[derive(Debug)]
pub struct Registration {
    path: PathBuf,
    found_by: String,
    _locked: File,
}

const RUNTIME: &str = "XDG_RUNTIME_DIR";
const TEMPORARY: &str = "TMPDIR";

/// A directory of entries, and the environment variable that determines it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Directory {
    path: PathBuf,
    variable: &'static str,
    /// The value that the variable must have; `None` if the default leads to the same directory.
    value: Option<PathBuf>,
}

impl Directory {
    /// Returns which commands search this directory, as the end of "other commands find it".
    fn condition(&self) -> String {
        match &self.value {
            Some(value) => format!("if {}={} is set for them, too", self.variable, value.display()),
            None => format!("unless they set another {}", self.variable),
        }
    }
}

/// Returns the directories that can contain this user's entries; new entries go to the first. A runtime directory that
/// belongs to another user, as after `sudo -E` or `su`, is not used.
fn directories() -> Vec<Directory> {
    let said = env::var_os(RUNTIME).map(PathBuf::from).filter(|path| path.is_absolute());
    directories_of(said, &env::temp_dir())
}

fn directories_of(said: Option<PathBuf>, temporary: &Path) -> Vec<Directory> {
    // The default location, for a shell without the variable.
    let usual = PathBuf::from(format!("/run/user/{}", geteuid()));
    let runtime = said.unwrap_or_else(|| usual.clone());
    let own = fs::metadata(&runtime).is_ok_and(|metadata| metadata.uid() == geteuid().as_raw());
    let unusual = |path: &Path, usual: &Path| (path != usual).then(|| path.to_owned());
    let runtime =
        own.then(|| Directory { path: runtime.join("robeing"), variable: RUNTIME, value: unusual(&runtime, &usual) });
    let temporary = Directory {
        path: temporary.join(format!("robeing-{}", geteuid())),
        variable: TEMPORARY,
        value: unusual(temporary, Path::new("/tmp")),
    };
    runtime.into_iter().chain([temporary]).collect()
}

/// Returns the directories that are searched for running fleets of this user.
pub fn searched() -> Vec<PathBuf> {
    directories().into_iter().map(|directory| directory.path).collect()
}

/// Returns whether a directory belongs to the user and nobody else can write to it. Another user could have created it
/// in the directory for temporary files.
fn is_trusted(directory: &Path) -> bool {
    fs::symlink_metadata(directory)
        .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o022 == 0)
}

impl Registration {
    /// Registers a running fleet. `attachable` are the agents that processes attach to, with their addresses.
    ///
    /// # Errors
    /// If the entry can't be written.
    pub fn write(
        name: &str,
        endpoints: &[String],
        data: &Path,
        identity: Option<ClientIdentity>,
        attachable: &[(String, String)],
    ) -> io::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let fleet = RunningFleet {
            name: name.into(),
            pid: std::process::id(),
            started_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            endpoints: endpoints.to_vec(),
            // Lossy, which is fine: the path is only shown to people, and JSON strings are UTF-8.
            data: data.to_string_lossy().into_owned().into(),
            identity: identity.and_then(|identity| {
                let (certificate, key) = identity.certificate?;
                Some(Credentials { trust: identity.trust, certificate, key })
            }),
            attachable: attachable
                .iter()
                .map(|(agent, address)| Attachable { agent: agent.clone(), address: address.clone() })
                .collect(),
            object_store: object_store(data),
        };
        Self::write_in_one_of(&directories(), &fleet)
    }

    /// Returns which commands find the fleet, as the end of "other commands find it".
    pub fn found_by(&self) -> &str {
        &self.found_by
    }

    fn write_in_one_of(directories: &[Directory], fleet: &RunningFleet) -> io::Result<Self> {
        let mut problems = Vec::new();
        for directory in directories {
            match Self::write_in(&directory.path, fleet) {
                Ok((path, locked)) => return Ok(Self { path, found_by: directory.condition(), _locked: locked }),
                Err(error) => problems.push(format!("{}: {error}", directory.path.display())),
            }
        }
        Err(io::Error::other(problems.join("; ")))
    }

    fn write_in(directory: &Path, fleet: &RunningFleet) -> io::Result<(PathBuf, File)> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        if !is_trusted(directory) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the directory is not this user's own"));
        }
        // The port distinguishes several fleets of the same process.
        let port = fleet.endpoints.first().and_then(|endpoint| endpoint.rsplit(':').next()).unwrap_or_default();
        let path = directory.join(format!("{}-{}-{port}.json", fleet.name, fleet.pid));
        let aside = path.with_extension("new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
        file.lock()?;
        file.write_all(&serde_json::to_vec(fleet)?)?;
        fs::rename(&aside, &path)?;
        Ok((path, file))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Returns the running `robeing dev` fleets of this user, in no particular order.
pub fn running() -> Vec<RunningFleet> {
    searched().iter().flat_map(|directory| running_in(directory)).collect()
}

fn running_in(directory: &Path) -> Vec<RunningFleet> {
    if !is_trusted(directory) {
        return Vec::new();
    }
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| read_entry(&entry.path())).collect()
}

/// Returns the fleet of an entry. Removes an entry whose fleet no longer runs.
fn read_entry(path: &Path) -> Option<RunningFleet> {
    if path.extension()? != "json" {
        return None;
    }
    let file = File::open(path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => serde_json::from_reader(file).ok(),
        Err(TryLockError::Error(_)) => None,
        Ok(()) => {
            let _ = fs::remove_file(path);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn fleet(name: &str) -> RunningFleet {
        RunningFleet {
            name: name.into(),
            pid: 7,
            started_unix_ms: 1,
            endpoints: vec!["http://127.0.0.1:4000".into()],
            data: "/data".into(),
            identity: None,
            attachable: vec![Attachable { agent: "own-0".into(), address: "127.0.0.1:5000".into() }],
            object_store: None,
        }
    }

    fn directory(path: &Path) -> Directory {
        Directory { path: path.into(), variable: RUNTIME, value: None }
    }

    #[test]
    fn who_finds_a_fleet_is_known() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let conditions = |said: Option<&Path>, temporary: &Path| -> Vec<String> {
            directories_of(said.map(Path::to_owned), temporary).iter().map(Directory::condition).collect()
        };
        let dir = base.path().display();
        assert_eq!(
            conditions(Some(base.path()), base.path()),
            [format!("if XDG_RUNTIME_DIR={dir} is set for them, too"), format!("if TMPDIR={dir} is set for them, too")]
        );
        let nowhere = Path::new("/nonexistent");
        assert_eq!(conditions(Some(nowhere), Path::new("/tmp")), ["unless they set another TMPDIR"]);
        let usual = directory(Path::new("/run/user/0/robeing")).condition();
        assert_eq!(usual, "unless they set another XDG_RUNTIME_DIR");
    }

    #[test]
    fn a_fleet_is_found_while_it_runs() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let dir = base.path().join("robeing");
        assert_eq!(running_in(&dir), []);
        let registration = Registration::write_in_one_of(&[directory(&dir)], &fleet("a")).expect("written");
        let mode = fs::metadata(&registration.path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(running_in(&dir), [fleet("a")]);
        drop(registration);
        assert_eq!(running_in(&dir), []);
    }

    #[test]
    fn other_programs_read_where_processes_attach_and_entries_of_older_versions_have_nothing_of_it() {
        let written = serde_json::to_value(fleet("a")).expect("plain data");
        assert_eq!(written["attachable"], serde_json::json!([{"agent": "own-0", "address": "127.0.0.1:5000"}]));
        let mut older = written;
        older.as_object_mut().expect("an object").remove("attachable");
        let read: RunningFleet = serde_json::from_value(older.clone()).expect("it is read");
        assert_eq!(read, RunningFleet { attachable: vec![], ..fleet("a") });
        assert_eq!(serde_json::to_value(read).expect("plain data"), older, "nothing is written as nothing");
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_used_and_another_one_is() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let own = directories_of(Some(base.path().into()), base.path());
        assert_eq!(own.len(), 2);
        assert_eq!(own[0].path, base.path().join("robeing"));
        // A directory that does not exist or, if the tests don't run as root, belongs to root.
        let foreign = if geteuid().is_root() { Path::new("/nonexistent") } else { Path::new("/") };
        assert_eq!(directories_of(Some(foreign.into()), base.path()), own[1..]);

        DirBuilder::new().mode(0o700).create(&own[0].path).expect("made");
        fs::set_permissions(&own[0].path, fs::Permissions::from_mode(0o777)).expect("changed");
        let registration = Registration::write_in_one_of(&own, &fleet("a")).expect("the other one will do");
        assert!(registration.path.starts_with(&own[1].path));
        fs::set_permissions(&own[1].path, fs::Permissions::from_mode(0o777)).expect("changed");
        let error = Registration::write_in_one_of(&own, &fleet("b")).expect_err("neither will do").to_string();
        assert!(error.matches("the directory is not this user's own").count() == 2, "{error}");
    }

    #[test]
    fn what_a_killed_fleet_left_is_removed() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let dir = base.path().join("robeing");
        DirBuilder::new().mode(0o700).create(&dir).expect("made");
        let left = dir.join("a-7-4000.json");
        fs::write(&left, serde_json::to_vec(&fleet("a")).expect("plain data")).expect("written");
        assert_eq!(running_in(&dir), []);
        assert!(!left.exists());
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_not_believed() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let dir = base.path().join("robeing");
        let _registration = Registration::write_in_one_of(&[directory(&dir)], &fleet("a")).expect("written");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("changed");
        assert_eq!(running_in(&dir), []);
        assert!(Registration::write_in(&dir, &fleet("b")).is_err());
    }
}
