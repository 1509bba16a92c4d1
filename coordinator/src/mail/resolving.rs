//! Tells a client to whom a message would go, and for which keys to seal it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use robeing_fleet::{Agent, Feature, Fleet, Refusal};
use robeing_platform::uuid_v7;
use robeing_proto::v1::{self, MessageReceiver};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep},
};

use super::{
    MailError,
    address::Choice,
    draft::Draft,
    sending::{MAX_LOOKED_AT, Sending, unsent},
};

/// Maximum number of calls that ask one coordinator for receivers at once.
pub const MAX_RESOLVING: usize = 1_024;
/// Maximum bytes of the answers that are being made for them: 64 MiB.
pub const MAX_RESOLVED_BYTES: usize = 64 * 1024 * 1024;
/// Bytes that a receiver counts for in an answer, besides its name, which is there twice: once to be encoded.
const RECEIVER_BYTES: usize = 320;
/// How long the keys of receivers are waited for, without which a message is not sent: the leader records them at the
/// agents' next heartbeats, once the fleet can keep them.
pub const KEYS_WITHIN: Duration = Duration::from_secs(2);
/// How long after an agent's session began a broadcast waits for its key, fleet time in ms. An agent without a key after
/// that will hardly have one soon, and must not delay everybody's broadcasts.
pub const NEW_SESSION_MS: u64 = 10_000;
/// How often it is looked whether the keys are known.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The type of the message that is checked in place of the one that is to be sent.
const STAND_IN: &str = "resolve";

/// The calls that ask one coordinator for receivers, and the bytes of their answers.
pub struct ResolveRoom {
    calls: Semaphore,
    bytes: Semaphore,
}

impl Default for ResolveRoom {
    fn default() -> Self {
        Self { calls: Semaphore::new(MAX_RESOLVING), bytes: Semaphore::new(MAX_RESOLVED_BYTES) }
    }
}

impl ResolveRoom {
    /// Takes room for a call.
    ///
    /// # Errors
    /// [`MailError::TooManyResolving`] if there is none.
    fn take_call(&self) -> Result<SemaphorePermit<'_>, MailError> {
        self.calls.try_acquire().map_err(|_| MailError::TooManyResolving { most: MAX_RESOLVING })
    }

    /// Takes room for the answer with these agents.
    ///
    /// # Errors
    /// [`MailError::TooMuchResolved`] if there is none.
    fn take_answer(&self, agents: &[Arc<str>]) -> Result<SemaphorePermit<'_>, MailError> {
        let bytes = u32::try_from(answer_bytes(agents)).unwrap_or(u32::MAX);
        self.bytes.try_acquire_many(bytes).map_err(|_| MailError::TooMuchResolved { most: MAX_RESOLVED_BYTES })
    }
}

fn answer_bytes(agents: &[Arc<str>]) -> usize {
    agents.iter().map(|agent| 2 * agent.len() + RECEIVER_BYTES).sum()
}

/// What the state says about the key of an agent.
enum Key {
    /// It is known.
    Known([u8; 32]),
    /// It is not known, and waited for.
    Awaited,
    /// It is not known, and not waited for.
    Lacking,
}

impl Sending {
    /// Returns the receivers of a message of this sender, with their keys.
    ///
    /// # Errors
    /// [`MailError`] if the address is invalid, or stands for too many agents, or the state can't be read, or too many
    /// callers ask.
    pub async fn resolve(
        &self,
        sender: &str,
        request: v1::ResolveMessageRequest,
    ) -> Result<v1::ResolveMessageResponse, MailError> {
        let _call = self.resolving.take_call()?;
        let v1::ResolveMessageRequest { id, to, durable, broadcast } = request;
        let message = v1::SendMessageRequest {
            id,
            to,
            durable,
            broadcast,
            r#type: STAND_IN.to_owned(),
            ..v1::SendMessageRequest::default()
        };
        let clock = &self.platform.clock;
        let fresh = || uuid_v7(&**clock, &*self.platform.random);
        let draft = Draft::check(message, sender, fresh, clock.unix_millis())?;
        self.check_in_force().await?;
        let answer =
            v1::ResolveMessageResponse { sender: sender.to_owned(), must_seal: self.must_seal, ..Default::default() };
        let choice = if self.must_seal { Choice::WithKeyFirst } else { Choice::Best };
        let agents = match self.receivers(&draft, sender, choice).await? {
            Ok(agents) => agents,
            Err(nobody) => return Ok(v1::ResolveMessageResponse { nobody: vec![unsent(draft.id, nobody)], ..answer }),
        };
        let _bytes = self.resolving.take_answer(&agents)?;
        let mut receivers = keyless(&draft, &agents).await;
        self.find_keys(&mut receivers, draft.is_broadcast).await?;
        Ok(v1::ResolveMessageResponse { receivers, ..answer })
    }

