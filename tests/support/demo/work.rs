//! The demo's tasks over a text, each with its expected output. Pure: the outputs are computed here, without the
//! programs that the agents run.

use robeing_proto::v1::TaskSpec;

/// The number of tasks.
pub const TASKS: usize = 500;
/// The minimum and maximum number of lines of text in a task.
const PASSAGE_LINES: (usize, usize) = (100, 400);
/// The distance in lines from the beginning of one passage to that of the next, wrapping around at the end of the text.
/// It is a prime larger than the number of lines in a text, so two passages of the same length, whose indexes differ by
/// 300, never begin at the same line.
const STEP: usize = 10_007;
/// One of this many consecutive tasks is for a specialist.
const SPECIALIST_EVERY: usize = 4;
/// The specialization of the example's workers: they count lines, words and bytes.
const COUNTING: &str = "data_processing";
/// The specialization of its specialists: they convert to upper case.
const SHOUTING: &str = "communication";

/// A task and its expected output.
#[derive(Clone, Debug, PartialEq)]
pub struct Exercise {
    /// The task.
    pub spec: TaskSpec,
    /// The expected output.
    pub answer: Vec<u8>,
}

/// Returns the tasks of the demo over a text of several hundred lines: different passages of it, to be counted or
/// converted to upper case.
pub fn exercises(text: &str) -> Vec<Exercise> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    (0..TASKS).map(|index| exercise(index, &passage(&lines, index))).collect()
}

/// Returns the passage with this index; its beginning and length depend on the index.
fn passage(lines: &[&str], index: usize) -> String {
    let (least, most) = PASSAGE_LINES;
    let length = (least + (index * 7) % (most - least)).min(lines.len());
    let begin = (index * STEP) % (lines.len() - length + 1);
    lines[begin..begin + length].concat()
}

fn exercise(index: usize, passage: &str) -> Exercise {
    let (kind, answer) = if index.is_multiple_of(SPECIALIST_EVERY) {
        (SHOUTING, passage.to_ascii_uppercase())
    } else {
        (COUNTING, format!("{}\n", count(passage)))
    };
    let spec = TaskSpec {
        kind: kind.into(),
        // Only agents that have the specialization get it: a worker would count what a specialist should convert.
        required_specialization: kind.into(),
        input: passage.as_bytes().to_vec().into(),
        submitter: "demo".into(),
        ..TaskSpec::default()
    };
    Exercise { spec, answer: answer.into_bytes() }
}

/// Returns the numbers of lines, words and bytes, as `wc` prints them.
fn count(text: &str) -> String {
    let lines = text.bytes().filter(|byte| *byte == b'\n').count();
    let words = text.split_ascii_whitespace().count();
    format!("{lines} {words} {}", text.len())
}

/// Returns whether a task is for the specialists.
pub fn is_for_specialists(spec: &TaskSpec) -> bool {
    spec.kind == SHOUTING
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn text() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/texts/lighthouse-log.txt");
        std::fs::read_to_string(path).expect("the text exists")
    }

    #[test]
    fn counts_as_wc_does() {
        assert_eq!(count("one two\n\tthree\n\nfour"), "3 4 20");
        assert_eq!(count(""), "0 0 0");
    }

    #[test]
    fn every_task_has_another_input_and_both_kinds_occur() {
        let exercises = exercises(&text());
        assert_eq!(exercises.len(), TASKS);
        let inputs: BTreeSet<_> = exercises.iter().map(|exercise| &exercise.spec.input).collect();
        assert_eq!(inputs.len(), TASKS);
        let specialists = exercises.iter().filter(|exercise| is_for_specialists(&exercise.spec)).count();
        assert_eq!(specialists, TASKS / SPECIALIST_EVERY);
    }

    #[test]
    fn the_text_is_ascii_so_that_every_locale_counts_it_alike() {
        assert!(text().is_ascii());
    }
}
