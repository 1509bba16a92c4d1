//! The messages on their way to one agent: the most urgent first, and each of a bounded size. Attempts wait as their
//! keys; their contents are read from the state in slices when they are sent, so that a slow agent keeps nothing in
//! memory, and an attempt that has ended meanwhile is not sent at all.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use prost::Message;
use robeing_fleet::{
    Fleet, FleetMillis, Task,
    sabotage::{Mistake, planted},
};
use robeing_proto::{
    budget::MessageBudget,
    internal::v1::{self as internal, coordinator_message::Message as ToAgent},
};

use crate::{
    api::convert,
    leader::sessions::{AttemptKey, Outbox},
    raft::SharedFleet,
};

/// Maximum number of attempts read from the state at once.
const MAX_ATTEMPTS_READ: usize = 256;
/// Approximate size of an assignment besides its input and kind, bytes.
const ASSIGNMENT_BYTES: usize = 160;

/// What waits to be sent.
#[derive(Default)]
pub struct Outgoing {
    heartbeat: Option<u64>,
    health_check: Option<internal::HealthCheck>,
    acks: VecDeque<internal::CompletionAck>,
    stops: VecDeque<AttemptKey>,
    assignments: VecDeque<AttemptKey>,
    follows: BTreeMap<AttemptKey, internal::FollowAttempt>,
    hand_back: bool,
    drained: bool,
    ended: Option<String>,
}

impl Outgoing {
    /// Adds the contents of an outbox.
    pub fn add(&mut self, outbox: Outbox) {
        self.heartbeat = outbox.heartbeat.or(self.heartbeat);
        self.health_check = outbox.health_check.or(self.health_check.take());
        self.acks.extend(outbox.acks);
        self.stops.extend(outbox.stops);
        self.assignments.extend(outbox.assignments);
        self.follows.extend(outbox.follows);
        self.hand_back |= outbox.hand_back;
        self.drained |= outbox.drained;
        self.ended = outbox.ended.or(self.ended.take());
        if self.ended.is_some() {
            self.stops.clear();
            self.assignments.clear();
            self.follows.clear();
        }
    }

    /// Returns whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.heartbeat.is_none()
            && self.health_check.is_none()
            && self.acks.is_empty()
            && self.stops.is_empty()
            && self.assignments.is_empty()
            && self.follows.is_empty()
            && !self.hand_back
            && !self.drained
            && self.ended.is_none()
    }

    /// Returns the next message; `None` if nothing is left to send. The stop of an attempt is never sent before its
    /// assignment: it is queued only after the state has changed, an assignment is sent as soon as it is read from the
    /// state, and an attempt that is no longer current is not assigned.
    pub fn next(&mut self, fleet: &SharedFleet, now: FleetMillis) -> Option<ToAgent> {
        if let Some(seq) = self.heartbeat.take() {
            return Some(ToAgent::HeartbeatAck(internal::HeartbeatAck { seq }));
        }
        if let Some(check) = self.health_check.take() {
            return Some(ToAgent::HealthCheck(check));
        }
        if !self.acks.is_empty() {
            let acks = drain(&mut self.acks, Message::encoded_len);
            return Some(ToAgent::CompletionAcks(internal::CompletionAcks { acks }));
        }
        if !self.stops.is_empty() {
            let wire = |(task, attempt): AttemptKey| internal::AttemptRef { task_id: task.to_string(), attempt };
            let attempts = drain(&mut self.stops, |_| ASSIGNMENT_BYTES).into_iter().map(wire).collect();
            return Some(ToAgent::Cancels(internal::Cancels { attempts }));
        }
        while !self.assignments.is_empty() {
            let tasks = read(&fleet.read(), &mut self.assignments);
            if !tasks.is_empty() {
                let assignments = tasks.iter().filter_map(|given| assignment(given, now)).collect();
                return Some(ToAgent::Assignments(internal::Assignments { assignments }));
            }
        }
        // Sent after all assignments, so that the agent knows the attempts.
        if let Some((_, order)) = self.follows.pop_first() {
            return Some(ToAgent::FollowAttempt(order));
        }
        // Sent after all assignments, so that the agent hands back those, too.
        if std::mem::take(&mut self.hand_back) {
            return Some(ToAgent::HandBack(internal::HandBack {}));
        }
        if std::mem::take(&mut self.drained) {
            return Some(ToAgent::Drained(internal::Drained {}));
        }
        self.ended.take().map(|reason| ToAgent::SessionEnded(internal::SessionEnded { reason }))
    }
}

