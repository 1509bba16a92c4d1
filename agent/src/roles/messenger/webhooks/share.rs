//! Which messenger sends the event of which task: the one with the highest weight for it (rendezvous hashing), of those
//! that were active when the task ended and have been since. When one comes, it gets tasks that end from then on alone;
//! when one goes, only its tasks change hands. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::HANDOVER;
use crate::messaging::Snapshot;

/// Maximum number of earlier sets of messengers that are remembered. Beyond that, the second one of all counts as the
/// first, so that an event may be sent twice.
pub const MAX_ERAS: usize = 32;

/// The messengers that are active at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Share {
    names: BTreeSet<String>,
}

impl Share {
    /// Returns the active messengers of a fleet, those on standby among them: they follow the tasks, too.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self { names: snapshot.messengers().map(|entry| entry.name.to_string()).collect() }
    }

    /// Returns whether the agent of this name is one of them.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Returns their number.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Returns whether the agent of this name sends the event of this task, if these were always active.
    #[cfg(test)]
    pub fn is_for(&self, name: &str, task: &str) -> bool {
        chosen(self.names(), task) == Some(name)
    }
}

/// A set of messengers that was active until another one was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Era {
    share: Share,
    /// Tasks that ended up to this revision of the fleet ended in the era. `None` while it is not over: for
    /// [`HANDOVER`] after the change, so that one that has come surely follows the tasks from before the end on.
    until: Option<u64>,
    /// When the change was noticed.
    #[serde(skip)]
    noticed: Option<Instant>,
}

impl Era {
    /// Returns whether it is to be closed. What was read from the disk counts from the first call on.
    fn is_due(&mut self, now: Instant) -> bool {
        let noticed = *self.noticed.get_or_insert(now);
        self.until.is_none() && now.duration_since(noticed) >= HANDOVER
    }
}

/// Which messengers were active when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The earlier sets, the oldest first. Those that are over come before those that are not.
    earlier: Vec<Era>,
    present: Share,
}

impl History {
    /// Returns the messengers that are active now.
    pub fn present(&self) -> &Share {
        &self.present
    }

    /// Notes that these are active now. Returns whether one is gone.
    pub fn change(&mut self, share: Share, now: Instant) -> bool {
        let former = std::mem::replace(&mut self.present, share);
        if former.names.is_empty() {
            return false;
        }
        let one_is_gone = !former.names.is_subset(&self.present.names);
        self.earlier.push(Era { share: former, until: None, noticed: Some(now) });
        if self.earlier.len() > MAX_ERAS {
            let second = self.earlier.remove(1);
            // Who came with the second is left out, and gets its tasks sent by others, too.
            if let Some(first) = self.earlier.first_mut() {
                (first.until, first.noticed) = (second.until, second.noticed);
            }
        }
        one_is_gone
    }

    /// Returns whether an era is to be closed.
    pub fn is_due(&mut self, now: Instant) -> bool {
        self.due(now).next().is_some()
    }

    /// Ends the eras that are to be closed at this revision of the fleet.
    pub fn close(&mut self, revision: u64, now: Instant) {
        let latest = self.earlier.iter().filter_map(|era| era.until).max().unwrap_or_default();
        self.due(now).for_each(|era| era.until = Some(revision.max(latest)));
    }

    fn due(&mut self, now: Instant) -> impl Iterator<Item = &mut Era> {
        self.earlier.iter_mut().filter_map(move |era| era.is_due(now).then_some(era))
    }

    /// Forgets eras of which no task is looked at again: those that ended up to this revision.
    pub fn forget(&mut self, revision: u64) {
        self.earlier.retain(|era| era.until.is_none_or(|until| until > revision));
    }

    /// Returns whether the agent of this name sends the event of this task, which ended at this revision.
    pub fn is_for(&self, name: &str, task: &str, revision: u64) -> bool {
        let since = self.earlier.iter().filter(|era| era.until.is_none_or(|until| revision <= until));
        let mut stayed: BTreeSet<&str> = BTreeSet::new();
        for share in since.map(|era| &era.share).chain([&self.present]) {
            let left: BTreeSet<&str> = share.names().filter(|name| stayed.contains(name)).collect();
            // If all are gone who were there, those count who came then.
            stayed = if left.is_empty() { share.names().collect() } else { left };
        }
        chosen(stayed.into_iter(), task) == Some(name)
    }
}

/// Returns the one with the highest weight for a task. Of equal weights, which are as good as impossible, the last name
/// counts.
fn chosen<'a>(names: impl Iterator<Item = &'a str>, task: &str) -> Option<&'a str> {
    names.max_by_key(|name| weight(name, task))
}

