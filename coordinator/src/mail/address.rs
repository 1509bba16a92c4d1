//! Whom a message is for, and which agents an address stands for.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use robeing_fleet::{Agent, AgentState, BarKind, Fleet, LetterId, Role, TeamId, limits::MAX_NAME_BYTES};
use robeing_proto::v1::MessageCode;

use super::MailError;
use crate::{api::convert::excerpt, read::StateReader};

/// Maximum number of agents that one broadcast goes to.
pub const MAX_TARGETS: usize = 10_000;

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The agent of this name.
    Agent(String),
    /// The best agent of this role; `None`: a coordinator, which takes no messages.
    Role(Option<Role>),
    /// The best agent of this pool.
    Pool(String),
    /// The best agent with this skill.
    Skill(String),
    /// The members of this team.
    Team(String),
    /// All active agents but the sender.
    Everyone,
}

/// What an address stands for, if that is no agent that can get the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nobody {
    /// `NoSuchAgent` or `Away`.
    pub code: MessageCode,
    /// The name of the agent that is away.
    pub agent: String,
    /// A sentence.
    pub reason: String,
}

impl Address {
    /// Parses an address.
    ///
    /// # Errors
    /// The problem, as a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once(':').unwrap_or(("agent", text));
        let is_name = |c: char| !c.is_control() && !c.is_whitespace() && c != ':';
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.chars().all(is_name) {
            return Err(malformed(text));
        }
        Ok(match kind {
            _ if text == "everyone" => Self::Everyone,
            "agent" => Self::Agent(name.to_owned()),
            "role" => Self::Role(role(name)?),
            "pool" => Self::Pool(name.to_owned()),
            "skill" => Self::Skill(name.to_owned()),
            // In the one form in which teams are counted and compared.
            "team" => Self::Team(uuid::Uuid::parse_str(name).map_or_else(|_| name.to_owned(), |id| id.to_string())),
            _ => return Err(malformed(text)),
        })
    }

    /// Returns whether the address stands for any number of agents, so that only broadcasts go to it.
    pub fn is_group(&self) -> bool {
        matches!(self, Self::Team(_) | Self::Everyone)
    }

    /// Returns whether an agent is among those that a role, a pool, a skill or everyone stands for.
    fn stands_for(&self, agent: &Agent) -> bool {
        is_active(agent) && self.fits(agent)
    }

    fn fits(&self, agent: &Agent) -> bool {
        match self {
            Self::Agent(name) => *agent.name == **name,
            Self::Role(role) => Some(agent.role) == *role,
            Self::Pool(pool) => agent.pool.as_deref() == Some(pool),
            Self::Skill(skill) => agent.has_specialization(skill),
            // Found by the team's members.
            Self::Team(_) => false,
            Self::Everyone => true,
        }
    }
}

fn malformed(text: &str) -> String {
    format!(
        "{:?} is not an address: write a NAME, agent:NAME, role:ROLE, pool:NAME, skill:NAME, team:ID or everyone, with \
         names of 1 to {MAX_NAME_BYTES} bytes without spaces",
        excerpt(text)
    )
}

fn role(name: &str) -> Result<Option<Role>, String> {
    let roles = [
        ("worker", Some(Role::Worker)),
        ("specialist", Some(Role::Specialist)),
        ("messenger", Some(Role::Messenger)),
        ("guardian", Some(Role::Guardian)),
        ("coordinator", None),
    ];
    let found = roles.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, role)| role);
    found.ok_or_else(|| format!("{:?} is no role: write worker, specialist, messenger or guardian", excerpt(name)))
}

/// Whether an agent does the work of a group now. One on standby is a spare until it takes another's place: it gets what is
/// for it by its name.
fn is_active(agent: &Agent) -> bool {
    match agent.state {
        AgentState::Live | AgentState::Unhealthy => true,
        AgentState::Standby | AgentState::Draining | AgentState::Lost => false,
    }
}

