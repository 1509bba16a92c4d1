//! What is known of every task of a graph, and the checks of when its attempts start, what they are given, and how it
//! ends.

use std::{collections::BTreeMap, time::Duration};

use robeing_agent::executor::{Attempt, PassedEnd, PassedResult};
use robeing_proto::v1::{self, FailureKind, Join, OnFailure, TaskState};

use super::{
    draft::{Node, Work},
    work::{Does, Labelled, Piece, round, rounds, subtasks},
};
use crate::{
    checks::{Check, Wrong},
    results,
};

/// Why a coordinator cancels a task that is split, if there was no room for one of its parts.
const PART_REFUSED: &str = "one of its parts was refused";

/// A task that has ended, with its parts or subtasks, as a client reads them.
pub struct Ended {
    /// The task.
    pub task: v1::Task,
    /// Its parts or subtasks, in order.
    pub children: Vec<v1::Task>,
}

/// The graphs of a run.
#[derive(Default)]
pub struct GraphLedger {
    /// Their tasks, and the parts of these, by id.
    tasks: BTreeMap<String, Node>,
    /// The number of tasks that have ended, and of their parts and subtasks.
    ended: [usize; 2],
}

fn kind_of(task: &v1::Task) -> Option<FailureKind> {
    task.failure.as_ref().map(|failure| failure.kind())
}

impl Node {
    /// Returns the parts or subtasks whose results an attempt is given, and whether all of them have succeeded. `None`:
    /// there must be no attempt.
    fn given(&self, attempt: &Attempt) -> Option<(Labelled, bool)> {
        match (&self.work, round(&attempt.carried)) {
            (Work::Split { join: Join::Reduce, .. }, 0) => Some((self.parts(), true)),
            (Work::Split { .. }, _) => None,
            (Work::Runs(_), 0) => Some((Labelled::new(), false)),
            (Work::Runs(_), asked) => Some((subtasks(&self.id, asked - 1), false)),
        }
    }

    /// Returns whether its output may be this one.
    fn may_give(&self, output: &[u8]) -> bool {
        match &self.work {
            Work::Split { join: Join::All | Join::Settled | Join::Quorum, .. } => output.is_empty(),
            // Of any part, or its own one: both name it.
            _ => String::from_utf8_lossy(output).contains(&self.id),
        }
    }

    /// Returns what is wrong with how it has ended, given the states of the tasks of its graph.
    fn wrong_end(&self, task: &v1::Task, states: &BTreeMap<&str, TaskState>) -> Option<String> {
        let has_failed = |id: &str| states.get(id).is_some_and(|state| *state != TaskState::Succeeded);
        let failed = self.depends_on.iter().filter(|(id, _)| has_failed(id)).map(|(_, on_failure)| *on_failure);
        let obstacles: Vec<OnFailure> = failed.filter(|on_failure| *on_failure != OnFailure::Run).collect();
        let because = match (task.state(), kind_of(task)) {
            (TaskState::Failed, Some(FailureKind::Dependency)) => Some(OnFailure::Fail),
            (TaskState::Cancelled, _) if task.skipped => Some(OnFailure::Skip),
            (TaskState::Cancelled, _) if self.is_cancelled || task.cancel_reason == PART_REFUSED => return None,
            (TaskState::Cancelled, _) => return Some("nobody has cancelled it".to_owned()),
            _ => None,
        };
        match because {
            None if !obstacles.is_empty() => Some(format!("those that have failed do not let it: {obstacles:?}")),
            Some(of) if !obstacles.contains(&of) => Some(format!("no other task is a reason for it: {obstacles:?}")),
            Some(_) if !task.attempts.is_empty() => Some("it was run although it could not be".to_owned()),
            Some(_) => None,
            None => self.wrong_outcome(task),
        }
    }

    /// Returns what is wrong with how it has ended by itself.
    fn wrong_outcome(&self, task: &v1::Task) -> Option<String> {
        let Work::Runs(piece) = &self.work else { return None };
        let is_fine = match task.state() {
            TaskState::Succeeded => piece.does != Does::Fail,
            TaskState::Failed => piece.does == Does::Fail,
            // Its agents were lost.
            state => state == TaskState::DeadLettered,
        };
        (!is_fine).then(|| format!("it does otherwise: {piece:?}"))
    }

