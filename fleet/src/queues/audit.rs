//! Invariants of the queues of tasks in any state.

use super::{QueueRules, limit_on};
use crate::{
    Feature, Fleet, Lane,
    audit::{COUNTER_ROOM, Check, ensure},
    config::{check_length, check_name},
    fleet::State,
    limits::{MAX_BUCKETS, MAX_DURATION_MS, MAX_SENDER_BYTES, MAX_SHARES, MAX_TASK_QUEUES},
};

/// Checks what is set, served and left in buckets, and where tasks wait.
pub(crate) fn check_queues(state: &State) -> Check {
    let queues = &state.queues;
    let is_known = state.version >= Feature::Queues.since();
    ensure(is_known || *queues == Default::default(), || "queues of tasks before their version".to_owned())?;
    ensure(queues.set.len() <= MAX_TASK_QUEUES && queues.shared_from < COUNTER_ROOM, || "queues of tasks".to_owned())?;
    for (name, rules) in &queues.set {
        let sound = check_name("name", name).and_then(|()| rules.check(name));
        sound.map_err(|refusal| refusal.to_string())?;
    }
    for (name, started) in &queues.started {
        let in_bounds = queues.set.contains_key(name) && *started < COUNTER_ROOM;
        ensure(in_bounds, || format!("{started} attempts of queue {name}"))?;
    }
    check_shares(state)?;
    check_buckets(state)?;
    for task in state.tasks.kept.values() {
        let Some(lane) = &task.lane else { continue };
        let in_bounds = lane.asked.check().is_ok() && lane.aging <= MAX_DURATION_MS && **lane != Lane::default();
        ensure(is_known && in_bounds, || format!("task {}: where it waits", task.id))?;
    }
    Ok(())
}

fn check_shares(state: &State) -> Check {
    let shares = &state.queues.shares;
    ensure(shares.listed() <= MAX_SHARES, || format!("shares of {} submitters", shares.listed()))?;
    for (name, share) in shares.queues() {
        let served = share.submitters.values().chain([&share.served, &share.clock, &share.base]);
        let names = share.submitters.keys().all(|name| check_length("submitter", name, MAX_SENDER_BYTES).is_ok());
        let in_bounds = served.into_iter().all(|served| *served < COUNTER_ROOM) && names;
        ensure(in_bounds && check_name("name", name).is_ok(), || format!("the share of queue {name}"))?;
    }
    Ok(())
}

/// Checks that each bucket that is kept is one of a rate, and not full.
fn check_buckets(state: &State) -> Check {
    let queues = &state.queues;
    let mut count = 0;
    for (name, of_queue) in &queues.buckets {
        let limits = queues.set.get(name).map_or(&[][..], |rules: &QueueRules| &rules.limits);
        ensure(!of_queue.keys.is_empty(), || format!("no buckets of queue {name}"))?;
        for (key, bucket) in &of_queue.keys {
            count += 1;
            let rate = limit_on(limits, key).and_then(|limit| limit.rate);
            let fits = rate.is_some_and(|rate| bucket.level < rate.capacity() && bucket.at <= state.now.fleet);
            ensure(fits, || format!("the bucket of key {key:?} of queue {name}"))?;
        }
    }
    ensure(count <= MAX_BUCKETS, || format!("{count} buckets"))
}

/// Checks that the turns are as a look at them needs them, and that everything was admitted that could be.
pub(crate) fn check_turns(fleet: &Fleet) -> Check {
    ensure(!fleet.has_opened(), || "tasks are not held back any more and were not looked at".to_owned())?;
    ensure(fleet.indexes.schedule.is_sound(fleet.rules()), || "the turn of a queue is too late".to_owned())
}
