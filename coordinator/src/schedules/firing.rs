//! Fires the schedules that are due, as leader. What a firing decides is decided by the state machine once, so a leader that
//! was replaced without knowing it, and one that proposes a firing again, do no harm.
//!
//! The leader waits for the schedule that is due first, so schedules that are not due cost nothing, however many there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use robeing_cron::{MAX_COUNTED, Timetable};
use robeing_fleet::{
    Command, FireSchedule, Refusal, Reply, Schedule, ScheduleCommand, SubmitTask, UnixMillis,
    limits::{MAX_COUNTED_MISSED, MAX_MISSED_RUNS, MAX_PROBLEM_BYTES, MAX_SCHEDULE_INPUT_BYTES},
};
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
    propose::{MAX_REQUEST_BYTES, Proposer, Sender},
    read::StateReader,
};

/// Maximum number of schedules that are fired at once, and number of firings from which on no other schedules are.
const MAX_AT_ONCE: usize = 128;
/// Bytes of firings from which on no other schedules are fired at once.
const MAX_BYTES_AT_ONCE: usize = 1024 * 1024;
/// Most bytes of a firing besides its input and its problem, with what a command counts for in a request.
const FIRING_BYTES: usize = 256;
/// Longest time without a look while a schedule is due later: the fleet's wall time may jump ahead.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Shortest wait for a schedule to be due.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// Pause before firings are proposed again that could not be written.
const RETRY: Duration = Duration::from_millis(500);
/// First pause of a schedule for whose run there is no room; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

const _: () = {
    // A request has room for all firings of one schedule more.
    let of_one = MAX_MISSED_RUNS as usize * (MAX_SCHEDULE_INPUT_BYTES + MAX_PROBLEM_BYTES + FIRING_BYTES);
    assert!(MAX_BYTES_AT_ONCE + of_one <= MAX_REQUEST_BYTES);
    // The state machine takes what is counted.
    assert!(MAX_COUNTED + MAX_MISSED_RUNS as u64 <= MAX_COUNTED_MISSED);
};

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

/// The firings that are proposed at once. A request that is too large would never be written.
#[derive(Default)]
struct Proposal {
    commands: Vec<Command>,
    bytes: usize,
}

impl Proposal {
    fn add(&mut self, fire: FireSchedule) {
        let problem = fire.problem.as_ref().map_or(0, String::len);
        self.bytes += FIRING_BYTES + fire.input.as_ref().map_or(0, Bytes::len) + problem;
        self.commands.push(Command::Schedule(ScheduleCommand::Fire(Box::new(fire))));
    }

    /// Returns whether other schedules have to wait for the next one.
    fn is_full(&self) -> bool {
        self.commands.len() >= MAX_AT_ONCE || self.bytes >= MAX_BYTES_AT_ONCE
    }
}

/// Cuts why a run does not start, as the state machine does.
fn cut(mut problem: String) -> String {
    problem.truncate(problem.floor_char_boundary(MAX_PROBLEM_BYTES));
    problem
}

/// Returns the refusal of an input that policies have made larger than that of a schedule may be.
fn too_large(input: &Bytes) -> Option<String> {
    let bytes = input.len();
    (bytes > MAX_SCHEDULE_INPUT_BYTES).then(|| {
        format!(
            "policies make its input {bytes} bytes long, and that of a schedule has at most {MAX_SCHEDULE_INPUT_BYTES}"
        )
    })
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
        let mut proposal = Proposal::default();
        for (at, schedule) in &due.schedules {
            self.firings(schedule, *at, wall, memory).await.into_iter().for_each(|fire| proposal.add(fire));
            // The others are found by the next look.
            if proposal.is_full() {
                break;
            }
        }
        let commands = proposal.commands;
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

    /// Returns the firings of a schedule, which is due. None if there is no room for its task: it is paused then.
    async fn firings(
        &self,
        schedule: &Schedule,
        at: UnixMillis,
        wall: UnixMillis,
        memory: &mut Memory,
    ) -> Vec<FireSchedule> {
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
            refused = self.policies.check_run(&mut task, &schedule.set_by).await.or_else(|| too_large(&task.input));
            input = Some(task.input).filter(|input| refused.is_none() && *input != schedule.spec.task.input);
        }
        let why = memory.paused.get(&schedule.seq).map(|pause| pause.why.clone()).filter(|why| !why.is_empty());
        let fire = |firing: Firing| {
            let Firing { due, run_at, missed, next } = firing;
            let problem = if run_at.is_some() { &refused } else { &why };
            let problem = problem.clone().map(cut);
            let (schedule, generation, input) = (schedule.seq, schedule.generation, input.clone());
            FireSchedule { schedule, generation, due, run_at, next, missed, input, problem }
        };
        firings.into_iter().map(fire).collect()
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
                other => {
                    warn!(?other, "an unexpected reply to the firing of a schedule");
                    memory.pause(fire.schedule, String::new(), now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::propose::encoded;

    fn fire(input: usize, problem: usize) -> FireSchedule {
        FireSchedule {
            schedule: u64::MAX,
            generation: u64::MAX,
            due: u64::MAX,
            run_at: Some(u64::MAX),
            next: Some(u64::MAX),
            missed: u64::MAX,
            input: Some(vec![0; input].into()),
            problem: Some("x".repeat(problem)),
        }
    }

    #[test]
    fn what_is_proposed_at_once_fits_in_a_request_with_the_largest_firings_of_one_schedule_more() {
        let mut proposal = Proposal::default();
        proposal.add(fire(MAX_BYTES_AT_ONCE - FIRING_BYTES - 1, 0));
        assert!(!proposal.is_full());
        for _ in 0..MAX_MISSED_RUNS {
            proposal.add(fire(MAX_SCHEDULE_INPUT_BYTES, MAX_PROBLEM_BYTES));
        }
        assert!(proposal.is_full());
        // What each command counts for besides its bytes is half of this.
        let sizes = proposal.commands.iter().map(|command| encoded(command).len() + FIRING_BYTES / 2);
        let bytes: usize = sizes.sum();
        assert!(bytes <= proposal.bytes && proposal.bytes <= MAX_REQUEST_BYTES, "{bytes}, {}", proposal.bytes);
        let mut small = Proposal::default();
        (1..MAX_AT_ONCE).for_each(|_| small.add(fire(0, 0)));
        assert!(!small.is_full());
        small.add(fire(0, 0));
        assert!(small.is_full());
    }

    #[test]
    fn a_problem_is_cut_between_characters_and_an_input_has_a_limit() {
        assert_eq!(cut("x".repeat(MAX_PROBLEM_BYTES)).len(), MAX_PROBLEM_BYTES);
        assert_eq!(cut("x".to_owned() + &"ä".repeat(MAX_PROBLEM_BYTES)).len(), MAX_PROBLEM_BYTES - 1);
        assert_eq!(too_large(&vec![0; MAX_SCHEDULE_INPUT_BYTES].into()), None);
        assert!(
            too_large(&vec![0; MAX_SCHEDULE_INPUT_BYTES + 1].into()).is_some_and(|why| why.contains("65537 bytes"))
        );
    }

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
