//! The only place where the fleet's types get the form of the API, and what comes by the API the form of the fleet; one file for
//! each domain.
//!
//! Nothing here is called under the state's lock: what is told is taken from the state as it is (shared, or a few numbers), and
//! becomes messages afterwards.

mod agents;
mod answers;
mod failures;
mod fields;
mod recoveries;
mod status;
mod submissions;
mod tasks;

use prost_types::Timestamp;
use robeing_fleet::{FleetMillis, Stamp, UnixMillis};

pub use self::{
    agents::{agent, agent_role},
    answers::{answer_size, bad_field, exhausted, refusal},
    failures::failure_from_wire,
    fields::{BadField, excerpt, filter_name, task_id},
    recoveries::recovery_step,
    status::{Figures, status},
    submissions::submission,
    tasks::{Parts, task, task_state, task_states},
};

/// Converts between an enum of the fleet and the one of the API that has the same name and, with others, the same variants: both
/// ways by one table.
macro_rules! same_variants {
    ($(#[$told:meta])* $to:ident, $(#[$heard:meta])* $from:ident, $name:ident { $($variant:ident),+ $(,)? }) => {
        $(#[$told])*
        pub fn $to(of: robeing_fleet::$name) -> robeing_proto::v1::$name {
            match of {
                $(robeing_fleet::$name::$variant => robeing_proto::v1::$name::$variant,)+
            }
        }

        $(#[$heard])*
        fn $from(of: robeing_proto::v1::$name) -> Option<robeing_fleet::$name> {
            match of {
                $(robeing_proto::v1::$name::$variant => Some(robeing_fleet::$name::$variant),)+
                _ => None,
            }
        }
    };
}
use same_variants;

/// A wall time as the API says it.
pub fn timestamp(millis: UnixMillis) -> Timestamp {
    Timestamp { seconds: (millis / 1000) as i64, nanos: (millis % 1000) as i32 * 1_000_000 }
}

/// When something happened, by the wall time of that moment.
fn happened(at: Stamp) -> Timestamp {
    timestamp(at.wall)
}

/// When something will happen, by the wall time as far as can be told now.
fn due(at: FleetMillis, now: Stamp) -> Timestamp {
    timestamp(now.wall_at(at))
}
