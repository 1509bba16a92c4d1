//! Measures how soon work resumes: after an agent is killed or frozen, until the command of its task's next attempt
//! really starts; after the leader is killed, until the next task is accepted.

use std::{
    cell::Cell,
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use robeing::dev::DevEvent;
use robeing_client::{FleetClient, SubmitEvent, SubmitOptions};
use robeing_proto::v1::{CancelTasksRequest, Consistency, GetTaskRequest, TaskSpec};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::{Instant, sleep},
};

use super::{
    BenchOptions,
    measure::Spread,
    report::{Failure, Takeovers},
};
use crate::{
    local_fleet::{LocalFleet, Location, signal},
    processes::descendants,
};

const POLL: Duration = Duration::from_millis(5);
/// The name that the kernel shows for a guard's process.
const GUARD_NAME: &str = "robeing-guard";
/// The longest time that a takeover may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest pause before a killed process is restarted. It is short, because each trial begins with a complete
/// fleet.
const RESTART_WITHIN: Duration = Duration::from_millis(500);
/// The longest time until the fleet has recovered from a trial.
const RECOVERY: Duration = Duration::from_secs(60);

/// The agents append the number of the attempt and the time to the file that their task names, and then wait.
const MANIFEST: &str = r#"
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: takeover}
spec:
  coordinators: {replicas: 3}
  pools:
  - name: marks
    role: Worker
    replicas: 3
    standby: 1
    slots: 4
    executor:
      command:
        argv: [/bin/sh, -c, 'read -r file && echo "$ROBEING_ATTEMPT $(date +%s%N)" >> "$file" && exec sleep 600']
"#;

/// Measures all kinds of failures.
///
/// # Errors
/// If the fleet can't be started, or no other process takes over.
pub async fn measure(options: &BenchOptions, place: &Location, tell: &mut dyn FnMut(String)) -> Result<Vec<Takeovers>> {
    let place = Location { longest_restart_pause: Some(RESTART_WITHIN), ..place.clone() };
    let mut fleet = LocalFleet::start(MANIFEST, &place).await?;
    let mut measured = Ok(Vec::new());
    for failure in Failure::ALL {
        let Ok(done) = &mut measured else { break };
        match measure_failure(&fleet, failure, options.trials, tell).await {
            Ok(takeovers) => done.push(takeovers),
            Err(error) => measured = Err(error),
        }
    }
    if measured.is_err() {
        tell(format!("logs are kept in {}", fleet.keep_directory().display()));
    }
    fleet.stop().await;
    measured
}

async fn measure_failure(
    fleet: &LocalFleet,
    failure: Failure,
    trials: usize,
    tell: &mut dyn FnMut(String),
) -> Result<Takeovers> {
    let client = fleet.client()?;
    let mut took = Vec::with_capacity(trials);
    for trial in 0..trials {
        fleet.whole(&client, RECOVERY).await?;
        let one = match failure {
            Failure::AgentKilled | Failure::AgentFrozen | Failure::AgentSilent => {
                agent_trial(fleet, &client, failure, trial).await
            }
            Failure::LeaderKilled => leader_trial(fleet, &client).await,
        };
        took.push(one.with_context(|| format!("trial {} of {failure}", trial + 1))?);
    }
    let spread = Spread::of(took.clone());
    tell(format!(
        "{failure}: p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms over {trials} trials",
        spread.p50_ms, spread.p99_ms, spread.max_ms
    ));
    let trials_ms = took.iter().map(|took| took.as_secs_f64() * 1e3).collect();
    Ok(Takeovers { failure, spread, trials_ms })
}

/// Returns the time from the signal to an agent that runs a task until the task's next attempt runs on another agent.
async fn agent_trial(fleet: &LocalFleet, client: &FleetClient, failure: Failure, trial: usize) -> Result<Duration> {
    let marks = fleet.directory().join(format!("marks-{failure:?}-{trial}"));
    let id = submit(client, &marks).await?;
    mark(&marks, 1).await?;
    let (victim, _) = holder(client, &id).await?;
    let pid = fleet.pid_of(&victim).with_context(|| format!("{victim} has no process"))?;
    let frozen = match failure {
        Failure::AgentSilent => vec![pid, guard_of(pid)?],
        Failure::AgentFrozen => vec![pid],
        Failure::AgentKilled | Failure::LeaderKilled => Vec::new(),
    };
    let sent_at = SystemTime::now();
    for pid in &frozen {
        signal(*pid, Signal::SIGSTOP)?;
    }
    if frozen.is_empty() {
        signal(pid, Signal::SIGKILL)?;
    }
    let ran_at = mark(&marks, 2).await;
    for pid in frozen {
        signal(pid, Signal::SIGCONT)?;
    }
    let (successor, attempt) = holder(client, &id).await?;
    ensure!(successor != victim, "attempt {attempt} is still with {victim}");
    forget(client, id).await?;
    Ok(ran_at?.duration_since(sent_at).unwrap_or_default())
}

