//! Generated steps of histories: what may happen to a fleet.

use bytes::Bytes;
use proptest::prelude::*;
use robeing_fleet::{
    AgentJoin, Amounts, BallotId, Command, Demand, Failure, FailureKind, FleetConfig, OpenBallot, Outcome, PoolShape,
    RetryPolicy, Role, SubmitTask, TaskId, TeamId, Weights, known_version,
};

use crate::{blobs::blob, crews, fair, kinds, leases, letters, timing, trust, verification, votes};

pub const KINDS: [&str; 4] = ["sum", "parse", "scan", "mail"];
pub const ROLES: [Role; 4] = [Role::Worker, Role::Specialist, Role::Messenger, Role::Guardian];

/// How a completion is falsified.
#[derive(Clone, Copy, Debug)]
pub enum Lie {
    None,
    Session,
    Attempt,
    Agent,
    /// It is for an attempt that was assigned earlier.
    Old,
}

/// One step. Numbers are taken modulo the number of candidates.
#[derive(Clone, Debug)]
pub enum Op {
    Submit(SubmitTask),
    Cancel(u16),
    Join(AgentJoin),
    Lose(u16, bool),
    Drain(u16),
    Leave(u16),
    Unhealthy(u16, bool),
    Healthy(u16, bool),
    /// An attempt makes no progress: the current one, or another one.
    Stalled(u16, bool),
    /// A dead letter is tried again, in the epoch that is named.
    RetryDead(u16, Option<u32>),
    DropDead(u16, Option<u32>),
    /// The key of an agent, of its session or an earlier one.
    Describe(u16, bool),
    /// What an agent contributes, in its session or an earlier one.
    Contribute(u16, Amounts, bool),
    Complete(u16, Outcome, Lie),
    Tick,
    Configure(FleetConfig),
    Raise(u32),
    SetPools(Vec<PoolShape>),
    /// A command of a domain that is checked by its twin.
    Other(Command),
}

pub fn name_of(n: u8) -> String {
    format!("agent-{n}")
}

/// What a task takes beyond one slot and one skill. Some name a skill twice, or without the first one, and are refused.
fn demand() -> impl Strategy<Value = Demand> {
    let skills = prop::option::weighted(0.3, prop::sample::select(KINDS.to_vec()));
    (0..4u32, skills).prop_map(|(slots, skill)| Demand {
        slots,
        skills: skill.into_iter().map(ToOwned::to_owned).collect(),
        store: false,
    })
}

prop_compose! {
    fn submission()(
        id in 0..40u128, kind in 0..4usize, size in 0..64usize, priority in 0..12u8,
        deadline_in in prop::option::weighted(0.2, 0..20_000u64),
        delay in prop::option::weighted(0.2, 0..5_000u64),
        attempt_timeout in prop::option::weighted(0.3, 0..3_000u64),
        attempts in 0..4u32, backoff in 0..500u64, stored in prop::bool::weighted(0.15),
        (role, skill, key, ttl, approval, verify, team, resources, timing, demand, (lane, submitter)) in (
            prop::option::weighted(0.2, 0..4usize),
            prop::option::weighted(0.2, 0..4usize),
            prop::option::weighted(0.2, 0..6u8),
            prop::option::weighted(0.5, 0..5_000u64),
            prop::option::weighted(0.15, votes::approval()),
            prop::option::weighted(0.15, verification::asked()),
            prop::option::weighted(0.2, 0..crews::TEAMS),
            prop::option::weighted(0.3, leases::of_task()),
            prop::option::weighted(0.4, timing::asked()),
            prop::option::weighted(0.3, demand()),
            fair::waiting(),
        ),
    ) -> SubmitTask {
        let input = if stored { Bytes::new() } else { Bytes::from(vec![id as u8; size / 32]) };
        SubmitTask {
            priority,
            deadline_in,
            delay,
            attempt_timeout,
            retry: Some(RetryPolicy {
                max_attempts: attempts,
                initial_backoff: backoff,
                max_backoff: 2_000,
                multiplier_percent: 150,
            }),
            required_role: role.map(|r| ROLES[r]),
            required_specialization: skill.map(|s| KINDS[s].to_owned()),
            idempotency_key: key.map(|k| format!("key-{k}")),
            result_ttl: ttl,
            submitter,
            approval: approval.map(|ballot| Box::new(OpenBallot { id: BallotId(id), ..ballot })),
            verify: verify.map(Box::new),
            team: team.map(TeamId),
            resources: resources.map(Box::new),
            timing: timing.map(Box::new),
            lane: lane.map(Box::new),
            demand: demand.map(Box::new),
            input_ref: stored.then(|| Box::new(blob(id as u8, 9))),
            ..SubmitTask::new(TaskId(id), KINDS[kind], input)
        }
    }
}