/// Returns whether the agent of this name can get a message. A durable one also waits for an agent that is away.
fn reachable(fleet: &Fleet, name: &str, is_durable: bool) -> Result<(), Nobody> {
    let nobody = |code, reason| Err(Nobody { code, agent: name.to_owned(), reason });
    let away = |why: &str| {
        nobody(MessageCode::Away, format!("the agent {name} {why}; send a durable message, or send this one later"))
    };
    let agent = fleet.agent_by_name(name);
    let bar = fleet.bar_of(name);
    match bar.map(|bar| bar.kind) {
        Some(BarKind::Removed) => {
            let reason = format!("the agent {name} was removed from the fleet");
            return nobody(MessageCode::NoSuchAgent, reason);
        }
        Some(BarKind::Quarantined) if !is_durable => return away("is in quarantine"),
        Some(BarKind::Quarantined) | None => {}
    }
    match agent {
        Some(agent) if agent.state == AgentState::Lost && !is_durable => away("is not in the fleet now"),
        Some(_) => Ok(()),
        None if fleet.enrolment_of(name).is_some() || bar.is_some() => {
            if is_durable {
                Ok(())
            } else {
                away("is not in the fleet now")
            }
        }
        None => {
            let reason = format!("the fleet has no agent {:?}; `robeing agents` lists those it has", excerpt(name));
            nobody(MessageCode::NoSuchAgent, reason)
        }
    }
}

/// Which of several agents a message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The one that performs best.
    Best,
    /// The best of those with a key, if there are any: the message is not sent unless it is sealed.
    WithKeyFirst,
}

impl Choice {
    /// Returns the rank of an agent for the message of this id; the highest is chosen. Messages are spread over agents
    /// that do equally well.
    fn rank(self, agent: &Agent, id: LetterId) -> (bool, u32, u64) {
        let is_preferred = self == Self::WithKeyFirst && agent.sealing_key.is_some();
        (is_preferred, agent.record.performance(), spread(id, &agent.name))
    }
}

/// A number by which messages are spread over agents that do equally well.
fn spread(id: LetterId, agent: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (id.0, agent).hash(&mut hasher);
    hasher.finish()
}

/// Finds the agents that addresses stand for.
pub struct Resolver<'a> {
    /// The state, which is read in slices.
    pub state: &'a StateReader,
    /// The sender, which gets no message of its own unless it names itself.
    pub sender: &'a str,
    /// Whether the message waits for an agent that is away.
    pub is_durable: bool,
}