    /// Notes the keys of receivers, once these are known, as far as they get known soon.
    async fn find_keys(&self, receivers: &mut [MessageReceiver], is_broadcast: bool) -> Result<(), MailError> {
        let mut lacking: Vec<&mut MessageReceiver> = receivers.iter_mut().collect();
        self.note_keys(&mut lacking, |_| true);
        if lacking.is_empty() {
            return Ok(());
        }
        // A key may have become known a moment ago, which may not be applied here yet.
        self.catch_up().await?;
        let now = self.clock.estimate().fleet;
        let is_new = |agent: &Agent| now.saturating_sub(agent.joined_at.fleet) < NEW_SESSION_MS;
        let is_awaited = |agent: Option<&Agent>| !is_broadcast || agent.is_some_and(is_new);
        self.note_keys(&mut lacking, is_awaited);
        let until = Instant::now() + KEYS_WITHIN;
        while self.must_seal && !lacking.is_empty() && Instant::now() < until {
            sleep(LOOK_EVERY).await;
            self.note_keys(&mut lacking, is_awaited);
        }
        Ok(())
    }

    /// Notes the keys that are known by now, and keeps those receivers in the list whose keys are not, and are awaited.
    fn note_keys(&self, lacking: &mut Vec<&mut MessageReceiver>, is_awaited: impl Fn(Option<&Agent>) -> bool) {
        let key = |fleet: &Fleet, agent: &str| {
            let agent = fleet.agent_by_name(agent).map(|agent| &**agent);
            match agent.and_then(|agent| agent.sealing_key) {
                Some(key) => Key::Known(key),
                None if is_awaited(agent) => Key::Awaited,
                None => Key::Lacking,
            }
        };
        let mut keys: Vec<Key> = Vec::with_capacity(lacking.len());
        for group in lacking.chunks(MAX_LOOKED_AT) {
            self.state.look(|fleet| keys.extend(group.iter().map(|receiver| key(fleet, &receiver.agent))));
        }
        let mut keys = keys.into_iter();
        lacking.retain_mut(|receiver| match keys.next() {
            Some(Key::Known(key)) => {
                receiver.sealing_key = Bytes::copy_from_slice(&key);
                false
            }
            Some(Key::Awaited) => true,
            Some(Key::Lacking) | None => false,
        });
    }

    /// Refuses what the fleet can't do yet, with the sentence that the message would be refused with.
    async fn check_in_force(&self) -> Result<(), MailError> {
        let in_force = || self.state.look(|fleet| fleet.has(Feature::Mail));
        if in_force() {
            return Ok(());
        }
        self.catch_up().await?;
        if in_force() {
            return Ok(());
        }
        let (feature, since) = (Feature::Mail.name().to_owned(), Feature::Mail.since());
        let current = self.state.look(Fleet::version);
        Err(MailError::Refused(Refusal::NotInForce { feature, since, current }))
    }
}

/// Returns the receivers of a message without their keys. The ids of a broadcast's are computed, which takes some
/// milliseconds if they are many, so other tasks have their turns meanwhile.
async fn keyless(draft: &Draft, agents: &[Arc<str>]) -> Vec<MessageReceiver> {
    let mut receivers = Vec::with_capacity(agents.len());
    for group in agents.chunks(MAX_LOOKED_AT) {
        receivers.extend(group.iter().map(|agent| MessageReceiver {
            id: draft.id_to(agent).to_string(),
            agent: (**agent).to_owned(),
            sealing_key: Bytes::new(),
        }));
        tokio::task::yield_now().await;
    }
    receivers
}

#[cfg(test)]
mod tests {
    use robeing_fleet::limits::MAX_NAME_BYTES;
    use tonic::{Code, Status};

    use super::*;
    use crate::mail::address::MAX_TARGETS;

    #[test]
    fn so_many_calls_ask_for_receivers_and_one_more_is_refused() {
        let room = ResolveRoom::default();
        let mut calls: Vec<_> = (0..MAX_RESOLVING).map(|_| room.take_call().expect("there is room")).collect();
        let refused = room.take_call().map(drop).expect_err("there is none");
        assert_eq!(refused, MailError::TooManyResolving { most: MAX_RESOLVING });
        assert_eq!(Status::from(refused).code(), Code::ResourceExhausted);
        calls.pop();
        assert!(room.take_call().is_ok());
    }

    #[test]
    fn their_answers_have_so_many_bytes_and_the_largest_fits() {
        let (room, name) = (ResolveRoom::default(), Arc::<str>::from("n".repeat(MAX_NAME_BYTES)));
        let agents = vec![name; MAX_TARGETS];
        let fit = MAX_RESOLVED_BYTES / answer_bytes(&agents);
        let mut answers: Vec<_> = (0..fit).map(|_| room.take_answer(&agents).expect("there is room")).collect();
        let refused = room.take_answer(&agents).map(drop).expect_err("there is none");
        assert_eq!(refused, MailError::TooMuchResolved { most: MAX_RESOLVED_BYTES });
        assert_eq!(Status::from(refused).code(), Code::ResourceExhausted);
        assert!(answers.pop().is_some(), "the largest fits");
        assert!(room.take_answer(&agents).is_ok());
    }
}
