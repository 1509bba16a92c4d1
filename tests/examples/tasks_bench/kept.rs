//! Results that are kept: the memory of the coordinators, and how long they take to restart.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use robeing_proto::v1::TaskSpec;
use tokio::time::{Instant, sleep};

use crate::{
    bed::{Bed, READY, Started},
    load::{limit, plain, run, within},
    report::Section,
    restart::{Restart, restart},
};

/// How long results are kept, in seconds: longer than a run.
const RESULT_TTL_SECONDS: i64 = 24 * 60 * 60;
/// The tasks in flight.
const IN_FLIGHT: usize = 4_096;
/// The time after which memory is read: what was only needed for the load is given back by then.
const SETTLE: Duration = Duration::from_secs(5);

/// Measures so many results.
///
/// # Errors
/// If a task does not succeed in time, a coordinator does not restart, or a result is lost.
pub async fn measure(bed: &Bed, tasks: usize) -> Result<Section> {
    let started = bed.echo(tasks).await?;
    let measured = measure_fleet(&started, tasks).await;
    started.end(measured).await
}

async fn measure_fleet(started: &Started, tasks: usize) -> Result<Section> {
    let empty = started.coordinators();
    let result_ttl = Some(prost_types::Duration { seconds: RESULT_TTL_SECONDS, nanos: 0 });
    let kept = (0..tasks).map(|_| TaskSpec { result_ttl, ..plain() });
    let began = Instant::now();
    within(limit(tasks), "the tasks", run(&started.leader, kept, IN_FLIGHT, &mut || {})).await?;
    let took = began.elapsed();
    sleep(SETTLE).await;
    check(started, tasks).await?;
    let full = started.coordinators();
    let leader = started.status().await?.leader;

    let mut section = Section::new("kept", format!("{tasks} tasks whose results are kept"));
    section.rate("from the first submission to the last result", tasks as u64, took);
    let grown: f64 = empty.iter().zip(&full).map(|((_, before), (_, after))| *after as f64 - *before as f64).sum();
    section.add(
        "memory for each result, mean of the coordinators",
        grown / (empty.len() * tasks).max(1) as f64,
        "bytes",
    );
    for ((name, before), (_, after)) in empty.iter().zip(&full) {
        let role = if *name == leader { "leader" } else { "follower" };
        section.memory(format!("{name} ({role}): memory before"), *before);
        section.memory(format!("{name} ({role}): memory with all results"), *after);
    }
    for (name, _) in &full {
        let Restart { serving, caught_up, ready } = restart(started, name).await?;
        started.fleet.whole(&started.all, READY).await.with_context(|| format!("after the restart of {name}"))?;
        sleep(SETTLE).await;
        let now = started.coordinators().into_iter().find(|(other, _)| other == name).map_or(0, |(_, bytes)| bytes);
        section.time(format!("{name}: start of its process to serving its own state"), serving);
        section.time(format!("{name}: start of its process to caught up"), caught_up);
        section.time(format!("{name}: start of its process to serving the fleet's state"), ready);
        section.memory(format!("{name}: memory after its restart"), now);
    }
    check(started, tasks).await?;
    Ok(section)
}

/// Checks that all results are kept.
async fn check(started: &Started, tasks: usize) -> Result<()> {
    let kept = started.status().await?.tasks.unwrap_or_default().succeeded;
    ensure!(kept == tasks as u64, "{kept} of {tasks} results are kept");
    Ok(())
}
