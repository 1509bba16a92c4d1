//! How often guardians may flag agents. Each flag is a record of the audit log, of which the oldest are dropped, so a
//! guardian that is not what it should be must not be able to flood it, and none can use up what others may flag.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// How many flags one coordinator takes of a caller at once.
pub const AT_ONCE: u32 = 60;
/// How long one counts.
const COUNTS_FOR: Duration = Duration::from_secs(1);
/// How long after a flag of an agent the same caller can't flag it again.
pub const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Maximum number of callers that are remembered; at this limit, the one that may soonest flag as many as ever is forgotten.
pub const MAX_CALLERS: usize = 256;

/// Why a flag is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFlagged {
    /// The caller has flagged too many agents.
    #[error(
        "this caller has flagged too many agents lately, which would drive other records out of the audit log: {AT_ONCE} at \
         once, and one in a second after that; try again later"
    )]
    TooMany,
    /// The caller has flagged the agent before.
    #[error("this caller has flagged the agent within the last minute; that is in the audit log")]
    Again,
}

/// The flags of one caller.
struct Flags {
    /// When all of them have ceased to count.
    forgiven: Instant,
    /// When each agent was flagged last: within [`AGAIN_AFTER`], so that there are no more than [`AT_ONCE`] and those of
    /// that time.
    agents: HashMap<String, Instant>,
}

/// The flags that one coordinator took. Cheap to clone.
#[derive(Clone, Default)]
pub struct FlagPace(Arc<Mutex<BTreeMap<String, Flags>>>);

impl FlagPace {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Flags>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a flag of an agent by a caller.
    ///
    /// # Errors
    /// [`NotFlagged`] if there were too many, or one of this agent.
    pub fn take(&self, caller: &str, agent: &str, now: Instant) -> Result<(), NotFlagged> {
        let mut callers = self.lock();
        if callers.len() >= MAX_CALLERS
            && !callers.contains_key(caller)
            && let Some(soonest) =
                callers.iter().min_by_key(|(_, flags)| flags.forgiven).map(|(caller, _)| caller.clone())
        {
            callers.remove(&soonest);
        }
        let none = || Flags { forgiven: now, agents: HashMap::new() };
        let flags = callers.entry(caller.to_owned()).or_insert_with(none);
        flags.agents.retain(|_, at| now.saturating_duration_since(*at) < AGAIN_AFTER);
        if flags.agents.contains_key(agent) {
            return Err(NotFlagged::Again);
        }
        let until = flags.forgiven.max(now) + COUNTS_FOR;
        if until - now > COUNTS_FOR * AT_ONCE {
            return Err(NotFlagged::TooMany);
        }
        flags.forgiven = until;
        flags.agents.insert(agent.to_owned(), now);
        Ok(())
    }

    /// Lets a caller flag an agent again whose flag was taken and not recorded. It counts nevertheless.
    pub fn not_recorded(&self, caller: &str, agent: &str) {
        if let Some(flags) = self.lock().get_mut(caller) {
            flags.agents.remove(agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many of so many agents, each another one, a caller can flag.
    fn taken(pace: &FlagPace, caller: &str, now: Instant) -> usize {
        (0..2 * AT_ONCE).filter(|n| pace.take(caller, &format!("a-{n}"), now).is_ok()).count()
    }

    #[test]
    fn so_many_are_taken_of_each_caller_at_once_and_then_one_a_second() {
        let (pace, now) = (FlagPace::default(), Instant::now());
        assert_eq!(taken(&pace, "guardian/g", now), AT_ONCE as usize);
        assert_eq!(pace.take("guardian/g", "b", now), Err(NotFlagged::TooMany));
        assert_eq!(taken(&pace, "guardian/h", now), AT_ONCE as usize, "others are not affected");
        assert_eq!(taken(&pace, "guardian/g", now + COUNTS_FOR / 2), 0);
        assert_eq!(taken(&pace, "guardian/g", now + COUNTS_FOR), 1);
        assert_eq!(taken(&pace, "guardian/g", now + COUNTS_FOR * 4 * AT_ONCE), AT_ONCE as usize);
    }

    #[test]
    fn an_agent_is_flagged_once_a_minute_by_each_caller() {
        let (pace, now) = (FlagPace::default(), Instant::now());
        let take = |caller, after| pace.take(caller, "a", now + after);
        let almost = AGAIN_AFTER.saturating_sub(Duration::from_millis(1));
        assert_eq!(take("guardian/g", Duration::ZERO), Ok(()));
        assert_eq!(take("guardian/g", almost), Err(NotFlagged::Again));
        assert_eq!(take("guardian/h", almost), Ok(()));
        assert_eq!(take("guardian/g", AGAIN_AFTER), Ok(()));
        pace.not_recorded("guardian/g", "a");
        assert_eq!(take("guardian/g", AGAIN_AFTER), Ok(()), "nothing tells of it yet");
    }

    #[test]
    fn so_many_callers_and_agents_are_remembered() {
        let (pace, now) = (FlagPace::default(), Instant::now());
        for second in 0..500 {
            taken(&pace, "guardian/rogue", now + COUNTS_FOR * second);
        }
        let minute = AGAIN_AFTER.as_secs() as usize;
        assert!(pace.lock()["guardian/rogue"].agents.len() <= AT_ONCE as usize + minute);
        let later = now + COUNTS_FOR * 499;
        for n in 0..2 * MAX_CALLERS {
            assert_eq!(pace.take(&format!("guardian/{n}"), "a", later), Ok(()));
        }
        assert_eq!(pace.lock().len(), MAX_CALLERS);
        assert!(pace.lock().contains_key("guardian/rogue"), "it has flagged the most");
    }
}
