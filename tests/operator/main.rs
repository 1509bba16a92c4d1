//! The operator with a real API server under faults: killed at each step of its work, two operators at once, an API
//! server that is unavailable, manual edits of the objects that it owns, and 200 clusters. All tests share one control
//! plane without nodes, so coordinators never run: the tests cover everything that the operator does with the API
//! server. Also: the charts, and the documented autoscaling.

mod autoscaling;
mod charts;
mod drift;
mod edits;
mod kills;
mod many;
mod outages;
mod pairs;
mod refusals;
mod rights;
mod specs;

use std::time::Instant;

use robeing_tests::operator::ControlPlane;
use serde_json::{Value, json};

/// The name of every test's cluster.
pub const CLUSTER: &str = "first";

/// Returns the spec of a fleet with a pool of a fixed size and one that is sized by an autoscaler.
pub fn spec() -> Value {
    json!({
        "coordinators": {"replicas": 3, "storage": {"size": "1Gi"}},
        "pools": [
            {"name": "data", "role": "Worker", "replicas": 2, "standby": 1, "executor": {"echo": {}}},
            {"name": "auto", "role": "Worker", "executor": {"echo": {}}},
        ],
    })
}

/// Logs the beginning and the end of a step, and how long it took.
async fn step<T>(what: &str, work: impl Future<Output = T>) -> T {
    eprintln!("=== {what}");
    let began = Instant::now();
    let done = work.await;
    eprintln!("=== {what}: done after {:.1} s", began.elapsed().as_secs_f64());
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_withstands_faults() {
    let stage = step("a control plane", ControlPlane::up()).await;
    let client = stage.client().await;
    // Steps that mostly wait run concurrently with the others.
    let kills = async {
        let alone = step("killed in each step", kills::killed_in_each_step(&stage, &client)).await;
        step("two operators that know nothing of each other", pairs::two_agree(&stage, &client, &alone)).await;
    };
    tokio::join!(
        kills,
        step("a response that never comes", outages::a_lost_answer_is_not_waited_for(&stage, &client)),
        step("two operators of one lease", pairs::one_of_two_works(&stage, &client)),
        step("manual edits", edits::what_is_owned_is_put_back(&stage, &client)),
        step("drift of lists", drift::lists_are_put_back(&stage, &client)),
        step("what users write", specs::what_users_write_is_taken(&stage, &client)),
        step("what is refused", refusals::what_is_refused_harms_nothing_else(&stage, &client)),
        step("the API server does not answer", outages::an_outage_changes_nothing(&stage, &client)),
    );
    step("200 clusters", many::two_hundred_clusters(&stage, &client)).await;
    step("the API server is killed", outages::the_api_server_is_killed(&stage, &client)).await;
    stage.down().await;
}
