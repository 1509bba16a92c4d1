//! All checks of a run: each promise of the fleet, and the check that fails if it is broken. Most checks are made
//! during the run, where the event that they check happens; those that need the whole run are here.

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
            /// Returns the name of the check.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$check => $name,)+
                }
            }
        }

        /// Every check with its promise.
        pub const PROMISES: &[(&str, &str)] = &[$(($name, $promise)),+];
    };
}

/// A violation: the check that fails, and what is wrong.
pub type Wrong = (Check, String);

checks! {
    Lost = "lost": "no accepted task disappears before its TTL, and each one finishes",
    Once = "once": "a task finishes only once, or once more whenever it was tried again as a dead letter",
    Final = "final": "a finished task never changes",
    Result = "result": "a task's result is that of its current attempt, from the agent that it was assigned to",
    Lease = "lease": "a silent agent counts as lost only a quarter of the session timeout after its lease has ended",
    Numbers = "numbers": "an attempt is started once; its number is never used again",
    Alone = "alone": "no two agents run one task at the same time, while their clocks run at about the same rate",
    Slots = "slots": "an agent gets no more tasks than it has slots, including those that it is still stopping",
    Fit = "fit": "a task runs only on agents that fit it",
    Input = "input": "an attempt gets the input as it was submitted",
    Refused = "refused": "a submission within bounds is accepted, once, as it was submitted",
    Attempts = "attempts": "a task has at most as many attempts as its policy allows, and ends only as they allow",
    Cancel = "cancel": "a task is cancelled only on request",
    History = "history": "every call takes effect at one moment between its start and its response (linearizability)",
    Told = "told": "a result is reported only after the acceptance, and only if there is one",
    Watch = "watch": "a watch resumes where it broke, and never goes back",
    Missed = "missed": "an agent whose process is gone loses its session soon after there is a leader",
    Kept = "kept": "a healthy agent keeps its session once nothing but clocks is wrong",
    Health = "health": "an unhealthy agent gets no tasks once its health checks have shown that it is unhealthy",
    Prompt = "prompt": "a result is accepted as soon as its agent has a session",
    Votes = "votes": "a vote is on disk before it is granted",
    Agreement = "agreement": "all coordinators have the same state after the same log entry",
    Audit = "audit": "after every log entry the state is consistent: slots, queues, pools, indexes, counts, fencing numbers",
    Stopped = "stopped": "a coordinator stops on its own only if its disk fails or its data is damaged",
    Damage = "damage": "a coordinator refuses damaged data",
    Time = "time": "while there is a leader, a duration d ends after 0.95 d to 1.1 d + 1 s, whatever wall clocks show",
    Admin = "admin": "a change of members, leader or pools succeeds, or is refused with a reason",
    Arrived = "arrived": "a message that is accepted was handled, as it was sent",
    Twice = "twice": "a message is handled again only after a restart, marked as resent, and never once its outcome is on disk",
    Order = "order": "messages of one sender to one agent in one priority are handled in the order in which they were sent",
    Letters = "letters": "a message that the coordinators keep is handled, or expires at its time; none is lost",
    Outcome = "outcome": "a message has one outcome, and is handled only if that says so",
    Reach = "reach": "messages reach every agent once nothing but clocks is wrong",
    Opened = "opened": "a ballot that is acknowledged stays what was asked for, and is closed in the end",
    Electors = "electors": "the members of a ballot are those that its addresses stand for, and nobody else votes",
    Counted = "counted": "a vote counts once, as its member cast it; one that is acknowledged counts, and none once the ballot is decided",
    Verdict = "verdict": "the outcome of a ballot is what its votes amount to by exact fractions, and never changes",
    Expired = "expired": "a ballot expires only after its deadline, and only if it is not decided by then",
    Approved = "approved": "a task that needs an approval starts only once its ballot has approved it, and fails if it does not",
    Verified = "verified": "a verified result is what enough different agents gave, or outputs that others find equal to it; without one, the task fails for disagreement",
    Timed = "timed": "a task waits for its first attempt no longer than it may; an attempt without progress is ended, and no other",
    Dead = "dead": "a task that fails for good is not tried again but on request, as a dead letter, each time in a new epoch",
    Formed = "formed": "a team that is acknowledged stays what was asked for, and is there until a client disbands it",
    Crew = "crew": "an agent is in one team at most, and a team has no more members than it should",
    Leader = "leader": "a term of a team has one leader, who is a member; terms only grow, and earlier leaders are refused",
    Staffed = "staffed": "a team gets a live leader, and a member for each that it lost, as soon as there are agents",
    Granted = "granted": "a request for resources is granted once, as it was asked for, all or nothing, and then is there",
    Share = "share": "no more is granted of an agent than it contributes",
    Fenced = "fenced": "each grant has a fencing token of its own, higher than those of all earlier ones; others are refused",
    Leased = "leased": "an allocation ends only on request, with its holder or an agent, or once its lease or wait is over",
    Freed = "freed": "everything is free again once nobody holds anything",
    Quota = "quota": "no more is granted from a queue than its quota allows",
    Claimed = "claimed": "an attempt has what its task needs, at its agent and from its queue, and nothing once it has ended",
    After = "after": "a task starts only once those on which it depends have ended, with their results, and not if they do not let it",
    Joined = "joined": "a task that is split, or asks for subtasks, ends as they do, and none of them outlives it",
    Limited = "limited": "no more tasks of a queue or a key run, or begin in any time, than its limits allow",
    Fair = "fair": "the many tasks of one submitter take turns with the few of another",
    Scheduled = "scheduled": "a schedule that is acknowledged stays what was asked for until it is removed",
    Due = "due": "a run of a schedule starts once for each moment at which it is due, whoever leads, and never earlier",
    Overdue = "overdue": "each moment at which a schedule is due is decided, and no more are missed than its policy says",
    Overlap = "overlap": "runs of a schedule overlap only if its policy allows it",
    Addressed = "addressed": "a task that is addressed to a team is given to its members alone",
    Busy = "busy": "something happens in every run",
}

