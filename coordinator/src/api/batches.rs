//! What is submitted together: tasks in an order in which each comes after those that it waits for, and the parts of
//! tasks that are split by their inputs.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use robeing_fleet::{Command, Refusal, Reply, SubmitTask, TaskCommand, TaskId, submission_order};
use robeing_proto::v1;

use crate::{
    api::{answers::Outcome, convert, preparing::Prepared},
    ballots::opening::Draft,
    propose,
};

/// The tasks of a submission, with the parts of each after it.
pub(super) struct Batch {
    pub submissions: Vec<SubmitTask>,
    /// The ballots that they ask for, by their places.
    pub approvals: BTreeMap<usize, Draft>,
    /// The outcomes of those that are not proposed because they are known, by their places.
    pub known: BTreeMap<usize, Outcome>,
    /// The places and ids of those that were submitted; `None` if all were.
    submitted: Option<Vec<(usize, TaskId)>>,
}

/// The tasks that are proposed, in order.
pub(super) struct Sent {
    pub commands: Vec<Bytes>,
    /// The tasks with keys among them that are sent with all of their parts.
    pub keyed: Vec<KeyedSplit>,
    /// Their places in the batch; `None` if they are in order, without those that are refused.
    places: Option<Vec<usize>>,
}

/// A task with a key, and its parts. Its key may stand for another task that was submitted before.
pub(super) struct KeyedSplit {
    /// The place of the task among the commands.
    pub task: usize,
    /// The id that it has if it is new.
    pub id: TaskId,
    /// The commands of its parts, in order.
    pub parts: Vec<Bytes>,
}

impl Batch {
    pub fn of(prepared: Vec<Prepared>) -> Self {
        let is_split = prepared.iter().any(|task| !task.parts.is_empty());
        let (mut submissions, mut approvals) = (Vec::with_capacity(prepared.len()), BTreeMap::new());
        let (mut known, mut submitted) = (BTreeMap::new(), Vec::new());
        for Prepared { task, approval, parts, known: reply } in prepared {
            known.extend(reply.map(|reply| (submissions.len(), Ok(reply))));
            approvals.extend(approval.map(|draft| (submissions.len(), draft)));
            if is_split {
                submitted.push((submissions.len(), task.id));
            }
            submissions.push(task);
            submissions.extend(parts);
        }
        Self { submissions, approvals, known, submitted: is_split.then_some(submitted) }
    }

    /// Returns the commands of those that are not refused, encoded once, so that they are not kept twice while they
    /// wait. If some would wait for each other, all that have links are refused.
    pub fn send(&mut self, refused: &mut BTreeMap<usize, Outcome>) -> Sent {
        let submissions = std::mem::take(&mut self.submissions);
        self.refuse_parts(submissions.len(), refused);
        let encoded = |task| propose::encoded(&Command::Task(TaskCommand::Submit(task)));
        if submissions.iter().all(|task| task.links.is_none()) {
            // Not collected, which would move each task to the next adapter, and all commands to smaller memory at last.
            let mut commands = Vec::with_capacity(submissions.len());
            for (n, task) in submissions.into_iter().enumerate() {
                if refused.is_empty() || !refused.contains_key(&n) {
                    commands.push(encoded(task));
                }
            }
            return Sent { commands, keyed: Vec::new(), places: None };
        }
        let order = submission_order(&submissions).unwrap_or_else(|cycle| {
            for (n, _) in submissions.iter().enumerate().filter(|(_, task)| task.links.is_some()) {
                let refusal = v1::Refusal { code: "INVALID_ARGUMENT".to_owned(), message: cycle.to_string() };
                refused.entry(n).or_insert(Err(refusal));
            }
            (0..submissions.len()).collect()
        });
        let with_keys = self.with_keys(&submissions);
        let mut tasks: Vec<Option<SubmitTask>> = submissions.into_iter().map(Some).collect();
        let (mut commands, mut places) = (Vec::with_capacity(order.len()), Vec::with_capacity(order.len()));
        for n in order.into_iter().filter(|n| !refused.contains_key(n)) {
            if let Some(task) = tasks.get_mut(n).and_then(Option::take) {
                commands.push(encoded(task));
                places.push(n);
            }
        }
        Sent { keyed: keyed_splits(with_keys, &places, &commands), commands, places: Some(places) }
    }

