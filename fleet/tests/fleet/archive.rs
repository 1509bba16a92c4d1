//! Archived tasks: archiving changes nothing but where a task is read.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;
use robeing_fleet::{
    Archived, Command, ControlCommand, Effect, Feature, Fleet, FleetConfig, Join, Kept, OnFailure, Progress, Refusal,
    Reply, RetryDead, ScheduleCommand, StaleReason, Stamp, SubmitTask, Task, TaskCommand, TaskFilter, TaskId,
    TaskState, archived_in, decode_task, encode_task,
    limits::{DEFAULT_KEY_WINDOW_MS, MAX_ARCHIVED_AT_ONCE, MAX_PAGE, RECENT_RESULT_BYTES},
};

use crate::{
    fixture::{OpenSession, Trial, failure, retry, success, task},
    graphs::logs,
    history::History,
    links::{after, children, output, part, refused, split, with_slots},
    ops::{Op, steps},
    schedules::{schedule, set},
};

/// A fleet that archives, beside one that does not, with the same log.
struct Twins {
    plain: Fleet,
    archiving: Fleet,
    /// How many results the one that archives has in memory.
    recent: u32,
    /// The records that are needed.
    archive: BTreeMap<u64, Arc<Task>>,
    /// How many there were.
    records: u64,
}

impl Twins {
    fn new(recent: u32) -> Twins {
        let [plain, archiving] = [(); 2].map(|()| Fleet::new(FleetConfig::default()));
        Twins { plain, archiving, recent, archive: BTreeMap::new(), records: 0 }
    }

    /// Takes the effects that only a fleet that archives has.
    fn note(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut others = Vec::new();
        for effect in effects {
            match effect {
                Effect::Archived { record, task } => {
                    assert_eq!(record, self.records, "records are numbered without gaps");
                    self.records += 1;
                    self.archive.insert(record, task);
                }
                Effect::RecordExpired { record } => assert!(self.archive.remove(&record).is_some(), "record {record}"),
                effect => others.push(effect),
            }
        }
        others
    }

    fn configured(&self, config: &FleetConfig) -> Command {
        let recent_results = if self.archiving.has(Feature::Archive) { self.recent } else { 0 };
        Command::Control(ControlCommand::Configure(FleetConfig { recent_results, ..config.clone() }))
    }

    /// Applies a command to both. The one that archives takes so many steps at once.
    fn apply(&mut self, now: Stamp, command: &Command, budget: usize) {
        let mut expected = Vec::new();
        let reply = self.plain.apply(now, command.clone(), &mut expected);
        let command = match command {
            Command::Control(ControlCommand::Configure(config)) => self.configured(config),
            command => command.clone(),
        };
        let mut effects = Vec::new();
        let mut progress = self.archiving.begin(now, command, budget, &mut effects);
        let replied = loop {
            match progress {
                Progress::Done(reply) => break reply,
                Progress::Halfway(rest) => progress = self.archiving.advance(rest, budget, &mut effects),
            }
        };
        assert_eq!(replied, reply);
        assert_eq!(self.note(effects), expected);
        if self.archiving.has(Feature::Archive) && self.archiving.config().recent_results == 0 {
            let (configure, mut effects) = (self.configured(self.archiving.config()), Vec::new());
            assert_eq!(self.archiving.apply(now, configure, &mut effects), Reply::Done);
            assert_eq!(self.note(effects), []);
        }
    }

    fn read(&self, kept: Kept) -> Arc<Task> {
        match kept {
            Kept::Here(task) => task,
            Kept::Archived(row) => {
                let task = self.archive.get(&row.record).expect("it is needed");
                assert!(row.is_of(task) && self.archiving.needs_record(&row), "{row:?} {task:?}");
                Arc::clone(task)
            }
        }
    }

