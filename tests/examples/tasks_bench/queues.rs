//! Many queues, beside one: what waiting tasks take of memory, how soon each queue is served, and how fast all are.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use robeing_client::FleetClient;
use robeing_proto::v1::{ListQueuesRequest, TaskQueue, TaskSpec, UpdateQueuesRequest};
use robeing_tests::{
    local_fleet::signal,
    processes::{memory, send},
};
use tokio::time::{Instant, sleep};

use crate::{
    bed::{Bed, READY, Started},
    load::{limit, plain, submit, until_succeeded, within},
    report::{Section, per_second},
};

/// The most queues: with `default`, two pages of a list.
pub const MOST_QUEUES: usize = 1_000;
/// The most queues that one call sets.
const SET_AT_ONCE: usize = 100;
const PAGE: u32 = 1_000;
/// After so many finished tasks, the queues are compared; after half of all tasks if these are fewer.
const COMPARED_AFTER: u64 = 10_000;
/// The time after which memory is read: what was only needed for the submissions is given back by then.
const SETTLE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// What was measured of one fleet.
struct Run {
    submitted: Duration,
    /// Of the leader, for each task that waits.
    bytes_per_task: f64,
    /// From the first end that was seen to the last.
    drained: Duration,
    /// The tasks that ended in this time.
    count: u64,
    shares: Option<Shares>,
}

/// How the queues compare with each other.
struct Shares {
    /// From the first end that was seen until each queue had one.
    all_served: Duration,
    /// The number of tasks that had finished when the queues were compared.
    finished: u64,
    fewest: u64,
    most: u64,
}

/// Measures so many tasks in so many queues, and in one.
///
/// # Errors
/// If a task does not succeed in time.
pub async fn measure(bed: &Bed, queues: usize, tasks: usize) -> Result<Section> {
    // As many in each.
    let tasks = tasks - tasks % queues;
    // Each has a fleet of its own: memory that another load has used is not always given back.
    let one = measure_one(bed, 0, tasks).await.context("one queue")?;
    let many = measure_one(bed, queues, tasks).await.context("many queues")?;
    let shares = many.shares.as_ref().context("the queues were not compared")?;

    let about = format!(
        "{tasks} tasks in {queues} queues, one queue after the other, and in one queue; submitted while no agent runs any"
    );
    let mut section = Section::new("queues", about);
    for (what, run) in [("many", &many), ("one", &one)] {
        section.rate(format!("{what}: submissions"), tasks as u64, run.submitted);
        section.add(format!("{what}: memory of the leader for each waiting task"), run.bytes_per_task, "bytes");
        section.rate(format!("{what}: from the first end to the last"), run.count, run.drained);
    }
    let ratio = per_second(many.count, many.drained) / per_second(one.count, one.drained);
    section.add("tasks/s of many queues by that of one", ratio, "");
    section.time("many: from the first end until each queue has had one", shares.all_served);
    section.count("many: tasks that have finished when queues are compared", shares.finished, "");
    section.count("many: fewest of them of one queue", shares.fewest, "");
    section.count("many: most of them of one queue", shares.most, "");
    Ok(section)
}

async fn measure_one(bed: &Bed, queues: usize, tasks: usize) -> Result<Run> {
    let started = bed.echo(tasks).await?;
    let measured = measure_fleet(&started, queues, tasks).await;
    started.end(measured).await
}

