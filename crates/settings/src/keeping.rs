//! How many tasks a fleet keeps, and for how long.

use std::time::Duration;

use robeing_fleet::limits;

use super::{
    definition::{For, Number, Setting, Span},
    settings::MAX_DURATION,
};

/// Maximum number of unfinished tasks.
pub const MAX_QUEUED: Number<u32> = Number {
    setting: Setting::new(For::Coordinators, "max-queued", &["ROBEING_MAX_QUEUED"], "N", "Maximum unfinished tasks"),
    least: 1,
    most: u32::MAX,
    default: limits::DEFAULT_MAX_QUEUED,
};

/// Maximum number of tasks kept, including finished ones.
pub const MAX_TASKS: Number<u32> = Number {
    setting: Setting::new(
        For::Coordinators,
        "max-tasks",
        &["ROBEING_MAX_TASKS"],
        "N",
        "Maximum tasks kept, including finished ones",
    ),
    least: 1,
    most: u32::MAX,
    default: limits::DEFAULT_MAX_TASKS,
};

/// Maximum total size of inputs and outputs held, in bytes.
pub const MAX_BYTES: Number<u64> = Number {
    setting: Setting::new(
        For::Coordinators,
        "max-bytes",
        &["ROBEING_MAX_BYTES"],
        "BYTES",
        "Maximum total bytes of inputs and outputs held",
    ),
    least: 1,
    most: u64::MAX,
    default: limits::DEFAULT_MAX_BYTES,
};

/// How long a finished task is kept.
pub const RESULT_TTL: Span = Span {
    setting: Setting::new(
        For::Coordinators,
        "result-ttl",
        &["ROBEING_RESULT_TTL"],
        "DURATION",
        "How long a finished task is kept",
    ),
    least: Duration::ZERO,
    most: MAX_DURATION,
    default: Duration::from_millis(limits::DEFAULT_RESULT_TTL_MS),
};

/// For how long an idempotency key stands for its first task at least.
pub const IDEMPOTENCY_WINDOW: Span = Span {
    setting: Setting::new(
        For::Coordinators,
        "idempotency-window",
        &["ROBEING_IDEMPOTENCY_WINDOW"],
        "DURATION",
        "How long an idempotency key stands for its first task, from its acceptance on, also if that is no longer kept",
    ),
    least: Duration::from_millis(1),
    most: MAX_DURATION,
    default: Duration::from_millis(limits::DEFAULT_KEY_WINDOW_MS),
};

/// How many results stay in memory.
pub const RECENT_RESULTS: Number<u32> = Number {
    setting: Setting::new(
        For::Coordinators,
        "recent-results",
        &["ROBEING_RECENT_RESULTS"],
        "N",
        "Results that stay in memory; the others are kept on disk alone. 0: all stay",
    ),
    least: 0,
    most: u32::MAX,
    default: limits::DEFAULT_RECENT_RESULTS,
};
