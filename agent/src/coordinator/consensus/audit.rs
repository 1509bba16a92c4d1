//! What was applied, told as a tracing event of its own target, so that the simulator can compare coordinators and hold the
//! fleet to its invariants after every log entry. Costs nothing unless somebody listens at level TRACE.

use robeing_fleet::{Effect, Fleet};
use tracing::Level;

/// Target of the events.
pub const APPLIED: &str = "robeing::applied";
/// What is said when a snapshot was written.
pub const SNAPSHOT_WRITTEN: &str = "a snapshot was written";
/// What is said when the state was replaced by a snapshot from the leader.
pub const SNAPSHOT_INSTALLED: &str = "a snapshot was installed";

/// Tells of the log entry `index`, which had these effects.
pub(super) fn tell(index: u64, fleet: &Fleet, effects: &[Effect]) {
    if !tracing::enabled!(target: APPLIED, Level::TRACE) {
        return;
    }
    let finished: Vec<String> = effects
        .iter()
        .filter_map(|effect| if let Effect::Finished { task } = effect { Some(task.to_string()) } else { None })
        .collect();
    let (checksum, broken) = (fleet.checksum(), fleet.audit().err().unwrap_or_default());
    tracing::trace!(target: APPLIED, index, checksum, finished = finished.join(" "), broken);
}
