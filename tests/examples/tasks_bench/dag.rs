//! A graph of tasks in layers: each but those of the first layer depends on one to three of the layer before.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use robeing_client::{FleetClient, new_task_id};
use robeing_proto::v1::{Dependency, ListTasksRequest, OnFailure, TaskSpec};
use tokio::time::Instant;

use crate::{
    bed::{Bed, Started},
    load::{INPUT, limit, plain, submit_in_requests, succeeded, until_succeeded},
    report::{Section, per_second},
};

/// The most nodes that a fleet is given room for, beside as many plain tasks.
pub const MOST_NODES: usize = 500_000;
/// The number of layers, fewer if there are fewer nodes.
const LAYERS: usize = 100;
/// The most tasks that one depends on.
const MOST_LINKS: usize = 3;
/// The seed of the graph, so that it is the same each time.
const SEED: u64 = 0x0072_6f62_6569_6e67;
const KIND: &str = "node";
const PAGE: u32 = 1_000;
/// Tasks that are run before anything is measured.
const WARM_UP: usize = 1_000;

/// What a number of tasks took from the first request.
struct Timed {
    requests: usize,
    accepted: Duration,
    finished: Duration,
}

/// Measures a graph of so many nodes, and as many plain tasks.
///
/// # Errors
/// If a task does not succeed in time, or before those that it depends on.
pub async fn measure(bed: &Bed, nodes: usize) -> Result<Section> {
    let started = bed.echo(2 * nodes + WARM_UP).await?;
    let measured = measure_fleet(&started, nodes).await;
    started.end(measured).await
}

async fn measure_fleet(started: &Started, nodes: usize) -> Result<Section> {
    let client = &started.leader;
    let tasks =
        |count: usize| -> Vec<TaskSpec> { (0..count).map(|_| TaskSpec { id: new_task_id(), ..plain() }).collect() };
    time(client, &tasks(WARM_UP)).await?;
    let alone = time(client, &tasks(nodes)).await.context("plain tasks")?;
    let graph = graph(nodes);
    let links: usize = graph.iter().map(|task| task.depends_on.len()).sum();
    let linked = time(client, &graph).await.context("the graph")?;
    check_order(client, &graph).await?;

    let layers = nodes.div_ceil(width(nodes));
    let about = format!(
        "a graph of {nodes} tasks in {layers} layers with {links} dependencies, in {} requests, beside as many plain tasks in \
         {} requests",
        linked.requests, alone.requests
    );
    let mut section = Section::new("dag", about);
    for (what, timed) in [("graph", &linked), ("plain", &alone)] {
        section.time(format!("{what}: until all are accepted"), timed.accepted);
        section.time(format!("{what}: until all have succeeded"), timed.finished);
        section.rate(format!("{what}: from the first request to the last end"), nodes as u64, timed.finished);
    }
    let ratio = per_second(nodes as u64, linked.finished) / per_second(nodes as u64, alone.finished);
    section.add("tasks/s of the graph by that of plain tasks", ratio, "");
    Ok(section)
}

/// Submits tasks, and waits until all have succeeded.
async fn time(client: &FleetClient, tasks: &[TaskSpec]) -> Result<Timed> {
    let before = succeeded(client).await?;
    let began = Instant::now();
    let requests = submit_in_requests(client, tasks).await?;
    let accepted = began.elapsed();
    let (ended, _) = until_succeeded(client, before + tasks.len() as u64, limit(tasks.len())).await?;
    Ok(Timed { requests, accepted, finished: ended - began })
}

/// Returns the number of nodes of a layer; the last one may have fewer.
fn width(nodes: usize) -> usize {
    nodes.div_ceil(LAYERS).max(1)
}

fn graph(nodes: usize) -> Vec<TaskSpec> {
    let ids: Vec<String> = (0..nodes).map(|_| new_task_id()).collect();
    let (width, mut random) = (width(nodes), Random(SEED));
    let node = |place: usize| {
        let mut on = BTreeSet::new();
        if let Some(before) = (place / width).checked_sub(1) {
            for _ in 0..=random.below(MOST_LINKS) {
                on.insert(before * width + random.below(width));
            }
        }
        let link = |other: usize| Dependency { task: ids[other].clone(), on_failure: OnFailure::Fail.into() };
        TaskSpec {
            id: ids[place].clone(),
            kind: KIND.into(),
            input: INPUT.into(),
            depends_on: on.into_iter().map(link).collect(),
            ..TaskSpec::default()
        }
    };
    (0..nodes).map(node).collect()
}

/// Checks that no task ended before one that it depends on.
async fn check_order(client: &FleetClient, graph: &[TaskSpec]) -> Result<()> {
    let mut ended = HashMap::new();
    let mut request = ListTasksRequest { kind: KIND.into(), page_size: PAGE, ..ListTasksRequest::default() };
    loop {
        let page = client.list_tasks(request.clone()).await?;
        for task in page.tasks {
            let at = task.finished_at.with_context(|| format!("task {} has not ended", task.id))?;
            ended.insert(task.id, (at.seconds, at.nanos));
        }
        if page.next_page_token.is_empty() {
            break;
        }
        ensure!(page.next_page_token != request.page_token, "the list of tasks has the same page twice");
        request.page_token = page.next_page_token;
    }
    let end = |id: &str| ended.get(id).copied().with_context(|| format!("task {id} is not listed"));
    for task in graph {
        let own = end(&task.id)?;
        for other in &task.depends_on {
            ensure!(end(&other.task)? <= own, "task {} ended before {}, on which it depends", task.id, other.task);
        }
    }
    Ok(())
}

/// Numbers that look random and are the same each time: splitmix64.
struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below this one, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.draw() % end as u64) as usize
    }
}
