//! The stored state of identities.

use std::sync::Arc;

use super::{Bar, Enrolment, SpentProof, command::IdentityConfig};
use crate::{UnixMillis, numbered::Numbered};

/// The identities' part of the state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Identity {
    /// What an administrator set; `None` until then.
    pub config: Option<Arc<IdentityConfig>>,
    /// The enrolments, by epoch; one for each agent at most.
    pub enrolments: Numbered<Enrolment>,
    /// The bars; one for each agent at most.
    pub bars: Numbered<Bar>,
    /// The proofs that were used.
    pub spent: Numbered<SpentProof>,
    /// The latest wall time at which a used proof was due to be forgotten and was. A proof that would be forgotten by
    /// then is refused, because it may be one of those, and the wall time may have gone back since.
    pub forgotten_until: UnixMillis,
}
