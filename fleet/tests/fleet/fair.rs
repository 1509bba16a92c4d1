//! What must hold of queues of tasks in every history: their limits, counted again from what has started, and the shares
//! of those who always have tasks.

use std::collections::BTreeMap;

use proptest::prelude::*;
use robeing_fleet::{
    AgentJoin, AskedLane, Command, EACH_KEY, Effect, Fleet, Limit, QueueCommand, QueueRules, Rate, Refusal, Reply,
    Task, TaskCommand, TaskId, TaskQueue, TaskState, limits::SHARE_STEP,
};

use crate::{
    fixture::{Trial, success, task, worker},
    life::Before,
    queue_samples::{in_lane, of_identity},
};

/// A queue, and a key of it if that is not empty.
type Group = (String, String);

fn name() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just("default".to_owned()), 3 => (0..3u8).prop_map(|n| format!("queue-{n}"))]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just(String::new()), 1 => (0..3u8).prop_map(|n| format!("k{n}"))]
}

/// Returns where a task waits, rarely in a queue that is not there, and the name of its submitter.
pub fn waiting() -> impl Strategy<Value = (Option<AskedLane>, String)> {
    let queue = prop_oneof![1 => Just(String::new()), 1 => name()];
    let identity = prop_oneof![2 => Just(String::new()), 1 => (0..2u8).prop_map(|n| format!("client:{n}"))];
    let lane = (queue, key(), identity);
    let lane = lane.prop_map(|(queue, limit_key, identity)| AskedLane { queue, limit_key, identity });
    (prop::option::of(lane), (0..2u8).prop_map(|n| format!("history-{n}")))
}

fn limit() -> impl Strategy<Value = Limit> {
    let key = prop_oneof![3 => key(), 1 => Just(EACH_KEY.to_owned())];
    let rate = (1..4u32, 1..3_000u64, 1..4u32).prop_map(|(count, per, burst)| Rate { count, per, burst });
    let limits = (prop::option::weighted(0.7, 1..4u32), prop::option::weighted(0.5, rate));
    (key, limits).prop_map(|(key, (concurrency, rate))| Limit { key, concurrency, rate })
}

/// Commands that set queues and remove others. Some are refused, because they limit nothing or one key twice.
pub fn command() -> impl Strategy<Value = Command> {
    let aging = prop_oneof![2 => Just(0), 1 => Just(500u64), 1 => Just(20_000u64)];
    let most = prop::option::weighted(0.2, 1..8u32);
    let rules = (1..5u32, aging, most, prop::collection::vec(limit(), 0..3));
    let rules =
        rules.prop_map(|(weight, aging, max_unfinished, limits)| QueueRules { weight, aging, max_unfinished, limits });
    let set = (name(), rules).prop_map(|(name, rules)| TaskQueue { name, rules });
    (prop::collection::vec(set, 0..3), prop::collection::vec(name(), 0..2))
        .prop_map(|(set, remove)| Command::Queue(QueueCommand::Update { set, remove }))
}

/// What is left of a rate, as parts of tokens.
#[derive(Clone, Copy)]
struct Tokens {
    level: u128,
    at: u64,
}

/// The queues as they were set, and what ran after the last command.
#[derive(Default)]
pub struct Twin {
    rules: BTreeMap<String, QueueRules>,
    tokens: BTreeMap<Group, Tokens>,
    running: BTreeMap<Group, u32>,
    unfinished: BTreeMap<String, u32>,
    now: u64,
    /// The most that a queue was served.
    served: u64,
    /// An attempt began at a task that was gone again after the command, so that nobody knows of which queue it was.
    is_blurred: bool,
}

fn groups(task: &Task) -> impl Iterator<Item = Group> {
    let (queue, key) = (task.queue().to_owned(), task.limit_key().to_owned());
    let of_key = (!key.is_empty()).then(|| (queue.clone(), key));
    [(queue, String::new())].into_iter().chain(of_key)
}

