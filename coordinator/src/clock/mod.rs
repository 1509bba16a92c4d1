//! The fleet's clock on this coordinator: fleet time, in which durations are measured, and the wall time that the
//! coordinators agree on. `core` defines both and explains why they can be trusted; this module has the shared handle
//! and the task that keeps the clock running.

mod core;

use std::{sync::Arc, time::Duration};

use prometheus_client::metrics::gauge::Gauge;
use robeing_fleet::Stamp;
use robeing_platform::{
    Clock,
    sync::{Mutex, PoisonError},
};
use robeing_telemetry::Metrics;
use tokio::time::Instant;

use self::core::Core;
pub use self::core::{Leadership, SLEW_PART};
use crate::{
    leader::{
        role::{until_leading, until_not_leading},
        standing::{SILENCE, Standing},
    },
    member::Member,
    members::Members,
    raft::NodeId,
    warnings::Warnings,
};

/// Interval between updates of the clock while this coordinator leads. It is far shorter than [`core::MAX_STEP`].
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Interval between comparisons of this coordinator's wall clock with the fleet's.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// Offset between a coordinator's wall clock and the fleet's wall time above which a warning is reported.
pub const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(5);
/// The reason of that warning.
pub const CLOCK_SKEW: &str = "ClockSkew";

/// The fleet's clock. Cheap to clone; each call takes a lock briefly.
#[derive(Clone)]
pub struct FleetClock {
    core: Arc<Mutex<Core>>,
    wall: Arc<dyn Clock>,
}

impl FleetClock {
    /// Creates the clock of the coordinator `own`, whose machine has the wall clock `wall`.
    pub fn new(own: NodeId, wall: Arc<dyn Clock>) -> Self {
        Self { core: Arc::new(Mutex::new(Core::new(own))), wall }
    }

    fn with<T>(&self, what: impl FnOnce(&mut Core, u64, Instant) -> T) -> T {
        let own_wall = self.wall.unix_millis();
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        what(&mut core, own_wall, Instant::now())
    }

    /// Returns the time of this machine's wall clock, Unix milliseconds, for reporting to the leader.
    pub fn own_wall(&self) -> u64 {
        self.wall.unix_millis()
    }

    /// Records that an entry of this leadership with this stamp, or a snapshot that ends with it, is applied here.
    pub fn applied(&self, leadership: Leadership, stamp: Stamp) {
        self.with(|core, _, _| core.applied(leadership, stamp));
    }

    /// Records the leader's clock report. The caller must not pass a leadership that is known to be replaced.
    pub fn heard(&self, leadership: Leadership, stamp: Stamp) {
        self.with(|core, _, now| core.heard(leadership, stamp, now));
    }

    /// Records the wall clock reading, Unix milliseconds, that another coordinator just reported.
    pub fn read(&self, node: NodeId, wall: u64) {
        self.with(|core, _, now| core.read(node, wall, now));
    }

    /// Starts the clock: this coordinator leads and has applied everything accepted before its term. Nothing may be
    /// stamped earlier.
    pub fn begin(&self, leadership: Leadership, voters: Vec<NodeId>) {
        self.with(|core, own_wall, now| core.begin(leadership, voters, own_wall, now));
    }

    /// Updates the voters and whether this leader is in contact with a majority of them; `quorum_age` is how long ago
    /// it last heard from one. After [`SILENCE`] fleet time stops.
    fn look(&self, voters: Vec<NodeId>, quorum_age: Option<Duration>) {
        let in_touch = quorum_age.is_some_and(|age| age < SILENCE);
        self.with(|core, own_wall, now| core.look(voters, in_touch, own_wall, now));
    }

    /// Stops the clock: this coordinator no longer leads.
    pub fn end(&self) {
        self.with(Core::end);
    }

    /// Returns the stamp for a log entry.
    pub fn stamp(&self) -> Stamp {
        self.with(Core::stamp)
    }

    /// Returns the clock report to send under this leadership, if this coordinator holds it.
    pub fn word(&self, leadership: Leadership) -> Option<Stamp> {
        self.with(|core, own_wall, now| core.word(leadership, own_wall, now))
    }

