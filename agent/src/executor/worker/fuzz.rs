//! What fuzz targets run of the protocol of attached processes.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use prometheus_client::metrics::gauge::Gauge;
use prost::Message;
use robeing_fleet::limits::{MAX_FAILURE_NAME_BYTES, MAX_SUBTASKS_AT_ONCE};
use robeing_platform::Platform;
use robeing_proto::worker::v1::{self as proto, FromProcess, from_process};

use super::{attached::Attached, batches::unpack, mail::WorkerMail, outcome, suspending::MAX_SUSPEND_BYTES};
use crate::{
    executor::{
        Attempt, AttemptLog, Limits, Outcome,
        attempt_log::{MAX_LINE_BYTES, MAX_LINES, MAX_LOG_BYTES, MAX_PROGRESS_TEXT},
    },
    messaging::handlers::worker::outgoing,
};

/// The limits of the attempt, small enough for inputs to exceed them.
const LIMITS: Limits = Limits {
    max_output: 64,
    stderr_tail: 16,
    kill_grace: std::time::Duration::ZERO,
    output_grace: std::time::Duration::ZERO,
};

/// The messages of an attached process that runs the attempt `t`/1 and handles the message `m`, each with its length before
/// it: whatever they are, each of both ends at most once, and its outcome is within the limits.
pub fn process(mut bytes: &[u8]) {
    let (attached, mail) = (Arc::new(Attached::new(Gauge::default())), WorkerMail::new());
    let Some(member) = attached.join("", true) else { panic!("nothing else is attached") };
    let attempt = Attempt {
        task_id: "t".to_owned(),
        attempt: 1,
        kind: "k".to_owned(),
        input: bytes::Bytes::new(),
        deadline: None,
        time_limit: None,
        allowance: None,
        results: Vec::new(),
        carried: bytes::Bytes::new(),
        log: AttemptLog::new(Platform::real().clock, Arc::default(), MAX_LOG_BYTES),
    };
    let mut begun = attached.begin(&attempt).expect("a process is attached");
    mail.join(member.number, member.sender.clone());
    let mut context = Context::from_waker(Waker::noop());
    let mut delivery = pin!(mail.deliver(proto::Message { id: "m".to_owned(), ..proto::Message::default() }));
    let mut is_delivered = delivery.as_mut().poll(&mut context).is_ready();
    assert!(!is_delivered, "it is not answered");
    while !bytes.is_empty() {
        let Ok(message) = FromProcess::decode_length_delimited(&mut bytes) else { break };
        match message.message {
            Some(from_process::Message::Result(result)) => attached.answered(member.number, result),
            Some(from_process::Message::Health(health)) => attached.said_health(member.number, health),
            Some(from_process::Message::MessageOutcome(said)) => mail.answered(member.number, said),
            Some(from_process::Message::SendMessage(message)) => sent(message),
            Some(from_process::Message::Progress(progress)) => attached.progressed(member.number, progress),
            Some(from_process::Message::Log(log)) => attached.logged(member.number, log),
            Some(from_process::Message::Batch(batch)) => {
                if unpack(&attached, member.number, batch).is_err() {
                    break;
                }
            }
            Some(from_process::Message::Hello(_)) | None => {}
        }
        is_delivered = is_delivered || delivery.as_mut().poll(&mut context).is_ready();
    }
    check_log(&attempt.log);
    let answer = pin!(begun.answer()).poll(&mut context);
    if let Poll::Ready(Some(answer)) = answer {
        check(outcome(&LIMITS, "process", answer));
    }
    attached.overwhelmed(member.number);
}

fn check_log(log: &AttemptLog) {
    let kept = log.read(0, usize::MAX);
    assert!(kept.is_all && kept.lines.len() <= MAX_LINES);
    assert!(kept.lines.iter().all(|line| line.text.len() <= MAX_LINE_BYTES));
    if let Some((progress, _)) = log.progress_after(0) {
        assert!((0.0..=1.0).contains(&progress.fraction) && progress.text.len() <= MAX_PROGRESS_TEXT);
    }
}

fn check(outcome: Outcome) {
    match outcome {
        Outcome::Succeeded { output } => assert!(output.len() <= LIMITS.max_output),
        Outcome::Failed(failure) => {
            assert!(!failure.message.is_empty() && failure.stderr_tail.len() <= LIMITS.stderr_tail);
            assert!(failure.name.len() <= MAX_FAILURE_NAME_BYTES);
        }
        // The coordinators check the rest of what is asked for.
        Outcome::Suspended { subtasks, carried } => {
            assert!(subtasks.len() <= MAX_SUBTASKS_AT_ONCE && carried.len() <= MAX_SUSPEND_BYTES);
        }
        Outcome::Cancelled | Outcome::NotBegun => panic!("nobody has stopped it"),
    }
}

fn sent(message: proto::SendMessage) {
    let without_ack = message.without_ack && !message.ask;
    match outgoing(message) {
        Ok(message) => {
            assert!((1..=10).contains(&message.priority.get()) && !message.deadline.is_zero());
            assert_eq!(message.requires_ack, !without_ack);
        }
        Err(refused) => assert!(refused.contains(' '), "{refused:?}"),
    }
}
