//! Who may disband a team: the caller that formed it, its leader in its term, and administrators.

use robeing_fleet::{AuditCommand, AuditEntry, AuditOutcome, Command, Refusal, Reply, Team, TeamCommand};
use robeing_net::gate::Caller;
use robeing_proto::v1;

use super::{Shown, TeamError, Teams, unexpected};
use crate::{api::convert, identity::rights::Right, mail::sender_name};

/// The action in the audit log.
const DISBAND: &str = "team.disband";

/// Returns whether a caller has formed a team, or leads it and gives the term.
fn is_its_own(team: &Team, caller: &Caller, term: Option<u64>) -> Result<bool, Refusal> {
    match (caller.member(), term) {
        (_, Some(term)) if term != team.term => Err(Refusal::StaleTerm { team: team.id, term, current: team.term }),
        _ if team.formed_by == sender_name(caller) => Ok(true),
        (Some(id), Some(_)) if id.role().is_agent() => {
            let leader = team.leader.and_then(|leader| team.member(leader));
            Ok(leader.is_some_and(|leader| *leader.name == *id.name()))
        }
        _ => Ok(false),
    }
}

/// Returns the record that an administrator disbands the team of someone else.
fn recorded(caller: &Caller, team: &Team) -> Command {
    let entry = AuditEntry {
        actor: caller.name(),
        action: DISBAND.to_owned(),
        subject: team.id.to_string(),
        outcome: AuditOutcome::Allowed,
        detail: format!("it was formed by {} for {:?}", team.formed_by, convert::excerpt(&team.purpose)),
    };
    Command::Audit(AuditCommand::Record(vec![entry.within_limits()]))
}

impl Teams {
    /// Disbands a team in the name of a caller, and returns it as it is then.
    ///
    /// # Errors
    /// [`TeamError`] if it was not disbanded, or is not known to be.
    pub async fn disband(&self, caller: &Caller, request: v1::DisbandTeamRequest) -> Result<Shown, TeamError> {
        let v1::DisbandTeamRequest { id, term } = request;
        let id = convert::team_id("id", &id)?;
        let term = Some(term).filter(|term| *term > 0);
        // A term has one leader, so what is read here holds when the command is applied, which is refused if the term
        // is over then.
        let shown = self.get(id).await?;
        if !shown.team.is_open() {
            return Ok(shown);
        }
        let mut commands = Vec::new();
        if !is_its_own(&shown.team, caller, term).map_err(TeamError::Refused)? {
            self.check_administers(caller, &shown.team).await?;
            commands.push(recorded(caller, &shown.team));
        }
        commands.push(Command::Team(TeamCommand::Disband { team: id, term, by: sender_name(caller) }));
        match self.proposer.propose(self.proposer.sender(), &commands).await?.pop() {
            Some(Reply::TeamDisbanded { .. }) => self.get(id).await,
            reply => Err(unexpected(reply)),
        }
    }

    /// Refuses a caller that is no administrator.
    async fn check_administers(&self, caller: &Caller, team: &Team) -> Result<(), TeamError> {
        let has = self.rights.has(caller, Right::Admin, &self.state).await;
        if has.map_err(|status| TeamError::NotReadable(status.message().to_owned()))? {
            return Ok(());
        }
        Err(TeamError::NotYours { caller: sender_name(caller), team: team.id, former: team.formed_by.clone() })
    }
}
