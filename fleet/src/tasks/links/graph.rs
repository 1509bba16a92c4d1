//! The order of tasks that are submitted together: each comes after those that it waits for.

use std::collections::{BTreeMap, BTreeSet};

use crate::{SubmitTask, TaskId};

/// Tasks that would wait for each other: each for the next one, and the last one for the first.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the tasks would wait for each other: {}; leave out one of these dependencies", in_words(.0))]
pub struct Cycle(
    /// The tasks, at least one.
    pub Vec<TaskId>,
);

/// Maximum number of tasks of a cycle that its message names.
const MAX_NAMED: usize = 8;

fn in_words(cycle: &[TaskId]) -> String {
    let named = cycle.iter().take(MAX_NAMED).map(|id| format!("{id} waits for "));
    let more = cycle.len().saturating_sub(MAX_NAMED);
    let rest = if more > 0 { format!("{more} others, which wait for ") } else { String::new() };
    let first = cycle.first().map(TaskId::to_string).unwrap_or_default();
    named.chain([rest, first]).collect()
}

/// The tasks of one submission, by what they wait for.
struct Graph {
    /// The tasks that each one waits for, by their indexes.
    before: Vec<Vec<usize>>,
    /// The tasks that wait for each one.
    after: Vec<Vec<usize>>,
}

impl Graph {
    /// Tasks wait for those that they depend on; parts come after their task. What is not among the tasks does not
    /// matter.
    fn of(tasks: &[SubmitTask]) -> Self {
        let mut by_id: BTreeMap<TaskId, usize> = BTreeMap::new();
        for (n, task) in tasks.iter().enumerate() {
            by_id.entry(task.id).or_insert(n);
        }
        let (mut before, mut after) = (vec![Vec::new(); tasks.len()], vec![Vec::new(); tasks.len()]);
        for (n, task) in tasks.iter().enumerate() {
            let Some(links) = &task.links else { continue };
            let dependencies = links.depends_on.iter().map(|dependency| dependency.task);
            for id in dependencies.chain(links.part_of.map(|of| of.task)) {
                if let Some(earlier) = by_id.get(&id) {
                    before[n].push(*earlier);
                    after[*earlier].push(n);
                }
            }
        }
        Self { before, after }
    }

    /// Returns a cycle among the tasks that could not be ordered, each of which waits for another one of them.
    fn cycle(&self, unordered: &BTreeSet<usize>) -> Vec<usize> {
        let mut path: Vec<usize> = Vec::new();
        let mut places: BTreeMap<usize, usize> = BTreeMap::new();
        let mut next = unordered.first().copied();
        while let Some(at) = next {
            if let Some(start) = places.get(&at) {
                return path.split_off(*start);
            }
            places.insert(at, path.len());
            path.push(at);
            next = self.before[at].iter().copied().find(|earlier| unordered.contains(earlier));
        }
        path
    }
}

