//! `robeing dead list`, `retry` and `drop`.

use std::{collections::BTreeMap, io};

use jiff::Timestamp;
use robeing_client::FleetClient;
use robeing_proto::v1::{
    DeadLetterRef, DropDeadLetterResult, DropDeadLettersRequest, ListDeadLettersRequest, Refusal,
    RetryDeadLetterResult, RetryDeadLettersRequest, Task,
};

use super::{
    connect::{client, consistency},
    tasks::{is_task_id, no_task_id},
};
use crate::{
    args::{Connection, DeadCommand, DropDeadArgs, Letters, ListDeadArgs, RetryDeadArgs},
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{dead_table, note, print_list, table},
};

/// Maximum number of dead letters that a fleet lists on one page, or takes in one call.
const PAGE: usize = 1_000;

pub(super) async fn run(command: DeadCommand, fleet: &Connection) -> Result<Exit, CliError> {
    match command {
        DeadCommand::List(args) => list(args, fleet).await,
        DeadCommand::Retry(args) => retry(args, fleet).await,
        DeadCommand::Drop(args) => drop_letters(args, fleet).await,
    }
}

/// Reads the dead letters, up to `limit`, and returns whether there are more of them.
async fn read(
    client: &FleetClient,
    mut request: ListDeadLettersRequest,
    limit: usize,
) -> Result<(Vec<Task>, bool), CliError> {
    let mut tasks = Vec::new();
    loop {
        request.page_size = PAGE.min(limit - tasks.len()) as u32;
        let page = client.list_dead_letters(request.clone()).await?;
        tasks.extend(page.tasks);
        request.page_token = page.next_page_token;
        let has_more = !request.page_token.is_empty();
        if !has_more || tasks.len() >= limit {
            return Ok((tasks, has_more));
        }
    }
}

async fn list(args: ListDeadArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, Some(&args.reading), Access::Use).await?;
    let limit = if args.limit == 0 { usize::MAX } else { args.limit };
    let consistency = consistency(&args.reading).into();
    let request = ListDeadLettersRequest { kind: args.kind.unwrap_or_default(), consistency, ..Default::default() };
    let (tasks, has_more) = read(&client, request, limit).await?;
    print_list(&mut io::stdout().lock(), args.output.output, &tasks, |tasks| dead_table(tasks, Timestamp::now()))?;
    if has_more {
        note("there may be more: --limit 0 lists all");
    }
    Ok(Exit::Success)
}

/// What a command is for: the letters to send, and the ids that no task can have.
struct Chosen {
    letters: Vec<DeadLetterRef>,
    others: Vec<String>,
}

/// Finds out in which epochs the letters are, so that a call that is repeated has one effect. A task that is no dead
/// letter is sent even so: the fleet says what it is.
async fn chosen(client: &FleetClient, letters: Letters) -> Result<Chosen, CliError> {
    let request = ListDeadLettersRequest { kind: letters.kind.unwrap_or_default(), ..Default::default() };
    let (dead, _) = read(client, request, usize::MAX).await?;
    if letters.all {
        let letter = |task: Task| DeadLetterRef { task_id: task.id, epoch: Some(task.epoch) };
        return Ok(Chosen { letters: dead.into_iter().map(letter).collect(), others: Vec::new() });
    }
    let epochs: BTreeMap<String, u32> = dead.into_iter().map(|task| (task.id, task.epoch)).collect();
    let (ids, others): (Vec<String>, Vec<String>) = letters.ids.into_iter().partition(|id| is_task_id(id));
    let letter = |id: String| DeadLetterRef { epoch: epochs.get(&id.to_ascii_lowercase()).copied(), task_id: id };
    Ok(Chosen { letters: ids.into_iter().map(letter).collect(), others })
}

fn unknown(id: &str) -> Option<Refusal> {
    Some(Refusal { code: "NOT_FOUND".into(), message: no_task_id(id) })
}

async fn retry(args: RetryDeadArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Use).await?;
    let Chosen { letters, others } = chosen(&client, args.letters).await?;
    let mut results = Vec::new();
    for letters in letters.chunks(PAGE) {
        let request = RetryDeadLettersRequest { letters: letters.to_vec() };
        results.extend(client.retry_dead_letters(request).await?.results);
    }
    results.extend(others.into_iter().map(|id| {
        let refusal = unknown(&id);
        RetryDeadLetterResult { task_id: id, refusal, ..Default::default() }
    }));
    let printed = print_list(&mut io::stdout().lock(), args.output.output, &results, retried_table);
    CliError::if_read(printed, exit(results.iter().map(|result| result.refusal.as_ref())))
}

