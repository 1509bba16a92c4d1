//! Everything that a run is held to: each promise of the fleet, and the check that fails when it is broken. Most checks are
//! made while the run goes on, where what they look at happens; those that need the whole run are here.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    history::{self, Verdict},
    record::Notes,
};

macro_rules! checks {
    ($($check:ident = $name:literal: $promise:literal,)+) => {
        /// A check. A violation begins with its name.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Check {
            $(#[doc = $promise] $check,)+
        }

        impl Check {
            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$check => $name,)+
                }
            }
        }

        /// Every check and the promise that it is about.
        pub const PROMISES: &[(&str, &str)] = &[$(($name, $promise)),+];
    };
}

checks! {
    Lost = "lost": "an accepted task comes to its end, and does not disappear before its TTL",
    Once = "once": "a task ends once",
    Final = "final": "a task that has ended never changes",
    Result = "result": "the result of a task is that of its current attempt, by the agent that was given it",
    Lease = "lease": "an agent is taken for lost for its silence only when its lease has been over for a while",
    Numbers = "numbers": "an attempt is begun once; its number is never used again",
    Alone = "alone": "no two agents run one task at once, while their clocks run at about the same rate",
    Slots = "slots": "an agent is given no more than it has slots, those counted that it still clears",
    Fit = "fit": "a task runs only on agents that fit it",
    Input = "input": "an attempt gets the input that was submitted",
    Refused = "refused": "what is in its bounds is accepted, and what was accepted is the task that was submitted",
    Attempts = "attempts": "a task has as many attempts as its policy allows, and fails or is dead-lettered only when it must",
    Cancel = "cancel": "a task is cancelled only if somebody asks for it",
    History = "history": "every call takes effect at one moment between its begin and its answer",
    Told = "told": "a result is told after the acceptance, and only when there is one",
    Watch = "watch": "a watch goes on where it broke, and never back",
    Missed = "missed": "an agent whose process is gone has no session left soon after a coordinator leads",
    Kept = "kept": "no session of an agent that is in order ends while nothing is wrong but clocks",
    Health = "health": "an agent that is not well is given nothing, once its health checks have told",
    Prompt = "prompt": "a result that an agent has is taken as soon as the agent has a session",
    Votes = "votes": "a vote is on disk before it is given",
    Agreement = "agreement": "all coordinators have the same state after the same log entry",
    Audit = "audit": "after every log entry the state is consistent: slots, queues, pools, indexes, counts, fencing numbers",
    Stopped = "stopped": "a coordinator stops by itself only when its disk fails or when its data is damaged",
    Damage = "damage": "a coordinator refuses damaged data",
    Time = "time": "while a coordinator leads a duration d ends after 0.95 d to 1.1 d + 1 s, whatever wall clocks say",
    Admin = "admin": "a change of members, leader or pools succeeds, or is refused for a reason that is told",
    Busy = "busy": "something happens in every run",
}

/// How long a result may lie on an agent that has a session, while the leader writes other things.
const PROMPT: Duration = Duration::from_millis(1_800);
/// Time after a session was opened, and before a result was taken, in which it does not count what else was written.
const EDGE: Duration = Duration::from_millis(300);

/// How often the leader writes before a result that lies on an agent counts as passed over: once what was being written when it
/// came, once what had come before it, and once more. With disks that take a second each of it takes that long.
const WRITES: usize = 3;
/// Entries that are applied within so short a time were written together.
const TOGETHER: Duration = Duration::from_millis(50);

/// Everything that does not hold.
pub fn violations(notes: &mut Notes) -> Vec<String> {
    check_ends(notes);
    check_begins(notes);
    check_history(notes);
    check_prompt(notes);
    if notes.accepted.is_empty() || notes.begun.is_empty() || notes.applied.is_empty() {
        notes.violation(Check::Busy, "nothing happened in this run".to_owned());
    }
    std::mem::take(&mut notes.violations)
}

/// The log entries that finished each task.
fn finished(notes: &Notes) -> BTreeMap<String, Vec<u64>> {
    let mut finished: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (index, applied) in &notes.applied {
        for id in applied.finished.iter().filter(|id| !notes.fleeting.contains(*id)) {
            finished.entry(id.clone()).or_default().push(*index);
        }
    }
    finished
}

