//! The services for messages.

use std::sync::Arc;

use super::Parts;
use crate::{
    api::{mailbox::MailboxService, messages::MessagesService},
    lifetime::Leaving,
    mail::{inboxes::Inboxes, sending::Sending},
};

impl Parts {
    fn inboxes(&self) -> Inboxes {
        let Self { member, members, state, observer, outside, .. } = self.clone();
        Inboxes { member, members, state, observer, peers: Arc::clone(&outside.peers) }
    }

    /// Returns the Messages service.
    pub(super) fn messages_service(&self) -> MessagesService {
        let Self { state, proposer, observer, rooms, policies, clock, outside, .. } = self.clone();
        let (room, resolving, platform) = (Arc::default(), Arc::default(), outside.platform);
        let must_seal = outside.transport.tls().is_some_and(|tls| !tls.is_permissive());
        let sending =
            Sending { state, proposer, observer, rooms, policies, room, resolving, clock, platform, must_seal };
        MessagesService { sending, inboxes: self.inboxes() }
    }

    /// Returns the Mailbox service.
    pub(super) fn mailbox_service(&self) -> MailboxService {
        let Self { member, members, state, proposer, observer, clock, refusals, lifetime, .. } = self.clone();
        let (inboxes, leaving) = (self.inboxes(), Leaving::new(&lifetime, members));
        MailboxService { member, state, proposer, observer, clock, inboxes, leaving, refusals, lifetime }
    }
}
