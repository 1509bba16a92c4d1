//! What an agent sends: messages to other agents, directly and through the coordinators.

use std::{
    convert::Infallible,
    future::pending,
    task::{Context, Poll, Waker},
    time::Duration,
};

use robeing_agent::messaging::{Address, Outcome, Outgoing, Priority, handlers::MessengerPost};
use robeing_platform::Platform;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Draft, Fate, GOOD, Traffic, Way, agents, status_ends};
use crate::{clients::below, profile::between, record::Record, tasks};

/// The deadlines of messages between agents, in milliseconds.
const DEADLINES: (u64, u64) = (1_000, 9_000);
/// One of this many times several messages are sent at once.
const BURST_ONE_OF: u64 = 4;
/// The number of messages that are sent at once then.
const BURST: u64 = 4;
/// One of this many accepted messages is sent again.
const AGAIN_ONE_OF: u64 = 6;
/// When it is sent again, at the latest, in milliseconds.
const AGAIN_TO: u64 = 2_000;
/// One of this many messages goes through the coordinators.
const LETTER_ONE_OF: u64 = 6;
/// How long a message may take once nothing is wrong.
const REACHES_WITHIN: Duration = Duration::from_secs(5);
/// The pause between two attempts to reach an agent.
const PAUSE: Duration = Duration::from_millis(300);

/// The sender of an agent, for one run of it.
pub struct Chatter {
    /// The agent.
    pub agent: String,
    /// The name under which this run sends.
    pub writer: String,
    /// The platform of the sender.
    pub platform: Platform,
    /// Gets what sends messages.
    pub post: oneshot::Receiver<MessengerPost>,
    /// What is sent.
    pub traffic: Traffic,
    /// Whether messages go from agent to agent and never by way of a messenger, so that they are in order.
    pub is_direct: bool,
    /// Until when letters are sent.
    pub letters_until: Duration,
    /// The record of the run.
    pub record: Record,
}

fn fate(outcome: &Outcome) -> Option<Fate> {
    match outcome {
        Outcome::Accepted { .. } => Some(Fate::Accepted),
        Outcome::Refused { .. } => Some(Fate::Refused),
        Outcome::NoSuchAgent { .. }
        | Outcome::Away { .. }
        | Outcome::Overloaded { .. }
        | Outcome::DeadlinePassed { maybe_handled: false } => Some(Fate::NotHandled),
        Outcome::DeadlinePassed { maybe_handled: true } | Outcome::Sent => None,
    }
}

impl Chatter {
    fn below(&self, bound: u64) -> u64 {
        below(&*self.platform.random, bound)
    }

    fn now(&self) -> Duration {
        self.record.notes().now
    }

    /// Sends messages as long as the process runs.
    pub async fn run(mut self) -> Infallible {
        let Ok(post) = (&mut self.post).await else { return pending().await };
        let calm_from = self.record.notes().calm_from;
        tokio::join!(self.talk(&post, calm_from), self.write(&post));
        self.reach_all(&post).await;
        pending().await
    }

    /// Returns another agent.
    fn other(&self) -> String {
        let mut others = agents();
        others.retain(|name| *name != self.agent);
        others.swap_remove(self.below(others.len() as u64) as usize)
    }

    async fn talk(&self, post: &MessengerPost, until: Duration) {
        let mut sends = JoinSet::new();
        let mut number = 0;
        while self.now() < until {
            sleep(Duration::from_millis(1 + self.below(2 * self.traffic.apart))).await;
            let to = self.other();
            let many = if self.below(BURST_ONE_OF) == 0 { BURST } else { 1 };
            for _ in 0..many {
                number += 1;
                self.send(post, &mut sends, to.clone(), number);
            }
            while sends.try_join_next().is_some() {}
        }
        sends.join_all().await;
    }

