//! Submits one task with its parts: the lines of `--split`, or the steps of a workflow. The task is submitted first,
//! and the parts once it is accepted.

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use robeing_blobs::BlobStore;
use robeing_client::{FleetClient, SubmitEvent, SubmitOptions, is_finished, new_task_id};
use robeing_proto::v1::{
    CancelTasksRequest, Dependency, GetTaskRequest, Join, OnFailure, PartOf, Passing, Refusal, Split, SplitBy,
    SubmitResult, Task, TaskSpec, TaskState,
};

use super::{
    super::{
        tasks::{gone, write_result},
        tree::{MOST, subtasks},
    },
    TOLD_REFUSALS,
    outcome::fetch_result,
    spec,
};
use crate::{
    args::{DependsOn, Format, JoinWord, LinkArgs, OnFailureWord, SplitByWord, SubmitArgs},
    error::CliError,
    exit::Exit,
    inputs::{LineInput, Step, Workflow},
    render::{note, print_list, print_one, results_table},
};

/// How often parts are submitted again that were refused because one that they depend on was not accepted yet.
const ROUNDS: usize = 5;
/// The reason of the cancellation of a task of which a part was refused.
const PART_REFUSED: &str = "a part of it was refused";

/// A task and its parts, in an order in which each comes after those that it depends on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub top: TaskSpec,
    parts: Vec<TaskSpec>,
}

/// What is known of the task so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// What the fleet has answered.
    result: Rc<RefCell<Option<SubmitResult>>>,
}

impl Known {
    /// Describes the task, for a submission that ends early.
    pub fn standing(&self) -> String {
        match &*self.result.borrow() {
            None => super::UNSENT.to_owned(),
            Some(result) => {
                let id = &result.task_id;
                format!(
                    "task {id} was accepted and continues, perhaps without some of its parts: `robeing task {id} --tree`"
                )
            }
        }
    }
}

/// Sets what a task depends on, and how their results are passed on, in a request.
pub(super) fn link(template: &mut TaskSpec, links: &LinkArgs) {
    let dependency = |DependsOn { task, on_failure }: &DependsOn| Dependency {
        task: task.clone(),
        on_failure: asked_on_failure(*on_failure).into(),
    };
    template.depends_on = links.depends_on.iter().map(dependency).collect();
    template.passing = asked_passing(links.results_as_input).into();
    template.agents = links.agents.unwrap_or_default();
    let split = Split {
        by: links.split_by.map_or(SplitBy::Unspecified, asked_by).into(),
        part_kind: links.part_kind.clone().unwrap_or_default(),
        ..links.join.map_or_else(Split::default, |join| asked_split(join, 0))
    };
    template.split = (links.agents.is_some() && split != Split::default()).then_some(split);
}

fn asked_by(word: SplitByWord) -> SplitBy {
    match word {
        SplitByWord::Lines => SplitBy::Lines,
        SplitByWord::Chunks => SplitBy::Chunks,
        SplitByWord::Json => SplitBy::Json,
        SplitByWord::Command => SplitBy::Command,
    }
}

fn asked_on_failure(word: OnFailureWord) -> OnFailure {
    match word {
        OnFailureWord::Fail => OnFailure::Fail,
        OnFailureWord::Skip => OnFailure::Skip,
        OnFailureWord::Run => OnFailure::Run,
    }
}

fn asked_passing(as_input: bool) -> Passing {
    if as_input { Passing::AsInput } else { Passing::Unspecified }
}

fn asked_split(join: JoinWord, parts: usize) -> Split {
    let (join, quorum) = match join {
        JoinWord::All => (Join::All, 0),
        JoinWord::Settled => (Join::Settled, 0),
        JoinWord::Any => (Join::Any, 0),
        JoinWord::Quorum(count) => (Join::Quorum, count),
        JoinWord::Reduce => (Join::Reduce, 0),
    };
    Split { join: join.into(), quorum, parts: u32::try_from(parts).unwrap_or(u32::MAX), ..Split::default() }
}

impl Plan {
    /// The task of these lines, and a part for each.
    pub fn of_lines(template: &TaskSpec, links: &LinkArgs, lines: Vec<LineInput>) -> Self {
        let top = TaskSpec {
            id: new_task_id(),
            kind: links.reduce_kind.clone().unwrap_or_else(|| template.kind.clone()),
            split: Some(asked_split(links.join.unwrap_or(JoinWord::All), lines.len())),
            requires_approval: None,
            verify: None,
            ..template.clone()
        };
        let part = |(index, line): (u32, LineInput)| TaskSpec {
            part_of: Some(PartOf { task: top.id.clone(), index }),
            idempotency_key: String::new(),
            ..spec(template, line)
        };
        let parts = (0..).zip(lines).map(part).collect();
        Self { top, parts }
    }

