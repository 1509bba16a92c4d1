//! Samples of queues of tasks, of commands for them and of tasks in them, for the tests of them and of their encoding.

use robeing_fleet::{
    AskedLane, Command, EACH_KEY, Limit, QueueCommand, QueueRules, Rate, Refusal, Reply, SubmitTask, TaskCommand,
    TaskQueue,
};

use crate::fixture::{Trial, task};

/// Returns a limit on how many tasks of a key run, or of the queue if the key is empty.
pub fn at_once(key: &str, most: u32) -> Limit {
    Limit { key: key.to_owned(), concurrency: Some(most), rate: None }
}

/// Returns a limit of so many starts in so many ms, and of so many at once.
pub fn per_time(key: &str, count: u32, per: u64, burst: u32) -> Limit {
    Limit { key: key.to_owned(), concurrency: None, rate: Some(Rate { count, per, burst }) }
}

/// Returns the rules of a queue of weight 1 with these limits.
pub fn limited(limits: Vec<Limit>) -> QueueRules {
    QueueRules { limits, ..QueueRules::of_weight(1) }
}

/// Returns the command that sets these queues and removes those.
pub fn update(set: &[(&str, QueueRules)], remove: &[&str]) -> Command {
    let set = set.iter().map(|(name, rules)| TaskQueue { name: (*name).to_owned(), rules: rules.clone() }).collect();
    let remove = remove.iter().map(|name| (*name).to_owned()).collect();
    Command::Queue(QueueCommand::Update { set, remove })
}

/// Returns the task as one of a queue, and with a key.
pub fn in_lane(task: SubmitTask, queue: &str, limit_key: &str) -> SubmitTask {
    let identity = task.lane.as_ref().map(|lane| lane.identity.clone()).unwrap_or_default();
    let lane = AskedLane { queue: queue.to_owned(), limit_key: limit_key.to_owned(), identity };
    SubmitTask { lane: Some(Box::new(lane)), ..task }
}

/// Returns the task as one of a submitter whose identity is known.
pub fn of_identity(task: SubmitTask, identity: &str) -> SubmitTask {
    let lane = task.lane.as_deref().cloned().unwrap_or_default();
    SubmitTask { lane: Some(Box::new(AskedLane { identity: identity.to_owned(), ..lane })), ..task }
}

impl Trial {
    /// Sets queues, which must be possible.
    pub fn set_queues(&mut self, queues: &[(&str, QueueRules)]) {
        assert_eq!(self.apply(update(queues, &[])), Reply::Done);
    }
}

pub fn queue_commands() -> Vec<Command> {
    let all = Limit { rate: Some(Rate { count: 3, per: 60_000, burst: 7 }), ..at_once("", 5) };
    let batch = QueueRules {
        aging: 600_000,
        max_unfinished: Some(300),
        limits: vec![all, at_once(EACH_KEY, 2), per_time("crawler", 1, 1_000, 1)],
        ..QueueRules::of_weight(3)
    };
    let submit = |task| Command::Task(TaskCommand::Submit(task));
    vec![
        update(&[("batch", batch), ("default", QueueRules::of_weight(2))], &["old"]),
        update(&[], &["default"]),
        submit(in_lane(task(601), "batch", "crawler")),
        submit(of_identity(in_lane(task(602), "", "other"), "client:c")),
        submit(of_identity(task(603), "client:d")),
    ]
}

pub fn queue_replies() -> Vec<Reply> {
    vec![Reply::Refused(Refusal::TaskQueueFull { queue: "batch".to_owned(), limit: 300, retry_after_ms: 20_000 })]
}
