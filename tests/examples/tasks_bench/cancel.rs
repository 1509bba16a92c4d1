//! Commands that are cancelled by calls that return when nothing of them runs any more.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use robeing_client::{FleetClient, new_task_id};
use robeing_proto::v1::{CancelTasksRequest, TaskSpec, TaskState};
use robeing_tests::{bench::Spread, processes::is_running};
use tokio::time::{Instant, sleep};

use crate::{
    bed::{Bed, Started},
    load::{submit, within},
    report::Section,
};

/// The most commands: as many as one call cancels.
pub const MOST_COMMANDS: usize = 1_000;
/// How long a call waits at most.
const WAIT_SECONDS: i64 = 60;
/// How long the commands may take to start.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

/// Writes its process id to the file that its task names, and then becomes a process that ends at SIGTERM.
const EXECUTOR: &str = r#"{command: {argv: [/bin/sh, -c, 'read -r file && echo "$$" > "$file" && exec sleep 600']}}"#;

/// A command that runs.
struct Command {
    task: String,
    file: PathBuf,
    pid: u32,
}

/// Measures so many cancellations with a call each, and those of as many tasks with one call.
///
/// # Errors
/// If a command does not start, or still runs when a call says that nothing does.
pub async fn measure(bed: &Bed, commands: usize) -> Result<Section> {
    let started = bed.start(EXECUTOR, u32::try_from(commands)?, 2 * commands).await?;
    let measured = measure_fleet(&started, commands).await;
    started.end(measured).await
}

async fn measure_fleet(started: &Started, commands: usize) -> Result<Section> {
    let client = &started.leader;
    let folder = started.fleet.directory().join("commands");
    fs::create_dir_all(&folder)?;

    let mut took = Vec::new();
    for command in run(client, &folder, commands).await? {
        took.push(cancel(client, &[command]).await?);
    }
    let together = run(client, &folder, commands).await?;
    let at_once = cancel(client, &together).await?;

    let about = format!(
        "{commands} commands that end at SIGTERM, one to a task; from the call until the fleet has confirmed that nothing of the \
         task runs any more, which nothing did"
    );
    let mut section = Section::new("cancel", about);
    section.spread("a call for each, one after the other", Spread::of(took));
    section.time("one call for all", at_once);
    Ok(section)
}

/// Submits tasks, and waits until all their commands run.
async fn run(client: &FleetClient, folder: &Path, commands: usize) -> Result<Vec<Command>> {
    let ids: Vec<String> = (0..commands).map(|_| new_task_id()).collect();
    let file = |id: &str| folder.join(id);
    let task = |id: &String| TaskSpec {
        id: id.clone(),
        kind: "command".into(),
        input: format!("{}\n", file(id).display()).into_bytes().into(),
        ..TaskSpec::default()
    };
    within(PATIENCE, "the submission of commands", submit(client, ids.iter().map(task))).await?;
    let deadline = Instant::now() + PATIENCE;
    let mut running = Vec::new();
    for id in &ids {
        let file = file(id);
        let pid = loop {
            if let Some(pid) = pid_in(&file) {
                break pid;
            }
            let count = running.len();
            ensure!(Instant::now() < deadline, "{count} of {commands} commands run after {PATIENCE:?}");
            sleep(POLL).await;
        };
        ensure!(is_running(pid), "the command of task {id} has ended by itself");
        running.push(Command { task: id.clone(), file, pid });
    }
    Ok(running)
}

/// Returns the process id that a command has written, unless it has not, or only in part.
fn pid_in(file: &Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.strip_suffix('\n')?.parse().ok()
}

/// Cancels the tasks of commands, and returns after which time that was confirmed.
async fn cancel(client: &FleetClient, commands: &[Command]) -> Result<Duration> {
    let request = CancelTasksRequest {
        ids: commands.iter().map(|command| command.task.clone()).collect(),
        reason: "measured".into(),
        wait: Some(prost_types::Duration { seconds: WAIT_SECONDS, nanos: 0 }),
    };
    let began = Instant::now();
    let cancelled = client.cancel_tasks(request).await.context("can't cancel a command")?;
    let took = began.elapsed();
    ensure!(cancelled.results.len() == commands.len(), "the answer has {} results", cancelled.results.len());
    for (command, result) in commands.iter().zip(&cancelled.results) {
        let is_cancelled = result.state() == TaskState::Cancelled && result.refusal.is_none();
        ensure!(is_cancelled && result.stopped, "task {} is not confirmed as stopped: {result:?}", command.task);
        let pid = command.pid;
        ensure!(!is_running(pid), "process {pid} of task {} runs, and was confirmed as stopped", command.task);
        let _ = fs::remove_file(&command.file);
    }
    Ok(took)
}
