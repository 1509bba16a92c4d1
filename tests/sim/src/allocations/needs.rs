//! What is known of every task that needs resources, and the checks that each attempt at one has an allocation of them,
//! at its agent and from its queue, for as long as it is the current one.

use std::collections::{BTreeMap, BTreeSet};

use robeing_proto::v1::{self, AllocationState};

use crate::{
    checks::{Check, Wrong},
    record::{Applied, Assigned},
    state::{Amounts, Granted, amounts, task_of},
};

/// A task that a client has asked for.
struct Known {
    needs: Amounts,
    queue: &'static str,
    /// The agents of its attempts, as they were assigned.
    agents: BTreeMap<u32, String>,
    /// Whether a log entry has finished it.
    is_finished: bool,
    /// Whether a client was told that it has ended.
    has_ended: bool,
}

/// The tasks of a run that need resources.
#[derive(Default)]
pub struct NeedsLedger {
    tasks: BTreeMap<String, Known>,
    is_over: bool,
}

impl Known {
    /// Returns whether an allocation is that of an attempt on this agent.
    fn is_covered_by(&self, agent: &str, granted: &Granted) -> bool {
        let [part] = &granted.parts[..] else { return false };
        (part.agent.as_str(), part.amounts, granted.queue.as_str()) == (agent, self.needs, self.queue)
    }

    /// Returns the agent of the newest attempt; empty if there is none.
    fn agent(&self) -> &str {
        self.agents.last_key_value().map_or("", |(_, agent)| agent.as_str())
    }
}

fn wrong(what: String) -> Result<(), Wrong> {
    Err((Check::Claimed, what))
}

impl NeedsLedger {
    /// Records that a client asks for a task that needs this much, from this queue.
    pub fn asks(&mut self, id: &str, needs: Amounts, queue: &'static str) {
        let known = Known { needs, queue, agents: BTreeMap::new(), is_finished: false, has_ended: false };
        self.tasks.insert(id.to_owned(), known);
    }

