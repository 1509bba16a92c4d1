//! `robeing-agent install PATH`: copies this program to PATH, for an init container of an image that has no shell. The
//! copy is written to a temporary file and renamed, so that PATH is never an incomplete program.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process,
};

use clap::{Arg, ArgMatches, Command, value_parser};

/// The subcommand's name.
pub const SUBCOMMAND: &str = "install";

/// The file mode of the copy.
const MODE: u32 = 0o755;

/// Why the program was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// PATH does not name a file.
    #[error("{0} is not the path of a file: give one such as /opt/robeing/robeing-agent")]
    NoFile(PathBuf),
    /// A step failed.
    #[error("this program can't be installed as {path}: {step}: {error}")]
    Failed {
        /// The target path.
        path: PathBuf,
        /// The step that failed.
        step: String,
        /// The error from the operating system.
        error: io::Error,
    },
}

/// Returns the subcommand.
pub fn command() -> Command {
    Command::new(SUBCOMMAND)
        .about("Copies this program to PATH, executable for all: for an init container whose image has no shell")
        .after_help("Exit codes: 0 installed; 1 it could not be written; 2 wrong arguments.")
        .arg(
            Arg::new("path")
                .value_name("PATH")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The file to write, replacing an existing one; its directory must exist"),
        )
}

/// Runs the subcommand and returns the path that was installed.
///
/// # Errors
/// When PATH does not name a file, or the file can't be written.
pub fn run(matches: &ArgMatches) -> Result<PathBuf, InstallError> {
    let path = matches.get_one::<PathBuf>("path").cloned().unwrap_or_default();
    let failed = |step: &str, error| InstallError::Failed { path: path.clone(), step: step.to_owned(), error };
    // Not opened by its path: the file may have been replaced since this process started.
    let source = File::open("/proc/self/exe").or_else(|_| File::open(env::current_exe()?));
    let source = source.map_err(|error| failed("its own file can't be opened", error))?;
    copy(source, &path)?;
    Ok(path)
}

fn copy(mut source: File, path: &Path) -> Result<(), InstallError> {
    let named = path.file_name().filter(|_| !path.as_os_str().as_encoded_bytes().ends_with(b"/") && !path.is_dir());
    let name = named.ok_or_else(|| InstallError::NoFile(path.to_owned()))?;
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut aside = OsString::from(".");
    aside.push(name);
    aside.push(format!(".{}", process::id()));
    let aside = dir.join(aside);
    let written = write(&mut source, &aside, path, dir);
    if written.is_err() {
        // The file may not exist.
        let _ = fs::remove_file(&aside);
    }
    written
}

fn write(source: &mut File, aside: &Path, path: &Path, dir: &Path) -> Result<(), InstallError> {
    let failed = |step: String| {
        let path = path.to_owned();
        move |error| InstallError::Failed { path, step, error }
    };
    let cannot = |what: &str| failed(format!("{} can't be {what}", aside.display()));
    // An earlier process with the same id may have left it when it was killed.
    let _ = fs::remove_file(aside);
    let mut target =
        OpenOptions::new().write(true).create_new(true).mode(MODE).open(aside).map_err(cannot("created"))?;
    io::copy(source, &mut target).map_err(cannot("written"))?;
    // Independent of the process's umask.
    target.set_permissions(fs::Permissions::from_mode(MODE)).map_err(cannot("made executable"))?;
    target.sync_all().map_err(cannot("synced"))?;
    drop(target);
    fs::rename(aside, path).map_err(cannot("renamed"))?;
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(failed(format!("the directory {} can't be synced", dir.display())))
}
