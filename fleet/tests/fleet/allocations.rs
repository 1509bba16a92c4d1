//! The resource pool: contributions, requests, leases, queues and their fairness.

use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, AllocationEnd, AllocationId, AllocationState, Amounts, Command, Effect, Feature,
    Fleet, FleetConfig, Holder, PoolSums, QueueShape, Quota, Refusal, Reply, RequestResources, Resource,
    ResourceCommand, Shortage, TeamId,
    limits::{ALLOCATION_TTL_MS, MAX_AMOUNT},
};

use crate::fixture::{OpenSession, Trial, amounts, patient, request, success, task, team, worker};

pub const WAITS: Reply = Reply::Allocated { existing: false, token: None };

pub fn granted(token: u64) -> Reply {
    Reply::Allocated { existing: false, token: Some(token) }
}

fn changed(id: u128) -> Effect {
    Effect::AllocationChanged { id: AllocationId(id) }
}

/// Returns a fleet with agents that contribute this, and their sessions.
pub fn pool<const N: usize>(contributed: [Amounts; N]) -> (Trial, [OpenSession; N]) {
    let mut trial = Trial::newest();
    let mut n = 0;
    let stays = contributed.map(|amounts| {
        n += 1;
        let stay = trial.join(worker(&format!("agent-{n}")));
        assert_eq!(trial.contribute(stay, amounts), Reply::Done);
        stay
    });
    (trial, stays)
}

fn agents_of(trial: &Trial, id: u128) -> Vec<Option<AgentId>> {
    let allocation = trial.fleet.allocation(AllocationId(id)).expect("it is kept");
    allocation.parts.iter().map(|part| part.agent).collect()
}

/// Returns how an allocation ended; `None` if it waits or is granted.
pub fn end(trial: &Trial, id: u128) -> Option<AllocationEnd> {
    match trial.fleet.allocation(AllocationId(id)).expect("it is kept").state {
        AllocationState::Ended { end, .. } => Some(end),
        AllocationState::Waiting | AllocationState::Granted { .. } => None,
    }
}

pub fn token(trial: &Trial, id: u128) -> Option<u64> {
    trial.fleet.allocation(AllocationId(id)).expect("it is kept").token()
}

fn used(trial: &Trial) -> Amounts {
    trial.fleet.pool_sums().used
}

pub fn set(trial: &mut Trial, queues: &[(&str, u32, Quota)]) {
    let shapes = queues.iter().map(|(name, weight, quota)| {
        let (name, weight, quota) = ((*name).to_owned(), *weight, *quota);
        QueueShape { name, weight, quota }
    });
    assert_eq!(trial.apply(Command::Resource(ResourceCommand::SetQueues(shapes.collect()))), Reply::Done);
}

pub fn from(queue: &str, request: RequestResources) -> RequestResources {
    RequestResources { queue: queue.to_owned(), ..request }
}

#[test]
fn what_is_granted_is_taken_until_it_is_released() {
    let (mut trial, [stay]) = pool([amounts(4_000, 8)]);
    assert_eq!(trial.request(request(1, amounts(3_000, 2))), granted(1));
    assert_eq!(trial.effects, [changed(1)]);
    assert_eq!(agents_of(&trial, 1), [Some(stay.agent)]);
    let found = trial.fleet.contribution(stay.agent).expect("it contributes");
    assert_eq!((found.contributed, found.used, found.is_live), (amounts(4_000, 8), amounts(3_000, 2), true));
    assert_eq!(trial.fleet.held_resources(&Holder::Client("c".to_owned())), amounts(3_000, 2));
    let again = Reply::Allocated { existing: true, token: Some(1) };
    assert_eq!(trial.request(request(1, amounts(3_000, 2))), again);
    let conflict = Reply::Refused(Refusal::AllocationConflict { allocation: AllocationId(1) });
    assert_eq!(trial.request(request(1, amounts(3_000, 3))), conflict);
    let stale = Reply::Refused(Refusal::StaleToken { allocation: AllocationId(1) });
    assert_eq!(trial.free(1, Some(2)), stale);
    assert_eq!(trial.free(1, Some(1)), Reply::Done);
    assert_eq!((used(&trial), end(&trial, 1)), (Amounts::NONE, Some(AllocationEnd::Released)));
    assert_eq!(trial.free(1, Some(1)), Reply::Done, "once more does nothing");
    let unknown = Reply::Refused(Refusal::UnknownAllocation { allocation: AllocationId(2) });
    assert_eq!(trial.free(2, None), unknown);
}

