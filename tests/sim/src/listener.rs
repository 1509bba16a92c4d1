//! Listens to the events of a run, adds them to its checksum, and records what some of them report.

use std::fmt::Write as _;

use robeing_coordinator::raft::audit::{
    APPLIED, SNAPSHOT_INSTALLED, SNAPSHOT_WRITTEN, TIMES, VOTE_FOUND, VOTE_GIVEN, VOTES,
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

use crate::{
    clocks::Times,
    record::{Applied, Assigned, Notes, Record},
    state::State,
};

/// The consensus library. Its events contain real times, which differ between runs.
const LIBRARY: &str = "openraft";
/// The shipped code's message when a coordinator's role changes.
const LEADERSHIP: &str = "leadership changed";
/// An agent's message when it has a session.
const OPENED: &str = "the session is open";
/// An agent's message when it has lost its leader.
const LOST: &str = "the connection to the leader is lost; looking for the leader";

/// Starts to listen to every event of a run, and prints them all if `verbose`.
pub fn listen(record: &Record, times: &Times, verbose: bool) {
    let listener = Listener { record: record.clone(), verbose };
    tracing_subscriber::registry().with(listener).with(times.clone()).init();
}

struct Listener {
    record: Record,
    verbose: bool,
}

/// The fields of an event, as text and parsed.
#[derive(Default)]
struct Fields {
    line: String,
    message: String,
    raft_role: String,
    index: u64,
    checksum: u64,
    node: u64,
    vote: (u64, u64),
    finished: String,
    assigned: String,
    sessions: String,
    silent: String,
    granted: String,
    teams: String,
    queued: String,
    schedules: String,
    broken: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "raft_role" => self.raft_role = format!("{value:?}"),
            _ => {}
        }
        let _ = write!(self.line, " {}={value:?}", field.name());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "index" => self.index = value,
            "checksum" => self.checksum = value,
            "node" => self.node = value,
            "term" => self.vote.0 = value,
            "candidate" => self.vote.1 = value,
            _ => {}
        }
        self.record_debug(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "finished" => self.finished = value.to_owned(),
            "assigned" => self.assigned = value.to_owned(),
            "sessions" => self.sessions = value.to_owned(),
            "silent" => self.silent = value.to_owned(),
            "granted" => self.granted = value.to_owned(),
            "teams" => self.teams = value.to_owned(),
            "queued" => self.queued = value.to_owned(),
            "schedules" => self.schedules = value.to_owned(),
            "broken" => self.broken = value.to_owned(),
            _ => {}
        }
        self.record_debug(field, &value);
    }
}

fn assigned(text: &str) -> Option<Assigned> {
    let mut words = text.split(' ');
    let (agent, slots, task, attempt) = (words.next()?, words.next()?, words.next()?, words.next()?);
    Some(Assigned {
        agent: agent.to_owned(),
        slots: slots.parse().ok()?,
        task: task.to_owned(),
        attempt: attempt.parse().ok()?,
    })
}

/// Parses the number of a session, and the name of its agent if it begins.
fn session(text: &str) -> Option<(u64, Option<String>)> {
    let mut words = text.split(' ');
    Some((words.next()?.parse().ok()?, words.next().map(str::to_owned)))
}

/// Parses the term from a leader's role.
fn term(raft_role: &str) -> Option<u64> {
    let digits = raft_role.strip_prefix("Leading { term: ")?.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn note(notes: &mut Notes, target: &str, fields: Fields) {
    match fields.message.as_str() {
        SNAPSHOT_WRITTEN => notes.snapshots_written += 1,
        SNAPSHOT_INSTALLED => notes.snapshots_installed += 1,
        LEADERSHIP => {
            let name = notes.running.clone();
            notes.leadership_changed = notes.now;
            match term(&fields.raft_role) {
                Some(term) => notes.leads(name, term),
                None => drop(notes.leading.remove(&name)),
            }
        }
        OPENED | LOST => {
            let (name, now) = (notes.running.clone(), notes.now);
            let agent = notes.agents.entry(name).or_default();
            if fields.message == OPENED { agent.opened.push(now) } else { agent.disturbed.push(now) }
        }
        VOTE_GIVEN | VOTE_FOUND if target == VOTES => {
            notes.vote(fields.node, fields.vote, fields.message == VOTE_GIVEN);
        }
        _ => {}
    }
    if target == APPLIED {
        let applied = Applied {
            checksum: fields.checksum,
            finished: fields.finished.split_whitespace().map(str::to_owned).collect(),
            assigned: fields.assigned.split(',').filter_map(assigned).collect(),
            sessions: fields.sessions.split(',').filter_map(session).collect(),
            silent: fields.silent.split_whitespace().map(str::to_owned).collect(),
        };
        let state = State::of(&fields.granted, &fields.teams, &fields.schedules, &fields.queued);
        notes.applied(fields.index, applied, state, &fields.broken);
    }
}

impl<S: Subscriber> Layer<S> for Listener {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let target = metadata.target();
        match *metadata.level() {
            Level::TRACE => [APPLIED, VOTES, TIMES].contains(&target),
            Level::DEBUG => target.starts_with("robeing"),
            Level::INFO if target.starts_with(LIBRARY) => self.verbose,
            _ => [LIBRARY, "robeing"].iter().any(|known| target.starts_with(known)),
        }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let target = event.metadata().target();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut notes = self.record.notes();
        let line = format!("{:>9.3} {} {target}:{}", notes.now.as_secs_f64(), notes.running, fields.line);
        if self.verbose {
            eprintln!("{line}");
        }
        if target.starts_with(LIBRARY) {
            return;
        }
        notes.events += 1;
        notes.trace = crc32c::crc32c_append(notes.trace, line.as_bytes());
        note(&mut notes, target, fields);
    }
}
