//! The guard's own life: what it knows of its agent, and what it does when the agent is gone or stopped.
//!
//! **Stopped.** An agent that is stopped (SIGSTOP, a debugger) neither works nor knows of it, and would go on where it was. It
//! is taken for stopped only when both is so: it has renewed its lease for a good while not ([`QUIET_SHARE`]), and all its threads
//! have been in the state `T` or `t` of `/proc` at every look from then on for [`STOPPED_SHARE`]. A process that is slow,
//! starved or swapped out is never in that state; nor is one whose machine or container is frozen, of which the guard is a part
//! and stands still as well. Then, in this order:
//!
//! 1. the session is revoked: the agent finds that written in a pipe before it acts on anything when it goes on, and begins
//!    nothing of the session;
//! 2. the agent is looked at once more. If it goes on already it has, or has not, seen that, so nothing is reported: it gives
//!    the session up by itself;
//! 3. every process group is killed and waited for, also those that register meanwhile, since a command may be between fork
//!    and exec;
//! 4. the stop is reported to the coordinators.
//!
//! **Gone.** The end of the pipe: 3, then the end is reported.

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
    records::{Records, Stay, Told},
    report::{self, Ended},
};
use crate::executor::process_group;

/// From this share of a lease on, counted from its renewal, an agent that did not renew it is looked at, in eighths. It renews
/// every third of it.
const QUIET_SHARE: u32 = 3;
/// For how long of a lease an agent must be seen stopped, in eighths.
const STOPPED_SHARE: u32 = 2;
/// Pause between two looks at an agent that is quiet.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How long killed process groups may take to be gone. Longer means a process held in the kernel; nothing is reported then.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// The first and the longest pause between two looks at killed process groups.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(10));

#[derive(Clone, Copy)]
struct Lease {
    quiet_from: Instant,
    stopped_for: Duration,
    ends: Instant,
}

