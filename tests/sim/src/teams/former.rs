//! The former: a client that forms teams at any coordinator, reads them, and disbands some. In the end those that are
//! left have to have a leader, and all members for which there are agents.

use std::time::Duration;

use futures::future::join_all;
use robeing_net::limited;
use robeing_proto::v1::{
    self, DisbandTeamRequest, GetTeamRequest, ListAgentsRequest, ListTeamsRequest, fleet_client::FleetClient,
    teams_client::TeamsClient,
};
use tonic::{Code, Status};

use super::{
    draft::Draft,
    ledger::{Since, unsettled},
};
use crate::{
    calls::{Calls, PAUSE, is_refusal},
    checks::Check,
    profile::between,
    tasks,
};

/// The number of teams.
const TEAMS: usize = 3;
/// How often there may be too few agents before a team is given up. The first one is not.
const MOST_TOO_FEW: u32 = 20;
/// The longest pause before a team is read again, in milliseconds.
const READ_AGAIN: u64 = 1_500;
/// How long teams last that are disbanded, in milliseconds.
const LASTS: (u64, u64) = (1_000, 9_000);
/// One of this many reads is of all teams.
const LIST_ONE_OF: u64 = 3;
/// How often something that must be refused is tried, until there is a response.
const MOST_TRIES: u32 = 5;
/// The page size of listings.
const PAGE: u32 = 100;
/// How long after the fleet is calm every team must have its leader and its members.
const SETTLES_WITHIN: Duration = Duration::from_secs(15);

/// The former.
pub struct Former {
    /// Makes its calls.
    pub calls: Calls,
}

impl Former {
    /// Runs the former; returns when every team is as it should be, at every coordinator.
    pub async fn run(self) {
        join_all((0..TEAMS).map(|number| self.activity(number))).await;
        self.calls.calm().await;
        for coordinator in 0..self.calls.coordinators.len() {
            while self.list(coordinator).await.is_none() {
                self.calls.pause(PAUSE).await;
            }
        }
        self.settle().await;
    }

    fn since(&self, id: &str) -> Since {
        self.calls.record.notes().teams.since(id)
    }

    fn told(&self, since: Since, team: &v1::Team) {
        self.calls.record.team(|ledger| ledger.told(since, team));
    }

    /// Records a refusal for which there is no reason.
    fn refused(&self, id: &str, status: &Status) {
        if is_refusal(status.code()) {
            self.calls.record.violation(Check::Formed, format!("team {id}: a call was refused: {status}"));
        }
    }

    /// Runs through the life of one team.
    async fn activity(&self, number: usize) {
        // The first one is formed while all agents are free.
        if number > 0 {
            self.calls.pause_to_begin().await;
        }
        let Some(id) = self.form(number).await else { return };
        let calm_from = self.calls.record.notes().calm_from;
        let stays = number == 0 || self.calls.below(2) == 0;
        let lasts = Duration::from_millis(between(&*self.calls.platform.random, LASTS));
        let until = if stays { calm_from } else { self.calls.now() + lasts };
        while self.calls.now() < until {
            self.calls.pause(READ_AGAIN).await;
            match self.calls.below(LIST_ONE_OF) {
                0 => drop(self.list(self.calls.any()).await),
                _ => self.look(&id).await,
            }
        }
        self.disband_in_vain(&id).await;
        if !stays {
            while !self.disband(&id).await {
                self.calls.pause(PAUSE).await;
            }
            self.look(&id).await;
        }
    }

