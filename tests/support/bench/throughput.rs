//! Measures durable no-op tasks end to end: from the submission of each until its result is received, over one stream
//! of one client, with a fixed number in flight.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use robeing_client::{FleetClient, SubmitEvent, SubmitOptions};
use robeing_proto::v1::{Consistency, TaskSpec, TaskState};

use super::{
    BenchOptions, Via,
    cost::{Cost, Used},
    measure::{Spread, median},
    report::{Round, Throughput},
};
use crate::local_fleet::{LocalFleet, Location};

/// The largest number of agents.
pub const MAX_AGENTS: u32 = 64;
/// The slots of all agents together, as many as the largest number of tasks in flight.
const SLOTS: u32 = 1_024;
/// The time at the beginning of a round in which nothing is counted.
const WARM_UP: Duration = Duration::from_secs(1);
const READY: Duration = Duration::from_secs(60);
/// The time for which results are kept, in seconds. It is short, to bound the memory of a long run.
const RESULT_TTL_SECONDS: i64 = 10;
/// The initial capacity for the submissions of a round.
const EXPECTED_TASKS: usize = 100_000;

/// Measures every number in flight, taking turns, so that a slow moment of the machine does not affect only one of
/// them.
///
/// # Errors
/// If the fleet can't be started, or a task does not succeed.
pub async fn measure(
    options: &BenchOptions,
    place: &Location,
    tell: &mut dyn FnMut(String),
) -> Result<Vec<Throughput>> {
    let mut fleet = LocalFleet::start(&manifest(options.agents), place).await?;
    let measured = measure_fleet(options, &fleet, tell).await;
    if measured.is_err() {
        tell(format!("logs are kept in {}", fleet.keep_directory().display()));
    }
    fleet.stop().await;
    measured
}

async fn measure_fleet(
    options: &BenchOptions,
    fleet: &LocalFleet,
    tell: &mut dyn FnMut(String),
) -> Result<Vec<Throughput>> {
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); options.in_flight.len()];
    for round in 1..=options.rounds {
        for (index, in_flight) in options.in_flight.iter().enumerate() {
            let measured = measure_round(options, fleet, *in_flight).await?;
            tell(format!(
                "round {round}, {in_flight:>5} in flight: {:>8.0} tasks/s, p50 {:.2} ms, p99 {:.2} ms",
                measured.tasks_per_s, measured.latency.p50_ms, measured.latency.p99_ms
            ));
            rounds[index].push(measured);
        }
    }
    let middle = |(in_flight, rounds): (&usize, Vec<Round>)| {
        let spread: Vec<f64> = rounds.iter().map(|round| round.tasks_per_s).collect();
        let median = median(rounds, |round| round.tasks_per_s).context("there was no round")?;
        Ok(Throughput { in_flight: *in_flight, median, tasks_per_s_of_rounds: spread })
    };
    options.in_flight.iter().zip(rounds).map(middle).collect()
}

async fn measure_round(options: &BenchOptions, fleet: &LocalFleet, in_flight: usize) -> Result<Round> {
    let all = fleet.client()?;
    let status = fleet.whole(&all, READY).await?;
    let leader = status.leader.clone();
    let of_leader = |name: &str| name == leader;
    let wanted = options.via == Via::Leader;
    let endpoint = status.coordinators.iter().find(|c| of_leader(&c.name) == wanted).context("no such coordinator")?;
    let client = fleet.client_of(&[format!("http://{}", endpoint.address)])?;
    let before = Used::now(fleet, &leader).await?;
    let flow = drive(&client, in_flight, options.length).await?;
    let after = Used::now(fleet, &leader).await?;
    let still_leads = all.status(Consistency::Linearizable).await?.leader == leader;
    let cost = if still_leads { after.since(&before, flow.tasks) } else { Cost::default() };
    Ok(Round { tasks_per_s: flow.tasks_per_s, latency: Spread::of(flow.latencies), cost })
}

/// The results of a round.
struct Flow {
    /// The number of all tasks that ended, including the warm-up.
    tasks: usize,
    tasks_per_s: f64,
    /// The latencies of the tasks that ended during the measurement.
    latencies: Vec<Duration>,
}

/// Keeps `in_flight` tasks in flight during the warm-up and then for `length`.
async fn drive(client: &FleetClient, in_flight: usize, length: Duration) -> Result<Flow> {
    let counted_from = Instant::now() + WARM_UP;
    let counted_until = counted_from + length;
    let submitted = RefCell::new(Vec::with_capacity(EXPECTED_TASKS));
    let tasks = std::iter::from_fn(|| {
        let now = Instant::now();
        (now < counted_until).then(|| {
            submitted.borrow_mut().push(now);
            no_op()
        })
    });
    let (mut latencies, mut ended, mut wrong) = (Vec::with_capacity(EXPECTED_TASKS), 0, None);
    let options = SubmitOptions { window: in_flight, unfinished: in_flight, wait: true };
    client
        .submit_many(tasks, options, |event| match event {
            SubmitEvent::Finished { index, task } if task.state() == TaskState::Succeeded => {
                let now = Instant::now();
                ended += 1;
                if (counted_from..counted_until).contains(&now) {
                    latencies.push(now - submitted.borrow()[index]);
                }
            }
            SubmitEvent::Submitted { result, .. } if result.refusal.is_none() => {}
            other => wrong = Some(other),
        })
        .await?;
    match wrong {
        Some(event) => Err(anyhow!("a no-op task did not succeed: {event:?}")),
        None => Ok(Flow { tasks: ended, tasks_per_s: latencies.len() as f64 / length.as_secs_f64(), latencies }),
    }
}

fn no_op() -> TaskSpec {
    TaskSpec {
        kind: "no-op".into(),
        input: (&b"sixteen bytes ok"[..]).into(),
        result_ttl: Some(prost_types::Duration { seconds: RESULT_TTL_SECONDS, nanos: 0 }),
        ..TaskSpec::default()
    }
}

fn manifest(agents: u32) -> String {
    let slots = SLOTS.div_ceil(agents);
    format!(
        "apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {{name: bench}}
spec:
  coordinators: {{replicas: 3}}
  pools:
  - {{name: echo, role: Worker, replicas: {agents}, slots: {slots}, executor: {{echo: {{}}}}}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_one_for_every_number_of_agents() {
        for agents in 1..=MAX_AGENTS {
            robeing_crds::parse_manifest(&manifest(agents)).unwrap_or_else(|error| panic!("{agents}: {error}"));
        }
    }
}
