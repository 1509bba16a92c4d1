//! Fires the schedules that are due, as leader. What a firing decides is decided by the state machine once, so a leader that
//! was replaced without knowing it, and one that proposes a firing again, do no harm.
//!
//! The leader waits for the schedule that is due first, so schedules that are not due cost nothing, however many there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use robeing_cron::Timetable;
use robeing_fleet::{Command, FireSchedule, Refusal, Reply, Schedule, ScheduleCommand, SubmitTask, UnixMillis};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{
    plan::{Firing, firings},
    timetable,
};
use crate::{
    apply::observer::ApplyObserver,
    clock::FleetClock,
    leader::{
        role::{until_leading, until_not_leading},
        standing::Standing,
    },
    policies::Policies,
    propose::{Proposer, Sender},
    read::StateReader,
};

/// Maximum number of schedules that are fired at once.
const MAX_AT_ONCE: usize = 128;
/// Longest time without a look while a schedule is due later: the fleet's wall time may jump ahead.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Shortest wait for a schedule to be due.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// Pause before firings are proposed again that could not be written.
const RETRY: Duration = Duration::from_millis(500);
/// First pause of a schedule for whose run there is no room; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Fires schedules.
pub struct ScheduleFirer {
    pub standing: Standing,
    pub state: StateReader,
    pub proposer: Proposer,
    pub policies: Policies,
    pub observer: Arc<ApplyObserver>,
    pub clock: FleetClock,
}

/// A schedule for whose run there was no room.
struct Pause {
    until: Instant,
    length: Duration,
    why: String,
}

/// What a leader remembers of schedules, by their numbers. All of it may be lost.
#[derive(Default)]
struct Memory {
    /// The timetables that were read, each with the schedule's generation.
    timetables: BTreeMap<u64, (u64, Option<Timetable>)>,
    paused: BTreeMap<u64, Pause>,
}

impl Memory {
    /// Returns the timetable of a schedule; `None` if it can't be read here.
    fn timetable(&mut self, schedule: &Schedule) -> Option<&Timetable> {
        let read = || match timetable(&schedule.spec) {
            Ok(timetable) => Some(timetable),
            Err(error) => {
                warn!(schedule = schedule.name, %error, "a schedule can't be fired");
                None
            }
        };
        let known = self.timetables.entry(schedule.seq).or_insert_with(|| (schedule.generation, read()));
        if known.0 != schedule.generation {
            *known = (schedule.generation, read());
        }
        known.1.as_ref()
    }

    fn is_paused(&self, schedule: u64, now: Instant) -> bool {
        self.paused.get(&schedule).is_some_and(|pause| pause.until > now)
    }

    fn pause(&mut self, schedule: u64, why: String, now: Instant) {
        let length = self.paused.get(&schedule).map_or(FIRST_PAUSE, |pause| (pause.length * 2).min(LONGEST_PAUSE));
        self.paused.insert(schedule, Pause { until: now + length, length, why });
    }

    /// Returns when the first pause ends.
    fn next_end(&self, now: Instant) -> Option<Duration> {
        self.paused.values().filter(|pause| pause.until > now).map(|pause| pause.until - now).min()
    }

    /// Forgets schedules that don't exist any more.
    fn forget(&mut self, exists: impl Fn(u64) -> bool) {
        self.timetables.retain(|schedule, _| exists(*schedule));
        self.paused.retain(|schedule, _| exists(*schedule));
    }
}

/// The schedules that are due.
struct Due {
    schedules: Vec<(UnixMillis, Arc<Schedule>)>,
    /// How long it takes until another one is due.
    next: Option<Duration>,
    /// There are more than are fired at once.
    has_more: bool,
}

impl ScheduleFirer {
    /// Fires schedules while this coordinator leads. Runs until the coordinator stops.
    pub async fn run(self) {
        let (mut raft_role, sender) = (self.standing.roles(), self.proposer.sender());
        loop {
            let Some(term) = until_leading(&mut raft_role).await else { return };
            let mut memory = Memory::default();
            loop {
                let wait = self.fire_due(sender, &mut memory).await;
                tokio::select! {
                    () = until_not_leading(&mut raft_role, term) => break,
                    // One may be due earlier now.
                    () = self.observer.schedules.notified() => {}
                    () = sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                }
            }
        }
    }

    /// Fires what is due. Returns how long to wait before the next look; `None`: until a schedule changes.
    async fn fire_due(&self, sender: Sender, memory: &mut Memory) -> Option<Duration> {
        let wall = self.clock.stamp().wall;
        let due = self.due(wall, memory);
        if due.schedules.is_empty() {
            let waits = [due.next, memory.next_end(Instant::now())].into_iter().flatten();
            return waits.min().map(|wait| wait.clamp(SHORTEST_WAIT, LOOK_EVERY));
        }
        let mut commands = Vec::new();
        for (at, schedule) in &due.schedules {
            commands.extend(self.commands(schedule, *at, wall, memory).await);
            // The others are found by the next look.
            if commands.len() >= MAX_AT_ONCE {
                break;
            }
        }
        if commands.is_empty() {
            // Each of them waits for room, or can't be read.
            return Some(if due.has_more { SHORTEST_WAIT } else { RETRY });
        }
        match self.proposer.propose(sender, &commands).await {
            Ok(replies) => {
                self.note(&commands, replies, memory);
                Some(SHORTEST_WAIT)
            }
            Err(error) => {
                debug!(%error, "schedules could not be fired; retrying");
                Some(RETRY)
            }
        }
    }