    /// Forms a team; returns its id once that is acknowledged. `None`: there are too few agents that fit.
    async fn form(&self, number: usize) -> Option<String> {
        let id = tasks::new_id(&self.calls.platform);
        let draft = Draft::draw(&*self.calls.platform.random, number);
        let request = draft.request(&id);
        self.calls.record.notes().teams.asks(&id, draft);
        let mut too_few = 0;
        while number == 0 || too_few < MOST_TOO_FEW {
            let (since, request) = (self.since(&id), request.clone());
            let forming = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
                limited!(TeamsClient::new(channel)).form_team(request).await
            });
            match forming.await {
                Ok(response) => {
                    self.told(since, &response.team.unwrap_or_default());
                    self.calls.record.notes().teams.forms(&id);
                    return Some(id);
                }
                Err(status) if status.code() == Code::ResourceExhausted => too_few += 1,
                // The coordinators have not agreed on the version that has teams yet.
                Err(status) if status.code() == Code::FailedPrecondition => {}
                Err(status) => self.refused(&id, &status),
            }
            self.calls.pause(PAUSE).await;
        }
        None
    }

    /// Reads a team that was acknowledged.
    async fn look(&self, id: &str) {
        let (since, request) = (self.since(id), GetTeamRequest { id: id.to_owned() });
        let reading = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
            limited!(TeamsClient::new(channel)).get_team(request).await
        });
        match reading.await {
            Ok(team) => self.told(since, &team),
            Err(status) => self.refused(id, &status),
        }
    }

    /// Lists all teams at a coordinator, of which none may be missing. `None`: there was no response.
    async fn list(&self, coordinator: usize) -> Option<Vec<v1::Team>> {
        let formed = self.calls.record.notes().teams.formed();
        let request = ListTeamsRequest { limit: PAGE, ..ListTeamsRequest::default() };
        let listing = self.calls.call(coordinator, Duration::ZERO, async |channel| {
            limited!(TeamsClient::new(channel)).list_teams(request).await
        });
        match listing.await {
            Ok(page) => {
                self.calls.record.team(|ledger| ledger.listed(&formed, &page.teams));
                Some(page.teams)
            }
            Err(status) => {
                self.refused("of a listing", &status);
                None
            }
        }
    }

    /// Makes one call to disband a team, in the name of a leader if a term is given.
    async fn try_to_disband(&self, id: &str, term: u64) -> Result<(), Status> {
        let (since, request) = (self.since(id), DisbandTeamRequest { id: id.to_owned(), term });
        let disbanding = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
            limited!(TeamsClient::new(channel)).disband_team(request).await
        });
        self.told(since, &disbanding.await?.team.unwrap_or_default());
        Ok(())
    }

    /// Disbands a team; returns whether there was a response.
    async fn disband(&self, id: &str) -> bool {
        self.calls.record.notes().teams.disbands(id);
        match self.try_to_disband(id, 0).await {
            Ok(()) => true,
            Err(status) => {
                self.refused(id, &status);
                false
            }
        }
    }

    /// Tries to disband a team in the name of a leader whose term is over, if there is one, which must be refused.
    async fn disband_in_vain(&self, id: &str) {
        let term = self.calls.record.notes().teams.term(id).saturating_sub(1);
        if term == 0 {
            return;
        }
        for _ in 0..MOST_TRIES {
            let what = match self.try_to_disband(id, term).await {
                Ok(()) => "was disbanded".to_owned(),
                Err(status) if status.code() == Code::FailedPrecondition => return,
                Err(status) if is_refusal(status.code()) => format!("was refused otherwise: {status}"),
                Err(_) => {
                    self.calls.pause(PAUSE).await;
                    continue;
                }
            };
            let what = format!("team {id}: in the name of the leader of term {term}, which is over, it {what}");
            return self.calls.record.violation(Check::Leader, what);
        }
    }

    /// Waits until every member is live, and no team lacks a member for which there is an agent.
    async fn settle(&self) {
        let until = self.calls.record.notes().calm_from + SETTLES_WITHIN;
        loop {
            let teams = self.list(self.calls.any()).await;
            let missing = match (teams, self.agents().await) {
                (Some(teams), Some(agents)) => unsettled(&teams, &agents),
                _ => Some("nobody tells of the teams and agents".to_owned()),
            };
            let Some(missing) = missing else { return };
            if self.calls.now() > until {
                let what = format!("{SETTLES_WITHIN:?} after the fleet is calm, {missing}");
                return self.calls.record.violation(Check::Staffed, what);
            }
            self.calls.pause(PAUSE).await;
        }
    }

    async fn agents(&self) -> Option<Vec<v1::Agent>> {
        let consistency = v1::Consistency::Linearizable.into();
        let request = ListAgentsRequest { consistency, ..ListAgentsRequest::default() };
        let listing = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
            limited!(FleetClient::new(channel)).list_agents(request).await
        });
        listing.await.ok().map(|response| response.agents)
    }
}
