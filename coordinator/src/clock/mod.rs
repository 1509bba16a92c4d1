//! The fleet's clock on this coordinator: fleet time, by which durations are judged, and the wall time that the coordinators
//! agree on. What it is and why it can be trusted is in `core`; this is the handle that everybody shares, and the task that
//! keeps it going.

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

/// How often the clock is looked at while this coordinator leads: far less than [`core::MAX_STEP`].
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often this coordinator's own clock is compared with the fleet's.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// How far a coordinator's wall clock may be away from the fleet's wall time before that is reported.
pub const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(5);
/// The reason of that warning.
pub const CLOCK_SKEW: &str = "ClockSkew";

/// The clock. Cheap to clone; each call takes a lock for a moment.
#[derive(Clone)]
pub struct FleetClock {
    core: Arc<Mutex<Core>>,
    wall: Arc<dyn Clock>,
}

impl FleetClock {
    /// Of this coordinator, on a machine with this wall clock.
    pub fn new(own: NodeId, wall: Arc<dyn Clock>) -> Self {
        Self { core: Arc::new(Mutex::new(Core::new(own))), wall }
    }

    fn with<T>(&self, what: impl FnOnce(&mut Core, u64, Instant) -> T) -> T {
        let own_wall = self.wall.unix_millis();
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        what(&mut core, own_wall, Instant::now())
    }

    /// This machine's wall clock, to be told to the leader.
    pub fn own_wall(&self) -> u64 {
        self.wall.unix_millis()
    }

    /// An entry of this leadership with this stamp is applied here, or a snapshot that ends with it.
    pub fn applied(&self, leadership: Leadership, stamp: Stamp) {
        self.with(|core, _, _| core.applied(leadership, stamp));
    }

    /// The leader said what its clock says. It must not be one that is known to be replaced.
    pub fn heard(&self, leadership: Leadership, stamp: Stamp) {
        self.with(|core, _, now| core.heard(leadership, stamp, now));
    }

    /// Another coordinator said just now what its wall clock says, Unix milliseconds.
    pub fn read(&self, node: NodeId, wall: u64) {
        self.with(|core, _, now| core.read(node, wall, now));
    }

    /// This coordinator leads, and has applied everything accepted before it did. Nothing may be stamped before.
    pub fn begin(&self, leadership: Leadership, voters: Vec<NodeId>) {
        self.with(|core, own_wall, now| core.begin(leadership, voters, own_wall, now));
    }

    /// Who votes, and how long ago this leader heard from a majority of them. After [`SILENCE`] time stands still.
    fn look(&self, voters: Vec<NodeId>, quorum_age: Option<Duration>) {
        let in_touch = quorum_age.is_some_and(|age| age < SILENCE);
        self.with(|core, own_wall, now| core.look(voters, in_touch, own_wall, now));
    }

    /// It does not lead any more.
    pub fn end(&self) {
        self.with(Core::end);
    }

    /// What a log entry is stamped with.
    pub fn stamp(&self) -> Stamp {
        self.with(Core::stamp)
    }

    /// What the others are told under this leadership, if this coordinator has it.
    pub fn word(&self, leadership: Leadership) -> Option<Stamp> {
        self.with(|core, own_wall, now| core.word(leadership, own_wall, now))
    }

    /// The fleet's clock as well as it is known here. To be shown, and for what an agent is told to have left.
    pub fn estimate(&self) -> Stamp {
        self.with(Core::estimate)
    }

    /// By how much this machine's wall clock is ahead of the fleet's, milliseconds, if that is known.
    pub fn offset(&self) -> Option<i64> {
        self.with(Core::offset)
    }
}

/// Keeps the clock going while this coordinator leads. Runs until it stops.
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

/// Compares this machine's wall clock with the fleet's: a metric, and a warning while they are far apart. Runs until the
/// coordinator stops.
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

/// What is said of a clock that is ahead by so many milliseconds, if that is worth a word. Roughly, so that a clock that drifts is
/// not a new warning each second.
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
        assert_eq!(passes(Some(Duration::from_millis(2_999))).await, 475, "towards a wall clock that stands");
        assert_eq!(passes(Some(Duration::from_secs(3))).await, 0);
        assert_eq!(passes(None).await, 0);
        assert_eq!(passes(Some(Duration::ZERO)).await, 475, "and goes on");
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
