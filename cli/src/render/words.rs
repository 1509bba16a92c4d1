//! Formats single values: states, roles, durations, previews of texts.

use std::time::Duration;

use jiff::Timestamp;
use robeing_proto::v1::{AgentState, AttemptState, CoordinatorState, FailureKind, MessageCode, Role, TaskState};

/// Maximum number of characters in a preview.
const PREVIEW: usize = 48;

/// Formats the name of a proto enum value without the prefix of the enum, for example `DeadLettered`.
pub(super) fn camel(name: &str, prefix: &str) -> String {
    let mut word = String::new();
    for part in name.strip_prefix(prefix).unwrap_or(name).split('_') {
        let mut chars = part.chars();
        word.extend(chars.next());
        word.push_str(&chars.as_str().to_ascii_lowercase());
    }
    word
}

/// Formats a state: `Queued`, `DeadLettered`, …
pub fn state_word(state: TaskState) -> String {
    camel(state.as_str_name(), "TASK_STATE_")
}

/// Formats a state for use in a sentence: `queued`, `dead-lettered`, …
pub fn state_in_sentence(state: TaskState) -> String {
    let name = state.as_str_name();
    name.strip_prefix("TASK_STATE_").unwrap_or(name).to_ascii_lowercase().replace('_', "-")
}

/// Formats what became of a message: `Accepted`, `NoSuchAgent`, …
pub(super) fn message_word(code: MessageCode) -> String {
    camel(code.as_str_name(), "MESSAGE_CODE_")
}

/// Formats a count: `1 agent`, `2 agents`.
pub fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Formats a role: `Worker`, `Specialist`, …
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

/// Units that durations are rounded to, in nanoseconds.
const MICROSECOND: u128 = 1_000;
const MILLISECOND: u128 = 1_000 * MICROSECOND;
const SECOND: u128 = 1_000 * MILLISECOND;
const MINUTE: u128 = 60 * SECOND;
const HOUR: u128 = 60 * MINUTE;

/// Formats a duration rounded to its two largest units: `250ms`, `4.2s`, `3m5s`, `2h10m`, `5d3h`. A nonzero duration
/// below a millisecond is in microseconds, at least one.
pub fn short_duration(span: Duration) -> String {
    let nanos = span.as_nanos();
    let rounded = |unit: u128| (nanos + unit / 2) / unit;
    if (1..1_000).contains(&rounded(MICROSECOND).max(nanos.min(1))) {
        format!("{}us", rounded(MICROSECOND).max(1))
    } else if rounded(MILLISECOND) < 1_000 {
        format!("{}ms", rounded(MILLISECOND))
    } else if rounded(SECOND / 10) < 100 {
        let tenths = rounded(SECOND / 10);
        format!("{}.{}s", tenths / 10, tenths % 10)
    } else if rounded(SECOND) < 60 {
        format!("{}s", rounded(SECOND))
    } else if rounded(SECOND) < 3_600 {
        two(rounded(SECOND) / 60, "m", rounded(SECOND) % 60, "s")
    } else if rounded(MINUTE) < 24 * 60 {
        two(rounded(MINUTE) / 60, "h", rounded(MINUTE) % 60, "m")
    } else {
        two(rounded(HOUR) / 24, "d", rounded(HOUR) % 24, "h")
    }
}

fn two(large: u128, large_unit: &str, small: u128, small_unit: &str) -> String {
    match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    }
}

/// Converts a timestamp of a message, if it is set.
pub(super) fn instant(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
}

/// Returns the time from one instant to another, or zero if the clocks of two machines disagree about the order.
pub(super) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// Formats a time, and how far from now it is.
pub(crate) fn moment(time: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    match instant(time) {
        None => String::new(),
        Some(time) if time > now => format!("{time:.3} (in {})", short_duration(between(now, time))),
        Some(time) => format!("{time:.3} ({} ago)", short_duration(between(time, now))),
    }
}

/// Formats how long ago a time was; empty if the time is not set.
pub(super) fn age(time: Option<&prost_types::Timestamp>, now: Timestamp) -> String {
    instant(time).map(|time| short_duration(between(time, now))).unwrap_or_default()
}

/// Replaces line breaks and characters that a terminal interprets with spaces, so that the result is one line.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) { ' ' } else { c }).collect()
}

/// Applies [`printable`] to everything but line ends and tabs.
pub fn printable_text(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) && !matches!(c, '\n' | '\t') { ' ' } else { c }).collect()
}

/// Applies [`printable`] to each line.
pub fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// Returns whether a terminal interprets a character instead of showing it: control characters, line separators, and
/// characters that change the direction of text.
pub(super) fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{206F}')
}

/// Returns the start of a text as one line, or the number of bytes if it is not text.
pub fn preview(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else { return format!("({} bytes)", bytes.len()) };
    let text = text.trim_end();
    let mut line: String = text.chars().take(PREVIEW).map(|c| if is_obeyed(c) { ' ' } else { c }).collect();
    if text.chars().nth(PREVIEW).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_rounded_to_two_units() {
        for (micros, text) in [
            (0, "0ms"),
            (1, "1us"),
            (997, "997us"),
            (1_000, "1ms"),
            (1_499, "1ms"),
            (999_499, "999ms"),
            (999_500, "1.0s"),
            (9_940_000, "9.9s"),
            (9_960_000, "10s"),
            (59_499_999, "59s"),
            (59_500_000, "1m"),
            (185_400_000, "3m5s"),
            (3_599_500_000, "1h"),
            (7_829_000_000, "2h10m"),
            (86_399_000_000, "1d"),
            (442_800_000_000, "5d3h"),
        ] {
            assert_eq!(short_duration(Duration::from_micros(micros)), text);
        }
        for (nanos, text) in [(1, "1us"), (997_395, "997us"), (999_499, "999us"), (999_500, "1ms")] {
            assert_eq!(short_duration(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([0, 1, 2].map(|count| plural(count, "task")), ["0 tasks", "1 task", "2 tasks"]);
    }

    #[test]
    fn names_lose_their_prefix() {
        assert_eq!(state_word(TaskState::DeadLettered), "DeadLettered");
        assert_eq!(state_in_sentence(TaskState::DeadLettered), "dead-lettered");
        assert_eq!(agent_word(AgentState::Standby), "Standby");
        assert_eq!(failure_word(FailureKind::OutputTooLarge), "OutputTooLarge");
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_shown_to_it() {
        assert_eq!(printable("a\x1b[31mb\u{9b}2Jc\x07d\x7f\u{202e}e\tf"), "a [31mb 2Jc d  e f");
        assert_eq!(printable_lines("one\r\n\x1b]0;title\x07two\n\nthree"), "one\n ]0;title two\n\nthree");
        assert_eq!(printable("a\u{61c}b\u{200e}c\u{2066}d\u{2069}e\u{206a}f\u{2028}g"), "a b c d e f g");
        assert_eq!(preview("a\u{61c}b".as_bytes()), "a b");
        assert_eq!(printable("naïve 漢字 🙂"), "naïve 漢字 🙂");
    }

    #[test]
    fn a_preview_is_one_line_of_text() {
        assert_eq!(preview(b"  12\t3\n"), "  12 3");
        assert_eq!(preview(&[0xff, 0xfe]), "(2 bytes)");
        assert_eq!(preview("é".repeat(PREVIEW).as_bytes()), "é".repeat(PREVIEW));
        assert_eq!(preview("é".repeat(PREVIEW + 1).as_bytes()), format!("{}…", "é".repeat(PREVIEW)));
    }
}
