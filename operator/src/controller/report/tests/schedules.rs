//! The events about schedules.

use robeing_crds::ScheduleStatus;

use super::*;

fn schedule(spec_digest: &str, message: Option<&str>) -> ScheduleStatus {
    let (name, spec_digest) = ("nightly".to_owned(), spec_digest.to_owned());
    ScheduleStatus {
        name,
        accepted: true,
        spec_digest,
        message: message.map(str::to_owned),
        ..ScheduleStatus::default()
    }
}

fn refused(message: &str) -> ScheduleStatus {
    ScheduleStatus { accepted: false, ..schedule("", Some(message)) }
}

/// The reasons of the events between two lists of schedules.
fn reasons(before: Option<Vec<ScheduleStatus>>, after: Vec<ScheduleStatus>) -> Vec<String> {
    let of = |schedules| RobeingClusterStatus { schedules, ..RobeingClusterStatus::default() };
    let mut events = Vec::new();
    crate::controller::report::schedules::happened(before.map(of).as_ref(), &of(after), &mut events);
    events.into_iter().map(|event| event.reason).collect()
}

#[test]
fn what_becomes_of_a_schedule_is_told_once() {
    let set = |digest| vec![schedule(digest, None)];
    let busy = |id: &str| vec![schedule("d", Some(&format!("task {id} of an earlier run was not finished")))];
    let (busy, busy_again) =
        (busy("0190a0b0-ffff-8000-8000-aaaaaaaaaaaa"), busy("0190a0b0-eeee-8000-8000-bbbbbbbbbbbb"));
    let steps = [
        (None, vec![refused("too many")], vec!["ScheduleRefused"]),
        (Some(vec![refused("too many")]), vec![refused("too many")], vec![]),
        (Some(vec![refused("too many")]), set("d"), vec!["ScheduleSet"]),
        (None, set("d"), vec!["ScheduleSet"]),
        (Some(set("d")), set("d"), vec![]),
        (Some(set("d")), set("e"), vec!["ScheduleSet"]),
        (Some(set("d")), busy.clone(), vec!["ScheduleRunNotStarted"]),
        (Some(busy), busy_again.clone(), vec![]),
        (Some(busy_again), set("d"), vec![]),
        (Some(set("d")), vec![refused("no")], vec!["ScheduleRefused"]),
        (Some(set("d")), vec![], vec!["ScheduleRemoved"]),
    ];
    for (before, after, expected) in steps {
        assert_eq!(reasons(before.clone(), after.clone()), expected, "{before:?} {after:?}");
    }
}

#[test]
fn the_status_has_the_schedules_and_keeps_them_while_nothing_is_known() {
    let mut scene = scene();
    scene.outcome.schedules = Some(vec![schedule("d", None)]);
    let status = scene.status(None);
    assert_eq!(status.schedules, [schedule("d", None)]);
    scene.outcome.schedules = None;
    assert_eq!(scene.status(Some(&status)).schedules, status.schedules);
    assert!(scene.status(None).schedules.is_empty());
}
