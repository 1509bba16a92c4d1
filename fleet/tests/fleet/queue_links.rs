//! Queues of tasks that are linked with others.

use robeing_fleet::{
    AgentJoin, AttemptEnd, Join, QueueRules, Refusal, SubmitTask, TaskResources, TaskState,
    limits::DEFAULT_INITIAL_BACKOFF_MS,
};

use crate::{
    fixture::{Trial, amounts, task, worker},
    links::{children, part, refused, split, suspended, with_slots},
    queue_samples::{at_once, in_lane, limited, of_identity},
};

#[test]
fn the_most_of_a_queue_holds_for_parts_and_subtasks_too() {
    let small = || [("small", QueueRules { max_unfinished: Some(2), ..QueueRules::of_weight(1) })];
    let (mut trial, _) = with_slots(1);
    trial.set_queues(&small());
    // Places for its parts are kept in the queue of the task, and in no other one.
    trial.submit(split(1, 3, Join::All));
    for (n, index) in [(10, 0), (11, 1)] {
        trial.submit(in_lane(part(n, 1, index), "small", ""));
    }
    let refused = refused(&mut trial, in_lane(part(12, 1, 2), "small", ""));
    assert!(matches!(refused, Refusal::TaskQueueFull { limit: 2, .. }), "{refused:?}");
    trial.submit(part(12, 1, 2));
    let (mut trial, stay) = with_slots(1);
    trial.set_queues(&small());
    let id = trial.submit(in_lane(task(1), "small", ""));
    trial.complete(stay, id, 1, suspended(2));
    let again = trial.task(id);
    assert_eq!((again.state, again.attempts[0].end), (TaskState::Queued, Some(AttemptEnd::Failed)));
    trial.after(DEFAULT_INITIAL_BACKOFF_MS);
    trial.complete(stay, id, 2, suspended(1));
    assert_eq!(children(&trial, 1).len(), 1);
    assert_eq!(trial.fleet.task_queue("small").map(|view| view.unfinished), Some(2));
}

#[test]
fn subtasks_wait_where_their_task_does_and_count_for_its_submitter() {
    let (mut trial, stay) = with_slots(4);
    trial.set_queues(&[("batch", limited(vec![at_once("k", 1)]))]);
    let parent = trial.submit(of_identity(in_lane(task(1), "batch", "k"), "client:ann"));
    trial.complete(stay, parent, 1, suspended(2));
    let subtasks: Vec<_> = trial.fleet.changed_tasks_since(0).filter(|task| task.id != parent).collect();
    assert_eq!(subtasks.len(), 2);
    for subtask in &subtasks {
        assert_eq!((subtask.queue(), subtask.limit_key(), subtask.counts_for()), ("batch", "k", "client:ann"));
    }
    let running = subtasks.iter().filter(|task| task.state == TaskState::Assigned).count();
    assert_eq!(running, 1, "one at a time, and the task itself holds no place meanwhile");
}

#[test]
fn subtasks_of_a_task_with_resources_wait_in_its_queue_too() {
    let mut trial = Trial::newest();
    trial.set_queues(&[("batch", QueueRules::of_weight(1))]);
    let stay = trial.join(AgentJoin { contributed: Some(Box::new(amounts(4, 0))), ..worker("w") });
    let resources = Some(Box::new(TaskResources { amounts: amounts(1, 0), queue: "batch".to_owned() }));
    let parent = trial.submit(SubmitTask { resources, ..task(1) });
    trial.complete(stay, parent, 1, suspended(2));
    let queues: Vec<&str> = trial.fleet.changed_tasks_since(0).map(|task| task.queue()).collect();
    assert_eq!(queues, ["batch"; 3]);
}