fn check_ends(notes: &mut Notes) {
    let finished = finished(notes);
    let mut found = Vec::new();
    for (id, accepted) in &notes.accepted {
        if accepted.ended.is_none() && !notes.fleeting.contains(id) {
            found.push((Check::Lost, format!("task {id} was accepted and never finished")));
        } else if !finished.contains_key(id) && !notes.fleeting.contains(id) {
            found.push((Check::Lost, format!("task {id} was accepted, and no log entry finished it")));
        }
    }
    for (id, indexes) in finished.iter().filter(|(_, indexes)| indexes.len() > 1) {
        found.push((Check::Once, format!("task {id} finished more than once, with the log entries {indexes:?}")));
    }
    found.into_iter().for_each(|(check, what)| notes.violation(check, what));
}

fn check_begins(notes: &mut Notes) {
    let again: Vec<_> = notes
        .begun
        .iter()
        .filter(|((id, _), times)| **times > 1 && !notes.fleeting.contains(id))
        .map(|((id, attempt), times)| format!("attempt {attempt} of task {id} was begun {times} times"))
        .collect();
    again.into_iter().for_each(|what| notes.violation(Check::Numbers, what));
}

fn check_history(notes: &mut Notes) {
    for verdict in history::check(&notes.history, &notes.fleeting) {
        match verdict {
            Verdict::Linearizable => {}
            Verdict::Not(what) => notes.violation(Check::History, what),
            Verdict::Undecided => {
                notes.undecided += 1;
                notes.violation(Check::History, "a group of calls has too many orders to try them all".to_owned());
            }
        }
    }
}

/// A result that was taken long after its agent had a session again, though other entries were written meanwhile.
fn check_prompt(notes: &mut Notes) {
    let mut found = Vec::new();
    for (id, indexes) in finished(notes) {
        let Some(taken) = indexes.first().and_then(|index| notes.applied_at.get(index)).copied() else { continue };
        let runs = notes.ran.range((id.clone(), 0)..=(id.clone(), u32::MAX));
        let Some(((_, attempt), ran)) = runs.last() else { continue };
        let Some(agent) = notes.agents.get(&ran.agent) else { continue };
        // One that ended otherwise, such as by its deadline, did not wait for this result.
        let succeeded = notes.accepted.get(&id).and_then(|accepted| accepted.ended.as_deref());
        if !succeeded.is_some_and(|ended| ended.starts_with("Succeeded")) {
            continue;
        }
        let within = |time: &&Duration| ran.at <= **time && **time < taken;
        // The process that had the result is gone, and the result with it.
        if agent.started.iter().any(|time| within(&time)) {
            continue;
        }
        let Some(opened) = agent.opened.iter().rfind(within).copied() else { continue };
        let quiet = !agent.disturbed.iter().any(|time| (opened..=taken).contains(time));
        if taken - opened >= PROMPT && quiet && writes(notes, opened + EDGE, taken.saturating_sub(EDGE)) >= WRITES {
            found.push(format!(
                "attempt {attempt} of task {id} ended at {:?} on {}, which has a session since {opened:?}, and was taken at \
                 {taken:?}",
                ran.at, ran.agent
            ));
        }
    }
    found.into_iter().for_each(|what| notes.violation(Check::Prompt, what));
}

/// How often something was written within a time.
fn writes(notes: &Notes, from: Duration, to: Duration) -> usize {
    let mut last = None;
    let mut count = 0;
    let mut moments: Vec<Duration> = notes.applied_at.values().filter(|at| (from..to).contains(*at)).copied().collect();
    moments.sort_unstable();
    for at in moments {
        if last.is_none_or(|last| at > last + TOGETHER) {
            count += 1;
            last = Some(at);
        }
    }
    count
}

/// A run in one line.
pub fn summary(notes: &Notes) -> String {
    let mut ends: BTreeMap<&str, u32> = BTreeMap::new();
    for ended in notes.accepted.values().filter_map(|accepted| accepted.ended.as_deref()) {
        *ends.entry(ended.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    let list = |counts: Vec<(&str, u32)>| {
        let counts: Vec<String> = counts.into_iter().map(|(what, n)| format!("{n} {what}")).collect();
        counts.join(", ")
    };
    format!(
        "{} tasks ({}), {} attempts, {} log entries, {} snapshots, {} of them sent, {} calls, {} groups of them undecided, \
         faults: {}; {} events",
        notes.accepted.len(),
        list(ends.into_iter().collect()).to_lowercase(),
        notes.begun.len(),
        notes.applied.len(),
        notes.snapshots_written,
        notes.snapshots_installed,
        notes.history.len(),
        notes.undecided,
        list(notes.faults.iter().map(|(kind, n)| (*kind, *n)).collect()),
        notes.events,
    )
}
