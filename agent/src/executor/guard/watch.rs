//! The guard's main loop: it tracks its agent, and acts when the agent is gone or stopped.
//!
//! **Stopped.** A stopped agent (SIGSTOP, a debugger) neither runs nor notices it, and would resume where it was. The
//! guard considers it stopped only if both hold: it has not renewed its lease for a long time ([`QUIET_SHARE`]), and
//! from then on every check for [`STOPPED_SHARE`] found all its threads in state `T` or `t` of `/proc`. A process that
//! is slow, starved or swapped out is never in that state; nor is one whose machine or container is frozen, which
//! freezes the guard too. The guard then does the following, in this order:
//!
//! 1. It revokes the session, by writing that into a pipe. When the agent resumes, it reads the pipe before it acts on
//!    anything, and starts no attempt of the session.
//! 2. It checks the agent once more. If the agent runs again, it may or may not have seen the revocation, so nothing is
//!    reported; the agent gives up the session itself.
//! 3. It kills every process group and waits until they are gone, including those that register meanwhile, since a
//!    command may be between fork and exec.
//! 4. It reports the stop to the coordinators.
//!
//! **Gone.** At end-of-file of the pipe, the guard does step 3 and reports the end of the agent.

use std::{
    collections::HashSet,
    io::Write,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::{
    records::{GuardRecord, Records, SessionInfo},
    report::{self, Ended},
};
use crate::executor::process_group;

/// The share of a lease without a renewal after which the agent is checked, in eighths. The agent renews every third of
/// the lease.
const QUIET_SHARE: u32 = 3;
/// The share of a lease for which an agent must be seen stopped, in eighths.
const STOPPED_SHARE: u32 = 2;
/// The pause between two checks of a quiet agent.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How long killed process groups may take to disappear. If they take longer, a process hangs in the kernel, and
/// nothing is reported.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// The first and the longest pause between two checks of killed process groups.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(10));

#[derive(Clone, Copy)]
struct Lease {
    quiet_from: Instant,
    stopped_for: Duration,
    ends: Instant,
}

/// The guard's state.
pub(super) struct Watch<'a> {
    records: BorrowedFd<'a>,
    /// The agent's process.
    agent: Pid,
    read: Records,
    pub(super) groups: HashSet<i32>,
    lease: Option<Lease>,
    /// Since when the agent has been seen stopped.
    stopped_since: Option<Instant>,
    info: Option<SessionInfo>,
    /// The session of `stay` is revoked: none of its attempts may run.
    is_revoked: bool,
}

impl<'a> Watch<'a> {
    pub(super) fn new(records: BorrowedFd<'a>, agent: Pid) -> Self {
        Self {
            records,
            agent,
            read: Records::default(),
            groups: HashSet::new(),
            lease: None,
            stopped_since: None,
            info: None,
            is_revoked: false,
        }
    }

    /// Watches until the agent is gone, and kills what it left behind.
    pub(super) fn run(mut self) {
        while self.wait() {}
        let is_gone = self.end_groups();
        if let Some(info) = self.info.filter(|_| is_gone) {
            report::report(&info, Ended::Gone);
        }
    }

    /// Waits for the next records or the next due action. Returns whether the agent is still there.
    fn wait(&mut self) -> bool {
        let now = Instant::now();
        match self.due(now) {
            Some(due) if due <= now => {
                self.look(now);
                true
            }
            due => self.read_records(due.map(|due| due - now)),
        }
    }

    /// When the agent must be checked, or its lease ends.
    fn due(&self, now: Instant) -> Option<Instant> {
        let lease = self.lease?;
        let may_be_stopped = self.info.is_some() && !self.is_revoked && now < lease.ends;
        let look = if self.stopped_since.is_some() { now + LOOK_EVERY } else { lease.quiet_from };
        Some(if may_be_stopped { look.min(lease.ends) } else { lease.ends })
    }

