//! Properties of the decisions about coordinators: never below a majority, one at a time, the leader last, and always
//! to completion unless something prevents it.

use std::collections::BTreeSet;

use proptest::prelude::*;
use robeing_operator::{
    names,
    quorum::{
        membership::{CAUGHT_UP_WITHIN, CoordinatorPod, Member, Membership, Pods},
        rollout::{self, Step},
        scale,
    },
};

const CLUSTER: &str = "fleet";
const APPLIED: u64 = 5_000;

fn name(ordinal: u32) -> String {
    names::coordinator(CLUSTER, ordinal)
}

fn member(ordinal: u32, caught_up: bool) -> Member {
    Member {
        name: name(ordinal),
        voter: true,
        reachable: caught_up,
        matched: if caught_up { APPLIED } else { 0 },
        score: f64::from(ordinal) / 10.0,
    }
}

fn healthy(ordinals: impl IntoIterator<Item = u32>, leader: u32) -> Membership {
    let members = ordinals.into_iter().map(|ordinal| member(ordinal, true)).collect();
    Membership { members, leader: name(leader), applied: APPLIED }
}

fn pod(ordinal: u32, updated: bool) -> CoordinatorPod {
    CoordinatorPod {
        name: name(ordinal),
        uid: format!("uid-{ordinal}-{updated}"),
        updated,
        ready: true,
        has_run: true,
        ..CoordinatorPod::default()
    }
}

fn view<'a>(pods: &'a Pods, membership: Option<&'a Membership>, durable: bool) -> rollout::View<'a> {
    let replicas = pods.len() as u32;
    rollout::View { replicas, pods, membership, durable, members_settled: true, evicting: None }
}

#[test]
fn followers_go_first_and_the_leader_last_after_it_handed_over() {
    let mut pods: Pods = (0..5).map(|ordinal| (ordinal, pod(ordinal, false))).collect();
    let mut membership = healthy(0..5, 4);
    let mut order = Vec::new();
    loop {
        match rollout::next(&view(&pods, Some(&membership), true)) {
            Step::Replace { pod: replaced, .. } => {
                let ordinal = names::ordinal(CLUSTER, &replaced).expect("a coordinator");
                assert_ne!(replaced, membership.leader, "the leader is not replaced while it leads");
                order.push(ordinal);
                pods.insert(ordinal, pod(ordinal, true));
            }
            Step::Transfer { to } => {
                assert_eq!(order.len(), 4, "all followers are replaced before the leader hands over");
                membership.leader = to;
            }
            Step::Done => break,
            other => panic!("nothing prevents the rollout, but: {other:?}"),
        }
    }
    assert_eq!(order, [3, 2, 1, 0, 4]);
}

#[test]
fn a_new_template_that_does_not_run_stops_at_its_first_pod_and_can_be_taken_back() {
    let mut pods: Pods = (0..3).map(|ordinal| (ordinal, pod(ordinal, false))).collect();
    let broken = CoordinatorPod {
        ready: false,
        has_run: false,
        failure: Some("container \"coordinator\": image \"x\": not found".into()),
        ..pod(2, true)
    };
    pods.insert(2, broken.clone());
    let mut membership = healthy(0..3, 0);
    membership.members[2] = member(2, false);
    match rollout::next(&view(&pods, Some(&membership), true)) {
        Step::Paused { reason: "UpdatedPodFails", message } => assert!(message.contains("not found"), "{message}"),
        other => panic!("expected a pause, got {other:?}"),
    }
    // Now the old template is the newest one again, and the broken pod is outdated.
    let mut back: Pods = (0..2).map(|ordinal| (ordinal, pod(ordinal, true))).collect();
    back.insert(2, CoordinatorPod { updated: false, ..broken });
    for durable in [true, false] {
        let step = rollout::next(&view(&back, Some(&membership), durable));
        assert_eq!(step, Step::Replace { pod: name(2), uid: "uid-2-true".into() }, "durable: {durable}");
    }
}

