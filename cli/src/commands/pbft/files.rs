//! The files of groups: descriptions, and decisions.

use std::{
    fs::{File, Permissions},
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use robeing_groups::{Group, GroupError, GroupFile, LogFile, MAX_GROUP_FILE_BYTES, MAX_LOG_FILE_BYTES, is_group_name};

use crate::{exit::Exit, render::short_duration};

/// The permissions of the files, which are made to be passed on.
const EVERYONE_READS: u32 = 0o644;

/// What is wrong about a group, or with a file of one.
#[derive(Debug, thiserror::Error)]
pub enum PbftError {
    /// A file can't be read.
    #[error("can't read {}: {error}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// There is no description of the group.
    #[error(
        "there is no description of the group {0:?} here: give the file that `robeing pbft form` wrote, or call it in \
         the directory with {0}.group.json"
    )]
    NoDescription(String),
    /// A file is not what it should be.
    #[error("{} can't be used: {problem}", .file.display())]
    Form {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: Box<GroupError>,
    },
    /// A file can't be written.
    #[error("can't write {}: {error}; give another file with --file", .file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The arguments or the answers of members are refused.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A member refuses what it is asked.
    #[error("{member} refuses: {reason}")]
    Refused {
        /// The member.
        member: String,
        /// Why.
        reason: String,
    },
    /// An agent has not answered.
    #[error(
        "{member} has not answered: {reason}; all members must run to form a group, and most of them to decide: see \
         `robeing pbft status`"
    )]
    Away {
        /// The agent.
        member: String,
        /// What became of the question.
        reason: String,
    },
    /// A member says that something is decided, and does not prove it.
    #[error("{member} says that it is decision {decision}, and does not prove it; see `robeing pbft log`")]
    NotProved {
        /// The member.
        member: String,
        /// The number of the decision.
        decision: u64,
    },
    /// A member says that it has opened another ballot than it was asked to.
    #[error("{0} says that it has opened another ballot; see `robeing pbft log`")]
    OtherBallot(String),
    /// Too few members say that something was done: all of them may lie.
    #[error(
        "{said} of the members say that it is done, and {need} must, so that one of them does not lie: see `robeing pbft \
         status` for who does not answer, and whether it was done before you repeat it"
    )]
    TooFew {
        /// How many say so.
        said: usize,
        /// How many must.
        need: usize,
    },
    /// A proposal was not decided in time.
    #[error(
        "no member has said within {} that it is decided, and it may still be: see `robeing pbft log` before you propose \
         it again, and `robeing pbft status` for who does not answer", short_duration(*.0)
    )]
    Undecided(Duration),
    /// The description that is there is of another group.
    #[error(
        "{} describes another group than the one to be formed; give another file with --file, or another name",
        .0.display()
    )]
    OtherGroup(PathBuf),
    /// The members have not approved those of the next epoch.
    #[error("the members have not approved the next epoch: {0}")]
    NotApproved(String),
    /// A ballot is not closed, so nothing proves it yet.
    #[error(
        "the ballot is not closed, or too few members have said so: there is nothing to write to {} yet",
        .0.display()
    )]
    NotClosed(PathBuf),
    /// There is no member of this name.
    #[error("the group has no member {0:?}")]
    NoMember(String),
    /// The client trusts no authority, so it can't verify who the members are.
    #[error("give --trust with --certificate and --private-key, or --ca: the members' certificates must be verified")]
    NoTrust,
}

impl PbftError {
    /// Returns the exit code for the error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Read { .. } | Self::NoDescription(_) | Self::Form { .. } => Exit::Usage,
            Self::Group(_) | Self::OtherGroup(_) | Self::NoTrust => Exit::Usage,
            Self::Write { .. } => Exit::Local,
            Self::Refused { .. } => Exit::Refused,
            Self::Away { .. } | Self::NotApproved(_) | Self::NotProved { .. } | Self::OtherBallot(_) => {
                Exit::TaskFailed
            }
            Self::NotClosed(_) | Self::Undecided(_) | Self::TooFew { .. } => Exit::TimedOut,
            Self::NoMember(_) => Exit::NotFound,
        }
    }
}

/// Reads a file of at most so many bytes, and one byte more if there is, so that a larger one is refused.
pub(super) fn read(file: &Path, most: usize) -> Result<Vec<u8>, PbftError> {
    let failed = |error: io::Error| PbftError::Read { file: file.to_owned(), error };
    let mut bytes = Vec::new();
    File::open(file).map_err(failed)?.take(most as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Returns the file of a group's description, by the group's name.
pub(super) fn description_of(name: &str) -> PathBuf {
    PathBuf::from(format!("{name}.group.json"))
}

/// Reads the description of a group, and verifies it by itself.
pub(super) fn group(given: &str) -> Result<Group, PbftError> {
    described(&path_of(given)?)
}

/// Returns the file with the description of a group.
pub(super) fn path_of(given: &str) -> Result<PathBuf, PbftError> {
    let by_name = description_of(given);
    let file = if is_group_name(given) && by_name.exists() { by_name } else { PathBuf::from(given) };
    if is_group_name(given) && !file.exists() {
        return Err(PbftError::NoDescription(given.to_owned()));
    }
    Ok(file)
}

/// Reads a file with the description of a group, and verifies it by itself.
pub(super) fn described(file: &Path) -> Result<Group, PbftError> {
    let json = read(file, MAX_GROUP_FILE_BYTES)?;
    let read = GroupFile::from_json(&json).and_then(GroupFile::verify);
    let failed = |problem| PbftError::Form { file: file.to_owned(), problem: Box::new(problem) };
    read.map_err(failed)
}

/// Reads a file of decisions. This verifies nothing.
pub(super) fn log(file: &Path) -> Result<LogFile, PbftError> {
    let json = read(file, MAX_LOG_FILE_BYTES)?;
    let failed = |problem| PbftError::Form { file: file.to_owned(), problem: Box::new(problem) };
    LogFile::from_json(&json).map_err(failed)
}

/// Writes a file, whole or not at all.
pub(super) fn write(path: &Path, text: &str) -> Result<(), PbftError> {
    let failed = |error: io::Error| PbftError::Write { file: path.to_owned(), error };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let aside = tempfile::Builder::new().permissions(Permissions::from_mode(EVERYONE_READS)).tempfile_in(folder);
    let mut aside = aside.map_err(failed)?;
    aside.write_all(text.as_bytes()).map_err(failed)?;
    aside.as_file().sync_all().map_err(failed)?;
    aside.persist(path).map(drop).map_err(|error| failed(error.error))
}
