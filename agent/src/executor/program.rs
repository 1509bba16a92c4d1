//! The program that a command runs: whether it exists, and what to report when it can't be run. Reads files only.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::unistd::{AccessFlags, eaccess};

use super::{ExecutorError, Failure, FailureKind};

/// Where programs are searched when `PATH` is not set, as the system does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The bytes of a script that Linux reads to find its interpreter.
const FIRST_LINE: u64 = 256;
/// The maximum nesting of interpreters that are scripts themselves, as in Linux.
const MAX_INTERPRETERS: usize = 5;

/// The identification of this machine's ELF files: the class and the byte order, then the machine. See elf(5).
const OURS: ([u8; 2], u16) = (
    [if cfg!(target_pointer_width = "64") { 2 } else { 0 }, if cfg!(target_endian = "little") { 1 } else { 2 }],
    if cfg!(target_arch = "x86_64") {
        62
    } else if cfg!(target_arch = "aarch64") {
        183
    } else {
        // On other architectures the loader is not checked.
        0
    },
);
/// The maximum number of program headers searched for the loader.
const MAX_PROGRAM_HEADERS: u64 = 64;
/// The maximum length of a loader's name, in bytes: that of a path.
const MAX_LOADER_NAME: u64 = 4_096;

/// The program of `argv`, which may be missing for a while, for example while it is replaced.
pub(super) struct Program {
    argv: Arc<[String]>,
    was_there: bool,
}

impl Program {
    /// Creates the program of `argv`, which must not be empty.
    pub(super) fn new(argv: Arc<[String]>) -> Self {
        let was_there = check(&argv).is_ok();
        Self { argv, was_there }
    }

    pub(super) fn name(&self) -> &str {
        &self.argv[0]
    }

    /// Whether the program existed when the executor was created.
    pub(super) fn was_there(&self) -> bool {
        self.was_there
    }

    /// Returns the error message if the program existed before and does not any more.
    pub(super) fn is_gone(&self) -> Option<String> {
        check(&self.argv).err().filter(|_| self.was_there).map(|error| error.to_string())
    }

    /// Returns the failure of an attempt whose program can't be run.
    pub(super) fn not_started(&self, error: &io::Error) -> Failure {
        not_started(self.name(), error)
    }
}

/// Checks that the program of `argv` exists and is executable.
pub(super) fn check(argv: &[String]) -> Result<(), ExecutorError> {
    let Some(program) = argv.first().filter(|program| !program.is_empty()) else {
        return Err(ExecutorError::NoProgram);
    };
    let mut blocked = None;
    for path in candidates(argv) {
        match obstacle(path) {
            None => return Ok(()),
            Some(Obstacle::Missing) => {}
            Some(Obstacle::NotExecutable(path)) => blocked = blocked.or(Some(path)),
        }
    }
    let words = blocked.map_or_else(|| absent(program), |path| not_executable(&path.to_string_lossy()));
    Err(ExecutorError::Program(words))
}

/// Returns the files that the first word of `argv` may refer to, in search order.
pub(super) fn candidates(argv: &[String]) -> Vec<PathBuf> {
    match argv.first() {
        None => Vec::new(),
        Some(program) if program.contains('/') => vec![PathBuf::from(program)],
        Some(program) => {
            let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
            env::split_paths(&path).map(|folder| folder.join(program)).collect()
        }
    }
}

/// Why a program can't be run.
enum Obstacle {
    /// The program or its interpreter does not exist.
    Missing,
    /// This file, the program or its interpreter, is not executable.
    NotExecutable(PathBuf),
}

/// Returns what prevents the program at this path from being run. Follows interpreters as Linux does.
fn obstacle(mut path: PathBuf) -> Option<Obstacle> {
    for _ in 0..=MAX_INTERPRETERS {
        if !path.is_file() {
            return Some(Obstacle::Missing);
        }
        if eaccess(&path, AccessFlags::X_OK).is_err() {
            return Some(Obstacle::NotExecutable(path));
        }
        path = interpreter(&path).or_else(|| loader(&path))?;
    }
    // Linux gives up too.
    Some(Obstacle::Missing)
}

/// Returns the loader that a dynamically linked program of this machine names, which images with another C library
/// lack.
fn loader(path: &Path) -> Option<PathBuf> {
    const PT_INTERP: u32 = 3;
    let file = File::open(path).ok()?;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    let u16_at = |bytes: &[u8], at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    let u64_at = |bytes: &[u8], at: usize| bytes[at..at + 8].try_into().map(u64::from_ne_bytes).ok();
    // Magic number, class (64 bits), byte order; then the machine. An emulator may run programs for other machines.
    let is_ours = header.starts_with(b"\x7fELF") && header[4..6] == OURS.0 && u16_at(&header, 18) == OURS.1;
    if !is_ours {
        return None;
    }
    let (from, size, count) = (u64_at(&header, 32)?, u64::from(u16_at(&header, 54)), u64::from(u16_at(&header, 56)));
    for n in 0..count.min(MAX_PROGRAM_HEADERS) {
        let mut part = [0; 56];
        file.read_exact_at(&mut part, from.checked_add(n * size)?).ok()?;
        if part[..4] == PT_INTERP.to_ne_bytes() {
            let mut name = vec![0; u64_at(&part, 32)?.min(MAX_LOADER_NAME) as usize];
            file.read_exact_at(&mut name, u64_at(&part, 8)?).ok()?;
            return Some(PathBuf::from(OsStr::from_bytes(name.split(|byte| *byte == 0).next()?)));
        }
    }
    None
}

/// Returns the interpreter named in the first line of a script.
fn interpreter(path: &Path) -> Option<PathBuf> {
    let mut line = Vec::new();
    File::open(path).ok()?.take(FIRST_LINE).read_to_end(&mut line).ok()?;
    let line = line.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    words.next().map(|word| PathBuf::from(OsStr::from_bytes(word)))
}

fn absent(program: &str) -> String {
    format!(
        "the command {program:?} does not exist on this agent (or the interpreter or the loader it names does not); \
         check the first word of executor.command.argv, and PATH and the files in the pool's image"
    )
}

fn not_executable(program: &str) -> String {
    format!(
        "the command {program:?} may not be executed by this agent; make it executable (chmod +x) for the user the \
         agent runs as"
    )
}

/// Returns a retryable failure, because another agent may have what is missing here.
fn not_started(program: &str, error: &io::Error) -> Failure {
    let message = match error.kind() {
        io::ErrorKind::NotFound => absent(program),
        io::ErrorKind::PermissionDenied => not_executable(program),
        io::ErrorKind::ArgumentListTooLong => {
            format!("the command {program:?} can't be started: its arguments and environment are too large")
        }
        _ => format!("the command {program:?} can't be started: {error}"),
    };
    Failure::new(FailureKind::Spawn, true, message)
}