    /// The task of a workflow, and a part for each step.
    pub fn of_workflow(template: &TaskSpec, workflow: &Workflow) -> Self {
        let top = TaskSpec {
            id: new_task_id(),
            kind: workflow.kind.clone(),
            split: Some(asked_split(workflow.join, workflow.steps.len())),
            requires_approval: None,
            verify: None,
            ..template.clone()
        };
        let ids: Vec<String> = workflow.steps.iter().map(|_| new_task_id()).collect();
        let part = |place: usize| {
            let (step, id) = (&workflow.steps[place], ids[place].clone());
            let index = u32::try_from(place).unwrap_or(u32::MAX);
            let part_of = Some(PartOf { task: top.id.clone(), index });
            TaskSpec { id, part_of, ..step_spec(template, step, &ids) }
        };
        let parts = workflow.waves().into_iter().flatten().map(part).collect();
        Self { top, parts }
    }

    /// Submits the task and its parts, and prints its id, or waits for its end and prints the result.
    pub async fn run(
        self,
        client: &FleetClient,
        args: &SubmitArgs,
        store: Option<&BlobStore>,
        known: Known,
    ) -> Result<Exit, CliError> {
        let Self { top, parts } = self;
        let (answers, refused) = submit(client, vec![top.clone()]).await?;
        if let Some((_, refusal)) = refused.first() {
            note(&format!("the task was refused ({}): {}", refusal.code, refusal.message));
            return Ok(Exit::Refused);
        }
        let Some(result) = answers.into_iter().next() else { return Ok(Exit::Refused) };
        *known.result.borrow_mut() = Some(result.clone());
        let is_new = result.task_id == top.id;
        if is_new && let Some(exit) = submit_parts(client, &result.task_id, parts).await? {
            return Ok(exit);
        }
        if !is_new {
            note(&what_is_kept(client, &result.task_id).await);
        }
        if args.wait {
            return wait(client, &result.task_id, args, store).await;
        }
        let mut out = io::stdout().lock();
        print_one(&mut out, args.output.output, &result, |result| format!("{}\n", result.task_id))?;
        Ok(Exit::Success)
    }
}

/// Describes a task that was submitted before with the same key.
async fn what_is_kept(client: &FleetClient, id: &str) -> String {
    // Without the task there is nothing to say of its parts; the submission is answered anyway.
    let task = client.get_task(GetTaskRequest { id: id.into(), ..Default::default() }).await.ok();
    words_for_kept(id, task.as_ref())
}

fn words_for_kept(id: &str, task: Option<&Task>) -> String {
    let parts = task.filter(|task| !is_finished(task.state())).and_then(|task| task.subtasks.as_ref());
    match parts.filter(|of| of.accepted < of.parts) {
        None => "note: a task with this key was submitted before; it and its parts are kept".to_owned(),
        Some(of) => format!(
            "note: task {id} was submitted with this key before, and has only {} of its {} parts. Unless these are being \
             submitted now, cancel it by `robeing cancel {id}`, and submit it with another key",
            of.accepted, of.parts
        ),
    }
}

/// Returns the task of a step, whose dependencies have these ids.
fn step_spec(template: &TaskSpec, step: &Step, ids: &[String]) -> TaskSpec {
    let dependency = |(place, on_failure): &(usize, OnFailureWord)| {
        Some(Dependency { task: ids.get(*place)?.clone(), on_failure: asked_on_failure(*on_failure).into() })
    };
    let is_split = !step.inputs.is_empty();
    let mut task = spec(template, step.line.clone());
    if task.kind.is_empty() {
        task.kind.clone_from(&step.name);
    }
    TaskSpec {
        depends_on: step.depends_on.iter().filter_map(dependency).collect(),
        passing: asked_passing(step.results_as_input).into(),
        inputs: step.inputs.iter().cloned().map(Into::into).collect(),
        split: is_split.then(|| Split {
            part_kind: step.part_kind.clone(),
            ..asked_split(step.join.unwrap_or(JoinWord::All), step.inputs.len())
        }),
        idempotency_key: String::new(),
        ..task
    }
}

