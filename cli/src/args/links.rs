//! The arguments of `submit` that link tasks.

use clap::{Args, ValueEnum};
use serde::Deserialize;

/// What becomes of a task if one that it depends on does not succeed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum OnFailureWord {
    /// It fails
    #[default]
    Fail,
    /// It is skipped
    Skip,
    /// It runs, and is given the failure
    Run,
}

/// A task that another one depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DependsOn {
    /// The task's id.
    pub task: String,
    /// What its failure means.
    pub on_failure: OnFailureWord,
}

/// What a task makes of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinWord {
    /// All have to succeed.
    All,
    /// All have to end, and none may fail.
    Settled,
    /// One has to succeed.
    Any,
    /// So many have to succeed.
    Quorum(u32),
    /// All have to succeed, and the task is run with their results.
    Reduce,
}

/// What an input is divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SplitByWord {
    /// Lines
    Lines,
    /// Chunks of bytes
    Chunks,
    /// The elements of a JSON array
    Json,
    /// What an attempt makes of it that is run as the kind that is set for it
    Command,
}

/// Arguments that link the tasks of `submit` with others.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkArgs {
    /// Do not start the task before this one has ended. If it does not succeed, the task fails, or with :skip is
    /// skipped, or with :run is started all the same. Repeat it, or separate several by commas
    #[arg(long, value_name = "ID[:fail|skip|run]", value_delimiter = ',', value_parser = dependency)]
    pub depends_on: Vec<DependsOn>,

    /// Append the outputs of the tasks that it depends on, and of its parts, to the task's input
    #[arg(long)]
    pub results_as_input: bool,

    /// Make the tasks of --inputs or --tasks the parts of one task, whose id is printed
    #[arg(long, group = "into_parts")]
    pub split: bool,

    /// Split the task among N agents: its input is divided into as many parts, as --split-by or its kind says, which go to
    /// the best different agents. 1: do not split it, whatever its kind says
    #[arg(long, value_name = "N", group = "into_parts", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub agents: Option<u32>,

    /// With --agents, what the input is divided into; defaults to what is set for its kind
    #[arg(long, value_enum, value_name = "WHAT", requires = "agents")]
    pub split_by: Option<SplitByWord>,

    /// With --agents, the kind of the parts; defaults to what is set for the kind of the task, or to that
    #[arg(long, value_name = "KIND", requires = "agents")]
    pub part_kind: Option<String>,

    /// With --split or --agents, what the task makes of its parts: all have to succeed (all), all have to end and none may fail
    /// (settled), one has to succeed (any), N have to (quorum:N), or all have to and the task is run with their results
    /// (reduce)
    #[arg(long, value_name = "JOIN", requires = "into_parts", value_parser = join)]
    pub join: Option<JoinWord>,

    /// With --split and --join reduce, the kind of the task that is run with the results of the parts; defaults to --kind
    #[arg(long, value_name = "KIND", requires = "join", conflicts_with = "agents")]
    pub reduce_kind: Option<String>,
}

fn dependency(text: &str) -> Result<DependsOn, String> {
    let (task, on_failure) = text.split_once(':').unwrap_or((text, "fail"));
    let on_failure = OnFailureWord::from_str(on_failure, true);
    let on_failure = on_failure.map_err(|_| format!("{text:?} must be a task's id, or ID:fail, ID:skip or ID:run"))?;
    Ok(DependsOn { task: task.to_owned(), on_failure })
}

/// Parses what a task makes of its parts.
///
/// # Errors
/// What it must be, as a sentence.
pub fn join(text: &str) -> Result<JoinWord, String> {
    match text.split_once(':') {
        None if text == "all" => Ok(JoinWord::All),
        None if text == "settled" => Ok(JoinWord::Settled),
        None if text == "any" => Ok(JoinWord::Any),
        None if text == "reduce" => Ok(JoinWord::Reduce),
        Some(("quorum", count)) if count.parse::<u32>().is_ok_and(|count| count > 0) => {
            Ok(JoinWord::Quorum(count.parse().unwrap_or(1)))
        }
        _ => Err(format!("{text:?} must be all, settled, any, quorum:N or reduce")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_fails_the_task_unless_it_says_otherwise() {
        let read = |text: &str| dependency(text).map(|of| (of.task, of.on_failure));
        assert_eq!(read("a"), Ok(("a".to_owned(), OnFailureWord::Fail)));
        assert_eq!(read("a:run"), Ok(("a".to_owned(), OnFailureWord::Run)));
        assert!(read("a:go").is_err());
    }

    #[test]
    fn a_join_is_one_of_five() {
        assert_eq!(join("quorum:3"), Ok(JoinWord::Quorum(3)));
        assert_eq!(join("reduce"), Ok(JoinWord::Reduce));
        for wrong in ["", "quorum", "quorum:0", "quorum:x", "every", "all:1"] {
            assert!(join(wrong).is_err(), "{wrong}");
        }
    }
}