/// Takes as many items as fit in one message.
fn drain<T>(queue: &mut VecDeque<T>, size: impl Fn(&T) -> usize) -> Vec<T> {
    let mut budget = MessageBudget::default();
    let fitting = queue.iter().take_while(|item| budget.take(size(item))).count();
    queue.drain(..fitting).collect()
}

/// A task of which an agent gets an attempt. A run of a task whose result is verified has the input and deadline of that one;
/// one that compares outputs, these and that deadline.
struct Given {
    task: Arc<Task>,
    input: Bytes,
    deadline: Option<FleetMillis>,
}

/// Takes the tasks of the next attempts that are still current, about as many as fit in one message.
fn read(fleet: &Fleet, attempts: &mut VecDeque<AttemptKey>) -> Vec<Given> {
    let (mut tasks, mut budget) = (Vec::new(), MessageBudget::default());
    for _ in 0..MAX_ATTEMPTS_READ {
        let Some(&(id, attempt)) = attempts.front() else { break };
        let task = fleet.task(id).filter(|task| task.current().is_some_and(|current| current.number == attempt));
        if let Some(task) = task {
            let input = fleet.input_of(task);
            if !budget.take(input.len() + task.kind.len() + ASSIGNMENT_BYTES) {
                break;
            }
            tasks.push(Given { task: Arc::clone(task), input, deadline: fleet.deadline_of(task) });
        }
        attempts.pop_front();
    }
    tasks
}

