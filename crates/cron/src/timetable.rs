//! An expression in a time zone: the moments at which it is due.

use std::collections::VecDeque;

use jiff::{
    Timestamp,
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

use crate::expression::{CronError, Expression, excerpt};

/// Longest name of a time zone, bytes.
pub const MAX_ZONE_BYTES: usize = 64;
/// How many moments that have passed are counted one by one; of more, only the newest ones are looked for.
pub const MAX_COUNTED: u64 = 1_000;
/// The zone of an expression without one.
const UTC: &str = "UTC";
/// How often the clock of a zone can be turned within the time in which an expression is due at least once.
const MAX_TURNS: usize = 64;

/// What was due up to a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Overdue {
    /// The newest moments, oldest first, Unix milliseconds.
    pub newest: Vec<u64>,
    /// How many there were before these; at least [`MAX_COUNTED`] stands for that many or more.
    pub others: u64,
    /// The first moment after all of them; `None` if there is none that can be represented.
    pub next: Option<u64>,
}

/// A cron expression in a time zone. All moments are Unix milliseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timetable {
    expression: Expression,
    zone: TimeZone,
}

impl Timetable {
    /// Reads an expression and the name of a time zone of the IANA database; an empty name is UTC.
    ///
    /// # Errors
    /// [`CronError`] if one of them is none.
    pub fn parse(expression: &str, zone: &str) -> Result<Self, CronError> {
        let expression = expression.parse()?;
        let name = if zone.is_empty() { UTC } else { zone };
        let known = (name.len() <= MAX_ZONE_BYTES).then(|| TimeZoneDatabase::bundled().get(name).ok()).flatten();
        match known.filter(|zone| !zone.is_unknown()) {
            Some(zone) => Ok(Self { expression, zone }),
            None => Err(CronError::Zone { name: excerpt(name) }),
        }
    }

    /// Returns the first moment after this one at which it is due; `None` if there is none that can be represented.
    pub fn next_after(&self, moment: u64) -> Option<u64> {
        let after = Timestamp::from_millisecond(i64::try_from(moment).ok()?).ok()?;
        let next = match self.expression.is_for_every_hour() {
            true => self.next_elapsed(after),
            false => self.next_shown(after),
        };
        u64::try_from(next?.as_millisecond()).ok()
    }

    /// Returns the first moment after this one at which the local clock shows a time of the expression, in either pass of
    /// an hour that is repeated.
    fn next_elapsed(&self, after: Timestamp) -> Option<Timestamp> {
        let mut from = after;
        for _ in 0..MAX_TURNS {
            // Up to the next turn of the clock, the local time follows the elapsed time.
            let offset = self.zone.to_offset(from);
            let turn = self.zone.following(from).next().map(|turn| turn.timestamp());
            let mut found = self.expression.first_from(offset.to_datetime(from))?;
            if offset.to_timestamp(found).ok()? == after {
                found = self.expression.first_from(found.checked_add(jiff::SignedDuration::from_secs(1)).ok()?)?;
            }
            let found = offset.to_timestamp(found).ok()?;
            match turn {
                Some(turn) if found >= turn => from = turn,
                _ => return Some(found),
            }
        }
        None
    }

    /// Returns the first moment after this one at which the local clock first shows a time of the expression, or a later
    /// one.
    fn next_shown(&self, after: Timestamp) -> Option<Timestamp> {
        let mut from = self.zone.to_datetime(after);
        loop {
            let found = self.expression.first_from(from)?;
            let shown = self.first_shown(found)?;
            if shown > after {
                return Some(shown);
            }
            // It was due before: now, while its hour is repeated, or when the clock was turned. The next one follows,
            // which is never more than the hours of a day away.
            from = found.checked_add(jiff::SignedDuration::from_secs(1)).ok()?;
        }
    }

    /// Returns the first moment at which the local clock shows this time, or a later one.
    fn first_shown(&self, local: jiff::civil::DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok(),
            AmbiguousOffset::Gap { after, .. } => {
                // By the offset after the turn, the time that is skipped would have been before it.
                let before = after.to_timestamp(local).ok()?;
                self.zone.following(before).next().map(|turn| turn.timestamp())
            }
        }
    }

    /// Returns what was due from `due` on, which was, up to `now`: the `keep` newest moments, and how many there were before.
    pub fn overdue(&self, due: u64, now: u64, keep: usize) -> Overdue {
        let (mut newest, mut others, mut next) = (VecDeque::new(), 0, Some(due));
        while let Some(at) = next.filter(|at| *at <= now) {
            if others + newest.len() as u64 >= MAX_COUNTED {
                return Overdue {
                    newest: self.last_up_to(due, now, keep),
                    others: MAX_COUNTED,
                    next: self.next_after(now),
                };
            }
            newest.push_back(at);
            if newest.len() > keep {
                newest.pop_front();
                others += 1;
            }
            next = self.next_after(at);
        }
        Overdue { newest: newest.into(), others, next }
    }

    /// Returns the last moments after `due` and up to `now` at which it is due, at most `most`, oldest first.
    pub(crate) fn last_up_to(&self, due: u64, now: u64, most: usize) -> Vec<u64> {
        let (mut last, mut now) = (VecDeque::new(), now);
        while last.len() < most
            && let Some(found) = self.last_one(due, now)
        {
            last.push_front(found);
            now = found.saturating_sub(1);
        }
        last.into()
    }

    /// Returns the last moment after `due` and up to `now` at which it is due.
    fn last_one(&self, due: u64, now: u64) -> Option<u64> {
        let is_followed = |moment: u64| self.next_after(moment).is_some_and(|next| next <= now);
        if now <= due || !is_followed(due) {
            return None;
        }
        // Of all moments, those before the last one are followed by one up to now, and the others are not.
        let (mut before, mut after) = (due, now);
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            if is_followed(middle) { before = middle } else { after = middle }
        }
        self.next_after(before)
    }
}
