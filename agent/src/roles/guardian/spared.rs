//! Which agents guardians may quarantine. Pure.

use robeing_proto::v1;

/// One of so many live agents may be in quarantine by guardians; one in any case.
pub const ONE_OF: usize = 10;

/// Why an agent is not quarantined although it behaves unlike itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Spared {
    /// It is not in the fleet.
    #[error("it is not live")]
    NotLive,
    /// It is this guardian.
    #[error("it is this guardian itself")]
    Own,
    /// Enough agents are in quarantine.
    #[error("{0} agents are in quarantine by guardians, which is as many as may be at a time; release some")]
    Enough(usize),
    /// It is the last live agent of its pool.
    #[error("it is the last live agent of its pool")]
    LastOfPool,
}

/// Returns whether an agent of these may be quarantined now by the guardian `own`, while so many are by guardians.
///
/// # Errors
/// [`Spared`] if it may not.
pub fn may_quarantine(agents: &[v1::Agent], agent: &str, own: &str, quarantined: usize) -> Result<(), Spared> {
    if agent == own {
        return Err(Spared::Own);
    }
    let is_live = |agent: &&v1::Agent| agent.state() == v1::AgentState::Live;
    let live: Vec<&v1::Agent> = agents.iter().filter(is_live).collect();
    let accused = live.iter().find(|other| other.name == agent).ok_or(Spared::NotLive)?;
    let most = (live.len() / ONE_OF).max(1);
    if quarantined >= most {
        return Err(Spared::Enough(quarantined));
    }
    let mates = live.iter().filter(|other| other.pool == accused.pool && other.name != agent);
    // Agents without a pool stand in for each other if they have the same role.
    match mates.filter(|other| !accused.pool.is_empty() || other.role == accused.role).count() {
        0 => Err(Spared::LastOfPool),
        _ => Ok(()),
    }
}
