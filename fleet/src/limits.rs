//! Every bound of the state machine, with its default where it can be set.

/// Largest input or output, bytes.
pub const MAX_INPUT_BYTES: usize = 1024 * 1024;
/// Longest kind, specialization, submitter, agent name, pool name, address or version, bytes.
pub const MAX_NAME_BYTES: usize = 253;
/// Longest idempotency key, bytes.
pub const MAX_KEY_BYTES: usize = 512;
/// Longest failure message, cancel reason or tail of stderr that is kept, bytes.
pub const MAX_TEXT_BYTES: usize = 8 * 1024;
/// Specializations of one agent.
pub const MAX_SPECIALIZATIONS: usize = 16;
/// Slots of one agent.
pub const MAX_SLOTS: u32 = 4096;
/// Agents of a fleet, the remembered lost ones included.
pub const MAX_AGENTS: u32 = 20_000;
/// Pools that one [`crate::PoolCommand::Set`] may name.
pub const MAX_POOLS: usize = 64;
/// Pools that agents may bring with them; those that are set come on top.
pub const MAX_KEPT_POOLS: usize = 1_024;
/// Attempts a retry policy may allow.
pub const MAX_ATTEMPTS: u32 = 1_000;
/// Attempts kept with a task for reading, newest last.
pub const MAX_KEPT_ATTEMPTS: usize = 16;
/// Longest duration a task or the configuration may name, ms: 366 days.
pub const MAX_DURATION_MS: u64 = 366 * 24 * 3600 * 1000;
/// Kinds whose mean duration is remembered for relative speed; the one not seen for longest makes room.
pub const MAX_TIMED_KINDS: usize = 256;
/// Tasks a page of a listing may have.
pub const MAX_PAGE: usize = 1_000;
/// Default of `FleetConfig::max_queued`.
pub const DEFAULT_MAX_QUEUED: u32 = 100_000;
/// Default of `FleetConfig::max_tasks`.
pub const DEFAULT_MAX_TASKS: u32 = 1_000_000;
/// Default of `FleetConfig::max_bytes`: 1 GiB.
pub const DEFAULT_MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Largest snapshot of a fleet, bytes: what coordinators send each other and take in. A configuration that could lead to a
/// larger one is refused; see `FleetConfig::largest_snapshot`.
pub const MAX_SNAPSHOT_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// Bytes of results that are taken at least though `FleetConfig::max_bytes` are stored, for a task that was accepted may have an
/// output; as many as those if they are more. Beyond it outputs are refused and texts are cut to [`SCARCE_TEXT_BYTES`].
pub const MIN_OVERDRAFT_BYTES: u64 = 16 * 1024 * 1024;
/// Longest failure message or cancel reason that is kept when there is no room for more, bytes. No tail of stderr is.
pub const SCARCE_TEXT_BYTES: usize = 128;
/// Bytes of a task in a snapshot at most, besides what counts against `FleetConfig::max_bytes`: names, key and kept attempts,
/// each with a text of [`SCARCE_TEXT_BYTES`].
pub const MAX_TASK_OVERHEAD: u64 = 10 * 1024;
/// Bytes of an agent in a snapshot at most, besides its slots.
pub const MAX_AGENT_OVERHEAD: u64 = 8 * 1024;
/// Default of `FleetConfig::result_ttl`, ms: one hour.
pub const DEFAULT_RESULT_TTL_MS: u64 = 3600 * 1000;
/// Default of `FleetConfig::lost_agent_ttl`, ms: ten minutes.
pub const DEFAULT_LOST_AGENT_TTL_MS: u64 = 600 * 1000;
/// Default attempts of a task.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 5;
/// Default pause before the second attempt, ms.
pub const DEFAULT_INITIAL_BACKOFF_MS: u64 = 1_000;
/// Default longest pause, ms.
pub const DEFAULT_MAX_BACKOFF_MS: u64 = 60_000;
/// Default growth of the pause, percent.
pub const DEFAULT_MULTIPLIER_PERCENT: u32 = 200;
/// Priority of a task whose submitter names none.
pub const DEFAULT_PRIORITY: u8 = 5;
/// Highest priority; the lowest is 1.
pub const MAX_PRIORITY: u8 = 10;
/// Largest growth of the pause between attempts, percent.
pub const MAX_MULTIPLIER_PERCENT: u32 = 10_000;
/// Largest weight of a score's term, either way, points.
pub const MAX_WEIGHT: i32 = 1_000_000;
/// Default weight of a specialization that is the task's kind, points.
pub const DEFAULT_SPECIALIZATION_WEIGHT: i32 = 50;
/// Default weight of a full agent, points.
pub const DEFAULT_LOAD_WEIGHT: i32 = -10;
/// Default weight of a perfect track record, points.
pub const DEFAULT_PERFORMANCE_WEIGHT: i32 = 20;
/// How long after an attempt's own time the coordinators end it themselves, ms; an agent ends it in time and says so.
pub const ATTEMPT_GRACE_MS: u64 = 5_000;
/// The longest pause before the next attempt that a failure may ask for, ms.
pub const MAX_RETRY_AFTER_MS: u64 = 3_600_000;
/// Hand-backs of one task at no cost; further ones count as attempts, so that no task goes round for ever.
pub const MAX_FREE_HAND_BACKS: u32 = 100;
/// Longest reason why an agent is unhealthy, bytes.
pub const MAX_REASON_BYTES: usize = 256;
/// Steps of its recoveries that are kept with an agent, newest last.
pub const MAX_RECOVERY_STEPS: usize = 16;
/// Steps of all agents' recoveries that are kept with the fleet, newest last.
pub const MAX_FLEET_RECOVERY_STEPS: usize = 128;
/// Timers that one command fires at most; what is due beyond that waits for the next command.
pub const MAX_FIRINGS: usize = 10_000;
/// Tasks that one call of a listing looks at; a page may be short, even empty, and still have a next one.
pub const MAX_SCANNED: usize = 1_000;
/// Latest time the state machine knows, ms: the end of the year 9999. Later times are taken as this one.
pub const MAX_TIME_MS: u64 = 253_402_300_799_999;