fn weight(name: &str, task: &str) -> [u8; 32] {
    robeing_identity::digest(format!("{name}\0{task}").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn share(names: &[&str]) -> Share {
        Share { names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    fn tasks() -> impl Iterator<Item = String> {
        (0..300).map(|task: i32| task.to_string())
    }

    /// Returns the history of these sets, each of which was there until a revision: 10, 20 and so on.
    fn history(shares: &[&[&str]]) -> History {
        let (mut history, mut now) = (History::default(), Instant::now());
        for (at, names) in (0..).zip(shares) {
            history.change(share(names), now);
            now += HANDOVER;
            history.close(10 * at, now);
        }
        history
    }

    #[test]
    fn each_task_is_one_messengers_and_they_have_about_equally_many() {
        let names = ["m-0", "m-1", "m-2"];
        let all = share(&names);
        let mut counts = [0; 3];
        for task in (0..3_000).map(|task: i32| task.to_string()) {
            let owners: Vec<usize> = (0..3).filter(|at| all.is_for(names[*at], &task)).collect();
            assert_eq!(owners.len(), 1);
            counts[owners[0]] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
        assert!(!share(&[]).is_for("m-0", "t") && !all.is_for("m-9", "t"));
    }

    #[test]
    fn when_one_goes_the_others_keep_theirs() {
        let (all, fewer) = (share(&["m-0", "m-1", "m-2"]), share(&["m-0", "m-1"]));
        for task in (0..1_000).map(|task: i32| task.to_string()) {
            for name in ["m-0", "m-1"] {
                assert!(!all.is_for(name, &task) || fewer.is_for(name, &task));
            }
        }
    }

    #[test]
    fn a_task_that_ended_before_one_came_is_for_those_who_were_there() {
        let history = history(&[&["m-0"], &["m-0", "m-1"]]);
        assert!(tasks().all(|task| history.is_for("m-0", &task, 10)));
        assert!(tasks().any(|task| history.is_for("m-1", &task, 11)));
        assert!(tasks().all(|task| history.is_for("m-0", &task, 11) != history.is_for("m-1", &task, 11)));
    }

    #[test]
    fn one_that_comes_counts_only_after_a_while() {
        let (mut history, now) = (History::default(), Instant::now());
        assert!(!history.change(share(&["m-0"]), now), "nobody is gone");
        assert!(!history.change(share(&["m-0", "m-1"]), now));
        let almost = now + HANDOVER - Duration::from_millis(1);
        assert!(!history.is_due(almost));
        history.close(7, almost);
        assert!(tasks().all(|task| history.is_for("m-0", &task, 1_000)));
        assert!(history.is_due(now + HANDOVER));
        history.close(7, now + HANDOVER);
        assert!(!history.is_due(now + HANDOVER) && tasks().any(|task| !history.is_for("m-0", &task, 8)));
    }

    #[test]
    fn what_one_leaves_is_for_those_who_have_been_there_since() {
        let one_stayed = history(&[&["m-0", "m-1"], &["m-0", "m-2"]]);
        // The one that came has not followed what ended before.
        assert!(tasks().all(|task| one_stayed.is_for("m-0", &task, 10)));
        let all_went = history(&[&["m-1"], &["m-0"]]);
        assert!(tasks().all(|task| all_went.is_for("m-0", &task, 10)));
    }

    #[test]
    fn so_many_eras_are_remembered_and_none_that_nobody_asks_for() {
        let (mut history, mut now) = (History::default(), Instant::now());
        for revision in 0..2 * MAX_ERAS as u64 {
            let names: &[&str] = if revision.is_multiple_of(2) { &["m-0"] } else { &["m-0", "m-1"] };
            history.change(share(names), now);
            now += HANDOVER;
            history.close(revision, now);
        }
        assert_eq!(history.earlier.len(), MAX_ERAS);
        assert!(tasks().all(|task| history.is_for("m-0", &task, 1)), "the first set is remembered");
        history.forget(2 * MAX_ERAS as u64 - 2);
        assert_eq!(history.earlier.len(), 1);
        history.forget(2 * MAX_ERAS as u64 - 1);
        assert!(history.earlier.is_empty());
    }

    #[test]
    fn an_era_that_was_not_over_at_a_restart_lasts_a_while_from_then_on() {
        let (mut history, now) = (History::default(), Instant::now());
        history.change(share(&["m-0"]), now);
        history.change(share(&["m-0", "m-1"]), now);
        let json = serde_json::to_string(&history).expect("it has a JSON form");
        let mut read: History = serde_json::from_str(&json).expect("it is one");
        assert!(!read.is_due(now) && !read.is_due(now + HANDOVER / 2) && read.is_due(now + HANDOVER));
    }
}
