//! Wall clocks that jump by hours and drift, on any host and for as long as the run lasts, and the check that this
//! affects no duration.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use robeing_coordinator::raft::audit::{STAMPED, TIMES};
use robeing_platform::{
    Clock,
    simulated::{SeededRandom, WrongClock},
};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use crate::clients::below;

/// Clocks are set until this time; their errors remain.
const UNTIL: Duration = Duration::from_secs(60);
/// The largest error of a clock, in either direction, in milliseconds.
const MOST: u64 = 3 * 3_600_000;
/// The largest drift of a clock, in either direction, in thousandths.
const DRIFT: u64 = 300;

/// The wall clocks of all hosts.
#[derive(Clone)]
pub struct WallClocks {
    go_wrong: bool,
    clocks: Rc<RefCell<BTreeMap<String, WrongClock>>>,
    random: Rc<SeededRandom>,
    next: Rc<RefCell<Duration>>,
}

impl WallClocks {
    /// Creates the clocks of a run.
    pub fn new(seed: u64, go_wrong: bool) -> Self {
        let random = Rc::new(SeededRandom::new(seed ^ 0x636c_6f63_6b73));
        Self { go_wrong, clocks: Rc::default(), random, next: Rc::default() }
    }

    /// Returns the clock of a host; its error persists when the host's process is restarted.
    pub fn of(&self, host: &str, right: Arc<dyn Clock>) -> Arc<dyn Clock> {
        let mut clocks = self.clocks.borrow_mut();
        Arc::new(clocks.entry(host.to_owned()).or_insert_with(|| WrongClock::new(right)).clone())
    }

    /// Occasionally sets a clock; returns whether one was set.
    pub fn step(&self, now: Duration) -> bool {
        let mut next = self.next.borrow_mut();
        let clocks = self.clocks.borrow();
        if !self.go_wrong || now < *next || now > UNTIL || clocks.is_empty() {
            return false;
        }
        let random = &*self.random;
        *next = now + Duration::from_millis(1 + below(random, 3_000));
        let signed = |most: u64| below(random, 2 * most + 1).cast_signed() - most.cast_signed();
        let ahead = match below(random, 3) {
            0 => 0,
            _ => signed(MOST),
        };
        let drift = signed(DRIFT);
        let chosen = below(random, clocks.len() as u64) as usize;
        let Some(clock) = clocks.values().nth(chosen) else { return false };
        clock.set(ahead, drift);
        true
    }
}

/// The times of one log entry.
#[derive(Clone, Copy)]
struct Entry {
    stamped: u64,
    now: u64,
    due: u64,
}

/// When fleet times were stamped, and the entries that were applied.
#[derive(Default)]
struct Seen {
    now: Duration,
    /// For each fleet time, the first and the last moment at which a batch was stamped with it.
    stamped: BTreeMap<u64, (Duration, Duration)>,
    entries: BTreeMap<u64, Entry>,
}

/// The times of a run. Clones share them.
#[derive(Clone, Default)]
pub struct Times(Arc<Mutex<Seen>>);

/// The tolerance of every bound for rounding, in milliseconds.
const ROUNDING: u64 = 5;
/// How late something may be while nothing is wrong with the fleet, in milliseconds.
const LATE: u64 = 1_000;

impl Times {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the simulated time of the current step.
    pub fn set(&self, now: Duration) {
        self.seen().now = now;
    }

    /// Returns when the batch of a log entry was stamped.
    pub fn stamped_at(&self, index: u64) -> Option<Duration> {
        let seen = self.seen();
        let entry = seen.entries.get(&index)?;
        seen.stamped.get(&entry.stamped).map(|(first, _)| *first)
    }

    /// Returns the fleet time after a log entry, in milliseconds.
    pub fn fleet_time(&self, index: u64) -> Option<u64> {
        self.seen().entries.get(&index).map(|entry| entry.now)
    }

    /// Returns the durations that ended outside their bounds: too early at any time, or too late after `calm`, when
    /// nothing but clocks is wrong.
    pub fn violations(&self, calm: Duration) -> Vec<String> {
        let seen = self.seen();
        let real = |entry: &Entry| seen.stamped.get(&entry.stamped).copied();
        let entries: Vec<(Entry, (Duration, Duration))> =
            seen.entries.values().filter_map(|entry| Some((*entry, real(entry)?))).collect();
        let mut found = Vec::new();
        for (n, (start, (from, _))) in entries.iter().enumerate() {
            for (end, (_, to)) in &entries[n + 1..] {
                let passed = to.saturating_sub(*from).as_millis() as u64;
                let took = end.now.saturating_sub(start.now);
                if took > passed + passed / 20 + ROUNDING {
                    found.push(format!("{took} ms of fleet time passed within {passed} ms, from {from:?} on"));
                }
            }
        }
        let calm: Vec<(Entry, (Duration, Duration))> = entries.into_iter().filter(|(_, (_, at))| *at >= calm).collect();
        for (n, (start, (_, from))) in calm.iter().enumerate() {
            for (end, (to, _)) in &calm[n + 1..] {
                let passed = to.saturating_sub(*from).as_millis() as u64;
                let took = end.now.saturating_sub(start.now);
                if took + passed / 20 + LATE < passed {
                    found.push(format!("{took} ms of fleet time passed within {passed} ms, from {from:?} on"));
                }
            }
        }
        for pair in calm.windows(2) {
            let [(start, _), (end, (to, _))] = pair else { continue };
            if start.due.max(start.now) + LATE < end.now {
                found.push(format!("a timer that was due at {} fired at {}, at {to:?}", start.due, end.now));
            }
        }
        found
    }
}

#[derive(Default)]
struct Fields {
    is_stamp: bool,
    index: u64,
    entry: [u64; 3],
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.is_stamp |= field.name() == "message" && format!("{value:?}") == STAMPED;
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "index" => self.index = value,
            "stamped" => self.entry[0] = value,
            "now" => self.entry[1] = value,
            "due" => self.entry[2] = value,
            _ => {}
        }
    }
}

impl<S: Subscriber> Layer<S> for Times {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != TIMES {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let [stamped, now, due] = fields.entry;
        let mut seen = self.seen();
        let at = seen.now;
        if fields.is_stamp {
            seen.stamped.entry(stamped).or_insert((at, at)).1 = at;
        } else {
            seen.entries.entry(fields.index).or_insert(Entry { stamped, now, due });
        }
    }
}
