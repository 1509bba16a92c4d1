//! Reads workflows: files of steps that depend on each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::Value;

use super::{INPUT_LIMIT, InputError, LineInput, LineOptions, name_of, read_within};
use crate::args::{AgentRole, JoinWord, OnFailureWord, join};

/// Maximum size of a file, bytes.
pub const WORKFLOW_LIMIT: usize = 16 * 1024 * 1024;
/// Maximum number of steps.
pub const STEPS_LIMIT: usize = 10_000;
/// Maximum depth of values in a file.
const MAX_DEPTH: usize = 64;
/// The kind of the task above the steps, unless the file sets one.
const KIND: &str = "workflow";

/// A workflow as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    kind: Option<String>,
    #[serde(default)]
    strategy: Strategy,
    join: Option<String>,
    steps: Vec<StepFile>,
}

/// What a step depends on that does not say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Strategy {
    /// On nothing.
    #[default]
    Parallel,
    /// On the step before it, whose output is its input.
    Pipeline,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StepFile {
    name: String,
    kind: Option<String>,
    input: Option<Value>,
    #[serde(default)]
    inputs: Vec<Value>,
    join: Option<String>,
    part_kind: Option<String>,
    depends_on: Option<Vec<DependencyFile>>,
    results_as_input: Option<bool>,
    priority: Option<u32>,
    deadline: Option<String>,
    delay: Option<String>,
    timeout: Option<String>,
    ttl: Option<String>,
    max_attempts: Option<u32>,
    role: Option<String>,
    specialization: Option<String>,
    queue: Option<String>,
    limit_key: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum DependencyFile {
    Step(String),
    Other(OtherDependency),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OtherDependency {
    step: String,
    #[serde(default)]
    on_failure: OnFailureWord,
}

/// A workflow: one task, whose parts are the steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workflow {
    /// The kind of the task.
    pub kind: String,
    /// What the task makes of its steps.
    pub join: JoinWord,
    /// The steps.
    pub steps: Vec<Step>,
}

/// A step of a workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The name.
    pub name: String,
    /// The input and the options of its task.
    pub line: LineInput,
    /// The inputs of its parts, if it is split.
    pub inputs: Vec<Vec<u8>>,
    /// What its task makes of its parts.
    pub join: Option<JoinWord>,
    /// The kind of its parts; empty: that of its task.
    pub part_kind: String,
    /// The steps that it depends on, by their places, and what their failures mean.
    pub depends_on: Vec<(usize, OnFailureWord)>,
    /// The outputs of these, and of its parts, are appended to its input.
    pub results_as_input: bool,
}

/// Reads a workflow from a file, or from standard input for `-`.
///
/// # Errors
/// [`InputError::Read`], [`InputError::Workflow`], or [`InputError::TooMany`] over [`WORKFLOW_LIMIT`] or
/// [`STEPS_LIMIT`].
pub fn read_workflow(file: &Path) -> Result<Workflow, InputError> {
    let from = name_of(file);
    let too_large = |from| InputError::TooMany { from, limit: format!("{WORKFLOW_LIMIT} bytes") };
    let bytes = read_within(WORKFLOW_LIMIT, file, too_large)?;
    let Ok(text) = String::from_utf8(bytes) else {
        return Err(InputError::Workflow { from, problem: "it is not UTF-8".to_owned() });
    };
    parse_workflow(&from, &text)
}

/// Parses a workflow.
///
/// # Errors
/// As for [`read_workflow`].
pub fn parse_workflow(from: &str, text: &str) -> Result<Workflow, InputError> {
    let wrong = |problem: String| InputError::Workflow { from: from.to_owned(), problem };
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! { max_depth: MAX_DEPTH, max_documents: 1, max_aliases: 0, },
        with_snippet: false,
    };
    let file: Result<File, serde_yaml::Error> = serde_yaml::from_str_with_options(text, options);
    let file = file.map_err(|error| wrong(error.without_snippet().to_string().replace('\n', " ")))?;
    if file.steps.len() > STEPS_LIMIT {
        return Err(InputError::TooMany { from: from.to_owned(), limit: format!("{STEPS_LIMIT} steps") });
    }
    if file.steps.is_empty() {
        return Err(wrong("it has no steps".to_owned()));
    }
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, step) in file.steps.iter().enumerate() {
        if places.insert(&step.name, place).is_some() {
            return Err(wrong(format!("two steps are named {:?}", step.name)));
        }
    }
    let step = |(place, step): (usize, &StepFile)| {
        let read = step.read(place, file.strategy, &places);
        read.map_err(|problem| wrong(format!("step {:?}: {problem}", step.name)))
    };
    let steps = file.steps.iter().enumerate().map(step).collect::<Result<Vec<Step>, InputError>>()?;
    let join = file
        .join
        .as_deref()
        .map_or(Ok(JoinWord::Settled), join)
        .map_err(|problem| wrong(format!("join: {problem}")))?;
    let workflow = Workflow { kind: file.kind.unwrap_or_else(|| KIND.to_owned()), join, steps };
    let waves: usize = workflow.waves().iter().map(Vec::len).sum();
    if waves < workflow.steps.len() {
        return Err(wrong(format!("the step {:?} would wait for itself", workflow.stuck())));
    }
    Ok(workflow)
}