    /// Checks that all tasks are read in both as they were.
    fn check(&self) {
        let Twins { plain, archiving, .. } = self;
        assert_eq!(archiving.audit(), Ok(()));
        assert_eq!((archiving.records(), archiving.archived_count()), (self.records, self.archive.len()));
        let everything = TaskFilter::default();
        let listed = archiving.kept_tasks(&everything, None, MAX_PAGE).tasks;
        let listed: Vec<Arc<Task>> = listed.into_iter().map(|kept| self.read(kept)).collect();
        assert!(listed.iter().eq(plain.tasks(&everything, None, MAX_PAGE).tasks), "the listings differ");
        for revision in [0, plain.revision() / 2] {
            let changed: Vec<Arc<Task>> = archiving.kept_changed_since(revision).map(|kept| self.read(kept)).collect();
            assert!(changed.iter().eq(plain.changed_tasks_since(revision)), "the changes differ");
        }
        for task in &listed {
            assert_eq!(archiving.kept_task(task.id).map(|kept| self.read(kept)).as_ref(), Some(task));
            assert_eq!(archiving.state_of(task.id), Some(task.state));
            self.check_links(task);
        }
        let figures = |fleet: &Fleet| (fleet.counts(), fleet.stored_bytes(), fleet.kept_count(), *fleet.totals());
        assert_eq!(figures(archiving), figures(plain));
        assert_eq!((archiving.next_due(), archiving.revision()), (plain.next_due(), plain.revision()));
    }
}

impl Twins {
    /// Checks that what is linked to a task is read in both as it was.
    fn check_links(&self, task: &Arc<Task>) {
        let read = |(index, kept): (u32, Kept)| (index, self.read(kept));
        let children =
            |fleet: &Fleet| fleet.children_of(task.id, 0, MAX_PAGE).into_iter().map(read).collect::<Vec<_>>();
        assert_eq!(children(&self.archiving), children(&self.plain), "the children of {}", task.id);
        let walked = |fleet: &Fleet| fleet.walk_below(task.id).map(|mut walk| fleet.walk(&mut walk, MAX_PAGE));
        assert_eq!(walked(&self.archiving), walked(&self.plain), "what runs below {}", task.id);
        // Nobody is given anything any more once a task has ended.
        if !task.state.is_final() {
            let given = |fleet: &Fleet| -> Vec<Arc<Task>> {
                fleet.results_for(task, 0, MAX_PAGE).into_iter().map(|kept| self.read(kept)).collect()
            };
            assert_eq!(given(&self.archiving), given(&self.plain), "the results that {} is given", task.id);
        }
    }
}

/// Returns the log of a history.
fn log_of(steps: &[(i64, Op)]) -> Vec<(Stamp, Command)> {
    let mut history = History::new();
    steps.iter().for_each(|(passing, op)| history.step(*passing, op));
    history.log
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn archiving_changes_no_reply_no_task_and_no_other_effect(
        steps in steps(), recent in 1..4u32, budget in 1..4usize,
    ) {
        let mut twins = Twins::new(recent);
        for (now, command) in &log_of(&steps) {
            twins.apply(*now, command, budget);
            twins.check();
        }
    }

    #[test]
    fn archiving_changes_no_graph(log in logs(), recent in 1..4u32, budget in 1..4usize) {
        let mut twins = Twins::new(recent);
        for (now, command) in &log {
            twins.apply(*now, command, budget);
            twins.check();
        }
    }

    #[test]
    fn a_fleet_that_archives_continues_the_same_from_a_snapshot(
        log in prop_oneof![steps().prop_map(|steps| log_of(&steps)), logs()],
        recent in 1..4u32,
        cut in any::<prop::sample::Index>(),
        limit in 1..9usize,
    ) {
        let mut twins = Twins::new(recent);
        let (before, rest) = log.split_at(cut.index(log.len()));
        before.iter().for_each(|(now, command)| twins.apply(*now, command, usize::MAX));
        let expected = twins.archiving.encode();
        let records = twins.archiving.records();
        let mut snapshot = twins.archiving.begin_snapshot();
        let restored = Fleet::decode(&expected).expect("a fleet's own snapshot");
        prop_assert_eq!(restored.encode(), expected.clone());
        prop_assert_eq!(restored.audit(), Ok(()));
        // Taken while the others go on.
        for (now, command) in rest {
            twins.apply(*now, command, usize::MAX);
            if let Some(part) = snapshot.take(&twins.archiving, limit) {
                snapshot.encode(&part);
            }
        }
        while let Some(part) = snapshot.take(&twins.archiving, limit) {
            snapshot.encode(&part);
        }
        prop_assert_eq!(snapshot.records(), records);
        prop_assert_eq!(snapshot.finish().expect("all is taken"), expected);
        // The one that has read the snapshot does the same, and makes the same records.
        let last = (twins.archiving.encode(), twins.archive, twins.records);
        let mut again = Twins::new(recent);
        before.iter().for_each(|(now, command)| again.apply(*now, command, usize::MAX));
        again.archiving = restored;
        rest.iter().for_each(|(now, command)| again.apply(*now, command, 1));
        prop_assert_eq!((again.archiving.encode(), again.archive, again.records), last);
    }
}

