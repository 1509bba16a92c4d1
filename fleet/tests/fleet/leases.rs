//! What must hold of the resource pool in every history, found by adding everything up again.

use std::collections::BTreeMap;

use proptest::prelude::*;
use robeing_fleet::{
    AgentCommand, AgentId, AgentState, Allocation, AllocationEnd, AllocationId, AllocationState, Amounts, Command,
    Feature, Fleet, Holder, PoolSums, QueueShape, Quota, Refusal, Reply, RequestResources, Resource, ResourceCommand,
    TaskId, TaskResources, TeamId,
};

use crate::{crews, ops::name_of};

const ALLOCATIONS: u128 = 12;

/// Small amounts, of which some are nothing.
pub fn amounts() -> impl Strategy<Value = Amounts> {
    (0..9u64, 0..9u64, 0..3u64, 0..2u64).prop_map(|(cpu, memory, storage, bandwidth)| Amounts {
        cpu,
        memory,
        storage,
        bandwidth,
    })
}

/// What a task needs, rarely too much or from a queue that is not there.
pub fn of_task() -> impl Strategy<Value = TaskResources> {
    let amounts = (0..4u64, 0..4u64).prop_map(|(cpu, memory)| Amounts { cpu, memory, ..Amounts::NONE });
    let queue = prop_oneof![4 => Just("default".to_owned()), 1 => (0..3u8).prop_map(|n| format!("queue-{n}"))];
    (amounts, queue).prop_map(|(amounts, queue)| TaskResources { amounts, queue })
}

fn holder() -> impl Strategy<Value = Holder> {
    prop_oneof![
        4 => (0..40u128).prop_map(|id| Holder::Task(TaskId(id))),
        3 => (0..9u8).prop_map(|n| Holder::Agent(name_of(n))),
        3 => (0..2u8).prop_map(|n| Holder::Client(format!("client-{n}"))),
        1 => (0..crews::TEAMS).prop_map(|id| Holder::Team(TeamId(id))),
        1 => Just(Holder::Nobody),
    ]
}

prop_compose! {
    fn request()(
        id in 0..ALLOCATIONS, holder in holder(), queue in prop::option::of(0..3u8),
        parts in prop::collection::vec(amounts(), 1..4),
        spread in any::<bool>(), ttl in prop_oneof![9 => 1..60_000u64, 1 => Just(0)],
        wait in prop_oneof![Just(0), 1..60_000u64],
    ) -> RequestResources {
        let queue = queue.map_or("default".to_owned(), |n| format!("queue-{n}"));
        let requested_by = "history".to_owned();
        RequestResources { id: AllocationId(id), holder, queue, parts, spread, ttl, wait, requested_by }
    }
}

fn queues() -> impl Strategy<Value = Vec<QueueShape>> {
    let quota = prop::option::of(0..12u64).prop_map(|cpu| Quota { cpu, ..Quota::default() });
    let shape = (0..3u8, prop_oneof![9 => 1..4u32, 1 => Just(0)], quota);
    let shape = shape.prop_map(|(n, weight, quota)| QueueShape { name: format!("queue-{n}"), weight, quota });
    prop::collection::vec(shape, 0..3)
}

/// Commands for the resource pool but contributions, which depend on who is there.
pub fn command() -> impl Strategy<Value = Command> {
    let id = || (0..ALLOCATIONS).prop_map(AllocationId);
    let token = || 0..12u64;
    prop_oneof![
        10 => request().prop_map(ResourceCommand::Request),
        3 => (id(), prop::option::of(token())).prop_map(|(id, token)| ResourceCommand::Release { id, token }),
        3 => (id(), token()).prop_map(|(id, token)| ResourceCommand::Renew { id, token }),
        2 => queues().prop_map(ResourceCommand::SetQueues),
    ]
    .prop_map(Command::Resource)
}

/// The allocations as they were after the last command.
#[derive(Default)]
pub struct Twin {
    known: BTreeMap<u64, Allocation>,
    newest_token: u64,
}