/// Submits tasks. Returns the answers for those that were accepted, and which were refused, by their places.
async fn submit(
    client: &FleetClient,
    tasks: Vec<TaskSpec>,
) -> Result<(Vec<SubmitResult>, Vec<(usize, Refusal)>), CliError> {
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    let take = |event| {
        if let SubmitEvent::Submitted { index, mut result } = event {
            match result.refusal.take() {
                Some(refusal) => refused.push((index, refusal)),
                None => accepted.push(result),
            }
        }
    };
    client.submit_many(tasks, SubmitOptions::default(), take).await?;
    Ok((accepted, refused))
}

/// Submits the parts of a task. If some are refused, the task is cancelled, unless it has ended before. Returns the
/// exit code then.
async fn submit_parts(client: &FleetClient, id: &str, mut parts: Vec<TaskSpec>) -> Result<Option<Exit>, CliError> {
    for _ in 0..ROUNDS {
        let (_, refused) = submit(client, parts.clone()).await?;
        if refused.is_empty() {
            return Ok(None);
        }
        // A part whose turn came before that of one that it depends on is submitted again.
        if refused.iter().any(|(_, refusal)| refusal.code != "NOT_FOUND") {
            return refuse(client, id, refused).await;
        }
        parts = refused.iter().filter_map(|(place, _)| parts.get(*place).cloned()).collect();
    }
    let refusal = Refusal { code: "NOT_FOUND".into(), message: "tasks that it depends on are gone".into() };
    refuse(client, id, vec![(0, refusal)]).await
}

async fn refuse(client: &FleetClient, id: &str, refused: Vec<(usize, Refusal)>) -> Result<Option<Exit>, CliError> {
    let task = client.get_task(GetTaskRequest { id: id.into(), ..Default::default() }).await?;
    // Some parts may decide how it ends before the others are submitted.
    if is_finished(task.state()) {
        return Ok(None);
    }
    for (place, refusal) in refused.iter().take(TOLD_REFUSALS) {
        note(&format!("part {place} was refused ({}): {}", refusal.code, refusal.message));
    }
    client.cancel_tasks(CancelTasksRequest { ids: vec![id.into()], reason: PART_REFUSED.into(), wait: None }).await?;
    note(&format!("task {id} was cancelled, because {} of its parts were refused", refused.len()));
    Ok(Some(Exit::Refused))
}

/// Waits until a task has ended, and prints its result.
async fn wait(client: &FleetClient, id: &str, args: &SubmitArgs, store: Option<&BlobStore>) -> Result<Exit, CliError> {
    let (began, ending) = (Instant::now(), ended(client, id));
    let mut task = match args.wait_timeout {
        None => ending.await?,
        Some(limit) => match tokio::time::timeout(limit, ending).await {
            Ok(task) => task?,
            Err(_) => return Err(timed_out(id, began.elapsed())),
        },
    };
    let exit = if task.state() == TaskState::Succeeded { Exit::Success } else { Exit::TaskFailed };
    let format = args.output.output;
    let is_empty = task.output.is_empty() && task.output_ref.is_none();
    let has_output = !is_empty || task.state() != TaskState::Succeeded;
    if format == Format::Table && has_output {
        fetch_result(store, &mut task).await?;
        return CliError::if_read(write_result(&mut io::stdout().lock(), &task).map(drop), exit);
    }
    let accepted = task.subtasks.as_ref().map_or(0, |of| of.accepted as usize);
    let mut tasks = subtasks(client, id, true).await?;
    let shown = tasks.len();
    if format != Format::Table {
        tasks.insert(0, task);
    }
    let printed = print_list(&mut io::stdout().lock(), format, &tasks, results_table);
    if shown >= MOST && shown < accepted {
        note(&format!("only the first {shown} of {accepted} parts are shown"));
    }
    CliError::if_read(printed, exit)
}

fn timed_out(id: &str, waited: Duration) -> CliError {
    let standing = format!("task {id} was accepted and continues: `robeing task {id} --tree` shows it");
    CliError::WaitTimedOut { unfinished: 1, total: 1, waited, standing }
}

