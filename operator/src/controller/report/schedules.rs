//! The events about schedules, from the statuses of then and now.

use robeing_crds::{RobeingClusterStatus, ScheduleStatus};

use super::events::{EventRecord, normal, warning, without_figures};

/// Adds the events between two statuses.
pub(super) fn happened(
    before: Option<&RobeingClusterStatus>,
    after: &RobeingClusterStatus,
    events: &mut Vec<EventRecord>,
) {
    let earlier: &[ScheduleStatus] = before.map_or(&[], |before| before.schedules.as_slice());
    for schedule in &after.schedules {
        changed(earlier.iter().find(|earlier| earlier.name == schedule.name), schedule, events);
    }
    for gone in earlier.iter().filter(|earlier| after.schedules.iter().all(|now| now.name != earlier.name)) {
        events.push(normal("ScheduleRemoved", "Remove", format!("Schedule {:?} was removed.", gone.name)));
    }
}

fn changed(before: Option<&ScheduleStatus>, schedule: &ScheduleStatus, events: &mut Vec<EventRecord>) {
    let name = &schedule.name;
    let message = without_figures(schedule.message.as_deref());
    let is_told = |before: &ScheduleStatus| {
        before.accepted == schedule.accepted && without_figures(before.message.as_deref()) == message
    };
    let news = schedule.message.as_deref().filter(|_| !before.is_some_and(is_told));
    match (news, schedule.accepted) {
        (Some(why), false) => {
            events.push(warning(
                "ScheduleRefused",
                "Set",
                format!("Schedule {name:?} is not as the spec says: {why}."),
            ));
        }
        (Some(why), true) => {
            events.push(warning(
                "ScheduleRunNotStarted",
                "Run",
                format!("A run of schedule {name:?} did not start: {why}."),
            ));
        }
        (None, _) => {}
    }
    let was_set = |before: &ScheduleStatus| before.accepted && before.spec_digest == schedule.spec_digest;
    if schedule.accepted && !before.is_some_and(was_set) {
        events.push(normal("ScheduleSet", "Set", format!("Schedule {name:?} is set as the spec says.")));
    }
}
