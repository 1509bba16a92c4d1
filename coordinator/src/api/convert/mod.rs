//! The only place where the fleet's types are converted to API types and back; one file per domain.
//!
//! No message is built under the state's lock: callers take data from the state as it is (shared, or a few numbers; see
//! [`Figures::of`]), and convert it to messages afterwards.

mod agents;
mod answers;
mod ballots;
mod blobs;
mod failures;
mod fields;
mod kinds;
mod links;
mod messages;
mod queues;
mod recoveries;
mod resources;
mod schedules;
mod status;
mod submissions;
mod tasks;
mod teams;

use prost_types::{Duration as WireDuration, Timestamp};
use robeing_fleet::{FleetMillis, Stamp, UnixMillis};

pub use self::{
    agents::{agent, agent_role, directory_entry, peer_role},
    answers::{answer_size, bad_field, exhausted, refusal},
    ballots::{ballot, ballot_state, vote_choice},
    blobs::{blob_ref, told_blob_ref},
    failures::{failure_from_wire, failure_kind_name},
    fields::{
        BadField, agent_name, allocation_id, bad, ballot_id, excerpt, filter_name, letter_id, millis, span_text,
        task_id, team_id,
    },
    kinds::{split_by, task_kind, told_kinds},
    links::{MAX_INPUTS, asked_join, join, parts, passed_result, suspension},
    messages::{letter as letter_message, letter_status, settle_answer, unsettled},
    queues::{task_queue, told_task_queue},
    recoveries::recovery_step,
    resources::{agent_resources, allocation, amounts, holder, pool_sums, queue, queue_shape, told_amounts},
    schedules::{schedule, schedule_spec},
    status::{Figures, status},
    submissions::{start_after, submission},
    tasks::{Parts, add_candidates, task, task_state, task_states, unmet_need},
    teams::{team, team_needs},
};

/// Defines the conversions, in both directions, between an enum of the fleet and the API enum of the same name, which
/// has the same variants and possibly more.
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

/// Converts a wall time to its API form.
pub fn timestamp(millis: UnixMillis) -> Timestamp {
    Timestamp { seconds: (millis / 1000) as i64, nanos: (millis % 1000) as i32 * 1_000_000 }
}

/// Converts a time in milliseconds to its API form. Limits keep it below the longest one.
fn span(millis: u64) -> WireDuration {
    WireDuration { seconds: (millis / 1000) as i64, nanos: (millis % 1000) as i32 * 1_000_000 }
}

/// Returns when something happened, in the wall time of that moment.
fn happened(at: Stamp) -> Timestamp {
    timestamp(at.wall)
}

/// Returns when something will happen, in wall time as far as it is known now.
fn due(at: FleetMillis, now: Stamp) -> Timestamp {
    timestamp(now.wall_at(at))
}
