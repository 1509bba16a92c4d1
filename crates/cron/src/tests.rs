//! Timetables around the moments at which clocks are turned, and beside a naive one that looks at every minute.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone, tz::TimeZoneDatabase};
use proptest::prelude::*;

use crate::{CronError, Expression, MAX_COUNTED, MAX_ZONE_BYTES, Overdue, Timetable};

const MINUTE: u64 = 60_000;

fn timetable(expression: &str, zone: &str) -> Timetable {
    Timetable::parse(expression, zone).unwrap_or_else(|error| panic!("{expression} in {zone}: {error}"))
}

fn millis(text: &str) -> u64 {
    let moment: Timestamp = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    u64::try_from(moment.as_millisecond()).expect("after 1970")
}

fn text(moment: u64) -> String {
    Timestamp::from_millisecond(moment as i64).expect("a moment").to_string()
}

/// Returns the first moments after this one, as text.
fn following(expression: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let timetable = timetable(expression, zone);
    let mut at = millis(after);
    let mut found = Vec::new();
    for _ in 0..count {
        at = timetable.next_after(at).expect("another one");
        found.push(text(at));
    }
    found
}

#[test]
fn a_time_that_the_clock_skips_is_due_when_the_clock_is_turned_and_once() {
    // In Berlin, 02:00 is followed by 03:00 on 2026-03-29, at 01:00 UTC.
    let after = "2026-03-28T12:00:00Z";
    assert_eq!(following("30 2 * * *", "Europe/Berlin", after, 2), ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    assert_eq!(
        following("*/20 2 * * *", "Europe/Berlin", after, 2),
        ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"],
        "not three times at once"
    );
    assert_eq!(
        following("0 2,3 * * *", "Europe/Berlin", after, 2),
        ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"],
        "02:00 and 03:00 are the same moment"
    );
    assert_eq!(
        following("30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3),
        ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"],
        "every hour that passes"
    );
}

#[test]
fn a_time_that_is_repeated_is_due_in_the_first_pass_and_every_hour_in_both() {
    // In Berlin, 03:00 is followed by 02:00 on 2026-10-25, at 01:00 UTC.
    let after = "2026-10-24T12:00:00Z";
    assert_eq!(following("30 2 * * *", "Europe/Berlin", after, 2), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    assert_eq!(
        following("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1),
        ["2026-10-26T01:30:00Z"],
        "also if it is asked in the second pass"
    );
    assert_eq!(
        following("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 3),
        ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]
    );
    assert_eq!(
        following("*/30 * 25 10 *", "Europe/Berlin", "2026-10-25T00:29:59Z", 4),
        ["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"]
    );
}

#[test]
fn clocks_are_turned_by_half_an_hour_and_by_a_day_too() {
    // Lord Howe Island goes from 02:00 to 02:30 on 2026-10-04, at 15:30 UTC of the day before.
    assert_eq!(
        following("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 2),
        ["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"]
    );
    // Samoa had no 30th of December 2011.
    assert_eq!(
        following("0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", 1),
        ["2011-12-30T10:00:00Z"],
        "the moment after the 29th"
    );
    assert_eq!(following("0 0 * * *", "Asia/Kathmandu", "2026-01-01T00:00:00Z", 1), ["2026-01-01T18:15:00Z"]);
}

#[test]
fn zones_are_known_by_their_names() {
    assert_eq!(timetable("0 0 * * *", ""), timetable("0 0 * * *", "UTC"));
    assert!(Timetable::parse("0 0 * * *", "europe/berlin").is_ok());
    for zone in ["Europe/Atlantis", "Etc/Unknown", "../etc/passwd", "+01:00", &"x".repeat(MAX_ZONE_BYTES + 1)] {
        let refused = Timetable::parse("0 0 * * *", zone);
        assert!(matches!(refused, Err(CronError::Zone { .. })), "{zone}: {refused:?}");
    }
}

#[test]
fn there_is_nothing_after_the_last_moment() {
    let timetable = timetable("* * * * *", "");
    assert_eq!(timetable.next_after(u64::MAX), None);
    assert_eq!(timetable.next_after(millis("9999-12-30T21:59:00Z")), Some(millis("9999-12-30T22:00:00Z")));
    assert_eq!(Timetable::parse("0 0 1 1 *", "").expect("right").next_after(millis("9999-06-01T00:00:00Z")), None);
}

#[test]
fn of_what_was_due_the_newest_is_kept_and_the_rest_counted() {
    let minutely = timetable("* * * * *", "");
    let due = millis("2026-01-01T00:00:00Z");
    let overdue = |now: u64, keep: usize| minutely.overdue(due, now, keep);
    assert_eq!(overdue(due - 1, 2), Overdue { newest: vec![], others: 0, next: Some(due) });
    assert_eq!(overdue(due, 2), Overdue { newest: vec![due], others: 0, next: Some(due + MINUTE) });
    let now = due + 9 * MINUTE + 5;
    let newest = vec![due + 8 * MINUTE, due + 9 * MINUTE];
    assert_eq!(overdue(now, 2), Overdue { newest, others: 8, next: Some(due + 10 * MINUTE) });
    // The limit of what is counted.
    let most = due + (MAX_COUNTED - 1) * MINUTE;
    assert_eq!(overdue(most, 1).others, MAX_COUNTED - 1);
    let years = due + 3 * 365 * 24 * 60 * MINUTE + 5;
    let far = overdue(years, 2);
    assert_eq!((far.newest, far.others), (vec![years - 5 - MINUTE, years - 5], MAX_COUNTED));
    assert_eq!(far.next, Some(years - 5 + MINUTE));
    // What is due now may not be of this timetable any more.
    let odd = timetable("0 0 * * *", "").overdue(due + 7, due + 8, 1);
    assert_eq!((odd.newest, odd.next), (vec![due + 7], Some(due + 24 * 60 * MINUTE)));
}

/// The local clock of a zone in whole minutes.
fn local(zone: &TimeZone, moment: u64) -> DateTime {
    zone.to_datetime(Timestamp::from_millisecond(moment as i64).expect("a moment"))
}

/// Returns whether an expression names a local time in a range, exclusive of its beginning.
fn names(expression: &Expression, after: DateTime, until: DateTime) -> bool {
    let from = after.checked_add(jiff::SignedDuration::from_secs(1)).expect("within range");
    expression.first_from(from).is_some_and(|found| found <= until)
}

/// Looks at each minute: an expression for every hour is due when the clock shows one of its times, and any other one when
/// the clock shows, for the first time, one of its times or has skipped it.
fn naive_next(expression: &Expression, zone: &TimeZone, after: u64, most: u64) -> Option<u64> {
    let begin = (after / MINUTE).saturating_sub(2 * 24 * 60) * MINUTE;
    let mut shown = local(zone, begin);
    let mut at = begin;
    while at < after + most {
        at += MINUTE;
        let now = local(zone, at);
        let is_due = match expression.is_for_every_hour() {
            true => expression.first_from(now) == Some(now),
            false => now > shown && names(expression, shown, now),
        };
        shown = shown.max(now);
        if is_due && at > after {
            return Some(at);
        }
    }
    None
}

fn field(least: u8, most: u8) -> impl Strategy<Value = String> {
    let one = least..=most;
    prop_oneof![
        3 => Just("*".to_owned()),
        2 => one.clone().prop_map(|value| value.to_string()),
        1 => (one.clone(), one.clone()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (1..=most).prop_map(|step| format!("*/{step}")),
        1 => (one.clone(), one).prop_map(|(a, b)| format!("{a},{b}")),
    ]
}

/// Moments within two days of one at which the clock of a zone is turned.
fn near_a_turn() -> impl Strategy<Value = (&'static str, u64)> {
    let turns = vec![
        ("Europe/Berlin", "2026-03-29T01:00:00Z"),
        ("Europe/Berlin", "2026-10-25T01:00:00Z"),
        ("America/New_York", "2026-03-08T07:00:00Z"),
        ("America/New_York", "2026-11-01T06:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
        ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
        ("Pacific/Apia", "2011-12-30T10:00:00Z"),
        ("Asia/Kathmandu", "2026-01-01T00:00:00Z"),
        ("", "2026-02-28T23:00:00Z"),
    ];
    let two_days = 2 * 24 * 60 * MINUTE;
    (prop::sample::select(turns), 0..2 * two_days)
        .prop_map(move |((zone, turn), offset)| (zone, millis(turn) - two_days + offset))
}

proptest! {
    #[test]
    fn the_next_moment_is_that_of_one_who_looks_at_every_minute(
        minute in field(0, 59),
        hour in field(0, 23),
        day in field(1, 31),
        weekday in field(0, 6),
        (zone, after) in near_a_turn(),
    ) {
        let text = format!("{minute} {hour} {day} * {weekday}");
        let timetable = timetable(&text, zone);
        let expression: Expression = text.parse().expect("it is right");
        let name = if zone.is_empty() { "UTC" } else { zone };
        let known = TimeZoneDatabase::bundled().get(name).expect("a zone");
        let most = 4 * 24 * 60 * MINUTE;
        let next = timetable.next_after(after).filter(|next| *next <= after + most);
        let naive = naive_next(&expression, &known, after, most).filter(|next| *next <= after + most);
        prop_assert_eq!(next, naive, "{} in {}", text, zone);
    }

    #[test]
    fn moments_only_grow_and_nothing_makes_it_panic(
        text in "[-*/,?0-9a-z@ ]{0,24}",
        zone in "[A-Za-z/_+-]{0,20}",
        moment in any::<u64>(),
    ) {
        let timetable = Timetable::parse(&text, &zone).or_else(|_| Timetable::parse(&text, "Europe/Berlin"));
        if let Ok(timetable) = timetable {
            for moment in [moment, moment % (200 * 366 * 24 * 60 * MINUTE)] {
                if let Some(next) = timetable.next_after(moment) {
                    prop_assert!(next > moment && next % MINUTE == 0);
                }
            }
        }
    }

    #[test]
    fn what_was_due_is_the_same_however_it_is_found(
        hour in field(0, 23),
        minutes in 1..4_000_u64,
        keep in 1..5_usize,
    ) {
        let timetable = timetable(&format!("*/7 {hour} * * *"), "Europe/Berlin");
        let from = millis("2026-03-28T00:00:00Z");
        let now = from + minutes * MINUTE;
        let due = timetable.next_after(from).expect("there is one");
        let overdue = timetable.overdue(due, now, keep);
        let mut all = Vec::new();
        let mut at = due;
        while at <= now {
            all.push(at);
            at = timetable.next_after(at).expect("there is one");
        }
        prop_assert_eq!(overdue.next, Some(at));
        prop_assert_eq!(overdue.others + overdue.newest.len() as u64, all.len() as u64);
        prop_assert_eq!(&overdue.newest[..], &all[all.len() - overdue.newest.len()..]);
        // The other way, which is for many.
        if all.len() > 1 {
            let last = timetable.last_up_to(due, now, keep);
            let most = keep.min(all.len() - 1);
            prop_assert_eq!(&last[last.len() - most..], &all[all.len() - most..]);
        }
    }
}
