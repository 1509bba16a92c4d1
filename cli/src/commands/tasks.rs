//! `robeing tasks`, `robeing task` and `robeing cancel`.

use std::{
    io::{self, IsTerminal, Write},
    time::Instant,
};

use jiff::Timestamp;
use robeing_client::{ClientError, FleetClient, is_finished};
use robeing_proto::v1::{
    CancelResult, CancelTasksRequest, GetTaskRequest, ListTasksRequest, Refusal, Task, TaskProgress, TaskState,
    WatchTasksRequest,
};
use tonic::Code;
use uuid::Uuid;

use super::{
    connect::{client, consistency},
    duration, store, tree,
};
use crate::{
    args::{CancelArgs, Connection, Format, StateFilter, TaskArgs, TasksArgs},
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{
        Document, change_line, note, print_list, print_one, printable_text, progress_line, state_in_sentence,
        state_word, stored_text, table, task_text, tasks_table, write_line,
    },
};

/// Maximum number of tasks that a fleet returns on one page or cancels in one call.
const PAGE: usize = 1_000;

pub(super) async fn list(args: TasksArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, Some(&args.reading), Access::Use).await?;
    let limit = if args.limit == 0 { usize::MAX } else { args.limit };
    let mut request = ListTasksRequest {
        states: args.state.iter().map(|state| TaskState::from(*state).into()).collect(),
        kind: args.kind.unwrap_or_default(),
        submitter: args.submitter.unwrap_or_default(),
        agent: args.agent.unwrap_or_default(),
        page_token: args.page.unwrap_or_default(),
        consistency: consistency(&args.reading).into(),
        ..Default::default()
    };
    let mut tasks = Vec::new();
    loop {
        request.page_size = PAGE.min(limit - tasks.len()) as u32;
        let page = client.list_tasks(request.clone()).await?;
        tasks.extend(page.tasks);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || tasks.len() >= limit {
            break;
        }
    }
    print_list(&mut io::stdout().lock(), args.output.output, &tasks, |tasks| tasks_table(tasks, Timestamp::now()))?;
    if !request.page_token.is_empty() {
        note(&format!("there are more: --page {} continues the list, --limit 0 lists all", request.page_token));
    }
    Ok(Exit::Success)
}

impl From<StateFilter> for TaskState {
    fn from(filter: StateFilter) -> Self {
        match filter {
            StateFilter::Queued => Self::Queued,
            StateFilter::Assigned => Self::Assigned,
            StateFilter::Succeeded => Self::Succeeded,
            StateFilter::Failed => Self::Failed,
            StateFilter::Cancelled => Self::Cancelled,
            StateFilter::DeadLettered => Self::DeadLettered,
        }
    }
}

pub(super) async fn show(args: TaskArgs, fleet: &Connection) -> Result<Exit, CliError> {
    if !is_task_id(&args.id) {
        return Err(CliError::NotFound(no_task_id(&args.id)));
    }
    let client = client(fleet, Some(&args.reading), Access::Use).await?;
    let request = GetTaskRequest {
        id: args.id.clone(),
        include_input: !args.watch && !args.result && !args.tree,
        consistency: consistency(&args.reading).into(),
        include_candidates: args.why && !args.watch,
    };
    let mut task = client.get_task(request).await?;
    if args.tree {
        return tree::show(&client, task, args.output.output).await;
    }
    if args.watch {
        return watch(&client, task, args.output.output).await;
    }
    if args.result {
        if task.output_ref.is_some() {
            store::fetch_output(store::open(&args.store, fleet)?.as_ref(), &mut task).await?;
        }
        return write_result(&mut io::stdout().lock(), &task);
    }
    let format = args.output.output;
    let parts =
        if format == Format::Table { tree::words_on_parts(&client, &task, args.why).await } else { String::new() };
    let mut out = io::stdout().lock();
    print_one(&mut out, format, &task, |task| task_text(task, args.why, Timestamp::now()) + &parts)?;
    Ok(Exit::Success)
}

