//! What carries messages to a replica: the same for all groups.

use std::{
    sync::{Arc, mpsc::channel},
    thread,
    time::{Duration, Instant},
};

/// Carries messages to one receiver.
pub type Wire<T> = Arc<dyn Fn(T) + Send + Sync>;

/// Returns a wire to a receiver that gets each message this long after it was sent, in the order of sending. Without a
/// delay, the sender hands it over itself; else a thread does, which ends with the wire.
pub fn wire<T: Send + 'static>(delay: Duration, deliver: impl Fn(T) + Send + Sync + 'static) -> Wire<T> {
    if delay.is_zero() {
        return Arc::new(deliver);
    }
    let (sender, under_way) = channel::<(Instant, T)>();
    thread::spawn(move || {
        for (at, message) in under_way {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            deliver(message);
        }
    });
    // Nobody receives once the group has ended.
    Arc::new(move |message| drop(sender.send((Instant::now() + delay, message))))
}
