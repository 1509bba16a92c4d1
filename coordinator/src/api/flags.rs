//! How often guardians may flag agents. Each flag is a record of the audit log, of which the oldest are dropped, so a
//! guardian that is not what it should be must not be able to flood it.

use std::{sync::Arc, time::Duration};

use robeing_platform::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// How many flags one coordinator takes at once.
pub const AT_ONCE: u32 = 60;
/// How long one counts.
const COUNTS_FOR: Duration = Duration::from_secs(1);

/// The flags that one coordinator took. Cheap to clone.
#[derive(Clone, Default)]
pub struct FlagPace {
    /// When all of them have ceased to count.
    forgiven: Arc<Mutex<Option<Instant>>>,
}

impl FlagPace {
    /// Counts a flag, unless there were too many.
    pub fn take(&self, now: Instant) -> bool {
        let mut forgiven = self.forgiven.lock().unwrap_or_else(PoisonError::into_inner);
        let until = forgiven.map_or(now, |until| until.max(now)) + COUNTS_FOR;
        let is_room = until - now <= COUNTS_FOR * AT_ONCE;
        if is_room {
            *forgiven = Some(until);
        }
        is_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_taken_at_once_and_then_one_a_second() {
        let (pace, now) = (FlagPace::default(), Instant::now());
        let taken = |now| (0..2 * AT_ONCE).filter(|_| pace.take(now)).count();
        assert_eq!(taken(now), AT_ONCE as usize);
        assert_eq!(taken(now + COUNTS_FOR / 2), 0);
        assert_eq!(taken(now + COUNTS_FOR), 1);
        assert_eq!(taken(now + COUNTS_FOR * 4 * AT_ONCE), AT_ONCE as usize);
    }
}
