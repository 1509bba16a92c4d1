//! What attempts at tasks of graphs do.

use std::time::Duration;

use bytes::Bytes;
use robeing_agent::executor::{Attempt, FailureKind, Outcome, PassedEnd, Subtask};
use robeing_platform::{Random, simulated::SeededRandom};

use crate::{
    clients::below,
    executor::{Needs, failed},
};

/// The word with which the inputs of these tasks begin.
const WORD: &str = "graph";
/// How long an attempt takes at most, in milliseconds.
const LASTS: u64 = 250;
/// One of this many fails.
const FAILS_ONE_OF: u64 = 5;
/// How often a task asks for subtasks at most.
const MOST_ROUNDS: u32 = 2;

/// What an attempt does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Does {
    /// It succeeds. Its output ends with the label of its input.
    Succeed,
    /// It fails for good.
    Fail,
    /// It asks for subtasks, until the task has asked often enough, and then succeeds.
    Ask,
}

/// What an attempt does, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// What it does.
    pub does: Does,
    /// For how long, in milliseconds.
    pub ms: u64,
}

/// Pieces with labels that tell them from all others.
pub type Labelled = Vec<(Piece, String)>;

/// Gives pieces labels that begin so.
pub fn labelled(begin: &str, pieces: &[Piece]) -> Labelled {
    pieces.iter().enumerate().map(|(n, piece)| (*piece, format!("{begin} {n}"))).collect()
}

/// Returns how often a task has asked for subtasks, as its attempts leave it to the next one.
pub fn round(carried: &[u8]) -> u32 {
    std::str::from_utf8(carried).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Returns how often a task asks for subtasks.
pub fn rounds(task: &str) -> u32 {
    1 + crc32c::crc32c(task.as_bytes()) % MOST_ROUNDS
}

/// Returns the subtasks that a task asks for when it has asked this often before.
pub fn subtasks(task: &str, round: u32) -> Labelled {
    let random = SeededRandom::new((u64::from(crc32c::crc32c(task.as_bytes())) << 8) | u64::from(round));
    let pieces: Vec<Piece> = (0..2 + below(&random, 2)).map(|_| Piece::draw(&random)).collect();
    labelled(&format!("{task} {round}"), &pieces)
}

fn ask(task: &str, round: u32) -> Outcome {
    let subtask = |(piece, label): &(Piece, String)| Subtask {
        kind: Needs::Nothing.kind(),
        input: piece.input(label),
        ..Subtask::default()
    };
    let subtasks = subtasks(task, round).iter().map(subtask).collect();
    Outcome::Suspended { subtasks, carried: (round + 1).to_string().into() }
}

/// Returns the label in an input.
fn label(input: &[u8]) -> &[u8] {
    input.splitn(4, |byte| *byte == b' ').nth(3).unwrap_or_default()
}

impl Piece {
    /// Draws a piece that does not ask.
    pub fn draw(random: &dyn Random) -> Self {
        let does = if below(random, FAILS_ONE_OF) == 0 { Does::Fail } else { Does::Succeed };
        Self { does, ms: below(random, LASTS) }
    }

    /// Returns the input for this piece.
    pub fn input(self, label: &str) -> Bytes {
        let word = match self.does {
            Does::Succeed => "succeed",
            Does::Fail => "fail",
            Does::Ask => "ask",
        };
        format!("{WORD} {word} {} {label}", self.ms).into()
    }

    /// Returns the piece that an input is for; `None` if it is not of a graph.
    pub fn of(input: &[u8]) -> Option<Self> {
        // Other inputs may be large.
        let rest = input.strip_prefix(WORD.as_bytes())?.strip_prefix(b" ")?;
        let mut words = std::str::from_utf8(rest).ok()?.split(' ');
        let does = match words.next()? {
            "succeed" => Does::Succeed,
            "fail" => Does::Fail,
            "ask" => Does::Ask,
            _ => return None,
        };
        Some(Self { does, ms: words.next()?.parse().ok()? })
    }

    /// Returns how long an attempt takes.
    pub fn lasts(self) -> Duration {
        Duration::from_millis(self.ms)
    }

    /// Returns the outcome of an attempt that signs its output so.
    pub fn outcome(self, attempt: &Attempt, signature: &str) -> Outcome {
        let round = round(&attempt.carried);
        match self.does {
            Does::Fail => failed(FailureKind::Exit, "the simulated task failed", false),
            Does::Ask if round < rounds(&attempt.task_id) => ask(&attempt.task_id, round),
            Does::Succeed | Does::Ask => {
                let output = format!("{signature} {}", String::from_utf8_lossy(label(&attempt.input)));
                Outcome::Succeeded { output: output.into() }
            }
        }
    }

    /// Returns whether the piece with this label may have ended so.
    pub fn may_end(self, label: &str, end: &PassedEnd) -> bool {
        match end {
            PassedEnd::Succeeded(output) => self.does != Does::Fail && output.ends_with(format!(" {label}").as_bytes()),
            // One that succeeds may have been lost too often.
            PassedEnd::Failed(_) => true,
            PassedEnd::Cancelled(_) | PassedEnd::Stored { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_input_says_what_an_attempt_does_and_is_not_taken_for_another() {
        for does in [Does::Succeed, Does::Fail, Does::Ask] {
            let piece = Piece { does, ms: 7 };
            let input = piece.input("task 0 1");
            assert_eq!((Piece::of(&input), label(&input)), (Some(piece), &b"task 0 1"[..]));
        }
        assert_eq!(Piece::of(b"succeed 20 7"), None);
        assert_eq!(Piece::of(b"graph hang 20 7"), None);
    }

    #[test]
    fn an_output_is_that_of_one_piece_alone() {
        let [good, bad] = [Does::Succeed, Does::Fail].map(|does| Piece { does, ms: 1 });
        let end = |label: &str| PassedEnd::Succeeded(format!("signature {label}").into());
        assert!(good.may_end("task 1", &end("task 1")));
        assert!(!good.may_end("task 1", &end("task 0")) && !bad.may_end("task 1", &end("task 1")));
        assert!(bad.may_end("task 1", &PassedEnd::Failed(String::new())));
        assert!(!good.may_end("task 1", &PassedEnd::Cancelled(String::new())));
    }

    #[test]
    fn what_a_task_asks_for_is_always_the_same_and_differs_from_round_to_round() {
        assert_eq!(subtasks("task", 0), subtasks("task", 0));
        assert_ne!(subtasks("task", 0), subtasks("task", 1));
        let rounds: BTreeSet<u32> = (0..20).map(|n| rounds(&format!("task-{n}"))).collect();
        assert_eq!(rounds.into_iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!([&b""[..], b"1", b"2"].map(round), [0, 1, 2]);
    }
}