    /// Records what a log entry has done, after which this much is granted. `lost`: the agents of which a session ended
    /// with it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn applied(&mut self, applied: &Applied, lost: &BTreeSet<String>, granted: &[Granted]) -> Result<(), Wrong> {
        let mut begun = BTreeSet::new();
        for Assigned { agent, task, attempt, .. } in &applied.assigned {
            if let Some(known) = self.tasks.get_mut(task) {
                known.agents.insert(*attempt, agent.clone());
                begun.insert(task.as_str());
            }
        }
        for id in &applied.finished {
            if let Some(known) = self.tasks.get_mut(id) {
                known.is_finished = true;
            }
        }
        let mut held: BTreeMap<&str, &Granted> = BTreeMap::new();
        for (task, granted) in granted.iter().filter_map(|granted| Some((granted.task()?, granted))) {
            self.check_held(task, granted)?;
            if let Some(other) = held.insert(task, granted) {
                return wrong(format!("task {task} has two allocations at once: {other:?} and {granted:?}"));
            }
        }
        for task in begun {
            let Some(known) = self.tasks.get(task) else { continue };
            // An attempt that was lost with the same entry has had its allocation in between.
            let is_current = !known.is_finished && !lost.contains(known.agent());
            if is_current && !held.contains_key(task) {
                return wrong(format!("task {task} is assigned to {} without an allocation", known.agent()));
            }
        }
        Ok(())
    }

    /// Checks what a task has after a log entry, or in a listing.
    fn check_held(&self, task: &str, granted: &Granted) -> Result<(), Wrong> {
        match self.tasks.get(task) {
            None => wrong(format!("task {task} needs nothing, and has {granted:?}")),
            Some(known) if known.is_finished => wrong(format!("task {task} has ended, and has {granted:?}")),
            Some(known) if !known.is_covered_by(known.agent(), granted) => wrong(format!(
                "task {task} needs {:?} from {:?}, runs on {:?}, and has {granted:?}",
                known.needs,
                known.queue,
                known.agent()
            )),
            Some(_) => Ok(()),
        }
    }

    /// Checks that an attempt that an executor starts was assigned to its agent.
    ///
    /// # Errors
    /// If it was not, and so has no allocation there.
    pub fn starts(&self, agent: &str, task: &str, attempt: u32) -> Result<(), Wrong> {
        let Some(known) = self.tasks.get(task) else { return Ok(()) };
        match known.agents.get(&attempt) {
            Some(assigned) if assigned == agent => Ok(()),
            other => {
                wrong(format!("{agent} starts attempt {attempt} of task {task}, which has resources of {other:?}"))
            }
        }
    }

    /// Returns the tasks of which a client was told that they have ended.
    pub fn ended(&self) -> BTreeSet<String> {
        let ended = self.tasks.iter().filter(|(_, known)| known.has_ended);
        ended.map(|(id, _)| id.clone()).collect()
    }

    /// Checks the allocations of attempts in a listing. `ended`: the tasks of which a client knew before that they have
    /// ended.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn listed(&self, ended: &BTreeSet<String>, listed: &[v1::Allocation]) -> Result<(), Wrong> {
        for told in listed.iter().filter(|told| told.state() == AllocationState::Granted) {
            let Some(task) = task_of(&told.holder) else { continue };
            let granted = Granted::told(told);
            let agent = granted.parts.first().map_or("", |part| &*part.agent);
            let known = self.tasks.get(task);
            let is_right = known.is_some_and(|known| known.is_covered_by(agent, &granted))
                && (told.lease_ms, told.requested_by.as_str()) == (0, "")
                && !ended.contains(task);
            if !is_right {
                return wrong(format!("task {task} has {told:?}; it has ended: {}", ended.contains(task)));
            }
        }
        Ok(())
    }

    /// Records that a task has ended, as a client reads it.
    ///
    /// # Errors
    /// If it is not what was asked for.
    pub fn ends(&mut self, task: &v1::Task) -> Result<(), Wrong> {
        let Some(known) = self.tasks.get_mut(&task.id) else { return Ok(()) };
        known.has_ended = true;
        if (amounts(task.resources.as_ref()), task.queue.as_str()) == (known.needs, known.queue) {
            return Ok(());
        }
        let (told, queue) = (task.resources, &task.queue);
        let what =
            format!("was submitted with {:?} from {:?}, and has {told:?} from {queue:?}", known.needs, known.queue);
        Err((Check::Refused, format!("task {} {what}", task.id)))
    }

    /// Records that no client asks for a task any more, and all have ended.
    pub fn close(&mut self) {
        self.is_over = true;
    }

    /// Returns whether all tasks have ended, and there will be no others.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns the number of tasks that have ended, and of their attempts.
    pub fn counts(&self) -> [usize; 2] {
        let ended = || self.tasks.values().filter(|known| known.has_ended);
        [ended().count(), ended().map(|known| known.agents.len()).sum()]
    }
}

#[cfg(test)]
mod tests {
    use robeing_proto::v1::{ResourceAmounts, allocation};

    use super::*;
    use crate::{allocations::draft::DEFAULT, state::Part};

    const NEEDS: Amounts = [500, 1_024];

    fn ledger() -> NeedsLedger {
        let mut ledger = NeedsLedger::default();
        ledger.asks("t", NEEDS, DEFAULT);
        ledger
    }

    /// Returns a log entry that assigns attempts of the task to agents, and finishes it or not.
    fn entry(assigned: &[(u32, &str)], finishes: bool) -> Applied {
        let assigned = assigned.iter().map(|(attempt, agent)| Assigned {
            agent: (*agent).to_owned(),
            slots: 1,
            task: "t".to_owned(),
            attempt: *attempt,
        });
        let finished = if finishes { vec!["t".to_owned()] } else { Vec::new() };
        Applied { checksum: 0, finished, assigned: assigned.collect(), sessions: Vec::new(), silent: Vec::new() }
    }

    /// Returns what a task has at an agent.
    fn held(task: &str, agent: &str, amounts: Amounts) -> Granted {
        let parts = vec![Part { agent: agent.to_owned(), amounts }];
        Granted { id: "1".to_owned(), token: 1, holder: format!("task:{task}"), queue: DEFAULT.to_owned(), parts }
    }

    fn is_right(ledger: &mut NeedsLedger, entry: &Applied, lost: &[&str], granted: &[Granted]) -> bool {
        let lost = lost.iter().map(|name| (*name).to_owned()).collect();
        ledger.applied(entry, &lost, granted).is_ok()
    }