/// The shortest time for which a result must have waited on an agent with a session to count as skipped.
const PROMPT: Duration = Duration::from_millis(1_800);
/// The time after a session was opened, and before a result was accepted, in which other writes do not count.
const EDGE: Duration = Duration::from_millis(300);

/// The number of the leader's writes after which a result that still waits on an agent counts as skipped: one for what
/// was being written when the result came, one for what had come before it, and one more. On slow disks, each write may
/// take a second.
const WRITES: usize = 3;
/// Entries that are applied within this time were written together.
const TOGETHER: Duration = Duration::from_millis(50);

/// Returns all violations of the run.
pub fn violations(notes: &mut Notes) -> Vec<String> {
    check_ends(notes);
    check_begins(notes);
    check_history(notes);
    check_prompt(notes);
    for id in notes.ballots.unfinished() {
        notes.violation(Check::Opened, format!("ballot {id} was opened, but nobody was told that it is closed"));
    }
    for (check, what) in notes.ballots.early_starts() {
        notes.violation(check, what);
    }
    for (id, schedule) in notes.schedules.unfinished() {
        notes.violation(Check::Lost, format!("task {id} of schedule {schedule} was started, but never finished"));
    }
    let [_, approved, rejected, expired] = notes.ballots.counts_of();
    let all = |counts: [usize; 2]| counts.iter().sum::<usize>();
    let [_, granted, _] = notes.allocations.counts();
    let ([timed, _, again], [claimed, _]) = (notes.timed.counts(), notes.needs.counts());
    let others = [notes.teams.counts()[0], notes.teams.orders.ended(), notes.schedules.counts()[1]];
    let of_customers = [all(notes.ballots.tasks_of()), all(notes.verified.counts()), granted, claimed];
    let of_tasks = [timed, again, notes.graphs.counts()[0], notes.queues.counts()[0]];
    let happened = [notes.accepted.len(), notes.begun.len(), notes.applied.len(), notes.ledger.counts()[1]];
    let mut counts = happened.iter().chain(&of_customers).chain(&others).chain(&of_tasks);
    if counts.any(|count| *count == 0) || approved + rejected + expired == 0 {
        notes.violation(Check::Busy, "nothing happened in this run".to_owned());
    }
    std::mem::take(&mut notes.violations)
}