impl Resolver<'_> {
    /// Returns the one agent that a message goes to: of several, the one of this choice.
    ///
    /// # Errors
    /// [`Nobody`] if there is none.
    pub async fn one(&self, address: &Address, id: LetterId, choice: Choice) -> Result<Arc<str>, Nobody> {
        if let Address::Agent(name) = address {
            return self.state.look(|fleet| reachable(fleet, name, self.is_durable)).map(|()| name.as_str().into());
        }
        let mut best: Option<((bool, u32, u64), Arc<str>)> = None;
        let mut after = None;
        while let Some(slice) = self.state.agents_after(after).await {
            after = slice.last().map(|agent| agent.id);
            for agent in slice.iter().filter(|agent| self.is_target(address, agent)) {
                let rank = choice.rank(agent, id);
                if best.as_ref().is_none_or(|(other, _)| rank > *other) {
                    best = Some((rank, Arc::clone(&agent.name)));
                }
            }
        }
        best.map(|(_, name)| name).ok_or_else(|| none(address))
    }

    /// Returns the agent of this name, which the address stood for a moment ago.
    ///
    /// # Errors
    /// [`Nobody`] if it can't get the message any more, or the address never stood for it.
    pub fn named(&self, address: &Address, name: &str) -> Result<Arc<str>, Nobody> {
        if let Address::Agent(known) = address
            && known == name
        {
            return self.state.look(|fleet| reachable(fleet, name, self.is_durable)).map(|()| name.into());
        }
        if let Address::Team(team) = address
            && let Some(member) = self.members(team).and_then(|all| all.into_iter().find(|member| **member == *name))
        {
            return Ok(member);
        }
        let known = self.state.look(|fleet| fleet.agent_by_name(name).cloned());
        known.filter(|agent| self.is_target(address, agent)).map(|agent| Arc::clone(&agent.name)).ok_or_else(|| {
            Nobody {
                code: MessageCode::Away,
                agent: name.to_owned(),
                reason: format!(
                    "the address does not stand for the agent {:?} now; send the message again",
                    excerpt(name)
                ),
            }
        })
    }

    /// Returns all agents that a broadcast goes to, by the order in which they joined first.
    ///
    /// # Errors
    /// [`Nobody`] if the address names an agent or a team that does not exist, or [`MailError::TooManyTargets`].
    pub async fn all(&self, address: &Address, id: LetterId) -> Result<Result<Vec<Arc<str>>, Nobody>, MailError> {
        match address {
            Address::Agent(_) => return Ok(self.one(address, id, Choice::Best).await.map(|agent| vec![agent])),
            Address::Team(team) => return Ok(self.members(team).ok_or_else(|| none(address))),
            Address::Role(_) | Address::Pool(_) | Address::Skill(_) | Address::Everyone => {}
        }
        let (mut targets, mut after) = (Vec::new(), None);
        while let Some(slice) = self.state.agents_after(after).await {
            after = slice.last().map(|agent| agent.id);
            let fitting = slice.iter().filter(|agent| self.is_target(address, agent));
            targets.extend(fitting.map(|agent| Arc::clone(&agent.name)));
            if targets.len() > MAX_TARGETS {
                return Err(MailError::TooManyTargets { most: MAX_TARGETS });
            }
        }
        Ok(Ok(targets))
    }

    /// Returns the members of a team but the sender; `None` if there is no such team, or it is disbanded.
    fn members(&self, team: &str) -> Option<Vec<Arc<str>>> {
        let id = TeamId(uuid::Uuid::parse_str(team).ok()?.as_u128());
        let team = self.state.look(|fleet| fleet.team(id).filter(|team| team.is_open()).cloned())?;
        let others = team.members.iter().filter(|member| *member.name != *self.sender);
        Some(others.map(|member| Arc::clone(&member.name)).collect())
    }

    fn is_target(&self, address: &Address, agent: &Agent) -> bool {
        *agent.name != *self.sender && address.stands_for(agent)
    }
}

