//! Too little CPU: a coordinator whose tasks wait long until they run admits fewer agents, those whose role has a lower
//! priority first, so that it keeps up with the ones that it has. Renewals and sessions that are resumed are always
//! admitted, and some of each role in each second, so that no role waits forever: so many to enrol, and as many to begin a
//! session, which is the next thing that an agent does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use robeing_fleet::Role;
use robeing_platform::sync::{Mutex, PoisonError};
use tokio::time::{Instant, sleep_until};

/// How often the lag is measured.
pub const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// Weight of a sample in the lag.
const WEIGHT: f64 = 0.1;
/// What a sample counts at most, so that one stall, such as of a machine that was suspended, is not taken for a lag that
/// lasts: one sample that counts so much is below every limit.
pub const MAX_SAMPLE: Duration = Duration::from_secs(2);
/// The lag from which roles of the lowest priority wait, and that from which those above them wait, too, in milliseconds.
/// Either ends below half of it.
pub const LIMITS_MS: [f64; 2] = [500.0, 1_000.0];
/// How many agents of a role that has to wait are admitted in each second nevertheless, to each [`Admission`].
pub const TRICKLE: u32 = 10;

/// To what agents are admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Admission {
    /// An enrolment, before its proof is checked.
    Enrolment,
    /// A session that is not resumed.
    Session,
}

/// How long tasks wait until they run, from how late a timer was each time. Pure: the measurements are passed in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lag {
    mean_ms: f64,
    level: u32,
}

impl Lag {
    /// Takes in how late a timer was.
    pub fn observe(&mut self, late: Duration) {
        self.mean_ms += WEIGHT * (late.min(MAX_SAMPLE).as_secs_f64() * 1_000.0 - self.mean_ms);
        let is_above = |(level, limit): (u32, f64)| {
            let limit = if self.level > level { limit / 2.0 } else { limit };
            self.mean_ms >= limit
        };
        let above = (0..).zip(LIMITS_MS).filter(|of| is_above(*of)).count();
        self.level = u32::try_from(above).unwrap_or(u32::MAX);
    }

    /// Returns how many of the lowest priorities have to wait: 0 to 2.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Returns whether a role has to wait. Those of the highest priority never do.
    pub fn holds_up(&self, role: Role) -> bool {
        let steps = role.traits().priority.saturating_sub(Role::HIGHEST_PRIORITY);
        steps > 0 && self.level + steps > LIMITS_MS.len() as u32
    }
}

#[derive(Debug, Default)]
struct State {
    lag: Lag,
    /// Since when agents of a role are counted that are admitted nevertheless, and how many there were.
    admitted: BTreeMap<(Admission, Role), (Option<Instant>, u32)>,
}

/// Admits agents by the lag of one coordinator. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct CpuGate(Arc<Mutex<State>>);

impl CpuGate {
    /// Returns whether one more agent of this role is admitted now.
    pub fn admits(&self, to: Admission, role: Role, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.lag.holds_up(role) {
            return true;
        }
        let (since, count) = state.admitted.entry((to, role)).or_default();
        if since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            (*since, *count) = (Some(now), 0);
        }
        *count = count.saturating_add(1);
        *count <= TRICKLE
    }

    /// Takes in how late a timer was, and returns how many priorities have to wait.
    pub fn observe(&self, late: Duration) -> u32 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.lag.observe(late);
        state.lag.level()
    }

    /// Measures the lag, and reports how many priorities have to wait. Never ends.
    pub async fn sample(&self, report: impl Fn(u32)) {
        loop {
            let due = Instant::now() + SAMPLE_EVERY;
            sleep_until(due).await;
            report(self.observe(Instant::now().saturating_duration_since(due)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(lag: &mut Lag, late_ms: u64, samples: u32) -> [bool; 4] {
        (0..samples).for_each(|_| lag.observe(Duration::from_millis(late_ms)));
        Role::ALL.map(|role| lag.holds_up(role))
    }

    #[test]
    fn roles_wait_in_the_order_of_their_priority_and_one_hiccup_holds_up_nobody() {
        let mut lag = Lag::default();
        let [nobody, messengers, workers_too] = [[false; 4], [false, false, false, true], [false, false, true, true]];
        assert_eq!(after(&mut lag, 3_600_000, 1), nobody, "one stall, however long");
        assert_eq!(after(&mut lag, 0, 1), nobody);
        assert_eq!(after(&mut lag, 10, 100), nobody);
        assert_eq!(after(&mut lag, 600, 100), messengers);
        assert_eq!(after(&mut lag, 2_000, 100), workers_too);
        assert_eq!(after(&mut lag, 600, 100), workers_too, "it ends below half");
        assert_eq!(after(&mut lag, 400, 100), messengers);
        assert_eq!(after(&mut lag, 0, 100), nobody);
    }

    #[test]
    fn so_many_of_each_role_are_admitted_in_each_second_nevertheless() {
        let (gate, now) = (CpuGate::default(), Instant::now());
        let admitted = |to, role, now| (0..3 * TRICKLE).filter(|_| gate.admits(to, role, now)).count() as u32;
        assert_eq!(admitted(Admission::Session, Role::Worker, now), 3 * TRICKLE);
        (0..100).for_each(|_| assert!(gate.observe(Duration::from_secs(5)) <= 2));
        assert_eq!(admitted(Admission::Session, Role::Guardian, now), 3 * TRICKLE);
        for to in [Admission::Enrolment, Admission::Session] {
            for role in [Role::Worker, Role::Messenger] {
                assert_eq!(admitted(to, role, now), TRICKLE, "{to:?} {role:?}");
                assert_eq!(admitted(to, role, now + Duration::from_millis(999)), 0, "{to:?} {role:?}");
                assert_eq!(admitted(to, role, now + Duration::from_secs(1)), TRICKLE, "{to:?} {role:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_is_on_time_has_no_lag() {
        let gate = CpuGate::default();
        let sampling = gate.sample(|level| assert_eq!(level, 0));
        let sampled = tokio::time::timeout(100 * SAMPLE_EVERY, sampling).await;
        assert!(sampled.is_err(), "it never ends");
        assert_eq!(gate.0.lock().expect("nobody panicked").lag.mean_ms, 0.0);
    }

    proptest! {
        #[test]
        fn no_measurement_holds_up_a_role_of_the_highest_priority_or_one_before_those_below_it(
            late in prop::collection::vec(0_u64..100_000, 0..200)
        ) {
            let mut lag = Lag::default();
            for late in late {
                lag.observe(Duration::from_millis(late));
                prop_assert!(lag.mean_ms.is_finite() && lag.level() <= LIMITS_MS.len() as u32);
                let [specialist, guardian, worker, messenger] = Role::ALL.map(|role| lag.holds_up(role));
                prop_assert!(!specialist && !guardian && (!worker || messenger));
            }
        }
    }
}
