//! Events of a fleet of local processes, and their messages.

use std::{fmt, path::PathBuf, time::Duration};

use super::DevError;
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
    /// The process exited or was killed from outside, and will be restarted, unless it is a coordinator that refuses its
    /// settings.
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
        /// The pause before it is restarted; `None` if it is not.
        restart_in: Option<Duration>,
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
    /// The manifest's kinds of tasks are in force.
    KindsSet {
        /// How many there are.
        count: usize,
    },
    /// The fleet refuses the manifest's kinds of tasks.
    KindsRefused {
        /// Why.
        problem: String,
    },
    /// Schedules of the manifest are set.
    SchedulesSet {
        /// How many of them.
        count: usize,
    },
    /// The fleet refuses the schedules of the manifest, or one of them.
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

impl DevEvent {
    /// Returns why the fleet can't go on, if one of its coordinators refuses its settings: it would do so again.
    pub(super) fn refusal(&self) -> Option<DevError> {
        let Self::Died { name, how, last_line, restart_in: None, .. } = self else { return None };
        Some(DevError::Refused { name: name.clone(), problem: last_line.as_ref().unwrap_or(how).clone() })
    }
}

impl fmt::Display for DevEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { name, pid } => write!(f, "started {name} (pid {pid})"),
            Self::Died { name, pid, how, last_line, log, log_problem, restart_in } => {
                let what = if how == WELL { "ended  " } else { "died   " };
                write!(f, "{what} {name} (pid {pid}): {how}; ")?;
                match restart_in {
                    Some(pause) => write!(f, "restarting in {}", short_duration(*pause))?,
                    None => write!(f, "it refuses its settings and is not restarted")?,
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn died(last_line: Option<&str>, restart_in: Option<Duration>) -> DevEvent {
        DevEvent::Died {
            name: "coordinator-0".into(),
            pid: 7,
            how: "exit code 2".into(),
            last_line: last_line.map(str::to_owned),
            log: "c.log".into(),
            log_problem: None,
            restart_in,
        }
    }

    #[test]
    fn only_what_is_not_restarted_is_a_refusal() {
        let again = died(Some("why"), Some(Duration::from_secs(1)));
        assert!(again.refusal().is_none());
        assert!(again.to_string().contains("exit code 2; restarting in 1.0s; last output: why"), "{again}");
        let refused = died(Some("why"), None);
        assert!(refused.to_string().contains("; it refuses its settings and is not restarted; last"), "{refused}");
        let told = |event: &DevEvent| event.refusal().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(told(&refused), "coordinator-0 refuses its settings, so the fleet is stopped: why");
        assert!(told(&died(None, None)).ends_with(": exit code 2"));
    }
}