fn none(address: &Address) -> Nobody {
    let reason = match address {
        Address::Team(team) => format!("the fleet has no team {team:?}"),
        Address::Role(None) => "coordinators take no messages; write to an agent".to_owned(),
        _ => "the fleet has no other active agent that fits the address; agents on standby and those that leave get \
              messages by their names alone"
            .to_owned(),
    };
    Nobody { code: MessageCode::NoSuchAgent, agent: String::new(), reason }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{AgentCommand, AgentJoin, Command, FleetConfig, LossReason, PoolShape, Reply, Stamp};

    use super::*;
    use crate::fixture;

    #[test]
    fn addresses_are_those_that_agents_use() {
        let of = |text: &str| Address::parse(text);
        assert_eq!(of("b"), Ok(Address::Agent("b".to_owned())));
        assert_eq!(of("agent:everyone"), Ok(Address::Agent("everyone".to_owned())));
        assert_eq!(of("everyone"), Ok(Address::Everyone));
        assert_eq!(of("role:WORKER"), Ok(Address::Role(Some(Role::Worker))));
        assert_eq!(of("role:coordinator"), Ok(Address::Role(None)));
        assert_eq!(of("pool:data"), Ok(Address::Pool("data".to_owned())));
        assert_eq!(of("skill:ocr"), Ok(Address::Skill("ocr".to_owned())));
        assert_eq!(of("team:t"), Ok(Address::Team("t".to_owned())));
        let team = "0a000000-0000-4000-8000-00000000000b";
        for alike in [team, &team.to_uppercase(), &format!("{{{team}}}"), &team.replace('-', "")] {
            assert_eq!(of(&format!("team:{alike}")), Ok(Address::Team(team.to_owned())), "{alike}");
        }
        assert!(of(&"n".repeat(MAX_NAME_BYTES)).is_ok());
        for bad in ["", "agent:", "a b", "a:b:c", "group:x", "role:king", "pool:\n", &"n".repeat(MAX_NAME_BYTES + 1)] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_group_is_without_its_standbys_and_those_that_leave() {
        let mut fleet = Fleet::new(FleetConfig::default());
        let pool = PoolShape { name: "data".to_owned(), replicas: Some(1), standby: 1 };
        for name in ["a", "b"] {
            let join = AgentJoin {
                pool: Some(pool.clone()),
                specializations: vec!["ocr".to_owned()],
                ..fixture::join(name, 1)
            };
            fleet.apply(Stamp::at(1), Command::Agent(AgentCommand::Joined(join)), &mut Vec::new());
        }
        let agent = |name: &str| Agent::clone(fleet.agent_by_name(name).expect("it has joined"));
        let (active, standby) = (agent("a"), agent("b"));
        assert_eq!((active.state, standby.state), (AgentState::Live, AgentState::Standby));
        let (mut unhealthy, mut leaving) = (active.clone(), active.clone());
        (unhealthy.state, leaving.state) = (AgentState::Unhealthy, AgentState::Draining);
        for group in ["pool:data", "role:worker", "skill:ocr", "everyone"] {
            let address = Address::parse(group).expect(group);
            let stands_for = [&active, &standby, &unhealthy, &leaving].map(|agent| address.stands_for(agent));
            assert_eq!(stands_for, [true, false, true, false], "{group}");
        }
        assert_eq!([false, true].map(|durable| reachable(&fleet, "b", durable)), [Ok(()), Ok(())], "by its name");
        assert!(none(&Address::Pool("data".to_owned())).reason.contains("agents on standby"));
    }

    #[test]
    fn where_messages_are_sealed_agents_with_a_key_come_before_better_ones() {
        let mut fleet = Fleet::new(FleetConfig::default());
        let mut joined = |name: &str| {
            let join = Command::Agent(AgentCommand::Joined(fixture::join(name, 1)));
            fleet.apply(Stamp::at(1), join, &mut Vec::new());
            Agent::clone(fleet.agent_by_name(name).expect("it has joined"))
        };
        let (plain, mut better) = (joined("a"), joined("b"));
        better.record.speed += 100_000;
        let mut keyed = plain.clone();
        keyed.sealing_key = Some([7; 32]);
        for id in (0..64).map(LetterId) {
            let of = |choice: Choice, agent: &Agent| choice.rank(agent, id);
            assert!(of(Choice::WithKeyFirst, &keyed) > of(Choice::WithKeyFirst, &better));
            assert!(of(Choice::WithKeyFirst, &plain) < of(Choice::WithKeyFirst, &better), "the best of those without");
            assert!(of(Choice::Best, &keyed) < of(Choice::Best, &better));
            assert_eq!(of(Choice::Best, &keyed), of(Choice::Best, &plain));
        }
    }

    #[test]
    fn an_agent_that_is_lost_gets_durable_messages_alone_and_one_that_never_was_gets_none() {
        let mut fleet = Fleet::new(FleetConfig::default());
        let join = Command::Agent(AgentCommand::Joined(fixture::join("a", 1)));
        let Reply::Joined { agent, session } = fleet.apply(Stamp::at(1), join, &mut Vec::new()) else { panic!() };
        assert_eq!([false, true].map(|durable| reachable(&fleet, "a", durable)), [Ok(()), Ok(())]);
        let lost = Command::Agent(AgentCommand::Lost { agent, session, reason: LossReason::Silent });
        fleet.apply(Stamp::at(2), lost, &mut Vec::new());
        assert_eq!(reachable(&fleet, "a", false).map_err(|nobody| nobody.code), Err(MessageCode::Away));
        assert_eq!(reachable(&fleet, "a", true), Ok(()));
        for durable in [false, true] {
            let nobody = reachable(&fleet, "b", durable).map_err(|nobody| nobody.code);
            assert_eq!(nobody, Err(MessageCode::NoSuchAgent));
        }
    }
}