/// Returns the current attempt of a task as an assignment at this fleet time.
fn assignment(Given { task, input, deadline }: &Given, now: FleetMillis) -> Option<internal::Assignment> {
    let current = task.current()?;
    // An agent that receives it late has less time left. 0 would mean that there is no limit.
    let left = |due: FleetMillis| due.saturating_sub(now).max(1);
    let assigned_at = current.assigned_at.fleet;
    Some(internal::Assignment {
        task_id: task.id.to_string(),
        attempt: current.number,
        kind: task.kind.clone(),
        input: if planted(Mistake::InputCut) { input.slice(..input.len().saturating_sub(1)) } else { input.clone() },
        deadline_in_ms: deadline.map_or(0, left),
        time_limit_ms: task.attempt_timeout.map_or(0, |limit| left(assigned_at.saturating_add(limit))),
        resources: task.resources.as_ref().map(|claim| convert::told_amounts(claim.asked.amounts)),
    })
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{
        Amounts, Command, ControlCommand, Effect, ResourceCommand, Stamp, SubmitTask, TaskCommand, TaskId,
        TaskResources, Verify, known_version,
    };
    use robeing_proto::budget::{MAX_ITEM_BYTES, MESSAGE_BUDGET_BYTES};

    use super::*;
    use crate::fixture::{fleet_with_agent, task};

    #[test]
    fn what_waits_for_a_slow_agent_comes_in_messages_that_fit() {
        let (mut fleet, ..) = fleet_with_agent();
        let mut outbox = Outbox::default();
        for n in 1..=2_000 {
            let input = Bytes::from(vec![0; if n % 100 == 0 { 1024 * 1024 } else { 1_000 }]);
            let mut effects: Vec<Effect> = Vec::new();
            fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(task(n, input))), &mut effects);
            outbox.assignments.push((TaskId(n), 1));
            outbox.stops.push((TaskId(n), 1));
            let (task_id, reason) = (TaskId(n).to_string(), "r".repeat(1_000));
            outbox.acks.push(internal::CompletionAck { task_id, reason, ..Default::default() });
        }
        let fleet = SharedFleet::new(fleet);
        let mut outgoing = Outgoing::default();
        outgoing.add(outbox);
        let (mut assigned, mut acknowledged, mut stopped) = (0, 0, 0);
        while let Some(told) = outgoing.next(&fleet, 1) {
            let told = internal::CoordinatorMessage { message: Some(told) };
            let bytes = told.encoded_len();
            let (count, sum) = match told.message {
                Some(ToAgent::Assignments(of)) => (of.assignments.len(), &mut assigned),
                Some(ToAgent::CompletionAcks(of)) => (of.acks.len(), &mut acknowledged),
                Some(ToAgent::Cancels(of)) => (of.attempts.len(), &mut stopped),
                other => panic!("{other:?}"),
            };
            *sum += count;
            let limit = if count > 1 { MESSAGE_BUDGET_BYTES + 16 * 1024 } else { MAX_ITEM_BYTES };
            assert!(bytes <= limit, "{count} things in {bytes} bytes");
        }
        assert!(outgoing.is_empty());
        assert_eq!((assigned, acknowledged, stopped), (2_000, 2_000, 2_000));
    }

    #[test]
    fn a_run_of_a_verified_task_has_the_deadline_of_the_task() {
        let (mut fleet, ..) = fleet_with_agent();
        let raise = Command::Control(ControlCommand::RaiseVersion(known_version()));
        fleet.apply(Stamp::at(1), raise, &mut Vec::new());
        let verify = Some(Box::new(Verify { agents: 2, agree: 2, pointer: None, compare: None }));
        let submission = SubmitTask { verify, deadline_in: Some(500), ..task(1, Bytes::from_static(b"in")) };
        let mut effects = Vec::new();
        fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(submission)), &mut effects);
        let assigned = effects.iter().find_map(|effect| match effect {
            Effect::Assign { task, attempt, .. } => Some((*task, *attempt)),
            _ => None,
        });
        let mut outgoing = Outgoing::default();
        outgoing.add(Outbox { assignments: vec![assigned.expect("it runs")], ..Outbox::default() });
        let Some(ToAgent::Assignments(given)) = outgoing.next(&SharedFleet::new(fleet), 101) else {
            panic!("it is sent");
        };
        let given = &given.assignments[0];
        assert_eq!((given.deadline_in_ms, &*given.input), (400, &b"in"[..]));
    }

    #[test]
    fn an_attempt_is_sent_with_what_its_task_was_granted() {
        let (mut fleet, agent, session) = fleet_with_agent();
        let amounts = Amounts { cpu: 500, ..Amounts::NONE };
        let resources = Some(Box::new(TaskResources { amounts, queue: "default".to_owned() }));
        for command in [
            Command::Control(ControlCommand::RaiseVersion(known_version())),
            Command::Resource(ResourceCommand::Contribute { agent, session, amounts }),
            Command::Task(TaskCommand::Submit(SubmitTask { resources, ..task(1, Bytes::new()) })),
        ] {
            fleet.apply(Stamp::at(1), command, &mut Vec::new());
        }
        let mut outgoing = Outgoing::default();
        outgoing.add(Outbox { assignments: vec![(TaskId(1), 1)], ..Outbox::default() });
        let Some(ToAgent::Assignments(given)) = outgoing.next(&SharedFleet::new(fleet), 1) else {
            panic!("it is sent");
        };
        assert_eq!(given.assignments[0].resources.map(|granted| granted.cpu_millis), Some(500));
    }

    #[test]
    fn an_attempt_is_assigned_before_it_is_followed_and_the_newest_order_counts() {
        let (mut fleet, ..) = fleet_with_agent();
        fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(task(1, Bytes::new()))), &mut Vec::new());
        let fleet = SharedFleet::new(fleet);
        let order = |stop| internal::FollowAttempt { attempt: 1, stop, ..Default::default() };
        let mut outgoing = Outgoing::default();
        for stop in [false, true] {
            let follows = [((TaskId(1), 1), order(stop))].into();
            outgoing.add(Outbox { follows, assignments: vec![(TaskId(1), 1)], ..Outbox::default() });
        }
        assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::Assignments(_))));
        assert_eq!(outgoing.next(&fleet, 1), Some(ToAgent::FollowAttempt(order(true))));
        assert!(outgoing.is_empty());
        let follows = [((TaskId(1), 1), order(false))].into();
        outgoing.add(Outbox { follows, ended: Some("over".to_owned()), ..Outbox::default() });
        assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::SessionEnded(_))));
    }

    #[test]
    fn an_agent_hears_of_all_it_has_before_it_is_to_hand_that_back() {
        let (mut fleet, ..) = fleet_with_agent();
        fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(task(1, Bytes::new()))), &mut Vec::new());
        let fleet = SharedFleet::new(fleet);
        let mut outgoing = Outgoing::default();
        let health_check = Some(internal::HealthCheck { seq: 1, within_ms: 1 });
        outgoing.add(Outbox { hand_back: true, health_check, ..Outbox::default() });
        outgoing.add(Outbox { assignments: vec![(TaskId(1), 1)], ..Outbox::default() });
        assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::HealthCheck(_))));
        assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::Assignments(_))));
        assert!(matches!(outgoing.next(&fleet, 1), Some(ToAgent::HandBack(_))));
        assert!(outgoing.is_empty());
    }
}
