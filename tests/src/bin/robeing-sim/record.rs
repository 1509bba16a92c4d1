//! What happened in a run: a checksum over every event, which must be the same when the seed is run again; what each
//! coordinator applied; what submitters were told.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use robeing_agent::coordinator::consensus::audit::{APPLIED, SNAPSHOT_INSTALLED, SNAPSHOT_WRITTEN};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

/// The consensus library. Its events name real times, which differ from run to run.
const LIBRARY: &str = "openraft";

/// What followed from one log entry.
#[derive(Clone, PartialEq, Debug)]
pub struct Applied {
    /// Of the state after it.
    pub checksum: u64,
    /// The tasks that ended with it.
    pub finished: Vec<String>,
}

/// A task that a submitter was told is accepted.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// Whether somebody asked to cancel it.
    pub cancelled: bool,
    /// How it ended, as first read: everything that must never change.
    pub ended: Option<String>,
}

/// Everything noted of a run.
#[derive(Default)]
pub struct Notes {
    /// Log entries by index.
    pub applied: BTreeMap<u64, Applied>,
    /// Accepted tasks by id.
    pub accepted: BTreeMap<String, Accepted>,
    /// How often each attempt was begun by an executor.
    pub begun: BTreeMap<(String, u32), u32>,
    /// Faults injected, by kind.
    pub faults: BTreeMap<&'static str, u32>,
    /// Snapshots that coordinators wrote.
    pub snapshots_written: u32,
    /// Snapshots that they got from their leader.
    pub snapshots_installed: u32,
    /// What must not have happened.
    pub violations: Vec<String>,
    /// Simulated time at the beginning of this step.
    pub now: Duration,
    /// Events that went into the checksum.
    pub events: u64,
    trace: u32,
}

/// The notes of a run, shared by all hosts.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Notes>>);

impl Record {
    /// The notes.
    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes something that must not happen.
    pub fn violation(&self, what: String) {
        tracing::error!(target: "robeing_sim", what, "violation");
        self.notes().violations.push(what);
    }

    /// The checksum over all events so far.
    pub fn trace(&self) -> u32 {
        self.notes().trace
    }

    /// Listens to every event of the run.
    pub fn listen(&self, verbose: bool) {
        let recorder = Recorder { record: self.clone(), verbose };
        tracing_subscriber::registry().with(recorder).init();
    }
}

impl Notes {
    fn applied(&mut self, index: u64, applied: Applied, broken: &str) {
        if !broken.is_empty() {
            self.violations.push(format!("after entry {index} the state is inconsistent: {broken}"));
        }
        match self.applied.get(&index) {
            Some(known) if *known != applied => {
                self.violations.push(format!("coordinators differ after entry {index}: {known:?} and {applied:?}"));
            }
            Some(_) => {}
            None => drop(self.applied.insert(index, applied)),
        }
    }
}

struct Recorder {
    record: Record,
    verbose: bool,
}

/// Fields of an event, written out.
#[derive(Default)]
struct Fields {
    line: String,
    message: String,
    index: u64,
    checksum: u64,
    finished: String,
    broken: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
        let _ = write!(self.line, " {}={value:?}", field.name());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "index" => self.index = value,
            "checksum" => self.checksum = value,
            _ => {}
        }
        self.record_debug(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "finished" => self.finished = value.to_owned(),
            "broken" => self.broken = value.to_owned(),
            _ => {}
        }
        self.record_debug(field, &value);
    }
}

impl<S: Subscriber> Layer<S> for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let target = metadata.target();
        match *metadata.level() {
            // The network's own account of every packet, and what was applied.
            Level::TRACE => target == "turmoil" || target == APPLIED,
            Level::DEBUG => target.starts_with("robeing"),
            Level::INFO if target.starts_with(LIBRARY) => self.verbose,
            _ => [LIBRARY, "robeing", "turmoil"].iter().any(|known| target.starts_with(known)),
        }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let target = event.metadata().target();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut notes = self.record.notes();
        let line = format!("{:>9.3} {target}:{}", notes.now.as_secs_f64(), fields.line);
        if self.verbose && target != "turmoil" {
            eprintln!("{line}");
        }
        if target.starts_with(LIBRARY) {
            return;
        }
        notes.events += 1;
        notes.trace = crc32c::crc32c_append(notes.trace, line.as_bytes());
        match fields.message.as_str() {
            SNAPSHOT_WRITTEN => notes.snapshots_written += 1,
            SNAPSHOT_INSTALLED => notes.snapshots_installed += 1,
            _ => {}
        }
        if target == APPLIED {
            let finished = fields.finished.split_whitespace().map(str::to_owned).collect();
            notes.applied(fields.index, Applied { checksum: fields.checksum, finished }, &fields.broken);
        }
    }
}
