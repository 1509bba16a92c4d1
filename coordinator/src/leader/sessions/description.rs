//! Records the key of an agent whose session began before the fleet could keep it, or without one.
//!
//! Opening a resumed session writes nothing: on a slow disk, the agent would count as lost meanwhile. So the leader that
//! has the session looks at each heartbeat, until the key is known.

use futures::future::BoxFuture;
use robeing_fleet::{AgentCommand, AgentId, Command, Feature, Fleet, SessionId};

use super::opening::Opened;
use crate::{propose::Proposer, read::StateReader};

/// What the state says about the key of an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Key {
    /// The fleet can't keep it yet.
    NotYet,
    /// It is to be recorded.
    Lacking,
    /// It is known, or the session is over.
    Settled,
}

/// The description of the agent of one session.
pub struct Description {
    state: StateReader,
    proposer: Proposer,
    agent: AgentId,
    session: SessionId,
    term: u64,
    /// The key that the agent has reported, until it is recorded.
    key: Option<[u8; 32]>,
    writing: Option<BoxFuture<'static, ()>>,
}

impl Description {
    /// Creates the description of the agent of a session that was opened in this term.
    pub fn new(state: StateReader, proposer: Proposer, opened: &Opened, term: u64) -> Self {
        let Opened { agent, session, sealing_key, .. } = *opened;
        Self { state, proposer, agent, session, term, key: sealing_key, writing: None }
    }

    /// Begins to record the key if that is possible and was not done. Call it now and then.
    pub fn look(&mut self) {
        let (Some(key), None) = (self.key, &self.writing) else { return };
        match self.state.look(|fleet| known(fleet, self.agent, self.session, key)) {
            Key::NotYet => {}
            Key::Settled => self.key = None,
            Key::Lacking => {
                let (agent, session, proposer, term) = (self.agent, self.session, self.proposer.clone(), self.term);
                let command = Command::Agent(AgentCommand::Describe { agent, session, sealing_key: key });
                // What could not be written is written after the next look.
                self.writing = Some(Box::pin(async move { drop(proposer.propose_in(term, command).await) }));
            }
        }
    }

    /// Waits until what is being written is. Cancellation-safe; never returns while nothing is being written.
    pub async fn act(&mut self) {
        match &mut self.writing {
            Some(writing) => writing.await,
            None => std::future::pending().await,
        }
        self.writing = None;
    }
}

fn known(fleet: &Fleet, agent: AgentId, session: SessionId, key: [u8; 32]) -> Key {
    if !fleet.has(Feature::Describe) {
        return Key::NotYet;
    }
    if fleet.lacks_key(agent, session, key) { Key::Lacking } else { Key::Settled }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{ControlCommand, FleetConfig, Reply, Stamp};

    use super::*;
    use crate::fixture;

    #[test]
    fn a_key_is_recorded_once_it_can_be_and_in_its_session_alone() {
        let mut fleet = Fleet::new(FleetConfig::default());
        let apply = |fleet: &mut Fleet, command| fleet.apply(Stamp::at(1), command, &mut Vec::new());
        let join = Command::Agent(AgentCommand::Joined(fixture::join("a", 1)));
        let Reply::Joined { agent, session } = apply(&mut fleet, join) else { panic!("it joins") };
        let now = |fleet: &Fleet| known(fleet, agent, session, [7; 32]);
        assert_eq!(now(&fleet), Key::NotYet);
        apply(&mut fleet, Command::Control(ControlCommand::RaiseVersion(Feature::Describe.since())));
        assert_eq!(now(&fleet), Key::Lacking);
        assert_eq!(known(&fleet, agent, SessionId(session.0 + 1), [7; 32]), Key::Settled);
        let describe = AgentCommand::Describe { agent, session, sealing_key: [7; 32] };
        assert_eq!(apply(&mut fleet, Command::Agent(describe)), Reply::Done);
        assert_eq!(now(&fleet), Key::Settled);
    }
}