impl Twin {
    fn limit_on(&self, (queue, key): &Group) -> Option<&Limit> {
        let limits = &self.rules.get(queue)?.limits;
        let own = limits.iter().find(|limit| limit.key == *key);
        own.or_else(|| limits.iter().find(|limit| limit.key == EACH_KEY).filter(|_| !key.is_empty()))
    }

    fn rate_of(&self, group: &Group) -> Option<Rate> {
        self.limit_on(group)?.rate
    }

    /// Returns what is left of a rate now.
    fn level(&self, group: &Group, rate: Rate) -> u128 {
        let most = u128::from(rate.burst) * u128::from(rate.per);
        let came = |since: u64| u128::from(self.now.saturating_sub(since)) * u128::from(rate.count);
        self.tokens.get(group).map_or(most, |tokens| most.min(tokens.level + came(tokens.at)))
    }

    /// Returns whether a group has as many running tasks, or as few tokens, that none may start. One task may have ended.
    fn is_full(&self, group: &Group, ended: Option<&Task>) -> bool {
        let Some(limit) = self.limit_on(group) else { return false };
        let ended = ended.filter(|task| task.state == TaskState::Assigned && groups(task).any(|of| of == *group));
        let running = self.running.get(group).copied().unwrap_or(0) - u32::from(ended.is_some());
        let is_dry = limit.rate.is_some_and(|rate| self.level(group, rate) < u128::from(rate.per));
        is_dry || limit.concurrency.is_some_and(|most| running >= most)
    }

    /// Returns whether limits hold back tasks of a queue and a key, once this running task has ended.
    pub fn holds(&self, queue: &str, key: &str, ended: Option<&Task>) -> bool {
        let group = |key: &str| (queue.to_owned(), key.to_owned());
        self.is_full(&group(""), ended) || (!key.is_empty() && self.is_full(&group(key), ended))
    }

    /// Returns whether queues have limits.
    pub fn has_limits(&self) -> bool {
        self.rules.values().any(|rules| !rules.limits.is_empty())
    }

    pub fn check(&mut self, before: &Before, fleet: &Fleet, (command, reply): (&Command, &Reply), effects: &[Effect]) {
        self.now = fleet.now().fleet;
        self.check_reply(command, reply);
        if let (Command::Queue(QueueCommand::Update { set, remove }), Reply::Done) = (command, reply) {
            self.update(set, remove);
        }
        let starts = self.take_tokens(before, fleet, effects);
        self.count(fleet);
        for (group, count) in starts {
            let most = self.limit_on(&group).and_then(|limit| limit.concurrency).unwrap_or(u32::MAX);
            let running = self.running.get(&group).copied().unwrap_or(0);
            assert!(running <= most, "{running} of {group:?} run, of which {count} have started now");
        }
        for task in fleet.changed_tasks_since(0).filter(|task| task.is_ready() && !self.is_blurred) {
            let is_held = self.holds(task.queue(), task.limit_key(), None);
            assert_eq!(fleet.is_held_back(task), is_held, "{task:?}");
            assert_eq!(fleet.limit_words(task).is_some(), is_held);
        }
        self.check_served(fleet, effects);
    }

    fn check_reply(&self, command: &Command, reply: &Reply) {
        let Command::Task(TaskCommand::Submit(submission)) = command else { return };
        let unfinished = self.unfinished.get(submission.queue()).copied().unwrap_or(0);
        let most = self.rules.get(submission.queue()).and_then(|rules| rules.max_unfinished);
        match reply {
            Reply::Submitted { existing: false, .. } => assert!(most.is_none_or(|most| unfinished < most)),
            Reply::Refused(Refusal::TaskQueueFull { limit, .. }) => {
                assert_eq!(Some(*limit), most);
                assert!(submission.verify.is_some() || unfinished >= *limit, "{unfinished} of {limit}");
            }
            _ => {}
        }
    }

