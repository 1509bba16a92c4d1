//! The coordinators as a quorum: who has a vote, which pod may be replaced now, and how the number of voters changes. Pure.

pub mod membership;
pub mod rollout;
pub mod scale;
pub mod transport;