    /// Returns the places of those with keys that have parts, each with those of its parts after it, and their ids.
    fn with_keys(&self, submissions: &[SubmitTask]) -> Vec<(Range<usize>, TaskId)> {
        let submitted = self.submitted.as_deref().unwrap_or_default();
        let ends = submitted.iter().skip(1).map(|(place, _)| *place).chain([submissions.len()]);
        let has_key = |place: usize| submissions.get(place).is_some_and(|task| task.idempotency_key.is_some());
        let all = submitted.iter().zip(ends).map(|((place, id), end)| (*place..end, *id));
        all.filter(|(places, _)| places.len() > 1 && has_key(places.start)).collect()
    }

    /// Refuses the parts of tasks that are refused, of `count` tasks and parts: they would be proposed for nothing.
    fn refuse_parts(&self, count: usize, refused: &mut BTreeMap<usize, Outcome>) {
        let submitted = self.submitted.as_deref().unwrap_or_default();
        for (n, (place, id)) in submitted.iter().enumerate() {
            let is_refused = matches!(refused.get(place), Some(Err(_) | Ok(Reply::Refused(_))));
            let end = submitted.get(n + 1).map_or(count, |(next, _)| *next);
            for part in (place + 1..end).filter(|_| is_refused) {
                refused.entry(part).or_insert(Ok(Reply::Refused(Refusal::UnknownTask { task: *id })));
            }
        }
    }

    /// Returns the outcomes of what was submitted, in order: of `count` tasks and parts, these are refused, and the
    /// others were sent. Also returns the tasks that are to be cancelled, because one of their parts was refused.
    pub fn outcomes(
        self,
        count: usize,
        mut refused: BTreeMap<usize, Outcome>,
        sent: Sent,
        outcomes: Vec<Outcome>,
    ) -> (Vec<Outcome>, Vec<TaskId>) {
        let all: Vec<Outcome> = match sent.places {
            None if refused.is_empty() => outcomes,
            None => {
                let mut outcomes = outcomes.into_iter();
                (0..count).filter_map(|n| refused.remove(&n).or_else(|| outcomes.next())).collect()
            }
            Some(places) => {
                refused.extend(places.into_iter().zip(outcomes));
                (0..count).filter_map(|n| refused.remove(&n)).collect()
            }
        };
        match self.submitted {
            None => (all, Vec::new()),
            Some(submitted) => with_parts(&submitted, all),
        }
    }
}

/// Returns those of these tasks that are sent with all of their parts, by commands whose places in the batch are these.
fn keyed_splits(tasks: Vec<(Range<usize>, TaskId)>, places: &[usize], commands: &[Bytes]) -> Vec<KeyedSplit> {
    if tasks.is_empty() {
        return Vec::new();
    }
    let sent: BTreeMap<usize, usize> = places.iter().copied().zip(0..).collect();
    let command = |place: usize| sent.get(&place).and_then(|at| commands.get(*at)).cloned();
    let split = |(mut of, id): (Range<usize>, TaskId)| {
        let task = sent.get(&of.next()?).copied()?;
        let parts = of.map(command).collect::<Option<Vec<Bytes>>>()?;
        Some(KeyedSplit { task, id, parts })
    };
    tasks.into_iter().filter_map(split).collect()
}