impl Workflow {
    /// Returns the steps by their places, in groups of which each depends on earlier ones alone. Steps that would wait
    /// for themselves are in none.
    pub fn waves(&self) -> Vec<Vec<usize>> {
        let mut open: Vec<usize> = self.steps.iter().map(|step| step.depends_on.len()).collect();
        let mut after: Vec<Vec<usize>> = vec![Vec::new(); self.steps.len()];
        for (place, step) in self.steps.iter().enumerate() {
            step.depends_on.iter().for_each(|(of, _)| after[*of].push(place));
        }
        let mut waves = Vec::new();
        let mut ready: Vec<usize> = (0..self.steps.len()).filter(|place| open[*place] == 0).collect();
        while !ready.is_empty() {
            let mut next = Vec::new();
            for later in ready.iter().flat_map(|place| &after[*place]) {
                open[*later] -= 1;
                if open[*later] == 0 {
                    next.push(*later);
                }
            }
            next.sort_unstable();
            waves.push(std::mem::replace(&mut ready, next));
        }
        waves
    }

    /// Returns the name of a step that would wait for itself, or for one that would.
    fn stuck(&self) -> &str {
        let ordered: BTreeSet<usize> = self.waves().into_iter().flatten().collect();
        let stuck = self.steps.iter().enumerate().find(|(place, _)| !ordered.contains(place));
        stuck.map_or("", |(_, step)| &step.name)
    }
}

impl StepFile {
    fn read(&self, place: usize, strategy: Strategy, places: &BTreeMap<&str, usize>) -> Result<Step, String> {
        let follows = strategy == Strategy::Pipeline && self.depends_on.is_none() && place > 0;
        let mut depends_on = Vec::new();
        if follows {
            depends_on.push((place - 1, OnFailureWord::Fail));
        }
        for dependency in self.depends_on.iter().flatten() {
            let (name, on_failure) = match dependency {
                DependencyFile::Step(name) => (name, OnFailureWord::Fail),
                DependencyFile::Other(OtherDependency { step, on_failure }) => (step, *on_failure),
            };
            let of = places.get(name.as_str()).ok_or_else(|| format!("there is no step {name:?}"))?;
            if depends_on.iter().any(|(known, _)| known == of) {
                return Err(format!("it depends twice on {name:?}"));
            }
            depends_on.push((*of, on_failure));
        }
        if self.inputs.is_empty() && (self.join.is_some() || self.part_kind.is_some()) {
            return Err("join and partKind are for steps with inputs".to_owned());
        }
        Ok(Step {
            name: self.name.clone(),
            line: LineInput { input: self.input.as_ref().map_or(Ok(Vec::new()), bytes)?, options: self.options()? },
            inputs: self.inputs.iter().map(bytes).collect::<Result<_, String>>()?,
            join: self.join.as_deref().map(join).transpose()?,
            part_kind: self.part_kind.clone().unwrap_or_default(),
            depends_on,
            results_as_input: self.results_as_input.unwrap_or(follows),
        })
    }

    fn options(&self) -> Result<LineOptions, String> {
        let duration = |name: &str, text: &Option<String>| -> Result<Option<Duration>, String> {
            let wrong = |_| format!("{name} must be a duration such as 30s or 1m30s");
            text.as_deref().map(|text| humantime::parse_duration(text).map_err(wrong)).transpose()
        };
        let role =
            |text: &String| AgentRole::from_str(text, true).map_err(|_| format!("{text:?} is no role of an agent"));
        if self.priority.is_some_and(|priority| !(1..=10).contains(&priority)) {
            return Err("priority must be 1 to 10".to_owned());
        }
        if self.max_attempts == Some(0) {
            return Err("maxAttempts must be at least 1".to_owned());
        }
        Ok(LineOptions {
            kind: self.kind.clone(),
            key: None,
            priority: self.priority,
            deadline: duration("deadline", &self.deadline)?,
            delay: duration("delay", &self.delay)?,
            timeout: duration("timeout", &self.timeout)?,
            max_attempts: self.max_attempts,
            ttl: duration("ttl", &self.ttl)?,
            role: self.role.as_ref().map(role).transpose()?,
            specialization: self.specialization.clone(),
            queue: self.queue.clone(),
            limit_key: self.limit_key.clone(),
        })
    }
}