/// Returns a fleet with a worker of so many slots that has so many results in memory.
fn keeping(recent_results: u32, slots: u32) -> (Trial, OpenSession) {
    let (mut trial, stay) = with_slots(slots);
    let config = FleetConfig { recent_results, ..FleetConfig::default() };
    assert_eq!(trial.apply(Command::Control(ControlCommand::Configure(config))), Reply::Done);
    (trial, stay)
}

/// Submits a task and lets it succeed.
fn run(trial: &mut Trial, stay: OpenSession, task: SubmitTask) -> TaskId {
    let id = trial.submit(task);
    trial.complete(stay, id, 1, success());
    id
}

fn archived(trial: &Trial) -> Vec<TaskId> {
    let task = |effect: &Effect| match effect {
        Effect::Archived { task, .. } => Some(task.id),
        _ => None,
    };
    trial.effects.iter().filter_map(task).collect()
}

fn row(trial: &Trial, id: TaskId) -> Archived {
    trial.fleet.archived(id).expect("it is archived")
}

#[test]
fn a_record_is_read_as_it_was_written_and_nothing_else_is_one() {
    let (mut trial, stay) = keeping(1, 1);
    run(&mut trial, stay, task(1));
    run(&mut trial, stay, task(2));
    let is_it = |effect: &&Effect| matches!(effect, Effect::Archived { .. });
    let Some(Effect::Archived { task: first, .. }) = trial.effects.iter().find(is_it).cloned() else {
        panic!("nothing is archived")
    };
    let mut bytes = Vec::new();
    encode_task(&first, &mut bytes);
    assert_eq!(decode_task(&bytes).as_ref(), Ok(first.as_ref()));
    // A part of a record may be another one, which its frame's checksum tells apart.
    assert!((0..bytes.len()).all(|len| decode_task(&bytes[..len]).as_ref() != Ok(first.as_ref())));
    bytes.push(0);
    assert!(decode_task(&bytes).is_err());
    assert!(decode_task(&trial.fleet.encode()).is_err());
}

#[test]
fn the_rows_are_found_in_a_snapshot_without_the_rest() {
    let (mut trial, stay) = keeping(1, 1);
    assert_eq!(archived_in(&trial.fleet.encode()), Ok((Vec::new(), 0)));
    for n in 1..=9 {
        run(&mut trial, stay, SubmitTask { result_ttl: Some(n as u64 * 10), ..task(n) });
    }
    trial.after(30);
    let state = trial.fleet.encode();
    let rows: Vec<Archived> = trial.fleet.archived_tasks().collect();
    assert_eq!((rows.len(), archived_in(&state)), (5, Ok((rows, 8))));
    assert!(archived_in(&state[..state.len() - 1]).is_err());
}