/// Returns the outcomes of tasks, at these places, each of which is followed by the outcomes of its parts; and the new ones
/// of which a part was refused. One that was accepted before has its parts from then: if it was found by its key, those of
/// this submission are nobody's.
fn with_parts(submitted: &[(usize, TaskId)], all: Vec<Outcome>) -> (Vec<Outcome>, Vec<TaskId>) {
    let (mut outcomes, mut cancelled) = (Vec::with_capacity(submitted.len()), Vec::new());
    let mut all = all.into_iter().enumerate().peekable();
    for (n, (place, id)) in submitted.iter().enumerate() {
        let Some((_, outcome)) = all.next() else { break };
        let end = submitted.get(n + 1).map_or(usize::MAX, |(next, _)| *next);
        let mut problem = None;
        let is_known = matches!(outcome, Ok(Reply::Submitted { existing: true, .. }));
        while let Some((at, part)) = all.next_if(|(at, _)| *at < end) {
            // It is forgotten, and its key still stands for it.
            if is_known && matches!(part, Ok(Reply::Refused(Refusal::UnknownTask { task })) if task == *id) {
                continue;
            }
            problem = problem.or_else(|| refusal_of(at - place - 1, &part));
        }
        match (outcome, problem) {
            (Ok(Reply::Submitted { task, .. }), Some(_)) if task != *id => {
                outcomes.push(Ok(Reply::Submitted { task, existing: true }));
            }
            (Ok(Reply::Submitted { task, existing }), Some(problem)) => {
                if existing {
                    outcomes.push(Err(problem));
                } else {
                    cancelled.push(task);
                    outcomes.push(Err(v1::Refusal {
                        message: format!("{}; the task is cancelled", problem.message),
                        ..problem
                    }));
                }
            }
            (outcome, _) => outcomes.push(outcome),
        }
    }
    (outcomes, cancelled)
}

