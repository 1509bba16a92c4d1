//! A task that is split into many parts, and reduces their results.

use std::{fmt::Write, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use robeing_client::{FleetClient, is_finished, new_task_id};
use robeing_proto::v1::{GetTaskRequest, Join, PartOf, Passing, Split, Task, TaskSpec, TaskState};
use tokio::time::{Instant, sleep};

use crate::{
    bed::{Bed, Started},
    load::{limit, plain, submit, succeeded, until_succeeded, within},
    report::{Section, per_second},
};

/// The most parts whose results are no larger than an output that is kept in the log.
pub const MOST_PARTS: usize = 131_072;
const POLL: Duration = Duration::from_millis(20);

/// Measures a task with so many parts, and as many plain tasks.
///
/// # Errors
/// If one does not succeed in time, or the result is wrong.
pub async fn measure(bed: &Bed, parts: usize) -> Result<Section> {
    let started = bed.echo(2 * parts).await?;
    let measured = measure_fleet(&started, parts).await;
    started.end(measured).await
}

async fn measure_fleet(started: &Started, parts: usize) -> Result<Section> {
    let client = &started.leader;
    let count = parts as u64;
    let before = succeeded(client).await?;
    let began = Instant::now();
    let tasks = (0..parts).map(|_| plain());
    within(limit(parts), "the submission of plain tasks", submit(client, tasks)).await?;
    let plain_accepted = began.elapsed();
    let (ended, _) = until_succeeded(client, before + count, limit(parts)).await.context("plain tasks")?;
    let plain_took = ended - began;

    let top = top(parts)?;
    let began = Instant::now();
    within(limit(1), "the submission of the task", submit(client, [top.clone()])).await?;
    let of = (0..).take(parts).map(|index| part(&top.id, index));
    within(limit(parts), "the submission of the parts", submit(client, of)).await?;
    let accepted = began.elapsed();
    let reduced = reduced(client, &top.id, limit(parts)).await?;
    let took = began.elapsed();
    check(&reduced, parts)?;

    let about = format!(
        "a task of {parts} parts that reduces their results, beside as many plain tasks. A request takes the inputs of at most \
         10,000 parts, so they are submitted by themselves"
    );
    let mut section = Section::new("map", about);
    section.time("map: until all parts are accepted", accepted);
    section.time("map: until the reduced result is there, and it is right", took);
    section.rate("map: parts, from the first request to the result", count, took);
    section.time("plain: until all are accepted", plain_accepted);
    section.time("plain: until all have succeeded", plain_took);
    section.rate("plain: from the first request to the last end", count, plain_took);
    section.add("parts/s by plain tasks/s", per_second(count, took) / per_second(count, plain_took), "");
    Ok(section)
}

/// Returns the task, which is given the outputs of its parts as its input, in order.
fn top(parts: usize) -> Result<TaskSpec> {
    let split = Split { parts: u32::try_from(parts)?, join: Join::Reduce.into(), ..Split::default() };
    Ok(TaskSpec {
        id: new_task_id(),
        kind: "reduce".into(),
        split: Some(split),
        passing: Passing::AsInput.into(),
        ..TaskSpec::default()
    })
}

fn part(top: &str, index: u32) -> TaskSpec {
    TaskSpec {
        kind: "part".into(),
        input: Bytes::from(line(index)),
        part_of: Some(PartOf { task: top.to_owned(), index }),
        ..TaskSpec::default()
    }
}

/// Returns the input of a part, which is also its output: eight bytes.
fn line(index: u32) -> String {
    format!("{index:07}\n")
}

/// Waits until the task has succeeded.
async fn reduced(client: &FleetClient, id: &str, limit: Duration) -> Result<Task> {
    let deadline = Instant::now() + limit;
    loop {
        let task = client.get_task(GetTaskRequest { id: id.to_owned(), ..GetTaskRequest::default() }).await?;
        match task.state() {
            TaskState::Succeeded => return Ok(task),
            state if is_finished(state) => bail!("the split task did not succeed: {state:?}, {:?}", task.failure),
            state => ensure!(Instant::now() < deadline, "the split task is {state:?} after {limit:?}"),
        }
        sleep(POLL).await;
    }
}

fn check(task: &Task, parts: usize) -> Result<()> {
    let mut expected = String::new();
    for index in 0..parts {
        writeln!(expected, "{index:07}")?;
    }
    let found = task.output.len();
    ensure!(
        task.output == expected.as_bytes(),
        "the reduced result is wrong: it has {found} bytes, and {} were expected",
        expected.len()
    );
    Ok(())
}
