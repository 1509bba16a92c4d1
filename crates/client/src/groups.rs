//! Messages to the members of groups that decide by Byzantine agreement. They go the way of all messages of clients.
//! What they say is signed, so whoever passes them on can lose them, and no more.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use robeing_groups::{
    Group, GroupError, Own, Proposal, Signed,
    ballot::Opening,
    exchange::{Ask, CLIENT_KIND},
};
use robeing_identity::TrustBundle;
use robeing_proto::v1::{MessageStatus, SendMessageRequest};
use uuid::Uuid;

use super::{ClientError, FleetClient, new_message_id};

/// The priority of messages to members.
const PRIORITY: u32 = 5;

/// Generates an id for a proposal, or what tells two ballots with the same question apart.
pub fn new_proposal_id() -> [u8; 16] {
    Uuid::now_v7().into_bytes()
}

impl FleetClient {
    /// Asks a member of a group, and returns what became of the message, with the reply. `None`: the fleet returned
    /// nothing.
    ///
    /// # Errors
    /// [`ClientError`] if the fleet can't be reached, or refuses the message.
    pub async fn ask_member(
        &self,
        member: &str,
        ask: &Ask,
        within: Duration,
    ) -> Result<Option<MessageStatus>, ClientError> {
        let deadline = prost_types::Duration {
            seconds: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
            nanos: within.subsec_nanos().cast_signed(),
        };
        let request = SendMessageRequest {
            id: new_message_id(),
            to: format!("agent:{member}"),
            r#type: CLIENT_KIND.to_owned(),
            payload: ask.to_bytes(),
            priority: PRIORITY,
            deadline: Some(deadline),
            ..SendMessageRequest::default()
        };
        Ok(self.send_sealed(request).await?.pop())
    }

    /// Signs a proposal to a group with the key of this client's certificate.
    ///
    /// # Errors
    /// [`ClientError::NotProposed`] if there is no certificate, or it can't be signed.
    pub fn signed_proposal(&self, group: &Group, id: [u8; 16], text: Bytes) -> Result<Signed, ClientError> {
        let group = *group.epoch().domain();
        self.sign_now(|own, at_ms| Proposal { group, id, at_ms, text }.sign(own))
    }

    /// Signs the opening of a ballot of a group with the key of this client's certificate. It is set to be signed now.
    ///
    /// # Errors
    /// [`ClientError::NotProposed`] if there is no certificate, or it can't be signed.
    pub fn signed_ballot(&self, opening: Opening) -> Result<Signed, ClientError> {
        self.sign_now(|own, at_ms| Opening { at_ms, ..opening }.sign(own))
    }

    /// Signs something with the key of this client's certificate, at this time, Unix milliseconds.
    fn sign_now(&self, sign: impl FnOnce(&Own<'_>, u64) -> Result<Signed, GroupError>) -> Result<Signed, ClientError> {
        let problem = |problem: &str| ClientError::NotProposed { problem: problem.to_owned() };
        let none = "members take proposals of those with a certificate alone: give --certificate and --private-key, or \
                    --ca";
        let tls = self.inner.settings.security.tls().ok_or_else(|| problem(none))?;
        let credentials = tls.credentials();
        let (Some(own), Some(signer), Some(bundle)) = (credentials.own(), credentials.signer(), credentials.bundle())
        else {
            return Err(problem(none));
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let own = Own::of(&own.certificate, bundle, signer, at_ms);
        let own = own.ok_or_else(|| problem("your certificate is of no authority that you trust"))?;
        sign(&own, at_ms).map_err(|error| problem(&error.to_string()))
    }

    /// Returns the authorities that this client trusts, if it knows any.
    pub fn trusted(&self) -> Option<TrustBundle> {
        self.inner.settings.security.tls()?.credentials().bundle().cloned()
    }
}
