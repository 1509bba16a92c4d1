//! The agent side of the session: the agent finds the leader, keeps one stream to it, runs the attempts assigned to it
//! and reports their outcomes. It knows the protocol and the [`Executor`](crate::executor::Executor) trait; every
//! socket, clock and random number comes from the [`Platform`](robeing_platform::Platform), so the simulator runs this
//! very code.
//!
//! Invariants:
//!
//! 1. **Lease.** An attempt starts or runs only while the agent's lease on its session is valid: from the time the last
//!    acknowledged heartbeat was *sent*, on the monotonic clock, for the session timeout less a margin (see [`lease`]).
//!    After every wait, the lease is checked before anything else, so also first when a stopped process resumes. When
//!    the lease expires, the agent fences itself: it kills all running attempts without a grace period, will hand them
//!    back, and starts nothing until a coordinator renews the lease. If no coordinator has ended the session by then,
//!    the session continues with the results it had; the coordinator accepts each result only while its attempt is
//!    current.
//! 2. **One session at a time.** When the coordinator reports that a session is over, or opens another instead,
//!    everything of the old session is stopped before anything of the new one starts, and none of the old results is
//!    sent.
//! 3. **A broken stream stops nothing.** Only the lease does. The agent finds the leader and resumes the session,
//!    listing everything it holds.
//! 4. **No result is lost.** A completion is kept, and sent again on each new stream, until the coordinator
//!    acknowledges it, whether it was accepted or rejected.
//! 5. **No attempt runs twice.** An assignment of an attempt that is already held is ignored.
//! 6. **Bounded.** At most `slots` attempts run; waiting attempts and kept completions are limited too, and beyond the
//!    limits work is handed back or not started.
//! 7. **Draining ends.** When asked to stop, the agent accepts nothing new, finishes running attempts within the drain
//!    timeout, hands back the rest, and leaves once everything is acknowledged, or when no coordinator can be reached.
//! 8. **An agent that can start nothing accepts nothing.** While the executor can't start attempts, the agent accepts
//!    no new ones. It leaves once the running attempts have ended, however long that takes, and rejoins when the
//!    executor can start attempts again. If nothing is wrong and attempts only wait for a process to attach, it rejoins
//!    at once, as a member with no slots and no pool: it is listed but gets no tasks, and a standby of its pool takes
//!    its place.
//! 9. **Health checks are answered, and an unhealthy agent hands its work back.** A health check waits for nothing but
//!    the executor. When the leader counts the agent as unhealthy, all running attempts are stopped before they are
//!    handed back. An agent whose executor has failed stops everything before it reports the failure, and exits.
//! 10. **Who follows an attempt holds up nothing.** Lines and progress are sent only of attempts that the leader follows,
//!     within a rate, and after everything else (see [`logs`]). The progress of attempts with a progress
//!     timeout is reported whether they are followed or not (see [`progress`]).

mod deps;
mod drain;
mod driver;
mod health;
pub mod held;
pub mod lease;
mod link;
pub mod logs;
mod metrics;
mod numbered;
pub mod progress;
pub mod search;
mod stored;
pub(crate) mod wire;

#[cfg(test)]
pub(crate) mod tests;

use std::{pin::pin, time::Duration};

pub use deps::Deps;
pub use drain::{DRAINED_WITHIN, HAND_BACK_WITHIN, LEAVE_WITHIN};
pub use driver::{END_WITHIN, SEND_AGAIN_AFTER};
pub use health::ANSWER_WITHIN;
pub use link::{CONNECT_WITHIN, HELLO_WITHIN};
pub use metrics::SessionMetrics;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The minimum time between two joins with slots, so that a process that attaches and dies at once does not keep the
/// coordinators busy.
pub const STAY_AT_LEAST: Duration = Duration::from_secs(1);

/// Why an agent ended other than by a clean shutdown.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The agent was asked to stop, and no coordinator acknowledged what it held in time. The coordinators reassign
    /// that work once the session times out.
    #[error("stopped without an acknowledgement for {attempts} attempts: no coordinator could be reached in time")]
    Unacknowledged {
        /// The number of unacknowledged attempts.
        attempts: usize,
    },
    /// The agent can never run tasks again.
    #[error("{reason}")]
    Failed {
        /// The cause, and what to do about it.
        reason: String,
    },
}

/// Keeps an agent in the fleet until `shutdown` is cancelled and the agent has drained.
///
/// # Errors
/// When the work it held could not be handed back, or when the agent can never run tasks again.
pub async fn run(deps: Deps, shutdown: CancellationToken) -> Result<(), SessionError> {
    let mut presence = deps.executor.presence();
    let mut worked = None;
    loop {
        if shutdown.is_cancelled() {
            return Ok(());
        }
        let works = is_present(presence.as_ref());
        if works {
            let again = worked.map_or_else(Instant::now, |worked| worked + STAY_AT_LEAST);
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(again) => {}
            }
            worked = Some(Instant::now());
        } else if !deps.executor.is_member_when_absent() {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = turns(&mut presence, works, worked) => {}
            }
            continue;
        }
        let idle = CancellationToken::new();
        let info = driver::Driver::new(if works { deps.clone() } else { deps.idle() });
        let mut info = pin!(info.run(shutdown.clone(), idle.clone()));
        let end = tokio::select! {
            biased;
            // This is polled before an unstarted attempt is handed back: no more tasks must be assigned then.
            () = turns(&mut presence, works, worked) => {
                match works {
                    true => info!("no task can start here: the agent accepts none until one can"),
                    false => info!("tasks can start here: the agent accepts them"),
                }
                idle.cancel();
                info.await
            }
            end = &mut info => end,
        };
        if shutdown.is_cancelled() || !idle.is_cancelled() {
            return end;
        }
        if let Err(error) = end {
            warn!(%error, "the agent left the fleet, but no coordinator acknowledged the work it handed back");
        }
    }
}

/// Whether the executor can start attempts. An executor without a presence watch always can.
fn is_present(presence: Option<&watch::Receiver<bool>>) -> bool {
    presence.is_none_or(|presence| *presence.borrow())
}

/// Waits until the agent must change between working and idle: it stops working at once, and works again no sooner than
/// [`STAY_AT_LEAST`] after it last began to.
async fn turns(presence: &mut Option<watch::Receiver<bool>>, works: bool, worked: Option<Instant>) {
    loop {
        becomes(presence, !works).await;
        if let Some(worked) = worked.filter(|_| !works) {
            tokio::time::sleep_until(worked + STAY_AT_LEAST).await;
        }
        if is_present(presence.as_ref()) != works {
            return;
        }
    }
}

/// Waits until the executor can start attempts (or can't). An executor without a presence watch always can.
async fn becomes(presence: &mut Option<watch::Receiver<bool>>, wanted: bool) {
    let never = match presence {
        Some(presence) => presence.wait_for(|present| *present == wanted).await.is_err(),
        None => !wanted,
    };
    if never {
        std::future::pending::<()>().await;
    }
}
