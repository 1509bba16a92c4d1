//! Records the key of an agent whose session began before the fleet could keep it, or without one, and what the agent
//! contributes to the resource pool, if the fleet could not keep that either or it is not what the join says.
//!
//! Opening a resumed session writes nothing: on a slow disk, the agent would count as lost meanwhile. So the leader
//! that has the session looks at each heartbeat, until both are known.

use futures::future::BoxFuture;
use robeing_fleet::{AgentCommand, AgentId, Amounts, Command, Feature, Fleet, ResourceCommand, SessionId};

use super::opening::Opened;
use crate::{leader::written, propose::Proposer, read::StateReader};

/// What the state says about what an agent has reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    /// The fleet can't keep it yet.
    NotYet,
    /// It is to be recorded.
    Lacking,
    /// It is known, can't be recorded, or the session is over.
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
    /// What the agent contributes, until it is recorded.
    contributed: Option<Amounts>,
    writing: Option<BoxFuture<'static, ()>>,
}

impl Description {
    /// Creates the description of the agent of a session that was opened in this term.
    pub fn new(state: StateReader, proposer: Proposer, opened: &Opened, term: u64) -> Self {
        let Opened { agent, session, sealing_key, contributed, .. } = *opened;
        Self { state, proposer, agent, session, term, key: sealing_key, contributed: Some(contributed), writing: None }
    }

    /// Begins to record what is lacking if that is possible and was not done. Call it now and then.
    pub fn look(&mut self) {
        if self.writing.is_some() || (self.key.is_none() && self.contributed.is_none()) {
            return;
        }
        let (agent, session) = (self.agent, self.session);
        let (key, contributed) = self.state.look(|fleet| {
            let key = self.key.map(|key| known(fleet, agent, session, key));
            (key, self.contributed.map(|amounts| is_known(fleet, agent, session, amounts)))
        });
        if key == Some(Known::Settled) {
            self.key = None;
        }
        if contributed == Some(Known::Settled) {
            self.contributed = None;
        }
        if let (Some(Known::Lacking), Some(sealing_key)) = (key, self.key) {
            return self.write(Command::Agent(AgentCommand::Describe { agent, session, sealing_key }));
        }
        if let (Some(Known::Lacking), Some(amounts)) = (contributed, self.contributed) {
            self.write(Command::Resource(ResourceCommand::Contribute { agent, session, amounts }));
        }
    }

    fn write(&mut self, command: Command) {
        let (proposer, term) = (self.proposer.clone(), self.term);
        // What could not be written is written after the next look.
        self.writing = Some(Box::pin(async move { drop(proposer.propose_in(term, command).await) }));
    }

    /// Waits until what is being written is. Cancellation-safe; never returns while nothing is being written.
    pub async fn act(&mut self) {
        written(&mut self.writing).await;
        self.writing = None;
    }
}

fn known(fleet: &Fleet, agent: AgentId, session: SessionId, key: [u8; 32]) -> Known {
    if !fleet.has(Feature::Describe) {
        return Known::NotYet;
    }
    if fleet.lacks_key(agent, session, key) { Known::Lacking } else { Known::Settled }
}

fn is_known(fleet: &Fleet, agent: AgentId, session: SessionId, amounts: Amounts) -> Known {
    if !fleet.has(Feature::Resources) {
        return Known::NotYet;
    }
    // Of an agent that contributes less than what is granted of it, that is recorded until some of it is released.
    let used = fleet.contribution(agent).map_or(Amounts::NONE, |known| known.used);
    match fleet.lacks_contribution(agent, session, amounts) {
        true => Known::Lacking,
        false if !amounts.covers(used) => Known::NotYet,
        false => Known::Settled,
    }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{AllocationId, ControlCommand, FleetConfig, Holder, Reply, RequestResources, Stamp};

    use super::*;
    use crate::fixture;

    #[test]
    fn a_key_is_recorded_once_it_can_be_and_in_its_session_alone() {
        let mut fleet = Fleet::new(FleetConfig::default());
        let apply = |fleet: &mut Fleet, command| fleet.apply(Stamp::at(1), command, &mut Vec::new());
        let join = Command::Agent(AgentCommand::Joined(fixture::join("a", 1)));
        let Reply::Joined { agent, session } = apply(&mut fleet, join) else { panic!("it joins") };
        let now = |fleet: &Fleet| known(fleet, agent, session, [7; 32]);
        assert_eq!(now(&fleet), Known::NotYet);
        apply(&mut fleet, Command::Control(ControlCommand::RaiseVersion(Feature::Describe.since())));
        assert_eq!(now(&fleet), Known::Lacking);
        assert_eq!(known(&fleet, agent, SessionId(session.0 + 1), [7; 32]), Known::Settled);
        let describe = AgentCommand::Describe { agent, session, sealing_key: [7; 32] };
        assert_eq!(apply(&mut fleet, Command::Agent(describe)), Reply::Done);
        assert_eq!(now(&fleet), Known::Settled);
    }

    #[test]
    fn what_an_agent_contributes_is_recorded_once_it_can_be_and_in_its_session_alone() {
        let mut fleet = Fleet::new(FleetConfig::default());
        let apply = |fleet: &mut Fleet, command| fleet.apply(Stamp::at(1), command, &mut Vec::new());
        let join = Command::Agent(AgentCommand::Joined(fixture::join("a", 1)));
        let Reply::Joined { agent, session } = apply(&mut fleet, join) else { panic!("it joins") };
        let amounts = Amounts { cpu: 1_000, ..Amounts::NONE };
        let now = |fleet: &Fleet| is_known(fleet, agent, session, amounts);
        assert_eq!(now(&fleet), Known::NotYet);
        apply(&mut fleet, Command::Control(ControlCommand::RaiseVersion(Feature::Resources.since())));
        assert_eq!(now(&fleet), Known::Lacking);
        assert_eq!(is_known(&fleet, agent, SessionId(session.0 + 1), amounts), Known::Settled);
        let contribute = ResourceCommand::Contribute { agent, session, amounts };
        assert_eq!(apply(&mut fleet, Command::Resource(contribute)), Reply::Done);
        assert_eq!(now(&fleet), Known::Settled);
        let less = Amounts { cpu: 400, ..Amounts::NONE };
        let now = |fleet: &Fleet| is_known(fleet, agent, session, less);
        let contribute = || Command::Resource(ResourceCommand::Contribute { agent, session, amounts: less });
        apply(&mut fleet, Command::Resource(ResourceCommand::Request(request(600))));
        assert_eq!((now(&fleet), apply(&mut fleet, contribute())), (Known::Lacking, Reply::Done));
        assert_eq!(now(&fleet), Known::NotYet, "more is granted");
        let release = ResourceCommand::Release { id: AllocationId(1), token: None };
        apply(&mut fleet, Command::Resource(release));
        assert_eq!((now(&fleet), apply(&mut fleet, contribute())), (Known::Lacking, Reply::Done));
        assert_eq!(now(&fleet), Known::Settled);
    }

    fn request(cpu: u64) -> RequestResources {
        RequestResources {
            id: AllocationId(1),
            holder: Holder::Client("c".to_owned()),
            queue: "default".to_owned(),
            parts: vec![Amounts { cpu, ..Amounts::NONE }],
            spread: false,
            ttl: 60_000,
            wait: 0,
            requested_by: "client:c".to_owned(),
        }
    }
}
