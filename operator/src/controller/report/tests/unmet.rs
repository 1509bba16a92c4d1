//! Tasks that no agent could run.

use std::time::Duration;

use super::*;
use crate::controller::report::unmet::{GRACE, due};

const NOW_SECONDS: i64 = 1_000_000;

/// A need that a task of this kind has waited for, for so long.
fn need(kind: &str, tasks: u64, waited: Duration) -> v1::UnmetNeed {
    let mut need = v1::UnmetNeed {
        tasks,
        kind: kind.to_owned(),
        task_id: format!("id-of-{kind}"),
        problem: "no agent has role Guardian".to_owned(),
        ..v1::UnmetNeed::default()
    };
    let since = need.since.get_or_insert_default();
    let millis = NOW_SECONDS * 1_000 - i64::try_from(waited.as_millis()).expect("a short time");
    (since.seconds, since.nanos) = (millis / 1_000, i32::try_from(millis % 1_000).expect("in range") * 1_000_000);
    need
}

fn waiting(needs: Vec<v1::UnmetNeed>) -> Scene {
    let mut scene = scene();
    let status = &mut scene.answer().status;
    status.now.get_or_insert_default().seconds = NOW_SECONDS;
    status.unmet_needs = needs;
    scene
}

#[test]
fn tasks_that_no_agent_could_run_are_told_after_a_while_with_what_they_need() {
    let almost = GRACE - Duration::from_millis(1);
    let early = waiting(vec![need("a", 1, almost)]);
    assert_eq!(due(&early.observation.fleet.as_ref().expect("an answer").status), Some(Duration::from_millis(1)));
    let before = early.status(None);
    assert_eq!(says(&before, "TasksSchedulable").1, "AllTasksFit");
    let late = waiting(vec![need("a", 1, GRACE), need("b", 5, GRACE), need("c", 1, almost)]);
    let status = late.status(Some(&before));
    let (state, reason, message) = says(&status, "TasksSchedulable");
    assert_eq!((state, reason), ("False", "NoAgentFits"));
    insta::assert_snapshot!(message, @r#"6 tasks wait for what no agent has: 1 of kind "a" (id-of-a): no agent has role Guardian; 5 of kind "b" (such as id-of-b): no agent has role Guardian."#);
    assert_eq!(status.phase, Some(Phase::Running), "the fleet itself is well");
    let events = late.events(&early, Some(&before));
    assert!(events.iter().any(|event| event.starts_with("Warning TasksUnschedulable: 6 tasks wait")), "{events:?}");
    assert!(late.events(&early, Some(&status)).is_empty(), "it is told once");
    let done = waiting(vec![]);
    let events = done.events(&late, Some(&status));
    assert!(events.iter().any(|event| event.starts_with("Normal TasksSchedulable")), "{events:?}");
}

#[test]
fn of_many_needs_a_few_are_named() {
    let needs: Vec<_> = ["a", "b", "c", "d"].map(|kind| need(kind, 1, GRACE)).into();
    let message = says(&waiting(needs).status(None), "TasksSchedulable").2.to_owned();
    assert!(message.starts_with("4 tasks wait") && message.ends_with("; …."), "{message}");
    assert!(!message.contains("id-of-d"), "{message}");
}

#[test]
fn nothing_is_said_of_tasks_while_nothing_is_known_or_run() {
    let mut scene = waiting(vec![need("a", 1, GRACE)]);
    let before = scene.status(None);
    let answer = scene.observation.fleet.clone();
    scene.leaderless();
    assert_eq!(says(&scene.status(None), "TasksSchedulable").0, "Unknown");
    assert_eq!(says(&scene.status(Some(&before)), "TasksSchedulable"), says(&before, "TasksSchedulable"));
    scene.observation.fleet = answer;
    let suspended = MANIFEST.replace("spec:\n", "spec:\n  suspend: true\n");
    scene.observation.cluster = cluster(&suspended);
    assert_eq!(says(&scene.status(None), "TasksSchedulable").1, "Suspended");
}