    /// Sets and removes queues. A key whose rate is another one has all tokens.
    fn update(&mut self, set: &[TaskQueue], remove: &[String]) {
        let rates: Vec<(Group, Option<Rate>)> =
            self.tokens.keys().map(|group| (group.clone(), self.rate_of(group))).collect();
        self.rules.extend(set.iter().map(|queue| (queue.name.clone(), queue.rules.clone())));
        remove.iter().for_each(|name| drop(self.rules.remove(name)));
        for (group, rate) in rates {
            if self.rate_of(&group) != rate {
                self.tokens.remove(&group);
            }
        }
    }

    /// Takes the tokens of the attempts that have begun. Returns how many have in each group.
    fn take_tokens(&mut self, before: &Before, fleet: &Fleet, effects: &[Effect]) -> BTreeMap<Group, u32> {
        let mut starts = BTreeMap::new();
        for effect in effects {
            let Effect::Assign { task: id, .. } = effect else { continue };
            let was = || before.tasks.values().find(|task| task.id == *id);
            let Some(task) = fleet.task(*id).map(|task| &**task).or_else(was) else {
                self.is_blurred |= self.has_limits();
                continue;
            };
            for group in groups(task) {
                *starts.entry(group.clone()).or_insert(0) += 1;
                let Some(rate) = self.rate_of(&group) else { continue };
                let (level, token) = (self.level(&group, rate), u128::from(rate.per));
                assert!(self.is_blurred || level >= token, "{task:?} starts without a token of {group:?}");
                self.tokens.insert(group, Tokens { level: level.saturating_sub(token), at: self.now });
            }
        }
        starts
    }

    /// Counts the tasks again.
    fn count(&mut self, fleet: &Fleet) {
        (self.running, self.unfinished) = (BTreeMap::new(), BTreeMap::new());
        for task in fleet.changed_tasks_since(0).filter(|task| !task.state.is_final()) {
            *self.unfinished.entry(task.queue().to_owned()).or_insert(0) += 1;
            if task.state == TaskState::Assigned {
                groups(task).for_each(|group| *self.running.entry(group).or_insert(0) += 1);
            }
        }
        let (views, has_more) = fleet.task_queues(None, usize::MAX);
        assert!(!has_more && views.is_sorted_by(|one, next| one.name < next.name), "{views:?}");
        let told =
            |name: &str| name == "default" || self.rules.contains_key(name) || self.unfinished.contains_key(name);
        let mut names = self.rules.keys().chain(self.unfinished.keys());
        assert!(names.all(|name| views.iter().any(|view| view.name == *name)), "{views:?}");
        for view in views {
            assert!(told(&view.name), "{view:?}");
            let unfinished = self.unfinished.get(&view.name).copied().unwrap_or(0);
            let running = self.running.get(&(view.name.clone(), String::new())).copied().unwrap_or(0);
            assert_eq!((view.unfinished, view.running), (unfinished, running), "{view:?}");
            assert_eq!(view.rules.as_ref(), self.rules.get(&view.name));
            let is_full = self.is_full(&(view.name.clone(), String::new()), None);
            assert!(self.is_blurred || view.is_held == is_full, "{view:?}");
        }
    }

    /// Checks that nobody runs ahead by more than what has started.
    fn check_served(&mut self, fleet: &Fleet, effects: &[Effect]) {
        let starts = effects.iter().filter(|effect| matches!(effect, Effect::Assign { .. })).count() as u64;
        let served = fleet.changed_tasks_since(0).map(|task| fleet.served(task).queue).max().unwrap_or(0);
        assert!(served <= self.served + starts * SHARE_STEP, "{served} after {}", self.served);
        self.served = self.served.max(served);
    }
}

/// A queue of this weight, with tasks of so many submitters.
fn crowd() -> impl Strategy<Value = Vec<(u32, usize)>> {
    prop::collection::vec((1..9u32, 1..4usize), 2..5)
}

