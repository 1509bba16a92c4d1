//! Makes parts of the outputs of attempts that divide the input of their task, before these are proposed: nothing that takes
//! long may be done while the state is locked.

use std::sync::Arc;

use bytes::Bytes;
use robeing_fleet::{Completion, Failure, FailureKind, FleetMillis, Outcome, Suspension, Task};
use robeing_platform::compute;

use crate::read::StateReader;

/// Makes parts of the outputs that are inputs of parts: a JSON array of strings. Any other output becomes a final failure, and
/// so does a wait for subtasks. Only a leader may call it, because it knows all tasks.
pub fn divide(state: &StateReader, completions: &mut [Completion]) {
    let (tasks, now) = state.look(|fleet| {
        let divided = |ended: &Completion| fleet.divided_by(ended.task, ended.attempt);
        let tasks: Vec<Option<Arc<Task>>> =
            if fleet.has_dividing() { completions.iter().map(divided).collect() } else { Vec::new() };
        (tasks, fleet.now().fleet)
    });
    for (ended, task) in completions.iter_mut().zip(tasks) {
        let divided = task.and_then(|task| compute(|| divided(&task, &ended.outcome, now)));
        if let Some(outcome) = divided {
            ended.outcome = outcome.within_limits();
        }
    }
}

/// Returns how an attempt ends that divides the input of a task; `None` if that is as it says.
fn divided(task: &Task, outcome: &Outcome, now: FleetMillis) -> Option<Outcome> {
    match outcome {
        Outcome::Succeeded(output) => Some(match parts(task, output, now) {
            Ok(suspension) => Outcome::Suspended(suspension),
            Err(message) => Outcome::Failed(undivided(message)),
        }),
        Outcome::Suspended(_) => {
            let problem = "an attempt that divides the input of its task can't wait for subtasks: they would be taken \
                           for the parts, and it would not continue";
            Some(Outcome::Failed(undivided(problem.to_owned())))
        }
        Outcome::Answered { .. } | Outcome::Stored(_) | Outcome::Failed(_) | Outcome::Stopped | Outcome::HandedBack => {
            None
        }
    }
}

fn undivided(message: String) -> Failure {
    Failure::of(FailureKind::Subtask, message)
}

/// Returns the parts of a task whose inputs are in an output.
///
/// # Errors
/// Why there are none.
fn parts(task: &Task, output: &[u8], now: FleetMillis) -> Result<Suspension, String> {
    let inputs: Vec<String> = serde_json::from_slice(output)
        .map_err(|error| format!("the output is no JSON array of strings, the inputs of the task's parts: {error}"))?;
    let most = task.divider().map_or(0, |divider| divider.agents as usize);
    if inputs.is_empty() || inputs.len() > most {
        return Err(format!("the output has the inputs of {} parts, it must be 1 to {most}", inputs.len()));
    }
    let subtasks = inputs.into_iter().map(|input| task.part(input.into(), now)).collect();
    Ok(Suspension { subtasks, carried: Bytes::new() })
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{
        AskedLinks, Command, ControlCommand, Divider, Join, Stamp, SubmitTask, TaskCommand, TaskId, known_version,
    };

    use super::*;
    use crate::fixture::{fleet_with_agent, task};

    /// Returns a task that is being divided among at most three agents, and has 1,000 ms.
    fn dividing(join: Join) -> Arc<Task> {
        let (mut fleet, ..) = fleet_with_agent();
        let divider = Divider { kind: "cut".to_owned(), agents: 3, join, ..Divider::default() };
        let links = Some(Box::new(AskedLinks { divider: Some(Box::new(divider)), ..AskedLinks::default() }));
        let submission = SubmitTask { links, deadline_in: Some(1_000), ..task(7, Bytes::from_static(b"whole")) };
        for command in [
            Command::Control(ControlCommand::RaiseVersion(known_version())),
            Command::Task(TaskCommand::Submit(submission)),
        ] {
            drop(fleet.apply(Stamp::at(1), command, &mut Vec::new()));
        }
        fleet.divided_by(TaskId(7), 1).expect("an agent divides it")
    }

    #[test]
    fn an_output_is_the_inputs_of_parts_that_have_the_time_of_their_task() {
        let of = |join, now| {
            let suspension = parts(&dividing(join), br#"["a", "b\u00e9"]"#, now).expect("it is right");
            let told = suspension.subtasks.iter().map(|part| (part.input.to_vec(), part.deadline_in));
            told.collect::<Vec<_>>()
        };
        let (one, other) = (b"a".to_vec(), "bé".as_bytes().to_vec());
        assert_eq!(of(Join::All, 1), [(one.clone(), Some(1_000)), (other.clone(), Some(1_000))]);
        assert_eq!(of(Join::Reduce, 501), [(one, Some(450)), (other, Some(450))]);
    }

    #[test]
    fn an_attempt_that_divides_ends_with_parts_or_fails_and_waits_for_no_subtasks() {
        let task = dividing(Join::All);
        let end = |outcome: Outcome| divided(&task, &outcome, 1);
        let is_final = |end: &Option<Outcome>| {
            let failure = match end {
                Some(Outcome::Failed(failure)) => failure,
                other => panic!("{other:?}"),
            };
            failure.kind == FailureKind::Subtask && !failure.retryable
        };
        let parts = end(Outcome::Succeeded(Bytes::from_static(br#"["a"]"#)));
        assert!(matches!(&parts, Some(Outcome::Suspended(asked)) if asked.subtasks.len() == 1), "{parts:?}");
        assert!(is_final(&end(Outcome::Succeeded(Bytes::new()))));
        let asked = Suspension { subtasks: vec![task.part(Bytes::new(), 1)], carried: Bytes::new() };
        assert!(is_final(&end(Outcome::Suspended(asked))), "its subtasks are no parts");
        assert_eq!(end(Outcome::HandedBack), None);
    }

    #[test]
    fn what_is_no_list_of_inputs_of_parts_is_refused() {
        let task = dividing(Join::All);
        let problem = |output: &str| parts(&task, output.as_bytes(), 1).err();
        assert_eq!(problem(r#"["a","b","c"]"#), None);
        for (output, words) in [
            ("", "no JSON array of strings"),
            ("[1]", "no JSON array of strings"),
            (r#"{"a":"b"}"#, "no JSON array of strings"),
            ("[]", "0 parts, it must be 1 to 3"),
            (r#"["a","b","c","d"]"#, "4 parts, it must be 1 to 3"),
        ] {
            assert!(problem(output).is_some_and(|told| told.contains(words)), "{output}");
        }
    }
}
