//! `robeing schedule list`, `show`, `set`, `remove`, `run`, `suspend` and `resume`.

use std::{io, path::PathBuf};

use jiff::Timestamp;
use robeing_client::new_task_id;
use robeing_proto::v1::{
    ConcurrencyPolicy, GetScheduleRequest, ListSchedulesRequest, MissedRuns, RemoveScheduleRequest,
    RemoveScheduleResponse, RunScheduleRequest, Schedule, ScheduleSpec, SetScheduleRequest, SuspendScheduleRequest,
    TaskSpec,
};

use super::{
    connect::client,
    duration,
    submit::{options, retries, submitter, verification},
};
use crate::{
    args::{
        ConcurrencyWord, Connection, ListSchedulesArgs, MissedWord, Output, RunScheduleArgs, ScheduleArgs,
        ScheduleCommand, SetScheduleArgs,
    },
    error::CliError,
    exit::Exit,
    inputs::{InputError, read_scheduled_input},
    kubernetes::Access,
    render::{print_list, print_one, removed_text, run_text, schedule_text, schedules_table},
};

pub(super) async fn run(command: ScheduleCommand, fleet: &Connection) -> Result<Exit, CliError> {
    match command {
        ScheduleCommand::List(args) => list(args, fleet).await,
        ScheduleCommand::Show(args) => show(args, fleet).await,
        ScheduleCommand::Set(args) => set(*args, fleet).await,
        ScheduleCommand::Remove(args) => remove(args, fleet).await,
        ScheduleCommand::Run(args) => start(args, fleet).await,
        ScheduleCommand::Suspend(args) => suspend(args, true, fleet).await,
        ScheduleCommand::Resume(args) => suspend(args, false, fleet).await,
    }
}

fn print(schedule: &Schedule, args: &Output) -> Result<Exit, CliError> {
    let text = |schedule: &Schedule| schedule_text(schedule, Timestamp::now());
    print_one(&mut io::stdout().lock(), args.output, schedule, text)?;
    Ok(Exit::Success)
}

async fn list(args: ListSchedulesArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Use).await?;
    let request = ListSchedulesRequest { managed: args.managed, brief: true, ..ListSchedulesRequest::default() };
    let schedules = client.all_schedules(request).await?;
    let text = |list: &[Schedule]| schedules_table(list, Timestamp::now());
    print_list(&mut io::stdout().lock(), args.output.output, &schedules, text)?;
    Ok(Exit::Success)
}

async fn show(args: ScheduleArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Use).await?;
    print(&client.get_schedule(GetScheduleRequest { name: args.name }).await?, &args.output)
}

async fn set(args: SetScheduleArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let input = input(args.input.clone()).await?;
    let client = client(fleet, None, Access::Use).await?;
    print(&client.set_schedule(request(&args, input)).await?, &args.output)
}

async fn remove(args: ScheduleArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Use).await?;
    let request = RemoveScheduleRequest { name: args.name.clone(), managed: false };
    let removed = RemoveScheduleResponse { removed: client.remove_schedule(request).await? };
    let text = |response: &RemoveScheduleResponse| removed_text(&args.name, response);
    print_one(&mut io::stdout().lock(), args.output.output, &removed, text)?;
    Ok(Exit::Success)
}

async fn start(args: RunScheduleArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Use).await?;
    let request = RunScheduleRequest { name: args.name, task_id: args.id.unwrap_or_else(new_task_id) };
    let started = client.run_schedule(request).await?;
    print_one(&mut io::stdout().lock(), args.output.output, &started, run_text)?;
    Ok(Exit::Success)
}

async fn suspend(args: ScheduleArgs, suspended: bool, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Use).await?;
    let request = SuspendScheduleRequest { name: args.name, suspended };
    print(&client.suspend_schedule(request).await?, &args.output)
}

/// Reads the input of the task, on a blocking thread, because standard input can block.
async fn input(file: Option<PathBuf>) -> Result<Vec<u8>, InputError> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let reading = tokio::task::spawn_blocking(move || read_scheduled_input(&file));
    let failed = |error| InputError::Read { from: "the input".into(), error: io::Error::other(error) };
    reading.await.map_err(failed)?
}

