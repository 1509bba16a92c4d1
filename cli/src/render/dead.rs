//! Dead letters for people.

use jiff::Timestamp;
use robeing_proto::v1::Task;

use super::{
    table::table,
    task::failure_text,
    words::{age, state_word},
};

/// Formats the list of `robeing dead list`.
pub fn dead_table(tasks: &[Task], now: Timestamp) -> String {
    if tasks.is_empty() {
        return "no dead letters\n".into();
    }
    table(
        ["ID", "KIND", "STATE", "EPOCH", "ATTEMPTS", "DIED", "REASON"],
        tasks.iter().map(|task| {
            [
                task.id.clone(),
                task.kind.clone(),
                state_word(task.state()),
                task.epoch.to_string(),
                task.attempts_used.to_string(),
                age(task.finished_at.as_ref(), now),
                task.failure.as_ref().map(failure_text).unwrap_or_default(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use robeing_proto::v1::{Failure, FailureKind, TaskState};

    use super::*;

    #[test]
    fn dead_letters_are_listed_with_the_reason() {
        let now = Timestamp::from_second(1_800_000_000).expect("a time");
        let failure = Failure {
            kind: FailureKind::Reported.into(),
            message: "no such key".into(),
            name: "KeyError".into(),
            ..Failure::default()
        };
        let task = Task {
            id: "t".into(),
            kind: "ocr".into(),
            state: TaskState::Failed.into(),
            failure: Some(failure),
            finished_at: Some(prost_types::Timestamp { seconds: 1_800_000_000 - 7_200, nanos: 0 }),
            attempts_used: 3,
            epoch: 1,
            dead: true,
            ..Task::default()
        };
        insta::assert_snapshot!(dead_table(&[task], now), @"
        ID   KIND   STATE    EPOCH   ATTEMPTS   DIED   REASON
        t    ocr    Failed   1       3          2h     Reported (KeyError): no such key
        ");
        assert_eq!(dead_table(&[], now), "no dead letters\n");
    }
}