#[test]
fn a_pod_that_was_told_to_go_is_waited_for_while_the_cache_still_shows_it() {
    let pods: Pods = (0..3).map(|ordinal| (ordinal, pod(ordinal, false))).collect();
    let membership = healthy(0..3, 0);
    let told = pods[&2].uid.clone();
    let view = rollout::View { evicting: Some(&told), ..view(&pods, Some(&membership), true) };
    assert!(matches!(rollout::next(&view), Step::Wait(_)));
}

#[test]
fn the_only_coordinator_is_replaced_if_its_data_survives_and_never_otherwise() {
    let pods: Pods = [(0, pod(0, false))].into();
    let membership = healthy(0..1, 0);
    assert!(matches!(rollout::next(&view(&pods, Some(&membership), true)), Step::Replace { .. }));
    let step = rollout::next(&view(&pods, Some(&membership), false));
    assert!(matches!(step, Step::Paused { reason: "WouldLoseTasks", .. }), "{step:?}");
}

#[test]
fn a_voter_counts_as_caught_up_just_within_the_limit() {
    let mut membership = healthy(0..3, 0);
    for (behind, caught_up) in [(CAUGHT_UP_WITHIN, true), (CAUGHT_UP_WITHIN + 1, false)] {
        membership.members[1].matched = APPLIED - behind;
        assert_eq!(membership.healthy(&name(1)), caught_up, "{behind} entries behind");
    }
}

fn any_pod(ordinal: u32) -> impl Strategy<Value = CoordinatorPod> {
    let terminating = prop::bool::weighted(0.1);
    (any::<bool>(), any::<bool>(), terminating, any::<bool>(), any::<bool>()).prop_map(
        move |(updated, ready, terminating, has_run, fails)| CoordinatorPod {
            ready,
            terminating,
            has_run,
            failure: (fails && !ready).then(|| "it ended 3 times".into()),
            ..pod(ordinal, updated)
        },
    )
}

/// Generates a member that may lag behind, or have no vote.
fn any_member(ordinal: u32) -> impl Strategy<Value = Member> {
    let (caught_up, voter) = (prop::bool::weighted(0.8), prop::bool::weighted(0.9));
    (caught_up, voter).prop_map(move |(caught_up, voter)| Member { voter, ..member(ordinal, caught_up) })
}

/// A possible observation of a group of coordinators.
#[derive(Clone, Debug)]
struct Group {
    size: u32,
    pods: Pods,
    membership: Option<Membership>,
    durable: bool,
    settled: bool,
}

