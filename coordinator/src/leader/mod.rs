//! The duties of the leader: how a coordinator becomes leader, what it does as leader, and how it transfers leadership.

pub mod bootstrap;
pub mod describe;
pub mod evidence;
pub mod failure_detector;
pub mod health;
pub mod leader_watch;
pub mod membership_change;
pub mod pressure;
pub mod progress;
pub mod quorum_contact;
pub mod recoveries;
pub mod role;
pub mod score;
pub mod sessions;
pub mod shortages;
pub mod stalls;
pub mod standing;
pub mod transfer;
pub mod version;

use futures::future::BoxFuture;

/// Waits until what is being written is, and returns its result. Cancellation-safe; never returns while nothing is being
/// written.
async fn written<T>(writing: &mut Option<BoxFuture<'static, T>>) -> T {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}
