//! Plain tasks, and what a fleet has finished.

use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use robeing_client::{FleetClient, SubmitEvent, SubmitOptions};
use robeing_proto::v1::{Consistency, SubmitRequest, TaskSpec, TaskState};
use tokio::time::{Instant, sleep, timeout};

/// The most tasks of one request.
pub const REQUEST: usize = 1_000;
/// The input of plain tasks.
pub const INPUT: &[u8] = b"sixteen bytes ok";
/// How often the fleet is asked what it has finished.
const POLL: Duration = Duration::from_millis(20);
/// The time that a fleet has for any number of tasks, and the tasks per second that it must finish besides.
const AT_LEAST: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 500;
/// The most tasks of a stream that have no answer yet.
const WINDOW: usize = 4_096;

/// Returns the time within which a fleet must have done something with so many tasks.
pub fn limit(tasks: usize) -> Duration {
    AT_LEAST + Duration::from_secs(tasks as u64 / SLOWEST)
}

/// Waits for something that may take no longer than this.
///
/// # Errors
/// If it takes longer, or fails.
pub async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => bail!("{what}: not done within {limit:?}"),
    }
}

/// Returns a task that depends on nothing.
pub fn plain() -> TaskSpec {
    TaskSpec { kind: "plain".into(), input: INPUT.into(), ..TaskSpec::default() }
}

/// Submits tasks in as few requests as they fit into, one after the other, and returns how many these were.
///
/// # Errors
/// If the fleet does not accept one.
pub async fn submit_in_requests(client: &FleetClient, tasks: &[TaskSpec]) -> Result<usize> {
    for some in tasks.chunks(REQUEST) {
        let request = SubmitRequest { tasks: some.to_vec() };
        let submitted = client.call(|mut rpc| {
            let request = request.clone();
            async move { rpc.submit(request).await }
        });
        for result in submitted.await?.results {
            if let Some(refusal) = result.refusal {
                bail!("a task was refused ({}): {}", refusal.code, refusal.message);
            }
        }
    }
    Ok(tasks.len().div_ceil(REQUEST))
}

/// Submits tasks over a stream, in batches, until all are accepted.
///
/// # Errors
/// If the fleet does not accept one.
pub async fn submit(client: &FleetClient, tasks: impl IntoIterator<Item = TaskSpec>) -> Result<()> {
    let options = SubmitOptions { window: WINDOW, unfinished: WINDOW, wait: false };
    stream(client, tasks, options, &mut || {}).await
}

/// Submits tasks over a stream, in batches, with so many in flight, until all have succeeded. `ended` is called for each
/// that has.
///
/// # Errors
/// If the fleet does not accept one, or it does not succeed.
pub async fn run(
    client: &FleetClient,
    tasks: impl IntoIterator<Item = TaskSpec>,
    in_flight: usize,
    ended: &mut dyn FnMut(),
) -> Result<()> {
    let options = SubmitOptions { window: in_flight, unfinished: in_flight, wait: true };
    stream(client, tasks, options, ended).await
}

async fn stream(
    client: &FleetClient,
    tasks: impl IntoIterator<Item = TaskSpec>,
    options: SubmitOptions,
    ended: &mut dyn FnMut(),
) -> Result<()> {
    let mut wrong = None;
    let note = |event| match event {
        SubmitEvent::Submitted { result, .. } if result.refusal.is_none() => {}
        SubmitEvent::Finished { task, .. } if task.state() == TaskState::Succeeded => ended(),
        other => wrong = Some(other),
    };
    client.submit_many(tasks, options, note).await?;
    match wrong {
        Some(event) => Err(anyhow!("a task did not succeed: {event:?}")),
        None => Ok(()),
    }
}

/// Returns how many tasks have succeeded since the fleet was created.
///
/// # Errors
/// If one ended otherwise.
pub async fn succeeded(client: &FleetClient) -> Result<u64> {
    let status = client.status(Consistency::Linearizable).await?;
    let ended = status.finished_total.unwrap_or_default();
    let others = ended.failed + ended.cancelled + ended.dead_lettered;
    ensure!(others == 0, "{others} tasks did not succeed");
    Ok(ended.succeeded)
}

/// Waits until so many tasks have succeeded since the fleet was created. Returns when that was seen, and how many it were.
///
/// # Errors
/// If one ended otherwise, or they have not within `limit`.
pub async fn until_succeeded(client: &FleetClient, goal: u64, limit: Duration) -> Result<(Instant, u64)> {
    let deadline = Instant::now() + limit;
    loop {
        let count = succeeded(client).await?;
        let now = Instant::now();
        if count >= goal {
            return Ok((now, count));
        }
        ensure!(now < deadline, "{count} of {goal} tasks have succeeded after {limit:?}");
        sleep(POLL).await;
    }
}