    #[test]
    fn an_attempt_has_what_its_task_needs_where_it_runs() {
        let first = |granted: &[Granted]| is_right(&mut ledger(), &entry(&[(1, "a")], false), &[], granted);
        let right = held("t", "a", NEEDS);
        assert!(first(std::slice::from_ref(&right)));
        assert!(!first(&[]), "it has nothing");
        assert!(!first(&[held("t", "b", NEEDS)]), "of another agent");
        assert!(!first(&[held("t", "a", [500, 1_023])]), "too little");
        assert!(!first(&[Granted { queue: "other".to_owned(), ..right.clone() }]));
        assert!(!first(&[right.clone(), right.clone()]), "twice");
        assert!(!first(&[right.clone(), held("u", "a", NEEDS)]), "another one needs nothing");
        let of_client = Granted { holder: "client:c".to_owned(), ..held("t", "b", NEEDS) };
        assert!(first(&[right, of_client]));
    }

    #[test]
    fn what_an_attempt_had_is_free_when_it_has_ended() {
        let mut ledger = ledger();
        let [one, other] = ["a", "b"].map(|agent| held("t", agent, NEEDS));
        assert!(is_right(&mut ledger, &entry(&[(1, "a")], false), &[], std::slice::from_ref(&one)));
        assert!(is_right(&mut ledger, &entry(&[], false), &[], &[]), "it waits for the next one");
        assert!(is_right(&mut ledger, &entry(&[(2, "a"), (3, "b")], false), &["a"], std::slice::from_ref(&other)));
        assert!(!is_right(&mut ledger, &entry(&[], false), &[], &[one]), "of an earlier attempt");
        assert!(is_right(&mut ledger, &entry(&[(4, "a")], false), &["a"], &[]), "it was lost at once");
        assert!(is_right(&mut ledger, &entry(&[(5, "b")], false), &[], std::slice::from_ref(&other)));
        assert!(ledger.starts("b", "t", 5).is_ok() && ledger.starts("a", "u", 1).is_ok());
        assert!(ledger.starts("a", "t", 5).is_err() && ledger.starts("b", "t", 6).is_err());
        assert!(!is_right(&mut ledger, &entry(&[], true), &[], &[other]));
        assert!(is_right(&mut ledger, &entry(&[], false), &[], &[]));
        assert_eq!(ledger.counts(), [0, 0], "nobody was told of its end");
    }

    #[test]
    fn listings_and_reads_have_what_was_asked_for() {
        let of = |[cpu_millis, memory_bytes]: Amounts| {
            Some(ResourceAmounts { cpu_millis, memory_bytes, ..ResourceAmounts::default() })
        };
        let told = |needs| v1::Allocation {
            holder: "task:t".to_owned(),
            queue: DEFAULT.to_owned(),
            parts: vec![allocation::Part { amounts: of(needs), agent: "a".to_owned() }],
            state: AllocationState::Granted.into(),
            ..v1::Allocation::default()
        };
        let (none, ended) = (BTreeSet::new(), BTreeSet::from(["t".to_owned()]));
        assert!(ledger().listed(&none, &[told(NEEDS)]).is_ok());
        assert!(ledger().listed(&none, &[told([1, 1])]).is_err());
        assert!(ledger().listed(&none, &[v1::Allocation { lease_ms: 1, ..told(NEEDS) }]).is_err());
        assert!(ledger().listed(&ended, &[told(NEEDS)]).is_err(), "it has ended");
        let lost = v1::Allocation { state: AllocationState::AgentLost.into(), ..told(NEEDS) };
        assert!(ledger().listed(&ended, &[lost]).is_ok());
        let task = |needs| v1::Task {
            id: "t".to_owned(),
            resources: of(needs),
            queue: DEFAULT.to_owned(),
            ..v1::Task::default()
        };
        let mut ledger = ledger();
        assert!(ledger.ends(&task([1, 1])).is_err() && ledger.ends(&task(NEEDS)).is_ok());
        assert_eq!((ledger.ended(), ledger.counts(), ledger.is_over()), (ended, [1, 0], false));
        ledger.close();
        assert!(ledger.is_over());
    }
}
