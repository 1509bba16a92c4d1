//! Numbers in texts for people.

/// Returns how many there are: `1 agent`, `2 agents`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
