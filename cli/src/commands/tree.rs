//! The parts and subtasks of a task: `robeing task ID --tree` shows them and theirs.

use std::io;

use robeing_client::FleetClient;
use robeing_proto::v1::{ListSubtasksRequest, ListSubtasksResponse, Task};

use crate::{
    args::Format,
    error::CliError,
    exit::Exit,
    render::{failed_by_parts, failed_parts_text, note, print_list, tree_text, waiting_parts_text, waits_for_parts},
};

/// Maximum number of tasks that a fleet returns on one page.
const PAGE: u32 = 1_000;
/// Maximum number of tasks that are shown.
pub(super) const MOST: usize = 10_000;

/// Returns a page of the parts or subtasks of a task, in order, with their outputs if those are asked for.
async fn page(
    client: &FleetClient,
    id: &str,
    include_output: bool,
    page_token: String,
) -> Result<ListSubtasksResponse, CliError> {
    let id = id.to_owned();
    let request =
        ListSubtasksRequest { id, include_output, page_size: PAGE, page_token, ..ListSubtasksRequest::default() };
    Ok(client.list_subtasks(request).await?)
}

/// Returns the parts or subtasks of a task, in order, with their outputs if those are asked for.
pub(super) async fn subtasks(client: &FleetClient, id: &str, include_output: bool) -> Result<Vec<Task>, CliError> {
    let (mut tasks, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = page(client, id, include_output, page_token).await?;
        tasks.extend(page.tasks);
        page_token = page.next_page_token;
        if page_token.is_empty() || tasks.len() >= MOST {
            return Ok(tasks);
        }
    }
}

/// Returns what there is to say about a task because of its parts or subtasks: of one that failed because of them, which
/// of the first ones did; with `why`, how far those are that it waits for. Nothing if they can't be read: the task is.
pub(super) async fn words_on_parts(client: &FleetClient, task: &Task, why: bool) -> String {
    if failed_by_parts(task) {
        let first = page(client, &task.id, false, String::new()).await;
        return first.map(|page| failed_parts_text(task, &page.tasks)).unwrap_or_default();
    }
    if why && waits_for_parts(task) {
        let parts = subtasks(client, &task.id, false).await;
        return parts.map(|parts| waiting_parts_text(task, &parts)).unwrap_or_default();
    }
    String::new()
}

/// Returns a task and those below it, each before those below it, with their depths.
async fn tree(client: &FleetClient, top: Task) -> Result<Vec<(usize, Task)>, CliError> {
    let (mut found, mut next) = (Vec::new(), vec![(0, top)]);
    while let Some((depth, task)) = next.pop() {
        if found.len() == MOST {
            break;
        }
        if task.subtasks.is_some() {
            let below = subtasks(client, &task.id, false).await?;
            next.extend(below.into_iter().rev().map(|task| (depth + 1, task)));
        }
        found.push((depth, task));
    }
    Ok(found)
}

/// Prints a task and those below it.
pub(super) async fn show(client: &FleetClient, task: Task, format: Format) -> Result<Exit, CliError> {
    let found = tree(client, task).await?;
    let (depths, tasks): (Vec<usize>, Vec<Task>) = found.into_iter().unzip();
    print_list(&mut io::stdout().lock(), format, &tasks, |tasks| tree_text(&depths, tasks))?;
    if tasks.len() == MOST {
        note(&format!("only the first {MOST} tasks are shown"));
    }
    Ok(Exit::Success)
}
