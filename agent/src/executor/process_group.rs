//! One command's process group, from its start until the last process in it is gone.
//!
//! Knows processes, signals and the guard; not what the command is for. Whoever drops it before [`finish`] has it
//! killed: no path leads to a command that outlives its attempt.
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

/// How long a group may take to be gone after SIGKILL. Longer means a process held in the kernel, by a lost network
/// disk for one, which no signal ends.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// The first and the longest pause between two looks at a group that is being killed.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(20));

/// The longest pause between two looks in `/proc` at a group that is waited for, since each goes through all processes.
const LOOK_CLOSER_SELDOM: Duration = Duration::from_millis(500);

/// The pause from which a group that is still there is looked at in `/proc`, to see if it is more than zombies.
const LOOK_CLOSER: Duration = Duration::from_millis(2);

/// A running command: the leader of a process group, and the group.
pub(super) struct ProcessGroup {
    id: Pid,
    /// Taken when the group is finished.
    leader: Option<Child>,
    /// The group was seen without a process after its leader's end, so its number may have come to mean others.
    is_gone: bool,
    guard: Option<Arc<Guard>>,
    runtime: Handle,
}

impl ProcessGroup {
    /// Takes charge of the group that `leader`, just started under `runtime`, leads.
    pub(super) fn new(id: Pid, leader: Child, guard: Option<Arc<Guard>>, runtime: Handle) -> Self {
        Self { id, leader: Some(leader), is_gone: false, guard, runtime }
    }

    /// Waits for the leader to exit. Others of the group may still run then. Cancel-safe.
    pub(super) async fn leader_exited(&mut self) -> io::Result<ExitStatus> {
        match &mut self.leader {
            Some(leader) => leader.wait().await,
            None => Err(io::Error::other("the command is already finished")),
        }
    }

    /// Waits, once the leader has exited, until no process of the group is left that does anything. Cancel-safe.
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

    /// Waits, once the group is empty, until no process of the leader's session is left that does anything, such as one that
    /// `timeout` or a shell with job control put into a group of its own. Cancel-safe.
    pub(super) async fn session_emptied(&self) {
        let mut pause = LOOK_CLOSER;
        while any_is_running(|member| member.session == self.id.as_raw()) {
            sleep(pause).await;
            pause = (pause * 2).min(LOOK_CLOSER_SELDOM);
        }
    }

    /// Asks every process of the group to end.
    pub(super) fn terminate(&self) {
        if !self.is_gone {
            signal(self.id, Signal::SIGTERM);
        }
    }

    /// Kills what is left of the group and waits, for a bounded time, until it is gone.
    pub(super) async fn finish(&mut self) {
        if let Some(leader) = &mut self.leader {
            bury(self.id, leader, self.is_gone, self.guard.as_deref()).await;
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
        // Ends by itself within twice GONE_WITHIN; and with the runtime, whose end is the agent's.
        self.runtime.spawn(async move { bury(id, &mut leader, is_gone, guard.as_deref()).await });
    }
}

/// Sends a signal to every process of a group; true if there is any, be it a zombie.
fn signal(group: Pid, signal: impl Into<Option<Signal>>) -> bool {
    // EPERM: there are processes, but they have become another user's.
    !matches!(killpg(group, signal), Err(Errno::ESRCH))
}

async fn bury(group: Pid, leader: &mut Child, is_gone: bool, guard: Option<&Guard>) {
    let give_up = Instant::now() + GONE_WITHIN;
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
        // It stays registered with the guard, which tries once more when the agent ends.
        tracing::warn!(%group, "a command's process group is still there {GONE_WITHIN:?} after SIGKILL");
    }
    reaper::sweep();
}

/// Waits until no process of the group is left; false if some still is at `give_up`.
async fn gone(group: Pid, give_up: Instant) -> bool {
    let (mut pause, longest) = LOOK_AGAIN;
    loop {
        reaper::reap_group(group);
        if !signal(group, Signal::SIGKILL) {
            return true;
        }
        // Zombies that another process has to reap, and may never, do nothing any more and hold nothing open.
        if pause >= LOOK_CLOSER && only_zombies(group) {
            // Some may have come to this process since the look above.
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

/// Whether no process of the group is more than a zombie, as far as can be seen.
fn only_zombies(group: Pid) -> bool {
    !any_is_running(|member| member.group == group.as_raw())
}

/// Whether some process of the groups is more than a zombie, or that can't be seen.
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

/// The state in a `/proc/PID/stat`.
pub(super) fn state(stat: &str) -> Option<&str> {
    fields(stat).next()
}

/// What a process that runs is a member of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    group: i32,
    session: i32,
}

/// The fields from the state on: "PID (NAME) STATE PARENT GROUP SESSION ...", where NAME may contain anything, even ") ".
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit(") ").next().unwrap_or_default().split(' ')
}

/// What the process that a `/proc/PID/stat` is of is a member of, if it runs.
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
