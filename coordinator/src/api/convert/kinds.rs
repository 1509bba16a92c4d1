//! Conversion of what kinds of tasks need by default.

use robeing_fleet::{Amounts, RetryDefaults, TaskKind, TaskKindList, TaskResources, limits::DEFAULT_QUEUE};
use robeing_proto::v1;

use super::{
    agents::{agent_role, role},
    fields::{BadField, bad, excerpt, millis},
    resources::{amounts, told_amounts},
    span,
    submissions::{timing, told_retries},
};

fn some(value: u32) -> Option<u32> {
    (value > 0).then_some(value)
}

/// Reads what a kind needs.
///
/// # Errors
/// A field that has no meaning. Bounds are checked by the state machine.
pub fn task_kind(kind: v1::TaskKind) -> Result<TaskKind, BadField> {
    let of = |problem: BadField| bad("kinds", format!("{:?}: {problem}", excerpt(&kind.name)));
    let role = match v1::Role::try_from(kind.role) {
        Ok(v1::Role::Unspecified) => None,
        Ok(role) => Some(agent_role(role).map_err(of)?),
        Err(_) => return Err(of(bad("role", format!("unknown role {}", kind.role)))),
    };
    let needed = kind.resources.as_ref().map_or(Amounts::NONE, amounts);
    let (resources, queue) = match (needed, kind.queue.as_str()) {
        (Amounts::NONE, queue) => (None, queue.to_owned()),
        (amounts, queue) => {
            let queue = if queue.is_empty() { DEFAULT_QUEUE } else { queue }.to_owned();
            (Some(Box::new(TaskResources { amounts, queue })), String::new())
        }
    };
    let timing = timing(kind.queue_expiry, kind.progress_timeout, kind.retry.as_ref()).map_err(of)?;
    let retry = kind.retry.unwrap_or_default();
    let retry = RetryDefaults {
        max_attempts: some(retry.max_attempts),
        initial_backoff: millis("retry.initial_backoff", retry.initial_backoff).map_err(of)?,
        max_backoff: millis("retry.max_backoff", retry.max_backoff).map_err(of)?,
        multiplier_percent: some(retry.multiplier_percent),
    };
    Ok(TaskKind {
        role,
        slots: kind.slots,
        resources,
        deadline_in: millis("deadline_in", kind.deadline_in).map_err(of)?,
        attempt_timeout: millis("attempt_timeout", kind.attempt_timeout).map_err(of)?,
        retry,
        timing,
        queue,
        name: kind.name,
        skills: kind.skills,
    })
}

fn told(kind: &TaskKind) -> v1::TaskKind {
    let retry = kind.retry;
    let timing = kind.timing.as_deref();
    let (jitter_percent, non_retryable) = told_retries(timing);
    let sets_retry = retry != RetryDefaults::default() || jitter_percent > 0 || !non_retryable.is_empty();
    let resources = kind.resources.as_deref();
    v1::TaskKind {
        name: kind.name.clone(),
        role: kind.role.map_or(v1::Role::Unspecified, role).into(),
        skills: kind.skills.clone(),
        slots: kind.slots,
        resources: resources.map(|needed| told_amounts(needed.amounts)),
        queue: resources.map_or(&kind.queue, |needed| &needed.queue).clone(),
        deadline_in: kind.deadline_in.map(span),
        attempt_timeout: kind.attempt_timeout.map(span),
        retry: sets_retry.then(|| v1::RetryPolicy {
            max_attempts: retry.max_attempts.unwrap_or(0),
            initial_backoff: retry.initial_backoff.map(span),
            max_backoff: retry.max_backoff.map(span),
            multiplier_percent: retry.multiplier_percent.unwrap_or(0),
            jitter_percent,
            non_retryable,
        }),
        queue_expiry: timing.and_then(|timing| timing.queue_expiry).map(span),
        progress_timeout: timing.and_then(|timing| timing.progress_timeout).map(span),
    }
}

/// Converts what is set to its API form.
pub fn told_kinds(list: Option<&TaskKindList>) -> v1::TaskKinds {
    let of =
        |list: &TaskKindList| v1::TaskKinds { revision: list.revision, kinds: list.kinds.iter().map(told).collect() };
    list.map(of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{FailureMatch, Jitter, Role, Timing};

    use super::*;

    fn whole() -> TaskKind {
        let amounts = Amounts { cpu: 500, ..Amounts::NONE };
        TaskKind {
            name: "read".to_owned(),
            role: Some(Role::Specialist),
            skills: vec!["ocr".to_owned(), "law".to_owned()],
            slots: 2,
            resources: Some(Box::new(TaskResources { amounts, queue: "batch".to_owned() })),
            deadline_in: Some(90_000),
            attempt_timeout: Some(1_500),
            retry: RetryDefaults { max_attempts: Some(3), initial_backoff: Some(0), ..RetryDefaults::default() },
            timing: Some(Box::new(Timing {
                queue_expiry: Some(3_000),
                progress_timeout: Some(2_500),
                jitter: Some(Jitter { percent: 20, seed: 0 }),
                non_retryable: vec![FailureMatch { name: Some("ValueError".to_owned()), ..FailureMatch::default() }],
            })),
            queue: String::new(),
        }
    }

    #[test]
    fn what_is_read_is_told_again() {
        let waits = TaskKind { resources: None, queue: "batch".to_owned(), ..whole() };
        for kind in [whole(), waits, TaskKind { name: "k".to_owned(), ..TaskKind::default() }] {
            let list = TaskKindList { revision: 7, kinds: vec![kind.clone()] };
            let told = told_kinds(Some(&list));
            assert_eq!(told.revision, 7);
            let read: Result<Vec<TaskKind>, BadField> = told.kinds.into_iter().map(task_kind).collect();
            assert_eq!(read, Ok(vec![kind]));
        }
        assert_eq!(told_kinds(None), v1::TaskKinds::default());
    }

    #[test]
    fn what_has_no_meaning_is_refused_with_the_name_of_the_kind() {
        let of = |change: fn(&mut v1::TaskKind)| {
            let mut kind = v1::TaskKind { name: "k".to_owned(), ..v1::TaskKind::default() };
            change(&mut kind);
            task_kind(kind).map_err(|error| error.to_string())
        };
        let wrong: [fn(&mut v1::TaskKind); 3] = [
            |kind| kind.role = 99,
            |kind| kind.role = v1::Role::Coordinator.into(),
            |kind| kind.deadline_in = Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        ];
        for change in wrong {
            assert!(of(change).is_err_and(|text| text.contains("\"k\"")));
        }
    }
}