#[test]
fn the_results_that_changed_first_are_archived_when_there_are_more_than_should_be_in_memory() {
    let (mut trial, stay) = keeping(2, 4);
    for n in 1..=2 {
        run(&mut trial, stay, task(n));
        assert_eq!(archived(&trial), []);
    }
    let unfinished = trial.submit(task(9));
    run(&mut trial, stay, task(3));
    assert_eq!(archived(&trial), [TaskId(1)]);
    assert_eq!((trial.fleet.task(TaskId(1)), row(&trial, TaskId(1)).record), (None, 0));
    assert_eq!(trial.fleet.kept_task(TaskId(1)).map(|kept| kept.seq()), Some(1));
    trial.complete(stay, unfinished, 1, success());
    assert_eq!(archived(&trial), [TaskId(2)], "and not the one that was accepted before");
    let counts = trial.fleet.counts();
    assert_eq!((counts.succeeded, trial.fleet.kept_count(), trial.fleet.archived_count()), (4, 4, 2));
}

#[test]
fn large_results_leave_the_memory_earlier() {
    let (mut trial, stay) = keeping(4, 1);
    let half = SubmitTask { input: Bytes::from(vec![7; 2 * RECENT_RESULT_BYTES as usize - 1]), ..task(1) };
    run(&mut trial, stay, half.clone());
    run(&mut trial, stay, SubmitTask { id: TaskId(2), ..half });
    // With their outputs of one byte, they are as large as four may be.
    assert_eq!(archived(&trial), []);
    run(&mut trial, stay, task(3));
    assert_eq!(archived(&trial), [TaskId(1)]);
    assert_eq!(trial.fleet.stored_bytes() - trial.fleet.bytes_in_memory(), 2 * RECENT_RESULT_BYTES);
}

#[test]
fn what_has_ended_before_is_archived_a_few_at_a_time() {
    let (mut trial, stay) = with_slots(1);
    for n in 1..=9 {
        run(&mut trial, stay, task(n));
    }
    let config = FleetConfig { recent_results: 1, ..FleetConfig::default() };
    trial.apply(Command::Control(ControlCommand::Configure(config)));
    assert_eq!(archived(&trial), [1, 2, 3, 4].map(TaskId));
    assert_eq!(archived(&trial).len(), MAX_ARCHIVED_AT_ONCE);
    trial.after(1);
    assert_eq!(archived(&trial), [5, 6, 7, 8].map(TaskId));
    trial.after(1);
    assert_eq!(archived(&trial), [], "so many stay");
}

#[test]
fn nothing_is_archived_before_every_coordinator_can() {
    let mut trial = Trial::new();
    let config = FleetConfig { recent_results: 1, ..FleetConfig::default() };
    let refused = trial.apply(Command::Control(ControlCommand::Configure(config)));
    let since = Feature::Archive.since();
    assert!(matches!(refused, Reply::Refused(Refusal::NotInForce { since: of, .. }) if of == since), "{refused:?}");
}

#[test]
fn an_archived_task_is_answered_for_as_if_it_were_in_memory() {
    let (mut trial, stay) = keeping(1, 2);
    let id = run(&mut trial, stay, task(1));
    run(&mut trial, stay, task(2));
    assert_eq!(archived(&trial), [id]);
    assert_eq!(trial.apply(Command::Task(TaskCommand::Submit(task(1)))), Reply::Submitted { task: id, existing: true });
    let other = SubmitTask { kind: "product".to_owned(), ..task(1) };
    let conflict = trial.apply(Command::Task(TaskCommand::Submit(other)));
    assert!(matches!(conflict, Reply::Refused(Refusal::Conflict { task, .. }) if task == id), "{conflict:?}");
    assert_eq!(trial.cancel(id), Reply::Cancelled(TaskState::Succeeded));
    assert_eq!(trial.complete(stay, id, 1, success()), Reply::Stale(StaleReason::Finished));
    let retry = RetryDead { task: id, epoch: None, seed: 0, by: "client:c".to_owned() };
    let refused = trial.apply(Command::Task(TaskCommand::RetryDead(retry)));
    let state = TaskState::Succeeded;
    assert_eq!(refused, Reply::Refused(Refusal::NotDead { task: id, state }));
}

