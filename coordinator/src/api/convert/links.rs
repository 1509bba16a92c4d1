//! Conversion of what links tasks: dependencies, parts, subtasks, and the results that are passed on.

use bytes::Bytes;
use robeing_fleet::{
    AskedLinks, Children, Dependency, Join, Links, OnFailure, PartOf, Passing, RetryPolicy, Split, SubmitTask,
    Suspension, Task, TaskId, TaskState, limits::MAX_PASSED_REASON_BYTES,
};
use robeing_proto::{internal::v1 as internal, v1};

use super::{
    blobs::told_blob_ref,
    fields::{BadField, bad, task_id_of},
    same_variants,
    submissions::submission,
    tasks::task_state,
};

/// Maximum number of inputs of parts in one request: each becomes a task.
pub const MAX_INPUTS: usize = 10_000;
/// Maximum number of dependencies of the parts of one submission: each has those of the task.
const MAX_PART_DEPENDENCIES: usize = 100_000;

same_variants! {
    /// Converts what a failure means to its API form.
    on_failure,
    /// Converts what a failure means from a request; `None` for an unknown one.
    known_on_failure,
    OnFailure { Fail, Skip, Run }
}

same_variants! {
    /// Converts a join to its API form.
    join,
    /// Converts a join from a request; `None` for an unknown one.
    known_join,
    Join { All, Settled, Any, Quorum, Reduce, Resume }
}

same_variants! {
    /// Converts how results are passed on to its API form.
    passing,
    /// Converts how results are passed on from a request; `None` for an unknown one.
    known_passing,
    Passing { Separately, AsInput }
}

fn asked_dependency(asked: v1::Dependency) -> Result<Dependency, BadField> {
    let known = match v1::OnFailure::try_from(asked.on_failure) {
        Ok(v1::OnFailure::Unspecified) => Some(OnFailure::Fail),
        other => other.ok().and_then(known_on_failure),
    };
    let unknown = || bad("depends_on.on_failure", format!("unknown value {}", asked.on_failure));
    Ok(Dependency { task: task_id_of("depends_on", &asked.task)?, on_failure: known.ok_or_else(unknown)? })
}

fn asked_passing(asked: i32) -> Result<Passing, BadField> {
    let known = match v1::Passing::try_from(asked) {
        Ok(v1::Passing::Unspecified) => Some(Passing::Separately),
        other => other.ok().and_then(known_passing),
    };
    known.ok_or_else(|| bad("passing", format!("unknown value {asked}")))
}

/// Reads what a task makes of its parts: if nothing is said, all have to succeed.
pub fn asked_join(field: &'static str, asked: i32) -> Result<Join, BadField> {
    let known = match v1::Join::try_from(asked) {
        Ok(v1::Join::Unspecified) => Some(Join::All),
        other => other.ok().and_then(known_join),
    };
    known.ok_or_else(|| bad(field, format!("unknown value {asked}")))
}

/// Returns into how many parts a task is split that has so many inputs for parts.
fn asked_split(asked: Option<v1::Split>, inputs: usize) -> Result<Option<Split>, BadField> {
    if inputs > MAX_INPUTS {
        let problem = format!("{inputs} in one submission, {MAX_INPUTS} at most; submit the parts by themselves");
        return Err(bad("inputs", problem));
    }
    let Some(asked) = asked.or_else(|| (inputs > 0).then(v1::Split::default)) else { return Ok(None) };
    let join = asked_join("split.join", asked.join)?;
    let parts = match (asked.parts, inputs) {
        (0, inputs) => inputs as u32,
        (parts, 0) => parts,
        (parts, inputs) if parts as usize == inputs => parts,
        (parts, inputs) => return Err(bad("split.parts", format!("is {parts}, and there are {inputs} inputs"))),
    };
    if asked.by != i32::from(v1::SplitBy::Unspecified) {
        return Err(bad("split.by", "counts for a task that is split among agents; set agents to 2 or more"));
    }
    if inputs == 0 && !asked.part_kind.is_empty() {
        return Err(bad("split.part_kind", "counts for parts with inputs; submit the parts with their kind"));
    }
    Ok(Some(Split { parts, join, quorum: asked.quorum, spread: asked.spread }))
}

