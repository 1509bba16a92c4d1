//! One command's process group, from its start until its last process is gone.
//!
//! This module knows processes, signals and the guard, not what the command is for. Dropping a group before [`finish`]
//! kills it: no code path leaves a command that outlives its attempt.
//!
//! [`finish`]: ProcessGroup::finish

use std::{collections::HashSet, io, process::ExitStatus, sync::Arc, time::Duration};

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    process::Child,
    runtime::Handle,
    time::{Instant, sleep, timeout_at},
};

use super::{guard::Guard, reaper};

/// How long a group may take to disappear after SIGKILL. If it takes longer, a process hangs in the kernel, for example
/// on an unreachable network disk, and no signal ends it.
pub(super) const GONE_WITHIN: Duration = Duration::from_secs(2);
/// The first and the longest pause between two checks of a group that is being killed.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(20));

/// The longest pause between two checks in `/proc` of a group, since each scans all processes.
const LOOK_CLOSER_SELDOM: Duration = Duration::from_millis(500);

/// About how long a group may remain before `/proc` is scanned, to see whether it has only zombies.
const LOOK_CLOSER: Duration = Duration::from_millis(2);

/// A running command: the leader of a process group, and the group.
pub(super) struct ProcessGroup {
    id: Pid,
    /// Taken when the group is finished.
    leader: Option<Child>,
    /// The group was seen empty after its leader's end, so its id may have been reused.
    is_gone: bool,
    guard: Option<Arc<Guard>>,
    runtime: Handle,
}

impl ProcessGroup {
    /// Takes ownership of the group led by `leader`, which was just started under `runtime`.
    pub(super) fn new(id: Pid, leader: Child, guard: Option<Arc<Guard>>, runtime: Handle) -> Self {
        Self { id, leader: Some(leader), is_gone: false, guard, runtime }
    }

    /// Waits for the leader to exit. Other processes of the group may still run then. Cancel-safe.
    pub(super) async fn leader_exited(&mut self) -> io::Result<ExitStatus> {
        match &mut self.leader {
            Some(leader) => leader.wait().await,
            None => Err(io::Error::other("the command is already finished")),
        }
    }

