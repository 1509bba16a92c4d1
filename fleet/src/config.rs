//! The configuration of a fleet, its defaults and bounds.

use bilrost::Message;

use crate::{Refusal, RetryPolicy, limits::*};

/// The configuration of a fleet. The bounds are in [`crate::limits`].
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct FleetConfig {
    /// Weights for scheduling.
    #[bilrost(1)]
    pub weights: Weights,
    /// Retry policy of tasks that are submitted without one.
    #[bilrost(2)]
    pub retry: RetryPolicy,
    /// How long finished tasks are kept, ms.
    #[bilrost(3)]
    pub result_ttl: u64,
    /// Most unfinished tasks.
    #[bilrost(4)]
    pub max_queued: u32,
    /// Most tasks, including the finished ones that are kept.
    #[bilrost(5)]
    pub max_tasks: u32,
    /// Most bytes of inputs, outputs and failure texts.
    #[bilrost(6)]
    pub max_bytes: u64,
    /// How long a lost agent is remembered, ms.
    #[bilrost(7)]
    pub lost_agent_ttl: u64,
    /// For how long an idempotency key stands for its first task at least, from the acceptance of the task on, ms; 0: for
    /// [`DEFAULT_KEY_WINDOW_MS`]. Another one needs [`Feature::KeyWindow`](crate::Feature::KeyWindow).
    #[bilrost(140)]
    pub idempotency_window: u64,
    /// How many results stay in memory; the others are archived. 0: all. Another number needs
    /// [`Feature::Archive`](crate::Feature::Archive).
    #[bilrost(160)]
    pub recent_results: u32,
}

/// Weights of the score's terms, in points.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Weights {
    /// Weight of a specialization that matches the task's kind.
    #[bilrost(1)]
    pub specialization: i32,
    /// Weight of a full agent; usually negative.
    #[bilrost(2)]
    pub load: i32,
    /// Weight of a perfect track record.
    #[bilrost(3)]
    pub performance: i32,
}

impl Default for Weights {
    fn default() -> Self {
        Weights {
            specialization: DEFAULT_SPECIALIZATION_WEIGHT,
            load: DEFAULT_LOAD_WEIGHT,
            performance: DEFAULT_PERFORMANCE_WEIGHT,
        }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            max_attempts: DEFAULT_MAX_ATTEMPTS,
            initial_backoff: DEFAULT_INITIAL_BACKOFF_MS,
            max_backoff: DEFAULT_MAX_BACKOFF_MS,
            multiplier_percent: DEFAULT_MULTIPLIER_PERCENT,
        }
    }
}

impl Default for FleetConfig {
    fn default() -> Self {
        FleetConfig {
            weights: Weights::default(),
            retry: RetryPolicy::default(),
            result_ttl: DEFAULT_RESULT_TTL_MS,
            max_queued: DEFAULT_MAX_QUEUED,
            max_tasks: DEFAULT_MAX_TASKS,
            max_bytes: DEFAULT_MAX_BYTES,
            lost_agent_ttl: DEFAULT_LOST_AGENT_TTL_MS,
            idempotency_window: 0,
            recent_results: 0,
        }
    }
}

pub(crate) fn invalid(field: &str, problem: impl Into<String>) -> Refusal {
    Refusal::Invalid { field: field.to_owned(), problem: problem.into() }
}

/// Refuses a duration in milliseconds that is less than `least` or more than [`MAX_DURATION_MS`].
pub(crate) fn check_duration(field: &str, value: Option<u64>, least: u64) -> Result<(), Refusal> {
    match value {
        Some(ms) if ms < least => Err(invalid(field, format!("must be at least {least} ms"))),
        Some(ms) if ms > MAX_DURATION_MS => {
            Err(invalid(field, format!("is {ms} ms, the most is {MAX_DURATION_MS} ms (366 days)")))
        }
        _ => Ok(()),
    }
}

/// Refuses a name that is empty, longer than [`MAX_NAME_BYTES`], or has a control character: tasks get names in HTTP
/// headers and environment variables, which can't hold every control character.
pub(crate) fn check_name(field: &str, value: &str) -> Result<(), Refusal> {
    if value.is_empty() {
        return Err(invalid(field, "must not be empty"));
    }
    if let Some(character) = value.chars().find(|c| c.is_control()) {
        return Err(invalid(field, format!("has the control character {character:?}; remove it")));
    }
    check_length(field, value, MAX_NAME_BYTES)
}

