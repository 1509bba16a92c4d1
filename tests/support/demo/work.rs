//! The demo's tasks over a text, each with the answer it must have. Pure: the answers are computed here, without the
//! programs that the agents run.

use robeing_proto::v1::TaskSpec;

/// Tasks in all.
pub const TASKS: usize = 500;
/// Lines of the text that one task gets, at least and at most.
const PASSAGE_LINES: (usize, usize) = (100, 400);
/// Lines from the beginning of one passage to the next one's, in a circle. A prime larger than a text has lines: passages of
/// the same length, which are 300 apart, then never begin alike.
const STEP: usize = 10_007;
/// Of so many tasks in a row, one is for a specialist.
const SPECIALIST_EVERY: usize = 4;
/// What the workers of the example do: lines, words and bytes.
const COUNTING: &str = "data_processing";
/// What its specialists do: upper case.
const SHOUTING: &str = "communication";

/// A task and its right answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Exercise {
    /// The task.
    pub spec: TaskSpec,
    /// The output it must have.
    pub answer: Vec<u8>,
}

/// The tasks of the demo over a text of several hundred lines: passages of it, no two alike, to be counted or to be
/// turned to upper case.
pub fn exercises(text: &str) -> Vec<Exercise> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    (0..TASKS).map(|index| exercise(index, &passage(&lines, index))).collect()
}

/// A passage that begins elsewhere, and is of another length, for each index.
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
        // Only agents that can do it: a worker would count what a specialist should turn to upper case.
        required_specialization: kind.into(),
        input: passage.as_bytes().to_vec().into(),
        submitter: "demo".into(),
        ..TaskSpec::default()
    };
    Exercise { spec, answer: answer.into_bytes() }
}

/// Lines, words and bytes.
fn count(text: &str) -> String {
    let lines = text.bytes().filter(|byte| *byte == b'\n').count();
    let words = text.split_ascii_whitespace().count();
    format!("{lines} {words} {}", text.len())
}

/// Whether a task is one for the specialists.
pub fn is_for_specialists(spec: &TaskSpec) -> bool {
    spec.kind == SHOUTING
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn text() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/texts/lighthouse-log.txt");
        std::fs::read_to_string(path).expect("the text is there")
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
