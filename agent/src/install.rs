//! `robeing-agent install PATH`: puts a copy of this program at PATH, for an init container of an image that has no shell.
//! The copy is written aside and renamed, so that PATH is never a part of a program.

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

/// Its name.
pub const SUBCOMMAND: &str = "install";

/// Who may do what with the copy.
const MODE: u32 = 0o755;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// PATH is no file's.
    #[error("{0} is not the path of a file: give one such as /opt/robeing/robeing-agent")]
    NoFile(PathBuf),
    /// A step failed.
    #[error("this program can't be installed as {path}: {step}: {error}")]
    Failed {
        /// Where to.
        path: PathBuf,
        /// Which step.
        step: String,
        /// What the operating system says.
        error: io::Error,
    },
}

/// The subcommand.
pub fn command() -> Command {
    Command::new(SUBCOMMAND)
        .about("Copies this program to PATH, executable for all: for an init container whose image has no shell")
        .after_help("Exit codes: 0 installed; 1 it could not be written; 2 wrong arguments.")
        .arg(
            Arg::new("path")
                .value_name("PATH")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The file to be, in place of what is there; its directory must be there"),
        )
}

/// Does what the subcommand's arguments say: the path that is installed.
///
/// # Errors
/// A path that is no file's, and a file that can't be written.
pub fn run(matches: &ArgMatches) -> Result<PathBuf, InstallError> {
    let path = matches.get_one::<PathBuf>("path").cloned().unwrap_or_default();
    let failed = |step: &str, error| InstallError::Failed { path: path.clone(), step: step.to_owned(), error };
    // Not by name: the file may have been replaced since this process began.
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
        // It may not have been made at all.
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
    // What an earlier process of the same number left, which was killed.
    let _ = fs::remove_file(aside);
    let mut target = OpenOptions::new().write(true).create_new(true).mode(MODE).open(aside).map_err(cannot("made"))?;
    io::copy(source, &mut target).map_err(cannot("written"))?;
    // Whatever the process's mask is.
    target.set_permissions(fs::Permissions::from_mode(MODE)).map_err(cannot("made executable"))?;
    target.sync_all().map_err(cannot("synced"))?;
    drop(target);
    fs::rename(aside, path).map_err(cannot("renamed"))?;
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(failed(format!("the directory {} can't be synced", dir.display())))
}