/// Returns the log entries that finished each task.
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
            found.push((Check::Lost, format!("task {id} was accepted but never finished")));
        } else if !finished.contains_key(id) && !notes.fleeting.contains(id) {
            found.push((Check::Lost, format!("task {id} was accepted, but no log entry finished it")));
        }
    }
    for (id, indexes) in finished.iter().filter(|(id, indexes)| indexes.len() > notes.timed.lives(id)) {
        found.push((Check::Once, format!("task {id} finished too often, with the log entries {indexes:?}")));
    }
    found.into_iter().for_each(|(check, what)| notes.violation(check, what));
}

fn check_begins(notes: &mut Notes) {
    let again: Vec<_> = notes
        .begun
        .iter()
        .filter(|((id, _), times)| **times > 1 && !notes.fleeting.contains(id))
        .map(|((id, attempt), times)| format!("attempt {attempt} of task {id} was started {times} times"))
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

/// Finds results that were accepted long after their agent had a session again, although other entries were written in
/// the meantime.
fn check_prompt(notes: &mut Notes) {
    let mut found = Vec::new();
    for (id, indexes) in finished(notes) {
        let Some(taken) = indexes.first().and_then(|index| notes.applied_at.get(index)).copied() else { continue };
        let runs = notes.ran.range((id.clone(), 0)..=(id.clone(), u32::MAX));
        let Some(((_, attempt), ran)) = runs.last() else { continue };
        let Some(agent) = notes.agents.get(&ran.agent) else { continue };
        // A task that ended in another way, such as by its deadline, did not wait for this result.
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
                "attempt {attempt} of task {id} ended at {:?} on {} with a session since {opened:?}, but accepted at \
                 {taken:?}",
                ran.at, ran.agent
            ));
        }
    }
    found.into_iter().for_each(|what| notes.violation(Check::Prompt, what));
}

/// Returns the number of writes within a time.
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

/// Returns what the customers of a run did, as a part of its summary.
fn of_customers(notes: &Notes) -> String {
    let [approved, refused] = notes.ballots.tasks_of();
    let [agreed, disagreed] = notes.verified.counts();
    let [timed, stalled, again] = notes.timed.counts();
    let [teams, disbanded, terms] = notes.teams.counts();
    let [requests, granted, renewals] = notes.allocations.counts();
    let ([claimed, attempts], addressed) = (notes.needs.counts(), notes.teams.orders.ended());
    let ([of_graphs, parts], [of_queues, paced]) = (notes.graphs.counts(), notes.queues.counts());
    let [schedules, runs, missed] = notes.schedules.counts();
    format!(
        "{approved} tasks approved and {refused} not, {agreed} verified and {disagreed} not, {timed} timed ({stalled} \
         without progress, {again} dead ones tried again), {teams} teams ({disbanded} disbanded, {terms} leaders, \
         {addressed} tasks), {requests} requests for resources ({granted} granted, {renewals} renewals), {claimed} \
         tasks with resources ({attempts} attempts), {of_graphs} tasks of graphs ({parts} parts and subtasks), \
         {of_queues} tasks of queues ({paced} attempts with a pace), {schedules} schedules ({runs} runs, {missed} missed)"
    )
}

/// Returns a summary of a run in one line.
pub fn summary(notes: &Notes) -> String {
    let mut ends: BTreeMap<&str, u32> = BTreeMap::new();
    for ended in notes.accepted.values().filter_map(|accepted| accepted.ended.as_deref()) {
        *ends.entry(ended.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    let list = |counts: Vec<(&str, u32)>| {
        let counts: Vec<String> = counts.into_iter().map(|(what, n)| format!("{n} {what}")).collect();
        counts.join(", ")
    };
    let [messages, handled, again] = notes.ledger.counts();
    let [votes, approved, rejected, expired] = notes.ballots.counts_of();
    format!(
        "{} tasks ({}), {} attempts, {messages} messages, {handled} handled, {again} of them again, {votes} votes in \
         ballots ({approved} approved, {rejected} rejected, {expired} expired), {}, {} log entries, {} snapshots, {} of \
         them sent, {} calls, {} groups of them undecided, faults: {}; {} events",
        notes.accepted.len(),
        list(ends.into_iter().collect()).to_lowercase(),
        notes.begun.len(),
        of_customers(notes),
        notes.applied.len(),
        notes.snapshots_written,
        notes.snapshots_installed,
        notes.history.len(),
        notes.undecided,
        list(notes.faults.iter().map(|(kind, n)| (*kind, *n)).collect()),
        notes.events,
    )
}
