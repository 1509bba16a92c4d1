//! The course of the demo, independent of where the fleet runs: submits the tasks, kills an agent and then the leader
//! in the middle, checks every result, and returns a summary.

use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use robeing_client::{FleetClient, SubmitEvent, SubmitOptions};
use robeing_proto::v1::{Agent, Consistency, FleetStatus, Role, TaskSpec};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{
    ledger::{Ledger, Takeover},
    narrator::Narrator,
    work::{Exercise, TASKS, is_for_specialists},
};
use crate::local_fleet::busy_agents;

/// The number of tasks that are submitted only after the leader is gone, to measure when the next one is accepted.
const HELD_BACK: usize = 100;
/// The number of results after which an agent is killed.
const STRIKE_AGENT_AT: usize = TASKS / 3;
/// The number of results after which the leader is killed; less than the number of tasks submitted by then.
const STRIKE_LEADER_AT: usize = (TASKS - HELD_BACK) * 3 / 4;
/// The capacity of the channel of submission events: enough for all of them, the acceptance and the end of each task.
const EVENTS: usize = 2 * TASKS;

/// A place where a fleet runs, with the means to kill its members.
pub(super) trait Stage {
    /// What happened to the agent and the leader, in the past tense.
    const STRUCK: &'static str;
    /// Whether a killed agent has no time to finish or hand back its tasks.
    const SUDDEN: bool;

    /// Kills an agent and returns a description of how.
    async fn strike_agent(&self, agent: &Agent) -> Result<String>;

    /// Kills the leader that a status names and returns a description of how.
    async fn strike_leader(&self, status: &FleetStatus) -> Result<String>;
}

/// Runs the demo on a fleet that is complete, and returns the summary.
pub(super) async fn play(
    stage: &impl Stage,
    client: FleetClient,
    exercises: &[Exercise],
    narrator: &mut Narrator,
) -> Result<Vec<String>> {
    let specialists = exercises.iter().filter(|exercise| is_for_specialists(&exercise.spec)).count();
    narrator.say(&format!(
        "{TASKS} passages of a text: {} for workers to count, {specialists} for specialists to turn to upper case",
        TASKS - specialists
    ));
    let mut run = Run { stage, client, narrator, ledger: Ledger::new(exercises), waves: JoinSet::new() };
    run.compute(exercises).await?;
    run.conclude().await
}

/// A run in progress.
struct Run<'a, S> {
    stage: &'a S,
    client: FleetClient,
    narrator: &'a mut Narrator,
    ledger: Ledger<'a>,
    /// The submissions, aborted when this is dropped.
    waves: JoinSet<Result<()>>,
}

impl<S: Stage> Run<'_, S> {
    /// Submits everything, kills the agent and the leader at their time, and waits for every result.
    async fn compute(&mut self, exercises: &[Exercise]) -> Result<()> {
        let (sender, mut events) = mpsc::channel(EVENTS);
        let specs = |range: std::ops::Range<usize>| exercises[range].iter().map(|e| e.spec.clone()).collect();
        let first = TASKS - HELD_BACK;
        self.waves.spawn(submit(self.client.clone(), 0, specs(0..first), sender.clone()));
        let mut held_back = Some((specs(first..TASKS), sender));
        while self.ledger.finished() < TASKS {
            tokio::select! {
                event = events.recv() => {
                    let (index, event) = event.context("the submissions ended before every result was received")?;
                    self.ledger.note(index, event)?;
                }
                Some(wave) = self.waves.join_next() => wave.context("a submission panicked")??,
            }
            let finished = self.ledger.finished();
            self.narrator.progress(finished, TASKS);
            if finished >= STRIKE_AGENT_AT && self.ledger.agent_kill.is_none() {
                self.strike_agent().await?;
            }
            if finished >= STRIKE_LEADER_AT
                && let Some((specs, sender)) = held_back.take()
            {
                self.strike_leader().await?;
                self.waves.spawn(submit(self.client.clone(), first, specs, sender));
            }
        }
        Ok(())
    }

    async fn strike_agent(&mut self) -> Result<()> {
        let busy = busy_agents(&self.client).await?;
        // A worker, because only the workers' pool has a standby.
        let victim = busy.iter().find(|agent| agent.role() == Role::Worker);
        let victim = victim.context("no worker was running a task, so there is nothing to take over")?;
        let line = self.stage.strike_agent(victim).await?;
        self.ledger.agent_kill = Some((victim.name.clone(), SystemTime::now()));
        self.narrator.say(&format!("{line}, with {} tasks running", victim.used_slots));
        Ok(())
    }

    async fn strike_leader(&mut self) -> Result<()> {
        let status = self.client.status(Consistency::Linearizable).await?;
        let running = status.tasks.unwrap_or_default().running;
        let line = self.stage.strike_leader(&status).await?;
        self.ledger.leader_kill = Some((status.leader.clone(), Instant::now()));
        self.narrator.say(&format!("{line}, with {running} tasks running"));
        Ok(())
    }

    /// Checks the fleet's own status and returns the summary.
    async fn conclude(&mut self) -> Result<Vec<String>> {
        self.narrator.say("all results received; each is the same as the answer computed here");
        let status = self.client.status(Consistency::Linearizable).await?;
        let takeovers = self.ledger.takeovers();
        ensure!(!(S::SUDDEN && takeovers.is_empty()), "no task of the killed agent was taken over");
        check_totals(&status)?;
        let (killed_leader, accepted_after) =
            self.ledger.leader_change().context("no task was accepted after the leader was killed")?;
        let took = self.ledger.took();
        let mut lines = vec![
            format!("tasks      {TASKS} accepted, {TASKS} finished once, {TASKS} right answers"),
            format!(
                "speed      {:.0} tasks/s over {:.2} s, both failures included",
                TASKS as f64 / took.as_secs_f64(),
                took.as_secs_f64()
            ),
        ];
        if takeovers.is_empty() {
            lines.push(format!("agent      {}: it finished its tasks and left; nothing was lost", S::STRUCK));
        }
        lines.extend(takeovers.iter().map(Takeover::to_string));
        lines.push(format!(
            "leader     {killed_leader} {}; the next task was accepted after {} ms; now {} leads in term {}",
            S::STRUCK,
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

/// Checks that the fleet has counted every task exactly once.
fn check_totals(status: &FleetStatus) -> Result<()> {
    let totals = status.finished_total.unwrap_or_default();
    let succeeded = totals.succeeded as usize;
    ensure!(succeeded == TASKS, "the fleet counts {succeeded} tasks that succeeded, but {TASKS} were submitted");
    let others = totals.failed + totals.cancelled + totals.dead_lettered;
    ensure!(others == 0, "the fleet counts {others} tasks that did not succeed");
    Ok(())
}

/// Submits tasks and sends their events with indexes that start at `first`.
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
        | SubmitEvent::Expired { index, .. }
        | SubmitEvent::NotTaken { index }) = &event;
        let index = first + index;
        // The channel has room for all events; if it is closed, this task is about to be aborted.
        let _ = events.try_send((index, event));
    });
    Ok(told.await?)
}