/// Converts the links of a submission; `None` if it has none.
pub fn asked_links(
    depends_on: Vec<v1::Dependency>,
    passing: i32,
    (split, inputs): (Option<v1::Split>, usize),
    part_of: Option<v1::PartOf>,
) -> Result<Option<Box<AskedLinks>>, BadField> {
    let place = |of: v1::PartOf| task_id_of("part_of", &of.task).map(|task| PartOf { task, index: of.index });
    let part_of = part_of.map(place).transpose()?;
    if depends_on.len().saturating_mul(inputs) > MAX_PART_DEPENDENCIES {
        let problem = format!(
            "{inputs} parts would depend on {} tasks each, {MAX_PART_DEPENDENCIES} dependencies at most; have one task \
             depend on them, and the parts on that",
            depends_on.len()
        );
        return Err(bad("depends_on", problem));
    }
    let links = AskedLinks {
        depends_on: depends_on.into_iter().map(asked_dependency).collect::<Result<_, BadField>>()?,
        passing: asked_passing(passing)?,
        split: asked_split(split, inputs)?,
        part_of,
        divider: None,
    };
    // Without links, it can be read by coordinators of older versions.
    Ok((links != AskedLinks::default()).then(|| Box::new(links)))
}

/// Returns the parts of a task, with these inputs and of this kind, and with the options of the task. The ids depend on
/// that of the task alone, so that a submission that is repeated is that of the same parts.
pub fn parts(task: &SubmitTask, kind: &str, inputs: Vec<Bytes>) -> Vec<SubmitTask> {
    let links = AskedLinks { split: None, divider: None, ..task.links.as_deref().cloned().unwrap_or_default() };
    let kind = if kind.is_empty() { task.kind.clone() } else { kind.to_owned() };
    let template =
        SubmitTask { kind, idempotency_key: None, approval: None, links: None, input_ref: None, ..task.clone() };
    let part = |(index, input): (u32, Bytes)| {
        let part_of = Some(PartOf { task: task.id, index });
        let links = Some(Box::new(AskedLinks { part_of, ..links.clone() }));
        SubmitTask { id: robeing_fleet::child_id(task.id, index), input, links, ..template.clone() }
    };
    (0..).zip(inputs).map(part).collect()
}

/// Converts what an attempt asks for that waits for subtasks. `default_retry` returns the retry policy of a kind, which
/// sets what a subtask leaves unset of its own.
///
/// # Errors
/// What is wrong with a subtask, as a sentence.
pub fn suspension(
    asked: internal::Suspended,
    default_retry: impl Fn(&str) -> RetryPolicy,
) -> Result<Suspension, String> {
    let subtask = |(n, spec): (usize, v1::TaskSpec)| {
        let priority = spec.priority;
        let retry = spec.retry.as_ref().map(|_| default_retry(&spec.kind)).unwrap_or_default();
        if spec.requires_approval.is_some() || !spec.inputs.is_empty() || spec.not_before.is_some() {
            return Err(format!(
                "subtask {n}: it can't need an approval, have inputs for parts or a not_before; set delay"
            ));
        }
        let task = submission(spec, retry, || 0).map_err(|error| format!("subtask {n}: {error}"))?;
        // The fleet draws the id, and an unset priority is that of the task.
        Ok(SubmitTask { id: TaskId(0), priority: if priority == 0 { 0 } else { task.priority }, ..task })
    };
    let subtasks = asked.subtasks.into_iter().enumerate().map(subtask).collect::<Result<_, String>>()?;
    Ok(Suspension { subtasks, carried: asked.carried })
}