#[test]
fn what_is_not_free_is_refused_and_the_refusal_says_what_is_short() {
    let (mut trial, _) = pool([amounts(4_000, 8), amounts(2_000, 8)]);
    let before = trial.fleet.encode();
    let short = |of: &[Shortage]| {
        Reply::Refused(Refusal::InsufficientResources { short: of.to_vec(), others_wait: false, contributed: false })
    };
    let of = |resource, asked, free, of_one| Shortage { resource, asked, free, of_one };
    let cpu = of(Resource::Cpu, 7_000, 6_000, false);
    assert_eq!(trial.request(request(1, amounts(7_000, 1))), short(&[cpu]));
    let refusal = trial.fleet.refusal_of_request(&request(1, amounts(5_000, 17))).expect("it is refused");
    assert_eq!(
        refusal.to_string(),
        "Insufficient resources: cpu: 5000 millis asked of one agent, at most 4000 free at one; memory: 17 bytes asked, \
         16 free; ask for less, ask to wait, or let agents contribute more"
    );
    assert_eq!(trial.request(request(1, amounts(5_000, 1))), short(&[of(Resource::Cpu, 5_000, 4_000, true)]));
    let both = RequestResources { parts: vec![amounts(2_500, 1); 2], ..request(1, Amounts::NONE) };
    assert_eq!(trial.request(both), short(&[]), "two agents have enough, but not in these parts");
    assert_eq!((trial.fleet.encode(), trial.effects.len()), (before, 0));
}

#[test]
fn a_fleet_that_has_no_pool_yet_does_not_say_that_it_is_short_of_something() {
    let fleet = Fleet::new(FleetConfig::default());
    assert_eq!(fleet.refusal_of_request(&request(1, amounts(1, 0))), None, "the command is refused for its version");
}

#[test]
fn a_lease_expires_unless_it_is_renewed_with_its_token() {
    let (mut trial, _) = pool([amounts(1, 0)]);
    trial.request(request(1, amounts(1, 0)));
    trial.after(59_999);
    let stale = Reply::Refused(Refusal::StaleToken { allocation: AllocationId(1) });
    assert_eq!(trial.renew(1, 2), stale);
    assert_eq!(trial.renew(1, 1), Reply::LeaseRenewed { ttl: 60_000 });
    trial.after(59_999);
    assert_eq!(token(&trial, 1), Some(1));
    trial.after(1);
    assert_eq!(trial.effects, [changed(1)]);
    assert_eq!((end(&trial, 1), used(&trial)), (Some(AllocationEnd::Expired), Amounts::NONE));
    assert_eq!(trial.renew(1, 1), stale);
    assert_eq!(trial.request(request(2, amounts(1, 0))), granted(2), "a later token is higher");
    trial.after(ALLOCATION_TTL_MS);
    assert!(trial.fleet.allocation(AllocationId(1)).is_none(), "it is forgotten");
}

#[test]
fn requests_wait_in_order_and_are_granted_when_something_is_released() {
    let (mut trial, _) = pool([amounts(2, 0)]);
    trial.request(request(1, amounts(2, 0)));
    assert_eq!(trial.request(patient(2, amounts(2, 0))), WAITS);
    assert_eq!(trial.request(patient(3, amounts(1, 0))), WAITS);
    trial.free(1, None);
    trial.after(0);
    assert_eq!((token(&trial, 2), token(&trial, 3)), (Some(2), None));
    trial.free(2, None);
    trial.after(0);
    assert_eq!(token(&trial, 3), Some(3));
    // One is free, and nobody waits.
    assert_eq!(trial.request(request(4, amounts(1, 0))), granted(4));
}

#[test]
fn nothing_overtakes_a_large_request_that_waits() {
    let (mut trial, _) = pool([amounts(4, 0)]);
    set(&mut trial, &[("zeta", 1, Quota::default())]);
    trial.request(from("zeta", request(1, amounts(2, 0))));
    assert_eq!(trial.request(patient(2, amounts(4, 0))), WAITS);
    let waits = Refusal::InsufficientResources { short: Vec::new(), others_wait: true, contributed: false };
    assert_eq!(trial.request(request(3, amounts(1, 0))), Reply::Refused(waits), "from its own queue");
    let other = from("zeta", request(3, amounts(1, 0)));
    let refused = trial.request(other);
    assert!(
        matches!(refused, Reply::Refused(Refusal::InsufficientResources { .. })),
        "from one with a larger share: {refused:?}"
    );
    trial.after(60_000);
    assert_eq!(end(&trial, 2), Some(AllocationEnd::NotGranted));
    assert_eq!(trial.request(request(3, amounts(1, 0))), granted(2));
}