    /// Returns what is wrong with the parts or subtasks of a task that has ended.
    fn wrong_children(&self, Ended { task, children }: &Ended) -> Option<String> {
        if let Some(child) = children.iter().find(|child| !results::is_final(child)) {
            return Some(format!("task {}, which is a part of it, is {:?}", child.id, child.state()));
        }
        let accepted = task.subtasks.as_ref().map_or(0, |of| of.accepted);
        if accepted as usize != children.len() {
            return Some(format!("it had {accepted} parts, and {} are there", children.len()));
        }
        let is_fine = match &self.work {
            Work::Runs(piece) => is_asked(*piece, task, children),
            Work::Split { join, quorum, parts } => follows(*join, *quorum as usize, parts.len(), task, children),
        };
        let states = || children.iter().map(v1::Task::state).collect::<Vec<_>>();
        (!is_fine).then(|| format!("its parts are {:?}", states()))
    }
}

/// Returns whether these are the subtasks of a task that has ended.
fn is_asked(piece: Piece, task: &v1::Task, children: &[v1::Task]) -> bool {
    let in_rounds = |rounds: u32| (0..rounds).map(|round| subtasks(&task.id, round).len()).sum::<usize>();
    let most = if piece.does == Does::Ask { rounds(&task.id) } else { 0 };
    let is_numbered = |(child, number): (&v1::Task, u32)| {
        child.part_of.as_ref().is_some_and(|of| of.task == task.id && of.index == number)
    };
    let count = match task.state() {
        TaskState::Succeeded => children.len() == in_rounds(most),
        _ => (0..=most).any(|rounds| children.len() == in_rounds(rounds)),
    };
    count && children.iter().zip(0..).all(is_numbered)
}

/// Returns whether the end of a task that is split into so many parts follows from the ends of these.
fn follows(join: Join, quorum: usize, parts: usize, task: &v1::Task, children: &[v1::Task]) -> bool {
    let count = |state: TaskState| children.iter().filter(|child| child.state() == state).count();
    let (good, cancelled) = (count(TaskState::Succeeded), count(TaskState::Cancelled));
    let bad = children.len() - good - cancelled;
    match (task.state(), kind_of(task)) {
        (TaskState::Cancelled, _) => true,
        // They wait for the same tasks.
        (TaskState::Failed, Some(FailureKind::Dependency)) => good == 0,
        (TaskState::Failed, Some(FailureKind::Subtask)) => match join {
            Join::All | Join::Reduce => bad > 0,
            Join::Settled => bad > 0 && good + bad == parts,
            Join::Any => bad == parts,
            _ => bad > parts - quorum,
        },
        (TaskState::Succeeded, _) => match join {
            Join::Any => good > 0,
            Join::Quorum => good >= quorum,
            _ => good == parts,
        },
        // What reduces them was lost with its agents.
        (state, _) => state == TaskState::DeadLettered && join == Join::Reduce && good == parts,
    }
}

impl GraphLedger {
    /// Records that a client asks for a graph.
    pub fn asks(&mut self, nodes: &[Node]) {
        for node in nodes {
            let parts = node.parts_as_nodes();
            self.tasks.extend(parts.into_iter().chain([node.clone()]).map(|node| (node.id.clone(), node)));
        }
    }

    /// Returns whether a task is one of a graph, or a part or subtask.
    pub fn has(&self, task: &v1::Task) -> bool {
        task.part_of.is_some() || self.tasks.contains_key(&task.id)
    }

    /// Records that an executor starts an attempt, when these tasks have ended.
    ///
    /// # Errors
    /// If the task still waits for others, or if the attempt is given other results than theirs.
    pub fn begins(&self, attempt: &Attempt, finished: &BTreeMap<String, Duration>) -> Result<(), Wrong> {
        let Some(node) = self.tasks.get(&attempt.task_id) else { return Ok(()) };
        let open = node.depends_on.iter().find(|(id, _)| !finished.contains_key(id));
        let what = match open {
            Some((id, _)) => format!("starts, but task {id}, on which it depends, has not ended"),
            None => match self.wrong_results(node, attempt) {
                Some(what) => what,
                None => return Ok(()),
            },
        };
        Err((Check::After, format!("attempt {} at task {} {what}", attempt.attempt, attempt.task_id)))
    }

