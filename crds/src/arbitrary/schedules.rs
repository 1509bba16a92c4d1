//! Schedules, each with what its fields can say.

use proptest::{collection::vec, prelude::*};
use robeing_settings::{settings, text};
use serde_json::{Value, json};

use super::{NOTHING, duration, matching, maybe, object, odd_text, within};
use crate::limits;

/// Schedules, now and then as many as the schema allows.
pub(super) fn schedules() -> impl Strategy<Value = Value> {
    let count = prop_oneof![8 => 0..4_usize, 1 => Just(limits::MAX_SCHEDULES as usize)];
    count.prop_flat_map(|count| vec(schedule(), count)).prop_map(|mut schedules| {
        for (n, schedule) in schedules.iter_mut().enumerate() {
            let length = if n % 2 == 0 { 1 } else { limits::MAX_SCHEDULE_NAME as usize };
            schedule["name"] = json!(format!("{n:s>length$}"));
        }
        json!(schedules)
    })
}

/// A time within the bounds of what a task can set.
fn task_span() -> impl Strategy<Value = Value> {
    maybe(duration(limits::MIN_TASK_SPAN, limits::MAX_TASK_SPAN).prop_map(text::duration))
}

fn schedule() -> impl Strategy<Value = Value> {
    let cron =
        prop::sample::select(vec!["30 4 * * mon-fri", "*/5 * * * *", "@daily", "0 0 29 2 *", "1-59/2,0 0 1 1 7"]);
    let zone = maybe(prop::sample::select(vec!["Europe/Berlin", "Etc/GMT+1", "America/Argentina/ComodRivadavia"]));
    // A limit without all missed runs is refused.
    let missed = prop_oneof![
        maybe(prop::sample::select(vec!["Skip", "Latest"])).prop_map(|missed| (missed, NOTHING)),
        maybe(within(1, limits::MAX_MISSED_RUNS)).prop_map(|limit| (json!("All"), limit)),
    ];
    let policy = maybe(prop::sample::select(vec!["Allow", "Forbid", "Replace"]));
    let timing = (cron, zone, missed, task_span()).boxed();
    (timing, policy, maybe(any::<bool>()), task().boxed()).prop_map(
        |((cron, zone, (missed, limit), start_within), policy, suspend, task)| {
            object([
                ("cron", json!(cron)),
                ("timeZone", zone),
                ("missedRuns", missed),
                ("missedLimit", limit),
                ("startWithin", start_within),
                ("concurrencyPolicy", policy),
                ("suspend", suspend),
                ("task", task),
            ])
        },
    )
}

fn task() -> impl Strategy<Value = Value> {
    let kind = prop_oneof![matching("[a-z]{1,20}"), matching("[a-z]{253}")];
    let input = maybe(prop_oneof![odd_text(), Just("漢".repeat(1_000))]);
    let priority = maybe(within(limits::MIN_PRIORITY, limits::MAX_PRIORITY));
    let attempts = maybe(within(settings::MAX_ATTEMPTS.least, limits::MAX_ATTEMPTS));
    let role = maybe(prop::sample::select(vec!["Worker", "Specialist", "Messenger", "Guardian"]));
    let skill = maybe(matching("[a-z0-9]{1,20}"));
    let spans = (task_span(), task_span(), task_span()).boxed();
    (kind, input, priority, attempts, role, skill, spans).prop_map(
        |(kind, input, priority, attempts, role, skill, (deadline, timeout, ttl))| {
            object([
                ("kind", json!(kind)),
                ("input", input),
                ("priority", priority),
                ("deadline", deadline),
                ("attemptTimeout", timeout),
                ("maxAttempts", attempts),
                ("resultTtl", ttl),
                ("role", role),
                ("specialization", skill),
            ])
        },
    )
}
