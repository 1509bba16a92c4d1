//! The tasks of a run: which kinds there are, how large they are and how long they take.

use robeing_agent::identity::told_role;
use robeing_fleet::limits::ATTEMPT_GRACE_MS;
use robeing_platform::{Platform, Random};
use robeing_proto::v1;
use robeing_settings::AgentRole;

use crate::{
    clients::below,
    executor::{Course, Needs},
    profile::between,
};

/// The specialization of the specialists.
pub const SPECIALIZATION: &str = "parsing";
/// The size of a large payload in bytes: just within the limit, including the prefix of an output.
const LARGE: usize = (1 << 20) - 256;
/// The minimum duration of long tasks, in milliseconds: longer than it takes to detect the loss of an agent, so that
/// they are restarted elsewhere.
const LONG_FROM: u64 = 1_500;
/// The maximum duration of medium tasks, in milliseconds.
const MIDDLING_TO: u64 = 1_000;
/// The maximum delay, in milliseconds.
const DELAY_TO: u64 = 3_000;
/// The time limit of tasks that ignore it, and of those that hang, in milliseconds.
const LIMITS: (u64, u64) = (400, 1_000);
/// How long tasks that ignore their limit continue after it, in milliseconds: mostly until the coordinators have given
/// up the attempt and the next one waits or runs.
const OVERRUN: (u64, u64) = (ATTEMPT_GRACE_MS - 100, ATTEMPT_GRACE_MS + 700);
/// The most slots that a task takes.
const WIDEST: u32 = 3;
/// The maximum duration of short tasks, in milliseconds.
const SHORT_TO: u64 = 150;

/// The mix of a run's tasks.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// The number of long tasks in twelve.
    pub long: u64,
    /// The maximum duration, in milliseconds.
    pub long_to: u64,
    /// Of twelve tasks that run to their end, the number of those that take some time to stop, or ignore that they are
    /// asked to.
    pub stubborn: u64,
    /// One of this many is cancelled.
    pub cancel_one_of: u64,
    /// The longest time until it is cancelled, in milliseconds.
    pub cancel_within: u64,
    /// One of this many is read as soon as it was accepted.
    pub read_one_of: u64,
    /// Whether some are as large as allowed.
    pub is_large: bool,
    /// Whether some are forgotten soon after their end.
    pub is_fleeting: bool,
    /// Whether some need a specialist, or an agent of a certain role.
    pub is_special: bool,
    /// How many slots some tasks take; 0 if all take one.
    pub wide: u32,
}

/// Returns the id of a new task.
pub fn new_id(platform: &Platform) -> String {
    let id = robeing_platform::uuid_v7(&*platform.clock, &*platform.random);
    uuid::Uuid::from_u128(id).to_string()
}

/// Returns a duration as it is in requests.
pub fn millis(ms: u64) -> prost_types::Duration {
    prost_types::Duration { seconds: (ms / 1_000) as i64, nanos: (ms % 1_000) as i32 * 1_000_000 }
}

impl Mix {
    /// Draws the mix of a run whose agents have so many slots.
    pub fn draw(random: &dyn Random, slots: u32) -> Self {
        let one_of = |n| below(random, n) == 0;
        Self {
            long: between(random, (1, 9)),
            long_to: between(random, (3_000, 6_500)),
            stubborn: if one_of(3) { 8 } else { 2 },
            cancel_one_of: if one_of(3) { 2 } else { 6 },
            cancel_within: if one_of(2) { 400 } else { 2_500 },
            read_one_of: if one_of(3) { 1 } else { 3 },
            is_large: one_of(4),
            is_fleeting: one_of(2),
            is_special: one_of(2),
            wide: if slots > 1 { slots.min(WIDEST) } else { 0 },
        }
    }

    /// Returns the approximate average duration of a task, in milliseconds.
    pub fn average(self) -> u64 {
        (self.long * (LONG_FROM + self.long_to) / 2 + 3 * MIDDLING_TO / 2 + (9 - self.long) * SHORT_TO / 2) / 12
    }