#[test]
fn a_request_that_the_agents_can_not_give_keeps_no_others_waiting() {
    let (mut trial, _) = pool([amounts(4, 0)]);
    assert_eq!(trial.request(patient(1, amounts(5, 0))), WAITS);
    assert_eq!(trial.request(request(2, amounts(1, 0))), granted(1));
    let more = trial.join(worker("large"));
    trial.contribute(more, amounts(5, 0));
    trial.after(0);
    assert_eq!(token(&trial, 1), Some(2), "an agent that can give it has joined");
}

#[test]
fn a_gang_is_granted_as_a_whole_and_at_different_agents_if_it_must() {
    let (mut trial, stays) = pool([amounts(2, 0), amounts(2, 0), amounts(2, 0)]);
    let gang = |id, parts, spread| RequestResources { parts, spread, ..request(id, Amounts::NONE) };
    assert_eq!(trial.request(gang(1, vec![amounts(1, 0); 2], false)), granted(1));
    assert_eq!(agents_of(&trial, 1), [Some(stays[0].agent); 2], "packed");
    assert_eq!(trial.request(gang(2, vec![amounts(1, 0); 2], true)), granted(2));
    assert_eq!(agents_of(&trial, 2), [Some(stays[1].agent), Some(stays[2].agent)]);
    assert!(matches!(trial.request(gang(3, vec![amounts(1, 0); 3], true)), Reply::Refused(_)), "two have room");
    assert_eq!(used(&trial), amounts(4, 0));
    trial.lose(stays[1]);
    assert_eq!(end(&trial, 2), Some(AllocationEnd::AgentLost), "all or nothing");
    assert_eq!(used(&trial), amounts(2, 0));
}

#[test]
fn a_holder_that_is_gone_holds_nothing() {
    let (mut trial, [stay, other]) = pool([amounts(4, 0), amounts(4, 0)]);
    let id = trial.submit(task(1));
    let runs = trial.holder(id).expect("it runs");
    let of = |n, holder| RequestResources { holder, ..request(n, amounts(1, 0)) };
    assert_eq!(trial.request(of(1, Holder::Task(id))), granted(1));
    assert_eq!(trial.request(of(2, Holder::Agent("agent-2".to_owned()))), granted(2));
    trial.form(team(9, 1));
    assert_eq!(trial.request(of(3, Holder::Team(TeamId(9)))), granted(3));
    assert_eq!(trial.request(RequestResources { wait: 1, ..of(4, Holder::Task(id)) }), granted(4));
    let stay_of = if runs == stay.agent { stay } else { other };
    trial.complete(stay_of, id, 1, success());
    assert_eq!((end(&trial, 1), end(&trial, 4)), (Some(AllocationEnd::HolderGone), Some(AllocationEnd::HolderGone)));
    trial.leave(other);
    assert_eq!(end(&trial, 2), Some(AllocationEnd::HolderGone));
    trial.lose(stay);
    assert_eq!(trial.fleet.pool_sums(), PoolSums { ended: 4, ..PoolSums::default() });
    for holder in [Holder::Task(id), Holder::Agent("agent-2".to_owned())] {
        let gone = Refusal::HolderGone { holder: holder.to_string() };
        assert_eq!(trial.request(of(5, holder)), Reply::Refused(gone));
    }
}

#[test]
fn a_team_holds_resources_until_it_is_disbanded() {
    let (mut trial, _) = pool([amounts(4, 0)]);
    let holder = Holder::Team(TeamId(9));
    let of = |n, part| RequestResources { holder: holder.clone(), ..patient(n, part) };
    let gone = Reply::Refused(Refusal::HolderGone { holder: holder.to_string() });
    assert_eq!(trial.request(of(1, amounts(1, 0))), gone, "it is not formed yet");
    trial.form(team(9, 1));
    assert_eq!(trial.request(of(1, amounts(1, 0))), granted(1));
    assert_eq!(trial.request(of(2, amounts(4, 0))), WAITS);
    trial.disband(9);
    assert_eq!([1, 2].map(|n| end(&trial, n)), [Some(AllocationEnd::HolderGone); 2]);
    assert_eq!(used(&trial), Amounts::NONE);
    assert_eq!(trial.request(of(3, amounts(1, 0))), gone);
}