/// Returns the guard of an agent: the process that ends the agent's commands when the agent can't.
fn guard_of(agent: u32) -> Result<u32> {
    let is_guard =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == GUARD_NAME);
    descendants(agent).into_iter().find(is_guard).with_context(|| format!("the agent of process {agent} has no guard"))
}

/// Returns the time from the SIGKILL of the leader until the next task of a client that keeps submitting is accepted.
/// The killed coordinator is prevented from running in the meantime: if it were restarted at once, it could stay the
/// leader, and no other coordinator would take over.
async fn leader_trial(fleet: &LocalFleet, client: &FleetClient) -> Result<Duration> {
    let leader = client.status(Consistency::Linearizable).await?;
    let pid = fleet.leader_pid(&leader)?;
    let nowhere = Path::new("/dev/null");
    submit_and_forget(client, nowhere).await?;
    let mut events = fleet.processes().events();
    let killed = Instant::now();
    signal(pid, Signal::SIGKILL)?;
    let held = Cell::new(None);
    let accepted = tokio::select! {
        accepted = submit(client, nowhere) => accepted,
        failed = hold_back(&mut events, &leader.leader, &held) => Err(failed),
    };
    let took = killed.elapsed();
    if let Some(pid) = held.get() {
        signal(pid, Signal::SIGCONT)?;
    }
    forget(client, accepted?).await?;
    Ok(took)
}

/// Freezes a coordinator as soon as it is restarted, before it listens. Returns only on an error.
async fn hold_back(events: &mut broadcast::Receiver<DevEvent>, name: &str, held: &Cell<Option<u32>>) -> Error {
    loop {
        match events.recv().await {
            Ok(DevEvent::Started { name: started, pid }) if started == name => match signal(pid, Signal::SIGSTOP) {
                Ok(()) => held.set(Some(pid)),
                Err(error) => return error,
            },
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return anyhow!("the fleet has ended"),
        }
    }
}

/// Submits a task that only has to be accepted.
async fn submit_and_forget(client: &FleetClient, file: &Path) -> Result<()> {
    let id = submit(client, file).await?;
    forget(client, id).await
}

/// Cancels a task that is no longer needed.
async fn forget(client: &FleetClient, id: String) -> Result<()> {
    client.cancel_tasks(CancelTasksRequest { ids: vec![id], reason: "measured".into(), wait: None }).await?;
    Ok(())
}

/// Submits a task that appends to a file. Returns its id once it is accepted.
async fn submit(client: &FleetClient, file: &Path) -> Result<String> {
    let input = format!("{}\n", file.display()).into_bytes().into();
    let spec = TaskSpec { kind: "mark".into(), input, ..TaskSpec::default() };
    let mut answer = None;
    let note = |event| {
        if let SubmitEvent::Submitted { result, .. } = event {
            answer = Some(result);
        }
    };
    client.submit_many([spec], SubmitOptions::default(), note).await?;
    let result = answer.context("the submission got no response")?;
    match result.refusal {
        None => Ok(result.task_id),
        Some(refusal) => bail!("the task was refused ({}): {}", refusal.code, refusal.message),
    }
}

/// Returns the agent that has a task, and the number of the attempt.
async fn holder(client: &FleetClient, id: &str) -> Result<(String, u32)> {
    let task = client.get_task(GetTaskRequest { id: id.into(), ..GetTaskRequest::default() }).await?;
    let attempt = task.attempts.last().with_context(|| format!("task {id} has no attempt"))?;
    Ok((attempt.agent.clone(), attempt.number))
}

/// Waits until an attempt has recorded its start, and returns the time of the start.
async fn mark(file: &Path, attempt: u32) -> Result<SystemTime> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        if let Some(at) = text.lines().find_map(|line| read_mark(line, attempt)) {
            return Ok(at);
        }
        ensure!(Instant::now() < deadline, "attempt {attempt} has not begun after {PATIENCE:?}");
        sleep(POLL).await;
    }
}

fn read_mark(line: &str, attempt: u32) -> Option<SystemTime> {
    let (number, nanos) = line.split_once(' ')?;
    let nanos: u64 = nanos.parse().ok()?;
    (number.parse() == Ok(attempt)).then(|| UNIX_EPOCH + Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_one() {
        robeing_crds::parse_manifest(MANIFEST).unwrap_or_else(|error| panic!("{error}"));
    }

    #[test]
    fn a_mark_is_read_by_its_attempt() {
        assert_eq!(read_mark("2 1500000000", 2), Some(UNIX_EPOCH + Duration::from_millis(1_500)));
        assert_eq!(read_mark("2 1500000000", 1), None);
        assert_eq!(read_mark("2 ", 2), None);
    }
}