/// Writes the output of a task that succeeded: unmodified, or as [`printable_text`] if standard output is a
/// terminal. For any other task, prints on standard error how it ended, or that it has not finished.
pub(super) fn write_result(out: &mut dyn Write, task: &Task) -> Result<Exit, CliError> {
    write_result_to(out, io::stdout().is_terminal(), task)
}

fn write_result_to(out: &mut dyn Write, is_terminal: bool, task: &Task) -> Result<Exit, CliError> {
    if let Some(stored) = &task.output_ref {
        note(&format!("the result has {}; give --object-store to fetch it", stored_text(stored)));
        return Ok(Exit::TaskFailed);
    }
    if task.state() == TaskState::Succeeded {
        match std::str::from_utf8(&task.output) {
            _ if !is_terminal => out.write_all(&task.output)?,
            Ok(text) => out.write_all(printable_text(text).as_bytes())?,
            Err(_) => {
                note(&format!("the result has {} bytes and is not text; redirect it to a file", task.output.len()));
            }
        }
        out.flush()?;
        return Ok(Exit::Success);
    }
    if !is_finished(task.state()) {
        note(&format!("task {} has not finished: {}", task.id, state_word(task.state())));
        return Ok(Exit::TaskFailed);
    }
    let failure = task.failure.clone().unwrap_or_default();
    if !failure.stderr_tail.is_empty() {
        note(failure.stderr_tail.trim_end());
    }
    let reason = if failure.message.is_empty() { &task.cancel_reason } else { &failure.message };
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    note(&format!("task {} ended as {}{reason}", task.id, state_word(task.state())));
    Ok(Exit::TaskFailed)
}

async fn watch(client: &FleetClient, mut task: Task, format: Format) -> Result<Exit, CliError> {
    let mut watch = client.watch_tasks(WatchTasksRequest {
        from_revision: task.revision,
        ids: vec![task.id.clone()],
        include_output: true,
        include_progress: true,
        ..Default::default()
    });
    loop {
        let printed = print_change(&task, format);
        if is_finished(task.state()) {
            let outcome = if task.state() == TaskState::Succeeded { Exit::Success } else { Exit::TaskFailed };
            return CliError::if_read(printed, outcome);
        }
        printed?;
        task = loop {
            let changes = watch.next().await?;
            changes.progress.iter().try_for_each(|progress| print_progress(progress, format))?;
            if let Some(newest) = changes.tasks.into_iter().rfind(|changed| changed.id == task.id) {
                break newest;
            }
            if changes.gone_ids.contains(&task.id) {
                return Err(gone(client, &task.id).await);
            }
        };
    }
}

/// Returns the error that says why a task is gone that has been watched.
pub(super) async fn gone(client: &FleetClient, id: &str) -> CliError {
    match why_lost(client, id).await {
        Ok(Some(problem)) => CliError::NotFound(problem),
        Ok(None) | Err(_) => CliError::NotFound(format!("task {id} finished and its result expired meanwhile")),
    }
}

