//! When schedules are due.

use robeing_cron::Timetable;

use super::check_sentence;

/// How long after a moment a schedule is looked at as overdue, ms: one day.
const OVERDUE: u64 = 24 * 3600 * 1000;
/// How many moments that are overdue are kept.
const KEPT: usize = 3;

/// Any text is either an expression in a time zone or refused with a message; one that is an expression is due later than
/// the moment, and then whenever it is asked in between. The input is a line with an expression, one with the name of a
/// time zone, and a moment in Unix milliseconds.
pub fn timetable(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.splitn(3, '\n');
    let (expression, zone) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let moment: u64 = parts.next().and_then(|moment| moment.parse().ok()).unwrap_or_default();
    let timetable = match Timetable::parse(expression, zone) {
        Ok(timetable) => timetable,
        Err(refused) => return check_sentence(refused),
    };
    let Some(due) = timetable.next_after(moment) else { return };
    assert!(due > moment, "{due} is not after {moment}");
    for asked in [moment + (due - moment) / 2, due - 1] {
        assert_eq!(timetable.next_after(asked), Some(due), "it is due then, whenever it is asked");
    }
    let now = due.saturating_add(OVERDUE);
    let overdue = timetable.overdue(due, now, KEPT);
    assert!(overdue.newest.len() <= KEPT && overdue.newest.is_sorted(), "{overdue:?}");
    assert!(overdue.newest.iter().all(|at| (due..=now).contains(at)), "{overdue:?}");
    assert!(overdue.next.is_none_or(|next| next > now), "{overdue:?}");
    if overdue.others == 0 {
        assert_eq!(overdue.newest.first(), Some(&due), "nothing before it is left out");
    }
}