/// Returns an input: the text of a string, or any other value as JSON.
fn bytes(value: &Value) -> Result<Vec<u8>, String> {
    let bytes = match value {
        Value::String(text) => text.clone().into_bytes(),
        value => value.to_string().into_bytes(),
    };
    if bytes.len() > INPUT_LIMIT {
        return Err(format!("an input has {} bytes, the limit is {INPUT_LIMIT}", bytes.len()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Workflow, String> {
        parse_workflow("w.yaml", text).map_err(|error| error.to_string())
    }

    const GRAPH: &str = "
kind: nightly
steps:
- {name: fetch, kind: fetch, input: {url: 'https://x'}, deadline: 10m}
- {name: parse, kind: parse, dependsOn: [fetch], resultsAsInput: true}
- name: clean
  kind: clean
  dependsOn: [parse, {step: fetch, onFailure: run}]
- {name: count, kind: count, inputs: [a, b], join: reduce, partKind: one}
";

    #[test]
    fn a_workflow_is_its_steps_and_what_they_depend_on() {
        let workflow = read(GRAPH).expect("it is right");
        assert_eq!((&*workflow.kind, workflow.join), ("nightly", JoinWord::Settled));
        let [fetch, parse, clean, count] = &workflow.steps[..] else { panic!("{workflow:?}") };
        assert_eq!((&fetch.line.input[..], &fetch.depends_on[..]), (&br#"{"url":"https://x"}"#[..], &[][..]));
        assert_eq!(fetch.line.options.deadline, Some(Duration::from_secs(600)));
        assert_eq!((parse.results_as_input, &parse.depends_on[..]), (true, &[(0, OnFailureWord::Fail)][..]));
        assert_eq!(clean.depends_on, [(1, OnFailureWord::Fail), (0, OnFailureWord::Run)]);
        assert_eq!((count.inputs.len(), count.join, &*count.part_kind), (2, Some(JoinWord::Reduce), "one"));
        assert_eq!(workflow.waves(), [vec![0, 3], vec![1], vec![2]]);
    }

    #[test]
    fn in_a_pipeline_each_step_has_the_output_of_the_one_before_it() {
        let workflow = read("{strategy: pipeline, join: all, steps: [{name: a}, {name: b}, {name: c, dependsOn: []}]}");
        let workflow = workflow.expect("it is right");
        let links: Vec<_> = workflow.steps.iter().map(|step| (step.depends_on.len(), step.results_as_input)).collect();
        assert_eq!(links, [(0, false), (1, true), (0, false)], "unless it says what it depends on");
        assert_eq!((&*workflow.kind, workflow.join), (KIND, JoinWord::All));
    }

    #[test]
    fn what_is_wrong_with_a_workflow_is_told() {
        for (text, problem) in [
            ("steps: []", "it has no steps"),
            ("steps: [{name: a}, {name: a}]", "two steps are named \"a\""),
            ("steps: [{name: a, dependsOn: [b]}]", "step \"a\": there is no step \"b\""),
            ("steps: [{name: a, dependsOn: [a]}]", "the step \"a\" would wait for itself"),
            ("steps: [{name: a, dependsOn: [b]}, {name: b, dependsOn: [a]}]", "the step \"a\" would wait for itself"),
            ("steps: [{name: a}, {name: b, dependsOn: [a, a]}]", "it depends twice on \"a\""),
            ("steps: [{name: a, deadline: soon}]", "deadline must be a duration"),
            ("steps: [{name: a, role: king}]", "\"king\" is no role"),
            ("steps: [{name: a, maxAttempts: 0}]", "maxAttempts must be at least 1"),
            ("steps: [{name: a, join: all}]", "join and partKind are for steps with inputs"),
            ("steps: [{name: a, kinds: b}]", "kinds"),
            ("{join: every, steps: [{name: a}]}", "join: \"every\" must be"),
        ] {
            let told = read(text).expect_err(text);
            assert!(told.contains(problem) && told.starts_with("w.yaml"), "{text}: {told}");
        }
        let steps: String = (0..=STEPS_LIMIT).map(|n| format!("- {{name: s{n}}}\n")).collect();
        assert!(read(&format!("steps:\n{steps}")).expect_err("too many").contains("10000 steps"));
    }
}
