//! Where the agent program is.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::DevError;

/// The program's file name.
const AGENT: &str = "robeing-agent";

/// The agent program: the one that is named, else the one beside this program, else the one in `PATH`.
pub(super) fn find_agent_binary(named: Option<&Path>) -> Result<PathBuf, DevError> {
    if let Some(path) = named {
        return check(path)
            .map(|()| path.to_owned())
            .map_err(|problem| DevError::AgentProgram { path: path.to_owned(), problem });
    }
    // A link, such as kubectl-robeing, is followed to the program itself.
    let program = env::current_exe().and_then(fs::canonicalize).ok();
    let beside = program.as_deref().and_then(Path::parent).map(Path::to_owned);
    let path = env::var_os("PATH").unwrap_or_default();
    beside
        .iter()
        .cloned()
        .chain(env::split_paths(&path))
        .map(|directory| directory.join(AGENT))
        .find(|candidate| check(candidate).is_ok())
        .ok_or(DevError::NoAgentProgram { beside })
}

fn check(path: &Path) -> Result<(), String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a file".into());
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err("it is not executable".into());
    }
    Ok(())
}
