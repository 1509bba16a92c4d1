//! The agent side of the session: the agent finds the leader, keeps one stream to it, runs what it is assigned and says how
//! it ended. Knows the protocol and the [`Executor`](crate::executor::Executor) trait; every socket, clock and random number comes from the
//! [`Platform`](robeing_platform::Platform), so that the simulator runs this very code.
//!
//! What always holds:
//!
//! 1. **Lease.** An attempt runs or begins only while the agent's lease on its session lasts: from when the last acknowledged
//!    heartbeat was *sent*, by the monotonic clock, for the session timeout less a margin (see [`lease`]). The lease is checked before anything that was waited for is acted on, so also first thing when a stopped
//!    process goes on. When it is over the agent fences itself: everything running is killed without grace and will be handed
//!    back, and nothing is begun until a coordinator has renewed the lease. The session goes on if no coordinator has ended it
//!    meanwhile, with the results from before; each is taken only while its attempt is the current one.
//! 2. **One session at a time.** When the coordinator says that a session is over, or opens another one instead, everything
//!    of the old one is stopped before anything of the new one begins, and none of its results is sent.
//! 3. **A broken stream stops nothing.** Only the lease does. The agent finds the leader and goes on with the session, naming
//!    all it holds.
//! 4. **No result is lost.** A completion is kept, and sent again on each new stream, until the coordinator acknowledged it,
//!    whether it was accepted or refused.
//! 5. **No attempt runs twice.** An assignment of what is already held is ignored.
//! 6. **Bounded.** No more than `slots` attempts run; what waits, and what is kept, has limits, beyond which work is handed
//!    back or not begun.
//! 7. **Draining ends.** Asked to stop, the agent takes nothing new, finishes what runs within the drain timeout, hands back
//!    the rest, and leaves once everything is acknowledged, or when nobody can be reached.
//! 8. **Idle hands take nothing.** While the executor can begin no attempts, the agent takes nothing new. It leaves once what
//!    runs has ended, however long that takes, and comes back when the executor can again. Where nothing is wrong and attempts
//!    only wait for a process to attach, it comes back at once, as a member without slots and of no pool: it is seen, but given
//!    nothing, and a standby of its pool takes its place.
//! 9. **Health is answered, and what is unhealthy is handed back.** A health check never waits for anything but the executor.
//!    When the leader counts the agent as unhealthy, everything that runs is stopped before it is handed back. An agent whose
//!    executor has failed stops everything before it says so, and ends.

mod drain;
mod driver;
mod health;
pub mod held;
pub mod lease;
mod link;
mod metrics;
pub mod search;
mod wire;

#[cfg(test)]
pub(crate) mod tests;

use std::{pin::pin, time::Duration};

pub use drain::{DRAINED_WITHIN, HAND_BACK_WITHIN, LEAVE_WITHIN};
pub use driver::{Deps, END_WITHIN, SEND_AGAIN_AFTER};
pub use health::ANSWER_WITHIN;
pub use link::{CONNECT_WITHIN, HELLO_WITHIN};
pub use metrics::SessionMetrics;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The time from one joining with slots to the next, at least, so that a process that attaches and dies at once does not keep
/// the coordinators busy.
pub const STAY_AT_LEAST: Duration = Duration::from_secs(1);

/// Why an agent ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// It was asked to stop, and no coordinator took what it held in time. The coordinators give it to others once the
    /// session times out.
    #[error("stopped without an acknowledgement for {attempts} attempts: no coordinator could be reached in time")]
    Unacknowledged {
        /// How many.
        attempts: usize,
    },
    /// It can never run tasks again.
    #[error("{reason}")]
    Failed {
        /// Why, and what to do.
        reason: String,
    },
}

/// Keeps an agent in the fleet until `shutdown` is cancelled and it has drained.
///
/// # Errors
/// When what it held could not be handed back, and when it can never run tasks again.
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
        let stay = driver::Driver::new(if works { deps.clone() } else { deps.idle() });
        let mut stay = pin!(stay.run(shutdown.clone(), idle.clone()));
        let end = tokio::select! {
            biased;
            // Before an attempt that was not begun is handed back: nothing more is to be assigned then.
            () = turns(&mut presence, works, worked) => {
                match works {
                    true => info!("no task can be begun here: the agent takes none until one can"),
                    false => info!("tasks can be begun here: the agent takes them"),
                }
                idle.cancel();
                stay.await
            }
            end = &mut stay => end,
        };
        if shutdown.is_cancelled() || !idle.is_cancelled() {
            return end;
        }
        if let Err(error) = end {
            warn!(%error, "the agent left the fleet with work that nobody took back");
        }
    }
}

/// Whether the executor can begin attempts. One that is silent about it always can.
fn is_present(presence: Option<&watch::Receiver<bool>>) -> bool {
    presence.is_none_or(|presence| *presence.borrow())
}

/// Waits until an agent that works or not should change that: at once to stop, and to begin again no sooner than
/// [`STAY_AT_LEAST`] after it did the last time.
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

/// Waits until the executor can begin attempts, or can't. One that is silent about it always can.
async fn becomes(presence: &mut Option<watch::Receiver<bool>>, wanted: bool) {
    let never = match presence {
        Some(presence) => presence.wait_for(|present| *present == wanted).await.is_err(),
        None => !wanted,
    };
    if never {
        std::future::pending::<()>().await;
    }
}