    /// Reads which schedules are due.
    fn due(&self, wall: UnixMillis, memory: &mut Memory) -> Due {
        let now = Instant::now();
        self.state.look(|fleet| {
            let mut due = Due { schedules: Vec::new(), next: None, has_more: false };
            for (at, schedule) in fleet.due_schedules() {
                if at > wall {
                    due.next = Some(Duration::from_millis(at - wall));
                    break;
                }
                if memory.is_paused(schedule.seq, now) {
                    continue;
                }
                if due.schedules.len() == MAX_AT_ONCE {
                    due.has_more = true;
                    break;
                }
                due.schedules.push((at, Arc::clone(schedule)));
            }
            if memory.timetables.len() > fleet.schedule_counts().kept as usize {
                let known: BTreeSet<u64> = fleet.due_schedules().map(|(_, schedule)| schedule.seq).collect();
                memory.forget(|schedule| known.contains(&schedule));
            }
            due
        })
    }

    /// Returns the commands that fire a schedule, which is due. None if there is no room for its task: it is paused then.
    async fn commands(
        &self,
        schedule: &Schedule,
        at: UnixMillis,
        wall: UnixMillis,
        memory: &mut Memory,
    ) -> Vec<Command> {
        let Some(timetable) = memory.timetable(schedule) else {
            memory.pause(schedule.seq, String::new(), Instant::now());
            return Vec::new();
        };
        let firings = firings(timetable, &schedule.spec, at, wall);
        let (mut input, mut refused) = (None, None);
        if firings.iter().any(|firing| firing.run_at.is_some()) {
            // Before it gets into the log, like any submission.
            let refusal = self.state.look(|fleet| fleet.refusal_of(&schedule.spec.task));
            if let Some(refusal) = refusal.filter(Refusal::is_for_want_of_room) {
                memory.pause(schedule.seq, refusal.to_string(), Instant::now());
                return Vec::new();
            }
            let mut task = SubmitTask::clone(&schedule.spec.task);
            refused = self.policies.check_run(&mut task, &schedule.set_by).await;
            input = Some(task.input).filter(|input| *input != schedule.spec.task.input);
        }
        let why = memory.paused.get(&schedule.seq).map(|pause| pause.why.clone()).filter(|why| !why.is_empty());
        let command = |firing: Firing| {
            let Firing { due, run_at, missed, next } = firing;
            let problem = if run_at.is_some() { refused.clone() } else { why.clone() };
            let (schedule, generation, input) = (schedule.seq, schedule.generation, input.clone());
            let fire = FireSchedule { schedule, generation, due, run_at, next, missed, input, problem };
            Command::Schedule(ScheduleCommand::Fire(Box::new(fire)))
        };
        firings.into_iter().map(command).collect()
    }

    /// Pauses the schedules for whose runs there was no room.
    fn note(&self, commands: &[Command], replies: Vec<Reply>, memory: &mut Memory) {
        let now = Instant::now();
        for (command, reply) in commands.iter().zip(replies) {
            let Command::Schedule(ScheduleCommand::Fire(fire)) = command else { continue };
            match reply {
                Reply::Refused(refusal) if refusal.is_for_want_of_room() => {
                    memory.pause(fire.schedule, refusal.to_string(), now);
                }
                Reply::ScheduleFired { .. } => drop(memory.paused.remove(&fire.schedule)),
                Reply::Refused(Refusal::ScheduleMoved { schedule }) => debug!(schedule, "it was decided meanwhile"),
                // Such as that the fleet's clock has gone back.
                Reply::Refused(refusal) => {
                    debug!(%refusal, "a schedule was not fired; retrying");
                    memory.pause(fire.schedule, String::new(), now);
                }
                other => warn!(?other, "an unexpected reply to the firing of a schedule"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pauses_of_a_schedule_without_room_grow_up_to_a_limit() {
        let mut memory = Memory::default();
        let mut lengths = Vec::new();
        for _ in 0..7 {
            let now = Instant::now();
            memory.pause(7, "the queue is full".to_owned(), now);
            let left = memory.next_end(now).expect("it is paused");
            assert!(memory.is_paused(7, now) && !memory.is_paused(8, now));
            tokio::time::advance(left).await;
            assert!(!memory.is_paused(7, Instant::now()) && memory.next_end(Instant::now()).is_none());
            lengths.push(left.as_secs());
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 30, 30]);
        memory.forget(|_| false);
        memory.pause(7, String::new(), Instant::now());
        assert_eq!(memory.next_end(Instant::now()), Some(FIRST_PAUSE), "a success starts over");
    }
}