    /// Reads available records, waiting at most `within`, or without limit if `None`. Returns whether the agent is
    /// still there.
    fn read_records(&mut self, within: Option<Duration>) -> bool {
        // Rounded up, so that the poll does not return early and spin.
        let millis = within.map(|within| within.as_millis().saturating_add(1));
        let timeout = millis.map_or(PollTimeout::NONE, |ms| PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX));
        match poll(&mut [PollFd::new(self.records, PollFlags::POLLIN)], timeout) {
            Ok(0) => {
                // An action is due; [`Self::look`] checks which.
                self.look(Instant::now());
                return true;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
        let mut bytes = [0; 4096];
        match nix::unistd::read(self.records, &mut bytes) {
            Ok(0) => false,
            Ok(n) => {
                self.take(&bytes[..n], Instant::now());
                true
            }
            Err(Errno::EINTR | Errno::EAGAIN) => true,
            Err(_) => false,
        }
    }

    /// Reads all records sent so far.
    fn catch_up(&mut self) {
        let is_there =
            |records| matches!(poll(&mut [PollFd::new(records, PollFlags::POLLIN)], PollTimeout::ZERO), Ok(1));
        let mut bytes = [0; 4096];
        while is_there(self.records) {
            match nix::unistd::read(self.records, &mut bytes) {
                Ok(n) if n > 0 => self.take(&bytes[..n], Instant::now()),
                // The caller's next read finds the end-of-file again.
                Ok(_) | Err(_) => return,
            }
        }
    }

    pub(super) fn take(&mut self, bytes: &[u8], now: Instant) {
        for told in self.read.take(bytes) {
            match told {
                GuardRecord::Group(group) => {
                    self.groups.insert(group);
                    if self.is_revoked {
                        kill(&self.groups);
                    }
                }
                GuardRecord::GroupGone(group) => drop(self.groups.remove(&group)),
                GuardRecord::Lease(left) => {
                    self.stopped_since = None;
                    self.lease = left.map(|left| Lease {
                        quiet_from: now + left * QUIET_SHARE / 8,
                        stopped_for: left * STOPPED_SHARE / 8,
                        ends: now + left,
                    });
                }
                GuardRecord::Session(info) => {
                    self.is_revoked &= self.info.as_ref().is_some_and(|known| known.session == info.session);
                    self.info = (info.session != 0).then_some(*info);
                }
            }
        }
    }

    /// Performs the action that is due at `now`, if any.
    fn look(&mut self, now: Instant) {
        let Some(lease) = self.lease else { return };
        if lease.ends <= now {
            kill(&self.groups);
            self.lease = None;
            return;
        }
        if now < lease.quiet_from || self.info.is_none() || self.is_revoked {
            return;
        }
        if !is_stopped(self.agent) {
            self.stopped_since = None;
            // Checking again immediately would show nothing new.
            self.lease = Some(Lease { quiet_from: now + LOOK_EVERY, ..lease });
            return;
        }
        let since = *self.stopped_since.get_or_insert(now);
        if now.duration_since(since) >= lease.stopped_for {
            self.revoke();
        }
    }

    /// Revokes the session of a stopped agent.
    fn revoke(&mut self) {
        // A stopped agent sends nothing more, so afterwards all its records are known.
        self.catch_up();
        let Some(info) = self.info.clone().filter(|_| self.stopped_since.is_some()) else { return };
        // If the agent can't see the revocation, it could resume as if nothing had happened.
        if writeln!(std::io::stdout(), "\n{REVOKED}{}", info.session).is_err() {
            self.stopped_since = None;
            return;
        }
        self.is_revoked = true;
        let is_stopped = is_stopped(self.agent);
        if self.end_groups() && is_stopped {
            // On another thread, because the watch must continue.
            std::thread::spawn(move || report::report(&info, Ended::Stopped));
        }
    }

    /// Kills every process group and waits until all are gone; returns false if some remain after [`GONE_WITHIN`].
    fn end_groups(&mut self) -> bool {
        let give_up = Instant::now() + GONE_WITHIN;
        let (mut pause, longest) = LOOK_AGAIN;
        loop {
            kill(&self.groups);
            self.catch_up();
            if !process_group::any_runs(&self.groups) {
                return true;
            }
            if Instant::now() >= give_up {
                return false;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(longest);
        }
    }
}

/// The prefix of a line that revokes a session.
pub(super) const REVOKED: &str = "revoked ";

fn kill(groups: &HashSet<i32>) {
    for group in groups {
        // A group that is already gone is fine.
        let _ = killpg(Pid::from_raw(*group), Signal::SIGKILL);
    }
}

/// Whether a signal or a debugger has stopped every thread of a process.
fn is_stopped(process: Pid) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return false };
    let mut states = threads.flatten().map(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        process_group::state(&stat).is_some_and(|state| matches!(state, "T" | "t"))
    });
    let mut any = false;
    states.all(|is_stopped| {
        any = true;
        is_stopped
    }) && any
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::{
        super::records::{lease_record, record, session_record},
        *,
    };

    const LEASE: Duration = Duration::from_millis(1_600);

    fn info() -> SessionInfo {
        SessionInfo { session: 7, ..SessionInfo::default() }
    }

    fn watch_after(records: BorrowedFd<'_>, told: impl IntoIterator<Item = Vec<u8>>, now: Instant) -> Watch<'_> {
        let mut watch = Watch::new(records, Pid::this());
        for bytes in told {
            watch.take(&bytes, now);
        }
        watch
    }

    fn left_after(groups: &[i32]) -> Vec<i32> {
        let (read, _write) = nix::unistd::pipe().unwrap();
        let told = groups.iter().map(|group| record(*group).to_vec());
        let mut left: Vec<i32> = watch_after(read.as_fd(), told, Instant::now()).groups.into_iter().collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn what_was_added_and_not_removed_is_left() {
        assert_eq!(left_after(&[10, 20, 30, -20]), [10, 30]);
        assert_eq!(left_after(&[10, -10, 10, 10]), [10]);
        assert_eq!(left_after(&[-10, 10]), [10]);
    }

    #[test]
    fn an_agent_that_renews_its_lease_or_has_no_session_is_not_looked_at_before_the_lease_ends() {
        let (read, _write) = nix::unistd::pipe().unwrap();
        let now = Instant::now();
        let lease = lease_record(1_600).to_vec();
        let watch = watch_after(read.as_fd(), [lease.clone(), session_record(&info())], now);
        assert_eq!(watch.due(now), Some(now + LEASE * QUIET_SHARE / 8), "a session, and no renewal by then");
        let mut watch = watch_after(read.as_fd(), [lease.clone(), session_record(&info())], now);
        watch.take(&lease, now + LEASE / 3);
        assert_eq!(watch.due(now + LEASE / 3), Some(now + LEASE / 3 + LEASE * QUIET_SHARE / 8), "it was renewed");
        let watch = watch_after(read.as_fd(), [lease.clone()], now);
        assert_eq!(watch.due(now), Some(now + LEASE), "without a session there is nothing to revoke");
        let watch =
            watch_after(read.as_fd(), [lease, session_record(&info()), session_record(&SessionInfo::default())], now);
        assert_eq!(watch.due(now), Some(now + LEASE), "it has left the session");
        let watch = watch_after(read.as_fd(), [session_record(&info()), lease_record(0).to_vec()], now);
        assert_eq!(watch.due(now), None, "a lease can be called off");
    }

    #[test]
    fn an_agent_that_is_quiet_and_runs_is_not_stopped_however_long_that_lasts() {
        let (read, _write) = nix::unistd::pipe().unwrap();
        let start = Instant::now();
        // This test process plays the agent.
        let mut watch = watch_after(read.as_fd(), [lease_record(1_600).to_vec(), session_record(&info())], start);
        let mut now = start;
        while now < start + LEASE - LOOK_EVERY {
            now += LOOK_EVERY;
            watch.look(now);
            assert!(watch.stopped_since.is_none() && !watch.is_revoked);
            assert!(watch.due(now).is_some_and(|due| due > now), "it does not spin");
        }
    }

    #[test]
    fn another_session_is_not_revoked_with_the_one_before() {
        let (read, _write) = nix::unistd::pipe().unwrap();
        let now = Instant::now();
        let mut watch = watch_after(read.as_fd(), [session_record(&info())], now);
        watch.is_revoked = true;
        watch.take(&session_record(&info()), now);
        assert!(watch.is_revoked, "the same session, told again");
        watch.take(&session_record(&SessionInfo { session: 8, ..SessionInfo::default() }), now);
        assert!(!watch.is_revoked);
    }
}