/// Returns why no coordinator can read the result of a task that is gone; `None`: it has expired.
///
/// # Errors
/// The fleet does not answer.
pub(super) async fn why_lost(client: &FleetClient, id: &str) -> Result<Option<String>, ClientError> {
    match client.get_task(GetTaskRequest { id: id.into(), ..Default::default() }).await {
        Err(ClientError::Refused { code: Code::DataLoss, message }) => Ok(Some(message)),
        Ok(_) | Err(ClientError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn print_change(task: &Task, format: Format) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match format {
        Format::Table => out.write_all(change_line(task, Timestamp::now()).as_bytes())?,
        Format::Json | Format::Yaml => write_line(&mut out, format, &Document::of(task)?)?,
    }
    out.flush()?;
    Ok(())
}

fn print_progress(progress: &TaskProgress, format: Format) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match format {
        Format::Table => out.write_all(progress_line(progress, Timestamp::now()).as_bytes())?,
        Format::Json | Format::Yaml => write_line(&mut out, format, &Document::of(progress)?)?,
    }
    out.flush()?;
    Ok(())
}

pub(super) async fn cancel(args: CancelArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let wait = args.wait();
    let (ids, others): (Vec<String>, Vec<String>) = args.ids.into_iter().partition(|id| is_task_id(id));
    let mut results = Vec::new();
    if !ids.is_empty() {
        let client = client(fleet, None, Access::Use).await?;
        let until = wait.map(|wait| Instant::now() + wait);
        let pages = ids.chunks(PAGE);
        // All are cancelled before any is waited for.
        let cancels_first = wait.is_some() && pages.len() > 1;
        for ids in pages.clone().filter(|_| cancels_first) {
            let request = CancelTasksRequest { ids: ids.to_vec(), reason: args.reason.clone(), wait: None };
            client.cancel_tasks(request).await?;
        }
        for ids in pages {
            let wait = until.map(|until| duration(until.saturating_duration_since(Instant::now())));
            let request = CancelTasksRequest { ids: ids.to_vec(), reason: args.reason.clone(), wait };
            results.extend(client.cancel_tasks(request).await?.results);
        }
    }
    results.extend(others.into_iter().map(|id| {
        let refusal = Some(Refusal { code: "NOT_FOUND".into(), message: no_task_id(&id) });
        CancelResult { task_id: id, refusal, ..CancelResult::default() }
    }));
    let table = |results: &[CancelResult]| cancel_table(results, wait.is_some());
    let printed = print_list(&mut io::stdout().lock(), args.output.output, &results, table);
    CliError::if_read(printed, cancel_exit(&results, wait.is_some()))
}

/// Returns whether a task can have this id. Other ids are not sent, because the fleet would refuse all ids in that
/// call.
pub(super) fn is_task_id(id: &str) -> bool {
    Uuid::parse_str(id).is_ok()
}

pub(super) fn no_task_id(id: &str) -> String {
    format!("there is no task {id:?}: a task's id is a UUID, as `robeing submit` and `robeing tasks` print it")
}

fn cancel_table(results: &[CancelResult], waited: bool) -> String {
    table(
        ["ID", "STATE", "NOTE"],
        results.iter().map(|result| {
            let (state, note) = match (&result.refusal, result.state()) {
                (Some(refusal), _) => return [result.task_id.clone(), String::new(), refusal.message.clone()],
                (None, TaskState::Cancelled) => (state_word(TaskState::Cancelled), None),
                (None, state) => {
                    let note = format!("had {} before; nothing was cancelled", ended_in_words(state));
                    (state_word(state), Some(note))
                }
            };
            let remains = waited.then(|| remains_in_words(result));
            let notes: Vec<String> = [note, remains].into_iter().flatten().collect();
            [result.task_id.clone(), state, notes.join("; ")]
        }),
    )
}

/// Returns what runs of a task that was waited for.
fn remains_in_words(result: &CancelResult) -> String {
    match &result.stopping_agents[..] {
        _ if result.stopped => "nothing of it runs any more".to_owned(),
        [] => "whether anything of it runs is not known".to_owned(),
        agents => format!("it is still being stopped by {}", agents.join(", ")),
    }
}

/// Returns how a task ended, as the end of "it had …".
fn ended_in_words(state: TaskState) -> String {
    match state {
        TaskState::DeadLettered => "been dead-lettered".into(),
        state => state_in_sentence(state),
    }
}

/// Returns the exit code. A refusal for another reason takes precedence over an unknown task, and both over one that was
/// waited for in vain.
fn cancel_exit(results: &[CancelResult], waited: bool) -> Exit {
    let mut exit = Exit::Success;
    for refusal in results.iter().filter_map(|result| result.refusal.as_ref()) {
        match refusal.code.as_str() {
            "NOT_FOUND" if exit == Exit::Success => exit = Exit::NotFound,
            "NOT_FOUND" => {}
            _ => exit = Exit::Refused,
        }
    }
    let runs = |result: &CancelResult| result.refusal.is_none() && !result.stopped;
    if exit == Exit::Success && waited && results.iter().any(runs) {
        return Exit::TimedOut;
    }
    exit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str) -> CancelResult {
        let refusal = Some(Refusal { code: code.into(), message: "because".into() });
        CancelResult { task_id: "t".into(), refusal, ..CancelResult::default() }
    }

    fn ended(state: TaskState) -> CancelResult {
        CancelResult { task_id: "t".into(), state: state.into(), ..CancelResult::default() }
    }

    #[test]
    fn the_exit_code_of_cancel_tells_the_worst() {
        let done = ended(TaskState::Cancelled);
        assert_eq!(cancel_exit(std::slice::from_ref(&done), false), Exit::Success);
        assert_eq!(cancel_exit(&[done.clone(), refused("NOT_FOUND")], true), Exit::NotFound);
        assert_eq!(cancel_exit(&[refused("RESOURCE_EXHAUSTED"), refused("NOT_FOUND")], false), Exit::Refused);
        let stopped = CancelResult { stopped: true, ..done.clone() };
        assert_eq!(cancel_exit(std::slice::from_ref(&stopped), true), Exit::Success);
        assert_eq!(cancel_exit(&[stopped, done], true), Exit::TimedOut);
    }

    #[test]
    fn cancel_says_how_a_task_had_ended_before() {
        let results = [
            ended(TaskState::Cancelled),
            ended(TaskState::Succeeded),
            ended(TaskState::DeadLettered),
            refused("NOT_FOUND"),
        ];
        insta::assert_snapshot!(cancel_table(&results, false), @"
        ID   STATE          NOTE
        t    Cancelled      -
        t    Succeeded      had succeeded before; nothing was cancelled
        t    DeadLettered   had been dead-lettered before; nothing was cancelled
        t    -              because
        ");
    }

    #[test]
    fn cancel_says_whether_anything_still_runs_if_it_waited() {
        let stopped = CancelResult { stopped: true, ..ended(TaskState::Succeeded) };
        let stopping_agents = vec!["a-1".to_owned(), "a-2".to_owned()];
        let runs = CancelResult { stopping_agents, ..ended(TaskState::Cancelled) };
        let text = cancel_table(&[stopped, runs, ended(TaskState::Cancelled)], true);
        let notes: Vec<&str> = text.lines().skip(1).map(|line| line.split("   ").last().unwrap_or_default()).collect();
        assert_eq!(
            notes.iter().map(|note| note.trim()).collect::<Vec<_>>(),
            [
                "had succeeded before; nothing was cancelled; nothing of it runs any more",
                "it is still being stopped by a-1, a-2",
                "whether anything of it runs is not known",
            ]
        );
    }

    #[test]
    fn a_result_is_written_as_it_is() {
        let task = Task { state: TaskState::Succeeded.into(), output: vec![0, 255, 10].into(), ..Default::default() };
        let mut out = Vec::new();
        assert_eq!(write_result_to(&mut out, false, &task).expect("memory takes it"), Exit::Success);
        assert_eq!(out, [0, 255, 10]);
    }

    #[test]
    fn a_terminal_gets_no_control_characters_of_a_result() {
        let shown = |output: &'static [u8]| {
            let task = Task { state: TaskState::Succeeded.into(), output: output.into(), ..Default::default() };
            let mut out = Vec::new();
            assert_eq!(write_result_to(&mut out, true, &task).expect("memory takes it"), Exit::Success);
            String::from_utf8(out).expect("it is text")
        };
        assert_eq!(shown("a\tb\r\n\n\u{1b}[31mred\u{202e}\u{9b}2J\n".as_bytes()), "a\tb \n\n [31mred  2J\n");
        assert_eq!(shown(&[0, 255, 10]), "", "what is no text is not shown");
    }

    #[test]
    fn a_task_that_failed_writes_nothing() {
        let task = Task { state: TaskState::DeadLettered.into(), output: vec![1].into(), ..Default::default() };
        let mut out = Vec::new();
        assert_eq!(write_result_to(&mut out, true, &task).expect("memory takes it"), Exit::TaskFailed);
        assert!(out.is_empty());
    }
}
