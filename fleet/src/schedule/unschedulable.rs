//! Tasks that wait and that no agent could run, even if it had nothing else to do: they wait for an agent that is not there.
//! This requires a scan of all agents, so the agents are looked at one by one and the caller can read them in slices.

use std::{collections::BTreeMap, sync::Arc};

use super::needing::Shape;
use crate::{
    Agent, Amounts, Fleet, Stamp, Task, TaskId,
    limits::{MAX_NEEDS_LOOKED_AT, MAX_SCANNED, MAX_TASKS_OF_NEED},
    words::listed,
};

/// What tasks need that no agent has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnmetNeed {
    /// The number of tasks that wait for it, at least: not all are counted if they are of many submitters or keys.
    pub tasks: u64,
    /// One of them.
    pub task: TaskId,
    /// Its kind.
    pub kind: String,
    /// When it was accepted.
    pub since: Stamp,
    /// What no agent has, as text: `no agent has role Guardian`.
    pub problem: String,
}

/// The different needs of waiting tasks, of which those are left that no agent meets.
#[derive(Debug)]
pub struct UnmetNeeds {
    needs: Vec<(Shape, UnmetNeed)>,
}

/// Tasks of all queues and keys need the same.
const NO_LANE: (&str, &str) = ("", "");

/// Counts tasks that need this, of which this one was accepted first.
fn note(found: &mut BTreeMap<Shape, (u64, u64)>, shape: Shape, seq: u64, tasks: usize) {
    let (first, count) = found.entry(shape).or_insert((seq, 0));
    (*first, *count) = ((*first).min(seq), count.saturating_add(tasks as u64));
}

impl UnmetNeeds {
    /// Returns what tasks need that wait for an agent, before any agent is looked at: of many different needs, those of the
    /// tasks that were accepted first. Tasks that are addressed to teams are left out, as are some if there are tasks of more
    /// than [`MAX_SCANNED`] different queues, kinds and roles.
    pub fn of(fleet: &Fleet) -> Self {
        let schedule = &fleet.indexes.schedule;
        let mut found: BTreeMap<Shape, (u64, u64)> = BTreeMap::new();
        for set in schedule.queue.by_need(MAX_SCANNED) {
            let looked_at = set.iter().take(MAX_TASKS_OF_NEED).filter_map(|(_, seq)| fleet.state.tasks.kept.get(seq));
            let (general, required): (Vec<&Arc<Task>>, Vec<&Arc<Task>>) =
                looked_at.partition(|task| task.required_specialization.is_none());
            let is_mixed = !general.is_empty() && !required.is_empty();
            for tasks in [general, required] {
                let Some(first) = tasks.first() else { continue };
                let count = if is_mixed { tasks.len() } else { set.len() };
                note(&mut found, Shape::of(&first.needs(), None, Amounts::NONE, NO_LANE), first.seq, count);
            }
        }
        let each = (MAX_SCANNED / (schedule.wide.len() + schedule.needing.len()).max(1)).max(1);
        for (shape, ready) in schedule.wide.shapes().chain(schedule.needing.shapes()) {
            let of_need = Shape::of(&shape.needs(), None, shape.amounts, NO_LANE);
            for set in ready.sets().take(each).filter(|_| shape.team.is_none()) {
                if let Some((_, seq)) = set.first() {
                    note(&mut found, of_need.clone(), *seq, set.len());
                }
            }
        }
        let mut found: Vec<(u64, Shape, u64)> =
            found.into_iter().map(|(shape, (seq, tasks))| (seq, shape, tasks)).collect();
        found.sort_unstable_by_key(|(seq, ..)| *seq);
        found.truncate(MAX_NEEDS_LOOKED_AT);
        let need = |(seq, shape, tasks): (u64, Shape, u64)| {
            let task = fleet.state.tasks.kept.get(&seq)?;
            let need = UnmetNeed {
                tasks,
                task: fleet.known_id(task),
                kind: task.kind.clone(),
                since: task.submitted_at,
                problem: problem(task),
            };
            Some((shape, need))
        };
        Self { needs: found.into_iter().filter_map(need).collect() }
    }

    /// Returns whether agents have to be looked at.
    pub fn is_empty(&self) -> bool {
        self.needs.is_empty()
    }

    /// Looks at an agent, whatever its state: one that is lost may come back.
    pub fn look(&mut self, fleet: &Fleet, agent: &Agent) {
        let contributed = fleet.contribution(agent.id).map(|found| found.contributed).unwrap_or_default();
        self.needs.retain(|(shape, _)| {
            let needs = shape.needs();
            let fits = needs.suit(agent) && needs.can_fetch(agent) && agent.slots >= needs.slots;
            !(fits && contributed.covers(shape.amounts))
        });
    }

    /// Returns what no agent meets, once all were looked at; those of the tasks first that were accepted first.
    pub fn told(self) -> Vec<UnmetNeed> {
        self.needs.into_iter().map(|(_, need)| need).collect()
    }
}

/// Returns what no agent has that this task needs.
fn problem(task: &Task) -> String {
    let mut what = required(task);
    what.extend(task.resources.as_ref().map(|claim| claim.asked.to_string()));
    if what.is_empty() { "no agent takes its kind".to_owned() } else { format!("no agent has {}", listed(&what)) }
}

/// Returns what a task requires of an agent besides resources, for readers; nothing if any agent fits that takes its kind.
pub(crate) fn required(task: &Task) -> Vec<String> {
    let role = task.required_role.map(|role| format!("role {role:?}"));
    let skills = task.required_specialization.iter().chain(task.skills());
    let skills = skills.map(|name| format!("specialization {name:?}"));
    let slots = (task.slots() > 1).then(|| format!("{} slots", task.slots()));
    let store = task.needs_store().then(|| "an object store".to_owned());
    role.into_iter().chain(skills).chain(slots).chain(store).collect()
}