#[test]
fn a_run_of_a_schedule_does_not_get_the_id_of_an_archived_task() {
    let (mut trial, stay) = keeping(1, 1);
    let id = run(&mut trial, stay, task(1));
    run(&mut trial, stay, task(2));
    assert_eq!(archived(&trial), [id]);
    let reply = set(&mut trial, schedule("nightly"));
    assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
    let by_hand = ScheduleCommand::Run { name: "nightly".to_owned(), task: id, input: None };
    let refused = trial.apply(Command::Schedule(by_hand));
    assert!(matches!(refused, Reply::Refused(Refusal::Conflict { task, .. }) if task == id), "{refused:?}");
}

#[test]
fn a_task_expires_to_the_millisecond_wherever_it_is() {
    let (mut trial, stay) = keeping(1, 1);
    let short = SubmitTask { result_ttl: Some(50), ..task(1) };
    let id = run(&mut trial, stay, short);
    run(&mut trial, stay, task(2));
    let record = row(&trial, id).record;
    trial.after(49);
    assert!(trial.fleet.archived(id).is_some());
    trial.after(1);
    assert_eq!((trial.fleet.archived(id), trial.fleet.state_of(id)), (None, None));
    assert!(trial.effects.contains(&Effect::RecordExpired { record }), "{:?}", trial.effects);
    assert_eq!(trial.submit(SubmitTask { kind: "other".to_owned(), ..task(1) }), id, "the id is free");
}

#[test]
fn a_task_that_others_depend_on_stays_where_it_is_and_is_kept_for_them() {
    // Agents are still stopping what is cancelled, so there are slots enough.
    let (mut trial, stay) = keeping(1, 16);
    let one = trial.submit(SubmitTask { result_ttl: Some(50), ..task(1) });
    trial.submit(after(2, &[1], OnFailure::Fail));
    trial.complete(stay, one, 1, output("one"));
    run_others(&mut trial, 10..14);
    assert!(trial.fleet.task(one).is_some(), "an unfinished task depends on it");
    // It is archived when that has ended, and may be depended on again.
    trial.complete(stay, TaskId(2), 1, success());
    run_others(&mut trial, 20..24);
    let of_one = row(&trial, one);
    let waiting = trial.submit(after(3, &[1], OnFailure::Fail));
    trial.after(10_000);
    let given = trial.fleet.results_for(trial.task(waiting), 0, 9);
    assert_eq!(given, [Kept::Archived(of_one)], "it does not expire meanwhile");
    let restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!((restored.audit(), restored.next_due()), (Ok(()), trial.fleet.next_due()));
    trial.complete(stay, waiting, 1, success());
    assert!(trial.fleet.archived(one).is_some(), "its time is over, and it is forgotten with the next command");
    trial.after(1);
    assert_eq!(trial.fleet.archived(one), None);
}

/// Cancels so many new tasks.
fn run_others(trial: &mut Trial, ids: std::ops::Range<u128>) {
    for n in ids {
        let id = trial.submit(task(n));
        trial.cancel(id);
    }
}

#[test]
fn a_task_whose_dependency_failed_and_was_archived_ends_as_if_it_were_in_memory() {
    let (mut trial, stay) = keeping(1, 4);
    let lost = trial.submit(task(1));
    trial.cancel(lost);
    run(&mut trial, stay, task(2));
    assert!(trial.fleet.archived(lost).is_some());
    let fails = trial.submit(after(3, &[1], OnFailure::Fail));
    let runs = trial.submit(after(4, &[1], OnFailure::Run));
    assert_eq!((trial.fleet.state_of(fails), trial.state(runs)), (Some(TaskState::Failed), TaskState::Assigned));
    let unknown = trial.apply(Command::Task(TaskCommand::Submit(after(5, &[77], OnFailure::Run))));
    assert!(matches!(unknown, Reply::Refused(Refusal::UnknownDependency { .. })), "{unknown:?}");
}

