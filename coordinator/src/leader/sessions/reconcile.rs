//! Compares the attempts that a reconnecting agent holds with the state, to find those that it lacks and those that it
//! must stop. Linear in what the agent and the state hold for it; only the list of its slots is read under the state's
//! lock.

use robeing_fleet::{Held, HeldState, limits::MAX_SLOTS};
use robeing_proto::internal::v1::AttemptRef;
use tonic::Status;

use crate::{api::convert, leader::sessions::AttemptKey};

/// Maximum number of attempts that a Hello may name. An agent holds the attempts in its slots, those that it still has
/// to stop, and those whose completion is not acknowledged yet; while it has too many of these, it starts no others.
pub const MAX_HELD: usize = 4 * MAX_SLOTS as usize;
/// Number of attempts read before yielding to other tasks.
const READ_AT_ONCE: usize = 1_024;

/// Returns the attempts that a Hello names, sorted.
///
/// # Errors
/// There are too many, or one has an invalid task id.
pub async fn held(refs: &[AttemptRef]) -> Result<Vec<AttemptKey>, Status> {
    if refs.len() > MAX_HELD {
        return Err(Status::invalid_argument(format!(
            "the agent holds {} attempts, the most is {MAX_HELD}; it must stop and begin a new session",
            refs.len()
        )));
    }
    let mut held = Vec::with_capacity(refs.len());
    for refs in refs.chunks(READ_AT_ONCE) {
        for attempt in refs {
            held.push((convert::task_id(&attempt.task_id)?, attempt.attempt));
        }
        tokio::task::yield_now().await;
    }
    held.sort_unstable();
    held.dedup();
    Ok(held)
}

/// Returns the attempts to assign and those to stop. `known` is what the state has for the agent's slots, in order;
/// `held` is what the agent has, in order. An attempt to stop that the agent never received is included, too: the agent
/// answers that it is stopped.
pub fn differences(known: &[Held], held: &[AttemptKey]) -> (Vec<AttemptKey>, Vec<AttemptKey>) {
    let (mut assign, mut stop) = (Vec::new(), Vec::new());
    let mut held = held.iter().copied().peekable();
    for slot in known {
        let key = (slot.task, slot.attempt);
        while let Some(surplus) = held.next_if(|held| *held < key) {
            stop.push(surplus);
        }
        let has = held.next_if_eq(&key).is_some();
        match slot.state {
            HeldState::Active if !has => assign.push(key),
            HeldState::Active => {}
            HeldState::Stopping => stop.push(key),
        }
    }
    stop.extend(held);
    (assign, stop)
}

#[cfg(test)]
mod tests {
    use robeing_fleet::TaskId;

    use super::*;

    fn slot(task: u128, attempt: u32, state: HeldState) -> Held {
        Held { task: TaskId(task), attempt, state }
    }

    #[test]
    fn what_is_lacking_is_assigned_and_what_is_over_is_stopped() {
        let known = [
            slot(2, 1, HeldState::Active),
            slot(3, 2, HeldState::Active),
            slot(4, 1, HeldState::Stopping),
            slot(5, 1, HeldState::Stopping),
            slot(7, 3, HeldState::Active),
        ];
        let key = |task: u128, attempt: u32| (TaskId(task), attempt);
        let held = [key(1, 1), key(2, 1), key(3, 1), key(4, 1), key(6, 1), key(9, 1)];
        let (assign, stop) = differences(&known, &held);
        assert_eq!(assign, [key(3, 2), key(7, 3)]);
        assert_eq!(stop, [key(1, 1), key(3, 1), key(4, 1), key(5, 1), key(6, 1), key(9, 1)]);
        assert_eq!(differences(&known, &[]).0, [key(2, 1), key(3, 2), key(7, 3)]);
        assert_eq!(differences(&[], &held), (vec![], held.to_vec()));
    }

    #[tokio::test]
    async fn a_hello_may_name_as_many_attempts_as_an_agent_can_hold_and_no_more() {
        let refs = |count: usize| -> Vec<AttemptRef> {
            let named = (0..count as u128).rev();
            named.map(|n| AttemptRef { task_id: TaskId(n).to_string(), attempt: 1 }).collect()
        };
        let most = held(&refs(MAX_HELD)).await.expect("as many as there may be");
        assert!(most.len() == MAX_HELD && most.is_sorted());
        let refused = held(&refs(MAX_HELD + 1)).await.expect_err("one more");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        let bad = [AttemptRef { task_id: "none".into(), attempt: 1 }];
        assert_eq!(held(&bad).await.expect_err("not a task id").code(), tonic::Code::InvalidArgument);
    }
}