/// Returns the refusal of a task because of the refusal of one of its parts.
pub(super) fn refusal_of(index: usize, part: &Outcome) -> Option<v1::Refusal> {
    let refusal = match part {
        Ok(Reply::Submitted { .. }) => return None,
        // The task has ended before, as it may when some of its parts have.
        Ok(Reply::Refused(Refusal::NoPart { .. })) => return None,
        Ok(Reply::Refused(refusal)) => convert::refusal(refusal),
        Ok(other) => crate::api::errors::unexpected(other),
        Err(refusal) => refusal.clone(),
    };
    Some(v1::Refusal { message: format!("its part {index}: {}", refusal.message), ..refusal })
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{AskedLinks, Dependency, OnFailure, decode_command};

    use super::*;
    use crate::fixture::task;

    fn prepared(task: SubmitTask, parts: Vec<SubmitTask>) -> Prepared {
        Prepared { task, approval: None, parts, known: None }
    }

    fn after(id: u128, others: &[u128]) -> SubmitTask {
        let dependency = |id: &u128| Dependency { task: TaskId(*id), on_failure: OnFailure::Fail };
        let links = AskedLinks { depends_on: others.iter().map(dependency).collect(), ..AskedLinks::default() };
        SubmitTask { links: Some(Box::new(links)), ..task(id, Bytes::new()) }
    }

    fn sent_ids(sent: &Sent) -> Vec<u128> {
        let id = |command: &Bytes| match decode_command(command) {
            Ok(Command::Task(TaskCommand::Submit(task))) => task.id.0,
            other => panic!("{other:?}"),
        };
        sent.commands.iter().map(id).collect()
    }

    fn accepted(id: u128) -> Outcome {
        Ok(Reply::Submitted { task: TaskId(id), existing: false })
    }

    #[test]
    fn tasks_are_sent_after_those_they_depend_on_and_answered_in_the_order_of_the_submission() {
        let tasks = [after(1, &[2]), after(2, &[3]), task(3, Bytes::new()), task(4, Bytes::new())];
        let mut batch = Batch::of(tasks.into_iter().map(|task| prepared(task, Vec::new())).collect());
        let mut refused = BTreeMap::from([(3, Ok(Reply::Refused(Refusal::QueueFull { limit: 1 })))]);
        let sent = batch.send(&mut refused);
        assert_eq!(sent_ids(&sent), [3, 2, 1]);
        let (told, cancelled) = batch.outcomes(4, refused, sent, vec![accepted(3), accepted(2), accepted(1)]);
        let full = Ok(Reply::Refused(Refusal::QueueFull { limit: 1 }));
        assert_eq!(told, [accepted(1), accepted(2), accepted(3), full]);
        assert!(cancelled.is_empty());
    }

    #[test]
    fn of_a_submission_with_a_cycle_nothing_that_has_links_is_sent() {
        let tasks = [after(1, &[2]), after(2, &[1]), after(3, &[9]), task(4, Bytes::new())];
        let mut batch = Batch::of(tasks.into_iter().map(|task| prepared(task, Vec::new())).collect());
        let mut refused = BTreeMap::new();
        let sent = batch.send(&mut refused);
        assert_eq!(sent_ids(&sent), [4]);
        let (told, _) = batch.outcomes(4, refused, sent, vec![accepted(4)]);
        let is_refused =
            |outcome: &Outcome| outcome.as_ref().is_err_and(|refusal| refusal.message.contains("wait for each other"));
        assert_eq!(told.iter().map(is_refused).collect::<Vec<_>>(), [true, true, true, false]);
    }

    #[test]
    fn a_task_is_answered_for_its_parts_and_cancelled_if_one_is_refused() {
        let parts = |id: u128| vec![after(id + 1, &[]), after(id + 2, &[])];
        let all = || {
            let tasks = [10, 20, 30].map(|id| prepared(after(id, &[]), if id == 20 { Vec::new() } else { parts(id) }));
            let mut batch = Batch::of(tasks.into_iter().collect());
            let sent = batch.send(&mut BTreeMap::new());
            assert_eq!(sent_ids(&sent), [10, 11, 12, 20, 30, 31, 32]);
            (batch, sent)
        };
        let good: Vec<Outcome> = [10, 11, 12, 20, 30, 31, 32].map(accepted).into();
        let (batch, sent) = all();
        let (told, cancelled) = batch.outcomes(7, BTreeMap::new(), sent, good.clone());
        assert_eq!((told, cancelled), (vec![accepted(10), accepted(20), accepted(30)], Vec::new()));
        let (batch, sent) = all();
        let mut outcomes = good;
        let problem = "it has ended".to_owned();
        outcomes[1] = Ok(Reply::Refused(Refusal::NoPart { task: TaskId(10), index: 0, problem }));
        outcomes[6] = Ok(Reply::Refused(Refusal::StorageFull { limit: 9 }));
        let (told, cancelled) = batch.outcomes(7, BTreeMap::new(), sent, outcomes);
        assert_eq!((&told[0], &told[1], cancelled), (&accepted(10), &accepted(20), vec![TaskId(30)]));
        let refusal = told[2].as_ref().expect_err("a part is refused");
        assert_eq!(refusal.code, "RESOURCE_EXHAUSTED");
        let message = &refusal.message;
        assert!(message.starts_with("its part 1: ") && message.ends_with("; the task is cancelled"), "{message}");
    }

    #[test]
    fn the_parts_of_a_task_that_is_refused_are_not_sent() {
        let tasks = [10, 20, 30].map(|id| prepared(after(id, &[]), vec![after(id + 1, &[])]));
        let mut batch = Batch::of(tasks.into_iter().collect());
        // The last one was accepted before, perhaps without its parts.
        let full = || Ok(Reply::Refused(Refusal::QueueFull { limit: 1 }));
        let known = || Ok(Reply::Submitted { task: TaskId(30), existing: true });
        let mut refused: BTreeMap<usize, Outcome> = BTreeMap::from([(0, full()), (4, known())]);
        let sent = batch.send(&mut refused);
        assert_eq!(sent_ids(&sent), [20, 21, 31]);
        let (told, cancelled) = batch.outcomes(6, refused, sent, vec![accepted(20), accepted(21), accepted(31)]);
        assert_eq!((told, cancelled), (vec![full(), accepted(20), known()], Vec::new()));
    }

    #[test]
    fn a_task_that_was_accepted_before_is_never_cancelled_because_parts_of_a_repetition_are_refused() {
        let outcomes = |told: u128, refusal: Refusal| {
            let mut batch = Batch::of(vec![prepared(after(10, &[]), vec![after(11, &[])])]);
            let sent = batch.send(&mut BTreeMap::new());
            let known = Ok(Reply::Submitted { task: TaskId(told), existing: true });
            batch.outcomes(2, BTreeMap::new(), sent, vec![known, Ok(Reply::Refused(refusal))])
        };
        let existing = |id| Ok(Reply::Submitted { task: TaskId(id), existing: true });
        let (told, cancelled) = outcomes(7, Refusal::UnknownTask { task: TaskId(10) });
        assert_eq!((told, cancelled), (vec![existing(7)], Vec::new()), "it was found by its key");
        let (told, cancelled) = outcomes(10, Refusal::UnknownTask { task: TaskId(10) });
        assert_eq!((told, cancelled), (vec![existing(10)], Vec::new()), "it is forgotten, and its key stands for it");
        let (told, _) = outcomes(10, Refusal::UnknownTask { task: TaskId(9) });
        assert!(told[0].as_ref().is_err_and(|refusal| refusal.code == "NOT_FOUND"), "{told:?}");
        let (told, cancelled) = outcomes(10, Refusal::Conflict { what: "the id".to_owned(), task: TaskId(11) });
        assert!(told[0].as_ref().is_err_and(|refusal| refusal.code == "ALREADY_EXISTS"), "{told:?}");
        assert_eq!(cancelled, Vec::new());
    }

    #[test]
    fn the_parts_of_a_task_with_a_key_can_be_sent_again_unless_one_of_them_is_refused() {
        let with_key = |id: u128| SubmitTask { idempotency_key: Some("key".to_owned()), ..after(id, &[]) };
        let parts = |id: u128| vec![after(id + 1, &[]), after(id + 2, &[])];
        let sent = |mut refused: BTreeMap<usize, Outcome>| {
            let tasks = [after(10, &[]), with_key(20), with_key(30)];
            let with_parts = |task: SubmitTask| {
                let parts = parts(task.id.0);
                prepared(task, parts)
            };
            let mut tasks: Vec<Prepared> = tasks.map(with_parts).into();
            tasks.push(prepared(with_key(40), Vec::new()));
            let mut sent = Batch::of(tasks).send(&mut refused);
            let keyed = std::mem::take(&mut sent.keyed).into_iter();
            let told = keyed.map(|split| {
                let KeyedSplit { task, id, parts } = split;
                let parts = Sent { commands: parts, keyed: Vec::new(), places: None };
                (sent_ids(&sent)[task], id.0, sent_ids(&parts))
            });
            told.collect::<Vec<_>>()
        };
        assert_eq!(sent(BTreeMap::new()), [(20, 20, vec![21, 22]), (30, 30, vec![31, 32])]);
        let full = || Ok(Reply::Refused(Refusal::QueueFull { limit: 1 }));
        assert_eq!(sent(BTreeMap::from([(0, full()), (5, full())])), [(30, 30, vec![31, 32])]);
    }

    #[test]
    fn a_task_that_is_known_with_its_parts_is_answered_and_not_sent_without_them() {
        let reply = || Reply::Submitted { task: TaskId(10), existing: true };
        let first = Prepared { known: Some(reply()), ..prepared(after(10, &[]), Vec::new()) };
        let mut batch = Batch::of(vec![first, prepared(after(20, &[]), vec![after(21, &[])])]);
        let mut refused = std::mem::take(&mut batch.known);
        let sent = batch.send(&mut refused);
        assert_eq!(sent_ids(&sent), [20, 21]);
        let (told, cancelled) = batch.outcomes(3, refused, sent, vec![accepted(20), accepted(21)]);
        assert_eq!((told, cancelled), (vec![Ok(reply()), accepted(20)], Vec::new()));
    }

    #[test]
    fn a_task_that_its_key_stands_for_keeps_its_parts_and_is_not_cancelled() {
        let parts = vec![after(11, &[]), after(12, &[])];
        let mut batch = Batch::of(vec![prepared(after(10, &[]), parts)]);
        let sent = batch.send(&mut BTreeMap::new());
        let first = Ok(Reply::Submitted { task: TaskId(1), existing: true });
        let unknown = || Ok(Reply::Refused(Refusal::UnknownTask { task: TaskId(10) }));
        let outcomes = vec![first.clone(), unknown(), unknown()];
        assert_eq!(batch.outcomes(3, BTreeMap::new(), sent, outcomes), (vec![first], Vec::new()));
    }
}