    /// Waits, once the leader has exited, until the group has no process but zombies. Cancel-safe.
    pub(super) async fn emptied(&mut self) {
        let (mut pause, longest) = LOOK_AGAIN;
        let (mut closer, mut look_closer) = (LOOK_CLOSER, Instant::now() + LOOK_CLOSER);
        loop {
            reaper::reap_group(self.id);
            self.is_gone = !signal(self.id, None);
            if self.is_gone {
                return;
            }
            if Instant::now() >= look_closer {
                if only_zombies(self.id) {
                    return;
                }
                closer = (closer * 2).min(LOOK_CLOSER_SELDOM);
                look_closer = Instant::now() + closer;
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Waits, once the group is empty, until the leader's session has no process but zombies; one may remain that
    /// `timeout` or a shell with job control put into its own group. Cancel-safe.
    pub(super) async fn session_emptied(&self) {
        let mut pause = LOOK_CLOSER;
        while any_is_running(|member| member.session == self.id.as_raw()) {
            sleep(pause).await;
            pause = (pause * 2).min(LOOK_CLOSER_SELDOM);
        }
    }

    /// Sends SIGTERM to every process of the group.
    pub(super) fn terminate(&self) {
        if !self.is_gone {
            signal(self.id, Signal::SIGTERM);
        }
    }

    /// Kills the rest of the group and waits until it is gone, but no longer than `within`.
    pub(super) async fn finish(&mut self, within: Duration) {
        if let Some(leader) = &mut self.leader {
            bury(self.id, leader, self.is_gone, self.guard.as_deref(), within).await;
            self.leader = None;
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let Some(mut leader) = self.leader.take() else {
            return;
        };
        if !self.is_gone {
            signal(self.id, Signal::SIGKILL);
        }
        let (id, is_gone, guard) = (self.id, self.is_gone, self.guard.take());
        // Ends after about GONE_WITHIN at the latest, or with the runtime, which ends only with the agent.
        self.runtime.spawn(async move { bury(id, &mut leader, is_gone, guard.as_deref(), GONE_WITHIN).await });
    }
}

/// Sends a signal to every process of a group; returns whether there is any process, even a zombie.
fn signal(group: Pid, signal: impl Into<Option<Signal>>) -> bool {
    // EPERM: there are processes, but they now belong to another user.
    !matches!(killpg(group, signal), Err(Errno::ESRCH))
}

async fn bury(group: Pid, leader: &mut Child, is_gone: bool, guard: Option<&Guard>, within: Duration) {
    let give_up = Instant::now() + within;
    if !is_gone {
        signal(group, Signal::SIGKILL);
    }
    let exited = timeout_at(give_up, leader.wait()).await.is_ok();
    reaper::disown(group);
    if is_gone || exited && gone(group, give_up).await {
        if let Some(guard) = guard {
            guard.forget(group);
        }
    } else {
        // The group stays registered with the guard, which tries again when the agent ends.
        tracing::warn!(%group, "a command's process group still exists {within:?} after SIGKILL");
    }
    reaper::sweep();
}

/// Waits until no process of the group is left; returns false if some remain at `give_up`.
async fn gone(group: Pid, give_up: Instant) -> bool {
    let (mut pause, longest) = LOOK_AGAIN;
    loop {
        reaper::reap_group(group);
        if !signal(group, Signal::SIGKILL) {
            return true;
        }
        // Zombies count as gone: they run nothing and hold nothing open, and the process that must reap them may never
        // do so.
        if pause >= LOOK_CLOSER && only_zombies(group) {
            // This process may have adopted some since the reap above.
            reaper::reap_group(group);
            return true;
        }
        if Instant::now() >= give_up {
            return false;
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Whether the group has only zombies, as far as can be determined.
fn only_zombies(group: Pid) -> bool {
    !any_is_running(|member| member.group == group.as_raw())
}

/// Whether some process of the groups is more than a zombie; also true if that can't be determined.
pub(super) fn any_runs(groups: &HashSet<i32>) -> bool {
    let left: HashSet<i32> = groups.iter().copied().filter(|group| signal(Pid::from_raw(*group), None)).collect();
    !left.is_empty() && any_is_running(|member| left.contains(&member.group))
}

fn any_is_running(is_looked_for: impl Fn(Member) -> bool) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return true;
    };
    processes.flatten().any(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat"));
        stat.is_ok_and(|stat| running(&stat).is_some_and(&is_looked_for))
    })
}

/// Returns the state field of a `/proc/PID/stat`.
pub(super) fn state(stat: &str) -> Option<&str> {
    fields(stat).next()
}

/// The process group and session of a running process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    group: i32,
    session: i32,
}

/// Returns the fields from the state on: "PID (NAME) STATE PARENT GROUP SESSION ...", where NAME may contain anything,
/// even ") ".
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit(") ").next().unwrap_or_default().split(' ')
}

/// Returns the membership of the process of a `/proc/PID/stat`, if it runs.
fn running(stat: &str) -> Option<Member> {
    let mut ids = fields(stat).skip(2).map_while(|id| id.parse().ok());
    let member = Member { group: ids.next()?, session: ids.next()? };
    Some(member).filter(|_| !matches!(state(stat), Some("Z" | "X")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_member_of_a_group_and_session_is_told_from_zombies_and_strangers() {
        let member = |group, session| Some(Member { group, session });
        assert_eq!(running("71 (sleep) S 1 70 69 0 -1 4194304"), member(70, 69));
        assert_eq!(running("71 (odd) Z 1 7) D 1 70 69 0 -1 4194304"), member(70, 69));
        assert_eq!(running("71 (sleep) Z 1 70 70 0 -1 4194304"), None);
        assert_eq!(running("71 (sleep) S 70 71 70 0 -1 4194304"), member(71, 70));
        assert_eq!(running(""), None);
        assert_eq!(state("71 (odd) Z 1 7) T 1 70 70 0 -1 4194304"), Some("T"));
    }
}
