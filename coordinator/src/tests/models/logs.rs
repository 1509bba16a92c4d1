//! Those who follow an attempt, and what its agent is told of that.

use std::sync::Arc;

use robeing_fleet::{AgentId, TaskId};
use robeing_proto::internal::v1::FollowAttempt;
use shuttle::thread;
use tokio::time::Instant;

use crate::{
    leader::sessions::{AttemptKey, SessionConnection},
    logs::KeptLogs,
    tests::models::{ORDERS, explore},
};

const AGENT: AgentId = AgentId(7);
const KEY: AttemptKey = (TaskId(1), 1);

/// Logs at a leader, and the connection of the agent.
#[derive(Clone, Default)]
struct World {
    logs: Arc<KeptLogs>,
    link: Arc<SessionConnection>,
}

impl World {
    fn tell(&self, order: FollowAttempt) {
        self.link.put(|outbox| drop(outbox.follows.insert(KEY, order)));
    }

    fn begin(&self, now: Instant) {
        let ask = |order| {
            self.tell(order);
            true
        };
        self.logs.begin(KEY, AGENT, now, ask).expect("there is room");
    }

    fn end(&self, now: Instant) {
        self.logs.end(KEY, now, |order| self.tell(order));
    }

    fn resume(&self) {
        self.logs.resume(AGENT, |orders| self.link.put(|outbox| outbox.follows.extend(orders)));
    }

    /// Returns whether the agent is told to send nothing any more; `None` if it is told nothing.
    fn is_stopped(&self) -> Option<bool> {
        self.link.take_now().follows.remove(&KEY).map(|order| order.stop)
    }
}

#[test]
fn who_follows_an_attempt_while_the_last_one_leaves_it_is_not_cut_off() {
    explore(ORDERS, || {
        let (world, now) = (World::default(), Instant::now());
        world.begin(now);
        let leaving = thread::spawn({
            let world = world.clone();
            move || world.end(now)
        });
        let coming = thread::spawn({
            let world = world.clone();
            move || world.begin(now)
        });
        leaving.join().expect("no panic");
        coming.join().expect("no panic");
        assert_eq!(world.is_stopped(), Some(false), "somebody follows it");
    });
}

#[test]
fn an_agent_that_comes_back_while_the_last_one_leaves_sends_nothing() {
    explore(ORDERS, || {
        let (world, now) = (World::default(), Instant::now());
        world.begin(now);
        assert_eq!(world.is_stopped(), Some(false));
        let returning = thread::spawn({
            let world = world.clone();
            move || world.resume()
        });
        world.end(now);
        returning.join().expect("no panic");
        assert_eq!(world.is_stopped(), Some(true), "nobody follows it");
    });
}
