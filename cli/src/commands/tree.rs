//! `robeing task ID --tree`: a task with its parts and subtasks, and theirs.

use std::io;

use robeing_client::FleetClient;
use robeing_proto::v1::{ListSubtasksRequest, Task};

use crate::{
    args::Format,
    error::CliError,
    exit::Exit,
    render::{note, print_list, tree_text},
};

/// Maximum number of tasks that a fleet returns on one page.
const PAGE: u32 = 1_000;
/// Maximum number of tasks that are shown.
pub(super) const MOST: usize = 10_000;

/// Returns the parts or subtasks of a task, in order, with their outputs if those are asked for.
pub(super) async fn subtasks(client: &FleetClient, id: &str, include_output: bool) -> Result<Vec<Task>, CliError> {
    let (mut tasks, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListSubtasksRequest {
            id: id.to_owned(),
            include_output,
            page_size: PAGE,
            page_token: page_token.clone(),
            ..ListSubtasksRequest::default()
        };
        let page = client.list_subtasks(request).await?;
        tasks.extend(page.tasks);
        page_token = page.next_page_token;
        if page_token.is_empty() || tasks.len() >= MOST {
            return Ok(tasks);
        }
    }
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
