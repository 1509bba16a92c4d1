//! The demo: the example fleet as real processes computes [`work::TASKS`] tasks over a text while an agent and then
//! the leader are killed, and every result is checked. It fails unless all is right and nothing is left running.

mod ledger;
mod narrator;
mod remains;
pub mod work;

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use robeing::client::{FleetClient, SubmitEvent, SubmitOptions};
use robeing_proto::v1::{Consistency, FleetStatus, TaskSpec};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::local_fleet::{LocalFleet, Place, busy_agents, signal};
use ledger::{Ledger, Takeover};
use narrator::Narrator;
use work::{Exercise, TASKS};

/// The demo ends within this time, well or not.
pub const TIME_LIMIT: Duration = Duration::from_secs(120);
/// Time the fleet has to be ready.
const READY: Duration = Duration::from_secs(30);
/// Tasks that are held back until the leader is dead, to see when the next one is accepted.
const HELD_BACK: usize = 100;
/// Results after which an agent is killed.
const KILL_AGENT_AT: usize = TASKS / 3;
/// Results after which the leader is killed. Fewer than are submitted by then.
const KILL_LEADER_AT: usize = (TASKS - HELD_BACK) * 3 / 4;
/// Events of submissions that wait to be taken: room for all there are, the acceptance and the end of each task.
const EVENTS: usize = 2 * TASKS;

/// What the demo is run with.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The manifest of the fleet.
    pub manifest: PathBuf,
    /// The text that is worked on.
    pub text: PathBuf,
    /// The agent program; without it, the one beside this program.
    pub agent_bin: Option<PathBuf>,
}

/// Runs the demo and tells it on standard output. `stop` ends it early, in order.
///
/// # Errors
/// When anything is not as it should be, when time is up, or when it was stopped.
pub async fn run(options: &DemoOptions, stop: impl Future<Output = ()>) -> Result<()> {
    let mut narrator = Narrator::new();
    remains::adopt_orphans()?;
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("{} can't be read", path.display()));
    let exercises = work::exercises(&read(&options.text)?);
    let place = Place { agent_bin: options.agent_bin.clone(), parent: None };
    let mut fleet = LocalFleet::start(&read(&options.manifest)?, &place).await?;
    let (played, was_stopped) = tokio::select! {
        played = timeout(TIME_LIMIT, play(&fleet, &exercises, &mut narrator)) => {
            (played.unwrap_or_else(|_| bail!("not done after {TIME_LIMIT:?}")), false)
        }
        () = stop => (Err(anyhow!("stopped by a signal before all was done")), true),
    };
    narrator.say("stopping the fleet");
    let pids = fleet.stop().await;
    if played.is_err() && !was_stopped {
        let kept = fleet.keep_directory().join("logs");
        narrator.plain(&format!("the logs of all processes are kept in {}", kept.display()));
    }
    drop(fleet);
    let left = remains::nothing_left(&pids).await;
    let summary = played?;
    left?;
    narrator.say(&format!("all {} processes are gone, and whatever they started", pids.len()));
    narrator.plain("");
    for line in summary {
        narrator.plain(&line);
    }
    Ok(())
}

/// One run, until its summary.
async fn play(fleet: &LocalFleet, exercises: &[Exercise], narrator: &mut Narrator) -> Result<Vec<String>> {
    let plan = fleet.processes().plan();
    narrator.say(&format!(
        "starting {} processes: {} coordinators, {} agents and {} standing by",
        plan.processes.len(),
        plan.coordinators.len(),
        plan.agents.0,
        plan.agents.1
    ));
    let client = fleet.client()?;
    let status = fleet.whole(&client, READY).await?;
    narrator.say(&format!("the fleet is whole; {} leads in term {}", status.leader, status.term));
    let specialists = exercises.iter().filter(|exercise| work::is_for_specialists(&exercise.spec)).count();
    narrator.say(&format!(
        "{TASKS} passages of a text: {} to be counted by workers, {specialists} to be turned to upper case by specialists",
        TASKS - specialists
    ));
    let mut run = Run { fleet, client, narrator, ledger: Ledger::new(exercises), waves: JoinSet::new() };
    run.compute(exercises).await?;
    run.conclude().await
}

/// A run in progress.
struct Run<'a> {
    fleet: &'a LocalFleet,
    client: FleetClient,
    narrator: &'a mut Narrator,
    ledger: Ledger<'a>,
    /// Submissions, aborted when this is dropped.
    waves: JoinSet<Result<()>>,
}