    /// Begins to send a message.
    fn send(&self, post: &MessengerPost, sends: &mut JoinSet<()>, to: String, number: u64) {
        let ttl = Duration::from_millis(between(&*self.platform.random, DEADLINES));
        let draft = Draft::draw(&*self.platform.random, (&self.writer, number), to, Way::Direct, ttl);
        let (id, outgoing) = self.begin(draft);
        let again = (self.below(AGAIN_ONE_OF) == 0).then(|| Duration::from_millis(self.below(AGAIN_TO)));
        let (messenger, record) = (post.messenger.clone(), self.record.clone());
        let mut sending = {
            let (messenger, outgoing) = (messenger.clone(), outgoing.clone());
            Box::pin(async move { messenger.send(outgoing).await })
        };
        // It is queued now, so that messages are queued in the order of their numbers.
        let begun = sending.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        sends.spawn_local(async move {
            let outcome = match begun {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => sending.await,
            };
            let Some(fate) = fate(&outcome) else { return };
            record.message(|ledger, now| ledger.ends(now, &id, fate));
            let Some(after) = again.filter(|_| fate == Fate::Accepted) else { return };
            sleep(after).await;
            record.notes().ledger.repeats(&id);
            let outcome = messenger.send(outgoing).await;
            if matches!(outcome, Outcome::Accepted { .. } | Outcome::Refused { .. }) {
                let again = if outcome.is_accepted() { Fate::Accepted } else { Fate::Refused };
                record.message(|ledger, now| ledger.ends(now, &id, again));
            }
        });
    }

    /// Records that a message is about to be sent. Returns its id, and what is to be sent.
    fn begin(&self, mut draft: Draft) -> (String, Outgoing) {
        draft.posted.is_ordered = draft.posted.way == Way::Letter || self.is_direct;
        let id = tasks::new_id(&self.platform);
        let outgoing = Outgoing {
            id: Some(id.parse().expect("a new id is an id")),
            priority: Priority::new(draft.posted.priority).expect("the simulation's priorities are valid"),
            deadline: draft.posted.ttl,
            ..Outgoing::new(Address::Agent(draft.posted.to.as_str().into()), draft.kind(), draft.payload.clone())
        };
        self.record.message(|ledger, now| {
            ledger.posts(now, &id, draft.posted);
            Ok(())
        });
        (id, outgoing)
    }

    /// Sends letters, one after another.
    async fn write(&self, post: &MessengerPost) {
        let (mut number, mut row) = (0, 0);
        while self.now() < self.letters_until {
            sleep(Duration::from_millis(1 + self.below(2 * LETTER_ONE_OF * self.traffic.apart))).await;
            number += 1;
            let writer = format!("{}.{row}", self.writer);
            let ttl = Duration::from_millis(between(&*self.platform.random, (self.traffic.ttl / 4, self.traffic.ttl)));
            let draft = Draft::draw(&*self.platform.random, (&writer, number), self.other(), Way::Letter, ttl);
            let (id, outgoing) = self.begin(draft);
            match post.durable.send_durable(outgoing, ttl).await {
                Ok(status) => self.record.message(|ledger, now| status_ends(ledger, now, &id, &status, false)),
                // It may still be posted, behind the next one.
                Err(_) => row += 1,
            }
        }
    }

    /// Reaches every other agent that is not gone for good.
    async fn reach_all(&self, post: &MessengerPost) {
        for to in agents().into_iter().filter(|name| *name != self.agent) {
            let mut number = 0;
            let begun = Instant::now();
            while !self.record.notes().retired.contains(&to) {
                number += 1;
                let names = (&*format!("{}.{to}", self.writer), number);
                let mut draft = Draft::draw(&*self.platform.random, names, to.clone(), Way::Direct, REACHES_WITHIN);
                draft.posted.is_bad = false;
                debug_assert_eq!(draft.kind(), GOOD);
                let (id, outgoing) = self.begin(draft);
                let outcome = post.messenger.send(outgoing).await;
                if let Some(fate) = fate(&outcome) {
                    self.record.message(|ledger, now| ledger.ends(now, &id, fate));
                }
                if outcome.is_accepted() {
                    self.record.notes().ledger.reached(&self.agent, &to);
                    break;
                }
                tracing::info!(target: "robeing_sim", to, ?outcome, tries = number, since = ?begun.elapsed(), "not reached");
                sleep(PAUSE).await;
            }
        }
    }
}