async fn measure_fleet(started: &Started, queues: usize, tasks: usize) -> Result<Run> {
    let client = &started.leader;
    set_queues(client, queues).await?;
    freeze(started).await?;
    let status = started.status().await?;
    let pid = started.fleet.leader_pid(&status)?;
    let before = memory(pid);
    let began = Instant::now();
    let each = tasks / queues.max(1);
    let task = |index: usize| match queues {
        0 => plain(),
        _ => TaskSpec { queue: name(index / each), ..plain() },
    };
    within(limit(tasks), "the submission", submit(client, (0..tasks).map(task))).await?;
    let submitted = began.elapsed();
    sleep(SETTLE).await;
    let status = started.status().await?;
    let waiting = status.tasks.unwrap_or_default().queued;
    ensure!(waiting == tasks as u64, "{waiting} of {tasks} tasks wait");
    ensure!(started.fleet.leader_pid(&status)? == pid, "the leader has changed");
    let bytes_per_task = (memory(pid) as f64 - before as f64) / tasks as f64;

    for pid in started.agents() {
        send(pid, Signal::SIGCONT);
    }
    let (first, at_first) = until_succeeded(client, 1, READY).await.context("after the agents were thawed")?;
    let shares = match queues {
        0 => None,
        _ => Some(compare(client, first, queues, each).await?),
    };
    let (last, all) = until_succeeded(client, tasks as u64, limit(tasks)).await?;
    Ok(Run { submitted, bytes_per_task, drained: last - first, count: all - at_first, shares })
}

fn name(queue: usize) -> String {
    format!("queue-{queue:04}")
}

async fn set_queues(client: &FleetClient, queues: usize) -> Result<()> {
    let all: Vec<TaskQueue> =
        (0..queues).map(|queue| TaskQueue { name: name(queue), weight: 1, ..TaskQueue::default() }).collect();
    for some in all.chunks(SET_AT_ONCE) {
        client.update_queues(UpdateQueuesRequest { set: some.to_vec(), remove: Vec::new() }).await?;
    }
    Ok(())
}

/// Freezes all agents, and waits until the fleet counts on none.
async fn freeze(started: &Started) -> Result<()> {
    for pid in started.agents() {
        signal(pid, Signal::SIGSTOP)?;
    }
    let deadline = Instant::now() + READY;
    loop {
        let live = started.status().await?.agents.unwrap_or_default().live;
        if live == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{live} frozen agents are live after {READY:?}");
        sleep(POLL).await;
    }
}

/// Waits until each queue was served and enough tasks have finished, and compares what has finished of each queue then.
async fn compare(client: &FleetClient, first: Instant, queues: usize, each: usize) -> Result<Shares> {
    let enough = COMPARED_AFTER.min((queues * each) as u64 / 2);
    let patience = limit(queues * each);
    let deadline = first + patience;
    let (mut all_served, mut compared) = (None, None);
    loop {
        let finished = finished(client, queues, each).await?;
        let now = Instant::now();
        let (sum, fewest) = (finished.iter().sum::<u64>(), finished.iter().copied().min().unwrap_or_default());
        let most = finished.iter().copied().max().unwrap_or_default();
        if all_served.is_none() && fewest > 0 {
            all_served = Some(now - first);
        }
        if compared.is_none() && sum >= enough {
            compared = Some((sum, fewest, most));
        }
        if let (Some(all_served), Some((finished, fewest, most))) = (all_served, compared) {
            return Ok(Shares { all_served, finished, fewest, most });
        }
        ensure!(now < deadline, "{sum} tasks have finished, and at least {fewest} of each queue, after {patience:?}");
        sleep(POLL).await;
    }
}

/// Returns how many tasks of each queue have finished.
async fn finished(client: &FleetClient, queues: usize, each: usize) -> Result<Vec<u64>> {
    let mut unfinished = HashMap::new();
    let mut request = ListQueuesRequest { limit: PAGE, ..ListQueuesRequest::default() };
    loop {
        let page = client.list_queues(request.clone()).await?;
        unfinished.extend(page.queues.into_iter().map(|queue| (queue.name, u64::from(queue.unfinished))));
        // The pages are in order of the names, so the token only grows and the loop ends.
        if page.next_page_token <= request.page_token {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let of = |queue: usize| {
        let name = name(queue);
        let left = unfinished.get(&name).with_context(|| format!("the fleet has no queue {name}"))?;
        Ok((each as u64).saturating_sub(*left))
    };
    (0..queues).map(of).collect()
}