/// Returns the indexes of tasks in an order in which each comes after those of them that it depends on, or is a part
/// of. The order is that of the submission, as far as possible.
///
/// # Errors
/// If some of them would wait for each other.
pub fn submission_order(tasks: &[SubmitTask]) -> Result<Vec<usize>, Cycle> {
    if tasks.iter().all(|task| task.links.is_none()) {
        return Ok((0..tasks.len()).collect());
    }
    let graph = Graph::of(tasks);
    let mut left: Vec<usize> = graph.before.iter().map(Vec::len).collect();
    let mut ready: BTreeSet<usize> = (0..tasks.len()).filter(|n| left[*n] == 0).collect();
    let mut order = Vec::with_capacity(tasks.len());
    while let Some(n) = ready.pop_first() {
        order.push(n);
        for later in &graph.after[n] {
            left[*later] -= 1;
            if left[*later] == 0 {
                ready.insert(*later);
            }
        }
    }
    if order.len() == tasks.len() {
        return Ok(order);
    }
    let unordered: BTreeSet<usize> = (0..tasks.len()).filter(|n| left[*n] > 0).collect();
    Err(Cycle(graph.cycle(&unordered).into_iter().map(|n| tasks[n].id).collect()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{AskedLinks, Dependency, OnFailure, PartOf};

    fn task(id: u128, depends_on: &[u128], part_of: Option<u128>) -> SubmitTask {
        let dependency = |id: &u128| Dependency { task: TaskId(*id), on_failure: OnFailure::Fail };
        let links = AskedLinks {
            depends_on: depends_on.iter().map(dependency).collect(),
            part_of: part_of.map(|id| PartOf { task: TaskId(id), index: 0 }),
            ..AskedLinks::default()
        };
        SubmitTask { links: Some(Box::new(links)), ..SubmitTask::new(TaskId(id), "k", Bytes::new()) }
    }

    #[test]
    fn tasks_without_links_keep_their_order() {
        let tasks: Vec<SubmitTask> = (0..5).map(|n| SubmitTask::new(TaskId(n), "k", Bytes::new())).collect();
        assert_eq!(submission_order(&tasks), Ok(vec![0, 1, 2, 3, 4]));
        assert_eq!(submission_order(&[]), Ok(Vec::new()));
    }

    #[test]
    fn a_task_comes_after_those_it_depends_on_and_a_part_after_its_task() {
        let tasks = [task(1, &[2], None), task(2, &[9], None), task(3, &[], Some(4)), task(4, &[], None)];
        assert_eq!(submission_order(&tasks), Ok(vec![1, 0, 3, 2]), "what is not among them does not matter");
    }

    #[test]
    fn a_cycle_is_refused_and_named() {
        let tasks = [task(9, &[1], None), task(1, &[2], None), task(2, &[3], None), task(3, &[1], None)];
        let cycle = submission_order(&tasks).expect_err("1, 2 and 3 wait for each other");
        assert_eq!(cycle, Cycle(vec![TaskId(1), TaskId(2), TaskId(3)]));
        let [one, two, three] = [1, 2, 3].map(|id| TaskId(id).to_string());
        let words = format!("{one} waits for {two} waits for {three} waits for {one}");
        assert!(cycle.to_string().contains(&words), "{cycle}");
        assert_eq!(submission_order(&[task(1, &[1], None)]), Err(Cycle(vec![TaskId(1)])));
        let wide: Vec<SubmitTask> = (0..100).map(|n| task(n, &[(n + 1) % 100], None)).collect();
        let told = submission_order(&wide).expect_err("all wait for each other").to_string();
        assert!(told.contains("92 others") && told.len() < 1_000, "{told}");
    }

    proptest! {
        #[test]
        fn any_graph_without_a_cycle_is_ordered_however_it_is_shuffled(
            edges in prop::collection::vec((0..30u128, 0..30u128), 0..80),
            shuffle in Just((0..30u128).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            // Tasks depend on those with lower ids, so there is no cycle.
            let of = |id: u128| edges.iter().filter(move |(one, other)| *one.max(other) == id && one != other);
            let tasks: Vec<SubmitTask> = shuffle.iter().map(|id| {
                let mut depends_on: Vec<u128> = of(*id).map(|(one, other)| *one.min(other)).collect();
                depends_on.dedup();
                task(*id, &depends_on, None)
            }).collect();
            let order = submission_order(&tasks).expect("there is no cycle");
            let mut seen = BTreeSet::new();
            for n in &order {
                let links = tasks[*n].links.as_ref().expect("each has links");
                prop_assert!(links.depends_on.iter().all(|dependency| seen.contains(&dependency.task)));
                prop_assert!(seen.insert(tasks[*n].id));
            }
            prop_assert_eq!(seen.len(), tasks.len());
        }

        #[test]
        fn of_any_graph_a_cycle_that_is_named_is_one(edges in prop::collection::vec((0..12u128, 0..12u128), 0..40)) {
            let of = |id: u128| edges.iter().filter(move |(from, _)| *from == id).map(|(_, to)| *to);
            let tasks: Vec<SubmitTask> = (0..12).map(|id| {
                let mut depends_on: Vec<u128> = of(id).collect();
                depends_on.sort_unstable();
                depends_on.dedup();
                task(id, &depends_on, None)
            }).collect();
            if let Err(Cycle(cycle)) = submission_order(&tasks) {
                prop_assert!(!cycle.is_empty());
                for (n, id) in cycle.iter().enumerate() {
                    let next = cycle[(n + 1) % cycle.len()];
                    prop_assert!(of(id.0).any(|to| to == next.0), "{} does not wait for {}", id, next);
                }
            }
        }
    }
}