async fn drop_letters(args: DropDeadArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Use).await?;
    let Chosen { letters, others } = chosen(&client, args.letters).await?;
    let mut results = Vec::new();
    for letters in letters.chunks(PAGE) {
        let request = DropDeadLettersRequest { letters: letters.to_vec() };
        results.extend(client.drop_dead_letters(request).await?.results);
    }
    results.extend(others.into_iter().map(|id| {
        let refusal = unknown(&id);
        DropDeadLetterResult { task_id: id, refusal, ..Default::default() }
    }));
    let printed = print_list(&mut io::stdout().lock(), args.output.output, &results, dropped_table);
    CliError::if_read(printed, exit(results.iter().map(|result| result.refusal.as_ref())))
}

/// Returns the exit code. A refusal for another reason takes precedence over an unknown task.
fn exit<'a>(refusals: impl Iterator<Item = Option<&'a Refusal>>) -> Exit {
    let mut exit = Exit::Success;
    for refusal in refusals.flatten() {
        match refusal.code.as_str() {
            "NOT_FOUND" if exit == Exit::Success => exit = Exit::NotFound,
            "NOT_FOUND" => {}
            _ => exit = Exit::Refused,
        }
    }
    exit
}

fn retried_table(results: &[RetryDeadLetterResult]) -> String {
    if results.is_empty() {
        return "no dead letters\n".into();
    }
    table(
        ["ID", "EPOCH", "NOTE"],
        results.iter().map(|result| {
            let (epoch, note) = match (&result.refusal, result.existing) {
                (Some(refusal), _) => (String::new(), refusal.message.clone()),
                (None, true) => (result.epoch.to_string(), "had been tried again before".into()),
                (None, false) => (result.epoch.to_string(), "is tried again".into()),
            };
            [result.task_id.clone(), epoch, note]
        }),
    )
}

fn dropped_table(results: &[DropDeadLetterResult]) -> String {
    if results.is_empty() {
        return "no dead letters\n".into();
    }
    table(
        ["ID", "NOTE"],
        results.iter().map(|result| {
            let note = match (&result.refusal, result.existing) {
                (Some(refusal), _) => refusal.message.clone(),
                (None, true) => "had been dropped before".into(),
                (None, false) => "is dropped".into(),
            };
            [result.task_id.clone(), note]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_tells_the_worst() {
        let refused = |code: &str| Refusal { code: code.into(), message: "because".into() };
        let (unknown, not_dead) = (refused("NOT_FOUND"), refused("FAILED_PRECONDITION"));
        assert_eq!(exit([None].into_iter()), Exit::Success);
        assert_eq!(exit([None, Some(&unknown)].into_iter()), Exit::NotFound);
        assert_eq!(exit([Some(&not_dead), Some(&unknown)].into_iter()), Exit::Refused);
    }

    #[test]
    fn what_became_of_each_dead_letter_is_told() {
        let refusal = Some(Refusal { code: "FAILED_PRECONDITION".into(), message: "it is no dead letter".into() });
        let task_id = || "t".to_owned();
        let retried = [
            RetryDeadLetterResult { task_id: task_id(), epoch: 2, existing: false, refusal: None },
            RetryDeadLetterResult { task_id: task_id(), epoch: 1, existing: true, refusal: None },
            RetryDeadLetterResult { task_id: task_id(), refusal: refusal.clone(), ..Default::default() },
        ];
        insta::assert_snapshot!(retried_table(&retried), @"
        ID   EPOCH   NOTE
        t    2       is tried again
        t    1       had been tried again before
        t    -       it is no dead letter
        ");
        let dropped = [
            DropDeadLetterResult { task_id: task_id(), existing: false, refusal: None },
            DropDeadLetterResult { task_id: task_id(), existing: true, refusal: None },
            DropDeadLetterResult { task_id: task_id(), existing: false, refusal },
        ];
        insta::assert_snapshot!(dropped_table(&dropped), @"
        ID   NOTE
        t    is dropped
        t    had been dropped before
        t    it is no dead letter
        ");
        assert_eq!((retried_table(&[]), dropped_table(&[])), ("no dead letters\n".into(), "no dead letters\n".into()));
    }
}