async fn ended(client: &FleetClient, id: &str) -> Result<Task, CliError> {
    let mut task = client.get_task(GetTaskRequest { id: id.into(), ..Default::default() }).await?;
    let mut watch = client.watch_tasks(robeing_proto::v1::WatchTasksRequest {
        from_revision: task.revision,
        ids: vec![id.into()],
        include_output: true,
        ..Default::default()
    });
    while !is_finished(task.state()) {
        let changes = watch.next().await?;
        if changes.gone_ids.iter().any(|one| one == id) {
            return Err(gone(client, id).await);
        }
        task = changes.tasks.into_iter().rfind(|changed| changed.id == id).unwrap_or(task);
    }
    Ok(task)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::parse_workflow;

    fn template() -> TaskSpec {
        TaskSpec { kind: "k".into(), idempotency_key: "key".into(), priority: 7, ..TaskSpec::default() }
    }

    #[test]
    fn lines_become_the_parts_of_one_task() {
        let line = |text: &str| LineInput { input: text.into(), ..LineInput::default() };
        let links = LinkArgs {
            join: Some(JoinWord::Quorum(2)),
            reduce_kind: Some("r".to_owned()),
            depends_on: vec![DependsOn { task: "t".to_owned(), on_failure: OnFailureWord::Skip }],
            ..LinkArgs::default()
        };
        let mut template = template();
        link(&mut template, &links);
        let Plan { top, parts } = Plan::of_lines(&template, &links, vec![line("a"), line("b")]);
        let split = top.split.as_ref().map(|split| (split.join(), split.parts, split.quorum));
        assert_eq!((&*top.kind, split, &*top.idempotency_key), ("r", Some((Join::Quorum, 2, 2)), "key"));
        let told: Vec<_> = parts.iter().map(|part| (&*part.kind, &part.input[..], part.part_of.clone())).collect();
        let part_of = |index| Some(PartOf { task: top.id.clone(), index });
        assert_eq!(told, [("k", &b"a"[..], part_of(0)), ("k", &b"b"[..], part_of(1))]);
        assert!(parts.iter().all(|part| part.idempotency_key.is_empty() && part.priority == 7));
        for task in parts.iter().chain([&top]) {
            assert_eq!((&*task.depends_on[0].task, task.depends_on[0].on_failure()), ("t", OnFailure::Skip));
        }
    }

    #[test]
    fn a_task_for_several_agents_says_how_its_input_is_divided_or_leaves_it_to_its_kind() {
        let asked = |links: &LinkArgs| {
            let mut template = template();
            link(&mut template, links);
            (template.agents, template.split)
        };
        assert_eq!(asked(&LinkArgs::default()), (0, None));
        assert_eq!(asked(&LinkArgs { agents: Some(4), ..LinkArgs::default() }), (4, None));
        let links = LinkArgs {
            agents: Some(4),
            split_by: Some(SplitByWord::Json),
            part_kind: Some("p".to_owned()),
            join: Some(JoinWord::Reduce),
            ..LinkArgs::default()
        };
        let split = Split {
            by: SplitBy::Json.into(),
            part_kind: "p".to_owned(),
            join: Join::Reduce.into(),
            ..Split::default()
        };
        assert_eq!(asked(&links), (4, Some(split)));
        let of_lines = LinkArgs { split: true, join: Some(JoinWord::Any), ..LinkArgs::default() };
        assert_eq!(asked(&of_lines), (0, None), "its parts are given");
    }

    #[test]
    fn of_a_task_that_was_submitted_before_it_is_said_whether_it_lacks_parts() {
        let words = |accepted, state: TaskState| {
            let subtasks = Some(robeing_proto::v1::Subtasks { parts: 3, accepted, ..Default::default() });
            words_for_kept("t", Some(&Task { state: state.into(), subtasks, ..Task::default() }))
        };
        assert!(words(2, TaskState::Queued).contains("only 2 of its 3 parts"));
        for kept in [words(3, TaskState::Queued), words(2, TaskState::Failed), words_for_kept("t", None)] {
            assert!(kept.ends_with("it and its parts are kept"), "{kept}");
        }
    }

    #[test]
    fn the_steps_of_a_workflow_are_parts_that_come_after_those_they_depend_on() {
        let text = "{strategy: pipeline, steps: [{name: a}, {name: b, kind: x, inputs: [1, 2], join: any}]}";
        let workflow = parse_workflow("w", text).expect("it is right");
        let Plan { top, parts } = Plan::of_workflow(&TaskSpec { kind: String::new(), ..template() }, &workflow);
        let [first, second] = &parts[..] else { panic!("{parts:?}") };
        assert_eq!((&*top.kind, top.split.as_ref().map(Split::join)), ("workflow", Some(Join::Settled)));
        assert_eq!((&*first.kind, &*second.kind), ("a", "x"), "a step without a kind has its name");
        assert_eq!((&second.depends_on[0].task, second.passing()), (&first.id, Passing::AsInput));
        assert_eq!(second.part_of, Some(PartOf { task: top.id.clone(), index: 1 }));
        assert_eq!((second.inputs.len(), second.split.as_ref().map(Split::join)), (2, Some(Join::Any)));
    }
}