#[test]
fn the_parts_of_a_task_are_archived_once_it_has_ended_and_are_still_its_parts() {
    let (mut trial, stay) = keeping(1, 16);
    trial.submit(split(1, 3, Join::Settled));
    for index in 0..3 {
        trial.submit(part(10 + u128::from(index), 1, index));
    }
    let parts = [10, 11, 12].map(TaskId);
    parts[..2].iter().for_each(|id| drop(trial.complete(stay, *id, 1, output("x"))));
    run_others(&mut trial, 20..24);
    assert!(parts.iter().all(|id| trial.fleet.archived(*id).is_none()), "their task is unfinished");
    trial.complete(stay, parts[2], 1, output("x"));
    run_others(&mut trial, 30..36);
    assert!(parts.iter().chain(&[TaskId(1)]).all(|id| trial.fleet.archived(*id).is_some()));
    assert_eq!(children(&trial, 1), parts);
    assert!(trial.fleet.walk_below(TaskId(1)).is_some() && trial.fleet.walk_below(parts[0]).is_none());
    let restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!((restored.audit(), restored.children_of(TaskId(1), 1, 9).len()), (Ok(()), 2));
    // What was submitted is answered as before, and so is what was not.
    let again = trial.apply(Command::Task(TaskCommand::Submit(part(10, 1, 0))));
    assert_eq!(again, Reply::Submitted { task: parts[0], existing: true });
    for other in [part(10, 1, 1), part(10, 2, 0), task(10)] {
        let refused = refused(&mut trial, other);
        assert!(matches!(refused, Refusal::Conflict { task, .. } if task == parts[0]), "{refused:?}");
    }
    let late = refused(&mut trial, part(13, 1, 0));
    assert!(matches!(late, Refusal::NoPart { task: TaskId(1), .. }), "{late:?}");
    // A part that outlives its task is none of the next one with that id.
    trial.submit(SubmitTask { result_ttl: Some(1), ..split(2, 1, Join::All) });
    trial.submit(part(40, 2, 0));
    trial.complete(stay, TaskId(40), 1, output("x"));
    run_others(&mut trial, 41..46);
    trial.after(1);
    trial.submit(split(2, 1, Join::All));
    assert!(trial.fleet.archived(TaskId(40)).is_some());
    assert!(matches!(refused(&mut trial, part(40, 2, 0)), Refusal::Conflict { .. }), "it would be waited for");
}

#[test]
fn dead_letters_stay_in_memory_until_they_are_dropped() {
    let (mut trial, stay) = keeping(1, 1);
    let id = trial.submit(SubmitTask { retry: retry(1), ..task(1) });
    trial.complete(stay, id, 1, failure(true));
    run_others(&mut trial, 10..14);
    assert_eq!((trial.fleet.dead_letter_count(), trial.state(id)), (1, TaskState::Failed));
}

#[test]
fn a_key_stands_for_its_task_while_that_is_archived_and_for_its_window() {
    let (mut trial, stay) = keeping(1, 1);
    let keyed = |n| SubmitTask { idempotency_key: Some("order-7".to_owned()), result_ttl: Some(50), ..task(n) };
    let id = run(&mut trial, stay, keyed(1));
    run(&mut trial, stay, task(2));
    assert!(trial.fleet.archived(id).is_some());
    let first = Reply::Submitted { task: id, existing: true };
    let submit = |trial: &mut Trial, task| trial.apply(Command::Task(TaskCommand::Submit(task)));
    assert_eq!(submit(&mut trial, keyed(3)), first);
    let other = submit(&mut trial, SubmitTask { input: Bytes::new(), ..keyed(3) });
    assert!(matches!(other, Reply::Refused(Refusal::Conflict { task, .. }) if task == id), "{other:?}");
    trial.fleet = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!(submit(&mut trial, keyed(3)), first);
    trial.after(50);
    assert_eq!(trial.fleet.archived(id), None);
    assert_eq!(submit(&mut trial, keyed(3)), first);
    trial.after(DEFAULT_KEY_WINDOW_MS - 51);
    assert_eq!(submit(&mut trial, keyed(3)), first, "one millisecond before its window ends");
    trial.after(1);
    assert_eq!(submit(&mut trial, keyed(3)), Reply::Submitted { task: TaskId(3), existing: false });
}
