//! Calls of the Teams service. Calls are retried like all others: the caller draws the ids of teams, and a team that is
//! disbanded again stays so.

use std::time::Duration;

use robeing_proto::v1::{
    DisbandTeamRequest, FormTeamRequest, GetTeamRequest, ListTeamsRequest, ListTeamsResponse, Team,
    teams_client::TeamsClient,
};
use tonic::{Response, Status};
use uuid::Uuid;

use super::{
    ClientError, FleetClient, Wire,
    calls::{Repeat, too_old},
    limited,
};

/// Generates an id for a team.
pub fn new_team_id() -> String {
    Uuid::now_v7().to_string()
}

impl FleetClient {
    /// Forms a team. `request.id` must be set, so that a retry is the same team; see [`new_team_id`].
    pub async fn form_team(&self, request: FormTeamRequest) -> Result<Team, ClientError> {
        let formed = self.call_teams(|mut rpc| {
            let request = request.clone();
            async move { rpc.form_team(request).await }
        });
        Ok(formed.await?.team.unwrap_or_default())
    }

    /// Disbands a team, and returns it as it is then.
    pub async fn disband_team(&self, request: DisbandTeamRequest) -> Result<Team, ClientError> {
        let disbanded = self.call_teams(|mut rpc| {
            let request = request.clone();
            async move { rpc.disband_team(request).await }
        });
        Ok(disbanded.await?.team.unwrap_or_default())
    }

    /// Returns a team. [`ClientError::NotFound`] if the fleet does not know it, or not any more.
    pub async fn get_team(&self, request: GetTeamRequest) -> Result<Team, ClientError> {
        self.call_teams(|mut rpc| {
            let request = request.clone();
            async move { rpc.get_team(request).await }
        })
        .await
    }

    /// Returns a page of the teams, newest first.
    pub async fn list_teams(&self, request: ListTeamsRequest) -> Result<ListTeamsResponse, ClientError> {
        self.call_teams(|mut rpc| {
            let request = request.clone();
            async move { rpc.list_teams(request).await }
        })
        .await
    }

    /// Makes a call of the Teams service, as [`FleetClient::call`] does.
    async fn call_teams<T, F, A>(&self, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(TeamsClient<Wire>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_for(Repeat::AtOnce, Duration::ZERO, |target| {
            let call = attempt(limited!(TeamsClient::new(self.wire(target))));
            async move { call.await.map_err(|status| too_old(status, "has no teams")) }
        })
        .await
    }
}