#[test]
fn an_agent_contributes_as_long_as_its_session_lasts_and_no_less_than_is_granted() {
    let (mut trial, [stay]) = pool([amounts(4, 0)]);
    trial.request(request(1, amounts(3, 0)));
    assert!(trial.fleet.lacks_contribution(stay.agent, stay.session, amounts(2, 9)));
    assert_eq!(trial.contribute(stay, amounts(2, 9)), Reply::Done);
    assert_eq!(trial.fleet.contribution(stay.agent).map(|found| found.contributed), Some(amounts(3, 9)));
    assert!(!trial.fleet.lacks_contribution(stay.agent, stay.session, amounts(2, 9)));
    assert!(matches!(trial.request(request(2, amounts(1, 0))), Reply::Refused(_)), "no more of it is granted");
    let again = trial.join(AgentJoin { incarnation: 2, ..worker("agent-1") });
    assert_eq!(end(&trial, 1), Some(AllocationEnd::AgentLost), "another process has its name");
    assert_eq!(trial.fleet.contribution(again.agent), None);
    assert_eq!(trial.contribute(stay, amounts(1, 0)), Reply::Refused(Refusal::StaleSession));
    trial.contribute(again, amounts(1, 0));
    trial.contribute(again, Amounts::NONE);
    assert_eq!(trial.fleet.contribution(again.agent), None);
}

/// Returns the join of an agent that contributes this from then on, of its first process or a later one.
fn contributing(incarnation: u64, amounts: Amounts) -> AgentJoin {
    AgentJoin { incarnation, contributed: Some(Box::new(amounts)), ..worker("agent-1") }
}

#[test]
fn a_join_says_what_the_agent_contributes_as_a_later_command_does() {
    let mut trial = Trial::newest();
    let contributed = |trial: &Trial, stay: OpenSession| trial.fleet.contribution(stay.agent).map(|of| of.contributed);
    let first = trial.join(contributing(1, amounts(4, 8)));
    assert_eq!(contributed(&trial, first), Some(amounts(4, 8)));
    assert!(!trial.fleet.lacks_contribution(first.agent, first.session, amounts(4, 8)));
    assert_eq!(trial.request(request(1, amounts(3, 0))), granted(1));
    let moved = AgentJoin { address: "127.0.0.1:2".to_owned(), ..worker("agent-1") };
    assert_eq!(trial.join(moved), first, "the same session");
    assert_eq!(contributed(&trial, first), Some(amounts(4, 8)), "it does not say");
    assert_eq!(trial.join(contributing(1, amounts(2, 9))), first);
    assert_eq!(contributed(&trial, first), Some(amounts(3, 9)), "no less than is granted");
    trial.free(1, None);
    assert_eq!(trial.join(contributing(1, Amounts::NONE)), first);
    assert_eq!(contributed(&trial, first), None);
    let next = trial.join(contributing(2, amounts(1, 0)));
    assert_eq!(contributed(&trial, next), Some(amounts(1, 0)), "another process");
    trial.lose(next);
    assert_eq!(trial.fleet.pool_sums().contributed, Amounts::NONE);
    let back = trial.join(contributing(2, amounts(5, 5)));
    assert_eq!((contributed(&trial, back), trial.fleet.pool_sums().agents), (Some(amounts(5, 5)), 1));
}

#[test]
fn a_join_that_contributes_is_refused_before_its_version_and_above_the_limit() {
    let joined = |amounts| Command::Agent(AgentCommand::Joined(contributing(1, amounts)));
    let refused = Trial::new().apply(joined(amounts(1, 0)));
    let since = Feature::Resources.since();
    assert!(matches!(refused, Reply::Refused(Refusal::NotInForce { since: of, .. }) if of == since), "{refused:?}");
    let mut trial = Trial::newest();
    let Reply::Refused(Refusal::Invalid { field, .. }) = trial.apply(joined(amounts(0, MAX_AMOUNT + 1))) else {
        panic!("it is accepted");
    };
    assert_eq!(field, "contributed.memory");
    assert!(matches!(trial.apply(joined(amounts(0, MAX_AMOUNT))), Reply::Joined { .. }));
}

#[test]
fn only_live_agents_give_more() {
    let (mut trial, [stay]) = pool([amounts(4, 0)]);
    trial.request(request(1, amounts(1, 0)));
    trial.unhealthy(stay, "503");
    assert_eq!(trial.request(patient(2, amounts(1, 0))), WAITS);
    assert_eq!(token(&trial, 1), Some(1), "what it gave stays granted");
    trial.healthy(stay, true);
    trial.after(0);
    assert_eq!(token(&trial, 2), Some(2));
    trial.drain(stay);
    assert!(matches!(trial.request(request(3, amounts(1, 0))), Reply::Refused(_)));
}