    fn duration(self, random: &dyn Random) -> u64 {
        match below(random, 12) {
            n if n < self.long => between(random, (LONG_FROM, self.long_to)),
            n if n < self.long + 3 => below(random, MIDDLING_TO),
            _ => below(random, SHORT_TO),
        }
    }

    fn course(self, random: &dyn Random) -> Course {
        let ms = self.duration(random);
        match below(random, 14) {
            0 => Course::Fail(ms),
            1 | 2 => Course::Retry(ms.min(MIDDLING_TO)),
            3 if below(random, 2) == 0 => Course::Overrun(between(random, OVERRUN)),
            3 => Course::Hang,
            4 if self.is_large => Course::Large(LARGE as u64),
            _ if below(random, 12) >= self.stubborn => Course::Succeed(ms),
            n if n % 2 == 0 => Course::Stubborn(ms),
            _ => Course::Deaf(ms),
        }
    }

    /// Creates a task. `odd_role` is the role of the last agent, which in some runs is the only one with it.
    pub fn task(self, platform: &Platform, submitter: &str, odd_role: AgentRole) -> v1::TaskSpec {
        let random = &*platform.random;
        let course = self.course(random);
        let id = new_id(platform);
        // A task that hangs is given up soon: waiting longer would show nothing more.
        let max_attempts = if course == Course::Hang { 2 } else { 0 };
        let retry = v1::RetryPolicy { max_attempts, initial_backoff: Some(millis(200)), ..v1::RetryPolicy::default() };
        let drawn = below(random, 8);
        let needs = match drawn {
            0 if self.is_special => Needs::Specialization(SPECIALIZATION),
            1 if self.is_special => Needs::Role(odd_role),
            _ => Needs::Nothing,
        };
        let (required_specialization, required_role) = match needs {
            Needs::Specialization(name) => (name.to_owned(), v1::Role::Unspecified),
            Needs::Role(role) => (String::new(), told_role(role)),
            Needs::Nothing => (String::new(), v1::Role::Unspecified),
        };
        v1::TaskSpec {
            kind: needs.kind(),
            required_specialization,
            required_role: required_role.into(),
            slots: if drawn == 2 { self.wide } else { 0 },
            input: course.input(if self.is_large && below(random, 12) == 0 { LARGE } else { 0 }),
            priority: 1 + below(random, 10) as u32,
            attempt_timeout: matches!(course, Course::Hang | Course::Overrun(_))
                .then(|| millis(between(random, LIMITS))),
            retry: Some(retry),
            deadline_in: (below(random, 8) == 0).then(|| millis(20_000)),
            delay: (below(random, 10) == 0).then(|| millis(below(random, DELAY_TO))),
            idempotency_key: if below(random, 3) == 0 { format!("key of {id}") } else { String::new() },
            submitter: submitter.to_owned(),
            id,
            ..v1::TaskSpec::default()
        }
    }

    /// Creates a task that goes before the others, with a duration from this range in milliseconds.
    pub fn urgent(platform: &Platform, submitter: &str, lasts: (u64, u64)) -> v1::TaskSpec {
        let random = &*platform.random;
        v1::TaskSpec {
            id: new_id(platform),
            kind: Needs::Nothing.kind(),
            input: Course::Succeed(between(random, lasts)).input(0),
            priority: 10,
            submitter: submitter.to_owned(),
            ..v1::TaskSpec::default()
        }
    }

    /// Creates a task that is forgotten soon after its end.
    pub fn fleeting(self, platform: &Platform, submitter: &str) -> v1::TaskSpec {
        let random = &*platform.random;
        let id = new_id(platform);
        v1::TaskSpec {
            kind: "fleeting".to_owned(),
            input: Course::Succeed(below(random, 300)).input(0),
            result_ttl: Some(millis(1 + below(random, 1_000))),
            idempotency_key: if below(random, 2) == 0 { format!("key of {id}") } else { String::new() },
            submitter: submitter.to_owned(),
            id,
            ..v1::TaskSpec::default()
        }
    }
}
