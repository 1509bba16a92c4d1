//! The exit codes of `robeing`.

/// The result of a command. The discriminant is the exit code of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command did everything that was requested.
    Success = 0,
    /// A task that was waited for did not succeed (or its result expired), a message was not accepted, a question was not
    /// replied to, a ballot was not approved, a lease has ended, a group can't decide, a file is not right, or
    /// an object can't be stored or fetched.
    TaskFailed = 1,
    /// The command line or an input file is invalid.
    Usage = 2,
    /// The fleet or Kubernetes refused the request.
    Refused = 3,
    /// The task, the message, the agent or the fleet does not exist.
    NotFound = 4,
    /// No coordinator answered.
    Unreachable = 5,
    /// A wait timed out.
    TimedOut = 6,
    /// Something on this machine failed.
    Local = 7,
    /// Interrupted by Ctrl-C. If Ctrl-C shuts a running `robeing dev` fleet down gracefully, the result is
    /// [`Exit::Success`]; after a second Ctrl-C, or before the fleet has started, it is this one.
    Interrupted = 130,
}

impl Exit {
    /// All exit codes, in ascending order.
    pub const ALL: [Self; 9] = [
        Self::Success,
        Self::TaskFailed,
        Self::Usage,
        Self::Refused,
        Self::NotFound,
        Self::Unreachable,
        Self::TimedOut,
        Self::Local,
        Self::Interrupted,
    ];

    /// Returns the exit code of the process.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Returns the description for the help text, which is one line of it.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Success => "everything asked for was done",
            Self::TaskFailed => "a task, message, question, ballot, group, file or object did not succeed",
            Self::Usage => "the command line, a manifest or an input file is wrong or can't be read",
            Self::Refused => "the fleet or Kubernetes refused, or an input is over a limit",
            Self::NotFound => "no such fleet, agent, task, message or other id (malformed ids included)",
            Self::Unreachable => "no coordinator answers, or the fleet has no leader",
            Self::TimedOut => "what was waited for did not happen in the time given",
            Self::Local => "failed on this machine: a data directory, a port, a process, a kubeconfig",
            Self::Interrupted => "ended by Ctrl-C (the first one stops robeing dev gracefully: 0)",
        }
    }

    /// Returns the list of exit codes, for the help text.
    pub fn table() -> String {
        let mut text = String::from("Exit codes:\n");
        for exit in Self::ALL {
            text.push_str(&format!("{:>5}  {}\n", exit.code(), exit.meaning()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The width of a narrow terminal, columns.
    const NARROW: usize = 80;

    #[test]
    fn each_code_is_one_line_of_the_help() {
        let table = Exit::table();
        assert_eq!(table.lines().count(), 1 + Exit::ALL.len());
        for line in table.lines() {
            assert!(line.chars().count() <= NARROW, "it is wrapped: {line}");
        }
    }

    #[test]
    fn every_code_is_documented_once() {
        let table = Exit::table();
        for exit in Exit::ALL {
            assert_eq!(table.matches(exit.meaning()).count(), 1, "{exit:?}");
        }
        let mut codes = Exit::ALL.map(Exit::code);
        codes.sort_unstable();
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]), "two exits share a code: {codes:?}");
    }
}
