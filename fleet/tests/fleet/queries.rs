//! Queries: listings, changes, and what tasks wait for.

use robeing_fleet::{
    AgentCounts, Command, Counts, Effect, Fleet, FleetConfig, Stamp, SubmitTask, TaskCommand, TaskFilter, TaskId,
    TaskState,
    limits::{MAX_PAGE, MAX_SCANNED},
};

use crate::fixture::{Trial, pooled, success, task, worker};

fn ids(fleet: &Fleet, filter: &TaskFilter) -> Vec<TaskId> {
    let page = fleet.tasks(filter, None, 100);
    page.tasks.into_iter().map(|t| t.id).collect()
}

#[test]
fn a_listing_goes_on_from_its_cursor_whatever_changed_in_between() {
    let mut trial = Trial::new();
    let all: Vec<TaskId> = (0..7).map(|n| trial.submit(task(100 - n))).collect();
    let filter = TaskFilter::default();
    let first = trial.fleet.tasks(&filter, None, 3);
    let cursor = first.next;
    assert_eq!(first.tasks.iter().map(|t| t.id).collect::<Vec<_>>(), all[..3]);
    trial.cancel(all[1]);
    trial.after(3_600_000);
    let rest = trial.fleet.tasks(&filter, cursor, 10);
    assert_eq!(rest.tasks.iter().map(|t| t.id).collect::<Vec<_>>(), all[3..]);
    assert_eq!(rest.next, None);
}

#[test]
fn a_page_that_ends_with_the_last_task_is_the_last() {
    let mut trial = Trial::new();
    for n in 0..4 {
        trial.submit(task(n));
    }
    let filter = TaskFilter::default();
    assert_eq!(trial.fleet.tasks(&filter, None, 4).next, None);
    assert!(trial.fleet.tasks(&filter, None, 3).next.is_some());
}

#[test]
fn a_page_has_at_most_its_largest_size() {
    let mut trial = Trial::new();
    let mut effects = Vec::new();
    for n in 0..=MAX_PAGE as u128 {
        let submit = Command::Task(TaskCommand::Submit(task(n)));
        trial.fleet.apply(Stamp::at(1), submit, &mut effects);
    }
    let page = trial.fleet.tasks(&TaskFilter::default(), None, usize::MAX);
    assert_eq!(page.tasks.len(), MAX_PAGE);
    assert!(page.next.is_some());
    assert_eq!(trial.fleet.tasks(&TaskFilter::default(), None, 0).tasks.len(), 1);
}

#[test]
fn one_call_looks_at_a_bounded_number_of_tasks_and_the_next_one_goes_on() {
    let config = FleetConfig { max_queued: u32::MAX, ..FleetConfig::default() };
    let mut fleet = Fleet::new(config);
    let mut effects = Vec::new();
    for n in 1..=MAX_SCANNED as u128 {
        fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(task(n))), &mut effects);
    }
    let rare = SubmitTask { submitter: "ann".to_owned(), ..task(0) };
    let by_ann = TaskFilter { submitter: Some("ann".to_owned()), ..TaskFilter::default() };
    assert_eq!(fleet.tasks(&by_ann, None, 1).next, None, "all of them could be scanned");
    fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(rare)), &mut effects);
    let short = fleet.tasks(&by_ann, None, 1);
    assert!(short.tasks.is_empty() && short.next.is_some());
    assert_eq!(fleet.tasks(&by_ann, short.next, 1).tasks.len(), 1);
}

#[test]
fn listings_are_filtered_by_state_kind_submitter_and_agent() {
    let mut trial = Trial::new();
    trial.join(worker("a"));
    let held = trial.submit(task(1));
    let other = trial.submit(SubmitTask { kind: "parse".to_owned(), submitter: "ann".to_owned(), ..task(2) });
    let by = |change: fn(&mut TaskFilter)| {
        let mut filter = TaskFilter::default();
        change(&mut filter);
        ids(&trial.fleet, &filter)
    };
    assert_eq!(by(|_| {}), [held, other]);
    assert_eq!(by(|f| f.states = vec![TaskState::Queued]), [other]);
    assert_eq!(by(|f| f.kind = Some("sum".to_owned())), [held]);
    assert_eq!(by(|f| f.submitter = Some("ann".to_owned())), [other]);
    assert_eq!(by(|f| f.agent = Some("a".to_owned())), [held]);
    assert_eq!(by(|f| f.agent = Some("b".to_owned())), []);
}

#[test]
fn a_task_that_changed_twice_is_told_once_in_the_order_of_the_last_changes() {
    let mut trial = Trial::new();
    let (first, second) = (trial.submit(task(1)), trial.submit(task(2)));
    let revision = trial.fleet.revision();
    assert_eq!(trial.fleet.changed_tasks_since(revision).count(), 0);
    let stay = trial.join(worker("a"));
    trial.complete(stay, first, 1, success());
    let changed: Vec<_> = trial.fleet.changed_tasks_since(revision).collect();
    assert_eq!(changed.iter().map(|t| t.id).collect::<Vec<_>>(), [first, second]);
    assert_eq!(changed[0].state, TaskState::Succeeded);
    assert!(changed[1].revision <= trial.fleet.revision());
    let agents: Vec<_> = trial.fleet.changed_agents_since(revision).map(|a| a.id).collect();
    assert_eq!(agents, [stay.agent]);
}

#[test]
fn reading_changes_nothing_and_a_tick_without_timers_neither() {
    let mut trial = Trial::new();
    trial.submit(task(1));
    let revision = trial.fleet.revision();
    trial.after(0);
    assert_eq!(trial.fleet.revision(), revision);
    assert_eq!(trial.effects, [] as [Effect; 0]);
}

#[test]
fn a_queued_task_says_what_it_waits_for() {
    let mut trial = Trial::new();
    let id = trial.submit(task(1));
    let says = |trial: &Trial| trial.fleet.waiting_for(id, trial.now);
    assert_eq!(says(&trial).as_deref(), Some("an agent: no live one takes its kind"));
    let stay = trial.join(pooled("a", Some(1), 0));
    assert_eq!(says(&trial), None, "it runs");
    let second = trial.submit(task(2));
    assert_eq!(
        trial.fleet.waiting_for(second, trial.now).as_deref(),
        Some("a free slot: the one fitting agent is busy")
    );
    trial.drain(stay);
    assert_eq!(
        trial.fleet.waiting_for(second, trial.now).as_deref(),
        Some("an agent: no live one takes its kind (1 draining)")
    );
}

#[test]
fn tasks_and_agents_are_counted_by_state() {
    let mut trial = Trial::new();
    let stay = trial.join(pooled("a", Some(1), 1));
    trial.join(pooled("b", Some(1), 1));
    let done = trial.submit(task(1));
    trial.submit(task(2));
    trial.submit(task(3));
    trial.complete(stay, done, 1, success());
    let counts = Counts { queued: 1, assigned: 1, succeeded: 1, ..Counts::default() };
    assert_eq!(trial.fleet.counts(), counts);
    let agents = AgentCounts { live: 1, standby: 1, ..AgentCounts::default() };
    assert_eq!(trial.fleet.agent_counts(), agents);
    assert_eq!(trial.fleet.totals().succeeded, 1);
}
