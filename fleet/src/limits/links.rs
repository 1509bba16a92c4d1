//! The bounds of tasks that are linked with others, and of the results that are passed on between them.

/// Most tasks that one task may depend on. A task that needs the results of more has them as its parts.
pub const MAX_DEPENDENCIES: usize = 1_000;
/// Bytes that a task on which another one depends counts for against `FleetConfig::max_bytes`.
pub const DEPENDENCY_BYTES: usize = 48;
/// Most parts of a task that is split, and most subtasks of one task.
pub const MAX_SUBTASKS: u32 = 1_000_000;
/// Most parts of a task that are kept apart, each on an agent that runs no other of them: an agent that looks for its next
/// task passes over those of every task of which it runs a part.
pub const MAX_SPREAD_PARTS: u32 = 64;
/// Most subtasks that one attempt may ask for; the next attempt may ask for others.
pub const MAX_SUBTASKS_AT_ONCE: usize = 1_000;
/// Most tasks that the subtasks for which one attempt asks depend on, counted for each of them.
pub const MAX_SUBTASK_DEPENDENCIES: usize = 10_000;
/// Most attempts at one task that may ask for subtasks.
pub const MAX_SUSPENSIONS: u32 = 1_000;
/// Most tasks above a part or subtask in its tree.
pub const MAX_TASK_DEPTH: u32 = 16;
/// Most bytes of results that an attempt at a task is given, as outputs, reasons of failures, and overhead, together with
/// what an earlier attempt has left to it: with the largest input, they are smaller than the 4 MiB of a message that
/// clients of gRPC take unless they are set otherwise.
pub const MAX_PASSED_BYTES: u64 = (3 * 1024 - 64) * 1024;
/// Bytes that the result of a task on which another one depends counts for besides its output.
pub const DEPENDENCY_OVERHEAD: u64 = 64;
/// Bytes that the result of a part or subtask counts for besides its output.
pub const CHILD_OVERHEAD: u64 = 8;
/// Longest reason of a failure that is passed on with a result, bytes.
pub const MAX_PASSED_REASON_BYTES: usize = 512;
/// How long a task that is split waits for another of its parts to be submitted, ms of fleet time: ten minutes.
pub const ASSEMBLY_TIMEOUT_MS: u64 = 600 * 1000;