    /// Returns what is wrong with the results that an attempt is given.
    fn wrong_results(&self, node: &Node, attempt: &Attempt) -> Option<String> {
        let Some((pieces, must_succeed)) = node.given(attempt) else {
            return Some("starts, but the task is split".to_owned());
        };
        let (wanted, count) = (node.depends_on.len() + pieces.len(), attempt.results.len());
        if count != wanted {
            return Some(format!("is given {count} results instead of {wanted}"));
        }
        let (of_dependencies, of_pieces) = attempt.results.split_at(node.depends_on.len());
        let mut dependencies = node.depends_on.iter().zip(of_dependencies);
        if let Some(((id, _), result)) = dependencies.find(|((id, of), result)| !self.is_result(id, *of, result)) {
            return Some(format!("is given {result:?} as the result of task {id}"));
        }
        let is_right = |piece: Piece, label: &str, result: &PassedResult| {
            let is_success = matches!(result.end, PassedEnd::Succeeded(_));
            result.task_id.is_empty() && piece.may_end(label, &result.end) && (is_success || !must_succeed)
        };
        let mut pieces = pieces.iter().zip(of_pieces);
        let wrong = pieces.find(|((piece, label), result)| !is_right(*piece, label, result));
        wrong.map(|((piece, label), result)| format!("is given {result:?} as the result of {piece:?}, {label}"))
    }

    /// Returns whether this may be the result of a task that another one depends on.
    fn is_result(&self, id: &str, on_failure: OnFailure, result: &PassedResult) -> bool {
        let may_be = match &result.end {
            PassedEnd::Succeeded(output) => self.tasks.get(id).is_some_and(|node| node.may_give(output)),
            PassedEnd::Failed(_) | PassedEnd::Cancelled(_) => on_failure == OnFailure::Run,
            // No simulated agent has an object store.
            PassedEnd::Stored { .. } => false,
        };
        may_be && result.task_id == id
    }

    /// Records how a graph has ended, as a client reads all its tasks.
    ///
    /// # Errors
    /// If the end of a task does not follow from those of the others.
    pub fn ends(&mut self, graph: &[Ended]) -> Result<(), Wrong> {
        let states: BTreeMap<&str, TaskState> = graph.iter().map(|of| (of.task.id.as_str(), of.task.state())).collect();
        for ended in graph {
            let Some(node) = self.tasks.get(&ended.task.id) else { continue };
            let by_others = node.wrong_end(&ended.task, &states).map(|what| (Check::After, what));
            let wrong = by_others.or_else(|| node.wrong_children(ended).map(|what| (Check::Joined, what)));
            if let Some((check, what)) = wrong {
                let v1::Task { id, failure, cancel_reason, .. } = &ended.task;
                let how = format!("{:?} ({failure:?}, {cancel_reason:?})", ended.task.state());
                return Err((check, format!("task {id}, {:?}, is {how}, but {what}", node.work)));
            }
            self.ended[0] += 1;
            self.ended[1] += ended.children.len();
        }
        Ok(())
    }