fn any_group() -> impl Strategy<Value = Group> {
    prop::sample::select(vec![1_u32, 2, 3, 4, 5, 7]).prop_flat_map(|size| {
        let pods = (0..size).map(|ordinal| prop::option::weighted(0.9, any_pod(ordinal))).collect::<Vec<_>>();
        let members = (0..size).map(any_member).collect::<Vec<_>>();
        let flags = (prop::bool::weighted(0.9), any::<bool>(), prop::bool::weighted(0.9));
        (pods, members, 0..size, flags).prop_map(move |(pods, mut members, leader, (known, durable, settled))| {
            members[leader as usize].voter = true;
            let there = pods.into_iter().enumerate();
            let pods = there.filter_map(|(ordinal, pod)| Some((ordinal as u32, pod?))).collect();
            let membership = Membership { members, leader: name(leader), applied: APPLIED };
            Group { size, pods, membership: known.then_some(membership), durable, settled }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// For any observation, a replaced pod is outdated and the only one, and no existing majority is lost.
    #[test]
    fn no_step_of_a_rollout_loses_a_majority(group in any_group()) {
        let Group { size, pods, membership, durable, settled } = group;
        let view = rollout::View {
            replicas: size,
            pods: &pods,
            membership: membership.as_ref(),
            durable,
            members_settled: settled,
            evicting: None,
        };
        match rollout::next(&view) {
            Step::Replace { pod, uid } => {
                let gone = pods.values().find(|known| known.name == pod).expect("a pod that exists");
                prop_assert!(!gone.updated && gone.uid == uid);
                prop_assert!(pods.values().all(|pod| !pod.terminating), "one at a time");
                match &membership {
                    Some(membership) if membership.votes(&pod) => {
                        let others = membership.voters().filter(|m| m.name != pod && membership.caught_up(m)).count();
                        let had = membership.healthy_count() >= membership.majority();
                        let has = others >= membership.majority();
                        prop_assert!(!had || has || (membership.voter_count() == 1 && durable), "a majority is lost");
                        prop_assert!(pod != membership.leader || membership.voter_count() == 1, "the leader handed over first");
                        prop_assert!(durable || has || !gone.has_run, "data that a majority needs is lost");
                    }
                    Some(_) => {}
                    None => prop_assert!(gone.failure.is_some() && (durable || !gone.has_run), "who has a vote is unknown"),
                }
            }
            Step::Transfer { to } => {
                let membership = membership.expect("known voters");
                prop_assert!(membership.healthy(&to) && to != membership.leader);
                let updated = pods.values().find(|pod| pod.name == to).is_some_and(|pod| pod.updated && pod.ready);
                prop_assert!(updated, "the new leader need not be replaced");
            }
            Step::Done => {
                prop_assert!(pods.values().all(|pod| pod.updated && pod.ready));
                prop_assert_eq!(pods.len(), size as usize);
            }
            Step::Paused { .. } | Step::Wait(_) => prop_assert!(pods.values().any(|pod| !pod.updated)),
            Step::Settling(_) => prop_assert!(pods.values().all(|pod| pod.updated)),
        }
    }
}

/// A simulated group of coordinators that executes plans, some of them late.
struct World {
    replicas: u32,
    members: BTreeSet<u32>,
    pods: BTreeSet<u32>,
    running: BTreeSet<u32>,
    claims: BTreeSet<u32>,
    leader: u32,
    member_high_water: u32,
}

impl World {
    fn of(size: u32) -> Self {
        let all: BTreeSet<u32> = (0..size).collect();
        Self {
            replicas: size,
            members: all.clone(),
            pods: all.clone(),
            running: all.clone(),
            claims: all,
            leader: size - 1,
            member_high_water: 0,
        }
    }

    fn plan(&self, wanted: u32, reachable: bool) -> scale::Plan {
        let membership = healthy(self.members.iter().copied(), self.leader);
        scale::plan(&scale::View {
            cluster: CLUSTER,
            wanted,
            current: Some(self.replicas),
            membership: reachable.then_some(&membership),
            pods: &self.pods,
            running: &self.running,
            claims: &self.claims,
            member_high_water: self.member_high_water,
        })
    }

    fn does(&mut self, plan: &scale::Plan, pods_keep_up: bool) {
        self.replicas = plan.replicas;
        self.member_high_water = plan.member_high_water;
        match plan.step {
            scale::Step::Add(ordinal) => {
                self.members.insert(ordinal);
            }
            scale::Step::Remove(ordinal) => {
                self.members.remove(&ordinal);
                if self.leader == ordinal {
                    self.leader = *self.members.first().expect("a member is left");
                }
            }
            scale::Step::DeleteClaim(ordinal) => {
                self.claims.remove(&ordinal);
            }
            scale::Step::Settled | scale::Step::Wait(_) => {}
        }
        if pods_keep_up {
            self.pods = (0..self.replicas).collect();
            self.running = self.pods.clone();
            self.claims.extend(&self.pods);
        }
    }
}

proptest! {
    /// 1, 3, 5 and 7 in any order: every step is safe, and the end matches the spec. For a while the leader may not
    /// respond, and pods and disks may lag behind.
    #[test]
    fn any_size_is_reached_from_any_other(
        sizes in prop::collection::vec(prop::sample::select(vec![1_u32, 3, 5, 7]), 2..5),
        late in prop::collection::vec(any::<(bool, bool)>(), 0..100),
    ) {
        let mut world = World::of(sizes[0]);
        let mut late = late.into_iter();
        for wanted in &sizes[1..] {
            for round in 0.. {
                prop_assert!(round < 400, "{wanted} coordinators are never reached");
                let (reachable, keep_up) = late.next().unwrap_or((true, true));
                let plan = world.plan(*wanted, reachable);
                let highest = world.members.last().copied().expect("a member");
                prop_assert!(plan.replicas > highest || plan.replicas >= world.replicas, "a pod goes only after its vote");
                prop_assert!(plan.replicas <= world.replicas.max(*wanted));
                match plan.step {
                    scale::Step::Remove(ordinal) => {
                        prop_assert!(reachable && ordinal >= *wanted && ordinal == highest, "the highest goes first");
                    }
                    scale::Step::Add(ordinal) => {
                        prop_assert!(reachable && ordinal < *wanted && world.running.contains(&ordinal));
                    }
                    scale::Step::DeleteClaim(ordinal) => {
                        prop_assert!(!world.members.contains(&ordinal) && !world.pods.contains(&ordinal), "a disk in use");
                    }
                    scale::Step::Settled if reachable => break,
                    scale::Step::Settled | scale::Step::Wait(_) => {}
                }
                world.does(&plan, keep_up);
            }
            let all: BTreeSet<u32> = (0..*wanted).collect();
            prop_assert_eq!(&world.members, &all);
            prop_assert_eq!(world.replicas, *wanted);
            // The last pods may still have existed.
            for _ in 0..=all.len().max(7) {
                let plan = world.plan(*wanted, true);
                world.does(&plan, true);
            }
            prop_assert_eq!(&world.claims, &all, "no disk of a removed one stays");
        }
    }
}

#[test]
fn a_coordinator_stays_while_the_others_would_be_no_majority_without_it() {
    let mut membership = healthy(0..5, 0);
    for behind in [1, 2] {
        membership.members[behind] = member(behind as u32, false);
    }
    let all: BTreeSet<u32> = (0..5).collect();
    let plan = |membership: &Membership| {
        scale::plan(&scale::View {
            cluster: CLUSTER,
            wanted: 3,
            current: Some(5),
            membership: Some(membership),
            pods: &all,
            running: &all,
            claims: &all,
            member_high_water: 5,
        })
    };
    let stays = plan(&membership);
    assert_eq!(stays.replicas, 5, "the pods stay, too");
    assert!(matches!(stays.step, scale::Step::Wait(_)), "{stays:?}");
    membership.members[1] = member(1, true);
    assert_eq!(plan(&membership).step, scale::Step::Remove(4));
}

#[test]
fn new_coordinators_do_not_start_on_the_disks_of_removed_ones() {
    let mut world = World::of(3);
    world.claims = (0..5).collect();
    world.member_high_water = 5;
    let plan = world.plan(5, true);
    assert_eq!(plan, scale::Plan { replicas: 3, step: scale::Step::DeleteClaim(4), member_high_water: 5 });
    let blind = world.plan(5, false);
    assert_eq!(
        (blind.replicas, blind.member_high_water),
        (3, 5),
        "without a leader it is not known whose disks they are"
    );
}

#[test]
fn disks_that_an_earlier_fleet_left_are_not_deleted() {
    let mut world = World::of(1);
    world.claims = (0..3).collect();
    let plan = world.plan(1, true);
    assert_eq!(plan, scale::Plan { replicas: 1, step: scale::Step::Settled, member_high_water: 1 });
    // They may contain the majority that a fleet with too few coordinators lacks.
    assert_eq!(world.plan(3, false).replicas, 3);
}

#[test]
fn a_stateful_set_that_is_made_anew_has_room_for_what_an_earlier_one_left() {
    let begin = |pods: &[u32], claims: &[u32]| {
        scale::plan(&scale::View {
            cluster: CLUSTER,
            wanted: 1,
            current: None,
            membership: None,
            pods: &pods.iter().copied().collect(),
            running: &BTreeSet::new(),
            claims: &claims.iter().copied().collect(),
            member_high_water: 0,
        })
    };
    assert_eq!(begin(&[], &[]), scale::Plan::new(1, scale::Step::Settled));
    assert_eq!(begin(&[0, 1, 6], &[]).replicas, 7);
    assert_eq!(begin(&[0], &[0, 1, 2]).replicas, 3);
    assert_eq!(begin(&[7, 9], &[8]).replicas, 1, "there can't be that many");
}
