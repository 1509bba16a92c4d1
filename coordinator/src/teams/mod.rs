//! Teams of agents, through any coordinator.
//!
//! A team is in the fleet's state, which chooses its members and elects its leader. Here are the calls: they check what
//! can be checked without the state, propose the command, and read the team as it is afterwards.

mod disbanding;
pub mod figures;

use std::sync::Arc;

use robeing_fleet::{
    Agent, AgentId, AgentState, Command, FormTeam, Refusal, Reply, SessionId, Team, TeamCommand, TeamId,
    limits::MAX_TEAM_SIZE,
};
use robeing_net::gate::Caller;
use robeing_platform::{Platform, uuid_v7};
use robeing_proto::v1;
use tokio::time::Instant;

use crate::{
    api::convert::{self, BadField},
    disk_space::Rooms,
    mail::sender_name,
    policies::CallerRights,
    propose::{ProposeError, Proposer},
    read::StateReader,
};

/// Maximum number of teams on a page.
pub const MAX_PAGE: usize = 100;
/// Default number of teams on a page.
const DEFAULT_PAGE: usize = 20;

/// Why a call about teams has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TeamError {
    /// A field of the request is invalid.
    #[error(transparent)]
    BadField(#[from] BadField),
    /// The state machine refuses it.
    #[error("{0}")]
    Refused(Refusal),
    /// It was not confirmed to be in the log.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The state can't be read now.
    #[error("{0}")]
    NotReadable(String),
    /// The caller would report for someone else.
    #[error(
        "{caller} can't report the paths of {agent:?}: with a certificate an agent reports its own, and clients none"
    )]
    OtherAgent {
        /// The caller.
        caller: String,
        /// The agent that it named.
        agent: String,
    },
    /// The caller may not disband the team.
    #[error(
        "{caller} can't disband the team {team}: {former}, who formed it, can, its leader if it gives its term, and \
         administrators"
    )]
    NotYours {
        /// The caller.
        caller: String,
        /// The team.
        team: TeamId,
        /// Who formed it.
        former: String,
    },
}

/// A team with what is shown of it besides.
#[derive(Clone, Debug)]
pub struct Shown {
    pub team: Arc<Team>,
    /// The members, as far as they are known.
    pub agents: Vec<Arc<Agent>>,
    /// How many of its tasks are not finished.
    pub unfinished: u32,
}

/// Forms, disbands and reads teams. Cheap to clone.
#[derive(Clone)]
pub struct Teams {
    pub state: StateReader,
    pub proposer: Proposer,
    pub rooms: Arc<Rooms>,
    /// Knows what callers may do.
    pub rights: CallerRights,
    /// The source of ids.
    pub platform: Platform,
}

impl Teams {
    /// Waits until everything that was accepted before the call is applied here.
    async fn catch_up(&self) -> Result<(), TeamError> {
        let ready = self.state.ready_to_read(v1::Consistency::Linearizable.into()).await;
        ready.map_err(|status| TeamError::NotReadable(status.message().to_owned()))
    }

    /// Returns a team as it is now.
    ///
    /// # Errors
    /// [`TeamError`] if it is not known, or the state can't be read.
    pub async fn get(&self, id: TeamId) -> Result<Shown, TeamError> {
        self.catch_up().await?;
        let team = self.state.look(|fleet| fleet.team(id).cloned());
        let team = team.ok_or(TeamError::Refused(Refusal::UnknownTeam { team: id }))?;
        Ok(self.shown(team))
    }

    fn shown(&self, team: Arc<Team>) -> Shown {
        let (agents, unfinished) = self.state.look(|fleet| {
            let agents = team.members.iter().filter_map(|member| fleet.agent(member.agent).cloned()).collect();
            (agents, fleet.unfinished_tasks_of(team.id))
        });
        Shown { team, agents, unfinished }
    }

    /// Returns a page of the newest teams before the one with the number `before`, and whether there may be more. A
    /// `limit` of 0 means the default.
    ///
    /// # Errors
    /// [`TeamError`] if the state can't be read.
    pub async fn list(
        &self,
        before: Option<u64>,
        limit: usize,
        only_open: bool,
    ) -> Result<(Vec<Shown>, bool), TeamError> {
        let limit = if limit == 0 { DEFAULT_PAGE } else { limit.min(MAX_PAGE) };
        self.catch_up().await?;
        let teams: Vec<Arc<Team>> =
            self.state.look(|fleet| fleet.teams(before, limit, only_open).into_iter().cloned().collect());
        let is_full = teams.len() >= limit;
        Ok((teams.into_iter().map(|team| self.shown(team)).collect(), is_full))
    }

    /// Forms a team in the name of `by`, and returns it as it is then. If the future is dropped, it may be formed
    /// nevertheless.
    ///
    /// # Errors
    /// [`TeamError`] if it was not formed, or is not known to be.
    pub async fn form(&self, by: &str, request: v1::FormTeamRequest) -> Result<Shown, TeamError> {
        let fresh = || uuid_v7(&*self.platform.clock, &*self.platform.random);
        let form = drafted(by, request, fresh)?;
        let id = form.id;
        // Agents may have joined, or a team may have been disbanded, a moment ago.
        self.catch_up().await?;
        let refusal = self.state.look(|fleet| fleet.refusal_of_team(&form));
        let refusal = refusal.or_else(|| self.rooms.refusal(Instant::now()).map(|reason| Refusal::NoRoom { reason }));
        if let Some(refusal) = refusal {
            return Err(TeamError::Refused(refusal));
        }
        match self.propose(TeamCommand::Form(form)).await? {
            Some(Reply::TeamFormed { .. }) => self.get(id).await,
            reply => Err(unexpected(reply)),
        }
    }

