//! Which messenger sends the event of which task: the one with the highest weight for it, of those that are active
//! (rendezvous hashing). When one comes or goes, only the tasks change hands that it gets or had. Pure.

use std::{collections::BTreeSet, sync::Arc};

use crate::messaging::{Presence, Role, Snapshot};

/// The messengers that are active at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    names: BTreeSet<Arc<str>>,
}

impl Share {
    /// Returns the active messengers of a fleet.
    pub fn of(snapshot: &Snapshot) -> Self {
        let is_one = |role: Role, presence: Presence| role == Role::Messenger && presence == Presence::Active;
        let active = snapshot.active().filter(|entry| is_one(entry.role, entry.presence));
        Self { names: active.map(|entry| Arc::clone(&entry.name)).collect() }
    }

    /// Returns whether the agent of this name is one of them.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Returns whether the agent of this name sends the event of this task.
    pub fn is_for(&self, name: &str, task: &str) -> bool {
        // Of equal weights, which are as good as impossible, the last name counts.
        let chosen = self.names.iter().max_by_key(|known| weight(known, task));
        chosen.is_some_and(|chosen| &**chosen == name)
    }
}

fn weight(name: &str, task: &str) -> [u8; 32] {
    robeing_identity::digest(format!("{name}\0{task}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(names: &[&str]) -> Share {
        Share { names: names.iter().map(|name| Arc::from(*name)).collect() }
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
}
