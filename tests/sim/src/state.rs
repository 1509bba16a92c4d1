//! What the fleet's state has after a log entry, as coordinators report it: what is granted to whom, who is in which
//! team, and what has become of schedules. So it is checked after every entry, and not only when a client looks.

use std::collections::{BTreeMap, BTreeSet};

use robeing_proto::v1::{self, ResourceAmounts};

use crate::{
    queued::Running,
    record::{Applied, Notes},
    schedules::Report,
};

/// Begins the holders that are tasks.
const TASK: &str = "task:";

/// Processor time in thousandths of a processor, and memory in bytes.
pub type Amounts = [u64; 2];

/// What one agent gives of an allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// The agent.
    pub agent: String,
    /// What it gives.
    pub amounts: Amounts,
}

/// A granted allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Granted {
    /// Its id.
    pub id: String,
    /// Its fencing token.
    pub token: u64,
    /// Who holds it.
    pub holder: String,
    /// The queue that it counts for.
    pub queue: String,
    /// Its parts.
    pub parts: Vec<Part>,
}

/// What the state has after a log entry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// What is granted.
    pub granted: Vec<Granted>,
    /// The members of each team that is not disbanded.
    pub teams: BTreeMap<String, BTreeSet<String>>,
    /// The number of running tasks by queue and key.
    pub running: Running,
    /// The schedules.
    pub schedules: Report,
}

/// Reads amounts of a response.
pub fn amounts(told: Option<&ResourceAmounts>) -> Amounts {
    told.map_or([0; 2], |told| [told.cpu_millis, told.memory_bytes])
}

/// Returns the sums of two amounts.
pub fn plus(one: Amounts, other: Amounts) -> Amounts {
    [one[0] + other[0], one[1] + other[1]]
}

/// Returns whether one amount covers another one.
pub fn covers(whole: Amounts, part: Amounts) -> bool {
    whole.iter().zip(part).all(|(whole, part)| part <= *whole)
}

/// Returns the task that a holder is; `None` if it is something else.
pub fn task_of(holder: &str) -> Option<&str> {
    holder.strip_prefix(TASK)
}

impl Granted {
    fn of(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [id, token, holder, queue, parts @ ..] = &words[..] else { return None };
        let part = |part: &[&str]| {
            let [agent, cpu, memory] = part else { return None };
            Some(Part { agent: (*agent).to_owned(), amounts: [cpu.parse().ok()?, memory.parse().ok()?] })
        };
        Some(Self {
            id: (*id).to_owned(),
            token: token.parse().ok()?,
            holder: (*holder).to_owned(),
            queue: (*queue).to_owned(),
            parts: parts.chunks(3).map(part).collect::<Option<_>>()?,
        })
    }

    /// Reads an allocation of a response that is granted.
    pub fn told(told: &v1::Allocation) -> Self {
        let parts = told.parts.iter();
        Self {
            id: told.id.clone(),
            token: told.token,
            holder: told.holder.clone(),
            queue: told.queue.clone(),
            parts: parts.map(|of| Part { agent: of.agent.clone(), amounts: amounts(of.amounts.as_ref()) }).collect(),
        }
    }

    /// Returns the task that holds it; `None` if somebody else does.
    pub fn task(&self) -> Option<&str> {
        task_of(&self.holder)
    }

    /// Returns the agents that give its parts.
    pub fn agents(&self) -> Vec<String> {
        self.parts.iter().map(|part| part.agent.clone()).collect()
    }

    /// Returns the sum of its parts.
    pub fn sum(&self) -> Amounts {
        self.parts.iter().fold([0; 2], |sum, part| plus(sum, part.amounts))
    }
}

impl State {
    /// Reads what coordinators report.
    pub fn of(granted: &str, teams: &str, schedules: &str, running: &str) -> Self {
        let team = |text: &str| {
            let mut words = text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
            Some((words.next()?, words.collect::<BTreeSet<String>>()))
        };
        let group = |text: &str| {
            let mut words = text.split(' ').map(str::to_owned);
            let (queue, count) = (words.next()?, words.next()?.parse().ok()?);
            Some(((queue, words.next().unwrap_or_default()), count))
        };
        Self {
            granted: granted.split(',').filter_map(Granted::of).collect(),
            teams: teams.split(',').filter_map(team).collect(),
            running: running.split(',').filter_map(group).collect(),
            schedules: Report::of(schedules),
        }
    }
}

impl Notes {
    /// Checks what the state has after the log entry `index`. `lost`: the agents of which a session ended with the entry.
    pub fn check_state(&mut self, index: u64, applied: &Applied, state: State, lost: &BTreeSet<String>) {
        let at = self.times.stamped_at(index);
        let found = [
            self.queues.applied(applied, self.times.fleet_time(index), &state.running),
            self.allocations.applied(self.now, at.unwrap_or_default(), &state.granted),
            self.needs.applied(applied, lost, &state.granted),
            self.teams.orders.applied(&applied.assigned, state.teams),
            self.schedules.applied(&applied.finished, &state.schedules),
        ];
        // No client waits for them.
        self.others.extend(self.schedules.take_fresh());
        for (check, what) in found.into_iter().filter_map(Result::err) {
            self.violation(check, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_coordinators_report_is_read() {
        let state = State::of(
            "1 7 task:5 default a 500 1024,2 8 client:c limited a 1 2 b 3 4",
            "t a b,u",
            "9,s 1 1 0 0 0 0 0 0",
            "q 3,q 1 k",
        );
        let part = |agent: &str, amounts| Part { agent: agent.to_owned(), amounts };
        let [one, other] = &state.granted[..] else { panic!("two allocations: {state:?}") };
        assert_eq!((one.id.as_str(), one.token, one.task(), one.queue.as_str()), ("1", 7, Some("5"), "default"));
        assert_eq!(one.parts, [part("a", [500, 1024])]);
        assert_eq!(other.parts, [part("a", [1, 2]), part("b", [3, 4])]);
        assert_eq!((other.task(), other.sum(), other.agents()), (None, [4, 6], vec!["a".to_owned(), "b".to_owned()]));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
        assert_eq!(state.teams, BTreeMap::from([("t".to_owned(), names(&["a", "b"])), ("u".to_owned(), names(&[]))]));
        let group = |key: &str| ("q".to_owned(), key.to_owned());
        assert_eq!(state.running, BTreeMap::from([(group(""), 3), (group("k"), 1)]));
        assert_eq!((state.schedules.wall, state.schedules.schedules.len()), (9, 1));
        assert_eq!(State::of("", "", "", ""), State::default());
    }
}