/// Refuses a text that is longer than `most` bytes.
pub(crate) fn check_length(field: &str, value: &str, most: usize) -> Result<(), Refusal> {
    if value.len() > most {
        let problem = format!("has {} bytes, the most is {most}", value.len());
        return Err(invalid(field, problem));
    }
    Ok(())
}

fn check_weight(field: &str, value: i32, least: i32) -> Result<(), Refusal> {
    if !(least..=MAX_WEIGHT).contains(&value) {
        return Err(invalid(field, format!("is {value}, must be {least} to {MAX_WEIGHT}")));
    }
    Ok(())
}

impl RetryPolicy {
    /// Refuses a policy that is out of bounds; `field` is the name of the field that holds it.
    pub fn check(&self, field: &str) -> Result<(), Refusal> {
        if !(1..=MAX_ATTEMPTS).contains(&self.max_attempts) {
            let problem = format!("is {}, must be 1 to {MAX_ATTEMPTS}", self.max_attempts);
            return Err(invalid(&format!("{field}.max_attempts"), problem));
        }
        let backoffs = [("initial_backoff", self.initial_backoff), ("max_backoff", self.max_backoff)];
        for (name, value) in backoffs {
            // This runs for every task of a snapshot, so the field's name is built only when it is needed.
            if value > MAX_DURATION_MS {
                check_duration(&format!("{field}.{name}"), Some(value), 0)?;
            }
        }
        if !(100..=MAX_MULTIPLIER_PERCENT).contains(&self.multiplier_percent) {
            let problem = format!("is {}, must be 100 to {MAX_MULTIPLIER_PERCENT}", self.multiplier_percent);
            return Err(invalid(&format!("{field}.multiplier_percent"), problem));
        }
        Ok(())
    }
}

impl FleetConfig {
    /// Refuses a configuration that is out of bounds.
    pub fn check(&self) -> Result<(), Refusal> {
        // The scheduler finds the best agent only if a matching specialization never lowers a score.
        check_weight("weights.specialization", self.weights.specialization, 0)?;
        check_weight("weights.load", self.weights.load, -MAX_WEIGHT)?;
        check_weight("weights.performance", self.weights.performance, -MAX_WEIGHT)?;
        self.retry.check("retry")?;
        check_duration("result_ttl", Some(self.result_ttl), 0)?;
        check_duration("lost_agent_ttl", Some(self.lost_agent_ttl), 0)?;
        check_duration("idempotency_window", Some(self.idempotency_window), 0)?;
        if self.max_queued == 0 {
            return Err(invalid("max_queued", "must be at least 1"));
        }
        if self.max_tasks == 0 {
            return Err(invalid("max_tasks", "must be at least 1"));
        }
        let largest = self.largest_snapshot();
        if largest > MAX_SNAPSHOT_BYTES {
            let problem = format!(
                "is {}; with max_tasks of {} a snapshot could have {largest} bytes, and the most is {MAX_SNAPSHOT_BYTES}. Lower one \
                 of the two",
                self.max_bytes, self.max_tasks
            );
            return Err(invalid("max_bytes", problem));
        }
        Ok(())
    }

    /// Returns the largest size that a snapshot of a fleet with this configuration can have, bytes.
    pub fn largest_snapshot(&self) -> u64 {
        let tasks = u64::from(self.max_tasks).saturating_mul(MAX_TASK_OVERHEAD);
        let agents = u64::from(MAX_AGENTS) * MAX_AGENT_OVERHEAD;
        self.most_stored().saturating_add(tasks).saturating_add(agents + MAX_OTHER_BYTES)
    }

    /// Returns the most bytes of inputs, outputs and texts that are stored, including the allowance for the results of
    /// accepted tasks ([`MIN_OVERDRAFT_BYTES`]).
    pub fn most_stored(&self) -> u64 {
        self.max_bytes.saturating_add(self.max_bytes.max(MIN_OVERDRAFT_BYTES))
    }
}