    /// Returns the number of tasks that have ended, and of their parts and subtasks.
    pub fn counts(&self) -> [usize; 2] {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use robeing_agent::executor::AttemptLog;
    use robeing_proto::v1::{Failure, PartOf, Subtasks};

    use super::*;

    const GOOD: Piece = Piece { does: Does::Succeed, ms: 1 };
    const ASKS: Piece = Piece { does: Does::Ask, ms: 1 };

    fn node(number: u128, depends_on: &[(&Node, OnFailure)], work: Work) -> Node {
        let depends_on = depends_on.iter().map(|(node, on_failure)| (node.id.clone(), *on_failure));
        Node {
            id: uuid::Uuid::from_u128(number).to_string(),
            depends_on: depends_on.collect(),
            work,
            is_cancelled: false,
        }
    }

    fn split(number: u128, join: Join, parts: usize) -> Node {
        node(number, &[], Work::Split { join, quorum: 2, parts: vec![GOOD; parts] })
    }

    fn ledger(nodes: &[Node]) -> GraphLedger {
        let mut ledger = GraphLedger::default();
        ledger.asks(nodes);
        ledger
    }

    fn succeeded(task_id: &str, output: &str) -> PassedResult {
        let end = PassedEnd::Succeeded(output.to_owned().into());
        PassedResult { task_id: task_id.to_owned(), end }
    }

    fn attempt(task_id: &str, results: &[PassedResult], carried: &'static str) -> Attempt {
        Attempt {
            task_id: task_id.to_owned(),
            attempt: 1,
            kind: String::new(),
            input: bytes::Bytes::new(),
            deadline: None,
            time_limit: None,
            allowance: None,
            log: AttemptLog::default(),
            results: results.to_vec(),
            carried: carried.into(),
        }
    }

    fn begins(ledger: &GraphLedger, finished: &[&Node], attempt: &Attempt) -> bool {
        let finished = finished.iter().map(|node| (node.id.clone(), Duration::ZERO)).collect();
        ledger.begins(attempt, &finished).is_ok()
    }

    #[test]
    fn an_attempt_waits_for_others_and_is_given_their_results() {
        let first = node(1, &[], Work::Runs(GOOD));
        let second = node(2, &[(&first, OnFailure::Fail)], Work::Runs(GOOD));
        let ledger = ledger(&[first.clone(), second.clone()]);
        let right = succeeded(&first.id, &format!("{} 1 agent {}", first.id, first.id));
        let failed = PassedResult { end: PassedEnd::Failed(String::new()), ..right.clone() };
        let given = |results: &[PassedResult]| attempt(&second.id, results, "");
        assert!(begins(&ledger, &[&first], &given(from_ref(&right))));
        assert!(!begins(&ledger, &[], &given(from_ref(&right))), "it has not ended");
        assert!(!begins(&ledger, &[&first], &given(&[])) && !begins(&ledger, &[&first], &given(&[failed])));
        assert!(!begins(&ledger, &[&first], &given(&[right.clone(), right])));
        assert!(!begins(&ledger, &[&first], &given(&[succeeded(&first.id, "another")])));
        assert!(begins(&ledger, &[], &attempt("of another client", &[], "")));
    }

    #[test]
    fn an_attempt_is_given_the_results_of_parts_and_subtasks_in_order() {
        let (reduce, all) = (split(1, Join::Reduce, 2), split(2, Join::All, 2));
        let asks = node(3, &[], Work::Runs(ASKS));
        let ledger = ledger(&[reduce.clone(), all.clone(), asks.clone()]);
        let of_parts = |order: [u32; 2]| order.map(|n| succeeded("", &format!("x {} {n}", reduce.id)));
        assert!(begins(&ledger, &[], &attempt(&reduce.id, &of_parts([0, 1]), "")));
        assert!(!begins(&ledger, &[], &attempt(&reduce.id, &of_parts([1, 0]), "")));
        assert!(!begins(&ledger, &[], &attempt(&all.id, &[], "")), "it is not run itself");
        let of_subtasks = |round| {
            let given = |(piece, label): (Piece, String)| match piece.does {
                Does::Fail => PassedResult { task_id: String::new(), end: PassedEnd::Failed(String::new()) },
                _ => succeeded("", &format!("x {label}")),
            };
            subtasks(&asks.id, round).into_iter().map(given).collect::<Vec<_>>()
        };
        assert!(begins(&ledger, &[], &attempt(&asks.id, &[], "")));
        assert!(begins(&ledger, &[], &attempt(&asks.id, &of_subtasks(0), "1")));
        assert!(!begins(&ledger, &[], &attempt(&asks.id, &of_subtasks(0), "")));
        assert!(!begins(&ledger, &[], &attempt(&asks.id, &of_subtasks(0)[1..], "1")));
    }

    fn task(node: &Node, state: TaskState, kind: Option<FailureKind>) -> v1::Task {
        let failure = kind.map(|kind| Failure { kind: kind.into(), ..Failure::default() });
        v1::Task { id: node.id.clone(), state: state.into(), failure, ..v1::Task::default() }
    }

    fn check(nodes: &[Node], tasks: &[v1::Task]) -> Option<Check> {
        let ended = |task: &v1::Task| Ended { task: task.clone(), children: Vec::new() };
        let ended: Vec<Ended> = tasks.iter().map(ended).collect();
        ledger(nodes).ends(&ended).err().map(|(check, _)| check)
    }

    #[test]
    fn a_task_ends_as_those_it_depends_on_allow() {
        use TaskState::{Cancelled, DeadLettered, Failed, Succeeded};
        let first = node(1, &[], Work::Runs(Piece { does: Does::Fail, ..GOOD }));
        let failed = task(&first, Failed, Some(FailureKind::Exit));
        let dependency = Some(FailureKind::Dependency);
        for (on_failure, state, kind, skipped, is_right) in [
            (OnFailure::Fail, Failed, dependency, false, true),
            (OnFailure::Fail, Succeeded, None, false, false),
            (OnFailure::Fail, Cancelled, None, true, false),
            (OnFailure::Skip, Cancelled, None, true, true),
            (OnFailure::Skip, Failed, dependency, false, false),
            (OnFailure::Run, Succeeded, None, false, true),
            (OnFailure::Run, DeadLettered, None, false, true),
            (OnFailure::Run, Failed, dependency, false, false),
            (OnFailure::Run, Failed, Some(FailureKind::Exit), false, false),
            (OnFailure::Run, Cancelled, None, false, false),
        ] {
            let second = node(2, &[(&first, on_failure)], Work::Runs(GOOD));
            let ended = v1::Task { skipped, ..task(&second, state, kind) };
            let found = check(&[first.clone(), second.clone()], &[failed.clone(), ended.clone()]);
            assert_eq!(found, (!is_right).then_some(Check::After), "{on_failure:?} {state:?} {kind:?}");
            let ran = v1::Task { attempts: vec![v1::Attempt::default()], ..ended };
            let must_not_run = on_failure != OnFailure::Run;
            let found = check(&[first.clone(), second], &[failed.clone(), ran]);
            assert_eq!(found.is_none(), is_right && !must_not_run, "{on_failure:?} {state:?} {kind:?}");
        }
        let cancelled = Node { is_cancelled: true, ..first };
        assert_eq!(check(from_ref(&cancelled), &[task(&cancelled, Cancelled, None)]), None);
    }

    #[test]
    fn a_task_that_is_split_ends_as_its_parts_do() {
        use TaskState::{Cancelled, Failed, Succeeded};
        let kind = Some(FailureKind::Subtask);
        for (join, state, ends, is_right) in [
            (Join::All, Succeeded, [Succeeded, Succeeded, Succeeded], true),
            (Join::All, Succeeded, [Succeeded, Failed, Succeeded], false),
            (Join::All, Failed, [Succeeded, Failed, Cancelled], true),
            (Join::All, Failed, [Succeeded, Succeeded, Cancelled], false),
            (Join::Settled, Failed, [Succeeded, Failed, Succeeded], true),
            (Join::Settled, Failed, [Succeeded, Failed, Cancelled], false),
            (Join::Any, Succeeded, [Failed, Succeeded, Cancelled], true),
            (Join::Any, Succeeded, [Failed, Failed, Cancelled], false),
            (Join::Any, Failed, [Failed, Failed, Cancelled], false),
            (Join::Quorum, Succeeded, [Failed, Succeeded, Succeeded], true),
            (Join::Quorum, Succeeded, [Failed, Succeeded, Cancelled], false),
            (Join::Quorum, Failed, [Failed, Failed, Cancelled], true),
            (Join::Quorum, Failed, [Failed, Cancelled, Cancelled], false),
            (Join::Reduce, Succeeded, [Succeeded, Succeeded, Failed], false),
            (Join::All, Failed, [Failed, Succeeded, TaskState::Assigned], false),
        ] {
            let node = split(1, join, 3);
            let children: Vec<v1::Task> = ends.iter().map(|end| task(&node, *end, None)).collect();
            let subtasks = Some(Subtasks { accepted: 3, ..Subtasks::default() });
            let parent = v1::Task { subtasks, ..task(&node, state, kind.filter(|_| state == Failed)) };
            let found = ledger(&[node]).ends(&[Ended { task: parent, children }]).err().map(|(check, _)| check);
            assert_eq!(found, (!is_right).then_some(Check::Joined), "{join:?} {state:?} {ends:?}");
        }
    }

    #[test]
    fn a_task_has_the_subtasks_that_it_asked_for() {
        let node = node(1, &[], Work::Runs(ASKS));
        let all: u32 = (0..rounds(&node.id)).map(|round| subtasks(&node.id, round).len() as u32).sum();
        for (count, first, is_right) in [(all, 0, true), (all, 1, false), (all - 1, 0, false), (0, 0, false)] {
            let child = |index: u32| v1::Task {
                part_of: Some(PartOf { task: node.id.clone(), index }),
                ..task(&node, TaskState::Succeeded, None)
            };
            let children: Vec<v1::Task> = (first..first + count).map(child).collect();
            let subtasks = Some(Subtasks { accepted: count, ..Subtasks::default() });
            let parent = v1::Task { subtasks, ..task(&node, TaskState::Succeeded, None) };
            let found = ledger(from_ref(&node)).ends(&[Ended { task: parent, children }]);
            assert_eq!(found.is_ok(), is_right, "{count} from {first}");
        }
    }
}
