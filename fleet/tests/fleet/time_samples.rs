//! Samples of commands and replies about time, retries and dead letters, for the tests of their encoding.

use robeing_fleet::{
    AgentId, Command, Completion, DropDead, Failure, FailureKind, FailureMatch, Jitter, Outcome, Refusal, Reply,
    RetryDead, SessionId, SubmitTask, TaskCommand, TaskId, TaskState, Timing,
};

use crate::{fixture::task, samples::failure};

/// Returns rules about time and retries of every kind.
pub fn timing() -> Timing {
    let of = |kind, code, name: Option<&str>| FailureMatch { kind, code, name: name.map(str::to_owned) };
    Timing {
        queue_expiry: Some(30_000),
        progress_timeout: Some(2_000),
        jitter: Some(Jitter { percent: 50, seed: u64::MAX }),
        non_retryable: vec![
            of(Some(FailureKind::OutputTooLarge), None, None),
            of(Some(FailureKind::Exit), Some(-2), None),
            of(None, None, Some("ValueError")),
        ],
    }
}

pub fn timing_commands() -> Vec<Command> {
    let complete = |failure| {
        Command::Task(TaskCommand::Complete(Completion {
            agent: AgentId(7),
            session: SessionId(300),
            task: TaskId(5),
            attempt: 1,
            ran_us: 10,
            outcome: Outcome::Failed(failure),
        }))
    };
    vec![
        Command::Task(TaskCommand::Submit(SubmitTask {
            timing: Some(Box::new(timing())),
            delay: Some(5),
            ..task(501)
        })),
        complete(Failure { name: "ValueError".to_owned(), ..failure() }),
        complete(Failure { kind: FailureKind::Expired, ..failure() }),
        complete(Failure { kind: FailureKind::Stalled, ..failure() }),
        Command::Task(TaskCommand::Stalled { task: TaskId(501), attempt: 1 }),
    ]
}

pub fn dead_letter_commands() -> Vec<Command> {
    let (task, by) = (TaskId(501), "client:c".to_owned());
    vec![
        Command::Task(TaskCommand::RetryDead(RetryDead { task, epoch: None, seed: 0, by: String::new() })),
        Command::Task(TaskCommand::RetryDead(RetryDead { task, epoch: Some(300), seed: u64::MAX, by: by.clone() })),
        Command::Task(TaskCommand::DropDead(DropDead { task, epoch: None, by: by.clone() })),
        Command::Task(TaskCommand::DropDead(DropDead { task, epoch: Some(0), by })),
    ]
}

pub fn dead_letter_replies() -> Vec<Reply> {
    vec![
        Reply::DeadRetried { epoch: 300, existing: false },
        Reply::DeadRetried { epoch: 0, existing: true },
        Reply::DeadDropped { existing: true },
        Reply::DeadDropped { existing: false },
        Reply::Refused(Refusal::NotDead { task: TaskId(5), state: TaskState::Succeeded }),
        Reply::Refused(Refusal::NotDead { task: TaskId(5), state: TaskState::Queued }),
        Reply::Refused(Refusal::StillNeeded { task: TaskId(5) }),
    ]
}
