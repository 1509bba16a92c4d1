//! The tasks of a run: which kinds there are, how large they are and how long they take.

use robeing_agent::platform::{Platform, simulated::SeededRandom};
use robeing_proto::v1;

use crate::{
    clients::below,
    executor::{Course, specialized},
};

/// The specialization of the specialist.
pub const SPECIALIZATION: &str = "parsing";
/// A large payload, bytes: just what is allowed, together with what an output begins with.
const LARGE: usize = (1 << 20) - 256;

/// What a seed's tasks are like.
#[derive(Clone, Copy)]
pub struct Mix {
    /// Some are as large as is allowed.
    pub is_large: bool,
    /// Some are forgotten soon after their end.
    pub is_fleeting: bool,
    /// Some need a specialist.
    pub is_special: bool,
}

/// A new task's id.
pub fn new_id(platform: &Platform) -> String {
    let id = robeing_agent::platform::uuid_v7(&*platform.clock, &*platform.random);
    uuid::Uuid::from_u128(id).to_string()
}

fn millis(ms: u64) -> prost_types::Duration {
    prost_types::Duration { seconds: (ms / 1_000) as i64, nanos: (ms % 1_000) as i32 * 1_000_000 }
}

impl Mix {
    /// Of this seed.
    pub fn of(seed: u64) -> Self {
        let random = SeededRandom::new(seed ^ 2);
        let one_of = |n| below(&random, n) == 0;
        Self { is_large: one_of(4), is_fleeting: one_of(2), is_special: one_of(2) }
    }

    /// A new task.
    pub fn task(self, platform: &Platform, submitter: &str) -> v1::TaskSpec {
        let random = &*platform.random;
        let ms = match below(random, 12) {
            // Longer than it takes to lose an agent, so that what it ran is begun elsewhere.
            0..=2 => 1_500 + below(random, 3_000),
            3..=5 => below(random, 1_000),
            _ => below(random, 150),
        };
        let course = match below(random, 14) {
            0 => Course::Fail(ms),
            1 | 2 => Course::Retry(ms.min(1_000)),
            3 => Course::Hang,
            4 | 5 => Course::Stubborn(ms),
            6 if self.is_large => Course::Large(LARGE as u64),
            _ => Course::Succeed(ms),
        };
        let id = new_id(platform);
        // A task that hangs is given up soon: waiting for it shows nothing more.
        let max_attempts = if course == Course::Hang { 2 } else { 0 };
        let retry = v1::RetryPolicy { max_attempts, initial_backoff: Some(millis(200)), ..v1::RetryPolicy::default() };
        let special = self.is_special && below(random, 6) == 0;
        v1::TaskSpec {
            kind: if special { specialized(SPECIALIZATION) } else { "simulated".to_owned() },
            required_specialization: if special { SPECIALIZATION.to_owned() } else { String::new() },
            required_role: if special && below(random, 2) == 0 { v1::Role::Specialist.into() } else { 0 },
            input: course.input(if self.is_large && below(random, 12) == 0 { LARGE } else { 0 }),
            priority: 1 + below(random, 10) as u32,
            attempt_timeout: (course == Course::Hang).then(|| millis(1_000)),
            retry: Some(retry),
            deadline_in: (below(random, 8) == 0).then(|| millis(20_000)),
            delay: (below(random, 10) == 0).then(|| millis(300)),
            idempotency_key: if below(random, 3) == 0 { format!("key of {id}") } else { String::new() },
            submitter: submitter.to_owned(),
            id,
            ..v1::TaskSpec::default()
        }
    }

    /// A new task that is forgotten soon after its end.
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
