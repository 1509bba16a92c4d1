//! Tells a client to whom a message would go, and for which keys to seal it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use robeing_fleet::{Feature, Fleet, LetterId, Refusal};
use robeing_platform::uuid_v7;
use robeing_proto::v1::{self, MessageReceiver};
use tokio::time::{Instant, sleep};

use super::{
    MailError,
    draft::Draft,
    sending::{MAX_LOOKED_AT, Sending, unsent},
};

/// How long the keys of receivers are waited for, without which a message is not sent: the leader records them at the
/// agents' next heartbeats, once the fleet can keep them.
const KEYS_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked whether they are known.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The type of the message that is checked in place of the one that is to be sent.
const STAND_IN: &str = "resolve";

impl Sending {
    /// Returns the receivers of a message of this sender, with their keys.
    ///
    /// # Errors
    /// [`MailError`] if the address is invalid, or stands for too many agents, or the state can't be read.
    pub async fn resolve(
        &self,
        sender: &str,
        request: v1::ResolveMessageRequest,
    ) -> Result<v1::ResolveMessageResponse, MailError> {
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
        let receivers = match self.receivers(&draft, sender).await? {
            Ok(receivers) => receivers,
            Err(nobody) => return Ok(v1::ResolveMessageResponse { nobody: vec![unsent(draft.id, nobody)], ..answer }),
        };
        let receivers = self.with_keys(&draft, &receivers).await?;
        Ok(v1::ResolveMessageResponse { receivers, ..answer })
    }

    /// Returns the receivers of a message with their keys, once these are known, as far as they get known soon.
    async fn with_keys(&self, draft: &Draft, agents: &[Arc<str>]) -> Result<Vec<MessageReceiver>, MailError> {
        let look = || -> Vec<MessageReceiver> {
            let group = |agents: &[Arc<str>]| -> Vec<MessageReceiver> {
                self.state.look(|fleet| agents.iter().map(|agent| receiver(fleet, draft.id_to(agent), agent)).collect())
            };
            agents.chunks(MAX_LOOKED_AT).flat_map(group).collect()
        };
        let lacks_some = |known: &[MessageReceiver]| known.iter().any(|receiver| receiver.sealing_key.is_empty());
        let mut known = look();
        if lacks_some(&known) {
            // A key may have become known a moment ago, which may not be applied here yet.
            self.catch_up().await?;
            known = look();
        }
        let until = Instant::now() + KEYS_WITHIN;
        while self.must_seal && lacks_some(&known) && Instant::now() < until {
            sleep(LOOK_EVERY).await;
            known = look();
        }
        Ok(known)
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

fn receiver(fleet: &Fleet, id: LetterId, agent: &str) -> MessageReceiver {
    let key = fleet.agent_by_name(agent).and_then(|agent| agent.sealing_key);
    let sealing_key = key.map(|key| Bytes::copy_from_slice(&key)).unwrap_or_default();
    MessageReceiver { id: id.to_string(), agent: agent.to_owned(), sealing_key }
}