    /// Records the paths that an agent reports, unless they are known.
    ///
    /// # Errors
    /// [`TeamError`] if the caller is not this agent, it is not in the fleet, or there is no such team.
    pub async fn report(&self, caller: &Caller, request: v1::ReportPathsRequest) -> Result<(), TeamError> {
        let v1::ReportPathsRequest { team, reaches, agent } = request;
        let team = convert::team_id("team", &team)?;
        if reaches.len() > MAX_TEAM_SIZE as usize {
            let problem = format!("it has {} names, the most is {MAX_TEAM_SIZE}", reaches.len());
            return Err(convert::bad("reaches", problem).into());
        }
        let name = reporter(caller, agent)?;
        let has_certificate = || self.state.look(|fleet| fleet.enrolment_of(&name).is_some());
        if matches!(caller, Caller::Plaintext) && self.rights.0.is_some() && has_certificate() {
            return Err(TeamError::OtherAgent { caller: "a caller without a certificate".to_owned(), agent: name });
        }
        let found: Option<(AgentId, SessionId, Vec<AgentId>, bool)> = self.state.look(|fleet| {
            let agent = fleet.agent_by_name(&name).filter(|agent| agent.state != AgentState::Lost)?;
            let team = fleet.team(team)?;
            let others = reaches.iter().filter_map(|name| team.member_named(name));
            let mut reaches: Vec<AgentId> = others.map(|member| member.agent).collect();
            reaches.sort_unstable();
            reaches.dedup();
            reaches.retain(|other| *other != agent.id);
            let is_known = team.member(agent.id).is_none_or(|member| member.reaches == reaches);
            Some((agent.id, agent.session, reaches, is_known))
        });
        // This coordinator may be behind: the agent reports again soon.
        let Some((agent, session, reaches, is_known)) = found else { return Ok(()) };
        if is_known {
            return Ok(());
        }
        match self.propose(TeamCommand::Paths { team, agent, session, reaches }).await? {
            Some(Reply::Done) => Ok(()),
            reply => Err(unexpected(reply)),
        }
    }

    async fn propose(&self, command: TeamCommand) -> Result<Option<Reply>, TeamError> {
        let command = Command::Team(command);
        Ok(self.proposer.propose(self.proposer.sender(), [&command]).await?.pop())
    }
}

/// Returns the name of the agent that reports.
fn reporter(caller: &Caller, named: String) -> Result<String, TeamError> {
    match caller {
        Caller::Plaintext => Ok(named),
        Caller::Member(peer) if peer.id.role().is_agent() && (named.is_empty() || named == peer.id.name()) => {
            Ok(peer.id.name().to_owned())
        }
        other => Err(TeamError::OtherAgent { caller: sender_name(other), agent: named }),
    }
}

/// Returns the command that forms a team. `fresh` draws an id.
fn drafted(by: &str, request: v1::FormTeamRequest, fresh: impl FnOnce() -> u128) -> Result<FormTeam, BadField> {
    let v1::FormTeamRequest { id, purpose, size, partial, role, mut skills } = request;
    let id = if id.is_empty() { TeamId(fresh()) } else { convert::team_id("id", &id)? };
    skills.sort_unstable();
    skills.dedup();
    let needs = convert::team_needs(role, skills)?;
    Ok(FormTeam { id, formed_by: by.to_owned(), purpose, size, partial, needs })
}

/// Returns the error for a reply that does not belong to the command.
fn unexpected(reply: Option<Reply>) -> TeamError {
    match reply {
        Some(Reply::Refused(refusal)) => TeamError::Refused(refusal),
        Some(Reply::Unreadable { problem }) => TeamError::NotReadable(format!(
            "this was done, but the coordinator can't decode the outcome ({problem}); get the team to see it"
        )),
        other => TeamError::NotReadable(format!("unexpected reply {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_is_drafted_with_each_skill_once() {
        let request = v1::FormTeamRequest {
            purpose: "review".into(),
            size: 3,
            skills: vec!["ocr".into(), "law".into(), "ocr".into()],
            ..v1::FormTeamRequest::default()
        };
        let form = drafted("client:ann", request.clone(), || 9).expect("a team");
        assert_eq!((form.id, form.needs.skills.as_slice()), (TeamId(9), &["law".to_owned(), "ocr".to_owned()][..]));
        assert_eq!((form.check(), form.needs.role), (Ok(()), None));
        for bad in [
            v1::FormTeamRequest { id: "seven".into(), ..request.clone() },
            v1::FormTeamRequest { role: 99, ..request.clone() },
            v1::FormTeamRequest { role: v1::Role::Coordinator.into(), ..request },
        ] {
            assert!(drafted("client:ann", bad, || 9).is_err());
        }
    }

    #[test]
    fn without_tls_the_agent_is_the_one_that_is_named_and_clients_report_for_nobody() {
        assert_eq!(reporter(&Caller::Plaintext, "a".into()), Ok("a".to_owned()));
        let refused = reporter(&Caller::Anonymous, "a".into());
        assert!(matches!(refused, Err(TeamError::OtherAgent { .. })), "{refused:?}");
    }
}
