//! What kinds of tasks need.

use std::time::Duration;

use proptest::{
    collection::{btree_set, vec},
    prelude::*,
    sample::select,
};
use robeing_settings::text;
use serde_json::{Value, json};

use super::{NOTHING, duration, matching, maybe, object, odd_text, within};
use crate::limits;

/// Kinds, often as many as the schema allows.
pub(super) fn task_kinds() -> impl Strategy<Value = Value> {
    let count = prop_oneof![4 => 0..4_usize, 1 => Just(limits::MAX_TASK_KINDS as usize)];
    count.prop_flat_map(|count| vec(task_kind().boxed(), count)).prop_map(|mut kinds| {
        for (n, kind) in kinds.iter_mut().enumerate() {
            let length = if n % 2 == 0 { 1 } else { limits::MAX_KIND_NAME as usize };
            kind["name"] = json!(format!("{n:é>length$}"));
        }
        json!(kinds)
    })
}

fn task_kind() -> impl Strategy<Value = Value> {
    let role = maybe(select(vec!["Worker", "Specialist", "Messenger", "Guardian"]));
    let longest = limits::MAX_SPECIALIZATION_NAME;
    let skill = prop_oneof![matching("[a-z0-9]{1,20}"), matching(&format!("[a-z]{{{longest}}}"))];
    let skills = btree_set(skill, 0..=limits::MAX_KIND_SKILLS as usize);
    let slots = maybe(within(1, limits::MAX_SLOTS));
    let needs = (role, skills, slots, resources());
    let times = (maybe(time(1)), maybe(time(1)), maybe(time(1)), maybe(time(1)), retry());
    (needs.boxed(), times.boxed()).prop_map(
        |((role, skills, slots, [resources, queue]), (deadline, timeout, expiry, progress, retry))| {
            object([
                ("role", role),
                ("skills", json!(skills)),
                ("slots", slots),
                ("resources", resources),
                ("queue", queue),
                ("deadline", deadline),
                ("attemptTimeout", timeout),
                ("queueExpiry", expiry),
                ("progressTimeout", progress),
                ("retry", retry),
            ])
        },
    )
}

/// Resources, and a queue.
fn resources() -> impl Strategy<Value = [Value; 2]> {
    let cpu = select(vec!["500m", "2", "1.5", "999999999999m"]);
    let amount = || maybe(select(vec!["1", "512Mi", "100M", "256Ti"]));
    let queue =
        maybe(odd_text().prop_map(|text| text.chars().take(limits::MAX_KIND_QUEUE as usize).collect::<String>()));
    let resources = (cpu, amount(), amount(), amount()).prop_map(|(cpu, memory, storage, bandwidth)| {
        object([("cpu", json!(cpu)), ("memory", memory), ("storage", storage), ("bandwidth", bandwidth)])
    });
    let resources = prop_oneof![Just(NOTHING), resources];
    (resources, queue).prop_map(|(resources, queue)| [resources, queue])
}

fn retry() -> impl Strategy<Value = Value> {
    let attempts = maybe(within(1, limits::MAX_ATTEMPTS));
    let factor = maybe(within(limits::MIN_MULTIPLIER_PERCENT, limits::MAX_MULTIPLIER_PERCENT));
    let pauses = (maybe(time(0)), maybe(time(0)), factor, maybe(within(1, 100)));
    let retry = (attempts, pauses).prop_map(|(attempts, (initial, most, factor, jitter))| {
        object([
            ("maxAttempts", attempts),
            ("initialBackoff", initial),
            ("maxBackoff", most),
            ("multiplierPercent", factor),
            ("jitterPercent", jitter),
        ])
    });
    maybe(retry)
}

/// A time of at least so many milliseconds.
fn time(least: u64) -> impl Strategy<Value = String> {
    let least = Duration::from_millis(least);
    duration(least, limits::MAX_KIND_TIME).prop_map(text::duration)
}