/// The number of tasks of each submitter.
const EACH: usize = 24;

/// Returns a fleet in which each submitter of each queue has tasks that wait, and the queue and submitter of each task.
fn waiting_crowd(crowd: &[(u32, usize)]) -> (Trial, BTreeMap<TaskId, (usize, usize)>) {
    let (mut trial, mut known) = (Trial::newest(), BTreeMap::new());
    for (n, (weight, _)) in crowd.iter().enumerate() {
        trial.set_queues(&[(&format!("queue-{n}"), QueueRules::of_weight(*weight))]);
    }
    for (n, (_, submitters)) in crowd.iter().enumerate() {
        for of in 0..*submitters {
            for _ in 0..EACH {
                let submission = task(known.len() as u128 + 1);
                let submission = of_identity(submission, &format!("client:{of}"));
                let id = trial.submit(in_lane(submission, &format!("queue-{n}"), ""));
                known.insert(id, (n, of));
            }
        }
    }
    (trial, known)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// By the start of any task, and with a coordinator that reads a snapshot in between.
    #[test]
    fn queues_and_submitters_that_always_have_tasks_get_their_shares(
        crowd in crowd(), slots in 1..4u32, picks in prop::collection::vec(any::<prop::sample::Index>(), EACH - 4),
        cut in 0..EACH,
    ) {
        let (mut trial, known) = waiting_crowd(&crowd);
        let stay = trial.join(AgentJoin { slots, ..worker("w") });
        let mut running: Vec<(TaskId, u32)> = trial.assigned();
        let mut started: Vec<Vec<u32>> = crowd.iter().map(|(_, submitters)| vec![0; *submitters]).collect();
        let count = |started: &mut Vec<Vec<u32>>, tasks: &[(TaskId, u32)]| {
            for (id, _) in tasks {
                let (queue, submitter) = known[id];
                started[queue][submitter] += 1;
            }
        };
        count(&mut started, &running);
        for (n, pick) in picks.iter().enumerate() {
            if n == cut {
                trial.fleet = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
            }
            let (id, attempt) = running.swap_remove(pick.index(running.len()));
            trial.complete(stay, id, attempt, success());
            let begun = trial.assigned();
            count(&mut started, &begun);
            running.extend(begun);
            let sums: Vec<u32> = started.iter().map(|of| of.iter().sum()).collect();
            for (one, (weight, _)) in sums.iter().zip(&crowd) {
                for (other, (of_other, _)) in sums.iter().zip(&crowd) {
                    prop_assert!(one * of_other <= other * weight + of_other, "{sums:?} of {crowd:?}");
                }
            }
            for of in &started {
                let (most, least) = (of.iter().max(), of.iter().min());
                prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{started:?}");
            }
        }
    }

    #[test]
    fn a_newcomer_with_few_tasks_waits_for_as_many_of_others(crowd in crowd(), before in 0..EACH - 13, few in 1..5usize) {
        let (mut trial, _) = waiting_crowd(&crowd);
        trial.set_queues(&[("new", QueueRules::of_weight(1))]);
        let stay = trial.join(worker("w"));
        let next = |trial: &mut Trial| {
            let (id, attempt) = trial.held_by(stay);
            trial.complete(stay, id, attempt, success());
        };
        (0..before).for_each(|_| next(&mut trial));
        let ids: Vec<TaskId> = (0..few).map(|n| trial.submit(in_lane(task(9_000 + n as u128), "new", ""))).collect();
        // Others may be ahead by one task, and a queue of another weight has its multiple.
        let sum: u32 = 1 + crowd.iter().map(|(weight, _)| weight).sum::<u32>();
        let mut waited = 0;
        while ids.iter().any(|id| trial.state(*id) == TaskState::Queued) {
            next(&mut trial);
            waited += 1;
            prop_assert!(waited <= (few as u32 + 1) * sum, "{waited} for {few} among {crowd:?}");
        }
    }
}
