//! The service for ballots.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::Parts;
use crate::{
    api::ballots::BallotsService,
    ballots::{Ballots, MAX_OPENING, evidence::Verifying},
    identity::security::Security,
};

impl Parts {
    /// Returns the Ballots service.
    pub(super) fn ballots_service(&self, security: Option<&Security>) -> BallotsService {
        BallotsService { ballots: self.ballots(security) }
    }

    /// Returns what opens ballots. Each has room of its own for those that are being opened.
    pub(super) fn ballots(&self, security: Option<&Security>) -> Ballots {
        let Self { member, state, proposer, observer, rooms, outside, ballot_defaults, .. } = self.clone();
        let fleet = security.map_or_else(|| member.cluster_id().to_owned(), |security| security.realm.to_string());
        let verifying = security.map(|security| Verifying {
            trust: security.trust.clone(),
            clock: Arc::clone(&security.clock),
            is_strict: !security.tls.is_permissive(),
            keys: Arc::default(),
        });
        Ballots {
            state,
            proposer,
            observer,
            rooms,
            platform: outside.platform,
            name: member.name().into(),
            fleet: fleet.into(),
            defaults: ballot_defaults,
            verifying,
            opening: Arc::new(Semaphore::new(MAX_OPENING)),
        }
    }
}
