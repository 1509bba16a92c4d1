//! Events of a fleet of local processes, and their messages.

use std::{fmt, path::PathBuf, time::Duration};

use crate::render::short_duration;

/// An event of a process of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DevEvent {
    /// The process was started.
    Started {
        /// The coordinator or agent.
        name: String,
        /// The process id.
        pid: u32,
    },
    /// The process exited or was killed from outside, and will be restarted.
    Died {
        /// The coordinator or agent.
        name: String,
        /// The process id that it had.
        pid: u32,
        /// The exit code or signal, as text.
        how: String,
        /// The last line of its output.
        last_line: Option<String>,
        /// The log file with the complete output.
        log: PathBuf,
        /// Why the log can't be written.
        log_problem: Option<String>,
        /// The pause before it is restarted.
        restart_in: Duration,
    },
    /// The process could not be started; the start will be retried.
    NotStarted {
        /// The coordinator or agent.
        name: String,
        /// The error.
        problem: String,
        /// The pause before the retry.
        restart_in: Duration,
    },
    /// The fleet has the policies of the manifest.
    PoliciesSet {
        /// How many there are.
        count: usize,
    },
    /// The fleet does not take the policies of the manifest.
    PoliciesRefused {
        /// Why.
        problem: String,
    },
    /// The fleet has what the manifest says of kinds of tasks.
    KindsSet {
        /// Of how many kinds.
        count: usize,
    },
    /// The fleet does not take what the manifest says of kinds of tasks.
    KindsRefused {
        /// Why.
        problem: String,
    },
    /// The fleet has schedules of the manifest.
    SchedulesSet {
        /// How many of them.
        count: usize,
    },
    /// The fleet does not take the schedules of the manifest, or one of them.
    SchedulesRefused {
        /// Which, and why.
        problem: String,
    },
    /// The process ended because the fleet stops.
    Stopped {
        /// The coordinator or agent.
        name: String,
    },
}

/// How a process ends after a requested exit, for example an agent that drained.
const WELL: &str = "exit code 0";

impl fmt::Display for DevEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { name, pid } => write!(f, "started {name} (pid {pid})"),
            Self::Died { name, pid, how, last_line, log, log_problem, restart_in } => {
                let what = if how == WELL { "ended  " } else { "died   " };
                write!(f, "{what} {name} (pid {pid}): {how}; restarting in {}", short_duration(*restart_in))?;
                if let Some(line) = last_line {
                    write!(f, "; last output: {line}")?;
                }
                write!(f, "; log {}", log.display())?;
                match log_problem {
                    Some(problem) => write!(f, ", which can't be written to: {problem}"),
                    None => Ok(()),
                }
            }
            Self::NotStarted { name, problem, restart_in } => {
                write!(f, "failed  {name} can't be started: {problem}; retrying in {}", short_duration(*restart_in))
            }
            Self::PoliciesSet { count: 1 } => write!(f, "policy  1 is in force"),
            Self::PoliciesSet { count } => write!(f, "policy  {count} are in force"),
            Self::PoliciesRefused { problem } => write!(f, "failed  the policies are not in force: {problem}"),
            Self::KindsSet { count: 1 } => write!(f, "kind    1 has its needs"),
            Self::KindsSet { count } => write!(f, "kind    {count} have their needs"),
            Self::KindsRefused { problem } => {
                write!(f, "failed  what kinds of tasks need is not in force: {problem}")
            }
            Self::SchedulesSet { count: 1 } => write!(f, "due     1 schedule is set"),
            Self::SchedulesSet { count } => write!(f, "due     {count} schedules are set"),
            Self::SchedulesRefused { problem } => write!(f, "failed  {problem}"),
            Self::Stopped { name } => write!(f, "stopped {name}"),
        }
    }
}