/// The example of Ghodsi et al.: of 9 CPUs and 18 GB, tasks of A need 1 CPU and 4 GB, tasks of B 3 CPUs and 1 GB.
#[test]
fn queues_are_served_by_dominant_resource_fairness() {
    let (mut trial, [stay]) = pool([amounts(9, 18)]);
    set(&mut trial, &["first", "a", "b"].map(|name| (name, 1, Quota::default())));
    trial.request(from("first", request(100, amounts(9, 18))));
    for n in 0..6 {
        trial.request(from("a", patient(n, amounts(1, 4))));
        trial.request(from("b", patient(10 + n, amounts(3, 1))));
    }
    trial.free(100, None);
    trial.after(0);
    let granted = |trial: &Trial, queue: &str| {
        let queues = trial.fleet.resource_queues();
        queues.iter().find(|found| found.name == queue).map_or(0, |found| found.granted)
    };
    assert_eq!((granted(&trial, "a"), granted(&trial, "b")), (3, 2));
    assert_eq!(trial.fleet.contribution(stay.agent).map(|found| found.used), Some(amounts(9, 14)));
}

#[test]
fn a_queue_of_twice_the_weight_gets_twice_the_share() {
    let (mut trial, _) = pool([amounts(9, 0)]);
    set(&mut trial, &[("first", 1), ("a", 2), ("b", 1)].map(|(name, weight)| (name, weight, Quota::default())));
    trial.request(from("first", request(100, amounts(9, 0))));
    for n in 0..9 {
        trial.request(from("a", patient(n, amounts(1, 0))));
        trial.request(from("b", patient(10 + n, amounts(1, 0))));
    }
    trial.free(100, None);
    trial.after(0);
    let queues = trial.fleet.resource_queues();
    let found: Vec<(&str, u32, u32)> =
        queues.iter().map(|queue| (queue.name.as_str(), queue.granted, queue.waiting)).collect();
    assert_eq!(found, [("a", 6, 3), ("b", 3, 6), ("first", 0, 0)]);
}

#[test]
fn a_quota_holds_whatever_is_free_and_keeps_no_other_queue_waiting() {
    let (mut trial, _) = pool([amounts(9, 9)]);
    let quota = Quota { cpu: Some(2), ..Quota::default() };
    set(&mut trial, &[("a", 1, quota), ("b", 1, Quota::default())]);
    assert_eq!(trial.request(from("a", request(1, amounts(2, 0)))), granted(1));
    let over =
        |asked, used| Refusal::OverQuota { queue: "a".to_owned(), resource: Resource::Cpu, asked, used, quota: 2 };
    assert_eq!(trial.request(from("a", request(2, amounts(1, 0)))), Reply::Refused(over(1, 2)));
    assert_eq!(trial.request(from("a", patient(2, amounts(3, 0)))), Reply::Refused(over(3, 0)), "it never could");
    assert_eq!(trial.request(from("a", patient(2, amounts(1, 0)))), WAITS);
    assert_eq!(trial.request(from("b", request(3, amounts(7, 0)))), granted(2));
    trial.free(1, None);
    trial.after(0);
    assert_eq!(token(&trial, 2), Some(3));
    set(&mut trial, &[("a", 1, Quota::default())]);
    assert_eq!(trial.request(from("a", request(4, amounts(1, 0)))), granted(4), "there is no quota any more");
}

#[test]
fn nobody_gets_another_share_by_inventing_a_queue() {
    let (mut trial, _) = pool([amounts(9, 9)]);
    let refused = |trial: &mut Trial| match trial.request(from("invented", request(1, amounts(1, 0)))) {
        Reply::Refused(Refusal::Invalid { field, problem }) => (field, problem),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&mut trial).0, "queue");
    set(&mut trial, &[("batch", 1, Quota::default()), ("web", 1, Quota::default())]);
    assert!(refused(&mut trial).1.ends_with("a set one: batch, web"));
    assert_eq!(trial.request(from("batch", request(1, amounts(1, 0)))), granted(1));
    set(&mut trial, &[]);
    assert_eq!(token(&trial, 1), Some(1), "what is granted stays so");
    assert!(matches!(trial.request(from("batch", request(2, amounts(1, 0)))), Reply::Refused(_)));
}