prop_compose! {
    fn joining()(
        name in 0..9u8, incarnation in 0..3u64, role in 0..6usize, skills in prop::collection::vec(0..4usize, 0..3),
        slots in 0..4u32, pool in prop::option::of((0..2u8, prop::option::of(0..4u32), 0..3u32)), keyed in prop::bool::weighted(0.2),
        contributed in prop::option::weighted(0.3, leases::amounts()), lacks_store in prop::bool::weighted(0.2),
    ) -> AgentJoin {
        AgentJoin {
            name: name_of(name),
            incarnation,
            role: *ROLES.get(role).unwrap_or(&Role::Worker),
            pool: pool.map(|(n, replicas, standby)| PoolShape { name: format!("pool-{n}"), replicas, standby }),
            specializations: skills.into_iter().map(|s| KINDS[s].to_owned()).collect(),
            slots,
            address: "127.0.0.1:1".to_owned(),
        process: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 1))),
            pid: 1,
            version: "1".to_owned(),
            sealing_key: keyed.then_some([incarnation as u8; 32]),
            contributed: contributed.map(Box::new),
            lacks_store,
        }
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let kinds =
        prop::sample::select(vec![FailureKind::Exit, FailureKind::TimedOut, FailureKind::Deadline, FailureKind::Http]);
    let asked = prop_oneof![3 => Just(0), 1 => 1..3_000u64, 1 => Just(u64::MAX)];
    let named = prop::bool::weighted(0.1);
    let failed =
        (kinds, prop::bool::weighted(0.8), asked, named).prop_map(|(kind, retryable, retry_after_ms, named)| {
            Outcome::Failed(Failure {
                kind,
                message: "no".to_owned(),
                code: Some(1),
                stderr_tail: String::new(),
                retryable,
                retry_after_ms,
                name: if named { timing::NAME.to_owned() } else { String::new() },
            })
        });
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..4).prop_map(|v| Outcome::Succeeded(v.into())),
        3 => failed,
        1 => Just(Outcome::Stopped),
        1 => Just(Outcome::HandedBack),
    ]
}

prop_compose! {
    fn configuration()(
        specialization in -1..60i32, load in -20..5i32, performance in -5..30i32,
        max_queued in 0..30u32, max_tasks in 5..40u32, max_bytes in 0..200u64, lost_agent_ttl in 0..20_000u64,
    ) -> FleetConfig {
        FleetConfig {
            weights: Weights { specialization, load, performance },
            result_ttl: 3_000,
            max_queued, max_tasks, max_bytes, lost_agent_ttl,
            ..FleetConfig::default()
        }
    }
}

/// Shapes that sometimes repeat a name, which is refused, or name a pool that no agent joins.
fn pools() -> impl Strategy<Value = Vec<PoolShape>> {
    let shape = (0..3u8, prop::option::weighted(0.8, 0..5u32), 0..3u32);
    let shape = shape.prop_map(|(n, replicas, standby)| PoolShape { name: format!("pool-{n}"), replicas, standby });
    prop::collection::vec(shape, 0..3)
}

fn op() -> impl Strategy<Value = Op> {
    let lie = prop::sample::select(vec![
        Lie::None,
        Lie::None,
        Lie::None,
        Lie::None,
        Lie::None,
        Lie::Session,
        Lie::Attempt,
        Lie::Agent,
        Lie::Old,
        Lie::Old,
    ]);
    prop_oneof![
        30 => submission().prop_map(Op::Submit),
        4 => any::<u16>().prop_map(Op::Cancel),
        12 => joining().prop_map(Op::Join),
        4 => (any::<u16>(), prop::bool::weighted(0.8)).prop_map(|(n, right)| Op::Lose(n, right)),
        2 => any::<u16>().prop_map(Op::Drain),
        2 => any::<u16>().prop_map(Op::Leave),
        4 => (any::<u16>(), prop::bool::weighted(0.8)).prop_map(|(n, right)| Op::Unhealthy(n, right)),
        4 => (any::<u16>(), any::<bool>()).prop_map(|(n, readmit)| Op::Healthy(n, readmit)),
        4 => (any::<u16>(), prop::bool::weighted(0.9)).prop_map(|(n, right)| Op::Stalled(n, right)),
        6 => (any::<u16>(), prop::option::weighted(0.5, 0..3u32)).prop_map(|(n, epoch)| Op::RetryDead(n, epoch)),
        2 => (any::<u16>(), prop::option::weighted(0.5, 0..3u32)).prop_map(|(n, epoch)| Op::DropDead(n, epoch)),
        2 => (any::<u16>(), prop::bool::weighted(0.8)).prop_map(|(n, right)| Op::Describe(n, right)),
        8 => (any::<u16>(), leases::amounts(), prop::bool::weighted(0.9))
            .prop_map(|(n, amounts, right)| Op::Contribute(n, amounts, right)),
        30 => (any::<u16>(), outcome(), lie).prop_map(|(n, o, l)| Op::Complete(n, o, l)),
        8 => Just(Op::Tick),
        1 => configuration().prop_map(Op::Configure),
        1 => (0..6u32).prop_map(Op::Raise),
        3 => pools().prop_map(Op::SetPools),
        20 => trust::command().prop_map(Op::Other),
        20 => letters::command().prop_map(Op::Other),
        20 => votes::command().prop_map(Op::Other),
        12 => crews::command().prop_map(Op::Other),
        20 => leases::command().prop_map(Op::Other),
        10 => fair::command().prop_map(Op::Other),
        2 => kinds::command().prop_map(Op::Other),
    ]
}

/// Steps, each with the milliseconds that pass before it (negative: a new leader's clock is behind).
pub fn steps() -> impl Strategy<Value = Vec<(i64, Op)>> {
    let passing = prop_oneof![
        24 => Just(0i64),
        24 => 1..200i64,
        8 => 200..6_000i64,
        4 => -500..0i64,
        4 => 6_000..40_000i64,
        1 => 300_000..700_000i64,
    ];
    let steps = prop::collection::vec((passing, op()), 1..120);
    // Most fleets are at the newest version from the beginning.
    (prop::bool::weighted(0.8), steps).prop_map(|(raised, mut steps)| {
        if raised {
            steps.insert(0, (0, Op::Raise(known_version())));
        }
        steps
    })
}
