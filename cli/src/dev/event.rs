//! What happens to a fleet of local processes, in words.

use std::{fmt, path::PathBuf, time::Duration};

use crate::render::short_duration;

/// Something that happened to a process of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DevEvent {
    /// It was started.
    Started {
        /// The coordinator or agent.
        name: String,
        /// Its process id.
        pid: u32,
    },
    /// It ended by itself, or was killed by someone else, and will be started again.
    Died {
        /// The coordinator or agent.
        name: String,
        /// The process id it had.
        pid: u32,
        /// Exit code or signal, in words.
        how: String,
        /// The last line of what it wrote.
        last_line: Option<String>,
        /// Where the rest of it is.
        log: PathBuf,
        /// Why nothing can be written there.
        log_problem: Option<String>,
        /// When it is started again.
        restart_in: Duration,
    },
    /// It could not be started, and will be tried again.
    NotStarted {
        /// The coordinator or agent.
        name: String,
        /// Why.
        problem: String,
        /// When it is tried again.
        restart_in: Duration,
    },
    /// It ended because the fleet stops.
    Stopped {
        /// The coordinator or agent.
        name: String,
    },
}

/// How a process ended that was told to, as an agent that drains.
const WELL: &str = "exit code 0";

impl fmt::Display for DevEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { name, pid } => write!(f, "started {name} (pid {pid})"),
            Self::Died { name, pid, how, last_line, log, log_problem, restart_in } => {
                let what = if how == WELL { "ended  " } else { "died   " };
                write!(f, "{what} {name} (pid {pid}): {how}; again in {}", short_duration(*restart_in))?;
                if let Some(line) = last_line {
                    write!(f, "; it last said: {line}")?;
                }
                write!(f, "; log {}", log.display())?;
                match log_problem {
                    Some(problem) => write!(f, ", which can't be written to: {problem}"),
                    None => Ok(()),
                }
            }
            Self::NotStarted { name, problem, restart_in } => {
                write!(f, "failed  {name} can't be started: {problem}; again in {}", short_duration(*restart_in))
            }
            Self::Stopped { name } => write!(f, "stopped {name}"),
        }
    }
}
