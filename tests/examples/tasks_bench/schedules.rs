//! Schedules that are all due each minute, beside a load of plain tasks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use prost_types::Timestamp;
use robeing_client::FleetClient;
use robeing_proto::v1::{ListSchedulesRequest, Schedule, ScheduleSpec, SetScheduleRequest, TaskSpec};
use robeing_tests::bench::Spread;
use tokio::time::{Instant, sleep};

use crate::{
    bed::{Bed, Started},
    load::{INPUT, limit, plain, run, within},
    report::{Section, per_second},
};

/// The most minutes: a schedule remembers the newest 10 of its runs.
pub const MOST_MINUTES: u32 = 9;
/// Due each minute, which is as often as a schedule can be.
const CRON: &str = "* * * * *";
const MINUTE: i64 = 60;
/// In which seconds of a minute a load begins, and so ends: none is due then.
const QUIET: std::ops::Range<i64> = 5..40;
/// How long schedules may take to be set.
const SETTING: Duration = Duration::from_secs(60);
/// How long after the end of a load runs that were due before it may start.
const LATE: Duration = Duration::from_secs(5);
/// The tasks in flight of the load.
const IN_FLIGHT: usize = 256;
/// Seconds for which the results of the load are kept: few, to bound the memory of a long run.
const RESULT_TTL_SECONDS: i64 = 10;

/// A load of some minutes.
struct Load {
    count: u64,
    took: Duration,
    /// The tasks that ended in the whole second with the fewest.
    slowest_second: u64,
}

/// Measures so many schedules for some minutes, and a load with and without them.
///
/// # Errors
/// If a task does not succeed, or a schedule can't be set.
pub async fn measure(bed: &Bed, schedules: usize, minutes: u32) -> Result<Section> {
    let started = bed.echo(1_000_000).await?;
    let measured = measure_fleet(&started, schedules, minutes).await;
    started.end(measured).await
}

async fn measure_fleet(started: &Started, schedules: usize, minutes: u32) -> Result<Section> {
    let client = &started.leader;
    let length = Duration::from_secs(60) * minutes;
    quiet(started).await?;
    let without = load(client, length).await?;

    let before = quiet(started).await?;
    within(SETTING, "setting the schedules", set(client, schedules)).await?;
    let set = now(started).await?;
    ensure!(set.seconds / MINUTE == before.seconds / MINUTE, "setting {schedules} schedules took beyond the minute");
    let with = load(client, length).await?;
    let after = now(started).await?;
    sleep(LATE).await;
    let request = ListSchedulesRequest { limit: 1_000, brief: true, ..ListSchedulesRequest::default() };
    let all = client.all_schedules(request).await?;
    ensure!(all.len() == schedules, "the fleet has {} schedules", all.len());
    let due = u64::try_from(after.seconds / MINUTE - set.seconds / MINUTE).unwrap_or_default();

    let about = format!(
        "{schedules} schedules that are due each minute, as often as they can be, for {minutes} minutes, beside a load of \
         {IN_FLIGHT} tasks in flight, which is also measured without them"
    );
    let mut section = Section::new("schedules", about);
    report_runs(&mut section, &all, due * schedules as u64)?;
    for (what, load) in [("with schedules", &with), ("without", &without)] {
        section.rate(format!("load {what}"), load.count, load.took);
        section.count(format!("load {what}: tasks in the slowest second"), load.slowest_second, "");
    }
    let ratio = per_second(with.count, with.took) / per_second(without.count, without.took);
    section.add("tasks/s of the load with schedules by that without", ratio, "");
    Ok(section)
}

/// Adds how many runs have started, and how late.
fn report_runs(section: &mut Section, schedules: &[Schedule], expected: u64) -> Result<()> {
    let totals = || schedules.iter().filter_map(|schedule| schedule.totals.as_ref());
    let mut late = Vec::new();
    for run in schedules.iter().flat_map(|schedule| &schedule.runs) {
        let (due, started) = (run.due.as_ref(), run.started_at.as_ref());
        let due = due.with_context(|| format!("run {} was never due", run.task_id))?;
        late.push(between(due, started.with_context(|| format!("run {} has not started", run.task_id))?));
    }
    section.count("runs that were due", expected, "");
    section.count("runs that have started", totals().map(|of| of.started).sum(), "");
    section.count("runs that have succeeded", totals().map(|of| of.succeeded).sum(), "");
    let not_started: u64 = totals().map(|of| of.missed + of.busy + of.refused).sum();
    section.count("runs that were missed, busy or refused", not_started, "");
    section.count("starts whose delay is known", late.len() as u64, "");
    section.spread("from due to started", Spread::of(late));
    Ok(())
}

/// Returns the time between two moments, and zero if they are in the other order.
fn between(earlier: &Timestamp, later: &Timestamp) -> Duration {
    let nanos = |at: &Timestamp| i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
    Duration::from_nanos(u64::try_from(nanos(later) - nanos(earlier)).unwrap_or_default())
}

async fn set(client: &FleetClient, schedules: usize) -> Result<()> {
    for number in 0..schedules {
        let task = TaskSpec { kind: "run".into(), input: INPUT.into(), ..TaskSpec::default() };
        let spec = ScheduleSpec { cron: CRON.into(), task: Some(task), ..ScheduleSpec::default() };
        let name = format!("each-minute-{number}");
        client.set_schedule(SetScheduleRequest { name, spec: Some(spec), managed: false }).await?;
    }
    Ok(())
}

/// Returns the time of day of the fleet.
async fn now(started: &Started) -> Result<Timestamp> {
    started.status().await?.now.context("the fleet does not say what time it is")
}

/// Waits until nothing will be due for a while, and returns the time of day of the fleet then.
async fn quiet(started: &Started) -> Result<Timestamp> {
    let deadline = Instant::now() + 2 * Duration::from_secs(60);
    loop {
        let now = now(started).await?;
        if QUIET.contains(&now.seconds.rem_euclid(MINUTE)) {
            return Ok(now);
        }
        ensure!(Instant::now() < deadline, "the fleet's clock stands still at {now:?}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Keeps tasks in flight for some time, until the last one has ended.
async fn load(client: &FleetClient, length: Duration) -> Result<Load> {
    let result_ttl = Some(prost_types::Duration { seconds: RESULT_TTL_SECONDS, nanos: 0 });
    let began = Instant::now();
    let tasks = std::iter::from_fn(|| (began.elapsed() < length).then(|| TaskSpec { result_ttl, ..plain() }));
    let mut seconds = vec![0_u64; length.as_secs() as usize];
    let mut count = 0;
    let mut ended = || {
        count += 1;
        if let Some(second) = seconds.get_mut(began.elapsed().as_secs() as usize) {
            *second += 1;
        }
    };
    within(length + limit(0), "the load", run(client, tasks, IN_FLIGHT, &mut ended)).await?;
    let slowest_second = seconds.iter().copied().min().unwrap_or_default();
    Ok(Load { count, took: began.elapsed(), slowest_second })
}
