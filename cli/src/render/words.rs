//! Single values in words: states, roles, spans of time, beginnings of texts.

use std::time::Duration;

use jiff::Timestamp;
use robeing_proto::v1::{AgentState, AttemptState, CoordinatorState, FailureKind, Role, TaskState};

/// Characters of a preview, at most.
const PREVIEW: usize = 48;

/// The name of a proto enum's value without the enum's own name, as in `DeadLettered`.
fn camel(name: &str, prefix: &str) -> String {
    let mut word = String::new();
    for part in name.strip_prefix(prefix).unwrap_or(name).split('_') {
        let mut chars = part.chars();
        word.extend(chars.next());
        word.push_str(&chars.as_str().to_ascii_lowercase());
    }
    word
}

/// `Queued`, `DeadLettered`, …
pub fn state_word(state: TaskState) -> String {
    camel(state.as_str_name(), "TASK_STATE_")
}

/// `Worker`, `Specialist`, …
pub fn role_word(role: Role) -> String {
    camel(role.as_str_name(), "ROLE_")
}

pub(super) fn attempt_word(state: AttemptState) -> String {
    camel(state.as_str_name(), "ATTEMPT_STATE_")
}

pub(super) fn agent_word(state: AgentState) -> String {
    camel(state.as_str_name(), "AGENT_STATE_")
}

pub(super) fn coordinator_word(state: CoordinatorState) -> String {
    camel(state.as_str_name(), "COORDINATOR_STATE_")
}

pub(super) fn failure_word(kind: FailureKind) -> String {
    camel(kind.as_str_name(), "FAILURE_KIND_")
}

/// The two largest units of a span: `250ms`, `4.2s`, `3m5s`, `2h10m`, `5d3h`.
pub fn short_duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{}ms", span.as_millis()),
        1..10 => format!("{}.{}s", seconds, span.subsec_millis() / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    }
}

/// The time of a message, where it has one.
pub(super) fn instant(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
}

/// From one time to another; nothing where the clocks of two machines disagree on which was first.
pub(super) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// How long ago a time is, or nothing.
pub(super) fn age(time: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    instant(time).map(|time| short_duration(between(time, now))).unwrap_or_default()
}

/// The beginning of some bytes as one line, or how many there are when they are no text.
pub fn preview(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else { return format!("({} bytes)", bytes.len()) };
    let text = text.trim_end();
    let mut line: String = text.chars().take(PREVIEW).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(PREVIEW).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_show_two_units() {
        for (millis, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1.0s"),
            (9_990, "9.9s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (185_000, "3m5s"),
            (7_800_000, "2h10m"),
            (442_800_000, "5d3h"),
        ] {
            assert_eq!(short_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn names_lose_their_prefix() {
        assert_eq!(state_word(TaskState::DeadLettered), "DeadLettered");
        assert_eq!(agent_word(AgentState::Standby), "Standby");
        assert_eq!(failure_word(FailureKind::OutputTooLarge), "OutputTooLarge");
    }

    #[test]
    fn a_preview_is_one_line_of_text() {
        assert_eq!(preview(b"  12\t3\n"), "  12 3");
        assert_eq!(preview(&[0xff, 0xfe]), "(2 bytes)");
        assert_eq!(preview("é".repeat(PREVIEW).as_bytes()), "é".repeat(PREVIEW));
        assert_eq!(preview("é".repeat(PREVIEW + 1).as_bytes()), format!("{}…", "é".repeat(PREVIEW)));
    }
}