fn request(args: &SetScheduleArgs, input: Vec<u8>) -> SetScheduleRequest {
    let missed = match args.missed {
        MissedWord::Skip => MissedRuns::Skip,
        MissedWord::Latest => MissedRuns::Latest,
        MissedWord::All => MissedRuns::All,
    };
    let concurrency = match args.concurrency {
        ConcurrencyWord::Allow => ConcurrencyPolicy::Allow,
        ConcurrencyWord::Forbid => ConcurrencyPolicy::Forbid,
        ConcurrencyWord::Replace => ConcurrencyPolicy::Replace,
    };
    let spec = ScheduleSpec {
        cron: args.cron.clone(),
        time_zone: args.time_zone.clone().unwrap_or_default(),
        missed: missed.into(),
        start_within: args.start_within.map(duration),
        missed_limit: args.missed_limit.unwrap_or_default(),
        concurrency: concurrency.into(),
        suspended: args.suspended,
        task: Some(task(args, input)),
    };
    SetScheduleRequest { name: args.name.clone(), spec: Some(spec), managed: false }
}

fn task(args: &SetScheduleArgs, input: Vec<u8>) -> TaskSpec {
    TaskSpec {
        kind: args.kind.clone(),
        input: input.into(),
        priority: args.priority.unwrap_or_default(),
        deadline_in: args.deadline.map(duration),
        attempt_timeout: args.timeout.map(duration),
        retry: retries(args.max_attempts, &args.timing),
        result_ttl: args.ttl.map(duration),
        submitter: submitter(args.submitter.clone()),
        verify: verification(&args.verification),
        ..options(&args.timing, &args.requirements, &args.queueing)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use robeing_proto::v1::Role;

    use super::*;
    use crate::args::Command;

    fn args(line: &str) -> SetScheduleArgs {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let cli = crate::args::parse(&words).unwrap_or_else(|error| panic!("{error}"));
        let Command::Schedule(ScheduleCommand::Set(args)) = cli.command else { panic!("another command") };
        *args
    }

    #[test]
    fn a_schedule_is_asked_for_as_it_is_said() {
        let line = "robeing schedule set s --cron @daily --time-zone Europe/Berlin --missed latest --start-within 1h \
            --concurrency replace --kind k --priority 7 --deadline 10m --max-attempts 2 --ttl 1d --role guardian --cpu 2 \
            --verify 2/3 --submitter ada --specialization ocr --specialization gpu --slots 4 --queue q --limit-key c \
            --queue-expiry 5m --progress-timeout 1m --backoff 2s --max-backoff 8s --jitter 20 --non-retryable exit:2";
        let asked = request(&args(line), b"x".to_vec());
        let spec = asked.spec.expect("a spec");
        assert_eq!((asked.name.as_str(), asked.managed, spec.cron.as_str()), ("s", false, "@daily"));
        assert_eq!((spec.missed(), spec.concurrency()), (MissedRuns::Latest, ConcurrencyPolicy::Replace));
        assert_eq!((spec.time_zone.as_str(), spec.missed_limit, spec.suspended), ("Europe/Berlin", 0, false));
        assert_eq!(spec.start_within.map(|span| span.seconds), Some(3_600));
        let task = spec.task.expect("a task");
        assert_eq!((task.kind.as_str(), &task.input[..], task.submitter.as_str()), ("k", &b"x"[..], "ada"));
        assert_eq!((task.priority, task.required_role()), (7, Role::Guardian));
        let spans = [task.deadline_in, task.result_ttl, task.attempt_timeout, task.delay];
        assert_eq!(spans.map(|span| span.map(|span| span.seconds)), [Some(600), Some(86_400), None, None]);
        let spans = [task.queue_expiry, task.progress_timeout].map(|span| span.map(|span| span.seconds));
        assert_eq!(spans, [Some(300), Some(60)]);
        let retry = task.retry.expect("a policy");
        let backoffs = [retry.initial_backoff, retry.max_backoff].map(|span| span.map(|span| span.seconds));
        assert_eq!((retry.max_attempts, retry.jitter_percent, backoffs), (2, 20, [Some(2), Some(8)]));
        assert_eq!(retry.non_retryable.iter().map(|of| of.code).collect::<Vec<_>>(), [Some(2)]);
        assert_eq!((task.required_specialization.as_str(), &task.skills[..]), ("ocr", &["gpu".to_owned()][..]));
        assert_eq!((task.slots, task.queue.as_str(), task.limit_key.as_str()), (4, "q", "c"));
        assert_eq!(task.resources.map(|needed| needed.cpu_millis), Some(2_000));
        assert_eq!(task.verify.map(|verify| (verify.agree, verify.agents)), Some((2, 3)));
        assert!(task.id.is_empty() && task.idempotency_key.is_empty(), "each run has its own");
    }
}
