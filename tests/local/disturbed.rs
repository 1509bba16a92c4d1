//! Processes whose threads pause wherever they take a lock, so that applying is slow and readers, writers and timers
//! meet in orders that a fast machine rarely shows: nothing is lost, nothing is accepted twice, and no live process
//! counts as dead.

use std::collections::BTreeMap;

use robeing_proto::v1::AgentState;
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    load::Load,
    wait::{check, eventually},
};

const TASKS: usize = 2_000;
const IN_FLIGHT: usize = 128;
const AGENTS: u32 = 6;

/// Returns the session of each agent except `victim`.
async fn sessions_but_of(victim: &str, fleet: &Fleet) -> BTreeMap<String, u64> {
    let agents = fleet.agents().await.into_iter();
    agents.filter(|agent| agent.name != victim).map(|agent| (agent.name, agent.session)).collect()
}

/// Runs a fleet under load, and kills its leader once and one of its agents once. `workers` is the number of threads of
/// a coordinator.
async fn endures(seed: &str, workers: &str) {
    let pool = PoolSpec::new("work", AGENTS).slots(16);
    // Longer than a busy machine may delay any process: a lost session here would be the fault of a lock.
    let spec = FleetSpec::new(3).pool(pool).session_timeout("10s");
    let spec = spec.environment("ROBEING_TEST_DISTURB", seed).environment("ROBEING_TEST_WORKERS", workers);
    let mut fleet = Fleet::start(spec).await;
    let victim = fleet.agent_names().remove(0);
    let before = sessions_but_of(&victim, &fleet).await;
    let mut load = Load::start(&fleet.client(), TASKS, IN_FLIGHT, "");
    load.ended(TASKS / 8).await;
    fleet.kill(&victim);
    fleet.agent_is(&victim, AgentState::Lost).await;
    let leader = fleet.leader().await;
    fleet.kill(&leader);
    fleet.leader_other_than(&leader).await;
    fleet.start_one(&leader);
    fleet.start_one(&victim);
    let history = load.complete().await;
    assert_eq!(history.accepted_count(), TASKS);
    history.assert_sound(&fleet.executions_file());
    eventually("all agents are live", async || {
        let agents = fleet.agents().await;
        check(agents.iter().all(|agent| agent.state() == AgentState::Live), (), agents)
    })
    .await;
    assert_eq!(sessions_but_of(&victim, &fleet).await, before, "only {victim} had to begin another session");
    fleet.coordinators_agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_threads_that_pause_at_locks_lose_nothing() {
    endures("11", "16").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_thread_that_pauses_at_locks_loses_nothing() {
    endures("12", "1").await;
}
