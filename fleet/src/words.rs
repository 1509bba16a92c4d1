//! Numbers and lists in texts for people.

/// Returns how many there are: `1 agent`, `2 agents`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Returns these, with commas and an `and`: `a, b and c`; empty if there are none.
pub(crate) fn listed(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Returns a time that is left, ms: `4 ms`, `4 s`.
pub(crate) fn left(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        _ => format!("{} s", ms.div_ceil(1_000)),
    }
}