/// Converts the result of a task that is passed on. `is_child` tells that it is a part or subtask of the task that gets
/// it, which needs no id.
pub fn passed_result(task: &Task, is_child: bool) -> internal::PassedResult {
    let state = match task.state {
        TaskState::Succeeded => v1::TaskState::Unspecified,
        state => task_state(state),
    };
    let reason = task.reason();
    internal::PassedResult {
        task_id: if is_child { String::new() } else { task.id.to_string() },
        state: state.into(),
        output: task.output.clone().unwrap_or_default(),
        reason: reason[..reason.floor_char_boundary(MAX_PASSED_REASON_BYTES)].to_owned(),
        output_ref: task.output_ref.as_deref().map(told_blob_ref),
    }
}

/// Converts the children of a task in this state. When the task ends, it has those cancelled that have not ended, and no
/// longer counts.
fn told_children(children: &Children, state: TaskState) -> v1::Subtasks {
    let Children { quorum, parts, accepted, succeeded, skipped, suspensions, .. } = *children;
    let ended = if state.is_final() { accepted } else { children.ended };
    let join = join(children.join).into();
    v1::Subtasks { join, quorum, parts, accepted, ended, succeeded, skipped, suspensions }
}

/// Adds the links of a task in this state to its API form.
pub fn told_links(task: v1::Task, links: &Links, state: TaskState) -> v1::Task {
    let dependency = |of: &robeing_fleet::Awaited| v1::TaskDependency {
        task: of.task.to_string(),
        on_failure: on_failure(of.on_failure).into(),
        state: of.end.map_or(v1::TaskState::Unspecified, task_state).into(),
    };
    v1::Task {
        depends_on: links.depends_on.iter().map(dependency).collect(),
        passing: passing(links.passing).into(),
        subtasks: links.children.as_ref().map(|children| told_children(children, state)),
        part_of: links.child_of.as_ref().map(|of| v1::PartOf { task: of.task.to_string(), index: of.index }),
        skipped: links.skipped,
        ..task
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00000000-0000-0000-0000-000000000001";

    fn read(spec: v1::TaskSpec) -> Result<SubmitTask, BadField> {
        submission(spec, RetryPolicy::default(), || 7)
    }

    #[test]
    fn a_submission_without_links_has_none() {
        assert_eq!(read(v1::TaskSpec::default()).map(|task| task.links), Ok(None));
    }

    #[test]
    fn links_are_read_and_unknown_values_are_refused() {
        let dependency = v1::Dependency { task: ID.to_owned(), on_failure: v1::OnFailure::Skip.into() };
        let part_of = Some(v1::PartOf { task: ID.to_owned(), index: 3 });
        let passing = v1::Passing::AsInput.into();
        let spec = v1::TaskSpec { depends_on: vec![dependency], part_of, passing, ..v1::TaskSpec::default() };
        let links = read(spec.clone()).expect("it is right").links.expect("it has some");
        assert_eq!(links.depends_on, [Dependency { task: TaskId(1), on_failure: OnFailure::Skip }]);
        assert_eq!((links.part_of, links.passing), (Some(PartOf { task: TaskId(1), index: 3 }), Passing::AsInput));
        let wrong = |task: &str, on_failure| {
            let dependency = v1::Dependency { task: task.to_owned(), on_failure };
            read(v1::TaskSpec { depends_on: vec![dependency], ..spec.clone() })
        };
        assert!(wrong("none", 0).is_err() && wrong(ID, 99).is_err() && wrong(ID, 0).is_ok());
        assert!(read(v1::TaskSpec { passing: 99, ..spec }).is_err());
    }

    #[test]
    fn parts_that_were_cancelled_because_their_task_ended_have_ended() {
        let children = Children { parts: 4, accepted: 3, ended: 1, ..Children::default() };
        let ended = |state| told_children(&children, state).ended;
        assert_eq!([TaskState::Queued, TaskState::Failed, TaskState::Cancelled].map(ended), [1, 3, 3]);
    }

    #[test]
    fn inputs_split_a_task_into_as_many_parts() {
        let spec = |inputs: usize, split| v1::TaskSpec {
            kind: "sum".to_owned(),
            inputs: vec![Bytes::new(); inputs],
            split,
            ..v1::TaskSpec::default()
        };
        let parts_of = |spec| read(spec).map(|task| task.links.and_then(|links| links.split).map_or(0, |of| of.parts));
        assert_eq!(parts_of(spec(3, None)), Ok(3));
        assert_eq!(parts_of(spec(MAX_INPUTS, None)), Ok(MAX_INPUTS as u32));
        assert!(parts_of(spec(MAX_INPUTS + 1, None)).is_err());
        let split = |parts| Some(v1::Split { parts, ..v1::Split::default() });
        assert_eq!(parts_of(spec(0, split(5))), Ok(5), "they are submitted by themselves");
        assert!(parts_of(spec(3, split(2))).is_err());
        let task = read(spec(2, None)).expect("it is right");
        let made = parts(&task, "add", vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        let place = |part: &SubmitTask| part.links.as_ref().and_then(|links| links.part_of);
        let told: Vec<_> = made.iter().map(|part| (&*part.kind, &*part.input, place(part))).collect();
        let part_of = |index| Some(PartOf { task: task.id, index });
        assert_eq!(told, [("add", &b"a"[..], part_of(0)), ("add", &b"b"[..], part_of(1))]);
        assert_eq!(made, parts(&task, "add", vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]), "the same ids");
        assert!(made.iter().all(|part| part.check().is_ok()));
    }

    #[test]
    fn parts_are_kept_apart_if_that_is_asked_for_and_inputs_are_divided_for_agents_alone() {
        let of = |split| read(v1::TaskSpec { split: Some(split), ..v1::TaskSpec::default() });
        for spread in [true, false] {
            let task = of(v1::Split { parts: 2, spread, ..v1::Split::default() }).expect("it is right");
            let split = task.links.and_then(|links| links.split).expect("it is split");
            assert_eq!((split.parts, split.spread), (2, spread));
        }
        assert!(of(v1::Split { parts: 2, by: v1::SplitBy::Lines.into(), ..v1::Split::default() }).is_err());
        assert!(read(v1::TaskSpec { agents: 2, ..v1::TaskSpec::default() }).is_err(), "it is not divided");
        assert!(read(v1::TaskSpec { agents: 1, ..v1::TaskSpec::default() }).is_ok());
    }

    #[test]
    fn what_is_wrong_with_a_subtask_is_told() {
        let of_kind = |kind: &str| RetryPolicy { initial_backoff: kind.len() as u64, ..RetryPolicy::default() };
        let asked = |spec| suspension(internal::Suspended { subtasks: vec![spec], carried: Bytes::new() }, of_kind);
        let good = asked(v1::TaskSpec { kind: "k".to_owned(), ..v1::TaskSpec::default() }).expect("it is right");
        assert_eq!((good.subtasks[0].priority, good.subtasks[0].id), (0, TaskId(0)));
        let high = asked(v1::TaskSpec { kind: "k".to_owned(), priority: 9, ..v1::TaskSpec::default() });
        assert_eq!(high.map(|asked| asked.subtasks[0].priority), Ok(9));
        let retry = Some(v1::RetryPolicy { max_attempts: 2, ..v1::RetryPolicy::default() });
        let retried = asked(v1::TaskSpec { kind: "kind".to_owned(), retry, ..v1::TaskSpec::default() });
        let retry = retried.expect("it is right").subtasks[0].retry.expect("it has its own");
        assert_eq!((retry.max_attempts, retry.initial_backoff), (2, 4), "the rest is that of its kind");
        let wrong = asked(v1::TaskSpec { inputs: vec![Bytes::new()], ..v1::TaskSpec::default() });
        assert!(wrong.expect_err("it is split").starts_with("subtask 0: "));
    }
}
