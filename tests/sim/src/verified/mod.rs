//! Tasks whose results are verified: several agents run each, and some of them lie. Who lies about which task, and what
//! it says, is always the same, so that the checks know what every agent answers.

mod ledger;
mod requester;

use robeing_platform::simulated::SeededRandom;

pub use self::{ledger::VerifiedLedger, requester::Requester};
use crate::{clients::below, record::Record};

/// The word with which the inputs of these tasks begin.
pub const WORD: &str = "verify";
/// One of this many agents lies, and one of this many liars says what no other one does.
const LIAR_ONE_OF: u64 = 4;
const LONE_ONE_OF: u64 = 2;

/// Returns the input of a task that runs for this many milliseconds on each agent.
fn input(task: &str, ms: u64) -> String {
    format!("{WORD} {ms} {task}")
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
    fn an_input_names_its_task() {
        assert_eq!(subject(input("7", 20).as_bytes()), Some("7"));
        assert_eq!(subject(b"succeed 20 7"), None);
        assert_eq!(subject(b"verify 20"), None);
    }
}