/// What the guard knows.
pub(super) struct Watch<'a> {
    records: BorrowedFd<'a>,
    /// The agent's process.
    agent: Pid,
    read: Records,
    pub(super) groups: HashSet<i32>,
    lease: Option<Lease>,
    /// Since when the agent is seen stopped.
    stopped_since: Option<Instant>,
    stay: Option<Stay>,
    /// The session of `stay` is revoked: nothing of it may run.
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
            stay: None,
            is_revoked: false,
        }
    }

    /// Watches until the agent is gone, and ends what it left behind.
    pub(super) fn run(mut self) {
        while self.wait() {}
        let is_gone = self.end_groups();
        if let Some(stay) = self.stay.filter(|_| is_gone) {
            report::report(&stay, Ended::Gone);
        }
    }

    /// Waits for the next records, or for what is due: whether the agent is still there.
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

    /// When the agent is to be looked at, or its lease ends.
    fn due(&self, now: Instant) -> Option<Instant> {
        let lease = self.lease?;
        let may_be_stopped = self.stay.is_some() && !self.is_revoked && now < lease.ends;
        let look = if self.stopped_since.is_some() { now + LOOK_EVERY } else { lease.quiet_from };
        Some(if may_be_stopped { look.min(lease.ends) } else { lease.ends })
    }

    /// Reads what there is, after waiting for it so long at most; without an end if `None`. Whether the agent is still there.
    fn read_records(&mut self, within: Option<Duration>) -> bool {
        // Rounded up, so that it does not wake a moment too early and spin.
        let millis = within.map(|within| within.as_millis().saturating_add(1));
        let timeout = millis.map_or(PollTimeout::NONE, |ms| PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX));
        match poll(&mut [PollFd::new(self.records, PollFlags::POLLIN)], timeout) {
            Ok(0) => {
                // What was waited for is due, or looked at anew.
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

    /// Reads all that was told by now.
    fn catch_up(&mut self) {
        let is_there =
            |records| matches!(poll(&mut [PollFd::new(records, PollFlags::POLLIN)], PollTimeout::ZERO), Ok(1));
        let mut bytes = [0; 4096];
        while is_there(self.records) {
            match nix::unistd::read(self.records, &mut bytes) {
                Ok(n) if n > 0 => self.take(&bytes[..n], Instant::now()),
                // The end is found again by whoever waits.
                Ok(_) | Err(_) => return,
            }
        }
    }

    pub(super) fn take(&mut self, bytes: &[u8], now: Instant) {
        for told in self.read.take(bytes) {
            match told {
                Told::Group(group) => {
                    self.groups.insert(group);
                    if self.is_revoked {
                        kill(&self.groups);
                    }
                }
                Told::GroupGone(group) => drop(self.groups.remove(&group)),
                Told::Lease(left) => {
                    self.stopped_since = None;
                    self.lease = left.map(|left| Lease {
                        quiet_from: now + left * QUIET_SHARE / 8,
                        stopped_for: left * STOPPED_SHARE / 8,
                        ends: now + left,
                    });
                }
                Told::Stay(stay) => {
                    self.is_revoked &= self.stay.as_ref().is_some_and(|known| known.session == stay.session);
                    self.stay = (stay.session != 0).then_some(*stay);
                }
            }
        }
    }

    /// Looks at what is due.
    fn look(&mut self, now: Instant) {
        let Some(lease) = self.lease else { return };
        if lease.ends <= now {
            kill(&self.groups);
            self.lease = None;
            return;
        }
        if now < lease.quiet_from || self.stay.is_none() || self.is_revoked {
            return;
        }
        if !is_stopped(self.agent) {
            self.stopped_since = None;
            // Nothing is seen by looking at once again.
            self.lease = Some(Lease { quiet_from: now + LOOK_EVERY, ..lease });
            return;
        }
        let since = *self.stopped_since.get_or_insert(now);
        if now.duration_since(since) >= lease.stopped_for {
            self.revoke();
        }
    }

    /// Takes the session from an agent that is stopped.
    fn revoke(&mut self) {
        // A stopped agent tells nothing more, so afterwards all is known.
        self.catch_up();
        let Some(stay) = self.stay.clone().filter(|_| self.stopped_since.is_some()) else { return };
        // Without that it could go on as if nothing was.
        if writeln!(std::io::stdout(), "\n{REVOKED}{}", stay.session).is_err() {
            self.stopped_since = None;
            return;
        }
        self.is_revoked = true;
        let is_stopped = is_stopped(self.agent);
        if self.end_groups() && is_stopped {
            // Beside the watch, which must go on.
            std::thread::spawn(move || report::report(&stay, Ended::Stopped));
        }
    }

    /// Kills every process group and waits until they are gone; false if some still is there after a while.
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

/// What the line begins with that revokes a session.
pub(super) const REVOKED: &str = "revoked ";

fn kill(groups: &HashSet<i32>) {
    for group in groups {
        // One that is gone by itself is as good.
        let _ = killpg(Pid::from_raw(*group), Signal::SIGKILL);
    }
}

/// Whether every thread of a process is stopped, by a signal or by a debugger.
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
        super::records::{lease_record, record, stay_record},
        *,
    };

    const LEASE: Duration = Duration::from_millis(1_600);

    fn stay() -> Stay {
        Stay { session: 7, ..Stay::default() }
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
        let watch = watch_after(read.as_fd(), [lease.clone(), stay_record(&stay())], now);
        assert_eq!(watch.due(now), Some(now + LEASE * QUIET_SHARE / 8), "a session, and no renewal by then");
        let mut watch = watch_after(read.as_fd(), [lease.clone(), stay_record(&stay())], now);
        watch.take(&lease, now + LEASE / 3);
        assert_eq!(watch.due(now + LEASE / 3), Some(now + LEASE / 3 + LEASE * QUIET_SHARE / 8), "it was renewed");
        let watch = watch_after(read.as_fd(), [lease.clone()], now);
        assert_eq!(watch.due(now), Some(now + LEASE), "without a session there is nothing to revoke");
        let watch = watch_after(read.as_fd(), [lease, stay_record(&stay()), stay_record(&Stay::default())], now);
        assert_eq!(watch.due(now), Some(now + LEASE), "it has left the session");
        let watch = watch_after(read.as_fd(), [stay_record(&stay()), lease_record(0).to_vec()], now);
        assert_eq!(watch.due(now), None, "a lease can be called off");
    }

    #[test]
    fn an_agent_that_is_quiet_and_runs_is_not_stopped_however_long_that_lasts() {
        let (read, _write) = nix::unistd::pipe().unwrap();
        let start = Instant::now();
        // This very process is the agent here.
        let mut watch = watch_after(read.as_fd(), [lease_record(1_600).to_vec(), stay_record(&stay())], start);
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
        let mut watch = watch_after(read.as_fd(), [stay_record(&stay())], now);
        watch.is_revoked = true;
        watch.take(&stay_record(&stay()), now);
        assert!(watch.is_revoked, "the same session, told again");
        watch.take(&stay_record(&Stay { session: 8, ..Stay::default() }), now);
        assert!(!watch.is_revoked);
    }
}