impl Run<'_> {
    /// Submits everything, kills on the way, and waits for every result.
    async fn compute(&mut self, exercises: &[Exercise]) -> Result<()> {
        let (sender, mut events) = mpsc::channel(EVENTS);
        let specs = |range: std::ops::Range<usize>| exercises[range].iter().map(|e| e.spec.clone()).collect();
        let first = TASKS - HELD_BACK;
        self.waves.spawn(submit(self.client.clone(), 0, specs(0..first), sender.clone()));
        let mut held_back = Some((specs(first..TASKS), sender));
        while self.ledger.finished() < TASKS {
            tokio::select! {
                event = events.recv() => {
                    let (index, event) = event.context("the submissions ended before every result was told")?;
                    self.ledger.note(index, event)?;
                }
                Some(wave) = self.waves.join_next() => wave.context("a submission broke")??,
            }
            let finished = self.ledger.finished();
            self.narrator.progress(finished, TASKS);
            if finished >= KILL_AGENT_AT && self.ledger.agent_kill.is_none() {
                self.kill_agent().await?;
            }
            if finished >= KILL_LEADER_AT
                && let Some((specs, sender)) = held_back.take()
            {
                self.kill_leader().await?;
                self.waves.spawn(submit(self.client.clone(), first, specs, sender));
            }
        }
        Ok(())
    }

    async fn kill_agent(&mut self) -> Result<()> {
        let busy = busy_agents(&self.client).await?;
        // A worker, because it is their pool that has a standby.
        let victim = busy.iter().find(|agent| agent.role() == robeing_proto::v1::Role::Worker);
        let victim = victim.context("no worker was running a task, so there is nothing to take over")?;
        signal(victim.pid, Signal::SIGKILL)?;
        self.ledger.agent_kill = Some((victim.name.clone(), SystemTime::now()));
        let line = format!("SIGKILL {} (process {}) with {} tasks running", victim.name, victim.pid, victim.used_slots);
        self.narrator.say(&line);
        Ok(())
    }

    async fn kill_leader(&mut self) -> Result<()> {
        let status = self.client.status(Consistency::Linearizable).await?;
        let pid = self.fleet.leader_pid(&status)?;
        let running = status.tasks.unwrap_or_default().running;
        signal(pid, Signal::SIGKILL)?;
        self.ledger.leader_kill = Some((status.leader.clone(), Instant::now()));
        let line = format!("SIGKILL the leader {} (process {pid}) with {running} tasks running", status.leader);
        self.narrator.say(&line);
        Ok(())
    }

    /// Checks what the fleet itself has to say and sums up.
    async fn conclude(&mut self) -> Result<Vec<String>> {
        self.narrator.say("every result is in; each is compared with the right answer, computed here");
        let status = self.client.status(Consistency::Linearizable).await?;
        let takeovers = self.ledger.takeovers();
        ensure!(!takeovers.is_empty(), "the agent that was killed had no task that was taken over");
        check_totals(&status)?;
        let (killed_leader, accepted_after) =
            self.ledger.leader_change().context("no task was accepted after the leader's end")?;
        let took = self.ledger.took();
        let mut lines = vec![
            format!("tasks      {TASKS} accepted, {TASKS} finished once, {TASKS} right answers"),
            format!(
                "speed      {:.0} tasks/s over {:.2} s, both failures included",
                TASKS as f64 / took.as_secs_f64(),
                took.as_secs_f64()
            ),
        ];
        lines.extend(takeovers.iter().map(Takeover::to_string));
        lines.push(format!(
            "leader     {killed_leader} killed; the next task was accepted after {} ms; now {} leads in term {}",
            accepted_after.as_millis(),
            status.leader,
            status.term
        ));
        lines.push(format!(
            "refused    {} late results of attempts that were no longer current",
            status.stale_refused_total
        ));
        Ok(lines)
    }
}

/// The fleet must have counted every task exactly once.
fn check_totals(status: &FleetStatus) -> Result<()> {
    let totals = status.finished_total.unwrap_or_default();
    let succeeded = totals.succeeded as usize;
    ensure!(succeeded == TASKS, "the fleet counts {succeeded} tasks that succeeded, and {TASKS} were submitted");
    let others = totals.failed + totals.cancelled + totals.dead_lettered;
    ensure!(others == 0, "the fleet counts {others} tasks that did not succeed");
    Ok(())
}

/// Submits tasks and tells what becomes of them, counted from `first`.
async fn submit(
    client: FleetClient,
    first: usize,
    specs: Vec<TaskSpec>,
    events: mpsc::Sender<(usize, SubmitEvent)>,
) -> Result<()> {
    let options = SubmitOptions { wait: true, ..SubmitOptions::default() };
    let told = client.submit_many(specs, options, |event| {
        let (SubmitEvent::Submitted { index, .. }
        | SubmitEvent::Finished { index, .. }
        | SubmitEvent::Expired { index, .. }) = &event;
        let index = first + index;
        // There is room for all; when nobody listens any more, this is about to be aborted.
        let _ = events.try_send((index, event));
    });
    Ok(told.await?)
}