fn all(fleet: &Fleet) -> BTreeMap<u64, Allocation> {
    let (mut found, mut before) = (BTreeMap::new(), None);
    loop {
        let (page, next) = fleet.allocations(before, 3, false);
        found.extend(page.iter().map(|allocation| (allocation.seq, Allocation::clone(allocation))));
        before = match next {
            Some(next) => Some(next),
            None => return found,
        };
    }
}

impl Twin {
    /// Checks a command's reply, and adds up what is granted after it.
    pub fn check(&mut self, fleet: &Fleet, command: &Command, reply: &Reply) {
        let now = all(fleet);
        if !fleet.has(Feature::Resources) {
            assert!(now.is_empty());
            return;
        }
        self.check_reply(fleet, command, reply);
        check_join(fleet, command, reply);
        self.check_changes(&now);
        check_sums(fleet, &now);
        self.known = now;
    }

    fn check_reply(&self, fleet: &Fleet, command: &Command, reply: &Reply) {
        let Command::Resource(ResourceCommand::Request(request)) = command else { return };
        match reply {
            Reply::Allocated { token, .. } => {
                let found = fleet.allocation(request.id).expect("it is kept");
                assert_eq!(found.token(), *token);
            }
            Reply::Refused(Refusal::InsufficientResources { short, others_wait, contributed: false }) => {
                assert_eq!(request.wait, 0);
                let free = fleet.pool_sums().free;
                let asked = request.parts.iter().fold(Amounts::NONE, |sum, part| sum.plus(*part));
                assert!(free.covers(asked) || !short.is_empty());
                if let [part] = request.parts.as_slice()
                    && !others_wait
                {
                    let mut agents = fleet.agents().filter_map(|agent| fleet.contribution(agent.id));
                    let fits = agents.any(|agent| agent.is_live && agent.contributed.minus(agent.used).covers(*part));
                    assert!(!fits, "{part:?} was refused");
                }
            }
            Reply::Refused(_) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Checks that ended allocations stay as they are, that granted ones keep their agents, and that later grants have
    /// higher tokens.
    fn check_changes(&mut self, now: &BTreeMap<u64, Allocation>) {
        for (seq, before) in &self.known {
            let Some(after) = now.get(seq) else {
                assert!(before.is_ended() || before.attempt.is_some(), "{before:?} disappeared");
                continue;
            };
            match (&before.state, &after.state) {
                (AllocationState::Ended { .. }, _) => assert_eq!(before, after),
                (AllocationState::Granted { token, .. }, AllocationState::Granted { token: later, .. }) => {
                    assert_eq!((token, &before.parts), (later, &after.parts));
                }
                (AllocationState::Granted { .. }, AllocationState::Waiting) => panic!("{after:?} waits again"),
                _ => {}
            }
        }
        let granted = now.iter().filter(|(seq, _)| self.known.get(seq).is_none_or(|before| before.token().is_none()));
        let mut fresh: Vec<u64> = granted.filter_map(|(_, allocation)| allocation.token()).collect();
        fresh.sort_unstable();
        assert!(fresh.iter().all(|token| *token > self.newest_token), "{fresh:?}");
        self.newest_token = fresh.last().copied().unwrap_or(self.newest_token);
    }
}

/// Checks that an agent contributes what its join says, but no less than what is granted of it.
fn check_join(fleet: &Fleet, command: &Command, reply: &Reply) {
    let (Command::Agent(AgentCommand::Joined(join)), Reply::Joined { agent, .. }) = (command, reply) else { return };
    let Some(said) = join.contributed.as_deref() else { return };
    let found = fleet.contribution(*agent);
    let (contributed, used) = found.map_or((Amounts::NONE, Amounts::NONE), |found| (found.contributed, found.used));
    assert_eq!(contributed, said.at_least(used), "what it gives to tasks that it takes as it joins is part of it");
}

fn check_sums(fleet: &Fleet, now: &BTreeMap<u64, Allocation>) {
    let mut by_agent: BTreeMap<AgentId, Amounts> = BTreeMap::new();
    let mut by_holder: BTreeMap<&Holder, Amounts> = BTreeMap::new();
    let mut counts = (0, 0, 0);
    for allocation in now.values() {
        match &allocation.state {
            AllocationState::Waiting => counts.0 += 1,
            AllocationState::Granted { .. } => counts.1 += 1,
            AllocationState::Ended { end, token, .. } => {
                counts.2 += 1;
                assert!(*end != AllocationEnd::NotGranted || *token == 0);
            }
        }
        if allocation.token().is_none() {
            continue;
        }
        let of_holder = by_holder.entry(&allocation.holder).or_default();
        *of_holder = of_holder.plus(allocation.asked());
        for part in &allocation.parts {
            let of_agent = by_agent.entry(part.agent.expect("it is granted")).or_default();
            *of_agent = of_agent.plus(part.amounts);
        }
    }
    let (mut contributed, mut used, mut free, mut agents) = (Amounts::NONE, Amounts::NONE, Amounts::NONE, 0);
    for agent in fleet.agents() {
        let found = fleet.contribution(agent.id);
        assert!(agent.state != AgentState::Lost || found.is_none(), "{} is lost and contributes", agent.name);
        let expected = by_agent.remove(&agent.id).unwrap_or_default();
        assert_eq!(found.map_or(Amounts::NONE, |found| found.used), expected, "{}", agent.name);
        let Some(found) = found else { continue };
        agents += 1;
        assert!(found.contributed.covers(found.used), "{} gives more than it has: {found:?}", agent.name);
        contributed = contributed.plus(found.contributed);
        used = used.plus(found.used);
        if agent.state == AgentState::Live {
            free = free.plus(found.contributed.minus(found.used));
        }
    }
    assert!(by_agent.is_empty(), "nobody gives {by_agent:?}");
    for (holder, expected) in by_holder {
        assert_eq!(fleet.held_resources(holder), expected, "{holder}");
        let is_there = match holder {
            Holder::Task(id) => fleet.task(*id).is_some_and(|task| !task.state.is_final()),
            Holder::Agent(name) => fleet.agent_by_name(name).is_some_and(|agent| agent.state != AgentState::Lost),
            Holder::Team(id) => fleet.team(*id).is_some_and(|team| team.is_open()),
            Holder::Client(_) => true,
            Holder::Nobody => false,
        };
        assert!(is_there, "{holder} is gone");
    }
    let (waiting, granted, ended) = counts;
    assert_eq!(fleet.pool_sums(), PoolSums { contributed, used, free, agents, waiting, granted, ended });
    check_queues(fleet, now);
    check_tasks(fleet, now);
}

/// Checks that exactly the attempts at tasks that need resources have them, each at its agent.
fn check_tasks(fleet: &Fleet, now: &BTreeMap<u64, Allocation>) {
    let mut of_attempts = now.iter().filter(|(_, of)| of.attempt.is_some() && of.token().is_some()).count();
    for task in fleet.changed_tasks_since(0) {
        let (Some(claim), Some(current)) = (&task.resources, task.current()) else { continue };
        let found = claim.allocation.and_then(|seq| now.get(&seq)).expect("it has what it needs");
        assert_eq!(found.holder, Holder::Task(fleet.known_id(task)));
        let part = found.parts.first().expect("it has one part");
        assert_eq!((part.amounts, part.agent), (claim.asked.amounts, Some(current.agent)));
        of_attempts -= 1;
    }
    assert_eq!(of_attempts, 0, "an attempt that has ended holds resources");
}

fn check_queues(fleet: &Fleet, now: &BTreeMap<u64, Allocation>) {
    for queue in fleet.resource_queues() {
        let granted = now.values().filter(|allocation| allocation.queue == queue.name && allocation.token().is_some());
        let used = granted.fold(Amounts::NONE, |sum, allocation| sum.plus(allocation.asked()));
        assert_eq!(queue.used, used, "{}", queue.name);
        assert!(Resource::ALL.iter().all(|resource| used.get(*resource) <= fleet.pool_sums().used.get(*resource)));
    }
}
