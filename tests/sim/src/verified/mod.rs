//! Tasks whose results are verified: several agents run each, and some of them lie. Who lies about which task, and what
//! it says, is always the same, so that the checks know what every agent answers. Of some tasks no two outputs have the same
//! bytes, and other tasks say which mean the same.

mod ledger;
mod requester;

use robeing_platform::simulated::SeededRandom;

pub use self::{ledger::VerifiedLedger, requester::Requester};
use crate::{clients::below, record::Record, tasks::SPECIALIZATION};

/// The word with which the inputs of these tasks begin.
pub const WORD: &str = "verify";
/// The last word of the inputs of those tasks of which each agent words its output in its own way.
const LOOSELY: &str = "loosely";
/// What separates such an output from the name of its agent.
const AS: &str = ", as ";
/// The kind of the tasks that compare outputs.
pub const COMPARER: &str = SPECIALIZATION;
/// One of this many agents lies, and one of this many liars says what no other one does.
const LIAR_ONE_OF: u64 = 4;
const LONE_ONE_OF: u64 = 2;

/// Returns the input of a task that runs for this many milliseconds on each agent, and of which each agent words its output
/// in its own way or not.
fn input(task: &str, ms: u64, is_loose: bool) -> String {
    if is_loose { format!("{WORD} {ms} {task} {LOOSELY}") } else { format!("{WORD} {ms} {task}") }
}

/// Returns the task that an input belongs to; `None` if its result is not verified.
pub fn subject(input: &[u8]) -> Option<&str> {
    // Other inputs may be large.
    let rest = input.strip_prefix(WORD.as_bytes())?.strip_prefix(b" ")?;
    std::str::from_utf8(rest).ok()?.split(' ').nth(1)
}

/// Returns the right output of a task.
fn truth(task: &str) -> String {
    format!("{task} is true")
}

/// Returns the output of an agent.
pub fn says(task: &str, agent: &str) -> String {
    let seed = (u64::from(crc32c::crc32c(task.as_bytes())) << 32) | u64::from(crc32c::crc32c(agent.as_bytes()));
    let random = SeededRandom::new(seed);
    match (below(&random, LIAR_ONE_OF), below(&random, LONE_ONE_OF)) {
        (0, 0) => format!("{task} is what {agent} makes of it"),
        (0, _) => format!("{task} is false"),
        _ => truth(task),
    }
}

/// Returns the output of an agent for this input.
pub fn output(input: &[u8], agent: &str) -> String {
    let said = says(subject(input).unwrap_or_default(), agent);
    if input.ends_with(LOOSELY.as_bytes()) { format!("{said}{AS}{agent}") } else { said }
}

/// Returns what an output says, however its agent words it.
fn meaning(output: &str) -> &str {
    output.split_once(AS).map_or(output, |(said, _)| said)
}

/// Returns whether the two outputs mean the same that are the input of a task that compares them; `None` if it is no such
/// input.
pub fn compare(input: &[u8]) -> Option<bool> {
    let (lengths, outputs) = std::str::from_utf8(input).ok()?.split_once('\n')?;
    let (one, other) = lengths.split_once(' ')?;
    let (first, second) = outputs.split_at_checked(one.parse().ok()?)?;
    (other.parse::<usize>().ok() == Some(second.len())).then(|| meaning(first) == meaning(second))
}

impl Record {
    /// Records that an agent has an answer to a task whose result is verified.
    pub fn answers(&self, input: &[u8], agent: &str) {
        if let Some(task) = subject(input) {
            self.notes().verified.answers(task, agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn some_agents_lie_some_of_them_alike_and_always_the_same() {
        let all: Vec<String> = (0..100).map(|n| says("task", &format!("agent-{n}"))).collect();
        let right = all.iter().filter(|said| **said == truth("task")).count();
        assert!((60..95).contains(&right), "{right}");
        let lies: BTreeSet<&String> = all.iter().filter(|said| **said != truth("task")).collect();
        assert!(lies.len() > 1 && lies.contains(&"task is false".to_owned()), "{lies:?}");
        assert!(lies.len() < 100 - right, "some lie alike");
        assert_eq!(says("task", "agent-7"), all[7]);
    }

    #[test]
    fn outputs_that_differ_in_their_wording_mean_the_same() {
        let (exact, loose) = (input("task", 20, false), input("task", 20, true));
        let said = |agent: &str| output(loose.as_bytes(), agent);
        assert_eq!(output(exact.as_bytes(), "agent-7"), says("task", "agent-7"));
        assert_eq!(meaning(&said("agent-7")), says("task", "agent-7"));
        assert_eq!(compare(b"7 8\nx, as yz, as me"), Some(false));
        assert_eq!(compare(b"7 8\nx, as yx, as me"), Some(true));
        assert_eq!(compare(b"7 9\nx, as yx, as me"), None);
        assert_eq!(compare(loose.as_bytes()), None);
    }

    #[test]
    fn an_input_names_its_task() {
        assert_eq!(subject(input("7", 20, false).as_bytes()), Some("7"));
        assert_eq!(subject(input("7", 20, true).as_bytes()), Some("7"));
        assert_eq!(subject(b"succeed 20 7"), None);
        assert_eq!(subject(b"verify 20"), None);
    }
}
