//! Fields of requests: their validation, and the errors for invalid ones.

use std::{str::FromStr, time::Duration};

use prost_types::Duration as WireDuration;
use robeing_fleet::{AllocationId, BallotId, LetterId, TaskId, TeamId, limits::MAX_NAME_BYTES};
use robeing_settings::text;
use uuid::Uuid;

/// An invalid field of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadField {
    field: &'static str,
    problem: String,
}

/// Returns the error for a field.
pub fn bad(field: &'static str, problem: impl ToString) -> BadField {
    BadField { field, problem: problem.to_string() }
}

/// Maximum number of characters of external text that an error repeats.
const EXCERPT_CHARS: usize = 64;

/// Returns the beginning of an external text, to repeat it in an error: enough to recognize it, however long it is.
pub fn excerpt(text: &str) -> &str {
    if text.len() <= EXCERPT_CHARS {
        return text;
    }
    let end = text.char_indices().nth(EXCERPT_CHARS).map_or(text.len(), |(end, _)| end);
    &text[..end]
}

/// Parses a task id.
pub fn task_id(text: &str) -> Result<TaskId, BadField> {
    task_id_of("id", text)
}

/// Parses a task id in a field.
pub fn task_id_of(field: &'static str, text: &str) -> Result<TaskId, BadField> {
    let not_one = |_| bad(field, format!("{:?} is not a task id; it is a UUID", excerpt(text)));
    Ok(TaskId(Uuid::from_str(text).map_err(not_one)?.as_u128()))
}

/// Parses the id of a message.
pub fn letter_id(text: &str) -> Result<LetterId, BadField> {
    let not_one = |_| bad("id", format!("{:?} is not the id of a message; it is a UUID", excerpt(text)));
    Ok(LetterId(Uuid::from_str(text).map_err(not_one)?.as_u128()))
}

/// Parses the id of a ballot.
pub fn ballot_id(field: &'static str, text: &str) -> Result<BallotId, BadField> {
    let not_one = |_| bad(field, format!("{:?} is not the id of a ballot; it is a UUID", excerpt(text)));
    Ok(BallotId(Uuid::from_str(text).map_err(not_one)?.as_u128()))
}

/// Parses the id of a team.
pub fn team_id(field: &'static str, text: &str) -> Result<TeamId, BadField> {
    let not_one = |_| bad(field, format!("{:?} is not the id of a team; it is a UUID", excerpt(text)));
    Ok(TeamId(Uuid::from_str(text).map_err(not_one)?.as_u128()))
}

/// Parses the id of an allocation.
pub fn allocation_id(text: &str) -> Result<AllocationId, BadField> {
    let not_one = |_| bad("id", format!("{:?} is not the id of an allocation; it is a UUID", excerpt(text)));
    Ok(AllocationId(Uuid::from_str(text).map_err(not_one)?.as_u128()))
}

/// Checks the name of an agent.
pub fn agent_name(name: &str) -> Result<(), BadField> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        let problem = format!("{:?} is not the name of an agent, of 1 to {MAX_NAME_BYTES} bytes", excerpt(name));
        return Err(bad("agent", problem));
    }
    Ok(())
}

/// Returns a name to filter by, or `None` if it is empty; an error if it is too long.
pub fn filter_name(field: &'static str, name: String) -> Result<Option<String>, BadField> {
    if name.len() > MAX_NAME_BYTES {
        return Err(bad(field, format!("it has {} bytes, the most is {MAX_NAME_BYTES}", name.len())));
    }
    Ok(some(name))
}

/// Returns a duration in milliseconds, if there is one.
pub fn millis(field: &'static str, duration: Option<WireDuration>) -> Result<Option<u64>, BadField> {
    let Some(duration) = duration else { return Ok(None) };
    let duration = Duration::try_from(duration).map_err(|_| bad(field, "it must not be negative"))?;
    let millis = u64::try_from(duration.as_millis()).map_err(|_| bad(field, "it is too long"))?;
    if millis == 0 && !duration.is_zero() {
        return Err(bad(field, "it is shorter than a millisecond"));
    }
    Ok(Some(millis))
}

/// Length of a day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Formats a duration for an error: `7 days`, `10m`, `1m30s`, `1ms`.
pub fn span_text(span: Duration) -> String {
    let days = span.as_secs() / DAY.as_secs();
    if days > 1 && span == Duration::from_secs(days * DAY.as_secs()) {
        return format!("{days} days");
    }
    text::duration(span)
}

pub(super) fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_cut_at_a_character() {
        assert_eq!(excerpt("short"), "short");
        assert_eq!(excerpt(&"ä".repeat(EXCERPT_CHARS)), "ä".repeat(EXCERPT_CHARS));
        assert_eq!(excerpt(&"ä".repeat(1_000)), "ä".repeat(EXCERPT_CHARS));
    }

    #[test]
    fn a_duration_is_told_in_units_that_people_use() {
        for (millis, text) in [
            (1, "1ms"),
            (600_000, "10m"),
            (660_000, "11m"),
            (86_400_000, "24h"),
            (7 * 86_400_000, "7 days"),
            (366 * 86_400_000, "366 days"),
            (7 * 86_400_000 + 1, "168h1ms"),
        ] {
            assert_eq!(span_text(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_filter_is_no_longer_than_a_name() {
        assert!(filter_name("kind", "x".repeat(MAX_NAME_BYTES)).is_ok());
        assert!(filter_name("kind", "x".repeat(MAX_NAME_BYTES + 1)).is_err());
    }
}