    /// Returns the best estimate of the fleet's clock, for display and for computing the time left that is sent to an
    /// agent.
    pub fn estimate(&self) -> Stamp {
        self.with(Core::estimate)
    }

    /// Returns by how many milliseconds this machine's wall clock is ahead of the fleet's, if that is known.
    pub fn offset(&self) -> Option<i64> {
        self.with(Core::offset)
    }
}

/// Keeps the clock running while this coordinator leads. Runs until the coordinator stops.
pub async fn run(clock: FleetClock, standing: Standing, members: Members) {
    let mut raft_role = standing.roles();
    loop {
        let Some(term) = until_leading(&mut raft_role).await else { return };
        loop {
            clock.look(members.voters().map(|(id, _)| id).collect(), standing.quorum_age());
            tokio::select! {
                () = until_not_leading(&mut raft_role, term) => break,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

/// Compares this machine's wall clock with the fleet's and sets a metric, and a warning while they are far apart. Runs
/// until the coordinator stops.
pub async fn compare(clock: FleetClock, member: Member, warnings: Arc<Warnings>, metrics: Metrics) {
    let help =
        "By how many milliseconds this coordinator's wall clock is ahead of the median of the coordinators' clocks";
    let gauge: Gauge = metrics.gauge("coordinator_clock_offset_ms", help);
    loop {
        let offset = clock.offset();
        gauge.set(offset.unwrap_or(0));
        warnings.set(CLOCK_SKEW, offset.and_then(|offset| skew(member.name(), offset)));
        tokio::time::sleep(COMPARE_EVERY).await;
    }
}

/// Returns the warning for a clock that is `ahead` milliseconds ahead, if that is too much. The offset is rounded, so
/// that a drifting clock does not raise a new warning every second.
fn skew(name: &str, ahead: i64) -> Option<String> {
    let away = Duration::from_millis(ahead.unsigned_abs());
    if away <= MAX_CLOCK_OFFSET {
        return None;
    }
    let seconds = away.as_secs();
    let about = match seconds {
        0..60 => format!("more than {} s", MAX_CLOCK_OFFSET.as_secs()),
        60..3_600 => format!("about {} min", seconds / 60),
        3_600..86_400 => format!("about {} h", seconds / 3_600),
        _ => format!("about {} days", seconds / 86_400),
    };
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    Some(format!(
        "the wall clock of coordinator {name} is {about} {way} the coordinators' median; synchronize its machine's clock (NTP)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Standing;

    impl Clock for Standing {
        fn unix_millis(&self) -> u64 {
            1_800_000_000_000
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_stands_still_while_nothing_was_heard_of_a_majority_for_three_seconds() {
        let clock = FleetClock::new(0, Arc::new(Standing));
        clock.begin((1, 0), vec![0]);
        let passes = async |quorum_age| {
            clock.look(vec![0], quorum_age);
            let before = clock.stamp().fleet;
            tokio::time::advance(Duration::from_millis(500)).await;
            clock.stamp().fleet - before
        };
        assert_eq!(passes(Some(Duration::from_millis(2_999))).await, 475, "towards a wall clock that stopped");
        assert_eq!(passes(Some(Duration::from_secs(3))).await, 0);
        assert_eq!(passes(None).await, 0);
        assert_eq!(passes(Some(Duration::ZERO)).await, 475, "and it resumes");
    }

    #[test]
    fn a_clock_is_reported_only_when_it_is_far_away() {
        let limit = MAX_CLOCK_OFFSET.as_millis() as i64;
        for fine in [0, limit, -limit] {
            assert_eq!(skew("c-1", fine), None);
        }
        let said = |ahead: i64| skew("c-1", ahead).expect("too far");
        assert!(said(limit + 1).contains("coordinator c-1 is more than 5 s ahead of"), "{}", said(limit + 1));
        assert!(said(-limit - 1).contains("more than 5 s behind"));
        assert!(said(-7_192_000).contains("about 1 h behind"));
        assert!(said(i64::MIN).contains("days behind"));
        assert_eq!(said(7_201_000), said(7_302_000), "a drift is no new warning");
    }
}
